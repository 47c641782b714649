//! Connections of HTTP clients, with TLS where that is wanted: handshakes go on beside each other and have a deadline.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use crate::limits::{ACCEPT_PAUSE, HTTP_CONNECTIONS_MAX, HTTP_HANDSHAKE_DEADLINE, HTTP_HANDSHAKES_MAX};
use crate::proxy_protocol;

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

impl Connected<IncomingStream<'_, HttpListener>> for Client {
    fn connect_info(stream: IncomingStream<'_, HttpListener>) -> Self {
        stream.remote_addr().clone()
    }
}

type Handshake = BoxFuture<'static, Option<(Connection, Client)>>;

/// Whether an address is that of a proxy that is believed.
type IsTrusted = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Where clients connect. Given to `axum::serve`.
pub struct HttpListener {
    tcp: TcpListener,
    security: Security,
    /// Whose connections begin with the PROXY protocol.
    proxies: Option<IsTrusted>,
    connections: Arc<Semaphore>,
    shaking: FuturesUnordered<Handshake>,
}

impl fmt::Debug for HttpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpListener").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl HttpListener {
    /// Takes connections of `tcp`.
    pub fn new(tcp: TcpListener, security: Security) -> Self {
        let connections = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
        Self { tcp, security, proxies: None, connections, shaking: FuturesUnordered::new() }
    }

    /// Takes connections from trusted addresses with the PROXY protocol before anything else, and none of theirs without it: a proxy that sends it
    /// sometimes would pass on what its clients write. From others it is not taken.
    #[must_use]
    pub fn behind_proxies(mut self, is_trusted: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        self.proxies = Some(Arc::new(is_trusted));
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl axum::serve::Listener for HttpListener {
    type Io = Connection;
    type Addr = Client;

    async fn accept(&mut self) -> (Connection, Client) {
        loop {
            let may_shake = self.shaking.len() < HTTP_HANDSHAKES_MAX;
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
                next = next, if may_shake => next,
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
            let is_proxy = self.proxies.as_ref().is_some_and(|is_trusted| is_trusted(address.ip()));
            match self.security.clone() {
                Security::Plain if !is_proxy => return plain(stream, address, permit),
                security => self.shaking.push(Box::pin(shake(security, stream, (address, is_proxy), permit))),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Client> {
        self.tcp.local_addr().map(|address| Client { address, protection: Protection::Plain })
    }
}

fn plain(
    stream: TcpStream,
    address: SocketAddr,
    permit: Option<OwnedSemaphorePermit>,
) -> (Connection, Client) {
    let client = Client { address, protection: Protection::Plain };
    (Connection { stream: Box::new(stream), _permit: permit }, client)
}

async fn shake(
    security: Security,
    mut stream: TcpStream,
    (peer, is_proxy): (SocketAddr, bool),
    permit: Option<OwnedSemaphorePermit>,
) -> Option<(Connection, Client)> {
    let handshake = async {
        let named = if is_proxy { proxy_protocol::read(&mut stream).await? } else { None };
        let address = named.unwrap_or(peer);
        let config = match security {
            Security::Plain => return Ok(plain(stream, address, permit)),
            Security::Offered(config) if !begins_with_tls(&stream).await? => {
                debug!(%address, config = ?config.alpn_protocols, "a client came without TLS");
                return Ok(plain(stream, address, permit));
            }
            Security::Offered(config) | Security::Tls(config) => config,
        };
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let client = Client { address, protection: Protection::Tls(protocol) };
        Ok::<_, io::Error>((Connection { stream: Box::new(stream), _permit: permit }, client))
    };
    match tokio::time::timeout(HTTP_HANDSHAKE_DEADLINE, handshake).await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => {
            debug!(%peer, %error, "a client did not shake hands");
            None
        }
        Err(_) => None,
    }
}

async fn begins_with_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first == [HANDSHAKE])
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection, and its place among those that there may be.
pub struct Connection {
    stream: Box<dyn Stream>,
    _permit: Option<OwnedSemaphorePermit>,
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
    use axum::serve::Listener;
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
