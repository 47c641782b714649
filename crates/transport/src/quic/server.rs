//! Serving over UDP.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aap_proto::v1::CoordinatorMessage;
use aap_runtime::Shutdown;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, EndpointConfig, Incoming, RecvStream, SendStream};
use quinn_proto::HashedConnectionIdGenerator;
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::debug;

use super::client::finish;
use super::{DONE, MAGIC, PROBE, REFUSED, SESSION, receive, wire};
use crate::gate::{Gate, Place, Turn};
use crate::inbox::Inbox;
use crate::limits::{
    CLOSE_DEADLINE, HANDSHAKE_DEADLINE, HANDSHAKES_MAX, QUEUE_MESSAGES, QUIC_CONTROL_PRIORITY,
    QUIC_INCOMING_BYTES, QUIC_INCOMING_BYTES_TOTAL, RETRY_ABOVE_HANDSHAKES,
};
use crate::server::Listening;
use crate::tls::ALPN_QUIC;
use crate::{AgentReceiver, Carrier, CoordinatorSender, Error, LiveTls, Peer, identity};

/// The endpoint's configuration over the TLS of the coordinator.
fn server_config(tls: rustls::ServerConfig) -> Result<quinn::ServerConfig, Error> {
    let tls = QuicServerConfig::try_from(tls).map_err(Error::tls)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(super::transport())
        .max_incoming(HANDSHAKES_MAX)
        .incoming_buffer_size(QUIC_INCOMING_BYTES)
        .incoming_buffer_size_total(QUIC_INCOMING_BYTES_TOTAL);
    Ok(config)
}

/// A coordinator that comes back under the same key tells the agents of its predecessor at once that their
/// sessions are gone, instead of letting them wait for silence.
fn endpoint_config(secret: [u8; 32]) -> EndpointConfig {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
    let label = ring::hmac::sign(&key, b"connection ids");
    let number = u64::from_le_bytes(label.as_ref()[..8].try_into().expect("a SHA-256 tag has 32 bytes"));
    let mut config = EndpointConfig::new(Arc::new(key));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(number)));
    config
}

/// Serves until `stop`, then until the sessions have ended. No peer ends it.
pub(crate) async fn run(
    socket: UdpSocket,
    tls: &LiveTls,
    listening: Listening,
    stop: Shutdown,
) -> Result<(), Error> {
    let server = server_config(tls.agents(ALPN_QUIC)?)?;
    let config = endpoint_config(tls.files().reset_secret()?);
    let endpoint = super::endpoint(socket, config, Some(server)).map_err(Error::broken)?;
    let sessions = TaskTracker::new();
    loop {
        let incoming = tokio::select! {
            () = stop.requested() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else {
            return Err(Error::broken(io::Error::other("the UDP endpoint is gone")));
        };
        if let Some((incoming, turn, place)) = admit(incoming, &listening.gate) {
            sessions.spawn(serve(incoming, turn, place, listening.clone(), stop.clone()));
        }
    }
    sessions.close();
    sessions.wait().await;
    endpoint.close(DONE, b"");
    endpoint.wait_idle().await;
    Ok(())
}

/// Lets a connection shake hands, unless too many do. Under pressure an address must first prove itself, so that
/// a flood of forged addresses costs nothing.
fn admit(incoming: Incoming, gate: &Gate) -> Option<(Incoming, Turn, Place)> {
    let pressed = gate.handshakes() > RETRY_ABOVE_HANDSHAKES;
    if pressed && !incoming.remote_address_validated() && incoming.may_retry() {
        // Cannot fail: it was just asked.
        incoming.retry().ok();
        return None;
    }
    let Some((turn, place)) = gate.admit(incoming.remote_address().ip()) else {
        debug!(address = %incoming.remote_address(), "connection refused: limit reached");
        incoming.refuse();
        return None;
    };
    Some((incoming, turn, place))
}

async fn serve(incoming: Incoming, turn: Turn, _place: Place, listening: Listening, stop: Shutdown) {
    let address = incoming.remote_address();
    let opened = timeout(HANDSHAKE_DEADLINE, open(incoming)).await;
    drop(turn);
    match opened {
        Ok(Ok((connection, peer, SESSION, send, recv))) => {
            debug!(%address, node = %peer.node, "node connected over UDP");
            session(connection, peer, send, recv, listening, stop).await;
        }
        // The peer closes when it has read the answer.
        Ok(Ok((connection, ..))) => drop(timeout(CLOSE_DEADLINE, connection.closed()).await),
        Ok(Err(error)) => debug!(%address, error = %crate::server::chain(&error), "handshake refused"),
        Err(_) => debug!(%address, "handshake took too long"),
    }
}

/// Handshake, identity and preface.
async fn open(incoming: Incoming) -> Result<(Connection, Peer, u8, SendStream, RecvStream), Error> {
    let connection = incoming.accept().map_err(Error::broken)?.await.map_err(Error::broken)?;
    let chain =
        connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let (node, generation) = identity::node_of(chain.as_deref().map(Vec::as_slice)).inspect_err(|error| {
        connection.close(REFUSED, error.to_string().as_bytes());
    })?;
    let peer = Peer { node, generation, carrier: Carrier::Quic, address: connection.remote_address() };
    let (mut send, mut recv) = connection.accept_bi().await.map_err(Error::broken)?;
    let mut preface = [0; 5];
    recv.read_exact(&mut preface).await.map_err(Error::broken)?;
    let kind = preface[4];
    if preface[..4] != MAGIC || !matches!(kind, SESSION | PROBE) {
        connection.close(REFUSED, b"unknown protocol");
        return Err(Error::Protocol { reason: "preface of another protocol".to_owned() });
    }
    send.write_all(&preface).await.map_err(Error::broken)?;
    Ok((connection, peer, kind, send, recv))
}

/// Runs the handler, then sends what it left, and closes.
async fn session(
    connection: Connection,
    peer: Peer,
    send: SendStream,
    recv: RecvStream,
    listening: Listening,
    stop: Shutdown,
) {
    let (received, reading) = receive::receive(connection.clone(), recv, Arc::new(AtomicBool::new(false)));
    let (queue, queued) = mpsc::channel(QUEUE_MESSAGES);
    let rx = AgentReceiver(Inbox::stream(received, stop));
    let io = TaskTracker::new();
    let _reader = AbortOnDropHandle::new(io.spawn(reading));
    let writer = AbortOnDropHandle::new(io.spawn(write(send, queued)));
    let handled = listening.tasks.spawn(listening.handler.session(peer, CoordinatorSender(queue), rx));
    // A panic of the handler is reported by the runtime's hook; here it ends the session like a return.
    drop(handled.await);
    drop(timeout(CLOSE_DEADLINE, writer).await);
    connection.close(DONE, b"");
}

async fn write(mut stream: SendStream, mut queued: mpsc::Receiver<CoordinatorMessage>) {
    let written = async {
        stream.set_priority(QUIC_CONTROL_PRIORITY)?;
        while let Some(message) = queued.recv().await {
            stream.write_chunk(wire::frame(&message)).await?;
        }
        finish(stream).await
    };
    if let Err(error) = written.await {
        debug!(%error, "answers of a session ended early");
    }
}
