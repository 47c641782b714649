//! Connections of HTTP clients, with TLS where that is wanted: handshakes go on beside each other and have a deadline.

use std::fmt;
use std::io;
use std::net::SocketAddr;
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

/// Where clients connect. Given to `axum::serve`.
pub struct HttpListener {
    tcp: TcpListener,
    security: Security,
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
        Self { tcp, security, connections, shaking: FuturesUnordered::new() }
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
            match self.security.clone() {
                Security::Plain => return plain(stream, address, permit),
                security => self.shaking.push(Box::pin(shake(security, stream, address, permit))),
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
    stream: TcpStream,
    address: SocketAddr,
    permit: Option<OwnedSemaphorePermit>,
) -> Option<(Connection, Client)> {
    let handshake = async {
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
            debug!(%address, %error, "a client did not shake hands");
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
