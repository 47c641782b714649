//! What the sink writes to a real server, and what it refuses.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its tasks and waits end with it"
)]

#[path = "support/place.rs"]
mod place;

use std::sync::Arc;

use aap_sinks::conformance::{key, slice};
use aap_sinks::{BadRow, Failure, FailureKind, Group, Sink, Slice};
use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use place::{COLLECTION, Needs, Place};
use serde_json::json;

fn group(after: u64, through: u64) -> Group {
    Group { slices: vec![slice(&key("edge-1", "events"), after, through)] }
}

/// The group with another column.
fn with(group: Group, name: &str, column: ArrayRef) -> Group {
    let slices = group.slices.into_iter().map(|slice| {
        let schema = slice.rows.schema();
        let names = schema.fields().iter().map(|field| field.name().clone());
        let columns = names.zip(slice.rows.columns().iter().cloned()).filter(|(former, _)| former != name);
        let rows = RecordBatch::try_from_iter(columns.chain([(name.to_owned(), column.clone())])).unwrap();
        Slice { rows, ..slice }
    });
    Group { slices: slices.collect() }
}

#[track_caller]
fn assert_refused(failure: &Failure, code: &str, cause: &str) {
    assert_eq!((&failure.kind, failure.problem.code.as_str()), (&FailureKind::Refused, code), "{failure:?}");
    let told = failure.problem.causes.join("; ");
    assert!(told.contains(cause), "{told}");
}

#[track_caller]
fn bad_rows(failure: &Failure) -> &[BadRow] {
    match &failure.kind {
        FailureKind::Rows(rows) => rows,
        other => panic!("{other:?}: {failure}"),
    }
}

#[tokio::test]
async fn a_document_has_the_values_of_its_row_and_no_field_for_what_is_absent() {
    let Some(place) = Place::new("fields", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    sink.write(&group(0, 1)).await.unwrap();
    let documents = place.documents(COLLECTION);
    assert_eq!(documents.len(), 7);
    let epoch = key("edge-1", "events").epoch.0;
    let expected = json!({
        "_id": format!("edge-1/{epoch}/events/1/1"),
        "ts": {"$date": "2025-10-09T08:53:20.123Z"},
        "_ts_us": 1_760_000_000_123_464_u64,
        "n": 8,
        "message": "row 8 \"quoted\", tab\t, é, \\ and '",
        "score": 1.0,
        "price": "8.08",
        "_node": "edge-1",
        "_epoch": epoch,
        "_seq": 1,
        "_row": 1,
    });
    assert!(documents.contains(&expected), "{documents:?}");
}

#[tokio::test]
async fn a_group_that_is_written_again_changes_nothing() {
    let Some(place) = Place::new("replay", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    sink.write(&group(0, 20)).await.unwrap();
    // As somebody sees it who has the documents, and marked them.
    let marked = place.command(json!({
        "update": COLLECTION, "updates": [{"q": {}, "u": {"$set": {"seen": true}}, "multi": true}],
    }));
    assert_eq!(marked["n"], 140);
    let before = place.documents(COLLECTION);
    // The same writer knows that it has written it; the ledger tells a later one. Without the ledger, all is written again.
    assert_eq!(sink.write(&group(0, 20)).await.unwrap_err().kind, FailureKind::Moved);
    place.command(json!({"drop": "aap_ledger"}));
    let mut later = place.sink(json!({}));
    assert!(later.resume_point().await.unwrap().is_empty());
    later.write(&group(0, 20)).await.unwrap();
    assert_eq!(place.documents(COLLECTION), before);
    // Half of it is there, half of it new.
    place.command(json!({"drop": "aap_ledger"}));
    assert!(later.resume_point().await.unwrap().is_empty());
    later.write(&group(0, 40)).await.unwrap();
    assert_eq!(place.documents(COLLECTION).len(), 280);
}

#[tokio::test]
async fn a_duplicate_of_another_index_is_a_row_that_is_not_taken() {
    let Some(place) = Place::new("unique", Needs::Shared).await else { return };
    place.command(json!({
        "createIndexes": COLLECTION, "indexes": [{"key": {"code": 1}, "name": "code_1", "unique": true}],
    }));
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    let codes: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "a", "d", "b", "e"]));
    let rows = with(group(0, 1), "code", codes);
    let failure = sink.write(&rows).await.unwrap_err();
    let bad: Vec<usize> = bad_rows(&failure).iter().map(|bad| bad.row).collect();
    assert_eq!(bad, [3, 5], "{failure:?}");
    assert!(bad_rows(&failure)[0].reason.contains("E11000"), "{failure:?}");
    // As often as it is tried: what is there is no mistake of those that are.
    let again = sink.write(&rows).await.unwrap_err();
    assert_eq!(bad_rows(&again), bad_rows(&failure));
    assert_eq!(place.documents(COLLECTION).len(), 5);
    let rest = Group {
        slices: rows
            .slices
            .into_iter()
            .map(|slice| Slice { rows: slice.rows.slice(0, 3), ..slice })
            .collect(),
    };
    sink.write(&rest).await.unwrap();
    assert_eq!(place.documents(COLLECTION).len(), 5);
    assert_eq!(sink.resume_point().await.unwrap()[&key("edge-1", "events")].0, 1);
}

