//! Serving over TCP: connections whose TLS handshake is done become sessions.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use aap_proto::MESSAGE_BYTES_MAX;
use aap_proto::v1::uplink_server::{Uplink, UplinkServer};
use aap_proto::v1::{AgentMessage, CoordinatorMessage};
use aap_runtime::Shutdown;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Streaming;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::{Connected, Server};
use tonic::{Request, Response, Status};

use super::peer::only_nodes;
use crate::gate::Place;
use crate::identity::{Identity, identity_of};
use crate::inbox::Inbox;
use crate::limits::{
    CONNECTION_WINDOW_BYTES, HEADER_BYTES_MAX, HTTP2_FRAME_BYTES, HTTP2_KEEP_ALIVE, HTTP2_KEEP_ALIVE_TIMEOUT,
    QUEUE_MESSAGES, STREAM_WINDOW_BYTES,
};
use crate::server::Listening;
use crate::{AgentReceiver, Carrier, CoordinatorSender, Error, Peer};

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    pub(crate) carrier: Carrier,
    pub(crate) address: SocketAddr,
}

/// A connection whose peer is one of ours. Holds its place in the connection limit.
pub(crate) struct AcceptedStream {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    _place: Place,
}

impl AcceptedStream {
    /// Shakes hands on `stream` and learns from its certificate who that is.
    pub(crate) async fn accept(
        tls: &TlsAcceptor,
        stream: TcpStream,
        address: SocketAddr,
        place: Place,
    ) -> Result<Self, Error> {
        super::tune(&stream).map_err(Error::broken)?;
        let stream = tls.accept(stream).await.map_err(Error::broken)?;
        let identity = identity_of(stream.get_ref().1.peer_certificates())?;
        let caller = Caller { identity, carrier: Carrier::Grpc, address };
        Ok(Self { stream, caller, _place: place })
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.caller.identity
    }
}

impl Connected for AcceptedStream {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for AcceptedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for AcceptedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// `routes`, and the service in which nodes open sessions.
pub(crate) fn with_sessions(routes: Routes, listening: Listening, stop: Shutdown) -> Routes {
    let service = UplinkServer::new(Sessions { listening, stop })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    routes.add_service(InterceptedService::new(service, only_nodes))
}

/// Serves the accepted connections, with so many calls at once on each, until `stop`; then waits for those that are open.
pub(crate) async fn run(
    accepted: mpsc::Receiver<AcceptedStream>,
    routes: Routes,
    streams_max: u32,
    stop: Shutdown,
) -> Result<(), Error> {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .max_concurrent_streams(streams_max)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(HTTP2_KEEP_ALIVE))
        .http2_keepalive_timeout(Some(HTTP2_KEEP_ALIVE_TIMEOUT))
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(accepted).map(Ok::<_, io::Error>), stop.requested())
        .await
        .map_err(Error::broken)
}

struct Sessions {
    listening: Listening,
    stop: Shutdown,
}

#[tonic::async_trait]
impl Uplink for Sessions {
    type SessionStream = BoxStream<'static, Result<CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("connection without a peer"))?;
        let (queue, queued) = mpsc::channel(QUEUE_MESSAGES);
        let rx = AgentReceiver(Inbox::grpc(request.into_inner(), self.stop.clone()));
        let handler = self.listening.handler.clone();
        self.listening.tasks.spawn(handler.session(peer, CoordinatorSender(queue), rx));
        Ok(Response::new(ReceiverStream::new(queued).map(Ok).boxed()))
    }
}
