//! Calls between coordinators: who may make them, and dialling for them.

use std::io;
use std::time::Duration;

use aap_proto::MESSAGE_BYTES_MAX;
use aap_proto::v1::peer_server;
use aap_types::CoordinatorName;
use hyper_util::rt::TokioIo;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tower::service_fn;

use super::client::dial;
use super::server::Caller;
use crate::client::Target;
use crate::identity::Identity;
use crate::limits::{
    HTTP2_KEEP_ALIVE, HTTP2_KEEP_ALIVE_TIMEOUT, PEER_CONNECT_DEADLINE, PEER_CONNECTION_WINDOW_BYTES,
    PEER_STREAM_WINDOW_BYTES,
};
use crate::tls::ALPN_GRPC;
use crate::{Error, Peer, TlsFiles};

/// What calls of `Peer` go through. Cheap to clone.
pub type PeerChannel = Channel;

/// The service that coordinators call, and nobody else.
pub(crate) fn peers(service: impl peer_server::Peer) -> Routes {
    let service = peer_server::PeerServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Routes::new(InterceptedService::new(service, only_coordinators))
}

/// Lets nodes pass, and says which: the service finds a [`Peer`] among the request's extensions.
pub(super) fn only_nodes(mut request: Request<()>) -> Result<Request<()>, Status> {
    let Caller { identity, carrier, address } = caller(&request)?;
    match identity {
        Identity::Node(node, generation) => {
            request.extensions_mut().insert(Peer { node, generation, carrier, address });
            Ok(request)
        }
        Identity::Coordinator(name) => {
            Err(Status::permission_denied(format!("coordinator `{name}` is no node and opens no session")))
        }
    }
}

/// Lets coordinators pass, and says which: the service finds a [`CoordinatorName`] among the request's extensions.
fn only_coordinators(mut request: Request<()>) -> Result<Request<()>, Status> {
    match caller(&request)?.identity {
        Identity::Coordinator(name) => {
            request.extensions_mut().insert::<CoordinatorName>(name);
            Ok(request)
        }
        Identity::Node(node, _) => {
            Err(Status::permission_denied(format!("node `{node}` is no coordinator of the cluster")))
        }
    }
}

fn caller(request: &Request<()>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Status::internal("connection without a caller"))
}

/// Where calls of `Peer` to the coordinator at `address` (`HOST:PORT`) go, as whom `files` say. It is dialled with the first call, and
/// again with the next one after the connection broke; a connection that is silent is broken after ten seconds. `files` are read each time.
///
/// # Errors
/// The address is none.
pub fn peer_channel(address: &str, files: TlsFiles) -> Result<PeerChannel, Error> {
    let target = Target::parse(address)?;
    let connector = service_fn(move |_| {
        let (target, files) = (target.clone(), files.clone());
        async move { connect(&target, &files).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://coordinator")
        .initial_stream_window_size(PEER_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(PEER_CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(HTTP2_KEEP_ALIVE)
        .keep_alive_timeout(HTTP2_KEEP_ALIVE_TIMEOUT)
        .connect_with_connector_lazy(connector))
}

async fn connect(
    target: &Target,
    files: &TlsFiles,
) -> io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    const DEADLINE: Duration = PEER_CONNECT_DEADLINE;
    let tls = files.client(ALPN_GRPC).map_err(io::Error::other)?;
    match tokio::time::timeout(DEADLINE, dial(target, tls.into())).await {
        Ok(dialled) => dialled,
        Err(_elapsed) => {
            let late = format!("no connection to {} within {} s", target.text(), DEADLINE.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, late))
        }
    }
}
