//! HTTP as a client meets it: every answer, and keys across a crash.

use axum::http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::testing::Rig;

const TYPE: &str = "application/x-ndjson";

fn api(rig: &Rig) -> Api {
    std::fs::write(rig.path("token"), "secret\n").unwrap();
    Api {
        name: "http".into(),
        keys: Keys::new(rig.deps.ingress.clone(), Duration::from_secs(3600)),
        token_file: rig.deps.home.root().join("token"),
        deps: rig.deps.clone(),
        body_bytes_max: 1 << 20,
        room: Arc::new(Semaphore::new(REQUESTS_MAX)),
    }
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
        ("/healthz", "ok"),
        ("/readyz", "ready"),
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(api.clone()).oneshot(request).await.unwrap();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains(word), "{path}");
    }
}
