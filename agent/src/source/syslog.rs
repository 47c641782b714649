//! Syslog, RFC 5424 and RFC 3164, over UDP and TCP. Unacknowledged by its nature: once from the moment it is durable.
//!
//! - UDP: one datagram, one message. What the kernel drops because its queue is full is counted from its own counter
//!   (`/proc/net/udp`), so produced = stored + counted.
//! - TCP: octet counting (`LENGTH <PRI>MESSAGE`) and lines (RFC 6587), recognised connection by connection, message by
//!   message. When the buffer is full the connection is not read, and the sender waits.
//!
//! At a stop, what waits in the sockets is taken before they are closed, for a second at most.
//!
//! Line ends inside of a datagram or a counted message are a part of it.
//!
//! | file | owns |
//! |---|---|
//! | `syslog/framing.rs` | where messages begin and end in a TCP stream |

mod framing;

use std::net::SocketAddr;
use std::time::Duration;

use aap_buffer::mutant;
use aap_runtime::Shutdown;
use aap_types::StreamName;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::framing::{Framing, add_message};
use super::lines::{self, Pieces};
use super::{SourceDeps, SourceError};
use crate::config::{FormatSpec, SyslogSpec};
use crate::counters::DropReason;
use crate::formats::Recipe;

/// Connections at once; more are refused.
const CONNECTIONS_MAX: usize = 1024;
/// Largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Datagrams that are gathered into one piece.
const PIECE_BYTES: usize = 64 << 10;
/// The kernel's queue for datagrams that wait: as much as it grants, to survive a slow fsync.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// How often the kernel is asked what it dropped.
const DROPS_EVERY: Duration = Duration::from_secs(1);
/// After a socket failed.
const RETRY: Duration = Duration::from_millis(100);
/// A sender that sends nothing for so long has sent what it had when the stop came.
const PAUSE: Duration = Duration::from_millis(50);

/// Listens until it is asked to stop.
pub(super) async fn run(
    name: String,
    spec: SyslogSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let (pieces, queue) = lines::feed();
    let recipe = Recipe::new(FormatSpec::Syslog, None, spec.timestamp(), false).joining_lines();
    let storing = lines::run(spec.stream.clone(), name.clone(), recipe, deps.clone(), queue);
    let limit = usize::try_from(spec.message_bytes_max.0).unwrap_or(usize::MAX);
    let udp = match spec.udp {
        Some(address) => Some(bind_udp(address).await?),
        None => None,
    };
    let tcp = match spec.tcp {
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .map_err(SourceError::io(format!("listen on {address} (TCP)")))?,
        ),
        None => None,
    };
    let heard = [
        udp.as_ref().and_then(|s| s.local_addr().ok()).map(|a| format!("udp {a}")),
        tcp.as_ref().and_then(|l| l.local_addr().ok()).map(|a| format!("tcp {a}")),
    ];
    let detail = format!("listens on {}", heard.into_iter().flatten().collect::<Vec<_>>().join(", "));
    deps.board.source(&name, |entry| entry.detail = detail.clone());
    tracing::info!(source = name, detail, "syslog source");
    let receiver = Receiver {
        name,
        stream: spec.stream.clone(),
        deps: deps.clone(),
        limit,
        buffer: vec![0; DATAGRAM_BYTES_MAX],
    };
    let datagrams = receive_udp(udp, pieces.clone(), receiver, shutdown.clone());
    let connections = accept(tcp, pieces, limit, deps, spec.stream.clone(), shutdown);
    let (stored, (), accepted) = tokio::join!(storing, datagrams, connections);
    stored.and(accepted)
}

async fn bind_udp(address: SocketAddr) -> Result<UdpSocket, SourceError> {
    let socket =
        UdpSocket::bind(address).await.map_err(SourceError::io(format!("listen on {address} (UDP)")))?;
    if let Err(error) = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES) {
        tracing::debug!(%error, "the kernel keeps its default receive buffer");
    }
    Ok(socket)
}

