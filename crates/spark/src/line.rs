//! The connection: one to the server, HTTP/2 over TCP, with TLS where the URL says so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use aap_sinks::tls;
use aap_types::Problem;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::Ascii;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::fail;
use crate::spec::{Address, SparkSpec};

/// Longest time to a connection, with DNS, TCP and TLS.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// What HTTP/2 is called where TLS chooses the protocol.
const ALPN: &[u8] = b"h2";
/// How often a silent server is asked whether it is there, and how long it may take: a statement can run for minutes without a
/// word. Servers of gRPC close lines on which they are asked more often than every five minutes, unless a call is under way.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(20);

/// A connection, and what every call carries.
pub(crate) struct Line {
    pub(crate) channel: Channel,
    pub(crate) authorization: Option<MetadataValue<Ascii>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Line {
    /// Reads what lies in files, anew each time, and connects.
    pub(crate) async fn to(spec: &SparkSpec) -> Result<Self, Problem> {
        spec.check().map_err(fail::setting)?;
        let address = Address::of(&spec.url).map_err(fail::setting)?;
        let (is_tls, ca, token) = (address.is_tls, spec.ca.clone(), spec.token.clone());
        let read = tokio::task::spawn_blocking(move || {
            let token = token.map(|token| token.read()).transpose().map_err(|error| with_source(&error))?;
            let tls = is_tls.then(|| tls::client_config(ca.as_deref())).transpose();
            Ok((token, tls.map_err(|error| with_source(&error))?))
        });
        let read: Result<_, String> = read.await.map_err(|panic| fail::setting(panic.to_string()))?;
        let (token, tls) = read.map_err(fail::setting)?;
        let authorization = token.map(|token| bearer(token.reveal())).transpose()?;
        let tls = tls.map(|mut config| {
            config.alpn_protocols = vec![ALPN.to_vec()];
            TlsConnector::from(Arc::new(config))
        });
        let opened = tokio::time::timeout(CONNECT_MAX, dial(&address, tls)).await;
        let late = || io::Error::other(format!("no connection within {} s", CONNECT_MAX.as_secs()));
        let stream =
            opened.unwrap_or_else(|_| Err(late())).map_err(|error| fail::unreachable(spec, &error))?;
        let channel = http2(stream, is_tls).await.map_err(|error| fail::unreachable(spec, &error))?;
        Ok(Self { channel, authorization })
    }
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, Problem> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .map_err(|_invalid| fail::setting("the token has characters that cannot stand in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn dial(address: &Address, tls: Option<TlsConnector>) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(tls.connect(name, stream).await?))
}

/// HTTP/2 over the connection that was dialled. The channel cannot dial again: a session lives as long as its connection.
async fn http2(stream: Box<dyn Stream>, is_tls: bool) -> Result<Channel, tonic::transport::Error> {
    let mut once = Some(TokioIo::new(stream));
    let connector = service_fn(move |_| {
        let stream = once.take().ok_or_else(|| io::Error::other("the connection to Spark is gone"));
        std::future::ready(stream)
    });
    // A formality, but servers look at the scheme.
    let endpoint = Endpoint::from_static(if is_tls { "https://spark" } else { "http://spark" });
    endpoint
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_MAX)
        .connect_with_connector(connector)
        .await
}
