//! The sink into object stores: the suite of all sinks, and what goes wrong between a writer and its store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/objects.rs"]
mod objects;
#[path = "support/place.rs"]
mod place;
#[path = "support/s3.rs"]
mod s3;

use std::collections::BTreeSet;

use aap_lake::S3Sink;
use aap_sinks::conformance::{self, key, slice};
use aap_sinks::{Failure, FailureKind, Group, Guarantee, Sink};
use aap_types::Sequence;
use place::{Place, Suite, UID, support};
use s3::{BUCKET, Fault};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_passes_the_suite() {
    conformance::run(&Suite(Place::new().await, json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_passes_the_suite() {
    conformance::run(&Suite(Place::directory(), json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_of_minio_passes_the_suite() {
    let Some(place) = Place::minio("conformance") else { return };
    conformance::run(&Suite(place, json!({}))).await;
}

/// Batches `after..=through` of the stream of the suite.
fn batches(after: u64, through: u64) -> Group {
    Group { slices: vec![slice(&key("edge-1", "events"), after, through)] }
}

async fn at(sink: &mut S3Sink) -> u64 {
    let positions = sink.resume_point().await.unwrap();
    positions.get(&key("edge-1", "events")).map_or(0, |sequence| sequence.0)
}

/// Each row of batches up to `through` is there once.
fn check_once(place: &Place, through: u64) {
    let stored = place.stored();
    let distinct: BTreeSet<_> = stored.iter().map(|row| (row.seq, row.row)).collect();
    assert_eq!((stored.len() as u64, distinct.len() as u64), (through * 7, through * 7));
    assert_eq!(distinct.last().map_or(0, |(seq, _)| *seq), through);
}

fn kind_and_code(failure: &Failure) -> (FailureKind, &str) {
    (failure.kind.clone(), failure.problem.code.as_str())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_is_looked_for_in_the_store() {
    let place = Place::new().await;
    let mut sink = place.sink(json!({}));
    assert_eq!(at(&mut sink).await, 0);
    place.server().fault(Some(Fault::LosesAnswer));
    sink.write(&batches(0, 3)).await.unwrap();
    sink.write(&batches(3, 5)).await.unwrap();
    check_once(&place, 5);
    assert_eq!(at(&mut sink).await, 5);
    assert_eq!(place.objects.parquet().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_lost_is_tried_again_after_asking() {
    let place = Place::new().await;
    let mut sink = place.sink(json!({}));
    assert_eq!(at(&mut sink).await, 0);
    place.server().fault(Some(Fault::LosesRequest));
    let failure = sink.write(&batches(0, 3)).await.unwrap_err();
    assert_eq!(kind_and_code(&failure), (FailureKind::Retry, "sink.unreachable"));
    let failure = sink.write(&batches(0, 3)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Moved, "it does not know where it stands");
    assert_eq!(at(&mut sink).await, 0);
    sink.write(&batches(0, 3)).await.unwrap();
    check_once(&place, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_arrives_after_we_asked_is_found_in_the_way_and_not_repeated() {
    let place = Place::new().await;
    let mut sink = place.sink(json!({}));
    assert_eq!(at(&mut sink).await, 0);
    place.server().fault(Some(Fault::Delays));
    let failure = sink.write(&batches(0, 3)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Retry);
    assert_eq!(at(&mut sink).await, 0, "it is still on its way");
    let failure = sink.write(&batches(0, 2)).await.unwrap_err();
    assert_eq!(kind_and_code(&failure), (FailureKind::Moved, "sink.moved"));
    assert_eq!(at(&mut sink).await, 3);
    sink.write(&batches(3, 4)).await.unwrap();
    check_once(&place, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_one_gets_the_number() {
    let place = Place::new().await;
    let (mut one, mut two) = (place.sink(json!({})), place.sink(json!({})));
    let mut written = 0;
    for _ in 0..10 {
        assert_eq!((at(&mut one).await, at(&mut two).await), (written, written));
        let (first, second) = (batches(written, written + 1), batches(written, written + 2));
        let (first, second) = tokio::join!(one.write(&first), two.write(&second));
        match (first, second) {
            (Ok(()), Err(failure)) => {
                assert_eq!(kind_and_code(&failure), (FailureKind::Moved, "sink.moved"));
                written += 1;
            }
            (Err(failure), Ok(())) => {
                assert_eq!(kind_and_code(&failure), (FailureKind::Moved, "sink.moved"));
                written += 2;
            }
            both => panic!("{both:?}"),
        }
        check_once(&place, written);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_overwrites_is_refused_unless_duplicates_are_allowed() {
    let place = Place::new().await;
    place.server().fault(Some(Fault::Overwrites));
    let mut sink = place.sink(json!({}));
    assert_eq!(sink.guarantee(), Guarantee::ExactlyOnce);
    for failure in [sink.resume_point().await.unwrap_err(), sink.probe().await.unwrap_err()] {
        assert_eq!(kind_and_code(&failure), (FailureKind::Refused, "sink.no_conditional_create"));
    }
    let allowed = json!({"allow_duplicates": true});
    let (mut one, mut two) = (place.sink(allowed.clone()), place.sink(allowed));
    assert_eq!(one.guarantee(), Guarantee::AtLeastOnce);
    assert_eq!((at(&mut one).await, at(&mut two).await), (0, 0));
    // Neither knows of the other, and neither destroys what the other wrote.
    one.write(&batches(0, 3)).await.unwrap();
    two.write(&batches(0, 2)).await.unwrap();
    assert_eq!(place.stored().len(), 5 * 7);
    let through = at(&mut one).await;
    assert!(through == 2 || through == 3, "{through}");
    one.write(&batches(through, 4)).await.unwrap();
    let stored = place.stored();
    let distinct: BTreeSet<_> = stored.iter().map(|row| (row.seq, row.row)).collect();
    assert_eq!(distinct.len(), 4 * 7, "every row is there");
    assert_eq!(at(&mut two).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_whose_first_objects_were_removed_goes_on() {
    let place = Place::new().await;
    let mut sink = place.sink(json!({}));
    assert_eq!(at(&mut sink).await, 0);
    for through in 1..=4 {
        sink.write(&batches(through - 1, through)).await.unwrap();
    }
    let folder = place.server().bucket().join("some/prefix/events");
    for number in 1..=3 {
        std::fs::remove_file(folder.join(format!("{}-{number:012}.parquet", &UID[..8]))).unwrap();
    }
    let mut next = place.sink(json!({}));
    assert_eq!(at(&mut next).await, 4);
    next.write(&batches(4, 5)).await.unwrap();
    assert!(folder.join(format!("{}-000000000005.parquet", &UID[..8])).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_stream_has_a_chain_whose_footers_know_all_of_its_keys() {
    let place = Place::new().await;
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    let (events, orders) = (key("edge-1", "events"), key("edge-1", "shop.orders-2_x"));
    // More keys than the end of an object that is read at first has room for.
    let many = (0..3000).map(|node| slice(&key(&format!("a-node-with-a-long-name-{node}"), "events"), 0, 1));
    let mut slices: Vec<_> = many.collect();
    slices.iter_mut().skip(2).for_each(|slice| slice.rows = slice.rows.slice(0, 0));
    slices.push(slice(&events, 0, 2));
    slices.push(slice(&orders, 0, 1));
    sink.write(&Group { slices }).await.unwrap();
    sink.write(&Group { slices: vec![slice(&orders, 1, 3)] }).await.unwrap();

    let names: Vec<String> = place.objects.parquet().into_iter().map(|(name, _)| name).collect();
    let short = &UID[..8];
    assert_eq!(
        names,
        [
            format!("events/{short}-000000000001.parquet"),
            format!("shop.orders-2_x/{short}-000000000001.parquet"),
            format!("shop.orders-2_x/{short}-000000000002.parquet"),
        ]
    );
    let (_, last) = place.objects.parquet().pop().unwrap();
    assert_eq!(
        objects::note(&last, "aap.positions").unwrap(),
        format!("{{\"edge-1\":{{\"{}\":3}}}}", orders.epoch)
    );
    assert_eq!(objects::note(&last, "aap.sink").unwrap(), UID);

    let positions = place.sink(json!({})).resume_point().await.unwrap();
    assert_eq!(positions.len(), 3002);
    assert_eq!((positions[&events], positions[&orders]), (Sequence(2), Sequence(3)));
    assert_eq!(place.stored().len(), 4 * 7);
    let lines = place.sink(json!({})).probe().await.unwrap();
    assert!(lines[2].contains("2 streams, 3002 keys"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_differ_in_their_columns_make_one_file_that_changes_no_value() {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch};

    let place = Place::new().await;
    let mut sink = place.sink(json!({}));
    sink.resume_point().await.unwrap();
    let mut one = slice(&key("edge-1", "events"), 0, 1);
    let mut two = slice(&key("edge-2", "events"), 0, 1);
    let with = |rows: &RecordBatch, column: ArrayRef| {
        let schema = rows.schema();
        let named =
            schema.fields().iter().map(|field| field.name().clone()).zip(rows.columns().iter().cloned());
        let all: Vec<(String, ArrayRef)> = named.chain([("size".to_owned(), column)]).collect();
        RecordBatch::try_from_iter(all).unwrap()
    };
    // No float has the first of these.
    one.rows = with(&one.rows, Arc::new(Int64Array::from_iter_values((0..7).map(|n| (1_i64 << 53) + 1 + n))));
    two.rows = with(&two.rows, Arc::new(Float64Array::from_iter_values((0..7).map(|n| f64::from(n) / 2.0))));
    sink.write(&Group { slices: vec![one, two] }).await.unwrap();
    let rows = place.objects.rows("events", &["size", "price", "message"]);
    assert_eq!(rows.len(), 14);
    assert_eq!(rows[0][0].as_deref(), Some("9007199254740993"));
    assert_eq!(rows[8][0].as_deref(), Some("0.5"));
    assert_eq!(rows[0][1].as_deref(), Some("7.07"));
}

async fn check_refused(sink: &mut S3Sink, kind: FailureKind, code: &str) {
    let failure = sink.resume_point().await.unwrap_err();
    assert_eq!(kind_and_code(&failure), (kind, code), "{failure:?}");
    assert!(!failure.problem.message.contains("secret"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said() {
    let place = Place::new().await;
    let wrong = json!({"secret_key": place.secret("wrong", "not the secret")});
    check_refused(&mut place.sink(wrong), FailureKind::Refused, "sink.denied").await;
    let missing = json!({"secret_key": "file:/no/such/file"});
    check_refused(&mut place.sink(missing), FailureKind::Refused, "sink.setting").await;
    place.server().fault(Some(Fault::Answers(404, "NoSuchBucket")));
    check_refused(&mut place.sink(json!({})), FailureKind::Refused, "sink.bucket_missing").await;
    place.server().fault(Some(Fault::Answers(403, "RequestTimeTooSkewed")));
    check_refused(&mut place.sink(json!({})), FailureKind::Refused, "sink.clock_skew").await;
    place.server().fault(Some(Fault::Answers(503, "SlowDown")));
    check_refused(&mut place.sink(json!({})), FailureKind::Retry, "sink.unreachable").await;
    place.server().fault(Some(Fault::Answers(501, "NotImplemented")));
    check_refused(&mut place.sink(json!({})), FailureKind::Refused, "sink.no_conditional_create").await;
    place.server().fault(None);

    let mut sink = place.sink(json!({}));
    assert_eq!(at(&mut sink).await, 0);
    place.server().kill().await;
    let failure = sink.write(&batches(0, 1)).await.unwrap_err();
    assert_eq!(kind_and_code(&failure), (FailureKind::Retry, "sink.unreachable"));
    check_refused(&mut sink, FailureKind::Retry, "sink.unreachable").await;

    let gone = json!({"url": "file:///no/such/directory"});
    check_refused(&mut Place::directory().sink(gone), FailureKind::Refused, "sink.bucket_missing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_somebody_else_in_the_place_of_ours_is_said() {
    let place = Place::new().await;
    let mut sink = place.sink(json!({}));
    assert_eq!(at(&mut sink).await, 0);
    let folder = place.server().bucket().join("some/prefix/events");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{}-000000000001.parquet", &UID[..8])), "no Parquet").unwrap();
    let failure = sink.write(&batches(0, 1)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Moved);
    check_refused(&mut sink, FailureKind::Refused, "sink.ledger").await;
    assert!(place.server().bucket().join(BUCKET).metadata().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_of_the_store_must_be_signed_by_whom_we_believe() {
    let place = Place::encrypted().await;
    let ca = |name: &str| json!({"ca": support(name).to_str().unwrap()});
    let mut sink = place.sink(ca("ca.pem"));
    assert_eq!(at(&mut sink).await, 0);
    sink.write(&batches(0, 2)).await.unwrap();
    check_once(&place, 2);
    assert!(sink.probe().await.unwrap()[0].ends_with("TLS"));
    check_refused(&mut place.sink(ca("stranger.pem")), FailureKind::Refused, "sink.tls").await;
    check_refused(&mut place.sink(ca("none.pem")), FailureKind::Refused, "sink.setting").await;
}
