//! Dialling over TCP.

use std::io;
use std::sync::Arc;

use aap_proto::MESSAGE_BYTES_MAX;
use aap_proto::v1::uplink_client::UplinkClient;
use aap_runtime::Shutdown;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::client::Target;
use crate::inbox::Inbox;
use crate::limits::{
    CONNECTION_WINDOW_BYTES, GRPC_CONNECT_DEADLINE, HTTP2_FRAME_BYTES, HTTP2_KEEP_ALIVE,
    HTTP2_KEEP_ALIVE_TIMEOUT, QUEUE_MESSAGES, STREAM_WINDOW_BYTES,
};
use crate::session::{AgentSender, BetterCarrier, Outbox, messages};
use crate::tls::ALPN_GRPC;
use crate::{AgentSession, Carrier, CoordinatorReceiver, Error, TlsFiles};

/// What the error messages call this carrier.
const NAME: &str = "grpc";

/// Opens a session with the coordinator at `target`.
pub(crate) async fn connect(target: &Target, files: &TlsFiles) -> Result<AgentSession, Error> {
    let tls = Arc::new(files.client(ALPN_GRPC)?);
    match tokio::time::timeout(GRPC_CONNECT_DEADLINE, open(target, tls)).await {
        Ok(session) => session,
        Err(_) => Err(target.timed_out(NAME, GRPC_CONNECT_DEADLINE)),
    }
}

async fn open(target: &Target, tls: Arc<rustls::ClientConfig>) -> Result<AgentSession, Error> {
    let stream = dial(target, tls).await.map_err(|error| target.failed(NAME, error))?;
    let channel = http2(stream).await.map_err(|error| target.failed(NAME, error))?;
    let (queue, queued) = mpsc::channel(QUEUE_MESSAGES);
    let mut client = UplinkClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let reply = client.session(messages(queued)).await.map_err(|status| target.failed(NAME, status))?;
    Ok(AgentSession {
        tx: AgentSender::new(Outbox::Queue(queue)),
        rx: CoordinatorReceiver(Inbox::grpc(reply.into_inner(), Shutdown::default())),
        carrier: Carrier::Grpc,
        better: BetterCarrier::none(),
    })
}

pub(crate) async fn dial(
    target: &Target,
    tls: Arc<rustls::ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(target.text()).await?;
    super::tune(&stream)?;
    TlsConnector::from(tls).connect(target.name(), stream).await
}

/// HTTP/2 over the one connection that was dialled. The channel cannot dial again: a session is one connection.
pub(crate) async fn http2(stream: TlsStream<TcpStream>) -> Result<Channel, tonic::transport::Error> {
    let mut once = Some(TokioIo::new(stream));
    let connector = service_fn(move |_| {
        let stream = once.take().ok_or_else(|| io::Error::other("the connection of this session is gone"));
        std::future::ready(stream)
    });
    Endpoint::from_static("http://coordinator")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keep_alive_interval(HTTP2_KEEP_ALIVE)
        .keep_alive_timeout(HTTP2_KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}
