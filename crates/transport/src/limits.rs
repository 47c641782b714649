//! Every number of the transport, with its reason.

use std::time::Duration;

/// How long a QUIC attempt may take before gRPC is tried: the issue demands a working session within 5 s, and a
/// handshake takes two round trips, 600 ms on a satellite link.
pub const QUIC_CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// How long TCP, TLS and the first answer may take together. The kernel of a frozen coordinator accepts, and nothing follows:
/// with [`QUIC_CONNECT_DEADLINE`] before it such a one is left within 10 s. Enough for a first packet that is lost twice,
/// which the kernel repeats after 1 s and 3 s, and for five round trips by satellite.
pub(crate) const GRPC_CONNECT_DEADLINE: Duration = Duration::from_secs(7);

/// How long a message may wait for room before the session counts as stuck. A coordinator that is out of disk
/// holds its agents back for a while; a peer that is gone is noticed sooner by the keep-alive.
pub const STALL_DEADLINE: Duration = Duration::from_secs(120);

/// How long a peer may take for its handshake (reliability-security 4.6).
pub(crate) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Handshakes under way at once, over all addresses: each costs a P-256 signature and about 64 KiB.
pub(crate) const HANDSHAKES_MAX: usize = 256;

/// Of these, from one address: a slow or hostile one leaves room for the rest.
pub(crate) const HANDSHAKES_PER_ADDRESS_MAX: usize = 64;

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

/// How long TCP and TLS to another coordinator of the cluster may take: they are close to each other, and whoever asked waits.
pub(crate) const PEER_CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Calls of one coordinator at another that run at once: a query of all nodes asks each of a thousand, and so does a second one.
pub(crate) const PEER_STREAMS_MAX: u32 = 4096;
/// Of an answer of another coordinator, unread: several parts, and 100 MB/s at 10 ms.
pub(crate) const PEER_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same of all its answers together. More than one stream's, so that a reader that is slow holds up its own answer and no other.
pub(crate) const PEER_CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// How long running sessions may take to end after the request to stop.
pub(crate) const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Pause after a failed accept, so that a full descriptor table does not spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Streams of a QUIC connection that carry data, one per data stream (reliability-security 4.6: 64). Data streams
/// beyond half of it share the other half.
pub(crate) const QUIC_LANES_MAX: u32 = 64;
/// A lane may run this far ahead; at 50 ms that is 80 MB/s. Less than the connection's window, so that a lane
/// that waits for a lost packet leaves room for the others.
pub(crate) const QUIC_STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Unread bytes of a connection that the receiver holds for all lanes together (reliability-security 4.6). More
/// overruns the socket buffers of a receiver that is slow for a moment.
pub(crate) const QUIC_CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Messages received and not yet taken.
pub(crate) const QUIC_RECEIVED_MESSAGES_MAX: usize = 64;
/// Their size together, in KiB: the largest message and a half.
pub(crate) const QUIC_RECEIVED_KIB_MAX: u32 = 32 << 10;
/// Control before data.
pub(crate) const QUIC_CONTROL_PRIORITY: i32 = 10;
/// Idle sessions say that they live. With [`QUIC_IDLE_TIMEOUT_MS`] a dead path is noticed after at most their sum.
pub(crate) const QUIC_KEEP_ALIVE: Duration = Duration::from_millis(750);
/// Silence after which a path is dead: with the keep-alive and [`QUIC_SUSPECT_DEADLINE`] below the 5 s within
/// which the issue demands to be on gRPC.
pub(crate) const QUIC_IDLE_TIMEOUT_MS: u32 = 3000;
/// How long a QUIC attempt may take where the last one failed or the last session died of silence. A handshake
/// on a path that works well takes less; on a slow one the background attempts with the full deadline find it.
pub(crate) const QUIC_SUSPECT_DEADLINE: Duration = Duration::from_millis(500);
/// First pause between background attempts to return to QUIC; doubles up to [`QUIC_RETRY_PAUSE_MAX`].
pub(crate) const QUIC_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause: a network that lets UDP through again is used within half a minute.
pub(crate) const QUIC_RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Bytes kept for a connection that is not admitted yet (reliability-security 4.6).
pub(crate) const QUIC_INCOMING_BYTES: u64 = 64 << 10;
/// The same for all of them together.
pub(crate) const QUIC_INCOMING_BYTES_TOTAL: u64 = 16 << 20;
/// With more handshakes than this under way, an address must answer a token before it costs a signature.
pub(crate) const RETRY_ABOVE_HANDSHAKES: usize = 32;
/// Socket buffers for UDP: a burst of a whole window; the system may grant less.
pub(crate) const UDP_BUFFER_BYTES: usize = 4 << 20;
/// Tries to find a port number that is free for UDP and TCP.
pub(crate) const PORT_TRIES: usize = 32;
/// A receiver acknowledges every so many packets instead of every second one: fewer system calls at both ends.
pub(crate) const QUIC_ACK_EVERY: u32 = 10;
/// Largest datagram that is tried, found by probing the path: less than jumbo frames allow, because ten of them,
/// the batch that quinn hands to the kernel at once, must fit into the 64 KiB of one system call. A quarter of
/// the packets where the network has such frames, and on loopback.
pub(crate) const UDP_PAYLOAD_BYTES: u16 = 6500;
/// What a round trip is taken for before one was measured: the first packet is repeated after 0.3 s and 0.9 s, so
/// that one that meets a coordinator just starting, or is lost, does not cost the whole attempt.
pub(crate) const QUIC_INITIAL_RTT: Duration = Duration::from_millis(100);

/// Connections of HTTP clients at once, on one listener, those that shake hands included: each has a task and some 20 KiB. More wait in the
/// kernel's queue.
pub(crate) const HTTP_CONNECTIONS_MAX: usize = 512;
/// Of these, from one address: an office behind one, or a client with a pool, has room, and one that wants all leaves most to the rest.
pub(crate) const HTTP_CONNECTIONS_PER_ADDRESS_MAX: usize = 128;
/// A client that has not shaken hands by then is not one. Clients of sources are other people's, on slow machines.
pub(crate) const HTTP_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long the head of the first request may take. Whoever connects has something to ask.
pub(crate) const HTTP_FIRST_REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may stay on which nothing is asked, the head of its next request included: twice what monitoring pauses between
/// two scrapes.
pub(crate) const HTTP_IDLE_DEADLINE: Duration = Duration::from_secs(120);
/// HTTP/2 pings to clients: one that is gone is noticed within a minute, though its stream is one that may be quiet for hours.
pub(crate) const HTTP_PING_EVERY: Duration = Duration::from_secs(20);
/// How long the answer to one may take: a machine that swaps, or a link that is lost for a while, has time.
pub(crate) const HTTP_PING_DEADLINE: Duration = Duration::from_secs(20);
/// How long what a stranger asks may take, answer and all, on a port that tells strangers from others: a log-in with a provider that is slow
/// to answer twice takes 20 s.
pub(crate) const HTTP_STRANGER_DEADLINE: Duration = Duration::from_secs(60);
/// What a connection over HTTP/1 that is to end, and on which nothing is asked, still has for what is on its way.
pub(crate) const HTTP_CLOSE_DEADLINE: Duration = Duration::from_secs(5);
