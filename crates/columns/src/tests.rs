//! Every value comes out as what it was, in the type that its column has.

use std::sync::Arc;

use arrow_array::builder::{
    FixedSizeBinaryBuilder, IntervalMonthDayNanoBuilder, ListBuilder, PrimitiveRunBuilder, StringBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, IntervalMonthDayNano};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date64Array, Decimal256Array, DictionaryArray,
    DurationMicrosecondArray, Float64Array, Int64Array, NullArray, StringArray, Time32SecondArray,
    TimestampMicrosecondArray, TimestampSecondArray, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema};

use crate::{arrow_type, convert, distinct_names, sql_type, stored, text, unite};

fn check(array: ArrayRef, kind: &str, expected: &[Option<&str>]) {
    let to = stored(array.data_type());
    let to = if to == DataType::Null { DataType::Utf8 } else { to };
    assert_eq!(sql_type(&to).to_string(), kind, "{}", array.data_type());
    let converted = convert(&array, &to).unwrap();
    assert_eq!(converted.data_type(), &to);
    let shown = text(&converted).unwrap();
    let shown = shown.as_any().downcast_ref::<StringArray>().unwrap();
    assert_eq!(shown.iter().collect::<Vec<_>>(), expected, "{}", array.data_type());
    assert_eq!(arrow_type(&sql_type(&to)), Some(to));
}

#[test]
fn every_arrow_type_has_a_stored_form_that_keeps_its_values() {
    let mut intervals = IntervalMonthDayNanoBuilder::new();
    intervals.append_value(IntervalMonthDayNano::new(14, 3, 0));
    let mut list = ListBuilder::new(StringBuilder::new());
    list.values().append_value("a");
    list.append(true);
    let mut fixed = FixedSizeBinaryBuilder::new(2);
    fixed.append_value([0x41, 0xff]).unwrap();
    let mut runs = PrimitiveRunBuilder::<Int32Type, Int32Type>::new();
    runs.extend([Some(7), Some(7)]);
    check(Arc::new(NullArray::new(1)), "VARCHAR", &[None]);
    check(Arc::new(BooleanArray::from(vec![true])), "BOOLEAN", &[Some("true")]);
    check(Arc::new(intervals.finish()), "VARCHAR", &[Some("14 mons 3 days")]);
    check(Arc::new(DurationMicrosecondArray::from(vec![1_500_000])), "VARCHAR", &[Some("PT1.5S")]);
    check(Arc::new(Decimal256Array::from(vec![None, None])), "VARCHAR", &[None, None]);
    check(Arc::new(list.finish()), "VARCHAR", &[Some("[a]")]);
    check(Arc::new(fixed.finish()), "BLOB", &[Some("A\\xFF")]);
    check(Arc::new(runs.finish()), "INTEGER", &[Some("7"), Some("7")]);
    check(Arc::new(Date64Array::from(vec![86_400_000])), "DATE", &[Some("1970-01-02")]);
    check(Arc::new(Time32SecondArray::from(vec![61])), "TIME", &[Some("00:01:01")]);
    check(Arc::new(TimestampSecondArray::from(vec![1])), "TIMESTAMP", &[Some("1970-01-01T00:00:01")]);
    let words: DictionaryArray<Int32Type> = [Some("d"), None].into_iter().collect();
    check(Arc::new(words), "VARCHAR", &[Some("d"), None]);
    let nothing: DictionaryArray<Int32Type> = [None::<&str>, None].into_iter().collect();
    let batch =
        arrow_array::RecordBatch::try_from_iter([("n", Arc::new(nothing.clone()) as ArrayRef)]).unwrap();
    let mut json = Vec::new();
    let keys = crate::value::object_keys(batch.schema_ref());
    let writers = crate::value::writers(&batch, crate::value::Form::Json);
    crate::value::write_object(1, &keys, &writers, &mut json);
    assert_eq!(String::from_utf8(json).unwrap(), r#"{"n":null}"#);
    check(Arc::new(nothing), "VARCHAR", &[None, None]);
}

#[test]
fn a_time_keeps_its_instant_whatever_its_zone() {
    let utc = arrow_type(&"TIMESTAMP WITH TIME ZONE".into()).unwrap();
    for zone in [None, Some("+02:00"), Some("Europe/Berlin"), Some("UTC")] {
        let times = TimestampMicrosecondArray::from(vec![5]).with_timezone_opt(zone.map(Arc::<str>::from));
        let converted = convert(&(Arc::new(times) as ArrayRef), &utc).unwrap();
        let expected = TimestampMicrosecondArray::from(vec![5]).with_timezone("UTC");
        assert_eq!(converted.as_ref(), &expected as &dyn arrow_array::Array, "{zone:?}");
    }
}

#[test]
fn what_has_no_exact_form_is_refused_and_has_one_as_text() {
    let odd = (1i64 << 53) + 1;
    let second = arrow_type(&"TIMESTAMP".into()).unwrap();
    let cases: [(ArrayRef, DataType, &str); 4] = [
        (Arc::new(Int64Array::from(vec![odd])), DataType::Float64, "9007199254740993"),
        (Arc::new(UInt64Array::from(vec![u64::MAX])), DataType::Float64, "18446744073709551615"),
        (Arc::new(Int64Array::from(vec![i64::MAX])), DataType::Float64, "9223372036854775807"),
        (Arc::new(TimestampSecondArray::from(vec![i64::MAX])), second, "9223372036854775807"),
    ];
    for (array, to, expected) in cases {
        assert!(convert(&array, &to).is_err(), "{expected}");
        let text = convert(&array, &DataType::Utf8).unwrap();
        assert_eq!(text.as_ref(), &StringArray::from(vec![expected]) as &dyn arrow_array::Array);
    }
    let small: ArrayRef = Arc::new(Int64Array::from(vec![Some(1 << 53), None]));
    assert_eq!(
        convert(&small, &DataType::Float64).unwrap().as_ref(),
        &Float64Array::from(vec![Some(9_007_199_254_740_992.0), None]) as &dyn arrow_array::Array
    );
}

#[test]
fn bytes_become_text_as_sql_casts_them() {
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec!["é\\ 'ok'".as_bytes()]));
    let expected = StringArray::from(vec!["\\xC3\\xA9\\x5C \\x27ok\\x27"]);
    assert_eq!(text(&bytes).unwrap().as_ref(), &expected as &dyn arrow_array::Array);
}