/// Takes datagrams while there are any and until a stop; then what still waits in the kernel's queue.
async fn receive_udp(socket: Option<UdpSocket>, pieces: Pieces, mut receiver: Receiver, shutdown: Shutdown) {
    let Some(socket) = socket else { return };
    let mut drops = KernelDrops::of(&socket);
    let mut look = tokio::time::interval(DROPS_EVERY);
    loop {
        let took = tokio::select! {
            ready = socket.readable() => match ready {
                Ok(()) => receiver.take(&socket, &pieces).await,
                Err(error) => receiver.fail(&error).await,
            },
            _ = look.tick() => {
                count_drops(&mut drops, &receiver.deps, &receiver.stream).await;
                continue;
            }
            () = shutdown.requested() => break,
        };
        if took == Took::Gone {
            return;
        }
    }
    let deadline = Instant::now() + lines::DRAIN;
    while Instant::now() < deadline && tokio::time::timeout(PAUSE, socket.readable()).await.is_ok() {
        if receiver.take(&socket, &pieces).await == Took::Gone {
            return;
        }
    }
    count_drops(&mut drops, &receiver.deps, &receiver.stream).await;
}

/// What receiving datagrams needs beside the socket.
struct Receiver {
    name: String,
    stream: StreamName,
    deps: SourceDeps,
    limit: usize,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Took {
    GoOn,
    /// Nobody stores any more.
    Gone,
}

impl Receiver {
    /// Takes what waits, as one piece.
    async fn take(&mut self, socket: &UdpSocket, pieces: &Pieces) -> Took {
        let (mut piece, mut cut) = (Vec::new(), 0);
        let mut failure = None;
        while piece.len() < PIECE_BYTES {
            match socket.try_recv(&mut self.buffer) {
                Ok(length) => {
                    let kept = length.min(self.limit);
                    cut += (length - kept) as u64;
                    add_message(&mut piece, &self.buffer[..kept]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if cut > 0 {
            self.deps.ingress.counters.count(&self.stream, |count| count.bytes_cut += cut);
        }
        if !piece.is_empty() {
            self.deps.board.source_problem(&self.name, "receive", None);
            if pieces.send(piece).await.is_err() {
                return Took::Gone;
            }
        }
        match failure {
            Some(error) => self.fail(&error).await,
            None => Took::GoOn,
        }
    }

    /// An error of the socket is shown, and the socket tried again: what comes later must not be lost to it.
    async fn fail(&self, error: &std::io::Error) -> Took {
        let text = format!("receive a datagram: {error}");
        if self.deps.board.source_problem(&self.name, "receive", Some(text)) {
            tracing::warn!(source = self.name, %error, "receive a datagram");
        }
        tokio::time::sleep(RETRY).await;
        Took::GoOn
    }
}

async fn count_drops(drops: &mut KernelDrops, deps: &SourceDeps, stream: &StreamName) {
    let before = drops.clone();
    let Ok(now) = tokio::task::spawn_blocking(move || before.now()).await else { return };
    let new = now.saturating_sub(drops.seen);
    drops.seen = now.max(drops.seen);
    if new > 0 && !mutant::is("nobooks") {
        deps.ingress.counters.count(stream, |count| {
            count.rows_read += new;
            *count.rows_dropped.entry(DropReason::KernelQueue).or_default() += new;
        });
    }
}

/// The kernel's own count of datagrams that found the queue of a socket full.
#[derive(Debug, Clone)]
struct KernelDrops {
    /// As it stands in `/proc/net/udp`.
    inode: Option<u64>,
    seen: u64,
}

impl KernelDrops {
    fn of(socket: &UdpSocket) -> Self {
        let inode = rustix::fs::fstat(socket).ok().map(|stat| stat.st_ino);
        let mut drops = Self { inode, seen: 0 };
        drops.seen = drops.now();
        drops
    }

    fn now(&self) -> u64 {
        let Some(inode) = self.inode else { return 0 };
        let tables = ["/proc/net/udp", "/proc/net/udp6"];
        let of_table = |path| drops_in(&std::fs::read_to_string(path).unwrap_or_default(), inode);
        tables.into_iter().find_map(of_table).unwrap_or(self.seen)
    }
}

/// Column 10 is the inode, the last column the drops.
fn drops_in(table: &str, inode: u64) -> Option<u64> {
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        (words.get(9)?.parse() == Ok(inode)).then(|| words.last()?.parse().ok())?
    })
}

async fn accept(
    listener: Option<TcpListener>,
    pieces: Pieces,
    limit: usize,
    deps: SourceDeps,
    stream: StreamName,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let Some(listener) = listener else { return Ok(()) };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) if connections.len() < CONNECTIONS_MAX => {
                    let (pieces, deps, stream, stop) = (pieces.clone(), deps.clone(), stream.clone(), shutdown.clone());
                    connections.spawn(async move { receive_tcp(connection, pieces, limit, deps, stream, stop).await });
                }
                Ok(_) => tracing::warn!(CONNECTIONS_MAX, "too many syslog connections; one was refused"),
                Err(error) => {
                    tracing::warn!(%error, "accept a syslog connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = shutdown.requested() => break,
        }
    }
    // Who connected before the stop was told so by the kernel, and may have sent already.
    let deadline = Instant::now() + lines::DRAIN;
    while Instant::now() < deadline {
        let Ok(Ok((connection, _))) = tokio::time::timeout(PAUSE, listener.accept()).await else { break };
        let (pieces, deps, stream, stop) = (pieces.clone(), deps.clone(), stream.clone(), shutdown.clone());
        connections.spawn(async move { receive_tcp(connection, pieces, limit, deps, stream, stop).await });
    }
    // Each stops at the same request, after what it has read whole.
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn receive_tcp(
    mut connection: TcpStream,
    pieces: Pieces,
    limit: usize,
    deps: SourceDeps,
    stream: StreamName,
    shutdown: Shutdown,
) {
    let mut framing = Framing::new(limit);
    let mut bytes = Vec::with_capacity(PIECE_BYTES);
    let mut deadline = None;
    loop {
        bytes.clear();
        let read = match deadline {
            None => tokio::select! {
                read = connection.read_buf(&mut bytes) => read.unwrap_or(0),
                () = shutdown.requested() => {
                    deadline = Some(Instant::now() + lines::DRAIN);
                    continue;
                }
            },
            Some(deadline) => {
                let until = Instant::min(deadline, Instant::now() + PAUSE);
                let reading = tokio::time::timeout_at(until, connection.read_buf(&mut bytes));
                reading.await.map_or(0, |read| read.unwrap_or(0))
            }
        };
        let mut piece = Vec::new();
        if read == 0 {
            framing.end(&mut piece);
        } else {
            framing.push(&bytes, &mut piece);
        }
        if framing.cut > 0 {
            let cut = std::mem::take(&mut framing.cut);
            deps.ingress.counters.count(&stream, |count| count.bytes_cut += cut);
        }
        if (!piece.is_empty() && pieces.send(piece).await.is_err()) || read == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::board::{SourceEntry, SourceState};
    use crate::testing::Rig;

    #[test]
    fn the_kernels_drops_are_found_by_inode() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n \
            12: 0100007F:158A 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 42\n";
        assert_eq!(drops_in(table, 4711), Some(42));
        assert_eq!(drops_in(table, 4712), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn datagrams_and_connections_reach_the_stream() {
        let rig = Rig::new();
        let ([udp, tcp], task, shutdown) = listen(&rig, "").await;
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        sender.send_to(b"<34>1 2026-11-23T22:00:00Z host app - - - by datagram", udp).await.unwrap();
        rig.until("the datagram", |rig| rig.texts("syslog", "body").len() == 1).await;
        let mut connection = TcpStream::connect(tcp).await.unwrap();
        connection.write_all(b"<34>1 2026-11-23T22:00:01Z host app - - - by line\n").await.unwrap();
        rig.until("the line", |rig| rig.texts("syslog", "body").len() == 2).await;
        shutdown.request();
        task.await.unwrap().unwrap();
        assert_eq!(rig.texts("syslog", "body"), ["by datagram", "by line"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_sent_before_a_stop_is_stored() {
        let rig = Rig::new();
        let ([udp, tcp], task, shutdown) = listen(&rig, "").await;
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut connection = TcpStream::connect(tcp).await.unwrap();
        let late = TcpStream::connect(tcp).await.unwrap();
        late.try_write(b"late\n").unwrap();
        for n in 0..500 {
            sender.send_to(format!("<34>datagram {n}").as_bytes(), udp).unwrap();
            connection.write_all(format!("<34>line {n}\n").as_bytes()).await.unwrap();
        }
        connection.write_all(b"<34>no end").await.unwrap();
        shutdown.request();
        task.await.unwrap().unwrap();
        assert_eq!(rig.texts("syslog", "body").len(), 1002);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn line_ends_inside_of_a_message_stay_in_all_that_is_made_of_it() {
        let rig = Rig::new();
        let ([udp, tcp], task, shutdown) = listen(&rig, "").await;
        let good = "<34>1 2026-11-23T22:00:00Z host app - - [x@1 k=\"a\nb\"] one\ntwo\r\n three";
        let bad = "<34>1 2026-11-23T22:00:00Z\nbroken";
        let mut connection = TcpStream::connect(tcp).await.unwrap();
        let counted = [good, bad].map(|message| format!("{} {message}", message.len())).concat();
        connection.write_all(counted.as_bytes()).await.unwrap();
        rig.until("the counted message", |rig| rig.texts("syslog", "body").len() == 1).await;
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        sender.send_to(b"<34>by\ndatagram\n", udp).await.unwrap();
        rig.until("the datagram", |rig| rig.texts("syslog", "body").len() == 2).await;
        shutdown.request();
        task.await.unwrap().unwrap();
        assert_eq!(rig.texts("syslog", "body"), ["one\ntwo\r\n three", "by\ndatagram"]);
        assert_eq!(rig.texts("syslog", "attributes")[0], r#"{"x@1":{"k":"a\nb"}}"#);
        assert_eq!(rig.texts("syslog.dead", "text"), [bad]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn messages_are_cut_at_the_limit_and_dated_in_the_zone_of_the_source() {
        let rig = Rig::new();
        let ([udp, _], task, shutdown) = listen(&rig, "message_bytes_max: 1KiB\nzone: '+02:00'\n").await;
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let message = format!("<34>Nov 23 22:00:00 host app: {}", "x".repeat(1100 - 30));
        sender.send_to(message.as_bytes(), udp).unwrap();
        rig.until("the datagram", |rig| rig.texts("syslog", "body").len() == 1).await;
        assert_eq!(rig.texts("syslog", "body")[0].len(), 1024 - 30);
        let ts = rig.batches("syslog")[0].column_by_name("ts").unwrap().to_data();
        let of_day = ts.buffers()[0].typed_data::<i64>()[0] / 1_000_000 % 86_400;
        assert_eq!(of_day, 20 * 3600, "22:00 two hours east of Greenwich");
        let stream: StreamName = "syslog".parse().unwrap();
        assert_eq!(rig.deps.ingress.counters.snapshot()[&stream].bytes_cut, 1100 - 1024);
        shutdown.request();
        task.await.unwrap().unwrap();
    }

    /// Starts a source on free ports, with more lines of its `spec`. Gives the UDP and the TCP address.
    async fn listen(
        rig: &Rig,
        more: &str,
    ) -> ([SocketAddr; 2], tokio::task::JoinHandle<Result<(), SourceError>>, Shutdown) {
        let text = format!("type: syslog\nudp: '127.0.0.1:0'\ntcp: '127.0.0.1:0'\n{more}");
        let spec: SyslogSpec = serde_norway::from_str(&text).unwrap();
        let entry = SourceEntry {
            kind: "syslog",
            stream: "syslog".into(),
            guarantee: "",
            state: SourceState::Running,
            detail: String::new(),
            problems: BTreeMap::new(),
        };
        rig.deps.board.add_source("s", entry);
        let shutdown = Shutdown::default();
        #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
        let task = tokio::spawn(run("s".into(), spec, rig.deps.clone(), shutdown.clone()));
        rig.until("it listens", |rig| !rig.deps.board.sources()["s"].detail.is_empty()).await;
        let detail = rig.deps.board.sources()["s"].detail.clone();
        let address = |protocol: &str| {
            let (_, rest) = detail.split_once(protocol).unwrap();
            rest.split(',').next().unwrap().parse().unwrap()
        };
        ([address("udp "), address("tcp ")], task, shutdown)
    }
}
