//! Clients that hold on to connections: the deadlines are short here, and each test waits for what the server does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::routing::get;
use futures::StreamExt;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::listener::Security;

/// What a test waits at most for what must come at once, or after a deadline of [`limits`].
const SOON: Duration = Duration::from_secs(20);
/// A deadline that no test waits for.
const NEVER: Duration = Duration::from_secs(3_600);
/// One that they do.
const SHORT: Duration = Duration::from_millis(200);

/// None of which ends within a test.
fn limits() -> HttpLimits {
    HttpLimits {
        first_request: NEVER,
        idle: NEVER,
        ping_every: NEVER,
        ping: NEVER,
        close: NEVER,
        ..HttpLimits::default()
    }
}

/// A server, which answers `/` at once, and `/quiet` in two parts: the second one when it may; `/known` is the same for somebody known.
struct Server {
    address: SocketAddr,
    go_on: Arc<Semaphore>,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
}

impl Server {
    #[expect(clippy::disallowed_methods, reason = "a test waits for it, or ends it with its runtime")]
    async fn start(limits: HttpLimits) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let go_on = Arc::new(Semaphore::new(0));
        let may = go_on.clone();
        let quiet = async move || {
            let second = async move { may.acquire().await.map(|_| "second").map_err(axum::Error::new) };
            let first = futures::stream::once(async { Ok("first") });
            Body::from_stream(first.chain(futures::stream::once(second)))
        };
        let quietly = quiet.clone();
        let known = async move |Extension(asker): Extension<Asker>| {
            asker.mark_known();
            quietly().await
        };
        let router = Router::new().route("/", get(async || "all")).route("/known", get(known));
        let router = router.route("/quiet", get(quiet));
        let shutdown = Shutdown::default();
        let listener = HttpListener::new(tcp, Security::Plain).limited(limits).with_hops(|_| false);
        let serving = tokio::spawn(serve_http(listener, router, shutdown.clone()));
        Self { address, go_on, shutdown, serving }
    }

    async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(self.address)).await.unwrap()
    }

    /// Over HTTP/2.
    async fn get(&self, client: &HttpClient<HttpConnector, Body>, path: &str) -> Body {
        let uri = format!("http://{}{path}", self.address).parse().unwrap();
        Body::new(within(client.get(uri)).await.unwrap().into_body())
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.expect("it comes in time")
}

/// Waits until the server has closed a connection, and says what it sent before.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut sent = vec![];
    // Whether by an end or a reset.
    within(stream.read_to_end(&mut sent)).await.ok();
    sent
}

/// Asks over HTTP/1, and reads the answer.
async fn ask(stream: &mut TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = vec![];
    while !answer.ends_with(b"all") {
        assert_ne!(within(stream.read_buf(&mut answer)).await.unwrap(), 0, "{answer:?}");
    }
}

fn http2() -> HttpClient<HttpConnector, Body> {
    HttpClient::builder(TokioExecutor::new()).http2_only(true).build_http()
}

async fn next(body: &mut Body) -> Bytes {
    let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
    within(frame).await.unwrap().unwrap().into_data().unwrap()
}

