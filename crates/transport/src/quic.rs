//! The QUIC carrier.
//!
//! ```text
//! bidirectional, opened by the agent:   "AAP1" kind  ⇄  "AAP1" kind     kind: 'S' session, 'P' probe
//!                                       then frames both ways: hello, reports … ⇄ welcome, acks, credit …
//! unidirectional, one per data stream:  frames: schema, batch, batch, schema, batch, skip …
//! frame:                                length u32 little-endian | prost message
//! ```
//!
//! A lost packet holds up its own stream only. The coordinator's preface tells the agent that its certificate was
//! accepted, which the handshake of TLS 1.3 alone does not. The agent finishes the control stream last, when all
//! lanes have arrived; so the end of the control stream is the end of the session.
//!
//! | file | owns |
//! |---|---|
//! | `quic/client.rs` | dialling, probing, the agent's lanes |
//! | `quic/server.rs` | accepting, and the coordinator's side of a session |
//! | `quic/wire.rs` | frames |
//! | `quic/receive.rs` | many streams merged into one queue, within a byte budget |

mod client;
mod receive;
mod server;
mod wire;

pub(crate) use client::{Endpoints, Lanes, connect, probe};
pub(crate) use server::run;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{
    AckFrequencyConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::SockRef;

use crate::limits::{
    QUIC_ACK_EVERY, QUIC_CONNECTION_WINDOW_BYTES, QUIC_IDLE_TIMEOUT_MS, QUIC_INITIAL_RTT, QUIC_KEEP_ALIVE,
    QUIC_LANES_MAX, QUIC_STREAM_WINDOW_BYTES, UDP_BUFFER_BYTES, UDP_PAYLOAD_BYTES,
};

/// First bytes of the control stream: protocol and version.
const MAGIC: [u8; 4] = *b"AAP1";
/// The connection is a session.
const SESSION: u8 = b'S';
/// The connection only asks whether UDP gets through.
const PROBE: u8 = b'P';
/// Close code of a connection that did its work.
const DONE: VarInt = VarInt::from_u32(0);
/// Close code of a connection whose peer is refused.
const REFUSED: VarInt = VarInt::from_u32(1);

/// The transport parameters of both ends. CUBIC and segmentation offload are quinn's defaults.
fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(QUIC_ACK_EVERY));
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(UDP_PAYLOAD_BYTES);
    config
        .ack_frequency_config(Some(acks))
        .mtu_discovery_config(Some(discovery))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(QUIC_LANES_MAX))
        .stream_receive_window(VarInt::from_u32(QUIC_STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(QUIC_CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(QUIC_CONNECTION_WINDOW_BYTES))
        .initial_rtt(QUIC_INITIAL_RTT)
        .keep_alive_interval(Some(QUIC_KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(QUIC_IDLE_TIMEOUT_MS))))
        .datagram_receive_buffer_size(None);
    Arc::new(config)
}

/// A UDP socket whose buffers take a burst, as far as the system allows.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    let options = SockRef::from(&socket);
    // The kernel caps both at net.core.{r,w}mem_max, unless a privileged process insists on the first; less costs
    // speed and nothing else.
    if set_socket_recv_buffer_size_force(&socket, UDP_BUFFER_BYTES).is_err() {
        options.set_recv_buffer_size(UDP_BUFFER_BYTES).ok();
    }
    options.set_send_buffer_size(UDP_BUFFER_BYTES).ok();
    Ok(socket)
}

fn endpoint(
    socket: UdpSocket,
    mut config: EndpointConfig,
    server: Option<quinn::ServerConfig>,
) -> io::Result<Endpoint> {
    config.max_udp_payload_size(UDP_PAYLOAD_BYTES).map_err(io::Error::other)?;
    Endpoint::new(config, server, socket, Arc::new(TokioRuntime))
}
