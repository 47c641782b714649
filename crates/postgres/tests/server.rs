//! Who may write to a real PostgreSQL, over which line, and what two writers or a broken-off write leave there.

#[path = "support/place.rs"]
mod place;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aap_postgres::PostgresSink;
use aap_sinks::conformance::{self, key};
use aap_sinks::{FailureKind, Group, Sink, Target};
use arrow_array::Int64Array;
use place::{Needs, Place, slice, told, write};
use serde_json::json;

#[tokio::test]
async fn who_may_not_come_in_is_told_why() {
    let Some(place) = Place::new("denied", Needs::Shared).await else { return };
    let wrong = place.file("wrong", "hunter2\n");
    let mut sink = place.sink(json!({"password": format!("file:{}", wrong.display())}));
    let failure = sink.resume_point().await.unwrap_err();
    assert_eq!((&failure.kind, failure.problem.code.as_str()), (&FailureKind::Refused, "sink.denied"));
    assert!(told(&failure).contains("28P01") && !told(&failure).contains("hunter2"), "{}", told(&failure));

    let check = async |more: serde_json::Value, kind: FailureKind, words: &str| {
        let failure = place.sink(more).resume_point().await.unwrap_err();
        assert_eq!(failure.kind, kind, "{}", told(&failure));
        assert!(told(&failure).contains(words), "{}", told(&failure));
    };
    check(json!({"password": null}), FailureKind::Refused, "sink.denied").await;
    check(json!({"password": "file:/nowhere/at/all"}), FailureKind::Refused, "sink.setting").await;
    check(json!({"mode": "upsert"}), FailureKind::Refused, "sink.setting").await;
    check(
        json!({"url": place.url("").trim_end_matches("aap").to_owned() + "nowhere"}),
        FailureKind::Refused,
        "sink.database_missing",
    )
    .await;
    check(json!({"url": "postgres://me@127.0.0.1:1/x"}), FailureKind::Retry, "sink.unreachable").await;
    check(json!({"ledger": "nowhere.ledger"}), FailureKind::Refused, "sink.server_refused").await;
}

