//! One request over HTTP/1.1 to a service beside the platform, such as Vault or Consul: with a deadline, a bounded answer, and a connection
//! of its own. What is asked is asked rarely, so a pool of connections would only keep stale ones.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use camino::Utf8PathBuf;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls;

/// Most bytes of an answer: a list of a thousand services, or the largest secret in JSON.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Where a service is: `http://HOST:PORT` or `https://HOST:PORT`, with nothing behind it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceUrl {
    is_tls: bool,
    /// As it was written: an IPv6 address stands in brackets.
    host: String,
    port: u16,
}

impl ServiceUrl {
    /// Whether it is of this machine.
    pub fn is_loopback(&self) -> bool {
        let bare = self.bare_host();
        bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    fn bare_host(&self) -> &str {
        self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host)
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl FromStr for ServiceUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // It is not repeated where a password may stand in it.
        if text.contains('@') {
            return Err("a user or password stands in a URL".to_owned());
        }
        let wrong = || format!("`{text}` is no URL of a service: write `https://HOST:PORT`");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let (is_tls, usual) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err(wrong()),
        };
        if uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
            return Err(wrong());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        Ok(Self { is_tls, host: host.to_owned(), port: uri.port_u16().unwrap_or(usual) })
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority())
    }
}

/// Why a service did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The authorities that are to be believed.
    #[error("set up TLS")]
    Tls(#[source] io::Error),
    /// No connection.
    #[error("no connection to `{0}`")]
    Connect(ServiceUrl, #[source] io::Error),
    /// It was there, and broke off.
    #[error("`{0}` broke off")]
    Broken(ServiceUrl, #[source] hyper::Error),
    /// Nothing in time.
    #[error("`{0}` did not answer within {s} s", s = .1.as_secs())]
    Late(ServiceUrl, Duration),
    /// More than is taken.
    #[error("`{0}` answered with more than {ANSWER_BYTES_MAX} bytes")]
    TooLong(ServiceUrl),
}

/// One request.
#[derive(Debug)]
pub struct Ask<'a> {
    /// What to do.
    pub method: Method,
    /// Path and query, escaped.
    pub path: &'a str,
    /// Beside those that HTTP needs.
    pub headers: Vec<(&'static str, HeaderValue)>,
    /// JSON, or nothing.
    pub body: Bytes,
}

/// A service, and whom to believe that it is it.
#[derive(Debug, Clone)]
pub struct Service {
    url: ServiceUrl,
    ca: Option<Utf8PathBuf>,
    deadline: Duration,
}

impl Service {
    /// Nothing is dialled yet. `ca` is a PEM file, without which the authorities of the machine are believed; it is read at every connect.
    /// An answer takes `deadline` at most.
    pub fn new(url: ServiceUrl, ca: Option<Utf8PathBuf>, deadline: Duration) -> Self {
        Self { url, ca, deadline }
    }

    /// Where it is.
    pub fn url(&self) -> &ServiceUrl {
        &self.url
    }

    /// Its answer, whatever the status.
    ///
    /// # Errors
    /// There was none.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<(StatusCode, Bytes), AskError> {
        let exchanged = tokio::time::timeout(self.deadline, Box::pin(self.exchange(ask))).await;
        exchanged.unwrap_or_else(|_| Err(AskError::Late(self.url.clone(), self.deadline)))
    }

    async fn exchange(&self, ask: Ask<'_>) -> Result<(StatusCode, Bytes), AskError> {
        let broken = |error| AskError::Broken(self.url.clone(), error);
        let request = self.request(ask).map_err(|error| AskError::Connect(self.url.clone(), error))?;
        let line = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(line)).await.map_err(broken)?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
                match error.downcast::<hyper::Error>() {
                    Ok(error) => broken(*error),
                    Err(_longer) => AskError::TooLong(self.url.clone()),
                }
            })?;
            Ok((head.status, body.to_bytes()))
        };
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            // It moves the bytes of the exchange, which tells how it ended.
            _ = connection => exchange.await,
        }
    }

    fn request(&self, ask: Ask<'_>) -> io::Result<Request<Full<Bytes>>> {
        let mut request = Request::new(Full::new(ask.body));
        *request.method_mut() = ask.method;
        *request.uri_mut() = ask.path.parse().map_err(io::Error::other)?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(&self.url.authority()).map_err(io::Error::other)?);
        headers.extend(
            ask.headers
                .into_iter()
                .map(|(name, value)| (hyper::header::HeaderName::from_static(name), value)),
        );
        Ok(request)
    }

    async fn connect(&self) -> Result<Box<dyn Line>, AskError> {
        let failed = |error| AskError::Connect(self.url.clone(), error);
        let host = self.url.bare_host();
        let tcp = TcpStream::connect((host, self.url.port)).await.map_err(failed)?;
        if !self.url.is_tls {
            return Ok(Box::new(tcp));
        }
        let ca = self.ca.clone();
        let tls = tokio::task::spawn_blocking(move || tls::client_config(ca.as_deref())).await;
        let tls = tls.map_err(|panic| failed(io::Error::other(panic)))?.map_err(AskError::Tls)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
        Ok(Box::new(TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.map_err(failed)?))
    }
}

