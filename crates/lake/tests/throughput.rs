//! How fast rows arrive in an object store, beside `curl` that puts the same objects, ready made. Run by hand:
//! `cargo test --release -p aap-lake --test throughput -- --ignored --nocapture`. Against MinIO where `AAP_TEST_S3` is set, else
//! against a server in this process.

#[path = "support/objects.rs"]
mod objects;
#[path = "support/place.rs"]
mod place;
#[path = "support/s3.rs"]
mod s3;

use std::time::Duration;

use aap_runtime::{Clock, SystemClock};
use aap_sinks::conformance::{key, slice};
use aap_sinks::{Group, Sink};
use place::Place;
use serde_json::json;

/// Batches of 7 rows in a group: an object of 700 000 rows.
const BATCHES: u64 = 100_000;
const GROUPS: u64 = 4;
const ROUNDS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn rows_arrive_beside_curl_that_puts_the_same_objects() {
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
    let (mut ours, mut theirs, mut size) = (vec![], vec![], 0);
    for round in 0..ROUNDS {
        // A sink of its own in each round: its chain begins anew.
        let mut sink = place.sink_named(&format!("{round:032}"), json!({}));
        sink.resume_point().await.unwrap();
        let start = clock.monotonic();
        for group in &groups {
            sink.write(group).await.unwrap();
        }
        ours.push(clock.monotonic() - start);
        let name = format!("events/{}-", &format!("{round:032}")[..8]);
        let made = place.objects.parquet().into_iter().filter(|(found, _)| found.starts_with(&name));
        let files: Vec<_> = made
            .enumerate()
            .map(|(number, (_, bytes))| {
                let path = place.file(&format!("object-{number}"));
                std::fs::write(&path, &bytes).unwrap();
                (path, format!("peer/{round}-{number}.parquet"), bytes.len())
            })
            .collect();
        assert_eq!(files.len(), GROUPS as usize);
        size = files.iter().map(|(_, _, bytes)| bytes).sum();
        let start = clock.monotonic();
        place.put_by_curl(files.iter().map(|(path, name, _)| (path.as_path(), name.as_str())));
        theirs.push(clock.monotonic() - start);
    }
    let best = |times: &[Duration]| times.iter().min().unwrap().as_secs_f64();
    println!(
        "{rows} rows of 10 columns in {GROUPS} objects: {:.0} MB in memory, {:.0} MB of Parquet",
        memory as f64 / 1e6,
        size as f64 / 1e6
    );
    println!("sink, made and put: {ours:.2?}, {:.0} rows/s", rows / best(&ours));
    println!("curl, ready made: {theirs:.2?}, {:.0} rows/s", rows / best(&theirs));
    println!("ratio of the best: {:.2}", best(&theirs) / best(&ours));
}
