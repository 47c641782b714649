//! Columns and their types, as batches and files of one stream differ in them.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_united_by_name_when_a_stream_changes_its_form() {
    let rig = Rig::new(LakeConfig { compact_files: 2, ..LakeConfig::default() }).await;
    let key = key("n1", "logs");
    let at = i64::try_from(START_MS).unwrap() * 1000;
    let forms: [(&str, ArrayRef); 3] = [
        ("n", Arc::new(Int64Array::from(vec![1]))),
        ("n", Arc::new(Float64Array::from(vec![0.5]))),
        ("extra", Arc::new(StringArray::from(vec!["x"]))),
    ];
    for (sequence, (name, column)) in (1..).zip(forms) {
        rig.land(&key, sequence, with_column(at, name, column)).await;
        rig.lake.load_all().await.unwrap();
    }
    assert!(rig.lake.compact_once().await.unwrap());
    let files = rig.files();
    assert_eq!((files.len(), files[0].rows), (1, 3));
    let file = std::fs::File::open(rig.lake.locate(&files[0].path)).unwrap();
    let batch = parquet_file::decode(&file).remove(0);
    let numbers = batch.column_by_name("n").unwrap();
    let numbers = numbers.as_primitive::<arrow_array::types::Float64Type>();
    let mut numbers: Vec<Option<f64>> = numbers.iter().collect();
    numbers.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!(numbers, [None, Some(0.5), Some(1.0)]);
    let columns = &rig.lake.catalogue().unwrap().streams[0].columns;
    assert!(columns.contains(&("n".into(), "DOUBLE".into())), "{columns:?}");
    assert!(columns.contains(&("extra".into(), "VARCHAR".into())), "{columns:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_parquet_has_no_type_for_goes_into_the_lake_as_text() {
    use arrow_array::types::IntervalMonthDayNano;
    let rig = Rig::new(LakeConfig::default()).await;
    let interval = IntervalMonthDayNano::new(14, 3, 0);
    let column = Arc::new(arrow_array::IntervalMonthDayNanoArray::from(vec![interval]));
    rig.land(&key("n1", "logs"), 1, with_column(5, "c", column)).await;
    rig.lake.load_all().await.unwrap();
    assert_eq!(rig.values("logs", "c"), [Some("14 mons 3 days".to_owned())]);
}

/// Lands the columns one after the other and looks at every value: loaded together, loaded apart, merged.
async fn check_values(columns: Vec<ArrayRef>, kind: &str, values: &[&str]) {
    for together in [true, false] {
        let rig = Rig::new(LakeConfig { compact_files: 2, ..LakeConfig::default() }).await;
        for (sequence, column) in (1..).zip(&columns) {
            let at = i64::try_from(sequence).unwrap();
            rig.land(&key("n1", "logs"), sequence, with_column(at, "c", column.clone())).await;
            if !together {
                rig.lake.load_all().await.unwrap();
            }
        }
        rig.lake.load_all().await.unwrap();
        while rig.lake.compact_once().await.unwrap() {}
        assert_eq!(rig.files().len(), 1);
        let found = rig.values("logs", "c");
        assert_eq!(found.iter().flatten().collect::<Vec<_>>(), values, "together: {together}");
        assert_eq!(rig.kind("logs", "c").as_deref(), Some(kind), "together: {together}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_changes_when_batches_differ_in_type() {
    let odd = (1i64 << 53) + 1;
    let unsigned = || Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef;
    let signed = || Arc::new(Int64Array::from(vec![-1])) as ArrayRef;
    let large = || Arc::new(Int64Array::from(vec![odd])) as ArrayRef;
    let float = || Arc::new(Float64Array::from(vec![0.5])) as ArrayRef;
    let flag = || Arc::new(BooleanArray::from(vec![true])) as ArrayRef;
    let text = || Arc::new(StringArray::from(vec!["\u{e9}"])) as ArrayRef;
    let bytes = || Arc::new(BinaryArray::from(vec![b"a\xff".as_slice()])) as ArrayRef;
    check_values(vec![unsigned(), signed()], "DECIMAL(20,0)", &["18446744073709551615", "-1"]).await;
    check_values(vec![signed(), float()], "DOUBLE", &["-1.0", "0.5"]).await;
    check_values(vec![large(), float()], "VARCHAR", &["9007199254740993", "0.5"]).await;
    check_values(vec![float(), large()], "VARCHAR", &["0.5", "9007199254740993"]).await;
    check_values(vec![flag(), signed()], "VARCHAR", &["true", "-1"]).await;
    check_values(vec![text(), bytes()], "VARCHAR", &["\u{e9}", "a\\xFF"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_differ_by_case_are_one_column() {
    let rig = Rig::new(LakeConfig::default()).await;
    for (sequence, name) in [(1, "Level"), (2, "level")] {
        let column = Arc::new(StringArray::from(vec![name]));
        rig.land(&key("n1", "logs"), sequence, with_column(5, name, column)).await;
    }
    rig.lake.load_all().await.unwrap();
    rig.land(&key("n1", "logs"), 3, with_column(5, "LEVEL", Arc::new(StringArray::from(vec!["LEVEL"]))))
        .await;
    rig.lake.load_all().await.unwrap();
    let expected = ["Level", "level", "LEVEL"].map(|name| Some(name.to_owned()));
    assert_eq!(rig.values("logs", "Level"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_keeps_its_wider_type_in_every_later_file() {
    let rig = Rig::new(LakeConfig::default()).await;
    let texts = Arc::new(StringArray::from(vec!["x"]));
    rig.land(&key("n1", "logs"), 1, with_column(5, "c", texts)).await;
    rig.lake.load_all().await.unwrap();
    rig.land(&key("n1", "logs"), 2, with_column(5, "c", Arc::new(Int64Array::from(vec![7])))).await;
    rig.lake.load_all().await.unwrap();
    let file = std::fs::File::open(rig.lake.locate(&rig.files()[1].path)).unwrap();
    let batch = parquet_file::decode(&file).remove(0);
    assert_eq!(batch.column_by_name("c").unwrap().as_ref(), &StringArray::from(vec!["7"]) as &dyn Array);
    assert_eq!(rig.kind("logs", "c").as_deref(), Some("VARCHAR"));
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_known_before_the_first_file() {
    let rig = Rig::new(LakeConfig { age_seconds: 1 << 40, ..LakeConfig::default() }).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.pass(&mut Passes::default()).await;
    assert!(rig.files().is_empty());
    assert_eq!(rig.kind("logs", "n").as_deref(), Some("BIGINT"));
}
