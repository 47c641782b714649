//! The suite that every sink passes, against a real Redis; and what else takes killing the server.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its tasks and waits end with it"
)]

#[path = "support/place.rs"]
mod place;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aap_sinks::conformance::{self, Server, Stored, key, slice};
use aap_sinks::{FailureKind, Group, Sink};
use aap_types::StreamKey;
use futures::future::BoxFuture;
use place::{Needs, Place};
use serde_json::json;

struct Real(Place);

impl Server for Real {
    fn sink(&self) -> Box<dyn Sink> {
        Box::new(self.0.sink(json!({})))
    }

    fn stored(&self) -> BoxFuture<'_, Vec<Stored>> {
        Box::pin(async { stored(&self.0) })
    }

    fn restart(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.restart())
    }
}

fn stored(place: &Place) -> Vec<Stored> {
    let number = |entry: &HashMap<String, String>, name: &str| entry[name].parse::<u64>().unwrap();
    let stored = place.entries().into_iter().map(|entry| Stored {
        node: entry["_node"].clone(),
        epoch: number(&entry, "_epoch"),
        seq: number(&entry, "_seq"),
        row: number(&entry, "_row"),
        n: number(&entry, "n") as i64,
    });
    stored.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sink_passes_the_suite() {
    let Some(place) = Place::new("conformance", Needs::Alone).await else { return };
    conformance::run(&Real(place)).await;
}

/// Batches of 7 rows that are written while the server is killed, and how many go in a group.
const BATCHES: u64 = 4_000;
const GROUP: u64 = 40;
/// At most, where no kill is noticed.
const BATCHES_MAX: u64 = 20 * BATCHES;

/// Where the server stands, as soon as it answers.
async fn resumed(sink: &mut dyn Sink, events: &StreamKey) -> u64 {
    loop {
        match sink.resume_point().await {
            Ok(found) => return found.get(events).map_or(0, |through| through.0),
            Err(failure) => assert_eq!(failure.kind, FailureKind::Retry, "{failure:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_again_and_again_has_each_row_once_in_the_end() {
    let Some(place) = Place::new("killed", Needs::Alone).await else { return };
    let events = key("edge-1", "events");
    let (place, is_over) = (Arc::new(place), Arc::new(AtomicBool::new(false)));
    let killer = {
        let (place, is_over) = (place.clone(), is_over.clone());
        tokio::spawn(async move {
            let mut kills = 0;
            while !is_over.load(Ordering::Relaxed) {
                let before = place.cli(&["XLEN", &place.key]);
                // Only while something is being written, so that it may be in the middle of it.
                if before != place.cli(&["XLEN", &place.key]) {
                    place.restart().await;
                    kills += 1;
                }
            }
            kills
        })
    };
    let mut sink = place.sink(json!({}));
    let mut failures = 0;
    let mut stands;
    loop {
        stands = resumed(&mut sink, &events).await;
        // Until a kill was noticed, too: one that comes between two groups, or that the driver gets over by itself, interrupts nothing.
        let is_written = |stands| stands >= BATCHES && (failures > 0 || stands >= BATCHES_MAX);
        if is_written(stands) {
            break;
        }
        let failed = loop {
            let group = Group { slices: vec![slice(&events, stands, stands + GROUP)] };
            if let Err(failure) = sink.write(&group).await {
                break Some(failure);
            }
            stands += GROUP;
            if is_written(stands) {
                break None;
            }
        };
        let Some(failure) = failed else { break };
        assert_eq!(failure.kind, FailureKind::Retry, "{failure:?}");
        failures += 1;
    }
    is_over.store(true, Ordering::Relaxed);
    let kills = killer.await.unwrap();
    assert!(kills > 0 && failures > 0, "nothing was interrupted: {kills} kills, {failures} failures");
    // What the last kill took, it took with the position: the server acknowledges what it writes to its file a moment later.
    let wanted = stands;
    stands = resumed(&mut sink, &events).await;
    while stands < wanted {
        let group = Group { slices: vec![slice(&events, stands, stands + GROUP)] };
        sink.write(&group).await.unwrap();
        stands += GROUP;
    }
    let mut ids: Vec<(u64, u64)> = stored(&place).iter().map(|row| (row.seq, row.row)).collect();
    assert_eq!(ids.len() as u64, wanted * 7, "rows, after {kills} kills");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len() as u64, wanted * 7, "distinct rows, after {kills} kills");
}
