//! What becomes of tables: keys, partitions, columns that are new or wider, and shapes that do not fit.

#[path = "support/place.rs"]
mod place;

use std::sync::Arc;

use aap_sinks::conformance::key;
use aap_sinks::{FailureKind, Sink};
use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array,
    NullArray, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use place::{Needs, Place, bad_rows, slice, told, write};
use serde_json::json;

#[tokio::test]
async fn the_last_row_of_a_key_wins() {
    let Some(place) = Place::new("upsert", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({"create": true, "mode": "upsert", "key": ["id", "Kind"]}));
    sink.resume_point().await.unwrap();
    let events = key("edge-1", "events");
    let rows = |after, ids: Vec<i64>, values: Vec<Option<&str>>| {
        let kinds = vec!["k"; ids.len()];
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from(ids))),
            ("Kind", Arc::new(StringArray::from(kinds))),
            ("value", Arc::new(StringArray::from(values))),
        ];
        slice(&events, after, columns)
    };
    write(&mut sink, rows(0, vec![1, 2, 1, 3, 1], vec![Some("a"), Some("b"), Some("c"), None, Some("d")]))
        .await
        .unwrap();
    write(&mut sink, rows(1, vec![3, 2, 4], vec![Some("e"), None, Some("f")])).await.unwrap();
    let found = place.lines("SELECT id, value, _seq, _row FROM events ORDER BY id").await;
    assert_eq!(found, ["1|d|1|4", "2|NULL|2|1", "3|e|2|0", "4|f|2|2"]);

    let nameless = slice(&events, 2, vec![("id", Arc::new(Int64Array::from(vec![Some(1), None])))]);
    assert_eq!(bad_rows(&write(&mut sink, nameless).await.unwrap_err()).len(), 2, "no value of `Kind`");
    place.sql("ALTER TABLE events DROP CONSTRAINT events_pkey").await;
    let failure = write(&mut sink, rows(2, vec![1], vec![None])).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(
        told(&failure).starts_with("sink.table_shape") && told(&failure).contains("CREATE UNIQUE INDEX"),
        "{}",
        told(&failure)
    );
}

#[tokio::test]
async fn rows_lie_in_the_partition_of_their_day() {
    let Some(place) = Place::new("partition", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({"create": true, "partition": "day"}));
    sink.resume_point().await.unwrap();
    let events = key("edge-1", "events");
    const DAY: i64 = 86_400_000_000;
    let rows = |after, times: Vec<Option<i64>>| {
        let times = TimestampMicrosecondArray::from(times).with_timezone("UTC");
        slice(&events, after, vec![("ts", Arc::new(times))])
    };
    write(
        &mut sink,
        rows(0, vec![Some(0), Some(DAY - 1), Some(DAY), None, Some(20_783 * DAY), Some(i64::MAX)]),
    )
    .await
    .unwrap();
    write(&mut sink, rows(1, vec![Some(1), Some(2 * DAY), Some(20_783 * DAY + 5)])).await.unwrap();
    let found =
        place.lines("SELECT tableoid::regclass::text, count(*) FROM events GROUP BY 1 ORDER BY 1").await;
    assert_eq!(
        found,
        [
            "events_default|2",
            "events_p19700101|3",
            "events_p19700102|1",
            "events_p19700103|1",
            "events_p20261126|2"
        ]
    );
    // Rows that somebody else put into the default partition keep it theirs, and nothing is lost.
    place.sql("INSERT INTO events_default (ts) VALUES ('1970-01-05 12:00+00')").await;
    write(&mut sink, rows(2, vec![Some(4 * DAY)])).await.unwrap();
    assert_eq!(place.lines("SELECT count(*) FROM events_default").await, ["4"]);
    let mut other =
        place.sink(json!({"create": true, "partition": "month", "table": format!("{}.plain", place.schema)}));
    place.sql("CREATE TABLE plain (ts timestamptz)").await;
    other.resume_point().await.unwrap();
    let failure = write(&mut other, rows(3, vec![None])).await.unwrap_err();
    assert!(told(&failure).contains("is not partitioned by range of `ts`"), "{}", told(&failure));
}

