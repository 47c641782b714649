//! Syslog, RFC 5424 and RFC 3164, over UDP and TCP. Unacknowledged by its nature: once from the moment it is durable.
//!
//! - UDP: one datagram, one message. What the kernel drops because its queue is full is counted from its own counter
//!   (`/proc/net/udp`), so produced = stored + counted.
//! - TCP: octet counting (`LENGTH MESSAGE`) and lines (RFC 6587), recognised connection by connection, message by
//!   message. When the buffer is full the connection is not read, and the sender waits.
//!
//! Messages are one line each downstream; line ends inside of a message become spaces.

use std::net::SocketAddr;
use std::time::Duration;

use aap_runtime::Shutdown;
use aap_types::StreamName;
use memchr::memchr;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

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
/// Digits of the length before a counted message.
const LENGTH_DIGITS_MAX: usize = 9;

/// Listens until it is asked to stop.
pub(super) async fn run(
    name: String,
    spec: SyslogSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let (pieces, queue) = lines::feed();
    let recipe = Recipe::new(FormatSpec::Syslog, None, None, false);
    let storing =
        lines::run(spec.stream.clone(), name.clone(), recipe, deps.clone(), queue, shutdown.clone());
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
    let datagrams = receive_udp(udp, pieces.clone(), deps.clone(), spec.stream.clone(), shutdown.clone());
    let connections = accept(tcp, pieces, limit, deps, spec.stream.clone(), shutdown);
    let (stored, received, accepted) = tokio::join!(storing, datagrams, connections);
    stored.and(received).and(accepted)
}

async fn bind_udp(address: SocketAddr) -> Result<UdpSocket, SourceError> {
    let socket =
        UdpSocket::bind(address).await.map_err(SourceError::io(format!("listen on {address} (UDP)")))?;
    if let Err(error) = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES) {
        tracing::debug!(%error, "the kernel keeps its default receive buffer");
    }
    Ok(socket)
}

/// Takes datagrams, as many as wait, into pieces.
async fn receive_udp(
    socket: Option<UdpSocket>,
    pieces: Pieces,
    deps: SourceDeps,
    stream: StreamName,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let Some(socket) = socket else { return Ok(()) };
    let mut drops = KernelDrops::of(&socket);
    let mut look = tokio::time::interval(DROPS_EVERY);
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    loop {
        tokio::select! {
            received = socket.recv(&mut datagram) => {
                let length = received.map_err(SourceError::io("receive a datagram"))?;
                add_message(&mut piece, &datagram[..length]);
                while piece.len() < PIECE_BYTES {
                    match socket.try_recv(&mut datagram) {
                        Ok(length) => add_message(&mut piece, &datagram[..length]),
                        Err(_) => break,
                    }
                }
                if !piece.is_empty() && pieces.send(std::mem::take(&mut piece)).await.is_err() {
                    return Ok(());
                }
            }
            _ = look.tick() => count_drops(&mut drops, &deps, &stream).await,
            () = shutdown.requested() => {
                count_drops(&mut drops, &deps, &stream).await;
                return Ok(());
            }
        }
    }
}

