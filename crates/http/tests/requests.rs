//! The HTTP sink against a server that remembers what it was sent under which name, and can lose answers.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its tasks and waits end with it"
)]

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aap_http::HttpSink;
use aap_sinks::conformance::{self, Server, Stored, key, slice};
use aap_sinks::{FailureKind, Group, Ledger, MemoryLedger, Sink, Target};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// What a server has taken, and how it is to behave.
#[derive(Default)]
struct Memory {
    rows: Vec<Value>,
    /// By `Idempotency-Key`: the body as it was sent.
    taken: HashMap<String, Bytes>,
    headers: Vec<HeaderMap>,
    /// So many requests are taken, and nobody is told.
    loses: usize,
    /// Every request gets this answer, and nothing is taken.
    refuses: Option<StatusCode>,
    /// Requests with this value in `n` are not taken.
    bad: Option<i64>,
    requests: usize,
}

struct Http {
    address: SocketAddr,
    memory: Arc<Mutex<Memory>>,
    ledger: Arc<dyn Ledger>,
    serving: Mutex<JoinHandle<()>>,
}

impl Http {
    async fn new() -> Self {
        let memory = Arc::new(Mutex::new(Memory::default()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Mutex::new(serve(listener, memory.clone()));
        Self { address, memory, ledger: Arc::new(MemoryLedger::default()), serving }
    }

    fn with(&self, more: Value) -> HttpSink {
        let mut spec = json!({"url": format!("http://{}/in/{{stream}}", self.address)});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let target = Target { name: "hook".into(), uid: "0123456789abcdef0123456789abcdef".into() };
        HttpSink::new(target, serde_json::from_value(spec).unwrap(), self.ledger.clone())
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }
}

fn serve(listener: tokio::net::TcpListener, memory: Arc<Mutex<Memory>>) -> JoinHandle<()> {
    let app = axum::Router::new().fallback(take).with_state(memory);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() })
}

async fn take(
    State(memory): State<Arc<Mutex<Memory>>>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT;
    }
    let mut memory = memory.lock().unwrap();
    memory.requests += 1;
    if let Some(status) = memory.refuses {
        return status;
    }
    let rows = rows(&headers, &body);
    if memory.bad.is_some_and(|bad| rows.iter().any(|row| row["n"] == bad)) {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    let name = headers["idempotency-key"].to_str().unwrap().to_owned();
    match memory.taken.get(&name) {
        Some(former) => assert_eq!(*former, body, "another body under the name `{name}`"),
        None => {
            memory.rows.extend(rows);
            memory.taken.insert(name, body);
            memory.headers.push(headers);
        }
    }
    if memory.loses > 0 {
        memory.loses -= 1;
        return StatusCode::BAD_GATEWAY;
    }
    StatusCode::ACCEPTED
}

fn rows(headers: &HeaderMap, body: &Bytes) -> Vec<Value> {
    let mut text = String::new();
    match headers.get("content-encoding").map(|encoding| encoding.to_str().unwrap()) {
        Some("gzip") => drop(flate2::read::GzDecoder::new(body.as_ref()).read_to_string(&mut text).unwrap()),
        Some("zstd") => drop(zstd::Decoder::new(body.as_ref()).unwrap().read_to_string(&mut text).unwrap()),
        _ => drop(body.as_ref().read_to_string(&mut text).unwrap()),
    }
    match headers["content-type"].to_str().unwrap() {
        "application/json" => serde_json::from_str(&text).unwrap(),
        _ => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    }
}

impl Server for Http {
    fn sink(&self) -> Box<dyn Sink> {
        Box::new(self.with(json!({})))
    }

