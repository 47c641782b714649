//! What the sink writes to a real Cassandra, and what it refuses.

#[path = "support/place.rs"]
mod place;

use std::sync::Arc;

use aap_sinks::conformance::{self, key};
use aap_sinks::{FailureKind, Group, Sink};
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int64Array, NullArray, PrimitiveArray, StringArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use place::{Needs, Place, slice, told, write};
use scylla::statement::Statement;
use scylla::value::CqlValue;
use serde_json::json;

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn numbers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

#[tokio::test]
async fn every_type_round_trips() {
    let Some(place) = Place::new("types", Needs::Shared).await else { return };
    let mut sink = place.ready().await;
    let digits = 10_i128.pow(38) - 1;
    let decimal = Decimal128Array::from(vec![Some(-digits), Some(digits), None, Some(-5)]);
    let whole: PrimitiveArray<Int32Type> = vec![Some(i32::MIN), Some(i32::MAX), None, Some(0)].into();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("a_boolean", Arc::new(BooleanArray::from(vec![Some(false), Some(true), None, Some(true)]))),
        ("an_int8", Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), None, Some(0)]))),
        ("an_int16", Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None, Some(0)]))),
        ("an_int32", Arc::new(whole)),
        ("an_int64", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None, Some(0)]))),
        ("a_uint8", Arc::new(UInt8Array::from(vec![Some(0), Some(u8::MAX), None, Some(7)]))),
        ("a_uint16", Arc::new(UInt16Array::from(vec![Some(0), Some(u16::MAX), None, Some(7)]))),
        ("a_uint32", Arc::new(UInt32Array::from(vec![Some(0), Some(u32::MAX), None, Some(7)]))),
        ("a_uint64", Arc::new(UInt64Array::from(vec![Some(0), Some(u64::MAX), None, Some(7)]))),
        (
            "a_float32",
            Arc::new(Float32Array::from(vec![Some(f32::MIN), Some(f32::NAN), None, Some(f32::INFINITY)])),
        ),
        (
            "a_float64",
            Arc::new(Float64Array::from(vec![Some(f64::MIN), Some(f64::NAN), None, Some(f64::NEG_INFINITY)])),
        ),
        ("a_text", Arc::new(StringArray::from(vec![Some(""), Some("Grüße 🦀 \0'\"$"), None, Some("null")]))),
        ("bytes", Arc::new(BinaryArray::from(vec![Some(&b""[..]), Some(&[0, 255, 7]), None, Some(b"x")]))),
        ("a_date", Arc::new(Date32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None, Some(0)]))),
        (
            "a_time",
            Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None, Some(1)])),
        ),
        (
            "a_stamp",
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(i64::MIN), Some(i64::MAX), None, Some(-1)])
                    .with_timezone("UTC"),
            ),
        ),
        (
            "a_local",
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1_999), Some(0), None, Some(-1_001)])),
        ),
        ("a_decimal", Arc::new(decimal.with_precision_and_scale(38, 2).unwrap())),
        ("nothing", Arc::new(NullArray::new(4))),
        ("Größe \"x\"", texts(&["a", "b", "c", "d"])),
    ];
    write(&mut sink, slice(&key("edge-1", "types"), 0, columns)).await.unwrap();

    let table = format!("{}.types", place.keyspace);
    let check = async |name: &str, kind: &str, expected: [Option<CqlValue>; 4]| {
        let declared = format!(
            "SELECT type FROM system_schema.columns WHERE keyspace_name = '{}' AND table_name = 'types' \
             AND column_name = '{name}'",
            place.keyspace
        );
        assert_eq!(place.cql(&declared).await, [[Some(CqlValue::Text(kind.to_owned()))]], "{name}");
        let name = name.replace('"', "\"\"");
        let found = place.cql(&format!("SELECT \"{name}\" FROM {table}")).await;
        let found: Vec<Option<CqlValue>> = found.into_iter().map(|mut row| row.remove(0)).collect();
        assert_eq!(format!("{found:?}"), format!("{:?}", expected), "{name}");
    };
    use CqlValue as V;
    check(
        "a_boolean",
        "boolean",
        [Some(V::Boolean(false)), Some(V::Boolean(true)), None, Some(V::Boolean(true))],
    )
    .await;
    check("an_int8", "tinyint", [i8::MIN, i8::MAX, 0, 0].map(|v| Some(V::TinyInt(v))).absent()).await;
    check("an_int16", "smallint", [i16::MIN, i16::MAX, 0, 0].map(|v| Some(V::SmallInt(v))).absent()).await;
    check("an_int32", "int", [i32::MIN, i32::MAX, 0, 0].map(|v| Some(V::Int(v))).absent()).await;
    check("an_int64", "bigint", [i64::MIN, i64::MAX, 0, 0].map(|v| Some(V::BigInt(v))).absent()).await;
    check("a_uint8", "smallint", [0, 255, 0, 7].map(|v| Some(V::SmallInt(v))).absent()).await;
    check("a_uint16", "int", [0, 65_535, 0, 7].map(|v| Some(V::Int(v))).absent()).await;
    check("a_uint32", "bigint", [0, 4_294_967_295, 0, 7].map(|v| Some(V::BigInt(v))).absent()).await;
    let varint = |bytes: &[u8]| Some(V::Varint(scylla::value::CqlVarint::from_signed_bytes_be_slice(bytes)));
    let largest = [0, 255, 255, 255, 255, 255, 255, 255, 255];
    check("a_uint64", "varint", [varint(&[0]), varint(&largest), None, varint(&[7])]).await;
    let floats = [f32::MIN, f32::NAN, 0.0, f32::INFINITY].map(|v| Some(V::Float(v)));
    check("a_float32", "float", floats.absent()).await;
    let doubles = [f64::MIN, f64::NAN, 0.0, f64::NEG_INFINITY].map(|v| Some(V::Double(v)));
    check("a_float64", "double", doubles.absent()).await;
    let text = |text: &str| Some(V::Text(text.to_owned()));
    check("a_text", "text", [text(""), text("Grüße 🦀 \0'\"$"), None, text("null")]).await;
    let blob = |bytes: &[u8]| Some(V::Blob(bytes.to_vec()));
    check("bytes", "blob", [blob(b""), blob(&[0, 255, 7]), None, blob(b"x")]).await;
    let date = |day: u32| Some(V::Date(scylla::value::CqlDate(day)));
    check("a_date", "date", [date(0), date(u32::MAX), None, date(1 << 31)]).await;
    let time = |nanos: i64| Some(V::Time(scylla::value::CqlTime(nanos)));
    check("a_time", "time", [time(0), time(86_399_999_999_000), None, time(1000)]).await;
    let millis = |ms: i64| Some(V::Timestamp(scylla::value::CqlTimestamp(ms)));
    let (first, last) = (i64::MIN.div_euclid(1000), i64::MAX.div_euclid(1000));
    check("a_stamp", "timestamp", [millis(first), millis(last), None, millis(-1)]).await;
    check("_a_stamp_us", "bigint", [i64::MIN, i64::MAX, 0, -1].map(|v| Some(V::BigInt(v))).absent()).await;
    check("a_local", "timestamp", [millis(1), millis(0), None, millis(-2)]).await;
    check("_a_local_us", "bigint", [1_999, 0, 0, -1_001].map(|v| Some(V::BigInt(v))).absent()).await;
    let decimals = place.cql(&format!("SELECT a_decimal FROM {table}")).await;
    let unscaled = [Some(-digits), Some(digits), None, Some(-5)];
    for (row, expected) in decimals.iter().zip(unscaled) {
        let found = row[0].as_ref().map(|value| {
            let V::Decimal(decimal) = value else { panic!("{value:?}") };
            let (bytes, scale) = decimal.as_signed_be_bytes_slice_and_exponent();
            let sign = if bytes[0] >= 0x80 { -1_i128 } else { 0 };
            (bytes.iter().fold(sign, |number, byte| (number << 8) | i128::from(*byte)), scale)
        });
        assert_eq!(found, expected.map(|number| (number, 2)));
    }
    check("Größe \"x\"", "text", [text("a"), text("b"), text("c"), text("d")]).await;
    let nothing = place
        .cql(&format!(
            "SELECT type FROM system_schema.columns WHERE keyspace_name = '{}' AND table_name = 'types' \
             AND column_name = 'nothing'",
            place.keyspace
        ))
        .await;
    assert!(nothing.is_empty(), "a column without a type is not made");
}

