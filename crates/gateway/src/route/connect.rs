//! Connections to upstreams, to addresses that a route may reach and to no others.
//!
//! Names are resolved here, and what was looked at is what is connected to: a name that answers differently the next time gains nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::Service;

use super::address::Reach;

/// Longest time to a connection, with DNS, TCP and TLS.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// No address of a name may be connected to.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{host}` has no address that this route may connect to, but {found}")]
pub(crate) struct OutOfReach {
    host: String,
    found: String,
}

/// Makes connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    reach: Reach,
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    pub(crate) fn new(reach: Reach, tls: Option<Arc<ClientConfig>>) -> Self {
        Self { reach, tls }
    }

    async fn connect(self, uri: Uri) -> io::Result<TokioIo<Stream>> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = self.reach_out(&host, port).await?;
        // Requests are small and wait for nothing more.
        stream.set_nodelay(true)?;
        let Some(config) = self.tls.filter(|_| is_tls) else {
            return Ok(TokioIo::new(Stream(Box::new(stream))));
        };
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(TokioIo::new(Stream(Box::new(stream))))
    }

    async fn reach_out(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
        let mut failure = None;
        for address in found.iter().filter(|address| self.reach.admits(address.ip())) {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| {
            let found = found.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ");
            io::Error::other(OutOfReach { host: host.to_owned(), found })
        }))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connect = self.clone().connect(uri);
        let connect = tokio::time::timeout(CONNECT_MAX, connect);
        let late = || {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection within {} s", CONNECT_MAX.as_secs()),
            )
        };
        connect.map(move |connected| connected.unwrap_or_else(|_elapsed| Err(late()))).boxed()
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A connection, with TLS or without.
pub(crate) struct Stream(Box<dyn Duplex>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
