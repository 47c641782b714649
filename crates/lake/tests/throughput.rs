//! How fast rows arrive in an object store, beside a client that makes Parquet of the same rows and puts it, and one that puts what was
//! made before. Run by hand:
//! `cargo test --release -p aap-lake --test throughput -- --ignored --nocapture`. Against MinIO where `AAP_TEST_S3` is set, else
//! against a server in this process.

#![expect(clippy::unwrap_used, reason = "a measurement fails by panicking")]

#[path = "support/objects.rs"]
mod objects;
#[path = "support/place.rs"]
mod place;
#[path = "support/s3.rs"]
mod s3;

use aap_runtime::SystemClock;
use aap_sinks::conformance::{Effort, Meter, key, slice};
use aap_sinks::{Group, Sink};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use place::Place;
use serde_json::json;

/// Batches of 7 rows in a group: an object of 700 000 rows.
const BATCHES: u64 = 100_000;
const GROUPS: u64 = 4;
const ROUNDS: usize = 3;
/// The level at which the sink compresses.
const ZSTD: i32 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn rows_arrive_beside_a_client_that_puts_the_same_objects() {
    let place = match std::env::var("AAP_TEST_S3").is_ok() {
        true => Place::minio("throughput").unwrap(),
        false => Place::new().await,
    };
    let clock = SystemClock::default();
    let events = key("edge-1", "events");
    let groups: Vec<Group> = (0..GROUPS)
        .map(|number| Group { slices: vec![slice(&events, number * BATCHES, (number + 1) * BATCHES)] })
        .collect();
    let rows = (GROUPS * BATCHES * 7) as f64;
    let memory: usize = groups.iter().map(Group::bytes).sum();
    let (mut ours, mut theirs, mut ready, mut size) = (vec![], vec![], vec![], 0);
    for round in 0..ROUNDS {
        // A sink of its own in each round: its chain begins anew.
        let uid = format!("{round}{:031}", 0);
        let mut sink = place.sink_named(&uid, json!({}));
        sink.resume_point().await.unwrap();
        let meter = Meter::start(&clock);
        for group in &groups {
            sink.write(group).await.unwrap();
        }
        ours.push(meter.stop());
        let name = format!("events/{}-", &uid[..8]);
        let made = place.objects.parquet().into_iter().filter(|(found, _)| found.starts_with(&name));
        let objects: Vec<_> = made
            .enumerate()
            .map(|(number, (_, bytes))| (format!("peer/{round}-{number}.parquet"), bytes))
            .collect();
        assert_eq!(objects.len(), GROUPS as usize);
        size = objects.iter().map(|(_, bytes)| bytes.len()).sum();
        let meter = Meter::start(&clock);
        place.put_by_curl(objects.into_iter());
        ready.push(meter.stop());
        let meter = Meter::start(&clock);
        let encoded = groups.iter().enumerate();
        let objects =
            encoded.map(|(number, group)| (format!("plain/{round}-{number}.parquet"), parquet(group)));
        place.put_by_curl(objects);
        theirs.push(meter.stop());
    }
    let (ours, theirs, ready) = (Effort::best(&ours), Effort::best(&theirs), Effort::best(&ready));
    println!(
        "{rows} rows of 10 columns in {GROUPS} objects: {:.0} MB in memory, {:.0} MB of Parquet",
        memory as f64 / 1e6,
        size as f64 / 1e6
    );
    println!("{}", ours.line("sink, made and put", rows));
    println!("{}", theirs.line("curl, with Parquet made of them", rows));
    println!("{}", ready.line("curl, with objects made before", rows));
    println!(
        "object store: sink / plain client = {:.2}, of objects made before {:.2}",
        theirs.seconds / ours.seconds,
        ready.seconds / ours.seconds
    );
}

/// As the crate's own writer makes it, of one group, compressed as the sink does.
fn parquet(group: &Group) -> Bytes {
    let rows = &group.slices[0].rows;
    let compression = Compression::ZSTD(ZstdLevel::try_new(ZSTD).unwrap());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = ArrowWriter::try_new(vec![], rows.schema(), Some(properties)).unwrap();
    writer.write(rows).unwrap();
    writer.into_inner().unwrap().into()
}
