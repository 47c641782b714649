//! Delivery to real servers: whatever is killed meanwhile, each row stands in the server once.

pub(crate) mod cassandra;
mod http;
pub(crate) mod kafka;
mod mongodb;
mod opensearch;
pub(crate) mod postgres;
mod redis;
pub(crate) mod s3;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use aap_tests::{Platform, Random, amount, wait_until};
use serde_json::Value;

/// Rows of one `aap ingest` run.
const RUN_ROWS: u64 = 5_000;

/// A server of Java that was killed is back within half a minute; the rest is written after that, beside other tests.
const PATIENCE: Duration = Duration::from_secs(240);

/// Waits for a condition, or the test fails.
#[track_caller]
pub(crate) fn settles(what: &str, condition: impl FnMut() -> bool) {
    assert!(wait_until(PATIENCE, condition), "not within {} s: {what}", PATIENCE.as_secs());
}

/// A place in a real server that a sink writes to, seen by a client that is not ours.
pub(crate) trait Place: Send + Sync {
    /// The document of the sink.
    fn document(&self) -> String;
    /// What stands there: rows, distinct ids, and the sum of the ids.
    fn stored(&self) -> (u64, u64, u64);
    /// Kills the server and starts it again.
    fn kill_and_restart(&self);
}

/// `aap sink show NAME -o json`.
pub(crate) fn sink(platform: &Platform, name: &str) -> Value {
    platform.aap(&["sink", "show", name, "-o", "json"]).ok().json()["item"].clone()
}

/// Applies a document.
#[track_caller]
pub(crate) fn apply(platform: &Platform, document: &str) {
    let path = platform.beside("sink.yaml");
    std::fs::write(&path, document).unwrap();
    platform.aap(&["apply", "-f", path.to_str().unwrap()]).ok();
}

/// Ids `from..to` as rows of the stream `events`.
pub(crate) fn ingest(platform: &Platform, from: u64, to: u64) {
    let path = platform.beside(&format!("events-{from}.ndjson"));
    let lines: Vec<String> = (from..to)
        .map(|id| {
            format!(
                "{{\"ts\":\"2026-11-26T10:{:02}:{:02}.{:03}Z\",\"id\":{id},\"name\":\"event {}\",\"price\":{}}}\n",
                id / 60_000 % 60,
                id / 1_000 % 60,
                id % 1_000,
                id % 97,
                id as f64 / 8.0,
            )
        })
        .collect();
    std::fs::write(&path, lines.concat()).unwrap();
    // Killed agents are waited for; a run that gave up is repeated, and takes nothing twice.
    settles("a run of `aap ingest` is complete", || {
        platform.aap(&["ingest", "events", path.to_str().unwrap()]).code == 0
    });
    std::fs::remove_file(&path).unwrap();
}

/// Waits until everything is written, and counts it in the server.
#[track_caller]
pub(crate) fn assert_each_once(platform: &Platform, place: &dyn Place, name: &str, rows: u64) {
    // Waits for what its agent has not sent yet.
    assert_eq!(platform.count("select count(*) from events"), rows, "in the lake");
    settles("the sink has nothing left to write", || {
        let shown = sink(platform, name);
        shown["state"] == "running" && shown["waiting_batches"] == 0
    });
    // Fewer are there only while another test has the server killed; more stay.
    let (wanted, mut found) = ((rows, rows, rows * (rows - 1) / 2), (0, 0, 0));
    wait_until(PATIENCE, || {
        found = place.stored();
        found.0 >= rows
    });
    assert_eq!(found, wanted, "rows, distinct ids, sum of ids in the server");
    assert_eq!(sink(platform, name)["dead_letters"], 0);
}

/// Kills agent, coordinator and server in turn while rows go through all three. Returns the platform, and how many rows it has.
pub(crate) fn each_once_through_kills(
    place: &dyn Place,
    platform: Platform,
    name: &str,
) -> (Arc<Platform>, u64) {
    let (rounds, rows) =
        (amount("AAP_TEST_SINK_KILLS", 3, 10), amount("AAP_TEST_SINK_ROWS", 60_000, 1_000_000));
    platform.up(&[]).ok();
    apply(&platform, &place.document());
    let platform = Arc::new(platform);
    let produced = Arc::new(AtomicU64::new(0));
    let producer = {
        let (platform, produced) = (platform.clone(), produced.clone());
        thread::spawn(move || {
            for from in (0..rows).step_by(RUN_ROWS as usize) {
                ingest(&platform, from, (from + RUN_ROWS).min(rows));
                produced.store((from + RUN_ROWS).min(rows), Ordering::Relaxed);
            }
        })
    };
    let mut random = Random::of_test("sink kills");
    for round in 0..rounds {
        // Kills are spread over the load, and each comes at a moment of its own.
        settles("the load goes on", || produced.load(Ordering::Relaxed) * rounds >= round * rows);
        for victim in ["coordinator", "server", "agent"] {
            thread::sleep(random.millis(20, 400));
            match victim {
                "server" => place.kill_and_restart(),
                daemon => drop(platform.kill_and_wait(daemon)),
            }
        }
    }
    producer.join().unwrap();
    assert_each_once(&platform, place, name, rows);
    (platform, rows)
}