#[tokio::test]
async fn a_table_follows_its_stream() {
    let Some(place) = Place::new("evolve", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({"create": true}));
    sink.resume_point().await.unwrap();
    let events = key("edge-1", "web.events");
    let first: Vec<(&str, ArrayRef)> = vec![
        ("n", Arc::new(Int16Array::from(vec![1]))),
        ("level", Arc::new(Int32Array::from(vec![2]))),
        ("late", Arc::new(NullArray::new(1))),
        ("r", Arc::new(Float32Array::from(vec![0.5]))),
    ];
    write(&mut sink, slice(&events, 0, first)).await.unwrap();
    let second: Vec<(&str, ArrayRef)> = vec![
        ("n", Arc::new(UInt64Array::from(vec![u64::MAX]))),
        ("level", Arc::new(StringArray::from(vec!["high"]))),
        ("late", Arc::new(Date32Array::from(vec![0]))),
        ("new \"one\"", Arc::new(BooleanArray::from(vec![true]))),
        ("r", Arc::new(Float64Array::from(vec![0.1]))),
    ];
    write(&mut sink, slice(&events, 1, second)).await.unwrap();
    // An older batch still fits.
    write(&mut sink, slice(&events, 2, vec![("n", Arc::new(Int16Array::from(vec![3])))])).await.unwrap();
    let found =
        place.lines("SELECT n, level, late, \"new \"\"one\"\"\", r FROM \"web.events\" ORDER BY _seq").await;
    assert_eq!(
        found,
        ["1|2|NULL|NULL|0.5", "18446744073709551615|high|1970-01-01|t|0.1", "3|NULL|NULL|NULL|NULL"]
    );
}

#[tokio::test]
async fn a_table_of_another_shape_is_refused_with_the_remedy() {
    let Some(place) = Place::new("shape", Needs::Shared).await else { return };
    let (events, schema) = (key("edge-1", "events"), place.schema.clone());
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    let text = |name: &'static str| {
        slice(&events, 0, vec![(name, Arc::new(StringArray::from(vec!["x"])) as ArrayRef)])
    };
    let missing = write(&mut sink, text("n")).await.unwrap_err();
    assert_eq!(missing.kind, FailureKind::Refused);
    assert!(
        told(&missing).starts_with("sink.table_missing") && told(&missing).contains("CREATE TABLE"),
        "{}",
        told(&missing)
    );
    let statement = missing.problem.hints.iter().find_map(|hint| hint.command.clone()).unwrap();

    place.sql("CREATE TABLE events (n int8); CREATE VIEW looks AS SELECT 1 AS n").await;
    for (slice, words) in [
        (
            text("n"),
            format!(
                "sink.table_shape: the column \"n\" of table \"{schema}\".\"events\" is bigint, and the rows have text, which it \
                 cannot hold exactly; ; change the table ALTER TABLE \"{schema}\".\"events\" ALTER COLUMN \"n\" TYPE text \
                 USING \"n\"::text::text"
            ),
        ),
        (text("Other"), format!("ALTER TABLE \"{schema}\".\"events\" ADD COLUMN \"Other\" text")),
    ] {
        let failure = write(&mut sink, slice).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Refused);
        assert!(told(&failure).contains(&words), "{}", told(&failure));
    }
    let mut on_view = place.sink(json!({"table": format!("{schema}.looks")}));
    on_view.resume_point().await.unwrap();
    let failure = write(&mut on_view, text("n")).await.unwrap_err();
    assert!(told(&failure).contains("is no table"), "{}", told(&failure));

    // The statements of the hints do what they say.
    place.sql("DROP VIEW looks; DROP TABLE events").await;
    place.sql(&statement).await;
    sink.resume_point().await.unwrap();
    write(&mut sink, text("n")).await.unwrap();
}