    fn stored(&self) -> BoxFuture<'_, Vec<Stored>> {
        let number = |row: &Value, name: &str| row[name].as_u64().unwrap();
        let stored = self
            .memory()
            .rows
            .iter()
            .map(|row| Stored {
                node: row["_node"].as_str().unwrap().to_owned(),
                epoch: number(row, "_epoch"),
                seq: number(row, "_seq"),
                row: number(row, "_row"),
                n: number(row, "n") as i64,
            })
            .collect();
        Box::pin(async { stored })
    }

    fn restart(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.serving.lock().unwrap().abort();
            let listener = loop {
                // The former one lets go of the port as soon as its task has ended.
                match tokio::net::TcpListener::bind(self.address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            *self.serving.lock().unwrap() = serve(listener, self.memory.clone());
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sink_passes_the_suite() {
    conformance::run(&Http::new().await).await;
}

fn group(after: u64, through: u64) -> Group {
    Group { slices: ["edge-1", "edge-2"].map(|node| slice(&key(node, "events"), after, through)).into() }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_name() {
    let server = Http::new().await;
    let mut first = server.with(json!({"compression": "gzip"}));
    first.resume_point().await.unwrap();
    first.write(&group(0, 3)).await.unwrap();
    server.memory().loses = 1;
    let failure = first.write(&group(3, 9)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Retry, "{failure:?}");

    // Its successor knows what was on its way, and whoever honours the names takes it once.
    let mut second = server.with(json!({"compression": "gzip"}));
    assert!(second.resume_point().await.unwrap().values().all(|through| through.0 == 3));
    assert_eq!(second.intended(), group(3, 9).ranges());
    second.write(&group(3, 9)).await.unwrap();
    assert!(second.intended().is_empty());
    second.write(&group(9, 10)).await.unwrap();
    assert_eq!(first.write(&group(9, 10)).await.unwrap_err().kind, FailureKind::Moved);
    let stored = server.stored().await;
    assert_eq!(stored.len(), 2 * 10 * 7);
    let distinct: std::collections::BTreeSet<_> = stored.into_iter().collect();
    assert_eq!(distinct.len(), 2 * 10 * 7);
}

#[tokio::test]
async fn a_request_says_what_it_is_and_who_sends_it() {
    let server = Http::new().await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "s3cret\n").unwrap();
    for (number, compression) in ["none", "gzip", "zstd"].iter().enumerate() {
        for (place, format) in ["ndjson", "json"].iter().enumerate() {
            let mut sink = server.with(json!({
                "compression": compression, "format": format, "method": "PUT", "headers": {"X-Site": "oslo"},
                "bearer": format!("file:{}", token.path().display()),
            }));
            sink.resume_point().await.unwrap();
            let after = (2 * number + place) as u64;
            sink.write(&group(after, after + 1)).await.unwrap();
        }
    }
    let memory = server.memory();
    assert_eq!(memory.rows.len(), 6 * 14);
    let first = &memory.headers[0];
    let header = |name: &str| first[name].to_str().unwrap();
    let range = format!("{}/1-1", key("edge-1", "events"));
    assert_eq!(header("idempotency-key"), format!("0123456789abcdef0123456789abcdef/{range}"));
    assert_eq!(
        (header("aap-batch"), header("aap-stream"), header("aap-rows")),
        (range.as_str(), "events", "7")
    );
    assert_eq!((header("authorization"), header("x-site")), ("Bearer s3cret", "oslo"));
}

#[tokio::test]
async fn what_the_server_says_decides_whether_to_wait_to_act_or_to_look_for_rows() {
    let server = Http::new().await;
    let mut sink = server.with(json!({}));
    sink.resume_point().await.unwrap();
    for (status, kind, code) in [
        (503, FailureKind::Retry, "sink.unreachable"),
        (429, FailureKind::Retry, "sink.unreachable"),
        (409, FailureKind::Retry, "sink.unreachable"),
        (401, FailureKind::Refused, "sink.denied"),
        (403, FailureKind::Refused, "sink.denied"),
        (404, FailureKind::Refused, "sink.server_refused"),
        (302, FailureKind::Refused, "sink.server_refused"),
        (400, FailureKind::Group, "sink.group_refused"),
        (413, FailureKind::Group, "sink.group_refused"),
        (422, FailureKind::Group, "sink.group_refused"),
    ] {
        server.memory().refuses = Some(StatusCode::from_u16(status).unwrap());
        let failure = sink.write(&group(0, 1)).await.unwrap_err();
        assert_eq!((failure.kind, failure.problem.code.as_str()), (kind, code), "{status}");
    }
    server.memory().refuses = None;
    sink.write(&group(0, 1)).await.unwrap();
    assert_eq!(server.stored().await.len(), 14);
}

#[tokio::test]
async fn a_refused_request_leaves_the_others_under_their_names() {
    let server = Http::new().await;
    let mut sink = server.with(json!({"concurrency": 1}));
    sink.resume_point().await.unwrap();
    // Row 8 is of batch 1, which both nodes have; only the second node's is in the way after the first one's was taken.
    server.memory().bad = Some(15);
    let both =
        Group { slices: vec![slice(&key("edge-1", "events"), 0, 1), slice(&key("edge-2", "events"), 0, 2)] };
    assert_eq!(sink.write(&both).await.unwrap_err().kind, FailureKind::Group);
    // As the runner does: halves, each of them a group of its own.
    sink.write(&Group { slices: vec![both.slices[0].clone()] }).await.unwrap();
    sink.write(&Group { slices: vec![slice(&key("edge-2", "events"), 0, 1)] }).await.unwrap();
    assert_eq!(server.stored().await.len(), 14);
    assert_eq!(server.memory().requests, 4, "the first node's rows were sent twice, and taken once");
}

#[tokio::test]
async fn a_probe_sends_no_rows_and_says_when_nobody_is_there() {
    let server = Http::new().await;
    let lines = server.with(json!({})).probe().await.unwrap();
    assert!(lines[0].ends_with("answers OPTIONS with 204 No Content"), "{lines:?}");
    assert_eq!(server.memory().requests, 0);
    let away = server.with(json!({"url": "http://127.0.0.1:1/"})).probe().await.unwrap_err();
    assert_eq!((away.kind, away.problem.code.as_str()), (FailureKind::Retry, "sink.unreachable"));
}
