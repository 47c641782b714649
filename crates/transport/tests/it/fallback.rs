//! UDP that does not get through, stops getting through, and gets through again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aap_transport::{Carrier, ClientConfig, Dialer, Error, Prefer, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::Instant;

use crate::support::{Platform, greet, make_batch, schema, within};

/// The promise.
const FALLBACK: Duration = Duration::from_secs(5);

/// Forwards TCP and UDP, each while it is told to, on one port number.
struct Proxy {
    address: SocketAddr,
    tcp_passes: Arc<AtomicBool>,
    udp_passes: Arc<AtomicBool>,
    server: Server,
}

/// Where the proxy forwards to at the moment.
type Server = Arc<Mutex<SocketAddr>>;

impl Proxy {
    async fn before(server: SocketAddr, udp_passes: bool) -> Self {
        let (tcp, udp) = both_on_one_port().await;
        let address = tcp.local_addr().unwrap();
        let passes = Arc::new(AtomicBool::new(udp_passes));
        let server = Arc::new(Mutex::new(server));
        let tcp_passes = Arc::new(AtomicBool::new(true));
        tokio::spawn(forward_tcp(tcp, server.clone(), tcp_passes.clone()));
        tokio::spawn(forward_udp(Arc::new(udp), server.clone(), passes.clone()));
        Self { address, tcp_passes, udp_passes: passes, server }
    }

    fn pass_udp(&self, passes: bool) {
        self.udp_passes.store(passes, Ordering::SeqCst);
    }
}

async fn both_on_one_port() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (tcp, udp);
        }
    }
}

async fn forward_tcp(listener: TcpListener, server: Server, passes: Arc<AtomicBool>) {
    while let Ok((client, _)) = listener.accept().await {
        let server = *server.lock().unwrap();
        let upstream = TcpStream::connect(server).await.unwrap();
        let ((from_client, to_client), (from_server, to_server)) =
            (client.into_split(), upstream.into_split());
        tokio::spawn(pump(from_client, to_server, passes.clone()));
        tokio::spawn(pump(from_server, to_client, passes.clone()));
    }
}

/// Copies while it may; swallows everything, also the end, while it may not.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, passes: Arc<AtomicBool>) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if passes.load(Ordering::SeqCst) && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    if !passes.load(Ordering::SeqCst) {
        std::future::pending().await
    }
}

async fn forward_udp(socket: Arc<UdpSocket>, server: Server, passes: Arc<AtomicBool>) {
    let mut upstreams: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        if !passes.load(Ordering::SeqCst) {
            continue;
        }
        let upstream = match upstreams.entry(client) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let upstream = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                tokio::spawn(answer_udp(upstream.clone(), socket.clone(), client, passes.clone()));
                new.insert(upstream)
            }
        };
        let server = *server.lock().unwrap();
        drop(upstream.send_to(&buffer[..length], server).await);
    }
}

async fn answer_udp(
    upstream: Arc<UdpSocket>,
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    passes: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length) = upstream.recv(&mut buffer).await {
        if passes.load(Ordering::SeqCst) {
            drop(socket.send_to(&buffer[..length], client).await);
        }
    }
}