/// The third of four is not there.
trait Absent {
    fn absent(self) -> Self;
}

impl Absent for [Option<CqlValue>; 4] {
    fn absent(mut self) -> Self {
        self[2] = None;
        self
    }
}

#[tokio::test]
async fn writing_again_changes_nothing_and_absent_values_leave_no_tombstones() {
    let Some(place) = Place::new("again", Needs::Shared).await else { return };
    let events = key("edge-1", "events");
    let group = Group { slices: vec![conformance::slice(&events, 0, 40)] };
    let mut first = place.ready().await;
    first.write(&group).await.unwrap();
    let all = format!(
        "SELECT \"_bucket\", ts, \"_ts_us\", \"_seq\", \"_row\", n, writetime(n), message, writetime(message), score, \
         writetime(score), writetime(\"_ts_us\") FROM {}.events",
        place.keyspace
    );
    let before = place.lines(&all).await;
    assert_eq!(before.len(), 40 * 7);
    // As after a crash between the rows and the ledger.
    place.cql(&format!("TRUNCATE {}.aap_ledger", place.keyspace)).await;
    let mut second = place.ready().await;
    second.write(&group).await.unwrap();
    assert_eq!(place.lines(&all).await, before);
    assert!(before.iter().any(|line| line.contains("|null|null|")), "some values are absent: {}", before[0]);

    let written = place.cql(&format!("SELECT \"_seq\", writetime(n) FROM {}.events", place.keyspace)).await;
    for row in written {
        let number = |place: usize| row[place].as_ref().unwrap().as_bigint().unwrap();
        assert_eq!(number(1), (events.epoch.0 as i64 >> 20) * 1000 + number(0));
    }
    // The server counts what it has to skip.
    let client = place.client().await;
    let mut statement = Statement::new(format!("SELECT * FROM {}.events", place.keyspace));
    statement.set_tracing(true);
    let answer = client.query_unpaged(statement, ()).await.unwrap();
    let traced = client.get_tracing_info(&answer.tracing_id().unwrap()).await.unwrap();
    let told: Vec<_> = traced.events.into_iter().filter_map(|event| event.activity).collect();
    assert!(told.iter().any(|text| text.contains("live rows and 0 tombstone cells")), "{told:#?}");
    assert!(
        !told.iter().any(|text| text.contains("tombstone") && !text.contains(" 0 tombstone")),
        "{told:#?}"
    );
}

