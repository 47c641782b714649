//! Routes over real sockets: servers that are slow, dead, broken; bodies that are too large; WebSockets and events.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its tasks and waits end with it"
)]

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aap_gateway::route::{Asked, ProxyBody, RouteProxy, RouteSpec};
use aap_runtime::{Clock, ManualClock, Shutdown, Supervisor};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves `router` and says where.
async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

/// A route at `upstreams`, with `more` of a spec, behind a server.
struct Route {
    address: SocketAddr,
    proxy: Arc<RouteProxy>,
    clock: Arc<ManualClock>,
}

impl Route {
    async fn to(upstreams: &[SocketAddr], more: Value) -> Self {
        let urls: Vec<String> = upstreams.iter().map(|address| format!("http://{address}")).collect();
        let mut spec = json!({
            "match": {"prefix": "/"}, "public": true, "idle_seconds": 1,
            "upstreams": {"urls": urls, "allow": {"loopback": true}},
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec: RouteSpec = serde_json::from_value(spec).unwrap();
        spec.check().unwrap();
        let clock = Arc::new(ManualClock::at(1));
        let tasks = Supervisor::new(Shutdown::default());
        let proxy = Arc::new(RouteProxy::new("r", spec, None, clock.clone() as Arc<dyn Clock>, tasks));
        let passing = proxy.clone();
        let router = Router::new().fallback(move |request: Request| pass(passing.clone(), request));
        Self { address: serve(router).await, proxy, clock }
    }

    /// Status, head and body of the answer to a request, which is written as it stands.
    async fn ask(&self, head: &str, body: &[u8]) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let head = format!("{head}\r\nhost: here\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        // At once: whoever refuses a body does not wait for the rest of it.
        stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        let mut answer = vec![];
        stream.read_to_end(&mut answer).await.ok();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or("0").parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    async fn get(&self, path: &str) -> u16 {
        self.ask(&format!("GET {path} HTTP/1.1"), b"").await.0
    }
}

async fn pass(proxy: Arc<RouteProxy>, request: Request) -> Response {
    let asked = Asked { client: [10, 1, 2, 3].into(), is_tls: false, request_id: "r-1".to_owned(), fresh: 7 };
    let request = request.map(|body| -> ProxyBody { body.map_err(Into::into).boxed_unsync() });
    let response = match proxy.forward(&asked, None, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    };
    response.map(Body::new)
}

fn code(body: &str) -> String {
    let start = body.find('{').unwrap_or(0);
    let end = body.rfind('}').map_or(body.len(), |end| end + 1);
    let told: Value = serde_json::from_str(&body[start..end]).unwrap_or_default();
    told["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// Answers with what came.
async fn mirror(uri: Uri, headers: HeaderMap, body: String) -> Response {
    let headers: serde_json::Map<String, Value> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap())))
        .collect();
    axum::Json(json!({"uri": uri.to_string(), "headers": headers, "body": body, "secret": 1})).into_response()
}

/// An address at which nobody listens.
async fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_request_arrives_as_the_route_wants_it_and_so_does_its_answer() {
    let upstream = serve(Router::new().fallback(mirror)).await;
    let rewrite = json!({
        "request": {
            "strip": "/models", "prefix": "/v1", "set": {"x-new": "2"}, "remove": ["x-old"],
            "json": {"set": {"a.b": true}, "remove": ["password"]},
        },
        "response": {"set": {"x-by": "gateway"}, "json": {"remove": ["secret"]}},
    });
    let route = Route::to(&[upstream], rewrite).await;
    let head = "POST /models/a?x=%20y HTTP/1.1\r\ncontent-type: application/json\r\nx-old: 1\r\nx-mine: 1\r\n\
                x-forwarded-for: 9.9.9.9\r\nte: trailers";
    let (status, head, body) = route.ask(head, br#"{"password": "p", "n": 1}"#).await;
    assert_eq!(status, 200, "{head} {body}");
    assert!(head.contains("x-by: gateway"), "{head}");
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&told["uri"], told.get("secret")), (&json!("/v1/a?x=%20y"), None));
    let sent: Value = serde_json::from_str(told["body"].as_str().unwrap()).unwrap();
    assert_eq!(sent, json!({"n": 1, "a": {"b": true}}));
    let headers = &told["headers"];
    assert_eq!(headers["x-forwarded-for"], "10.1.2.3");
    assert_eq!((&headers["x-forwarded-host"], &headers["x-request-id"]), (&json!("here"), &json!("r-1")));
    assert_eq!((&headers["host"], &headers["x-new"]), (&json!(upstream.to_string()), &json!("2")));
    assert!(headers["traceparent"].as_str().unwrap().starts_with("00-"));
    for gone in ["x-old", "te", "connection"] {
        assert!(headers.get(gone).is_none(), "{gone}: {headers}");
    }
}

#[tokio::test]
async fn what_opens_the_platform_stays_here_and_what_opens_the_upstream_is_read_from_its_file() {
    let upstream = serve(Router::new().fallback(mirror)).await;
    let file = std::env::temp_dir().join(format!("aap-route-secret-{}", std::process::id()));
    std::fs::write(&file, "Bearer theirs\n").unwrap();
    let auth = json!({"resource": "model", "verb": "operate", "name": "m"});
    let plain = Route::to(&[upstream], json!({"public": false, "auth": auth})).await;
    let with_secret = json!({"secrets": {"authorization": format!("file:{}", file.display())}});
    let secret = Route::to(&[upstream], json!({"public": false, "auth": auth, "request": with_secret})).await;
    let sent = async |route: &Route| {
        let (_, _, body) = route.ask("GET / HTTP/1.1\r\nauthorization: Bearer ours", b"").await;
        serde_json::from_str::<Value>(&body).unwrap()["headers"]["authorization"].clone()
    };
    assert_eq!((sent(&plain).await, sent(&secret).await), (Value::Null, json!("Bearer theirs")));
    std::fs::remove_file(&file).unwrap();
    let (status, _, body) = secret.ask("GET / HTTP/1.1", b"").await;
    assert_eq!((status, code(&body)), (500, "gateway.secret".to_owned()));
}

#[tokio::test]
async fn bodies_that_are_too_large_or_unpack_to_too_much_are_refused_and_never_arrive() {
    let arrived = Arc::new(AtomicUsize::new(0));
    let counted = arrived.clone();
    let upstream = Router::new().fallback(async move |body: axum::body::Bytes| {
        counted.fetch_add(1, Ordering::Relaxed);
        body.len().to_string()
    });
    let limits = json!({"body": {"bytes": "6KiB", "decoded_bytes": "1MiB"}});
    let sizes = serve(upstream).await;
    let route = Route::to(&[sizes], limits).await;
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let packed = "POST / HTTP/1.1\r\ncontent-encoding: gzip";
    assert_eq!(route.ask("POST / HTTP/1.1", &[7; 7 << 10]).await.0, 413);
    for (body, expected) in
        [(gzip(&vec![0; 4 << 20]), "gateway.too_large"), (b"none".to_vec(), "gateway.bad_body")]
    {
        let (_, _, told) = route.ask(packed, &body).await;
        assert_eq!(code(&told), expected);
    }
    let (status, _, told) = route.ask("POST / HTTP/1.1\r\ncontent-encoding: br", b"x").await;
    assert_eq!((status, code(&told)), (415, "gateway.encoding_unknown".to_owned()));
    assert_eq!(arrived.load(Ordering::Relaxed), 0);
    let text = gzip(&b"some words ".repeat(50));
    assert_eq!(route.ask(packed, &text).await.2, text.len().to_string(), "as it came");
    // What is larger than what is kept goes through as it comes.
    let whole = Route::to(&[sizes], json!({})).await;
    assert_eq!(whole.ask("POST / HTTP/1.1", &[7; 150 << 10]).await.2, (150 << 10).to_string());
}

#[tokio::test]
async fn a_dead_server_is_passed_over_and_a_slow_one_is_not_waited_for() {
    let up = serve(Router::new().fallback(async || "up")).await;
    let route = Route::to(&[dead().await, up], json!({})).await;
    for _ in 0..4 {
        assert_eq!(route.get("/").await, 200, "repeated at the other");
    }
    let one = Route::to(&[dead().await], json!({"retries": 0})).await;
    let (status, _, body) = one.ask("GET / HTTP/1.1", b"").await;
    assert_eq!((status, code(&body)), (502, "gateway.upstream_failed".to_owned()));
    let slow =
        serve(Router::new().fallback(async || tokio::time::sleep(Duration::from_secs(60)).await)).await;
    let route = Route::to(&[slow], json!({"timeout_seconds": 1, "retries": 0})).await;
    let began = Instant::now();
    let (status, _, body) = route.ask("GET / HTTP/1.1", b"").await;
    assert_eq!((status, code(&body)), (504, "gateway.upstream_late".to_owned()));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn what_may_not_be_done_twice_is_asked_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let upstream = serve(Router::new().fallback(async move || {
        counted.fetch_add(1, Ordering::Relaxed);
        StatusCode::SERVICE_UNAVAILABLE
    }))
    .await;
    let breaker = json!({"retries": 2, "breaker": {"failures": 100}});
    let route = Route::to(&[upstream], breaker).await;
    assert_eq!(route.ask("POST / HTTP/1.1", b"x").await.0, 503);
    assert_eq!(asked.swap(0, Ordering::Relaxed), 1);
    assert_eq!(route.ask("PUT / HTTP/1.1", b"x").await.0, 503);
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_storm_of_errors_opens_the_breaker_and_one_success_closes_it() {
    let (asked, is_well) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, well) = (asked.clone(), is_well.clone());
    let upstream = serve(Router::new().fallback(async move || {
        counted.fetch_add(1, Ordering::Relaxed);
        if well.load(Ordering::Relaxed) == 1 { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
    }))
    .await;
    let breaker = json!({"retries": 0, "breaker": {"failures": 3, "open_seconds": 10}});
    let route = Route::to(&[upstream], breaker).await;
    for _ in 0..3 {
        assert_eq!(route.get("/").await, 500);
    }
    for _ in 0..5 {
        let (status, head, body) = route.ask("GET / HTTP/1.1", b"").await;
        assert_eq!((status, code(&body)), (503, "gateway.no_upstream".to_owned()));
        assert!(head.contains("retry-after: 10"), "{head}");
    }
    assert_eq!((asked.load(Ordering::Relaxed), route.proxy.standing()), (3, (1, 1)), "it is left alone");
    route.clock.advance(Duration::from_secs(10));
    assert_eq!((route.get("/").await, route.get("/").await), (500, 503), "the trial failed");
    is_well.store(1, Ordering::Relaxed);
    route.clock.advance(Duration::from_secs(10));
    assert_eq!((route.get("/").await, route.get("/").await), (200, 200));
    assert_eq!(route.proxy.standing(), (1, 0));
}

#[tokio::test]
async fn a_probe_opens_and_closes_the_breaker_without_any_request() {
    let is_well = Arc::new(AtomicUsize::new(0));
    let well = is_well.clone();
    let upstream = Router::new().route(
        "/healthz",
        axum::routing::get(async move || {
            if well.load(Ordering::Relaxed) == 1 { StatusCode::OK } else { StatusCode::NOT_FOUND }
        }),
    );
    let upstream = upstream.fallback(async || "up");
    let breaker = json!({"breaker": {"failures": 1, "open_seconds": 1, "probe": "/healthz"}});
    let route = Route::to(&[serve(upstream).await], breaker).await;
    let shutdown = Shutdown::default();
    let probing = tokio::spawn(route.proxy.clone().probe(shutdown.clone()));
    let until = async |open: usize| {
        let began = Instant::now();
        while route.proxy.standing() != (1, open) {
            assert!(began.elapsed() < Duration::from_secs(20));
            tokio::task::yield_now().await;
        }
    };
    until(1).await;
    assert_eq!(route.get("/").await, 503);
    is_well.store(1, Ordering::Relaxed);
    until(0).await;
    assert_eq!(route.get("/").await, 200);
    shutdown.request();
    probing.await.unwrap();
}

#[tokio::test]
async fn a_route_does_not_lead_to_this_machine_or_to_metadata_unless_it_may() {
    let upstream = serve(Router::new().fallback(async || "up")).await;
    let host = format!("http://localhost:{}", upstream.port());
    let private = json!({"upstreams": {"urls": [host], "allow": {"private": true}}});
    let metadata = json!({"upstreams": {"urls": ["http://169.254.169.254"], "allow": {"loopback": true, "private": true}}});
    for spec in [private, metadata] {
        let route = Route::to(&[], spec).await;
        let (status, _, body) = route.ask("GET / HTTP/1.1", b"").await;
        assert_eq!((status, code(&body)), (502, "gateway.out_of_reach".to_owned()), "{body}");
    }
}

#[tokio::test]
async fn events_come_one_by_one_and_a_stream_that_stands_still_ends() {
    let events = Router::new().fallback(async || {
        let steps = futures::stream::unfold(0, async |step: u32| match step {
            0 | 1 => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Some((Ok::<_, std::io::Error>(format!("data: {step}\n\n")), step + 1))
            }
            _ => std::future::pending().await,
        });
        ([("content-type", "text/event-stream")], Body::from_stream(steps))
    });
    let route = Route::to(&[serve(events).await], json!({})).await;
    let mut stream = TcpStream::connect(route.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    let mut seen = String::new();
    let mut piece = [0; 4096];
    let began = Instant::now();
    while !seen.contains("data: 0") {
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert!(!seen.contains("data: 1"), "the first came before there was a second: {seen}");
    let mut rest = vec![];
    stream.read_to_end(&mut rest).await.ok();
    assert!(String::from_utf8_lossy(&rest).contains("data: 1"));
    assert!(began.elapsed() < Duration::from_secs(10), "idle for a second, and then over");
}

#[tokio::test]
async fn a_web_socket_passes_through_both_ways_and_ends_with_either_side() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    // A server of WebSockets that echoes whatever comes after the handshake.
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![];
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        String::from_utf8(head).unwrap().to_lowercase()
    });
    let route = Route::to(&[upstream], json!({})).await;
    let mut stream = TcpStream::connect(route.address).await.unwrap();
    let head = "GET /chat HTTP/1.1\r\nhost: here\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![];
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    for frame in [&b"\x81\x85\x00\x00\x00\x00hello"[..], &[0x82; 70_000][..]] {
        let (mut read, mut write) = stream.split();
        let mut echoed = vec![0; frame.len()];
        let (sent, received) =
            futures::future::join(write.write_all(frame), read.read_exact(&mut echoed)).await;
        sent.unwrap();
        received.unwrap();
        assert_eq!(echoed, frame);
    }
    drop(stream);
    let seen = server.await.unwrap();
    assert!(seen.contains("upgrade: websocket") && seen.contains("sec-websocket-key"), "{seen}");
}