#[tokio::test]
async fn a_user_without_rights_is_told_which_are_missing() {
    let Some(place) = Place::new("rights", Needs::Shared).await else { return };
    let (role, schema) = (format!("r_{}", place.schema), &place.schema);
    place
        .sql(&format!(
            "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT USAGE ON SCHEMA {schema} TO {role}; \
             CREATE TABLE events (n int8)"
        ))
        .await;
    let password = place.file("pw", "pw");
    let url = place.url("").replace("//aap@", &format!("//{role}@"));
    let mut sink = place.sink(json!({
        "url": url, "password": format!("file:{}", password.display()), "table": format!("{schema}.events")}));
    let failure = sink.resume_point().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(
        told(&failure).starts_with("sink.denied") && told(&failure).contains("42501"),
        "{}",
        told(&failure)
    );
    let lines = sink.probe().await.unwrap();
    assert!(lines[1].contains("the right to INSERT is missing"), "{lines:?}");
    place.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn tls_believes_whom_the_url_says() {
    let Some(place) = Place::new("tls", Needs::Shared).await else { return };
    let certificate = place.lines("SELECT current_setting('ssl_cert_file')").await.remove(0);
    let authority = certificate.replace("server.crt", "ca.crt");
    let encrypted = async |parameters: String| {
        let mut sink = place.sink(json!({"url": place.url(&parameters)}));
        sink.probe().await.map(|lines| lines[0].contains(", TLS"))
    };
    assert_eq!(encrypted("?sslmode=disable".into()).await, Ok(false));
    for parameters in [
        String::new(),
        "?sslmode=require".to_owned(),
        format!("?sslmode=verify-ca&sslrootcert={authority}"),
        format!("?sslmode=verify-full&sslrootcert={authority}"),
    ] {
        assert_eq!(encrypted(parameters.clone()).await, Ok(true), "{parameters}");
    }
    // The right server under another name than its certificate has.
    let renamed = |mode: &str| {
        let url = place.url(&format!("?hostaddr=127.0.0.1&sslmode={mode}&sslrootcert={authority}"));
        let mut sink = place.sink(json!({"url": url.replace("@127.0.0.1:", "@elsewhere.test:")}));
        async move { sink.probe().await.map(|lines| lines[0].contains(", TLS")) }
    };
    assert_eq!(renamed("verify-ca").await, Ok(true));
    let failure = renamed("verify-full").await.unwrap_err();
    assert_eq!(failure.problem.code, "sink.tls");
    assert!(told(&failure).contains("elsewhere.test"), "{}", told(&failure));
    // An authority of somebody else.
    let stranger = place.file("stranger.pem", STRANGER);
    let failure =
        encrypted(format!("?sslmode=verify-ca&sslrootcert={}", stranger.display())).await.unwrap_err();
    assert_eq!(
        (&failure.kind, failure.problem.code.as_str()),
        (&FailureKind::Refused, "sink.tls"),
        "{}",
        told(&failure)
    );
    let failure = encrypted("?sslmode=verify-ca&sslrootcert=/nowhere.pem".into()).await.unwrap_err();
    assert_eq!(failure.problem.code, "sink.setting");
}

#[tokio::test]
async fn a_probe_changes_nothing_and_says_what_it_found() {
    let Some(place) = Place::new("probe", Needs::Shared).await else { return };
    let table = format!("{}.events", place.schema);
    let mut sink = place.sink(json!({"create": true, "table": table}));
    let lines = sink.probe().await.unwrap();
    assert!(
        lines[0].starts_with("server: PostgreSQL 1") && lines[0].contains("database aap, as aap"),
        "{lines:?}"
    );
    assert!(lines[1].ends_with("would be created") && lines[2].ends_with("would be created"), "{lines:?}");
    assert!(
        place
            .lines("SELECT 1 FROM pg_class WHERE relnamespace = current_schema()::regnamespace")
            .await
            .is_empty()
    );
    sink.resume_point().await.unwrap();
    write(&mut sink, slice(&key("edge-1", "events"), 0, vec![("n", Arc::new(Int64Array::from(vec![1])))]))
        .await
        .unwrap();
    let lines = sink.probe().await.unwrap();
    assert!(lines[1].contains("writable, 5 columns: n bigint, _node text"), "{lines:?}");
    assert!(lines[2].contains("writable, 1 keys"), "{lines:?}");
}

#[tokio::test]
async fn a_write_that_is_dropped_half_way_is_found_whole_or_not_at_all() {
    let Some(place) = Place::new("dropped", Needs::Shared).await else { return };
    let events = key("edge-1", "events");
    let mut sink = place.sink(json!({"create": true}));
    let mut dropped = 0;
    for patience_ms in (0..).map(|step| step * 3) {
        let at = sink.resume_point().await.unwrap().get(&events).map_or(0, |through| through.0);
        if at >= 5 * 500 {
            break;
        }
        let group = Group { slices: vec![conformance::slice(&events, at, at + 500)] };
        let patience = std::time::Duration::from_millis(patience_ms);
        match tokio::time::timeout(patience, sink.write(&group)).await {
            Ok(written) => written.unwrap(),
            Err(_elapsed) => dropped += 1,
        }
    }
    assert!(dropped > 0);
    let found = place.lines("SELECT count(*), count(DISTINCT (_seq, _row)), max(_seq) FROM events").await;
    assert_eq!(found, ["17500|17500|2500"]);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_written_again() {
    let Some(place) = Place::new("lost", Needs::Shared).await else { return };
    let loses = Arc::new(AtomicBool::new(false));
    let port = place.lossy(loses.clone()).await;
    let own = place.url("").rsplit_once(':').unwrap().0.to_owned();
    let mut sink = place.sink(json!({"create": true, "url": format!("{own}:{port}/aap?sslmode=disable")}));
    let events = key("edge-1", "events");
    sink.resume_point().await.unwrap();
    sink.write(&Group { slices: vec![conformance::slice(&events, 0, 2)] }).await.unwrap();

    loses.store(true, Ordering::SeqCst);
    let failure = sink.write(&Group { slices: vec![conformance::slice(&events, 2, 5)] }).await.unwrap_err();
    assert_eq!((failure.kind, failure.problem.code.as_str()), (FailureKind::Retry, "sink.unreachable"));
    let failure = sink.resume_point().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Retry, "the takeover is a commit too");

    loses.store(false, Ordering::SeqCst);
    assert_eq!(sink.resume_point().await.unwrap()[&events].0, 5, "it was committed");
    sink.write(&Group { slices: vec![conformance::slice(&events, 5, 6)] }).await.unwrap();
    let found = place.lines("SELECT count(*), count(DISTINCT (_seq, _row)), max(_seq) FROM events").await;
    assert_eq!(found, ["42|42|6"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://me@{}/x", silent.local_addr().unwrap());
    let spec = serde_json::from_value(json!({"url": url, "table": "events"})).unwrap();
    let target = Target { name: "warehouse".into(), uid: "0123456789abcdef0123456789abcdef".into() };
    let failure = PostgresSink::new(target, spec).resume_point().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Retry);
    assert!(told(&failure).contains("connect: no answer within 15 s"), "{}", told(&failure));
}

/// Groups that two writers race for.
const RACED: u64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_of_the_same_keys_write_each_row_once() {
    let Some(place) = Place::new("race", Needs::Shared).await else { return };
    let keys = [key("edge-1", "events"), key("edge-2", "events")];
    let race = async || {
        let mut sink = place.sink(json!({"create": true}));
        let (mut moved, mut written) = (0, 0);
        let mut positions = None;
        loop {
            let at = match positions.take() {
                Some(at) => at,
                None => match sink.resume_point().await {
                    Ok(found) => keys.each_ref().map(|key| found.get(key).map_or(0, |through| through.0)),
                    Err(failure) => {
                        assert_eq!(failure.kind, FailureKind::Retry, "{}", told(&failure));
                        continue;
                    }
                },
            };
            if at.iter().all(|at| *at >= RACED) {
                return (moved, written);
            }
            let slices = keys.iter().zip(at).filter(|(_, at)| *at < RACED);
            let slices: Vec<_> = slices.map(|(key, at)| conformance::slice(key, at, at + 1)).collect();
            match sink.write(&Group { slices }).await {
                Ok(()) => {
                    written += 1;
                    // Now and then nobody knows what became of it.
                    positions = (written % 7 != 0).then(|| at.map(|at| at + 1));
                }
                Err(failure) => {
                    assert!(
                        matches!(failure.kind, FailureKind::Moved | FailureKind::Retry),
                        "{}",
                        told(&failure)
                    );
                    moved += 1;
                }
            }
        }
    };
    let ((moved_one, wrote_one), (moved_two, wrote_two)) = tokio::join!(race(), race());
    let found =
        place.lines("SELECT count(*), count(DISTINCT (_node, _seq, _row)), max(_seq) FROM events").await;
    assert_eq!(found, [format!("{0}|{0}|{RACED}", 2 * RACED * 7)]);
    println!("one wrote {wrote_one} and was moved {moved_one} times, the other {wrote_two} and {moved_two}");
}

/// A certificate that signed nothing here.
const STRANGER: &str = include_str!("support/stranger.pem");