#[tokio::test]
async fn what_an_operator_deleted_stays_deleted() {
    let Some(place) = Place::new("deleted", Needs::Shared).await else { return };
    let events = key("edge-1", "events");
    let group = Group { slices: vec![conformance::slice(&events, 0, 2)] };
    place.ready().await.write(&group).await.unwrap();
    let table = format!("{}.events", place.keyspace);
    let found = place.lines(&format!("SELECT \"_bucket\" FROM {table} LIMIT 1")).await;
    let all = place.cql(&format!("SELECT \"_bucket\", ts FROM {table} LIMIT 1")).await;
    let ms = |value: &Option<CqlValue>| value.as_ref().unwrap().as_cql_timestamp().unwrap().0;
    assert_eq!(ms(&all[0][0]), 1_760_000_000_123_i64.div_euclid(3_600_000) * 3_600_000, "{found:?}");
    place
        .cql(&format!(
            "DELETE FROM {table} WHERE \"_stream\" = 'events' AND \"_node\" = 'edge-1' AND \"_bucket\" = {} AND ts = {}",
            ms(&all[0][0]),
            ms(&all[0][1])
        ))
        .await;
    let left = place.cql(&format!("SELECT ts FROM {table}")).await.len();
    place.cql(&format!("TRUNCATE {}.aap_ledger", place.keyspace)).await;
    place.ready().await.write(&group).await.unwrap();
    assert_eq!(place.cql(&format!("SELECT ts FROM {table}")).await.len(), left);
    assert!(left < 14, "{left}");
}

