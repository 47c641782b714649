//! How fast rows arrive, beside the plainest loop with the same driver at the same concurrency. Run by hand:
//! `cargo test --release -p aap-cassandra --test throughput -- --ignored --nocapture`.

#![expect(clippy::unwrap_used, reason = "a measurement fails by panicking")]

#[path = "support/place.rs"]
mod place;

use aap_runtime::SystemClock;
use aap_sinks::conformance::{self, Effort, Meter, key};
use aap_sinks::{Group, Sink, Slice};
use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType, UInt64Type};
use futures::StreamExt;
use place::{Needs, Place};
use scylla::value::{CqlDecimal, CqlTimestamp, MaybeUnset};
use serde_json::json;

/// Batches of 7 rows in a group.
const BATCHES: u64 = 3_000;
const GROUPS: u64 = 3;
const ROUNDS: usize = 3;
const CONCURRENCY: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn rows_arrive_about_as_fast_as_a_plain_loop_writes_them() {
    let Some(place) = Place::new("throughput", Needs::Alone).await else { return };
    let clock = SystemClock::default();
    let rows = (GROUPS * BATCHES * 7) as f64;
    let (mut ours, mut theirs) = (vec![], vec![]);
    for round in 0..ROUNDS {
        let events = key("edge-1", &format!("ours_{round}"));
        let groups: Vec<Group> = (0..GROUPS)
            .map(|number| conformance::slice(&events, number * BATCHES, (number + 1) * BATCHES))
            .map(|slice| Group { slices: vec![slice] })
            .collect();
        let mut sink = place.sink(json!({"create": true, "concurrency": CONCURRENCY}));
        sink.resume_point().await.unwrap();
        // The table is made before the clock runs.
        let mut empty = conformance::slice(&events, 0, 1);
        empty.key = key("edge-0", events.stream.as_str());
        sink.write(&Group { slices: vec![empty] }).await.unwrap();
        let meter = Meter::start(&clock);
        for group in &groups {
            sink.write(group).await.unwrap();
        }
        ours.push(meter.stop());

        let table = format!("{}.theirs_{round}", place.keyspace);
        theirs.push(plain(&place, &table, &groups, &clock).await);
        place.cql(&format!("TRUNCATE {table}")).await;
        place.cql(&format!("TRUNCATE {}.ours_{round}", place.keyspace)).await;
    }
    let (ours, theirs) = (Effort::best(&ours), Effort::best(&theirs));
    println!("{rows} rows of 10 columns, {CONCURRENCY} requests at a time");
    println!("{}", ours.line(&format!("sink, {GROUPS} groups"), rows));
    println!("{}", theirs.line("plain loop", rows));
    println!("Cassandra: sink / plain client = {:.2}", theirs.seconds / ours.seconds);
}

/// A row at a time, each an INSERT; returns what it took.
async fn plain(place: &Place, table: &str, groups: &[Group], clock: &SystemClock) -> Effort {
    let client = place.client().await;
    let made = format!(
        "CREATE TABLE {table} (stream text, node text, bucket timestamp, ts timestamp, epoch bigint, seq bigint, row bigint, \
         us bigint, n bigint, message text, score double, good boolean, price decimal, \
         PRIMARY KEY ((stream, node, bucket), ts, epoch, seq, row))"
    );
    client.query_unpaged(made, ()).await.unwrap();
    let put = format!(
        "INSERT INTO {table} (stream, node, bucket, ts, epoch, seq, row, us, n, message, score, good, price) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );
    let prepared = client.prepare(put).await.unwrap();
    let meter = Meter::start(clock);
    for slice in groups.iter().flat_map(|group| &group.slices) {
        futures::stream::iter(0..slice.rows.num_rows())
            .map(|row| insert(&client, &prepared, slice, row))
            .buffer_unordered(CONCURRENCY)
            .collect::<Vec<()>>()
            .await;
    }
    meter.stop()
}

async fn insert(
    client: &scylla::client::session::Session,
    prepared: &scylla::statement::prepared::PreparedStatement,
    slice: &Slice,
    row: usize,
) {
    let column = |name: &str| slice.rows.column_by_name(name).unwrap();
    let id = |name: &str| column(name).as_primitive::<UInt64Type>().value(row) as i64;
    let ts = column("ts").as_primitive::<TimestampMicrosecondType>().value(row);
    let bucket = (ts / 1000).div_euclid(3_600_000) * 3_600_000;
    let text = column("message").as_string::<i32>();
    let score = column("score").as_primitive::<Float64Type>();
    let good = column("good").as_boolean();
    let price = column("price").as_primitive::<Decimal128Type>().value(row);
    let values = (
        slice.key.stream.as_str(),
        slice.key.node.as_str(),
        CqlTimestamp(bucket),
        CqlTimestamp(ts / 1000),
        id("_epoch"),
        id("_seq"),
        id("_row"),
        ts,
        column("n").as_primitive::<Int64Type>().value(row),
        if text.is_valid(row) { MaybeUnset::Set(text.value(row)) } else { MaybeUnset::Unset },
        if score.is_valid(row) { MaybeUnset::Set(score.value(row)) } else { MaybeUnset::Unset },
        if good.is_valid(row) { MaybeUnset::Set(good.value(row)) } else { MaybeUnset::Unset },
        CqlDecimal::from_signed_be_bytes_and_exponent(price.to_be_bytes().to_vec(), 2),
    );
    client.execute_unpaged(prepared, values).await.unwrap();
}
