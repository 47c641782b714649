//! The suite that every sink passes, against a real Cassandra; and what else takes killing the server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/place.rs"]
mod place;

use std::collections::BTreeSet;
use std::time::Duration;

use aap_sinks::conformance::{self, Server, Stored, key};
use aap_sinks::{FailureKind, Group, Sink};
use futures::future::BoxFuture;
use place::{Needs, Place};
use scylla::value::CqlValue;
use serde_json::json;

struct Real(Place);

impl Server for Real {
    fn sink(&self) -> Box<dyn Sink> {
        Box::new(self.0.sink(json!({"create": true})))
    }

    fn stored(&self) -> BoxFuture<'_, Vec<Stored>> {
        Box::pin(stored(&self.0))
    }

    fn restart(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.restart())
    }
}

async fn stored(place: &Place) -> Vec<Stored> {
    let keyspace = &place.keyspace;
    let tables = format!(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{keyspace}' AND table_name = 'events'"
    );
    if place.cql(&tables).await.is_empty() {
        return vec![];
    }
    let get = format!("SELECT \"_node\", \"_epoch\", \"_seq\", \"_row\", n FROM {keyspace}.events");
    let number = |value: &Option<CqlValue>| value.as_ref().unwrap().as_bigint().unwrap();
    let rows = place.cql(&get).await;
    let stored = rows.iter().map(|row| Stored {
        node: row[0].as_ref().unwrap().as_text().unwrap().clone(),
        epoch: number(&row[1]) as u64,
        seq: number(&row[2]) as u64,
        row: number(&row[3]) as u64,
        n: number(&row[4]),
    });
    stored.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sink_passes_the_suite() {
    let Some(place) = Place::new("conformance", Needs::Alone).await else { return };
    conformance::run(&Real(place)).await;
}

/// Batches of 7 rows of the group that is under way when the server dies.
const LARGE: u64 = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_during_a_write_has_each_row_once_in_the_end() {
    let Some(place) = Place::new("killed", Needs::Alone).await else { return };
    let events = key("edge-1", "events");
    // One after the other, so that it takes a while.
    let mut sink = place.sink(json!({"create": true, "concurrency": 1}));
    sink.resume_point().await.unwrap();
    sink.write(&Group { slices: vec![conformance::slice(&events, 0, 5)] }).await.unwrap();
    let large = Group { slices: vec![conformance::slice(&events, 5, LARGE)] };

    let watcher = place.client().await;
    let begun =
        format!("SELECT \"_seq\" FROM {}.events WHERE \"_seq\" > 5 LIMIT 1 ALLOW FILTERING", place.keyspace);
    let (written, ()) = tokio::join!(sink.write(&large), async {
        let seen = tokio::time::timeout(Duration::from_secs(30), async {
            while place::rows(&watcher, &begun).await.is_empty() {
                tokio::task::yield_now().await;
            }
        });
        seen.await.expect("the write is seen");
        tokio::task::spawn_blocking(place::kill).await.unwrap();
    });
    let away = sink.resume_point().await;
    place.start().await;

    let failure = written.expect_err("the server died");
    assert_eq!(failure.kind, FailureKind::Retry, "{failure:?}");
    assert_eq!(failure.problem.code, "sink.unreachable");
    let away = away.expect_err("nobody is there");
    assert_eq!((away.kind, away.problem.code.as_str()), (FailureKind::Retry, "sink.unreachable"));
    let positions = sink.resume_point().await.unwrap();
    assert_eq!(positions[&events].0, 5, "the rows were not all acknowledged");
    sink.write(&large).await.unwrap();
    let rows = stored(&place).await;
    let distinct: BTreeSet<_> = rows.iter().map(|row| (row.seq, row.row)).collect();
    assert_eq!((rows.len() as u64, distinct.len() as u64), (LARGE * 7, LARGE * 7));
    assert_eq!(sink.resume_point().await.unwrap()[&events].0, LARGE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_given_up_in_time() {
    let Some(place) = Place::new("hangs", Needs::Alone).await else { return };
    let events = key("edge-1", "events");
    let mut sink = place.ready().await;
    sink.write(&Group { slices: vec![conformance::slice(&events, 0, 5)] }).await.unwrap();
    tokio::task::spawn_blocking(|| place::signal("STOP")).await.unwrap();
    let group = Group { slices: vec![conformance::slice(&events, 5, 9)] };
    let written = tokio::time::timeout(Duration::from_secs(60), sink.write(&group)).await;
    let asked = tokio::time::timeout(Duration::from_secs(60), sink.resume_point()).await;
    tokio::task::spawn_blocking(|| place::signal("CONT")).await.unwrap();
    for failure in [written.unwrap().unwrap_err(), asked.unwrap().unwrap_err()] {
        assert_eq!(failure.kind, FailureKind::Retry, "{failure:?}");
        assert_eq!(failure.problem.code, "sink.unreachable");
    }
    assert_eq!(sink.resume_point().await.unwrap()[&events].0, 5);
    sink.write(&group).await.unwrap();
    assert_eq!(stored(&place).await.len(), 9 * 7);
}