#[tokio::test]
async fn rows_without_a_time_stand_in_1970_in_partitions_that_end() {
    let Some(place) = Place::new("timeless", Needs::Shared).await else { return };
    let mut sink = place.ready().await;
    let events = key("edge-1", "events");
    let times = Arc::new(TimestampMicrosecondArray::from(vec![None, Some(0)]));
    write(&mut sink, slice(&events, 0, vec![("ts", times), ("n", numbers(&[1, 2]))])).await.unwrap();
    write(&mut sink, slice(&events, 1, vec![("ts", texts(&["soon"])), ("n", numbers(&[3]))])).await.unwrap();
    let get = format!("SELECT \"_bucket\", ts, \"_ts_us\", n, ts_1 FROM {}.events", place.keyspace);
    let number = |value: &Option<CqlValue>| match value {
        Some(CqlValue::Timestamp(ms)) => ms.0,
        Some(CqlValue::BigInt(number)) => *number,
        _ => -1,
    };
    let mut found: Vec<_> = place
        .cql(&get)
        .await
        .iter()
        .map(|row| (number(&row[3]), number(&row[0]), number(&row[1]), number(&row[2]), row[4].clone()))
        .collect();
    found.sort_by_key(|row| row.0);
    let soon = Some(CqlValue::Text("soon".to_owned()));
    assert_eq!(found, [(1, -3_600_000, 0, -1, None), (2, 0, 0, 0, None), (3, -3_600_000, 0, -1, soon)]);
}

#[tokio::test]
async fn tables_follow_their_streams_only_where_they_may() {
    let Some(place) = Place::new("follow", Needs::Shared).await else { return };
    let events = key("edge-1", "events");
    let mut sink = place.ready().await;
    write(&mut sink, slice(&events, 0, vec![("n", numbers(&[1])), ("t", texts(&["x"]))])).await.unwrap();

    let mut careful = place.sink(json!({"create": true, "evolve": false}));
    careful.resume_point().await.unwrap();
    let more = || slice(&events, 1, vec![("n", numbers(&[2])), ("later", texts(&["new"]))]);
    let failure = write(&mut careful, more()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(told(&failure).contains("sink.table_shape"), "{}", told(&failure));
    assert!(told(&failure).contains("ADD \"later\" text"), "{}", told(&failure));

    sink.resume_point().await.unwrap();
    write(&mut sink, more()).await.unwrap();
    // A type that no longer fits, and one that text takes.
    let changed = slice(&events, 2, vec![("n", texts(&["three"]))]);
    let failure = write(&mut sink, changed).await.unwrap_err();
    assert_eq!(
        (failure.kind.clone(), failure.problem.code.as_str()),
        (FailureKind::Refused, "sink.table_shape")
    );
    assert!(told(&failure).contains("column `n`") && told(&failure).contains("bigint"), "{}", told(&failure));
    sink.resume_point().await.unwrap();
    write(&mut sink, slice(&events, 2, vec![("t", numbers(&[33])), ("n", numbers(&[3]))])).await.unwrap();
    let rows = place.lines(&format!("SELECT n, t, later FROM {}.events", place.keyspace)).await;
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().any(|row| row.contains("33")), "{rows:?}");

    place.cql(&format!("ALTER TABLE {}.events DROP later", place.keyspace)).await;
    sink.resume_point().await.unwrap();
    let again = slice(&events, 3, vec![("n", numbers(&[4])), ("later", texts(&["hidden"]))]);
    let failure = write(&mut sink, again).await.unwrap_err();
    assert!(
        told(&failure).contains("`later`") && told(&failure).contains("dropped once"),
        "{}",
        told(&failure)
    );
}

#[tokio::test]
async fn what_is_missing_is_named_with_the_statement_that_makes_it() {
    let Some(place) = Place::new("missing", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({}));
    let failure = sink.resume_point().await.unwrap_err();
    assert_eq!(
        (failure.kind.clone(), failure.problem.code.as_str()),
        (FailureKind::Refused, "sink.table_missing")
    );
    assert!(told(&failure).contains("no keyspace"), "{}", told(&failure));
    // What it says to type is what helps.
    let type_in = async |failure: &aap_sinks::Failure| {
        let command = failure.problem.hints.iter().find_map(|hint| hint.command.clone()).unwrap();
        place.cql(&command).await;
    };
    type_in(&failure).await;
    let failure = sink.resume_point().await.unwrap_err();
    assert!(told(&failure).contains("no table `aap_ledger`"), "{}", told(&failure));
    type_in(&failure).await;
    assert!(sink.resume_point().await.unwrap().is_empty());
    let events = key("edge-1", "events");
    let rows = || conformance::slice(&events, 0, 2);
    let failure = write(&mut sink, rows()).await.unwrap_err();
    assert_eq!(failure.problem.code, "sink.table_missing");
    type_in(&failure).await;
    sink.resume_point().await.unwrap();
    write(&mut sink, rows()).await.unwrap();

    place.cql(&format!("CREATE TABLE {}.other (id text PRIMARY KEY, n bigint)", place.keyspace)).await;
    let mut sink = place.sink(json!({"table": "other"}));
    sink.resume_point().await.unwrap();
    let failure = write(&mut sink, conformance::slice(&events, 2, 3)).await.unwrap_err();
    assert!(told(&failure).contains("primary key"), "{}", told(&failure));
}

