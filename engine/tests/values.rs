//! What values of frames say in answers, through the real engine process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use aap_buffer::{Buffer, BufferConfig, Encoder, Entry, FrameSchema, RealFileSystem};
use aap_runtime::{ManualClock, Shutdown};
use aap_sql::{
    Catalog, Engine, EngineConfig, EngineQuery, Format, Manifest, QueryEvent, ResolvedTables, TableManifest,
    TableNeed,
};
use aap_types::Problem;
use arrow_array::types::IntervalMonthDayNano;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, IntervalMonthDayNanoArray,
    RecordBatch, StringArray, UInt64Array,
};
use camino::Utf8PathBuf;

/// Frames of a stream, and nothing else.
struct Frames(Buffer);

impl Catalog for Frames {
    fn resolve(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem> {
        let snapshot = self.0.snapshot(None);
        let segments = snapshot.segments.clone();
        let tables = need.iter().map(|need| TableManifest {
            name: need.name.clone(),
            segments: segments.clone(),
            ..TableManifest::default()
        });
        Ok(ResolvedTables { manifest: Manifest { tables: tables.collect() }, pins: Box::new(snapshot) })
    }

    fn table_names(&self) -> Vec<String> {
        vec!["logs".to_owned()]
    }
}

/// The answer to `sql` over frames with the column `c`, in `format`.
async fn answer(columns: Vec<ArrayRef>, sql: &str, format: Format) -> Result<Vec<u8>, Problem> {
    let directory = tempfile::tempdir().unwrap();
    let home = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
    let config = BufferConfig::new(home.join("buffer"), "n1".parse().unwrap());
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let open = move || Buffer::open(Arc::new(RealFileSystem), clock, config);
    let buffer = tokio::task::spawn_blocking(open).await.unwrap().unwrap().buffer;
    for column in columns {
        let rows = RecordBatch::try_from_iter([("c", column)]).unwrap();
        let batch = Encoder::new().encode(&rows, &FrameSchema::of(rows.schema()), 1).unwrap();
        let entry = Entry::Own { stream: "logs".parse().unwrap(), batch, positions: vec![] };
        buffer.append(vec![entry]).await.unwrap();
    }
    let engine = Engine::new(EngineConfig {
        binary: env!("CARGO_BIN_EXE_aap-engine").into(),
        ..EngineConfig::new(home.join("scratch"))
    });
    let query = EngineQuery { sql: sql.to_owned(), format, ..EngineQuery::default() };
    let mut answer = engine.run(query, Arc::new(Frames(buffer)), Shutdown::default()).await?;
    let mut bytes = vec![];
    while let Some(event) = answer.next().await {
        if let QueryEvent::Data(data) = event? {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// The answer to `SELECT c, typeof(c)` over frames with one column each, a line a row.
async fn check(columns: Vec<ArrayRef>, expected: &[&str]) {
    let sql = "SELECT c, typeof(c) FROM logs ORDER BY _seq, _row";
    let bytes = answer(columns, sql, Format::default()).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_differ_in_type_answer_as_the_lake_would() {
    let signed = || Arc::new(Int64Array::from(vec![-1])) as ArrayRef;
    let unsigned = || Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef;
    let float = || Arc::new(Float64Array::from(vec![0.5])) as ArrayRef;
    let flag = || Arc::new(BooleanArray::from(vec![true])) as ArrayRef;
    let text = || Arc::new(StringArray::from(vec!["x"])) as ArrayRef;
    let bytes = || Arc::new(BinaryArray::from(vec![b"a\xff".as_slice()])) as ArrayRef;
    let interval =
        || Arc::new(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(14, 3, 0)])) as ArrayRef;
    let decimals = [r#"[18446744073709551615,"DECIMAL(20,0)"]"#, r#"[-1,"DECIMAL(20,0)"]"#];
    check(vec![unsigned(), signed()], &decimals).await;
    check(vec![signed(), float()], &[r#"[-1.0,"DOUBLE"]"#, r#"[0.5,"DOUBLE"]"#]).await;
    check(vec![flag(), signed()], &[r#"["true","VARCHAR"]"#, r#"["-1","VARCHAR"]"#]).await;
    check(vec![text(), bytes()], &[r#"["x","VARCHAR"]"#, r#"["a\\xFF","VARCHAR"]"#]).await;
    check(vec![interval()], &[r#"["14 mons 3 days","VARCHAR"]"#]).await;
}

/// Values of types that not every format has.
const ODD: [(&str, &str); 3] = [
    ("union_value(k := c)", "UNION"),
    ("[to_days(c)]", "INTERVAL[]"),
    ("{'a': union_value(k := c)}", "UNION"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_parquet_lacks_is_refused_with_the_column_and_a_cast_that_works() {
    let columns = || vec![Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef];
    for (value, kind) in ODD {
        let sql = format!("select c, {value} as \"odd one\" from logs");
        let problem = answer(columns(), &sql, Format::Parquet).await.unwrap_err();
        assert_eq!(problem.code, "query.encode", "{problem:?}");
        assert!(problem.message.contains("`odd one`"), "{problem:?}");
        assert!(problem.causes[0].contains(kind), "{problem:?}");
        let cast = problem.hints[0].text.split('`').nth(1).unwrap();
        let sql = format!("with odd as ({sql}) select {cast} from odd");
        let bytes = answer(columns(), &sql, Format::Parquet).await.unwrap();
        assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
        for other in [Format::Arrow, Format::Ndjson, Format::Csv, Format::Rows] {
            let sql = format!("select {value} as v from logs");
            assert!(!answer(columns(), &sql, other).await.unwrap().is_empty(), "{other:?} of {kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_two_selects_are_written_as_parquet() {
    let columns = vec![Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef];
    let sql = "select c, 'a' as t from logs union all select null, 'b' from logs union all select 5, null";
    let bytes = answer(columns, sql, Format::Parquet).await.unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
}