#[test]
fn unsigned_and_signed_64_bit_numbers_are_kept_exactly() {
    let united = unite(&DataType::UInt64, &DataType::Int64);
    assert_eq!(united, DataType::Decimal128(20, 0));
    for (array, expected) in [
        (Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef, "18446744073709551615"),
        (Arc::new(Int64Array::from(vec![i64::MIN])), "-9223372036854775808"),
    ] {
        let shown = text(&convert(&array, &united).unwrap()).unwrap();
        assert_eq!(shown.as_ref(), &StringArray::from(vec![expected]) as &dyn arrow_array::Array);
    }
}

#[test]
fn names_differ_by_more_than_case() {
    let field = |name: &str| Field::new(name, DataType::Int8, true);
    let schema = Schema::new(vec![field("level"), field("Level_1"), field("Level"), field("level")]);
    let names: Vec<String> = distinct_names(&schema).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["level", "Level_1", "Level_2", "level_3"]);
}

#[test]
fn times_with_a_zone_become_text() {
    for zone in ["UTC", "+00:00", "+02:00", "Europe/Berlin"] {
        let times: ArrayRef =
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1_500_000), None]).with_timezone(zone));
        for shown in [text(&times), convert(&times, &DataType::Utf8)] {
            let shown = shown.unwrap_or_else(|error| panic!("{zone}: {error}"));
            assert_eq!(shown.as_string::<i32>().value(0), "1970-01-01T00:00:01.500Z");
            assert!(shown.is_null(1));
        }
    }
}