/// One message, one line.
fn add_message(piece: &mut Vec<u8>, message: &[u8]) {
    let message = message.trim_ascii_end();
    let message = message.strip_suffix(b"\0").unwrap_or(message);
    if message.is_empty() {
        return;
    }
    piece.extend(message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    piece.push(b'\n');
}

async fn count_drops(drops: &mut KernelDrops, deps: &SourceDeps, stream: &StreamName) {
    let before = drops.clone();
    let Ok(now) = tokio::task::spawn_blocking(move || before.now()).await else { return };
    let new = now.saturating_sub(drops.seen);
    drops.seen = now.max(drops.seen);
    if new > 0 {
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
    loop {
        bytes.clear();
        let read = tokio::select! {
            read = connection.read_buf(&mut bytes) => read.unwrap_or(0),
            () = shutdown.requested() => 0,
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

/// Finds messages in a TCP stream.
#[derive(Debug)]
struct Framing {
    pending: Vec<u8>,
    limit: usize,
    /// Bytes of a message beyond the limit that are still to come: counted, or up to a line end.
    skip: Skip,
    cut: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Skip {
    Nothing,
    Bytes(u64),
    Line,
}

impl Framing {
    fn new(limit: usize) -> Self {
        Self { pending: vec![], limit, skip: Skip::Nothing, cut: 0 }
    }

    /// Takes what came and puts out whole messages.
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut at = 0;
        while let Some(taken) = self.step(&pending[at..], out) {
            at += taken;
        }
        self.pending = pending[at..].to_vec();
    }

    /// The connection ended: a line without its end counts, a counted message that is cut does too.
    fn end(&mut self, out: &mut Vec<u8>) {
        let pending = std::mem::take(&mut self.pending);
        if self.skip == Skip::Nothing {
            let begin = counted(&pending).map_or(0, |(_, begin)| begin);
            add_message(out, &pending[begin..]);
        }
    }

    /// Takes one message or a part to skip. `None`: more must come first.
    fn step(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        if bytes.is_empty() {
            return None;
        }
        match self.skip {
            Skip::Bytes(left) => {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.cut += taken as u64;
                let left = left - taken as u64;
                self.skip = if left == 0 { Skip::Nothing } else { Skip::Bytes(left) };
                return Some(taken);
            }
            Skip::Line => {
                let end = memchr(b'\n', bytes);
                self.cut += end.unwrap_or(bytes.len()) as u64;
                if end.is_some() {
                    self.skip = Skip::Nothing;
                }
                return Some(end.map_or(bytes.len(), |end| end + 1));
            }
            Skip::Nothing => {}
        }
        match counted(bytes) {
            Some((length, begin)) => self.counted_message(bytes, length, begin, out),
            // Digits may become a length when more comes.
            None if bytes.len() <= LENGTH_DIGITS_MAX && bytes.iter().all(u8::is_ascii_digit) => None,
            None => self.line(bytes, out),
        }
    }

    fn counted_message(
        &mut self,
        bytes: &[u8],
        length: usize,
        begin: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let kept = length.min(self.limit);
        let message = bytes.get(begin..begin + kept)?;
        add_message(out, message);
        if length > kept {
            self.skip = Skip::Bytes((length - kept) as u64);
        }
        Some(begin + kept)
    }

    fn line(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        match memchr(b'\n', &bytes[..bytes.len().min(self.limit + 1)]) {
            Some(end) => {
                add_message(out, &bytes[..end]);
                Some(end + 1)
            }
            None if bytes.len() > self.limit => {
                add_message(out, &bytes[..self.limit]);
                self.skip = Skip::Line;
                Some(self.limit)
            }
            None => None,
        }
    }
}

/// The length that a counted message begins with, and where the message begins.
fn counted(bytes: &[u8]) -> Option<(usize, usize)> {
    let digits = bytes.iter().take(LENGTH_DIGITS_MAX + 1).take_while(|byte| byte.is_ascii_digit()).count();
    let is_length =
        (1..=LENGTH_DIGITS_MAX).contains(&digits) && bytes[0] != b'0' && bytes.get(digits) == Some(&b' ');
    let text = std::str::from_utf8(&bytes[..digits]).ok().filter(|_| is_length)?;
    Some((text.parse().ok()?, digits + 1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::board::{SourceEntry, SourceState};
    use crate::testing::Rig;

    #[test]
    fn messages_are_found_in_both_framings_however_the_stream_is_cut() {
        let stream = b"<1>first\n13 <2>second one<3>third\r\n20 <4>0123456789abcdefX<5>last";
        for piece in 1..stream.len() {
            let (mut framing, mut out) = (Framing::new(16), Vec::new());
            stream.chunks(piece).for_each(|part| framing.push(part, &mut out));
            framing.end(&mut out);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text, "<1>first\n<2>second one\n<3>third\n<4>0123456789abc\n<5>last\n", "{piece}");
            assert_eq!(framing.cut, 4, "{piece}");
        }
    }

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
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!("type: syslog\nudp: '{free}'\ntcp: '{free}'\n");
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
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        sender.send_to(b"<34>1 2026-11-23T22:00:00Z host app - - - by datagram", free).await.unwrap();
        rig.until("the datagram", |rig| rig.texts("syslog", "body").len() == 1).await;
        let mut connection = TcpStream::connect(free).await.unwrap();
        connection.write_all(b"<34>1 2026-11-23T22:00:01Z host app - - - by line\n").await.unwrap();
        rig.until("the line", |rig| rig.texts("syslog", "body").len() == 2).await;
        shutdown.request();
        task.await.unwrap().unwrap();
        assert_eq!(rig.texts("syslog", "body"), ["by datagram", "by line"]);
    }
}
