//! Every number of the transport, with its reason.

use std::time::Duration;

/// How long a QUIC attempt may take before gRPC is tried: the issue demands a working session within 5 s, and a
/// handshake takes two round trips, 600 ms on a satellite link.
pub const QUIC_CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// How long TCP, TLS and the first answer may take together.
pub(crate) const GRPC_CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How long a message may wait for room before the session counts as stuck. A coordinator that is out of disk
/// holds its agents back for a while; a peer that is gone is noticed sooner by the keep-alive.
pub const STALL_DEADLINE: Duration = Duration::from_secs(120);

/// How long a peer may take for its handshake (reliability-security 4.6).
pub(crate) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Handshakes under way at once, over all addresses: each costs a P-256 signature and about 64 KiB.
pub(crate) const HANDSHAKES_MAX: usize = 256;

/// Connections held at once: a thousand nodes, and as many that are just changing carriers.
pub(crate) const CONNECTIONS_MAX: usize = 2048;

/// Messages that wait in a sender's queue. Two keep a writer busy while the next is made; each may have 20 MiB.
pub(crate) const QUEUE_MESSAGES: usize = 2;

/// HTTP/2 and QUIC windows: 8 MiB keep 80 MB/s in flight at 100 ms, and bound what a peer can make us hold.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// See [`STREAM_WINDOW_BYTES`].
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Fewer, larger frames: a TLS record holds 16 KiB anyway, and 64 KiB quarter the per-frame work.
pub(crate) const HTTP2_FRAME_BYTES: u32 = 64 << 10;

/// HTTP/2 pings: a dead peer is noticed after interval + timeout, within 10 s, also on an idle session.
pub(crate) const HTTP2_KEEP_ALIVE: Duration = Duration::from_secs(4);
/// See [`HTTP2_KEEP_ALIVE`].
pub(crate) const HTTP2_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Unsent bytes the kernel takes: a ping must not queue behind megabytes on a slow link.
pub(crate) const TCP_UNSENT_BYTES: u32 = 256 << 10;
/// The kernel gives a connection up when sent bytes stay unacknowledged this long.
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Request headers of a session are a few hundred bytes.
pub(crate) const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Streams of an HTTP/2 connection: a session is one.
pub(crate) const HTTP2_STREAMS_MAX: u32 = 4;

/// How long running sessions may take to end after the request to stop.
pub(crate) const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Pause after a failed accept, so that a full descriptor table does not spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
