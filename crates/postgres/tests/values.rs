//! What stands in a real PostgreSQL after a write: values of every type, and rows that no table takes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/place.rs"]
mod place;

use std::sync::Arc;

use aap_sinks::conformance::key;
use aap_sinks::{FailureKind, Group, Sink};
use arrow_array::types::Decimal128Type;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, NullArray, PrimitiveArray, StringArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use place::{Needs, Place, bad_rows, slice, told, write};
use serde_json::json;

const LARGEST: i128 = 10_i128.pow(38) - 1;

fn decimal(values: Vec<Option<i128>>, precision: u8, scale: i8) -> ArrayRef {
    let array: PrimitiveArray<Decimal128Type> = values.into();
    Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
}

/// A column, the type that its table gets, and its values as PostgreSQL shows them.
type Shown = (&'static str, ArrayRef, &'static str, [&'static str; 4]);

fn every_type() -> Vec<Shown> {
    let zoned =
        |values: Vec<Option<i64>>| Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"));
    vec![
        (
            "bool",
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, None])),
            "boolean",
            ["t", "f", "NULL", "NULL"],
        ),
        (
            "i8",
            Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), None, Some(0)])),
            "smallint",
            ["-128", "127", "NULL", "0"],
        ),
        (
            "i16",
            Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None, Some(0)])),
            "smallint",
            ["-32768", "32767", "NULL", "0"],
        ),
        (
            "i32",
            Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None, Some(0)])),
            "integer",
            ["-2147483648", "2147483647", "NULL", "0"],
        ),
        (
            "i64",
            Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None, Some(0)])),
            "bigint",
            ["-9223372036854775808", "9223372036854775807", "NULL", "0"],
        ),
        (
            "u8",
            Arc::new(UInt8Array::from(vec![Some(0), Some(u8::MAX), None, Some(1)])),
            "smallint",
            ["0", "255", "NULL", "1"],
        ),
        (
            "u16",
            Arc::new(UInt16Array::from(vec![Some(0), Some(u16::MAX), None, Some(1)])),
            "integer",
            ["0", "65535", "NULL", "1"],
        ),
        (
            "u32",
            Arc::new(UInt32Array::from(vec![Some(0), Some(u32::MAX), None, Some(1)])),
            "bigint",
            ["0", "4294967295", "NULL", "1"],
        ),
        (
            "u64",
            Arc::new(UInt64Array::from(vec![Some(0), Some(u64::MAX), None, Some(10_000)])),
            "numeric(20,0)",
            ["0", "18446744073709551615", "NULL", "10000"],
        ),
        (
            "f32",
            Arc::new(Float32Array::from(vec![Some(f32::MIN), Some(f32::NAN), None, Some(f32::NEG_INFINITY)])),
            "real",
            ["-3.4028235e+38", "NaN", "NULL", "-Infinity"],
        ),
        (
            "f64",
            Arc::new(Float64Array::from(vec![Some(f64::MAX), Some(f64::INFINITY), Some(0.1), Some(-0.0)])),
            "double precision",
            ["1.7976931348623157e+308", "Infinity", "0.1", "-0"],
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![Some(""), Some("é 😀 \u{1}\t\r\n\\"), None, Some("NULL")])),
            "text",
            ["", "é 😀 \u{1}\t\r\n\\", "NULL", "NULL"],
        ),
        (
            "bytes",
            Arc::new(BinaryArray::from_opt_vec(vec![
                Some(b"".as_slice()),
                Some(b"\x00\xff\\"),
                None,
                Some(b"a"),
            ])),
            "bytea",
            ["\\x", "\\x00ff5c", "NULL", "\\x61"],
        ),
        (
            "date",
            Arc::new(Date32Array::from(vec![Some(-2_440_588), Some(i32::MAX), None, Some(0)])),
            "date",
            ["4714-11-24 BC", "infinity", "NULL", "1970-01-01"],
        ),
        (
            "time",
            Arc::new(Time64MicrosecondArray::from(vec![
                Some(0),
                Some(86_399_999_999),
                None,
                Some(86_400_000_000),
            ])),
            "time without time zone",
            ["00:00:00", "23:59:59.999999", "NULL", "24:00:00"],
        ),
        (
            "ts",
            zoned(vec![Some(-210_866_803_200_000_000), Some(i64::MAX), None, Some(1)]),
            "timestamp with time zone",
            ["4714-11-24 00:00:00+00 BC", "infinity", "NULL", "1970-01-01 00:00:00.000001+00"],
        ),
        (
            "naive",
            Arc::new(TimestampMicrosecondArray::from(vec![
                Some(-i64::MAX),
                Some(i64::MAX - 1),
                None,
                Some(0),
            ])),
            "timestamp without time zone",
            ["-infinity", "294247-01-10 04:00:54.775806", "NULL", "1970-01-01 00:00:00"],
        ),
        (
            "dec",
            decimal(vec![Some(-LARGEST), Some(LARGEST), None, Some(0)], 38, 10),
            "numeric(38,10)",
            [
                "-9999999999999999999999999999.9999999999",
                "9999999999999999999999999999.9999999999",
                "NULL",
                "0.0000000000",
            ],
        ),
        (
            "cents",
            decimal(vec![Some(1), Some(-100_000), None, Some(999_999_999_999)], 12, 2),
            "numeric(12,2)",
            ["0.01", "-1000.00", "NULL", "9999999999.99"],
        ),
        (
            "tiny",
            decimal(vec![Some(1), Some(-LARGEST), None, Some(100)], 38, 38),
            "numeric(38,38)",
            [
                "0.00000000000000000000000000000000000001",
                "-0.99999999999999999999999999999999999999",
                "NULL",
                "0.00000000000000000000000000000000000100",
            ],
        ),
    ]
}