#[tokio::test]
async fn whoever_connects_and_says_nothing_is_shown_out() {
    let server = Server::start(HttpLimits { first_request: SHORT, close: SHORT, ..limits() }).await;
    let mut silent = server.connect().await;
    let mut served = server.connect().await;
    ask(&mut served).await;
    assert_eq!(closed(&mut silent).await, b"");
    ask(&mut served).await;
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_not_waited_for() {
    let server = Server::start(HttpLimits { first_request: SHORT, close: SHORT, ..limits() }).await;
    let (mut reading, mut writing) = server.connect().await.into_split();
    let slowly = async {
        for byte in b"GET / HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'a')) {
            // Each of them comes before any deadline.
            tokio::time::sleep(SHORT / 10).await;
            if writing.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    };
    let (answer, ()) = within(async { tokio::join!(closed(&mut reading), slowly) }).await;
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn the_head_of_a_later_request_is_waited_for_as_long_as_a_connection_may_be_idle() {
    let server = Server::start(HttpLimits { idle: SHORT, close: SHORT, ..limits() }).await;
    let mut stream = server.connect().await;
    ask(&mut stream).await;
    stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    assert_eq!(closed(&mut stream).await, b"");
}

#[tokio::test]
async fn one_address_has_its_share_and_others_are_served_beside_it() {
    let server = Server::start(HttpLimits { connections_per_address: 3, ..limits() }).await;
    let mut held = vec![];
    for _ in 0..3 {
        let mut stream = server.connect().await;
        ask(&mut stream).await;
        held.push(stream);
    }
    assert_eq!(closed(&mut server.connect().await).await, b"");
    let other = TcpSocket::new_v4().unwrap();
    other.bind((IpAddr::from(Ipv4Addr::new(127, 0, 0, 2)), 0).into()).unwrap();
    let mut other = within(other.connect(server.address)).await.unwrap();
    ask(&mut other).await;

    // One that goes makes room; when that is seen is the server's affair.
    drop(held.pop());
    within(async {
        loop {
            let mut stream = server.connect().await;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.ok();
            if stream.read(&mut [0]).await.is_ok_and(|count| count > 0) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_quiet_for_longer_than_a_connection_may_be_idle_goes_on() {
    let deadlines = HttpLimits { first_request: SHORT, idle: SHORT, close: SHORT, ..limits() };
    let server = Server::start(HttpLimits { ping_every: SHORT / 4, ping: SOON, ..deadlines }).await;
    let client = http2();
    let mut over_http2 = server.get(&client, "/quiet").await;
    assert_eq!(next(&mut over_http2).await, "first");
    let mut over_http1 = server.connect().await;
    over_http1.write_all(b"GET /quiet HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = vec![];
    while !answer.windows(5).any(|window| window == b"first") {
        assert_ne!(within(over_http1.read_buf(&mut answer)).await.unwrap(), 0);
    }
    // As long as two that begin now are open, the one after the other.
    for _ in 0..2 {
        let mut idle = server.connect().await;
        ask(&mut idle).await;
        closed(&mut idle).await;
    }
    server.go_on.add_permits(2);
    assert_eq!(next(&mut over_http2).await, "second");
    // What was idle longest ends last, but it ends.
    let rest = closed(&mut over_http1).await;
    assert!(rest.windows(6).any(|window| window == b"second"), "{rest:?}");
}

#[tokio::test]
async fn a_connection_of_http2_without_streams_ends_and_its_client_comes_again() {
    let server = Server::start(HttpLimits { idle: SHORT, connections: 1, ..limits() }).await;
    let client = http2();
    let mut first = server.get(&client, "/").await;
    assert_eq!(next(&mut first).await, "all");
    drop(first);
    // There is room for one, so whoever else comes is served when it has ended.
    let mut other = server.connect().await;
    ask(&mut other).await;
    drop(other);
    assert_eq!(next(&mut server.get(&client, "/").await).await, "all");
}

#[tokio::test]
async fn whoever_is_gone_in_the_middle_of_an_answer_is_noticed() {
    let server = Server::start(HttpLimits { ping_every: SHORT, ping: SHORT, ..limits() }).await;
    let mut gone = server.connect().await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // GET, http, `/quiet` (RFC 7541, appendix A: the path with the value that follows).
    let mut headers = vec![0, 0, 10, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x04, 6];
    headers.extend(b"/quiet");
    gone.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings, &headers].concat())
        .await
        .unwrap();
    let sent = closed(&mut gone).await;
    assert!(sent.windows(5).any(|window| window == b"first"), "it was being answered: {sent:?}");
}

#[tokio::test]
async fn strangers_who_do_not_read_or_wait_hold_no_connection_and_whoever_is_known_may() {
    let server = Server::start(HttpLimits { stranger: Some(SHORT), ..limits() }).await;
    let client = http2();
    let mut known = server.get(&client, "/known").await;
    assert_eq!(next(&mut known).await, "first");
    let mut waits = server.connect().await;
    waits.write_all(b"GET /quiet HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let sent = closed(&mut waits).await;
    assert!(sent.windows(5).any(|window| window == b"first"), "{sent:?}");
    // SETTINGS: the window of a stream has 0 bytes. GET, http, `/` (RFC 7541, appendix A).
    let mut does_not_read = server.connect().await;
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    let headers = [0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    does_not_read.write_all(&[preface, &settings, &headers].concat()).await.unwrap();
    let sent = closed(&mut does_not_read).await;
    assert!(!sent.windows(3).any(|window| window == b"all"), "{sent:?}");
    // It has lasted longer than either.
    server.go_on.add_permits(1);
    assert_eq!(next(&mut known).await, "second");
}

#[tokio::test]
async fn at_the_end_what_was_asked_is_answered_and_what_was_not_is_not_waited_for() {
    let mut server = Server::start(HttpLimits { close: SHORT, ..limits() }).await;
    let mut begun = server.connect().await;
    begun.write_all(b"GET / HTTP").await.unwrap();
    let client = http2();
    let mut quiet = server.get(&client, "/quiet").await;
    assert_eq!(next(&mut quiet).await, "first");
    server.shutdown.request();
    assert_eq!(closed(&mut begun).await, b"");
    assert!(!server.serving.is_finished());
    server.go_on.add_permits(1);
    assert_eq!(next(&mut quiet).await, "second");
    drop((quiet, client));
    within(&mut server.serving).await.unwrap();
    within(TcpStream::connect(server.address)).await.unwrap_err();
}
