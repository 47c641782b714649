//! HTTP for `object_store`, on what the workspace has anyway: hyper, and rustls with `ring`. The crate's own transport would bring
//! another client and another cryptographic library.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector as Tcp};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower::Service;

/// TCP, and the handshake on it.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a connection is kept for the next request. Servers close idle ones after a minute or so.
const IDLE: Duration = Duration::from_secs(20);

/// Makes the client of a store.
#[derive(Clone)]
pub(crate) struct Transport(Client<Dial, HttpRequestBody>);

impl Transport {
    /// With `tls` for `https`; plain `http` is dialled too.
    pub(crate) fn new(tls: ClientConfig) -> Self {
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let dial = Dial { tcp, tls: TlsConnector::from(Arc::new(tls)) };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(dial);
        Self(client)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Transport {
    // What `#[async_trait]` makes of `async fn call`.
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> Pin<Box<dyn Future<Output = Answer> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let answer = self.0.request(request).await.map_err(|error| {
                let kind =
                    if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
                HttpError::new(kind, error)
            })?;
            let broken_off = |error: hyper::Error| HttpError::new(HttpErrorKind::Interrupted, error);
            Ok(answer.map(|body| HttpResponseBody::new(body.map_err(broken_off))))
        })
    }
}

type Answer = Result<HttpResponse, HttpError>;

/// Why a server could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("no connection to `{0}`")]
    Tcp(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no encrypted connection to `{0}`")]
    Tls(String, #[source] io::Error),
    #[error("no connection to `{0}` within {s} s", s = CONNECT_DEADLINE.as_secs())]
    Late(String),
}

/// Connects.
#[derive(Clone)]
struct Dial {
    tcp: Tcp,
    tls: TlsConnector,
}

impl Service<Uri> for Dial {
    type Response = Line;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Line, DialError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        self.tcp.poll_ready(context).map_err(|error| DialError::Tcp("it".to_owned(), error.into()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = uri.host().unwrap_or_default().to_owned();
        let (is_encrypted, tls) = (uri.scheme_str() == Some("https"), self.tls.clone());
        let reached = self.tcp.call(uri);
        Box::pin(async move {
            let dialled = async {
                let tcp = reached.await.map_err(|error| DialError::Tcp(host.clone(), error.into()))?;
                if !is_encrypted {
                    return Ok(Line(TokioIo::new(Box::new(tcp.into_inner()))));
                }
                let refused = |error: io::Error| DialError::Tls(host.clone(), error);
                // An IPv6 address stands in brackets.
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(bare).map_err(|error| refused(io::Error::other(error)))?;
                let stream = tls.connect(name, tcp.into_inner()).await.map_err(refused)?;
                Ok(Line(TokioIo::new(Box::new(stream))))
            };
            let late = tokio::time::timeout(CONNECT_DEADLINE, dialled).await;
            late.unwrap_or_else(|_late| Err(DialError::Late(host.clone())))
        })
    }
}

/// A stream of bytes, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection.
struct Line(TokioIo<Box<dyn Stream>>);

impl Connection for Line {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for Line {
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
