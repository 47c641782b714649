//! OTLP as clients meet it: over both protocols and forms, with refusals that say whether to come again.

use std::io::Write;
use std::time::Duration;

use aap_decode::otlp::json_to_protobuf;
use axum::body::Body;
use axum::http::Request;
use camino::Utf8PathBuf;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use super::*;
use crate::testing::Rig;

const GRPC_LOGS: &str = SIGNALS[0].2;

fn api(rig: &Rig) -> Api {
    let name = |name: &str| name.parse().unwrap();
    Api {
        intake: Intake::new(rig.deps.clone(), None, 1 << 20),
        logs: name("otlp.logs"),
        metrics: name("otlp.metrics"),
        traces: name("otlp.traces"),
    }
}

/// A request in JSON with one log record a text.
fn logs(bodies: &[&str]) -> String {
    let records: Vec<_> =
        bodies.iter().map(|body| serde_json::json!({ "body": { "stringValue": body } })).collect();
    serde_json::json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": records }] }] }).to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The status of a gRPC call, wherever it stands.
    fn grpc(&self) -> &str {
        let found = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        found.unwrap().to_str().unwrap()
    }
}

async fn post(api: &Api, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    let request =
        headers.iter().fold(Request::post(path), |request, (name, value)| request.header(*name, *value));
    let response = router(api).oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.to_bytes(), trailers }
}

const JSON: (&str, &str) = ("content-type", "application/json");
const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const GRPC: (&str, &str) = ("content-type", "application/grpc");

