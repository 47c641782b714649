//! Connections of clients, with TLS where that is configured: handshakes go on beside each other and have a deadline.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aap_runtime::Shutdown;
use axum::Router;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::DRAIN;
use crate::config::TlsSpec;
use crate::source::{SourceDeps, SourceError};

/// Connections at once, on one listener: each has a task and some 20 KiB. More wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 512;
/// Handshakes at once, of those: one costs a millisecond of CPU, and a client may never finish its own.
const HANDSHAKES_MAX: usize = 32;
/// A client that has not shaken hands by then is not one.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// After `accept` failed: usually there are no file descriptors left for a while.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

type Handshake = BoxFuture<'static, Option<(Connection, SocketAddr)>>;

/// Where clients connect.
pub(in crate::source) struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
    connections: Arc<Semaphore>,
    shaking: FuturesUnordered<Handshake>,
}

/// What shakes hands as a configuration says, if it does.
pub(in crate::source) fn acceptor(
    tls: Option<&TlsSpec>,
    deps: &SourceDeps,
) -> Result<Option<TlsAcceptor>, SourceError> {
    let Some(tls) = tls else { return Ok(None) };
    let config = tls.files(deps.home.root()).server(&[b"h2", b"http/1.1"]);
    let config = config.map_err(|error| SourceError::Config(error.problem().report()))?;
    Ok(Some(TlsAcceptor::from(config)))
}

impl Listener {
    /// Listens at `address`.
    pub(in crate::source) async fn bind(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
    ) -> Result<Self, SourceError> {
        let tcp = TcpListener::bind(address).await.map_err(|source| {
            let owner = match source.kind() {
                io::ErrorKind::AddrInUse => "; see `ss -ltnp` for who has it",
                _ => "",
            };
            SourceError::Io { what: format!("listen on {address}{owner}"), source }
        })?;
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Ok(Self { tcp, tls, connections, shaking: FuturesUnordered::new() })
    }

    /// Where it listens.
    pub(in crate::source) fn address(&self) -> Result<SocketAddr, SourceError> {
        self.tcp.local_addr().map_err(SourceError::io("ask for the address"))
    }

    /// Serves until it is asked to stop; requests under way then have a while.
    pub(in crate::source) async fn serve(
        self,
        router: Router,
        shutdown: Shutdown,
    ) -> Result<(), SourceError> {
        let stop = shutdown.clone();
        let serving = axum::serve(self, router).with_graceful_shutdown(async move { stop.requested().await });
        let abandoned = async {
            shutdown.requested().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            served = serving => served.map_err(SourceError::io("serve requests")),
            () = abandoned => Ok(()),
        }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let may_shake = self.shaking.len() < HANDSHAKES_MAX;
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
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "no connection was accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            // Answers are small and wait for nothing more.
            stream.set_nodelay(true).ok();
            match &self.tls {
                None => return (Connection { stream: Box::new(stream), _permit: permit }, peer),
                Some(tls) => self.shaking.push(Box::pin(shake(tls.clone(), stream, peer, permit))),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

async fn shake(
    tls: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    permit: Option<OwnedSemaphorePermit>,
) -> Option<(Connection, SocketAddr)> {
    match tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some((Connection { stream: Box::new(stream), _permit: permit }, peer)),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a client did not shake hands");
            None
        }
        Err(_) => None,
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection, and its place among those that there may be.
pub(in crate::source) struct Connection {
    stream: Box<dyn Stream>,
    _permit: Option<OwnedSemaphorePermit>,
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
