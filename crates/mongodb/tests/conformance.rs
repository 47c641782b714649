//! The suite that every sink passes, against a real server; and what else takes killing it.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its tasks and waits end with it"
)]

#[path = "support/place.rs"]
mod place;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aap_sinks::conformance::{self, Server, Stored, key, slice};
use aap_sinks::{FailureKind, Group, Sink};
use futures::future::BoxFuture;
use place::{COLLECTION, Needs, Place};
use serde_json::{Value, json};

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
    let number = |document: &Value, name: &str| document[name].as_u64().unwrap();
    let stored = place.documents(COLLECTION).into_iter().map(|document| Stored {
        node: document["_node"].as_str().unwrap().to_owned(),
        epoch: number(&document, "_epoch"),
        seq: number(&document, "_seq"),
        row: number(&document, "_row"),
        n: number(&document, "n") as i64,
    });
    stored.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sink_passes_the_suite() {
    let Some(place) = Place::new("conformance", Needs::Alone).await else { return };
    conformance::run(&Real(place)).await;
}

/// Batches of 7 rows that are written while the server is killed, and how many go in a group.
const BATCHES: u64 = 2_000;
const GROUP: u64 = 40;
/// At most, where no kill is noticed.
const BATCHES_MAX: u64 = 20 * BATCHES;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_again_and_again_has_each_row_once_in_the_end() {
    let Some(place) = Place::new("killed", Needs::Alone).await else { return };
    let events = key("edge-1", "events");
    let (place, is_over) = (Arc::new(place), Arc::new(AtomicBool::new(false)));
    let killer = {
        let (place, is_over) = (place.clone(), is_over.clone());
        tokio::spawn(async move {
            let mut kills = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                // Longer each time: what speaks the protocol here reads the whole collection to find rows that are there, and would
                // at last never come to the end of a group.
                tokio::time::sleep(Duration::from_millis(300) * (kills + 1)).await;
                place.restart().await;
                kills += 1;
            }
            kills
        })
    };
    let mut sink = place.sink(json!({}));
    let (mut failures, mut acknowledged) = (0, 0);
    let mut stands;
    loop {
        match sink.resume_point().await {
            Ok(found) => {
                stands = found.get(&events).map_or(0, |through| through.0);
                assert!(stands >= acknowledged, "the server lost what it had acknowledged");
            }
            Err(failure) => {
                assert_eq!(failure.kind, FailureKind::Retry, "{failure:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        }
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
            acknowledged = stands;
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
    let rows = stored(&place);
    let distinct: BTreeSet<(u64, u64)> = rows.iter().map(|row| (row.seq, row.row)).collect();
    let wanted = stands as usize * 7;
    assert_eq!((rows.len(), distinct.len()), (wanted, wanted), "rows and distinct rows, after {kills} kills");
}
