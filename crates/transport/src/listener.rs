//! Connections of HTTP clients, with TLS where that is wanted: handshakes go on beside each other and have a deadline, and no address takes
//! all the room.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::limits::{
    ACCEPT_PAUSE, HTTP_CLOSE_DEADLINE, HTTP_CONNECTIONS_MAX, HTTP_CONNECTIONS_PER_ADDRESS_MAX,
    HTTP_FIRST_REQUEST_DEADLINE, HTTP_HANDSHAKE_DEADLINE, HTTP_IDLE_DEADLINE, HTTP_PING_DEADLINE,
    HTTP_PING_EVERY, HTTP_STRANGER_DEADLINE,
};
use crate::proxy_protocol;
use crate::shares::{Share, Shares};

/// How often it is said that an address has as many connections as it may: somebody who wants more of them asks again and again.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// First byte of a TLS connection: the type of a handshake's records (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// How connections are protected.
#[derive(Debug, Clone)]
pub enum Security {
    /// Not at all.
    Plain,
    /// TLS and nothing else.
    Tls(Arc<ServerConfig>),
    /// TLS where the client begins with it. Whoever serves looks at [`Client::protection`], and decides what others get.
    Offered(Arc<ServerConfig>),
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub address: SocketAddr,
    /// Whether, and for which application protocol (RFC 7301), TLS protects the connection.
    pub protection: Protection,
}

/// What protects a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    /// Nothing.
    Plain,
    /// TLS. Without a protocol where the client named none.
    Tls(Option<Vec<u8>>),
}

type Handshake = BoxFuture<'static, Option<(Connection, Client)>>;

/// Whether an address is one of some.
type IsAddress = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// What one listener takes, and how long clients may take. Tests have smaller ones.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Connections at once.
    pub connections: usize,
    /// Of these, from one address.
    pub connections_per_address: usize,
    /// How long TLS, and what a proxy says, may take.
    pub handshake: Duration,
    /// How long the head of the first request may take.
    pub first_request: Duration,
    /// How long a connection may stay on which nothing is asked.
    pub idle: Duration,
    /// How long a connection may stay on which strangers ask, and nobody else; see [`crate::Asker`]. None: whoever asks has the time they need.
    pub stranger: Option<Duration>,
    /// Pings over HTTP/2.
    pub ping_every: Duration,
    /// How long the answer to one may take.
    pub ping: Duration,
    /// What a connection over HTTP/1 still has that is to end.
    pub close: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: HTTP_CONNECTIONS_MAX,
            connections_per_address: HTTP_CONNECTIONS_PER_ADDRESS_MAX,
            handshake: HTTP_HANDSHAKE_DEADLINE,
            first_request: HTTP_FIRST_REQUEST_DEADLINE,
            idle: HTTP_IDLE_DEADLINE,
            stranger: None,
            ping_every: HTTP_PING_EVERY,
            ping: HTTP_PING_DEADLINE,
            close: HTTP_CLOSE_DEADLINE,
        }
    }
}

/// Where clients connect. Given to [`crate::serve_http`].
pub struct HttpListener {
    tcp: TcpListener,
    doors: Doors,
    limits: HttpLimits,
    connections: Arc<Semaphore>,
    shaking: FuturesUnordered<Handshake>,
}

impl fmt::Debug for HttpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpListener").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

/// How connections are let in. Cheap to clone.
#[derive(Clone)]
struct Doors {
    security: Security,
    /// Whose connections begin with the PROXY protocol.
    proxies: Option<IsAddress>,
    /// Whose connections are those of many.
    hops: IsAddress,
    shares: Shares,
    /// When it was last said that an address has its share.
    warned: Arc<Mutex<Option<Instant>>>,
    deadline: Duration,
}

