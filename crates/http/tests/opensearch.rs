//! The sink against a real OpenSearch: the suite that every sink passes, what documents look like, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and its tasks and waits end with it")]

#[path = "support/place.rs"]
mod place;

use std::sync::Arc;

use aap_sinks::conformance::{self, Server, Stored, key, slice};
use aap_sinks::{Failure, FailureKind, Group, Sink, Slice};
use aap_types::Sequence;
use arrow_array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use futures::future::BoxFuture;
use place::{Needs, Place};
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
    let stored = place.documents("events").into_iter().map(|(_, document)| Stored {
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

fn group(after: u64, through: u64) -> Group {
    Group { slices: vec![slice(&key("edge-1", "events"), after, through)] }
}

/// One batch of these columns, with the system columns behind them.
fn batch(after: u64, columns: Vec<(&str, ArrayRef)>) -> Group {
    let rows = columns[0].1.len();
    let ids: [(&str, ArrayRef); 4] = [
        ("_node", Arc::new(StringArray::from(vec!["edge-1"; rows]))),
        ("_epoch", Arc::new(UInt64Array::from(vec![key("edge-1", "events").epoch.0; rows]))),
        ("_seq", Arc::new(UInt64Array::from(vec![after + 1; rows]))),
        ("_row", Arc::new(UInt64Array::from_iter_values(0..rows as u64))),
    ];
    let columns = columns.into_iter().chain(ids).map(|(name, array)| (name, array, true));
    let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let (after, through) = (Sequence(after), Sequence(after + 1));
    Group { slices: vec![Slice { key: key("edge-1", "events"), after, through, rows }] }
}

#[track_caller]
fn assert_refused(failure: &Failure, code: &str, told: &str) {
    assert_eq!((&failure.kind, failure.problem.code.as_str()), (&FailureKind::Refused, code), "{failure:?}");
    let all = format!("{}; {}", failure.problem.message, failure.problem.causes.join("; "));
    assert!(all.contains(told), "{all}");
}

#[tokio::test]
async fn a_document_has_the_id_and_the_values_of_its_row_and_columns_have_types() {
    let Some(place) = Place::new("types", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({"compression": "gzip"}));
    sink.resume_point().await.unwrap();
    sink.write(&group(0, 1)).await.unwrap();
    let documents = place.documents("events");
    assert_eq!(documents.len(), 7);
    let (id, document) = &documents[1];
    assert_eq!(*id, format!("edge-1/{}/events/1/1", key("edge-1", "events").epoch));
    assert_eq!(document["message"], "row 8 \"quoted\", tab\t, é, \\ and '");
    assert_eq!(document["ts"], "2025-10-09T08:53:20.123464Z");
    assert_eq!((document["score"].as_f64(), document["price"].as_f64()), (Some(1.0), Some(8.08)));
    assert!(document.get("good").is_none(), "{document}");

    let index = format!("{}-events", place.prefix);
    let (_, mapping) = place.ask("GET", &format!("{index}/_mapping"), None);
    let properties = &mapping[&index]["mappings"]["properties"];
    let kinds: Vec<&str> = ["ts", "n", "message", "score", "good", "price", "_node", "_seq"]
        .iter()
        .map(|name| properties[name]["type"].as_str().unwrap_or_else(|| panic!("{name}: {properties}")))
        .collect();
    assert_eq!(kinds, ["date", "long", "text", "double", "boolean", "double", "keyword", "long"]);
    assert_eq!(properties["message"]["fields"]["keyword"]["type"], "keyword");
}

#[tokio::test]
async fn writing_again_changes_nothing() {
    let Some(place) = Place::new("again", Needs::Shared).await else { return };
    let mut first = place.sink(json!({}));
    first.resume_point().await.unwrap();
    first.write(&group(0, 40)).await.unwrap();
    let before = place.documents("events");
    assert_eq!(before.len(), 280);
    // As after a crash between the rows and the position.
    place.ask("DELETE", &format!("{}-ledger", place.prefix), None);
    let mut second = place.sink(json!({}));
    assert!(second.resume_point().await.unwrap().is_empty());
    second.write(&group(0, 40)).await.unwrap();
    assert_eq!(place.documents("events"), before);
    // Whose ledger is gone is told so, and goes on from there.
    assert_eq!(first.write(&group(40, 41)).await.unwrap_err().kind, FailureKind::Moved);
}

#[tokio::test]
async fn values_that_the_server_cannot_index_stay_in_their_documents() {
    let Some(place) = Place::new("values", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    let long = "x".repeat(100_000);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("f", Arc::new(Float64Array::from(vec![f64::NAN, f64::NEG_INFINITY, 0.5]))),
        ("u", Arc::new(UInt64Array::from(vec![u64::MAX, 0, 1]))),
        ("t", Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX, i64::MIN, 1]).with_timezone("UTC"))),
        ("long", Arc::new(StringArray::from(vec![long.as_str(), "2026-11-26", ""]))),
        ("_id", Arc::new(Int64Array::from(vec![7, 8, 9]))),
        ("a.b", Arc::new(Int64Array::from(vec![1, 2, 3]))),
    ];
    sink.write(&batch(0, columns)).await.unwrap();
    let documents = place.documents("events");
    assert_eq!(documents.len(), 3);
    let first = &documents[0].1;
    assert_eq!((&first["f"], first["u"].as_u64()), (&json!("NaN"), Some(u64::MAX)));
    assert_eq!((&first["long"], &first["_id_1"]), (&json!(long), &json!(7)));
    assert_eq!(documents[2].1["f"], json!(0.5));
}