async fn call(api: &Api, headers: &[(&str, &str)], message: &[u8]) -> Answer {
    let is_compressed = headers.iter().any(|(name, _)| *name == "grpc-encoding");
    let mut body = vec![u8::from(is_compressed)];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(message);
    post(api, GRPC_LOGS, &[&[GRPC], headers].concat(), body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_is_taken_and_counted_after_it_is_durable() {
    let rig = Rig::new();
    let api = api(&rig);
    let protobuf = |text: &str| json_to_protobuf(Signal::Logs, logs(&[text]).as_bytes()).unwrap();
    let encoded = ("content-encoding", "gzip");
    let answer = post(&api, "/v1/logs", &[JSON], logs(&["json"])).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
    let answer = post(&api, "/v1/logs", &[JSON, encoded], gzip(logs(&["json gz"]).as_bytes())).await;
    assert_eq!(answer.status, 200);
    let answer = post(&api, "/v1/logs", &[PROTOBUF], protobuf("protobuf")).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.headers["content-type"], "application/x-protobuf");
    let answer = post(&api, "/v1/logs", &[PROTOBUF, encoded], gzip(&protobuf("protobuf gz"))).await;
    assert_eq!(answer.status, 200);
    let answer = call(&api, &[], &protobuf("grpc")).await;
    assert_eq!((answer.grpc(), &answer.body[..]), ("0", &[0; 5][..]));
    let answer = call(&api, &[("grpc-encoding", "gzip")], &gzip(&protobuf("grpc gz"))).await;
    assert_eq!(answer.grpc(), "0");
    let expected = ["json", "json gz", "protobuf", "protobuf gz", "grpc", "grpc gz"];
    assert_eq!(rig.texts("otlp.logs", "body"), expected);
    let answer = post(&api, "/v1/traces", &[PROTOBUF], "").await;
    assert_eq!(answer.status, 200, "an empty request is one");
    let count = rig.deps.ingress.counters.snapshot()[&"otlp.logs".parse().unwrap()].clone();
    assert_eq!((count.rows_read, count.rows_durable, count.rows_dropped_total()), (6, 6, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_kept_are_named_and_booked_and_the_others_stay() {
    let rig = Rig::new();
    let api = api(&rig);
    let spans = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"","spanId":"","name":"bad"},
        {"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"good"}]}]}]}"#;
    let answer = post(&api, "/v1/traces", &[JSON], spans).await;
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, &body["partialSuccess"]["rejectedSpans"]), (200, &"1".into()), "{body}");
    assert_eq!(rig.texts("otlp.traces", "name"), ["good"]);
    let count = rig.deps.ingress.counters.snapshot()[&"otlp.traces".parse().unwrap()].clone();
    assert_eq!((count.rows_read, count.rows_durable, count.rows_dropped_total()), (2, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_gets_its_own_answer_in_the_form_of_the_request_and_nothing_is_taken() {
    let rig = Rig::new();
    let api = api(&rig);
    let bomb = gzip(&vec![0; 8 << 20]);
    for (headers, body, status, code) in [
        (vec![JSON], b"{".to_vec(), 400, "http.bad_message"),
        (vec![PROTOBUF], b"\x0a\xff".to_vec(), 400, "http.bad_message"),
        (vec![("content-type", "text/plain")], vec![], 415, "http.type_unknown"),
        (vec![PROTOBUF, ("content-encoding", "br")], vec![], 415, "http.encoding_unknown"),
        (vec![PROTOBUF, ("content-encoding", "gzip")], bomb.clone(), 413, "http.too_large"),
        (vec![PROTOBUF], vec![0; 2 << 20], 413, "http.too_large"),
    ] {
        let answer = post(&api, "/v1/logs", &headers, body).await;
        assert_eq!(answer.status, status, "{headers:?}");
        assert!(answer.text().contains(code), "{headers:?}: {}", answer.text());
        assert!(!answer.headers.contains_key("retry-after"), "{headers:?}");
    }
    for (headers, message, status) in [
        (vec![], b"\x0a\xff".to_vec(), "3"),
        (vec![("grpc-encoding", "snappy")], vec![], "12"),
        (vec![("grpc-encoding", "gzip")], bomb, "8"),
        (vec![], vec![0; 2 << 20], "8"),
    ] {
        let answer = call(&api, &headers, &message).await;
        assert_eq!((answer.status, answer.grpc()), (200, status), "{headers:?}");
    }
    let answer = post(&api, GRPC_LOGS, &[GRPC], vec![0, 0, 0, 0, 9, 1]).await;
    assert_eq!(answer.grpc(), "3", "a call that is cut");
    assert!(rig.batches("otlp.logs").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_buffer_asks_to_come_again() {
    let rig = Rig::with_buffer(r#"{"segment_bytes": 65536, "budget": 262144, "retain": 0}"#);
    let api = api(&rig);
    let mut waiting = Vec::new();
    let answer = loop {
        let noise: Vec<String> = (0..200_u64)
            .map(|n| {
                blake3::hash(&[n, waiting.len() as u64, rand()].map(u64::to_le_bytes).concat())
                    .to_hex()
                    .to_string()
            })
            .collect();
        let body = logs(&noise.iter().map(String::as_str).collect::<Vec<_>>());
        let own = api.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the test")]
        let mut request = tokio::spawn(async move { post(&own, "/v1/logs", &[JSON], body).await });
        match tokio::time::timeout(Duration::from_secs(2), &mut request).await {
            Ok(answer) => match answer.unwrap() {
                Answer { status: 200, .. } => {}
                other => break other,
            },
            // The one that uses up the room waits for more; those behind it are told at once.
            Err(_) => waiting.push(request),
        }
        assert!(waiting.len() < 3, "the others are not told");
    };
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(answer.headers["retry-after"], "1");
    assert!(answer.text().contains("http.buffer_full"));
    let protobuf = json_to_protobuf(Signal::Logs, logs(&["x"]).as_bytes()).unwrap();
    let answer = call(&api, &[], &protobuf).await;
    assert_eq!(answer.grpc(), "8");
    assert!(answer.headers.contains_key("grpc-status-details-bin"), "RetryInfo: {:?}", answer.headers);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

/// A number that was not there before.
fn rand() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_a_client_needs_the_token_and_the_certificate_that_are_asked_for() {
    let rig = Rig::new();
    let clock = rig.deps.ingress.clock.clone();
    let folder = Utf8PathBuf::from_path_buf(rig.path("tls")).unwrap();
    let authority = aap_transport::Authority::create_or_open(&folder, clock).unwrap();
    let server = authority.server_files(&["localhost".into()]).unwrap();
    let client = authority.node_files(&"n1".parse().unwrap()).unwrap();
    std::fs::write(rig.path("token"), "secret\n").unwrap();
    set_mode(&rig.path("token"), 0o600);
    let spec = serde_json::json!({
        "type": "otlp", "http": "127.0.0.1:0", "token_file": "token",
        "tls": { "certificate": server.certificate, "key": server.key, "client_ca": authority.root_path() },
    });
    let spec: OtlpSpec = serde_json::from_value(spec).unwrap();
    let shutdown = Shutdown::default();
    rig.deps.board.add_source("otlp", crate::testing::entry());
    let source = run("otlp".into(), spec, rig.deps.clone(), shutdown.clone());
    let clients = async {
        rig.until("it listens", |rig| rig.deps.board.sources()["otlp"].detail.starts_with("listens")).await;
        let address = rig.deps.board.sources()["otlp"].detail.rsplit(' ').next().unwrap().to_owned();
        let identity = Some((client.certificate, client.key));
        let ask = async |identity: Option<(Utf8PathBuf, Utf8PathBuf)>, token: &str| {
            let tls = aap_transport::OutwardTls { ca: Some(authority.root_path()), identity };
            let connector = tokio_rustls::TlsConnector::from(tls.client(&[b"http/1.1"]).unwrap());
            let tcp = tokio::net::TcpStream::connect(&address).await.unwrap();
            let mut stream = connector.connect("localhost".try_into().unwrap(), tcp).await.ok()?;
            let body = logs(&["over TLS"]);
            let request = format!(
                "POST /v1/logs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                 authorization: Bearer {token}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            answer.split(' ').nth(1).map(str::to_owned)
        };
        assert_eq!(ask(identity.clone(), "secret").await.as_deref(), Some("200"));
        assert_eq!(ask(identity, "wrong").await.as_deref(), Some("401"));
        assert_eq!(ask(None, "secret").await, None, "without a certificate there is no answer at all");
        shutdown.request();
    };
    let (ended, ()) = tokio::join!(source, clients);
    ended.unwrap();
    assert_eq!(rig.texts("otlp.logs", "body"), ["over TLS"]);
}

fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