#[tokio::test]
async fn a_value_that_the_server_does_not_take_is_a_row_that_is_not_taken() {
    let Some(place) = Place::new("value", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    // MongoDB takes it, and what speaks like it here does not.
    let scores = [1.0, f64::INFINITY, 2.0, 2.5, 3.0, 4.0, 5.0];
    let scores: ArrayRef = Arc::new(Float64Array::from(scores.to_vec()));
    let failure = sink.write(&with(group(0, 1), "score", scores)).await.unwrap_err();
    let bad: Vec<usize> = bad_rows(&failure).iter().map(|bad| bad.row).collect();
    assert_eq!(bad, [1], "{failure:?}");
    assert_eq!(place.documents(COLLECTION).len(), 6);
}

#[tokio::test]
async fn names_that_queries_cannot_take_are_written_otherwise() {
    let Some(place) = Place::new("names", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["x"; 7]));
    let rows = with(with(group(0, 1), "$set", texts.clone()), "service.name", texts);
    sink.write(&rows).await.unwrap();
    let documents = place.documents(COLLECTION);
    assert_eq!(documents.len(), 7);
    assert!(documents.iter().all(|row| row["_set"] == "x" && row["service_name"] == "x"), "{documents:?}");
}

#[tokio::test]
async fn a_position_that_somebody_else_moved_is_not_moved_back() {
    let Some(place) = Place::new("ledger", Needs::Shared).await else { return };
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    sink.write(&group(0, 2)).await.unwrap();
    let ledger = place.documents("aap_ledger");
    let position = ledger.iter().find(|document| document["through"] == 2).unwrap();
    assert_eq!(position["sink"], "documents");
    // Somebody else was there.
    place.command(json!({
        "update": "aap_ledger", "updates": [{"q": {"_id": position["_id"]}, "u": {"$set": {"through": 3}}}],
    }));
    let moved = sink.write(&group(2, 4)).await.unwrap_err();
    assert_eq!(moved.kind, FailureKind::Moved, "{moved:?}");
    assert_eq!(sink.resume_point().await.unwrap()[&key("edge-1", "events")].0, 3);
    sink.write(&group(3, 4)).await.unwrap();
    assert_eq!(place.documents(COLLECTION).len(), 28);
}

#[tokio::test]
async fn a_wrong_password_is_told_apart_from_a_server_that_is_away() {
    let Some(place) = Place::new("denied", Needs::Shared).await else { return };
    let away = place.sink(json!({"url": "mongodb://127.0.0.1:1"})).resume_point().await.unwrap_err();
    assert_eq!((away.kind, away.problem.code.as_str()), (FailureKind::Retry, "sink.unreachable"));
    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(wrong.path(), "wrong").unwrap();
    let wrong = json!({"password": format!("file:{}", wrong.path().display())});
    assert_refused(&place.sink(wrong).resume_point().await.unwrap_err(), "sink.denied", "");
    let nobody = json!({"username": null, "password": null});
    assert_refused(&place.sink(nobody).resume_point().await.unwrap_err(), "sink.denied", "");
}

#[tokio::test]
async fn a_look_changes_nothing() {
    let Some(place) = Place::new("look", Needs::Shared).await else { return };
    let lines = place.sink(json!({})).probe().await.unwrap();
    assert!(lines[0].starts_with("server: MongoDB 7."), "{lines:?}");
    assert!(lines.iter().any(|line| line == "collection: events is empty, or would be made"), "{lines:?}");
    assert!(lines.iter().any(|line| line.ends_with("0 keys of this sink")), "{lines:?}");
    assert!(place.documents(COLLECTION).is_empty() && place.documents("aap_ledger").is_empty());
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    sink.write(&group(0, 1)).await.unwrap();
    let lines = sink.probe().await.unwrap();
    assert!(lines.iter().any(|line| line == "collection: events, about 7 documents"), "{lines:?}");
    assert!(lines.iter().any(|line| line.ends_with(" 1 keys of this sink")), "{lines:?}");
}

#[tokio::test]
async fn tls_is_believed_only_under_the_authority_that_was_named() {
    let Some(place) = Place::new("tls", Needs::Shared).await else { return };
    let (Ok(url), Ok(ca)) = (std::env::var("AAP_TEST_MONGODB_TLS"), std::env::var("AAP_TEST_MONGODB_CA"))
    else {
        return;
    };
    let mut sink = place.sink(json!({"url": url, "tls": {"ca": ca}}));
    sink.resume_point().await.unwrap();
    sink.write(&group(0, 2)).await.unwrap();
    assert_eq!(place.documents(COLLECTION).len(), 14);
    assert!(sink.probe().await.unwrap()[0].ends_with(", TLS"));
    // The machine's own authorities have not signed it.
    assert_refused(
        &place.sink(json!({"url": url, "tls": {}})).resume_point().await.unwrap_err(),
        "sink.tls",
        "",
    );
    assert_refused(
        &place.sink(json!({"url": url, "tls": {"ca": "/no/such/ca.pem"}})).resume_point().await.unwrap_err(),
        "sink.setting",
        "/no/such/ca.pem",
    );
}