#[tokio::test]
async fn only_the_rows_that_the_server_does_not_take_are_named() {
    let Some(place) = Place::new("bad", Needs::Shared).await else { return };
    let index = format!("{}-events", place.prefix);
    let (status, _) =
        place.ask("PUT", &index, Some(json!({"mappings": {"properties": {"v": {"type": "ip"}}}})));
    assert_eq!(status, 200);
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    let column: ArrayRef = Arc::new(StringArray::from(vec!["10.0.0.1", "no address", "10.0.0.2", "neither"]));
    let failure = sink.write(&batch(0, vec![("v", column.clone())])).await.unwrap_err();
    let FailureKind::Rows(bad) = &failure.kind else { panic!("{failure:?}") };
    assert_eq!(bad.iter().map(|bad| (bad.slice, bad.row)).collect::<Vec<_>>(), [(0, 1), (0, 3)]);
    assert!(
        bad[0].reason.contains("failed to parse field [v]") && bad[0].reason.contains("no address"),
        "{bad:?}"
    );
    // The position has not moved, and the rest goes through under the same instance.
    let mut rest = batch(0, vec![("v", column)]);
    rest.slices[0].rows = rest.slices[0].rows.slice(2, 1);
    sink.write(&rest).await.unwrap();
    assert_eq!(place.documents("events").len(), 2);
    assert_eq!(sink.resume_point().await.unwrap().values().next().copied(), Some(Sequence(1)));
}

#[tokio::test]
async fn each_row_goes_to_the_index_of_its_day() {
    let Some(place) = Place::new("days", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({"index": format!("{}-{{stream}}-{{date}}", place.prefix)}));
    sink.resume_point().await.unwrap();
    let day = 86_400_000_000_i64;
    let times = TimestampMicrosecondArray::from(vec![
        Some(20_783 * day),
        Some(20_784 * day - 1),
        Some(20_784 * day),
        None,
    ]);
    let group = batch(0, vec![("ts", Arc::new(times.with_timezone("UTC")) as ArrayRef)]);
    sink.write(&group).await.unwrap();
    for (date, count) in [("2026.11.26", 2), ("2026.11.27", 1), ("1970.01.01", 1)] {
        assert_eq!(place.documents(&format!("events-{date}")).len(), count, "{date}");
    }
}

#[tokio::test]
async fn what_is_missing_and_may_not_be_made_is_refused() {
    let Some(place) = Place::new("missing", Needs::Shared).await else { return };
    let only = json!({"create": false});
    assert_refused(
        &place.sink(only.clone()).resume_point().await.unwrap_err(),
        "sink.index_missing",
        "ledger",
    );
    place.sink(json!({})).resume_point().await.unwrap();
    let mut sink = place.sink(only);
    sink.resume_point().await.unwrap();
    assert_refused(&sink.write(&group(0, 1)).await.unwrap_err(), "sink.index_missing", "events");
    let lines = sink.probe().await.unwrap().join("\n");
    assert!(lines.contains("opensearch") && lines.contains("is missing, and `create`"), "{lines}");
    place.ask("PUT", &format!("{}-events", place.prefix), None);
    sink.resume_point().await.unwrap();
    sink.write(&group(0, 1)).await.unwrap();
    assert_eq!(place.count("events"), 7);
}

#[tokio::test]
async fn an_index_that_is_blocked_is_refused_and_goes_on_when_it_is_open() {
    let Some(place) = Place::new("blocked", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    sink.write(&group(0, 1)).await.unwrap();
    let settings = format!("{}-events/_settings", place.prefix);
    place.ask("PUT", &settings, Some(json!({"index.blocks.write": true})));
    assert_refused(&sink.write(&group(1, 2)).await.unwrap_err(), "sink.denied", "cluster_block_exception");
    place.ask("PUT", &settings, Some(json!({"index.blocks.write": false})));
    assert_eq!(sink.resume_point().await.unwrap().values().next().copied(), Some(Sequence(1)));
    sink.write(&group(1, 2)).await.unwrap();
    assert_eq!(place.documents("events").len(), 14);
}

#[tokio::test]
async fn one_node_that_is_away_does_not_matter() {
    let Some(place) = Place::new("nodes", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({"urls": ["http://127.0.0.1:1", place.url]}));
    sink.resume_point().await.unwrap();
    sink.write(&group(0, 1)).await.unwrap();
    assert_eq!(place.documents("events").len(), 7);
    let away = place.sink(json!({"urls": ["http://127.0.0.1:1"]})).resume_point().await.unwrap_err();
    assert_eq!((away.kind, away.problem.code.as_str()), (FailureKind::Retry, "sink.unreachable"));
}
