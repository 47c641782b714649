//! The gRPC carrier: one `Uplink.Session` call per session, over TLS over TCP; and what coordinators call on each other, `Peer`.
//!
//! Who may call what stands in the certificate: a node opens sessions and nothing else, a coordinator calls `Peer` and nothing else.
//!
//! TLS and TCP are ours and not tonic's, so that limits, deadlines and the node's identity are the same on both
//! carriers. The server answers the call with headers at once; with them the agent knows that its certificate was
//! accepted, which TLS 1.3 alone does not tell it.

mod client;
mod peer;
mod server;

pub(crate) use client::{connect, dial, http2};
pub(crate) use peer::peers;
pub use peer::{PeerChannel, peer_channel};
pub(crate) use server::{AcceptedStream, run, with_sessions};

use std::io;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::limits::{TCP_UNSENT_BYTES, TCP_USER_TIMEOUT};

/// Options of both ends: no delay for acks, little unsent in the kernel, dead peers noticed while sending.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_notsent_lowat(TCP_UNSENT_BYTES)?;
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))
}
