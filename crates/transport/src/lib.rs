//! The session between an agent and its coordinator: who may hold it, and what carries it. Beside it, what coordinators of a cluster call on
//! each other, on the same port.
//!
//! The agent dials, the coordinator listens with UDP and TCP on one port number. Two carriers move the same
//! messages (`aap_proto::v1::AgentMessage` up, `CoordinatorMessage` down):
//!
//! ```text
//! agent                                              coordinator
//! AgentSender ──▶ QUIC:  control stream + a lane per data stream ──▶ AgentReceiver
//!             └─▶ gRPC:  Uplink.Session over TLS over TCP       ──┘
//! CoordinatorReceiver ◀──────────────────────────────────────────── CoordinatorSender
//! ```
//!
//! Both speak TLS 1.3 only, with certificates of the embedded authority on both sides. The node's identity is
//! the URI name in its certificate, never something that it says.
//!
//! In a cluster the TCP port has a second service, `Peer`, for certificates that name a coordinator and for no others.
//!
//! Delivery promise of a session: messages of one data stream (its schemas, batches and skips) arrive in the
//! order in which they were sent, so do parts of answers to queries, and all other messages among themselves. There
//! is no order between these. What was sent but not acknowledged when a session ends may or may not have arrived.
//!
//! | file | owns |
//! |---|---|
//! | `ca.rs` | [`Authority`]: the embedded certificate authority in a directory, and its rotation |
//! | `request.rs` | [`CertificateRequest`]: keys of nodes, and certificates for them |
//! | `enrol.rs` | [`enrolment`]: the first connection of a node |
//! | `identity.rs` | the name of a node or a coordinator in its certificate |
//! | `tls.rs` | [`TlsFiles`] and the TLS configurations of both sides; those of sources: [`ListenerTls`], [`OutwardTls`] |
//! | `live.rs` | [`LiveTls`]: the identity of a listener, which is taken up anew while it listens |
//! | `session.rs` | [`AgentSession`] and the sender and receiver halves of both sides |
//! | `client.rs` | [`Dialer`]: choice of carrier, fallback and return |
//! | `server.rs` | [`Server`]: the listener and its limits |
//! | `gate.rs` | how many connections and handshakes there may be |
//! | `grpc.rs` | the gRPC carrier; [`peer_channel`]: calls between coordinators |
//! | `quic.rs` | the QUIC carrier |
//! | `inbox.rs` | what a receiver receives from |
//! | `testing.rs` | a session in memory and a faulty one (feature `testing`) |
//! | `proxy_protocol.rs` | what a proxy says of a connection before anything else |
//! | `listener.rs` | [`HttpListener`]: connections of HTTP clients, of operators and of sources |
//! | `shares.rs` | how many of them one address may have |
//! | `serving.rs` | [`serve_http`]: what they ask is answered, and those on which nothing is asked end |
//! | `limits.rs` | every number, with its reason |

mod ca;
mod client;
mod enrol;
mod error;
mod gate;
mod grpc;
mod identity;
mod inbox;
mod limits;
mod listener;
mod live;
mod proxy_protocol;
mod quic;
mod request;
mod server;
mod serving;
mod session;
mod shares;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;

pub use ca::{Authority, AuthorityFacts, CertificateFacts, is_host_name};
pub use client::{ClientConfig, Dialer, Prefer, connect, is_address};
pub use enrol::{EnrolmentApi, enrolment};
pub use error::Error;
pub use grpc::{PeerChannel, peer_channel};
pub use limits::{QUIC_CONNECT_DEADLINE, STALL_DEADLINE};
pub use listener::{Client, HttpLimits, HttpListener, Protection, Security};
pub use live::{LiveTls, OwnFiles};
pub use request::{CertificateRequest, IssuedCertificate, NodeKey, Serial};
pub use server::{Server, ServerConfig, Serving, serve};
pub use serving::{Asker, serve_http};
pub use session::{
    AgentReceiver, AgentSender, AgentSession, BetterCarrier, Carrier, CoordinatorReceiver, CoordinatorSender,
    Peer, SessionHandler,
};
pub use tls::{ALPN_ENROL, ListenerTls, OutwardTls, TlsFiles, Validity};
