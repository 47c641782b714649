//! The suite that every sink passes, against a real PostgreSQL; and what else takes killing the server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/place.rs"]
mod place;

use std::collections::BTreeMap;
use std::time::Duration;

use aap_sinks::conformance::{self, Server, Stored, key};
use aap_sinks::{FailureKind, Group, Sink};
use futures::future::BoxFuture;
use place::{Needs, Place};
use serde_json::json;

struct Real {
    place: Place,
    more: serde_json::Value,
}

impl Server for Real {
    fn sink(&self) -> Box<dyn Sink> {
        Box::new(self.place.sink(self.more.clone()))
    }

    fn stored(&self) -> BoxFuture<'_, Vec<Stored>> {
        Box::pin(async {
            if self.place.lines("SELECT 1 WHERE to_regclass('events') IS NOT NULL").await.is_empty() {
                return vec![];
            }
            let rows = self.place.sql("SELECT _node, _epoch, _seq, _row, n FROM events").await;
            let number = |text: &Option<String>| text.as_ref().unwrap().parse::<u64>().unwrap();
            let stored = rows.iter().map(|row| Stored {
                node: row[0].clone().unwrap(),
                epoch: number(&row[1]),
                seq: number(&row[2]),
                row: number(&row[3]),
                n: number(&row[4]) as i64,
            });
            stored.collect()
        })
    }

    fn restart(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.place.restart())
    }
}

async fn conforms(test: &str, more: serde_json::Value) {
    let Some(place) = Place::new(test, Needs::Alone).await else { return };
    conformance::run(&Real { place, more }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_appends_passes_the_suite() {
    conforms("conformance", json!({"create": true})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_splits_its_table_by_day_passes_the_suite() {
    conforms("conformance_day", json!({"create": true, "partition": "day"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_upserts_by_row_id_passes_the_suite() {
    let key = json!({"create": true, "mode": "upsert", "key": ["_node", "_epoch", "_seq", "_row"]});
    conforms("conformance_upsert", key).await;
}

/// Batches of the group that is under way when the server dies: many messages of COPY.
const LARGE: u64 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_during_a_copy_has_each_row_once_in_the_end() {
    let Some(place) = Place::new("killed", Needs::Alone).await else { return };
    let events = key("edge-1", "events");
    let mut sink = place.sink(json!({"create": true}));
    assert_eq!(sink.resume_point().await.unwrap(), BTreeMap::new());
    sink.write(&Group { slices: vec![conformance::slice(&events, 0, 5)] }).await.unwrap();
    let large = Group { slices: vec![conformance::slice(&events, 5, LARGE)] };
    // The copy halts in the middle, so that it is there that the server dies.
    place
        .sql(
            "CREATE FUNCTION halt() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_sleep(30); RETURN NEW; END'; \
             CREATE TRIGGER halt BEFORE INSERT ON events FOR EACH ROW WHEN (NEW._seq = 1000) EXECUTE FUNCTION halt()",
        )
        .await;

    let watcher = place.client().await;
    let (written, ()) = tokio::join!(sink.write(&large), async {
        let halted = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE 'COPY%'";
        let seen = tokio::time::timeout(Duration::from_secs(30), async {
            while watcher.query(halted, &[]).await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        });
        seen.await.expect("the copy is seen");
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
    assert_eq!(positions[&events].0, 5, "the transaction was not committed");
    place.sql("DROP TRIGGER halt ON events").await;
    sink.write(&large).await.unwrap();
    let rows = place.lines("SELECT count(*), count(DISTINCT (_seq, _row)), max(_seq) FROM events").await;
    assert_eq!(rows, [format!("{0}|{0}|{LARGE}", LARGE * 7)]);
}