fn through(platform: &Platform, proxy: &Proxy, prefer: Prefer) -> ClientConfig {
    ClientConfig { address: proxy.address.to_string(), ..platform.client(prefer) }
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_takes_quic_where_it_can() {
    let platform = Platform::start().await;
    let mut session = connect(&platform.client(Prefer::Auto)).await.unwrap();
    greet(&mut session, 1).await;
    assert_eq!(session.carrier, Carrier::Quic);
    assert_eq!(platform.checker.peers.lock().unwrap()[0].carrier, Carrier::Quic);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_udp_lands_on_grpc_within_5_seconds() {
    let platform = Platform::start().await;
    let proxy = Proxy::before(platform.serving.address(), false).await;
    let begin = Instant::now();
    let mut session = connect(&through(&platform, &proxy, Prefer::Auto)).await.unwrap();
    greet(&mut session, 1).await;
    assert_eq!(session.carrier, Carrier::Grpc);
    assert!(begin.elapsed() < FALLBACK, "{:?}", begin.elapsed());
    let error = connect(&through(&platform, &proxy, Prefer::Quic)).await.unwrap_err();
    assert!(matches!(error, Error::ConnectTimeout { .. }), "{error:?}");
}

async fn udp_dies_and_comes_back(busy: bool) {
    let platform = Platform::start().await;
    let proxy = Proxy::before(platform.serving.address(), true).await;
    let dialer = Dialer::new(through(&platform, &proxy, Prefer::Auto)).unwrap();
    let mut session = dialer.connect().await.unwrap();
    assert_eq!(session.carrier, Carrier::Quic);
    greet(&mut session, 1).await;
    if busy {
        let tx = session.tx.clone();
        tokio::spawn(async move {
            let mut sequence = 1;
            while tx.send_batch(&schema("logs"), make_batch("logs", sequence, 100_000)).await.is_ok() {
                sequence += 1;
            }
        });
        for _ in 0..20 {
            assert!(within(session.rx.recv()).await.unwrap().is_some());
        }
    }

    proxy.pass_udp(false);
    let begin = Instant::now();
    let error = loop {
        match within(session.rx.recv()).await {
            Ok(message) => assert!(message.is_some(), "a broken session does not end politely"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Broken(_)), "{error:?}");
    drop(session);
    let mut session = dialer.connect().await.unwrap();
    assert_eq!(session.carrier, Carrier::Grpc);
    greet(&mut session, 2).await;
    assert!(begin.elapsed() < FALLBACK, "on gRPC after {:?}", begin.elapsed());

    let early = tokio::time::timeout(Duration::from_secs(3), session.better.available()).await;
    assert!(early.is_err(), "UDP is still blocked");
    proxy.pass_udp(true);
    within(session.better.available()).await;
    greet(&mut session, 3).await;
    drop(session);
    let mut session = dialer.connect().await.unwrap();
    assert_eq!(session.carrier, Carrier::Quic);
    greet(&mut session, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_that_dies_on_an_idle_session_costs_5_seconds_and_is_taken_up_again() {
    udp_dies_and_comes_back(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_that_dies_mid_stream_costs_5_seconds_and_is_taken_up_again() {
    udp_dies_and_comes_back(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_stays_open_on_both_carriers() {
    let platform = Platform::start().await;
    for prefer in [Prefer::Quic, Prefer::Grpc] {
        let mut session = connect(&platform.client(prefer)).await.unwrap();
        greet(&mut session, 1).await;
        let silence = tokio::time::timeout(Duration::from_secs(7), session.rx.recv()).await;
        assert!(silence.is_err(), "{silence:?}");
        greet(&mut session, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_comes_back_tells_its_agents_at_once() {
    let platform = Platform::start().await;
    let proxy = Proxy::before(platform.serving.address(), true).await;
    let dialer = Dialer::new(through(&platform, &proxy, Prefer::Auto)).unwrap();
    let mut session = dialer.connect().await.unwrap();
    greet(&mut session, 1).await;
    // The agent hears nothing of the end, as if the coordinator was killed.
    let successor = platform.successor().await;
    *proxy.server.lock().unwrap() = successor.address();
    let begin = Instant::now();
    let error = within(session.rx.recv()).await.unwrap_err();
    assert!(
        format!("{error:?}").contains("Reset"),
        "told, not timed out: {error:?} after {:?}",
        begin.elapsed()
    );
    let session = dialer.connect().await.unwrap();
    assert_eq!(session.carrier, Carrier::Quic, "UDP is not suspected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_network_ends_both_sides_within_11_seconds() {
    for prefer in [Prefer::Grpc, Prefer::Quic] {
        let platform = Platform::start().await;
        let proxy = Proxy::before(platform.serving.address(), true).await;
        let mut session = connect(&through(&platform, &proxy, prefer)).await.unwrap();
        greet(&mut session, 1).await;
        proxy.tcp_passes.store(false, Ordering::SeqCst);
        proxy.pass_udp(false);
        let begin = Instant::now();
        let error = within(session.rx.recv()).await.unwrap_err();
        assert!(matches!(error, Error::Broken(_)), "{error:?}");
        platform.checker.ended().await;
        assert!(begin.elapsed() < Duration::from_secs(11), "{prefer:?}: {:?}", begin.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_coordinator_is_left_within_10_seconds() {
    // Its kernel takes connections and datagrams, and nobody ever reads them.
    let (tcp, _udp) = both_on_one_port().await;
    let address = tcp.local_addr().unwrap().to_string();
    let platform = Platform::start().await;
    let left = [Prefer::Auto, Prefer::Quic, Prefer::Grpc].map(|prefer| {
        let config = ClientConfig { address: address.clone(), ..platform.client(prefer) };
        async move {
            let begin = Instant::now();
            let error = within(connect(&config)).await.unwrap_err();
            assert!(matches!(error, Error::ConnectTimeout { .. }), "{error:?}");
            assert!(begin.elapsed() < Duration::from_secs(10), "{prefer:?}: {:?}", begin.elapsed());
        }
    });
    futures::future::join_all(left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dialers_of_several_coordinators_share_their_sockets_and_nothing_else() {
    let platform = Platform::start().await;
    let other = platform.successor().await;
    let blocked = Proxy::before(platform.serving.address(), false).await;
    let first = Dialer::new(through(&platform, &blocked, Prefer::Auto)).unwrap();
    let config = ClientConfig { address: other.address().to_string(), ..platform.client(Prefer::Auto) };
    let second = first.beside(config).unwrap();
    let mut over_grpc = first.connect().await.unwrap();
    assert_eq!(over_grpc.carrier, Carrier::Grpc);
    let mut over_quic = second.connect().await.unwrap();
    assert_eq!(over_quic.carrier, Carrier::Quic, "UDP is suspected where it did not get through only");
    greet(&mut over_grpc, 1).await;
    greet(&mut over_quic, 2).await;
}
