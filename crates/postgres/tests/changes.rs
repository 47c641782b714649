//! Changes of a real server: their values are those that the table itself is read with, and what is missing is told.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

#[path = "support/place.rs"]
mod place;

use std::time::Duration;

use aap_postgres::{
    Changes, ChangesReader, ChangesSource, PostgresSource, PostgresSourceSpec, TableReader, drop_slot,
};
use aap_types::Problem;
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use place::{Needs, Place};
use serde_json::{Value, json};

/// Identity of the source of a test; slots are named by its first digits.
fn uid(test: u8) -> String {
    format!("{:08x}{test:08x}ffffffffffffffff", std::process::id())
}

fn source(place: &Place, what: Value) -> PostgresSource {
    let password = place.file("word", "aap");
    let mut spec = json!({ "url": place.url(""), "password": format!("file:{}", password.display()) });
    spec.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
    serde_json::from_value::<PostgresSourceSpec>(spec).unwrap().read().unwrap()
}

fn changes(place: &Place, what: Value) -> ChangesSource {
    match source(place, json!({ "changes": what })) {
        PostgresSource::Changes(source) => source,
        PostgresSource::Table(source) => panic!("{source:?}"),
    }
}

/// The next changes; those of other tests move the log, too.
async fn next(reader: &mut ChangesReader) -> Result<Changes, Problem> {
    for _ in 0..200 {
        if let Some(changes) = reader.next().await? {
            return Ok(changes);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no change comes");
}

const TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN amount AS numeric(8,2); CREATE DOMAIN places AS int; \
    CREATE TABLE types (id bigint PRIMARY KEY, a bool, b smallint, c int, d real, e float8, f numeric, g numeric(12,3), h text, \
    i varchar(20), j char(5), k bytea, l date, m time, n timetz, o timestamp, p timestamptz, q uuid, r json, s jsonb, t int[], \
    u mood, v amount, w places, x interval, y inet, z int4range, \"Big\" money, ts timestamptz)";
const ROWS: &str = "INSERT INTO types VALUES \
    (1, true, -3, 2147483647, 0.1, 1e300, 1.50, 2.5, 'ü', 'v', 'c', '\\x00ff', '2026-11-26', '23:59:59.5', '10:00+02', \
     '2026-11-26 10:00:00.000001', '2026-11-26 10:00:00+02', '00000000-0000-4000-8000-000000000001', '{\"a\": 1}', '{\"a\":1}', \
     '{1,null}', 'ok', 3.1, 7, '1 day 02:00:00', '10.0.0.1/8', '[1,5)', 12, '2026-01-01'), \
    (2), \
    (3, false, 0, 0, 'NaN', '-Infinity', 'NaN', 0, '', '', '', '', 'infinity', '24:00', null, '-infinity', 'infinity', null, null, \
     null, '{}', 'sad', 0, 0, null, null, 'empty', 0, null), \
    (4, null, null, null, null, null, null, null, null, null, null, null, '4714-11-24 BC', null, null, '0044-03-15 12:00 BC', \
     '294276-12-31', null, null, null, null, null, null, null, null, null, null, null, '0001-01-01')";

fn insert(rows: &str) -> String {
    // A short row has the rest as NULL.
    rows.replace("(2)", &format!("(2{})", ", null".repeat(28)))
}

fn only(mut batches: Vec<RecordBatch>) -> RecordBatch {
    assert_eq!(batches.len(), 1);
    batches.remove(0)
}

#[tokio::test]
async fn values_are_those_that_the_table_itself_is_read_with() {
    let Some(place) = Place::new("changes_types", Needs::Shared).await else { return };
    place.sql(TYPES).await;
    let table = format!("{}.types", place.schema);
    let source_of_changes = changes(&place, json!({ "tables": [table] }));
    let mut reader = ChangesReader::new(source_of_changes.clone(), &uid(1), None);
    assert!(reader.next().await.unwrap().is_none());
    place.sql(&insert(ROWS)).await;
    let found = next(&mut reader).await.unwrap();
    let found = only(found.batches.into_iter().map(|(_, batch)| batch).collect());

    let PostgresSource::Table(polled) = source(&place, json!({ "table": table, "cursor": "id" })) else {
        panic!("no table");
    };
    let mut polled = TableReader::new(polled, None);
    let page = loop {
        if let Some(page) = polled.next(0).await.unwrap() {
            break page;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let page = only(page.batches);
    for (at, field) in page.schema().fields().iter().enumerate() {
        // There the time of the row is a column of its own.
        let name = if field.name() == "ts" { "ts_1" } else { field.name() };
        let (place, ours) =
            found.schema().column_with_name(name).map(|(at, ours)| (at, ours.clone())).unwrap();
        assert_eq!((ours.data_type(), ours.metadata()), (field.data_type(), field.metadata()), "{name}");
        assert_eq!(found.column(place), page.column(at), "{name}");
    }
    assert_eq!(found.num_columns(), page.num_columns() + 7);
    drop_slot(&source_of_changes, &uid(1)).await.unwrap();
    assert_eq!(
        place
            .lines(&format!(
                "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'",
                aap_postgres::slot_name(&uid(1))
            ))
            .await,
        ["0"]
    );
}

#[tokio::test]
async fn whole_rows_tell_rows_apart_by_the_primary_key_and_partitions_are_their_table() {
    let Some(place) = Place::new("changes_full", Needs::Shared).await else { return };
    place
        .sql(
            "CREATE TABLE full_ (id int PRIMARY KEY, body text); ALTER TABLE full_ REPLICA IDENTITY FULL; \
             ALTER TABLE full_ ALTER body SET STORAGE EXTERNAL; \
             CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); \
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
        )
        .await;
    let tables = json!([format!("{}.full_", place.schema), format!("{}.parts", place.schema)]);
    let source = changes(&place, json!({ "tables": tables, "stream": "all" }));
    let mut reader = ChangesReader::new(source.clone(), &uid(2), None);
    assert!(reader.next().await.unwrap().is_none());
    place
        .sql(
            "BEGIN; INSERT INTO full_ VALUES (1, repeat('x', 5000)); UPDATE full_ SET id = 2; UPDATE full_ SET body = 'y'; \
             DELETE FROM full_; INSERT INTO parts VALUES (3); COMMIT",
        )
        .await;
    let found = next(&mut reader).await.unwrap();
    let mut seen = vec![];
    for (stream, batch) in &found.batches {
        assert_eq!(stream.as_str(), "all");
        let column = |name: &str| batch.column_by_name(name).unwrap().clone();
        let ids = column("id").as_primitive::<arrow_array::types::Int32Type>().clone();
        let lengths = batch.column_by_name("body").map(|body| body.as_string::<i32>().clone());
        for row in 0..batch.num_rows() {
            let op = column("_op").as_string::<i32>().value(row).to_owned();
            let table = column("_table").as_string::<i32>().value(row).rsplit('.').next().unwrap().to_owned();
            let length = lengths.as_ref().map(|texts| texts.value(row).len());
            seen.push((table, op, ids.value(row), length));
        }
    }
    let row = |table: &str, op: &str, id, length| (table.to_owned(), op.to_owned(), id, length);
    let expected = [
        row("full_", "insert", 1, Some(5000)),
        row("full_", "delete", 1, Some(5000)),
        row("full_", "update", 2, Some(5000)),
        row("full_", "update", 2, Some(1)),
        row("full_", "delete", 2, Some(1)),
        row("parts", "insert", 3, None),
    ];
    assert_eq!(seen, expected);
    drop_slot(&source, &uid(2)).await.unwrap();
}

#[tokio::test]
async fn a_slot_that_is_gone_is_never_made_again() {
    let Some(place) = Place::new("changes_gone", Needs::Shared).await else { return };
    place.sql("CREATE TABLE orders (id int PRIMARY KEY)").await;
    let source = changes(&place, json!({ "tables": [format!("{}.orders", place.schema)] }));
    let mut reader = ChangesReader::new(source.clone(), &uid(3), None);
    assert!(reader.next().await.unwrap().is_none());
    drop(reader);
    let slot = aap_postgres::slot_name(&uid(3));
    let sql = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active");
    while place.lines(&sql).await != ["0"] {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    place.sql(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    // Nothing has landed, and still it is known that there was one.
    let problem = ChangesReader::new(source.clone(), &uid(3), None).next().await.unwrap_err();
    assert_eq!(problem.code, "source.changes_lost");
    drop_slot(&source, &uid(3)).await.unwrap();
}

#[tokio::test]
#[ignore = "takes half a minute: the longest wait for a lock"]
async fn a_slot_waits_for_open_transactions_and_says_so() {
    let Some(place) = Place::new("changes_waits", Needs::Shared).await else { return };
    place.sql("CREATE TABLE orders (id int PRIMARY KEY)").await;
    let source = changes(&place, json!({ "tables": [format!("{}.orders", place.schema)] }));
    let other = place.client().await;
    other.batch_execute("BEGIN; INSERT INTO orders VALUES (1)").await.unwrap();
    let problem = ChangesReader::new(source.clone(), &uid(4), None).next().await.unwrap_err();
    assert_eq!(problem.code, "source.slot_waits");
    other.batch_execute("COMMIT").await.unwrap();
    let mut reader = ChangesReader::new(source.clone(), &uid(4), None);
    assert!(reader.next().await.unwrap().is_none());
    place.sql("INSERT INTO orders VALUES (2)").await;
    let found = next(&mut reader).await.unwrap();
    assert_eq!(found.batches[0].1.num_rows(), 1, "what ended before the slot began is not a change");
    drop_slot(&source, &uid(4)).await.unwrap();
}