impl HttpListener {
    /// Takes connections of `tcp`.
    pub fn new(tcp: TcpListener, security: Security) -> Self {
        let limits = HttpLimits::default();
        Self {
            tcp,
            doors: Doors {
                security,
                proxies: None,
                hops: Arc::new(|address| address.is_loopback()),
                shares: Shares::new(limits.connections_per_address),
                warned: Arc::default(),
                deadline: limits.handshake,
            },
            connections: Arc::new(Semaphore::new(limits.connections)),
            limits,
            shaking: FuturesUnordered::new(),
        }
    }

    /// With other limits.
    #[must_use]
    pub fn limited(mut self, limits: HttpLimits) -> Self {
        self.connections = Arc::new(Semaphore::new(limits.connections));
        self.doors.shares = Shares::new(limits.connections_per_address);
        self.doors.deadline = limits.handshake;
        self.limits = limits;
        self
    }

    /// For a service that says of each request whether somebody known asks: strangers hold no connection for longer than a log-in takes.
    #[must_use]
    pub fn telling_strangers(mut self) -> Self {
        self.limits.stranger = Some(HTTP_STRANGER_DEADLINE);
        self
    }

    /// Takes connections from trusted addresses with the PROXY protocol before anything else, and none of theirs without it: a proxy that sends it
    /// sometimes would pass on what its clients write. From others it is not taken.
    #[must_use]
    pub fn behind_proxies(mut self, is_trusted: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        self.doors.proxies = Some(Arc::new(is_trusted));
        self
    }

    /// Whose connections are those of many, and not counted as those of one address. Without this they are those of this machine.
    #[must_use]
    pub fn with_hops(mut self, is_hop: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        self.doors.hops = Arc::new(is_hop);
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    pub(crate) fn limits(&self) -> &HttpLimits {
        &self.limits
    }

    /// The next connection that is let in.
    pub(crate) async fn accept(&mut self) -> (Connection, Client) {
        loop {
            let next = async {
                // Never closed.
                let permit = self.connections.clone().acquire_owned().await.ok();
                (self.tcp.accept().await, permit)
            };
            let (accepted, permit) = tokio::select! {
                Some(shaken) = self.shaking.next(), if !self.shaking.is_empty() => match shaken {
                    Some(connection) => return connection,
                    None => continue,
                },
                next = next => next,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "no connection was accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Answers are small and wait for nothing more.
            stream.set_nodelay(true).ok();
            let mut place = Place { _permit: permit, share: None };
            if !self.doors.is_proxy(address.ip())
                && let Err(error) = self.doors.admit(address.ip(), &mut place)
            {
                debug!(%address, %error, "a connection was not taken");
                continue;
            }
            self.shaking.push(Box::pin(self.doors.clone().open(stream, address, place)));
        }
    }
}

impl Doors {
    fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.as_ref().is_some_and(|is_trusted| is_trusted(address))
    }

    /// Counts a connection as one of its address.
    fn admit(&self, address: IpAddr, place: &mut Place) -> io::Result<()> {
        if self.is_proxy(address) || (self.hops)(address) {
            return Ok(());
        }
        place.share = self.shares.take(address);
        if place.share.is_none() {
            self.warn_of(address);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "its address has as many as it may"));
        }
        Ok(())
    }

    /// Says now and then that an address has all that it may: it may be that of many clients, behind a proxy that nobody named.
    fn warn_of(&self, address: IpAddr) {
        let mut last = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            *last = Some(Instant::now());
            warn!(%address, max = self.shares.max(), "more connections of this address are closed: it has as many as one may have");
        }
    }

    async fn open(self, stream: TcpStream, peer: SocketAddr, place: Place) -> Option<(Connection, Client)> {
        match tokio::time::timeout(self.deadline, self.shake(stream, peer, place)).await {
            Ok(Ok(connection)) => Some(connection),
            Ok(Err(error)) => {
                debug!(%peer, %error, "a client did not shake hands");
                None
            }
            Err(_) => None,
        }
    }

    async fn shake(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        mut place: Place,
    ) -> io::Result<(Connection, Client)> {
        let mut address = peer;
        if self.is_proxy(peer.ip())
            && let Some(named) = proxy_protocol::read(&mut stream).await?
        {
            self.admit(named.ip(), &mut place)?;
            address = named;
        }
        let config = match self.security.clone() {
            Security::Plain => return Ok(plain(stream, address, place)),
            Security::Offered(config) if !begins_with_tls(&stream).await? => {
                debug!(%address, config = ?config.alpn_protocols, "a client came without TLS");
                return Ok(plain(stream, address, place));
            }
            Security::Offered(config) | Security::Tls(config) => config,
        };
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let client = Client { address, protection: Protection::Tls(protocol) };
        Ok((Connection { stream: Box::new(stream), _place: place }, client))
    }
}