/// A stream of bytes, encrypted or not.
trait Line: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Line for S {}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_url_names_a_service_and_nothing_else() {
        let parse = |text: &str| text.parse::<ServiceUrl>();
        for (text, shown) in [
            ("https://vault.example", "https://vault.example:443"),
            ("http://127.0.0.1:8200/", "http://127.0.0.1:8200"),
            ("http://[::1]:8200", "http://[::1]:8200"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
        assert!(parse("http://[::1]:8200").unwrap().is_loopback());
        assert!(!parse("http://10.0.0.1").unwrap().is_loopback());
        for bad in ["vault:8200", "ftp://a", "http://", "http://a/v1", "http://a?x=1"] {
            assert!(parse(bad).unwrap_err().contains("no URL"), "{bad}");
        }
        assert!(!parse("https://me:hunter2@a").unwrap_err().contains("hunter2"));
    }

    /// What is told of a server that answers with `answer`, and closes.
    async fn told(answer: Vec<u8>) -> Result<(StatusCode, Bytes), AskError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let service = Service::new(url, None, Duration::from_secs(5));
        let ask = Ask { method: Method::GET, path: "/v1/x?y=z", headers: vec![], body: Bytes::new() };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = vec![0; 1024];
            let length = stream.read(&mut seen).await.unwrap();
            // Whoever has heard enough hangs up.
            drop(stream.write_all(&answer).await);
            String::from_utf8(seen[..length].to_vec()).unwrap()
        };
        let (answer, seen) = tokio::join!(service.ask(ask), serve);
        assert!(seen.starts_with("GET /v1/x?y=z HTTP/1.1\r\n"), "{seen}");
        answer
    }

    #[tokio::test]
    async fn answers_are_bounded_and_what_breaks_off_is_told() {
        let (status, body) =
            told(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno".to_vec()).await.unwrap();
        assert_eq!((status, &body[..]), (StatusCode::NOT_FOUND, &b"no"[..]));
        let cut = told(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nno".to_vec()).await;
        assert!(matches!(cut, Err(AskError::Broken(..))), "{cut:?}");
        assert!(matches!(told(vec![]).await, Err(AskError::Broken(..))));
        let mut long = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        long.resize(ANSWER_BYTES_MAX + 100, b'x');
        assert!(matches!(told(long).await, Err(AskError::TooLong(_))));
    }

    #[tokio::test]
    async fn a_service_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let service = Service::new(url, None, Duration::from_millis(50));
        let ask = || Ask { method: Method::GET, path: "/", headers: vec![], body: Bytes::new() };
        assert!(matches!(service.ask(ask()).await, Err(AskError::Late(..))));
        drop(listener);
        assert!(matches!(service.ask(ask()).await, Err(AskError::Connect(..))));
    }
}