#[tokio::test]
async fn rows_that_no_table_takes_are_named_before_anything_is_written() {
    let Some(place) = Place::new("bad", Needs::Shared).await else { return };
    let events = key("edge-1", "events");
    let mut sink = place.ready().await;
    let (large, huge) = ("x".repeat(10 << 20), "x".repeat(16 << 20));
    let times = Arc::new(Time64MicrosecondArray::from(vec![5, -1, 7, 86_400_000_000]));
    let rows = |second: &str| {
        let texts = texts(&["a", "b", second, "d"]);
        slice(&events, 0, vec![("at", times.clone() as ArrayRef), ("text", texts)])
    };
    let failure = write(&mut sink, rows(&huge)).await.unwrap_err();
    let FailureKind::Rows(bad) = &failure.kind else { panic!("{failure:?}") };
    let found: Vec<(usize, usize)> = bad.iter().map(|bad| (bad.slice, bad.row)).collect();
    assert_eq!(found, [(0, 1), (0, 2), (0, 3)], "{bad:?}");
    assert!(place.cql(&format!("SELECT \"_row\" FROM {}.events", place.keyspace)).await.is_empty());
    // What only this server finds too large, for its commit log is smaller than others'. The sink goes on without it.
    let columns = vec![
        ("at", Arc::new(Time64MicrosecondArray::from(vec![5, 6])) as ArrayRef),
        ("text", texts(&["a", &large])),
    ];
    let failure = write(&mut sink, slice(&events, 0, columns)).await.unwrap_err();
    let FailureKind::Rows(bad) = &failure.kind else { panic!("{failure:?}") };
    assert_eq!((bad.len(), bad[0].row), (1, 1), "{bad:?}");
    let columns =
        vec![("at", Arc::new(Time64MicrosecondArray::from(vec![5])) as ArrayRef), ("text", texts(&["a"]))];
    write(&mut sink, slice(&events, 0, columns)).await.unwrap();
    assert_eq!(place.cql(&format!("SELECT \"_row\" FROM {}.events", place.keyspace)).await.len(), 1);
}

#[tokio::test]
async fn the_ledger_never_goes_back_and_one_of_two_owners_stays() {
    let Some(place) = Place::new("owners", Needs::Shared).await else { return };
    let events = key("edge-1", "events");
    let mut first = place.ready().await;
    first.write(&Group { slices: vec![conformance::slice(&events, 0, 5)] }).await.unwrap();
    // As a writer that slept through everything would: `through` 3 after 5.
    place
        .cql(&format!(
            "INSERT INTO {}.aap_ledger (uid, node, epoch, stream, through) VALUES \
             ('0123456789abcdef0123456789abcdef', 'edge-1', {}, 'events', 3) USING TIMESTAMP 3",
            place.keyspace, events.epoch.0
        ))
        .await;
    let mut second = place.sink(json!({"create": true}));
    let (one, two) = tokio::join!(first.resume_point(), second.resume_point());
    assert_eq!((one.unwrap()[&events].0, two.unwrap()[&events].0), (5, 5));
    let next = Group { slices: vec![conformance::slice(&events, 5, 6)] };
    let outcomes = [first.write(&next).await, second.write(&next).await];
    let moved = |outcome: &&Result<(), aap_sinks::Failure>| {
        outcome.as_ref().is_err_and(|failure| failure.kind == FailureKind::Moved)
    };
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(moved).count(), 1, "{outcomes:?}");
    // A gap, and a position that was passed.
    let mut third = place.ready().await;
    for after in [4, 7] {
        let group = Group { slices: vec![conformance::slice(&events, after, after + 1)] };
        assert_eq!(third.write(&group).await.unwrap_err().kind, FailureKind::Moved);
        third.resume_point().await.unwrap();
    }
}