fn plain(stream: TcpStream, address: SocketAddr, place: Place) -> (Connection, Client) {
    let client = Client { address, protection: Protection::Plain };
    (Connection { stream: Box::new(stream), _place: place }, client)
}

async fn begins_with_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first == [HANDSHAKE])
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A place among the connections that there may be, and among those of its address.
struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    share: Option<Share>,
}

/// A connection and its place.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    _place: Place,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection(…)")
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_trusted_proxy_says_who_its_client_is_and_is_not_taken_without() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let mut listener = HttpListener::new(tcp, Security::Plain).behind_proxies(|ip| ip.is_loopback());
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut proxied = TcpStream::connect(address).await.unwrap();
        proxied.write_all(b"PROXY TCP4 10.1.2.3 10.0.0.1 4711 80\r\nGET").await.unwrap();
        let (mut connection, client) = listener.accept().await;
        assert_eq!(client.address, ([10, 1, 2, 3], 4711).into(), "the first was closed");
        let mut begun = [0; 3];
        connection.read_exact(&mut begun).await.unwrap();
        assert_eq!(&begun, b"GET");
        drop(listener);
        assert!(!matches!(silent.read(&mut begun).await, Ok(1..)), "closed without an answer");
    }

    #[tokio::test]
    async fn clients_behind_a_proxy_have_each_their_share_and_the_proxy_the_whole() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let limits = HttpLimits { connections_per_address: 1, ..HttpLimits::default() };
        let listener = HttpListener::new(tcp, Security::Plain).limited(limits).with_hops(|_| false);
        let mut listener = listener.behind_proxies(|ip| ip.is_loopback());
        let mut held = vec![];
        let mut accepted = vec![];
        for (client, is_taken) in [(1, true), (1, false), (2, true)] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let line = format!("PROXY TCP4 10.0.0.{client} 10.0.0.9 4711 80\r\n");
            stream.write_all(line.as_bytes()).await.unwrap();
            if is_taken {
                let (connection, from) = listener.accept().await;
                assert_eq!(from.address.ip(), IpAddr::from([10, 0, 0, client]));
                accepted.push(connection);
            }
            held.push(stream);
        }
        // Its own, of which it says so.
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
            let (connection, from) = listener.accept().await;
            assert_eq!(from.address, stream.local_addr().unwrap());
            accepted.push(connection);
            held.push(stream);
        }
        let closed = held[1].read(&mut [0]).await;
        assert!(!matches!(closed, Ok(1..)), "the second of the first client");
    }

    #[tokio::test]
    async fn whoever_is_no_trusted_proxy_says_nothing() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let mut listener = HttpListener::new(tcp, Security::Plain).behind_proxies(|_| false);
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PROXY TCP4 10.1.2.3 10.0.0.1 4711 80\r\n").await.unwrap();
        let (mut connection, client) = listener.accept().await;
        assert_eq!(client.address, stream.local_addr().unwrap());
        let mut begun = [0; 5];
        connection.read_exact(&mut begun).await.unwrap();
        assert_eq!(&begun, b"PROXY", "it is what it sent, and no request");
    }
}
