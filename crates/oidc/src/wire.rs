//! Requests to a provider: each over a connection of its own, with a deadline, an answer of bounded length, and no redirects.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::Error;

/// Until an answer is there, with DNS, TCP and TLS.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Longest answer: documents and tokens have some ten kilobytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// What stands for itself in forms and URLs (RFC 3986, 2.3).
const ENCODED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The way to a provider.
pub(crate) struct Wire {
    tls: TlsConnector,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) is_success: bool,
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Wire {
    pub(crate) fn new(tls: Arc<rustls::ClientConfig>) -> Self {
        Self { tls: TlsConnector::from(tls) }
    }

    pub(crate) async fn get(&self, url: &Uri) -> Result<Answer, Error> {
        self.ask(url, Method::GET, String::new()).await
    }

    pub(crate) async fn post(&self, url: &Uri, fields: &[(&str, &str)]) -> Result<Answer, Error> {
        self.ask(url, Method::POST, form(fields)).await
    }

    async fn ask(&self, url: &Uri, method: Method, body: String) -> Result<Answer, Error> {
        let unreachable = |reason: String| Error::Unreachable { url: url.to_string(), reason };
        let request = Request::builder()
            .method(method)
            .uri(url.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, url.authority().map_or("", |authority| authority.as_str()))
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::USER_AGENT, concat!("aap/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unreachable(chain(&error)))?;
        match tokio::time::timeout(ANSWER_WITHIN, self.connect_and_send(url, request)).await {
            Ok(answer) => answer.map_err(unreachable),
            Err(_) => Err(unreachable(format!("nothing came within {} s", ANSWER_WITHIN.as_secs()))),
        }
    }

    async fn connect_and_send(&self, url: &Uri, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_tls = url.scheme_str() == Some("https");
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|error| chain(&error))?;
        if !is_tls {
            return send(tcp, request).await;
        }
        let name = ServerName::try_from(host).map_err(|error| chain(&error))?;
        let stream = self.tls.connect(name, tcp).await.map_err(|error| chain(&error))?;
        send(stream, request).await
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> Result<Answer, String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| chain(&error))?;
    let asking = async {
        let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| chain(error.as_ref()))?.to_bytes();
        let (is_success, status) = (parts.status.is_success(), parts.status.as_u16());
        Ok(Answer { is_success, status, body })
    };
    // The connection moves only while it is asked for.
    let connection = async {
        connection.await.ok();
        std::future::pending().await
    };
    tokio::select! {
        answer = asking => answer,
        never = connection => never,
    }
}

/// A URL to which a code or a person may be sent: of TLS, or on this machine.
///
/// # Errors
/// [`Error::Url`].
pub fn check_url(text: &str) -> Result<Uri, Error> {
    let bad = |reason| Error::Url { url: text.chars().take(200).collect(), reason };
    let url: Uri = text.parse().map_err(|_| bad("it cannot be read"))?;
    let host = url.host().ok_or_else(|| bad("it names no host"))?.trim_matches(['[', ']']);
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(bad("it has a user in it"));
    }
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match url.scheme_str() {
        Some("https") => Ok(url),
        Some("http") if is_here => Ok(url),
        _ => Err(bad("it must begin with https://")),
    }
}

/// Fields of a form, also behind the `?` of a URL.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    let field = |(name, value): &(&str, &str)| {
        format!("{}={}", utf8_percent_encode(name, &ENCODED), utf8_percent_encode(value, &ENCODED))
    };
    fields.iter().map(field).collect::<Vec<_>>().join("&")
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