#[tokio::test]
async fn a_probe_says_what_it_finds_and_changes_nothing() {
    let Some(place) = Place::new("probe", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({"create": true, "table": "events"}));
    let before = sink.probe().await.unwrap().join("\n");
    for expected in [
        "cluster: aap-test, Cassandra 5.",
        "1 of 1 nodes up",
        "would be created",
        "table: events would be created",
        "ledger: aap_ledger would be created",
    ] {
        assert!(before.contains(expected), "{expected}: {before}");
    }
    let keyspaces = format!(
        "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = '{}'",
        place.keyspace
    );
    assert!(place.cql(&keyspaces).await.is_empty());
    sink.resume_point().await.unwrap();
    sink.write(&Group { slices: vec![conformance::slice(&key("edge-1", "events"), 0, 2)] }).await.unwrap();
    let after = sink.probe().await.unwrap().join("\n");
    for expected in ["SimpleStrategy", "price decimal", "_ts_us bigint", "1 keys of this sink"] {
        assert!(after.contains(expected), "{expected}: {after}");
    }
}

#[tokio::test]
async fn wrong_ways_in_are_told_apart() {
    let Some(place) = Place::new("ways", Needs::Shared).await else { return };
    let told_of = async |more: serde_json::Value| {
        let failure = place.sink(more).resume_point().await.unwrap_err();
        (failure.kind.clone(), failure.problem.code.clone())
    };
    let away = (FailureKind::Retry, "sink.unreachable".to_owned());
    assert_eq!(told_of(json!({"nodes": ["127.0.0.1:1"]})).await, away);
    assert_eq!(told_of(json!({"nodes": ["nobody.invalid:9042"]})).await, away);
    let setting = (FailureKind::Refused, "sink.setting".to_owned());
    assert_eq!(told_of(json!({"nodes": []})).await, setting);
    assert_eq!(told_of(json!({"tls": {"ca": "/nowhere/ca.pem"}})).await, setting);
    assert_eq!(told_of(json!({"username": "me", "password": "env:AAP_TEST_THIS_IS_NOT_SET"})).await, setting);
    if place.login.is_some() {
        let denied = (FailureKind::Refused, "sink.denied".to_owned());
        assert_eq!(told_of(json!({"username": "nobody"})).await, denied);
        assert_eq!(told_of(json!({"username": null, "password": null})).await, denied);
        place.cql("CREATE ROLE IF NOT EXISTS aap_reader WITH PASSWORD = 'cassandra' AND LOGIN = true").await;
        assert_eq!(told_of(json!({"username": "aap_reader", "create": true})).await, denied);
    } else {
        println!("skipped: wrong_ways_in_are_told_apart, passwords: no AAP_TEST_CASSANDRA_USER");
    }
}

#[tokio::test]
async fn a_line_is_encrypted_and_strangers_are_refused() {
    let Some(place) = Place::new("tls", Needs::Shared).await else { return };
    let Ok(ca) = std::env::var("AAP_TEST_CASSANDRA_CA") else {
        println!("skipped: a_line_is_encrypted_and_strangers_are_refused: no AAP_TEST_CASSANDRA_CA");
        return;
    };
    let mut sink = place.sink(json!({"create": true, "tls": {"ca": ca}}));
    sink.resume_point().await.unwrap();
    sink.write(&Group { slices: vec![conformance::slice(&key("edge-1", "events"), 0, 50)] }).await.unwrap();
    assert!(sink.probe().await.unwrap()[0].ends_with(", TLS"));
    let clients = place.lines("SELECT ssl_enabled FROM system_views.clients").await;
    assert!(clients.contains(&"true".to_owned()), "{clients:?}");
    assert_eq!(place.cql(&format!("SELECT n FROM {}.events", place.keyspace)).await.len(), 350);

    // By name, though the cluster calls the node by its address.
    let named = place.node.replace("127.0.0.1", "localhost");
    let ca = std::env::var("AAP_TEST_CASSANDRA_CA").unwrap();
    let mut sink = place.sink(json!({"nodes": [named], "tls": {"ca": ca}}));
    assert_eq!(sink.resume_point().await.unwrap().len(), 1);
    let stranger = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/stranger.pem");
    let failure = place.sink(json!({"tls": {"ca": stranger}})).resume_point().await.unwrap_err();
    assert_eq!((failure.kind.clone(), failure.problem.code.as_str()), (FailureKind::Refused, "sink.tls"));
    assert!(told(&failure).contains("certificate"), "{}", told(&failure));
}
