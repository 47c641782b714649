//! What is written of a value, and which values are not.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, Date32Array, Float64Array, Int64Array, StringArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, UInt64Array,
};

use super::{Field, Held};

/// The fields of all rows, or why there is none.
fn fields(array: ArrayRef, held: Held) -> Vec<Result<Vec<u8>, String>> {
    let field = Field::of(&array, held).expect("values of this type can be held");
    let one = |row| match field.fault(row) {
        Some(reason) => Err(reason),
        None => {
            let mut out = vec![];
            field.write(row, &mut out);
            Ok(out)
        }
    };
    (0..array.len()).map(one).collect()
}

fn check(array: impl Array + 'static, held: Held, expected: &[Result<&[u8], &str>]) {
    let found = fields(Arc::new(array), held);
    let expected: Vec<_> =
        expected.iter().map(|one| one.map(<[u8]>::to_vec).map_err(ToOwned::to_owned)).collect();
    assert_eq!(found, expected, "as {held:?}");
}

#[test]
fn times_are_counted_from_2000_and_never_rounded() {
    let micros = TimestampMicrosecondArray::from(vec![946_684_800_000_001, i64::MIN, i64::MAX, i64::MIN + 2]);
    let first = b"\0\0\0\x08\0\0\0\0\0\0\0\x01".as_slice();
    let least = b"\0\0\0\x08\x80\0\0\0\0\0\0\0".as_slice();
    let greatest = b"\0\0\0\x08\x7f\xff\xff\xff\xff\xff\xff\xff".as_slice();
    let outside = "the time -9223372036854775806 microseconds after 1970 is outside the range of PostgreSQL";
    check(micros.clone(), Held::Timestamp(6), &[Ok(first), Ok(least), Ok(greatest), Err(outside)]);
    let finer = "a time of 946684800000001 microseconds has more than 5 places of a second";
    check(micros, Held::Timestamp(5), &[Err(finer), Ok(least), Ok(greatest), Err(outside)]);
    check(
        Time64MicrosecondArray::from(vec![-1, 1_000]),
        Held::Time(3),
        &[Err("-1 microseconds after midnight is no time of day"), Ok(b"\0\0\0\x08\0\0\0\0\0\0\x03\xe8")],
    );
    check(
        Date32Array::from(vec![10_958, i32::MAX - 1]),
        Held::Date,
        &[
            Ok(b"\0\0\0\x04\0\0\0\x01"),
            Err("the date 2147483646 days after 1970 is outside the range of PostgreSQL"),
        ],
    );
}

#[test]
fn numbers_are_exact_or_not_written() {
    let large = (1_i64 << 53) + 1;
    check(
        Int64Array::from(vec![Some(large), Some(2), None]),
        Held::Float8,
        &[
            Err("9007199254740993 has no exact form as double precision"),
            Ok(b"\0\0\0\x08\x40\0\0\0\0\0\0\0"),
            Ok(b"\xff\xff\xff\xff"),
        ],
    );
    check(
        UInt64Array::from(vec![u64::MAX, 7]),
        Held::Int(8),
        &[
            Err("18446744073709551615 is not between -9223372036854775808 and 9223372036854775807"),
            Ok(b"\0\0\0\x08\0\0\0\0\0\0\0\x07"),
        ],
    );
}

#[test]
fn what_has_no_exact_form_at_all_is_no_field() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    let float: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    for (array, held) in
        [(&text, Held::Int(8)), (&text, Held::Date), (&float, Held::Float4), (&float, Held::Int(4))]
    {
        assert!(Field::of(array, held).is_none(), "{} as {held:?}", array.data_type());
    }
    assert!(Field::of(&float, Held::Other).is_none());
}

#[test]
fn everything_has_a_form_as_text_and_as_json() {
    check(
        Float64Array::from(vec![0.5, f64::NAN]),
        Held::Text(None),
        &[Ok(b"\0\0\0\x030.5"), Ok(b"\0\0\0\x03NaN")],
    );
    check(Int64Array::from(vec![12]), Held::Jsonb, &[Ok(b"\0\0\0\x03\x0112")]);
    check(Int64Array::from(vec![1234]), Held::Text(Some(3)), &[Err("the text is longer than 3 characters")]);
    let texts = StringArray::from(vec![Some("a\0"), None, Some("\u{e9}\u{e9}\u{e9}")]);
    check(
        texts.slice(0, 3),
        Held::Text(Some(3)),
        &[
            Err("the text contains NUL, which PostgreSQL cannot store"),
            Ok(b"\xff\xff\xff\xff"),
            Ok(b"\0\0\0\x06\xc3\xa9\xc3\xa9\xc3\xa9"),
        ],
    );
}