#[tokio::test]
async fn every_type_comes_back_exactly() {
    let Some(place) = Place::new("types", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({"create": true}));
    sink.resume_point().await.unwrap();
    let columns = every_type();
    let events = key("edge-1", "events");
    let mut arrays: Vec<(&str, ArrayRef)> =
        columns.iter().map(|(name, array, ..)| (*name, array.clone())).collect();
    arrays.push(("nothing", Arc::new(NullArray::new(4))));
    write(&mut sink, slice(&events, 0, arrays)).await.unwrap();
    for (name, _, declared, shown) in &columns {
        let sql = format!("SELECT \"{name}\"::text FROM events ORDER BY _row");
        let sql = if *name == "bool" { sql.replace("::text", "") } else { sql };
        assert_eq!(place.lines(&sql).await, shown, "{name}");
        let of_type = format!(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'events'::regclass AND attname = '{name}'"
        );
        assert_eq!(place.lines(&of_type).await, [*declared], "{name}");
    }
    // A column that only has NULL does not yet have a type.
    let columns = place.lines("SELECT count(*) FROM information_schema.columns WHERE table_name = 'events' AND table_schema = current_schema()").await;
    assert_eq!(columns, [(every_type().len() + 4).to_string()]);
}

#[tokio::test]
async fn a_table_of_ones_own_gets_what_it_can_hold() {
    let Some(place) = Place::new("own", Needs::Shared).await else { return };
    place
        .sql(
            "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN short AS varchar(3); \
             CREATE TABLE events (\"MESSAGE\" short, j jsonb, id uuid, n text, big int8, exact numeric(6,2), m mood, \
             half float8, naive timestamp(3), note text DEFAULT 'none', object json)",
        )
        .await;
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("message", Arc::new(StringArray::from(vec!["äöü", "b"]))),
        ("j", Arc::new(StringArray::from(vec![Some("{\"a\": [1, null]}"), None]))),
        (
            "id",
            Arc::new(StringArray::from(vec![
                "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
                "{a0eebc999c0b4ef8bb6d6bb9bd380a12}",
            ])),
        ),
        ("n", Arc::new(Float64Array::from(vec![Some(0.5), None]))),
        ("big", Arc::new(Int32Array::from(vec![-7, 7]))),
        ("exact", decimal(vec![Some(12_300), Some(-1_000)], 10, 3)),
        ("m", Arc::new(StringArray::from(vec!["good", "bad"]))),
        ("half", Arc::new(Int64Array::from(vec![1 << 53, -3]))),
        ("naive", Arc::new(TimestampMicrosecondArray::from(vec![1_000, 2_000]).with_timezone("UTC"))),
        ("object", Arc::new(Int64Array::from(vec![1, 2]))),
    ];
    write(&mut sink, slice(&key("edge-1", "events"), 0, columns)).await.unwrap();
    assert_eq!(
        place.lines("SELECT * FROM events").await,
        [
            "äöü|{\"a\": [1, null]}|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|0.5|-7|12.30|good|9.007199254740992e+15|1970-01-01 00:00:00.001|none|1",
            "b|NULL|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12|NULL|7|-1.00|bad|-3|1970-01-01 00:00:00.002|none|2",
        ]
    );
}

