//! HTTP as a client meets it: every answer, and keys across a crash.

use axum::http::Request;
use futures::StreamExt;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::testing::Rig;

const TYPE: &str = "application/x-ndjson";

fn api(rig: &Rig) -> Api {
    std::fs::write(rig.path("token"), "secret\n").unwrap();
    Api {
        name: "http".into(),
        keys: keys(rig),
        bearer: Bearer::of(rig.deps.home.root().join("token")),
        deps: rig.deps.clone(),
        body_bytes_max: 1 << 20,
        room: body::Room::of(4 << 20),
        turns: Arc::new(Semaphore::new(REQUESTS_MAX)),
    }
}

fn keys(rig: &Rig) -> Keys {
    let store_id = rig.deps.ingress.buffer.identity().store_id;
    let ledger = Ledger::open(&rig.deps.home.agent().join("http-keys"), store_id).unwrap();
    let open = rig.deps.listening.open.clone();
    Keys::new(rig.deps.ingress.clone(), Duration::from_secs(3600), open, ledger)
}

async fn post(
    api: &Api,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> (u16, serde_json::Value) {
    let mut request = Request::post(path);
    if !headers.iter().any(|(name, _)| *name == "authorization") {
        request = request.header("authorization", "Bearer secret");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router(api.clone()).oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_taken_and_counted_after_it_is_durable() {
    let rig = Rig::new();
    let api = api(&rig);
    let gzip = {
        use std::io::Write;
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(b"{\"a\":5}\n").unwrap();
        out.finish().unwrap()
    };
    for (kind, codec, body, rows) in [
        (TYPE, "identity", b"{\"a\":1}\n{\"a\":2}".to_vec(), 2),
        ("application/json; charset=utf-8", "identity", b"[{\"a\":3},{\"a\":4}]".to_vec(), 2),
        (TYPE, "gzip", gzip, 1),
        (TYPE, "zstd", zstd::encode_all(&b"{\"a\":6}\n"[..], 1).unwrap(), 1),
        ("text/csv", "identity", b"a,b\n7,x\n".to_vec(), 1),
    ] {
        let headers = [("content-type", kind), ("content-encoding", codec)];
        let (status, answer) = post(&api, "/v1/streams/events", &headers, body).await;
        assert_eq!((status, answer["rows"].as_u64()), (200, Some(rows)), "{kind} {codec} {answer}");
    }
    assert_eq!(rig.texts("events", "a"), ["1", "2", "3", "4", "5", "6", "7"]);
    let (status, _) = post(&api, "/v1/streams/lines", &[("content-type", "text/plain")], "one\ntwo\n").await;
    assert_eq!((status, rig.texts("lines", "body")), (200, vec!["one".to_owned(), "two".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_gets_its_own_answer_and_nothing_is_taken() {
    let rig = Rig::new();
    let api = api(&rig);
    let bomb = zstd::encode_all(&vec![b' '; 8 << 20][..], 1).unwrap();
    let ndjson = ("content-type", TYPE);
    for (path, headers, body, expected) in [
        ("/v1/streams/events", vec![ndjson, ("authorization", "Bearer wrong")], b"{}".to_vec(), 401),
        ("/v1/streams/events", vec![ndjson, ("authorization", "Bearer ")], b"{}".to_vec(), 401),
        ("/v1/streams/events", vec![("content-type", "image/png")], b"{}".to_vec(), 415),
        ("/v1/streams/events", vec![ndjson, ("content-encoding", "br")], b"{}".to_vec(), 415),
        ("/v1/streams/..%2Fx", vec![ndjson], b"{}".to_vec(), 400),
        ("/v1/streams/Events", vec![ndjson], b"{}".to_vec(), 400),
        ("/v1/streams/events", vec![ndjson, ("content-encoding", "zstd")], bomb, 413),
        ("/v1/streams/events", vec![ndjson], vec![b' '; 2 << 20], 413),
        ("/v1/streams/events", vec![ndjson, ("content-encoding", "gzip")], b"not gzip".to_vec(), 400),
        (
            "/v1/streams/events",
            vec![("content-type", "application/vnd.apache.arrow.stream")],
            b"garbage".to_vec(),
            400,
        ),
        ("/v1/streams/events?on_error=ignore", vec![ndjson], b"{}".to_vec(), 400),
    ] {
        let (status, answer) = post(&api, path, &headers, body).await;
        assert_eq!(status, expected, "{path} {headers:?} {answer}");
    }
    let (status, answer) = post(&api, "/v1/streams/events", &[ndjson], "{\"a\":1}\nnope\n").await;
    assert_eq!((status, answer["error"]["row"].as_u64()), (400, Some(2)), "{answer}");
    assert!(rig.batches("events").is_empty() && rig.batches("events.dead").is_empty());
    let (status, answer) =
        post(&api, "/v1/streams/events?on_error=dead-letter", &[ndjson], "{\"a\":1}\nnope\n").await;
    assert_eq!((status, answer["bad_rows"].as_u64()), (200, Some(1)));
    assert_eq!(rig.texts("events.dead", "text"), ["nope"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_get_404_and_wrong_methods_405_with_what_is_right() {
    let rig = Rig::new();
    let ask = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router(api(&rig)).oneshot(request).await.unwrap();
        let allow = response.headers().get("allow").map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        (status, answer["error"]["code"].as_str().unwrap().to_owned(), allow)
    };
    for (method, path) in
        [("GET", "/"), ("POST", "/v1/streams"), ("POST", "/v1/streams/a/b"), ("GET", "/metric")]
    {
        assert_eq!(ask(method, path).await, (404, "http.no_such_path".into(), None), "{method} {path}");
    }
    for (method, path, right) in [
        ("GET", "/v1/streams/a", "POST"),
        ("PUT", "/v1/streams/a", "POST"),
        ("POST", "/metrics", "GET,HEAD"),
        ("DELETE", "/healthz", "GET,HEAD"),
    ] {
        let expected = (405, "http.wrong_method".into(), Some(right.to_owned()));
        assert_eq!(ask(method, path).await, expected, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_gives_the_same_answer_and_adds_nothing_also_after_a_crash() {
    let mut rig = Rig::new();
    let headers = [("content-type", TYPE), ("idempotency-key", "k-1")];
    let first = post(&api(&rig), "/v1/streams/events", &headers, "{\"a\":1}\n").await;
    assert_eq!(first.0, 200);
    rig.restart();
    let api = api(&rig);
    assert_eq!(post(&api, "/v1/streams/events", &headers, "{\"a\":1}\n").await, first);
    assert_eq!(post(&api, "/v1/streams/events", &headers, "{\"a\":2}\n").await.0, 422);
    assert_eq!(
        post(&api, "/v1/streams/other", &headers, "{\"a\":3}\n").await.0,
        200,
        "keys belong to their stream"
    );
    assert_eq!(rig.texts("events", "a"), ["1"]);
    // A body without rows has an answer of its own too.
    let empty = [("content-type", TYPE), ("idempotency-key", "k-2")];
    assert_eq!(post(&api, "/v1/streams/events", &empty, "").await.1["rows"], 0);
    assert_eq!(post(&api, "/v1/streams/events", &empty, "{\"a\":1}").await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_buffer_forgot_is_still_known() {
    let mut rig = Rig::new();
    let headers = [("content-type", TYPE), ("idempotency-key", "k-1")];
    let first = post(&api(&rig), "/v1/streams/events", &headers, "{\"a\":1}\n{\"a\":2}\n").await;
    // The process died before the ledger was written: what the buffer knows is taken over.
    rig.restart();
    let taking_over = keys(&rig);
    taking_over.take_over().await;
    taking_over.write_soon().await;
    // A source that knows of no position, as if many keys had come since.
    let path = rig.deps.home.agent().join("http-keys");
    let other = Rig::new();
    std::fs::copy(&path, other.deps.home.agent().join("http-keys")).unwrap();
    let store_id = rig.deps.ingress.buffer.identity().store_id;
    let ledger = Ledger::open(&other.deps.home.agent().join("http-keys"), store_id).unwrap();
    let open = other.deps.listening.open.clone();
    let keys = Keys::new(other.deps.ingress.clone(), Duration::from_secs(3600), open, ledger);
    let api = Api { keys, ..api(&other) };
    assert_eq!(post(&api, "/v1/streams/events", &headers, "{\"a\":1}\n{\"a\":2}\n").await, first);
    assert_eq!(post(&api, "/v1/streams/events", &headers, "{\"a\":1}\n").await.0, 422);
    assert!(other.batches("events").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_with_one_key_at_once_are_taken_once() {
    let rig = Rig::new();
    let api = api(&rig);
    let headers = [("content-type", TYPE), ("idempotency-key", "k-1")];
    let all = (0..20).map(|_| post(&api, "/v1/streams/events", &headers, "{\"a\":1}\n"));
    let answers = futures::future::join_all(all).await;
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.0 == 200), "{answers:?}");
    assert_eq!(rig.texts("events", "a"), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_buffer_says_429_and_nothing_is_taken() {
    let rig = Rig::with_buffer(r#"{"segment_bytes": 65536, "budget": 262144, "retain": 0}"#);
    let api = api(&rig);
    let mut taken = 0;
    // The request that uses up the room waits for more; those behind it are told at once.
    let mut waiting = Vec::new();
    let full = loop {
        // Noise does not compress, so that the buffer fills quickly.
        let noise: String = (0..200_u64)
            .map(|n| blake3::hash(&[n, taken as u64].map(u64::to_le_bytes).concat()).to_hex().to_string())
            .collect();
        let body = format!("{{\"a\":{taken},\"noise\":\"{noise}\"}}\n");
        let own = api.clone();
        #[expect(clippy::disallowed_methods, reason = "awaited below")]
        let mut request =
            tokio::spawn(
                async move { post(&own, "/v1/streams/events", &[("content-type", TYPE)], body).await },
            );
        match tokio::time::timeout(Duration::from_secs(2), &mut request).await {
            Ok(answer) => match answer.unwrap() {
                (200, _) if taken < 1000 => taken += 1,
                other => break other,
            },
            Err(_) => waiting.push(request),
        }
        assert!(waiting.len() < 3, "the others are not told");
    };
    assert_eq!(full.0, 429, "{:?}", full.1);
    assert!(taken > 0);
    for (key, tail) in rig.deps.ingress.buffer.tails() {
        rig.deps.ingress.buffer.advance("uplink", &key, tail);
    }
    for request in waiting {
        assert_eq!(request.await.unwrap().0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_readiness_speak() {
    let rig = Rig::new();
    let api = api(&rig);
    post(&api, "/v1/streams/events", &[("content-type", TYPE)], "{\"a\":1}\n").await;
    for (path, word) in [
        ("/metrics", "aap_agent_rows_durable_total{stream=\"events\"} 1"),
        ("/metrics", "aap_agent_utf8_replaced_total{stream=\"events\"} 0"),
        ("/metrics", "aap_agent_buffer_rows_dropped_total{stream=\"events\"} 0"),
        ("/healthz", "ok"),
        ("/readyz", "ready"),
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(api.clone()).oneshot(request).await.unwrap();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains(word), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_after_a_reload_waits_for_the_request_of_the_former_source() {
    let rig = Rig::new();
    let (before, after) = (api(&rig), api(&rig));
    let stream: StreamName = "events".parse().unwrap();
    let Ok(Begun::Mine(claim)) = before.keys.begin(&stream, "k-1", "request".into()) else { panic!() };
    let Ok(Begun::Busy(waiting)) = after.keys.begin(&stream, "k-1", "request".into()) else {
        panic!("taken a second time")
    };
    drop(claim);
    assert_eq!(after.keys.outcome(waiting).await.unwrap_err().code, "http.key_in_use");
    assert!(matches!(after.keys.begin(&stream, "k-1", "request".into()), Ok(Begun::Mine(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_key_takes_nobodys_room() {
    let rig = Rig::new();
    let api = api(&rig);
    let stream: StreamName = "events".parse().unwrap();
    let Ok(Begun::Mine(claim)) = api.keys.begin(&stream, "k-1", "request".into()) else { panic!() };
    let headers = [("content-type", TYPE), ("idempotency-key", "k-1")];
    let waiting = futures::future::join_all(
        (0..2 * REQUESTS_MAX).map(|_| post(&api, "/v1/streams/events", &headers, "{\"a\":1}\n")),
    );
    let other = async {
        let (status, answer) =
            post(&api, "/v1/streams/events", &[("content-type", TYPE)], "{\"a\":2}\n").await;
        assert_eq!(status, 200, "{answer}");
        drop(claim);
    };
    let (answers, ()) = tokio::join!(waiting, other);
    assert!(answers.iter().all(|(status, _)| *status == 409), "{answers:?}");
    assert_eq!(rig.texts("events", "a"), ["2"]);
}

/// A body of `first` that does not end while the sender is there.
fn endless(first: &str) -> (tokio::sync::mpsc::Sender<()>, Body) {
    let (keep, ended) = tokio::sync::mpsc::channel(1);
    let first =
        futures::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(first.as_bytes()))]);
    let rest = tokio_stream::wrappers::ReceiverStream::new(ended).map(|()| Ok(bytes::Bytes::new()));
    (keep, Body::from_stream(first.chain(rest)))
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_shut_nobody_out() {
    let rig = Rig::new();
    let api = api(&rig);
    let headers = [("content-type", TYPE)];
    let (kept, slow): (Vec<_>, Vec<_>) = (0..4 * REQUESTS_MAX).map(|_| endless("{\"a\":1}\n")).unzip();
    let slow = futures::future::join_all(
        slow.into_iter().map(|body| post(&api, "/v1/streams/events", &headers, body)),
    );
    let other = async {
        // They are on their way, and have not more of the room than what came of them.
        for _ in 0..3 {
            let body = format!("{{\"a\":2,\"b\":\"{}\"}}\n", "x".repeat(900 << 10));
            let (status, answer) = post(&api, "/v1/streams/events", &headers, body).await;
            assert_eq!(status, 200, "{answer}");
        }
        drop(kept);
    };
    let (answers, ()) = tokio::join!(slow, other);
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_too_large_takes_neither_room_nor_turn_while_it_is_passed_over() {
    let rig = Rig::new();
    let api = Api { room: body::Room::of(1 << 20), turns: Arc::new(Semaphore::new(1)), ..api(&rig) };
    let headers = [("content-type", TYPE)];
    let (kept, large) = endless(&"x".repeat((1 << 20) + 1));
    let large = post(&api, "/v1/streams/events", &headers, large);
    let other = async {
        let body = format!("{{\"a\":\"{}\"}}\n", "x".repeat(900 << 10));
        let (status, answer) = post(&api, "/v1/streams/events", &headers, body).await;
        assert_eq!(status, 200, "{answer}");
        drop(kept);
    };
    let ((status, _), ()) = tokio::join!(large, other);
    assert_eq!(status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_fill_all_room_still_come_to_their_ends_one_after_the_other() {
    let rig = Rig::new();
    let api = Api { room: body::Room::of(1 << 20), ..api(&rig) };
    let headers = [("content-type", TYPE)];
    let body = format!("{{\"a\":\"{}\"}}\n", "x".repeat(900 << 10));
    let pieces = |body: &str| {
        let pieces: Vec<_> = body.as_bytes().chunks(64 << 10).map(bytes::Bytes::copy_from_slice).collect();
        Body::from_stream(futures::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>)))
    };
    let all = (0..6).map(|_| post(&api, "/v1/streams/events", &headers, pieces(&body)));
    let answers = futures::future::join_all(all).await;
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_slower_than_the_stated_rate_is_given_up() {
    let room = body::Room::of(1 << 20);
    let (_kept, slow) = endless("x");
    let patience = body::Patience { window: Duration::from_millis(50), bytes_min: 2 };
    let refused = body::read(slow, 1 << 20, &room, patience).await.unwrap_err();
    assert_eq!((refused.status.as_u16(), refused.code), (408, "http.body_stalled"));
    // One that comes fast enough may take many windows.
    let (kept, steady) = endless("x");
    let patience = body::Patience { window: Duration::from_millis(1), bytes_min: 0 };
    let (read, ()) = tokio::join!(body::read(steady, 1 << 20, &room, patience), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(kept);
    });
    assert_eq!(read.unwrap().bytes, "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_cannot_be_read_on_is_refused_whatever_is_wished() {
    let rig = Rig::new();
    let api = api(&rig);
    let headers = [("content-type", "application/json")];
    for body in ["[{\"a\":1},\n{\"a\":,\n{\"a\":2}]", "[{\"a\":1},\n{\"a\":2}", "{\"a\":1}\n\n}"] {
        let (status, answer) = post(&api, "/v1/streams/events?on_error=dead-letter", &headers, body).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error"]["row"].as_u64().unwrap() >= 2, "{answer}");
    }
    assert!(rig.batches("events").is_empty() && rig.batches("events.dead").is_empty());
    // The row is the element, also where all stand on one line.
    for (body, row) in [("[{\"a\":1},5,{\"a\":2}]", 2), ("[{\"a\":1},{\"a\":2},{\"a\":}]", 3)] {
        let (status, answer) = post(&api, "/v1/streams/events", &headers, body).await;
        assert_eq!((status, answer["error"]["row"].as_u64()), (400, Some(row)), "{answer}");
    }
    let body = "[{\"a\":1},\n5,\n{\"a\":2}]";
    let (status, answer) = post(&api, "/v1/streams/events?on_error=dead-letter", &headers, body).await;
    assert_eq!((status, answer["bad_rows"].as_u64()), (200, Some(1)));
    assert_eq!(rig.texts("events", "a"), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_short_rows_is_many_batches_and_a_bad_one_has_its_own_number() {
    let rig = Rig::new();
    let api = Api { body_bytes_max: 16 << 20, ..api(&rig) };
    let text = [("content-type", "text/plain")];
    let (status, answer) = post(&api, "/v1/streams/lines", &text, "\n".repeat(1 << 20)).await;
    assert_eq!((status, answer["rows"].as_u64(), answer["batches"].as_u64()), (200, Some(1 << 20), Some(16)));
    assert!(rig.batches("lines").iter().all(|batch| batch.num_rows() <= aap_decode::ROWS_MAX));
    let body = "{\"a\":1}\n".repeat(200_000) + "nope\n";
    let (status, answer) = post(&api, "/v1/streams/events", &[("content-type", TYPE)], body).await;
    assert_eq!((status, answer["error"]["row"].as_u64()), (400, Some(200_001)), "{answer}");
    let headers = [("content-type", "application/json")];
    let body = format!("[{},\n5]", vec!["{\"a\":1}"; 200_000].join(",\n"));
    let (status, answer) = post(&api, "/v1/streams/events", &headers, body).await;
    assert_eq!((status, answer["error"]["row"].as_u64()), (400, Some(200_001)), "{answer}");
    let body = format!("[{},\n{{]", vec!["{\"a\":1}"; 200_000].join(",\n"));
    let (status, answer) = post(&api, "/v1/streams/events", &headers, body).await;
    assert_eq!((status, answer["error"]["row"].as_u64()), (400, Some(200_001)), "{answer}");
    assert!(rig.batches("events").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_arrow_body_has_the_limit_of_all_bodies() {
    use arrow_array::{ArrayRef, Int64Array, NullArray, RecordBatch};
    let rig = Rig::new();
    let api = api(&rig);
    let stream = |columns: Vec<(String, ArrayRef)>| {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let options = arrow_ipc::writer::IpcWriteOptions::default()
            .try_with_compression(Some(arrow_ipc::CompressionType::ZSTD))
            .unwrap();
        let mut body = Vec::new();
        let mut writer =
            arrow_ipc::writer::StreamWriter::try_new_with_options(&mut body, &batch.schema(), options)
                .unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        body
    };
    let zeros = |rows: usize| Arc::new(Int64Array::from(vec![0; rows])) as ArrayRef;
    let headers = [("content-type", "application/vnd.apache.arrow.stream")];
    for (columns, expected) in [
        (vec![("a".to_owned(), zeros(1000))], 200),
        (vec![("a".to_owned(), zeros(1 << 20))], 413),
        (vec![("a".to_owned(), Arc::new(NullArray::new(1 << 30)) as ArrayRef)], 413),
        ((0..5000).map(|n| (format!("c{n}"), zeros(1))).collect(), 400),
    ] {
        let body = stream(columns);
        assert!(body.len() < 1 << 20);
        let (status, answer) = post(&api, "/v1/streams/events", &headers, body).await;
        assert_eq!(status, expected, "{answer}");
    }
    assert_eq!(rig.texts("events", "a").len(), 1000);
}

#[tokio::test]
async fn a_token_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new();
    let path = rig.deps.home.root().join("token");
    assert!(Bearer::open(path.clone()).await.is_ok(), "it may come later");
    std::fs::write(&path, "secret").unwrap();
    for (mode, good) in [(0o644, false), (0o640, false), (0o600, true), (0o400, true)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(Bearer::open(path.clone()).await.is_ok(), good, "{mode:o}");
    }
}

#[tokio::test]
async fn a_source_that_is_about_to_start_has_no_address_yet() {
    let listening = Listening::default();
    let (old, new) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2)));
    listening.set(old);
    listening.expect();
    assert_eq!(listening.address(), None);
    // The former one ends after its successor was announced.
    listening.clear(old);
    let settled = async {
        listening.settled(Duration::from_secs(5)).await;
        assert_eq!(listening.address(), Some(new));
    };
    tokio::join!(settled, async { listening.set(new) });
}