#[tokio::test]
async fn rows_that_no_table_takes_are_named_and_nothing_is_written() {
    let Some(place) = Place::new("bad_rows", Needs::Shared).await else { return };
    place
        .sql("CREATE TABLE events (small int2, word varchar(3), id uuid, money numeric(4,2), at timestamptz, must int8 NOT NULL)")
        .await;
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    let columns = |rows: usize| -> Vec<(&'static str, ArrayRef)> {
        let head = |array: ArrayRef| array.slice(0, rows);
        vec![
            (
                "small",
                head(Arc::new(Int64Array::from(vec![
                    Some(1),
                    Some(300),
                    Some(-32_769),
                    None,
                    Some(5),
                    Some(6),
                    Some(7),
                ]))),
            ),
            ("word", head(Arc::new(StringArray::from(vec!["abc", "a", "a", "a\0", "abcd", "a", "a"])))),
            (
                "id",
                head(Arc::new(StringArray::from(vec![None, None, None, None, None, Some("a0eebc99"), None]))),
            ),
            ("money", head(decimal(vec![Some(999_900), None, None, None, None, None, None], 10, 3))),
            (
                "at",
                head(Arc::new(
                    TimestampMicrosecondArray::from(vec![0, 0, 0, 0, 0, 0, i64::MIN + 2])
                        .with_timezone("UTC"),
                )),
            ),
            (
                "must",
                head(Arc::new(Int64Array::from(vec![
                    Some(1),
                    None,
                    Some(3),
                    Some(4),
                    Some(5),
                    Some(6),
                    Some(7),
                ]))),
            ),
        ]
    };
    let good = slice(&key("edge-2", "events"), 0, vec![("must", Arc::new(Int64Array::from(vec![1])))]);
    let bad = slice(&key("edge-1", "events"), 0, columns(7));
    let failure = sink.write(&Group { slices: vec![good.clone(), bad] }).await.unwrap_err();
    assert_eq!(
        bad_rows(&failure),
        [
            (1, 0, "column `money` (numeric(4,2)): 999900e-3 does not fit numeric(4,2)"),
            (1, 1, "column `must` must have a value, and the row has none"),
            (1, 2, "column `small` (smallint): -32769 is not between -32768 and 32767"),
            (
                1,
                3,
                "column `word` (character varying(3)): the text contains NUL, which PostgreSQL cannot store"
            ),
            (1, 4, "column `word` (character varying(3)): the text is longer than 3 characters"),
            (1, 5, "column `id` (uuid): the text is no UUID"),
            (
                1,
                6,
                "column `at` (timestamp with time zone): the time -9223372036854775806 microseconds after 1970 is outside the range of PostgreSQL"
            ),
        ]
    );
    assert_eq!(place.lines("SELECT count(*) FROM events").await, ["0"]);
    // The same instance goes on with the rest, without asking where it stands.
    sink.write(&Group { slices: vec![good] }).await.unwrap();
    assert_eq!(place.lines("SELECT count(*) FROM events").await, ["1"]);
    let none = slice(&key("edge-1", "events"), 0, vec![("small", Arc::new(Int64Array::from(vec![1, 2])))]);
    assert_eq!(
        bad_rows(&write(&mut sink, none).await.unwrap_err()).len(),
        2,
        "rows without the column at all"
    );
}

#[tokio::test]
async fn what_only_the_server_can_see_is_said_of_the_group() {
    let Some(place) = Place::new("group", Needs::Shared).await else { return };
    place
        .sql("CREATE TABLE events (id int8 PRIMARY KEY, j jsonb, later int8 UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        .await;
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    let group = |ids: [i64; 2], json: &'static str, later: [i64; 2]| {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from(ids.to_vec()))),
            ("j", Arc::new(StringArray::from(vec![json; 2]))),
            ("later", Arc::new(Int64Array::from(later.to_vec()))),
        ];
        slice(&key("edge-1", "events"), 0, columns)
    };
    for (group, words) in [
        (group([1, 1], "1", [1, 2]), "duplicate key value violates unique constraint \"events_pkey\""),
        (group([1, 2], "{", [1, 2]), "invalid input syntax for type json"),
        (group([1, 2], "1", [1, 1]), "duplicate key value violates unique constraint \"events_later_key\""),
    ] {
        let failure = write(&mut sink, group).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Group);
        assert!(
            told(&failure).starts_with("sink.group_refused: ") && told(&failure).contains(words),
            "{}",
            told(&failure)
        );
    }
    write(&mut sink, group([1, 2], "1", [1, 2])).await.unwrap();
    assert_eq!(place.lines("SELECT count(*) FROM events").await, ["2"]);
}
