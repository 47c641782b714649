//! Attacks on the ports of a running platform, called by their ids in `docs/security.md`: what they cost is bounded, and whoever else is
//! there is served meanwhile.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aap_tests::{Platform, Random, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Frames or datagrams of one attack: far more than any limit on what one peer may leave behind.
const MANY: u32 = 20_000;
/// How long one attacker tries; one whose connection is not read from stands still.
const TRIES_FOR: Duration = Duration::from_secs(4);
/// What an attack may cost a daemon, in KiB, with what its own work needs at the same time.
const KIB_MAX: u64 = 64 << 10;
/// How long an operator waits for a status beside an attack. Built without optimisation, on a machine that does other things too.
const SERVED_WITHIN: Duration = Duration::from_secs(5);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What an attack consists of.
type Frames<'a> = Box<dyn Iterator<Item = Vec<u8>> + 'a>;

/// A frame as RFC 9113 section 4.1 lays it out.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A literal header field without indexing, with a name of its own (RFC 7541 section 6.2.2); both are shorter than 127 bytes.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).unwrap());
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// The header of a call of gRPC without a token.
fn call() -> Vec<u8> {
    // `:method: POST` and `:scheme: https` of the static table.
    let mut block = vec![0x83, 0x87];
    block.extend(field(":path", "/aap.v1.Operator/GetStatus"));
    block.extend(field(":authority", "localhost"));
    block.extend(field("content-type", "application/grpc"));
    block.extend(field("te", "trailers"));
    block
}

/// A connection to the operators' port, as far as HTTP/2's preface.
async fn connected(platform: &Platform) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(platform.home().join("tls/root.pem")).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(platform.endpoint("operator").unwrap()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Writes what an attack consists of, and never reads. The server may close the connection, or stop reading it.
async fn attack(stream: &mut TlsStream<TcpStream>, frames: impl Iterator<Item = Vec<u8>>) {
    let writing = async {
        for bytes in frames {
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
        drop(stream.flush().await);
    };
    drop(tokio::time::timeout(TRIES_FOR, writing).await);
}

/// Whether a call that is spelled by hand gets an answer: attacks that nobody understands prove nothing.
async fn is_answered(platform: &Platform, call: Vec<u8>) -> bool {
    let mut stream = connected(platform).await;
    stream.write_all(&call).await.unwrap();
    let mut head = [0; 9];
    loop {
        if stream.read_exact(&mut head).await.is_err() {
            return false;
        }
        let [a, b, c, kind, _, stream_number @ ..] = head;
        if kind == HEADERS && u32::from_be_bytes(stream_number) == 1 {
            return true;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
    }
}

/// An operator is served.
#[track_caller]
fn is_served(platform: &Platform, beside: &str) {
    let began = Instant::now();
    platform.aap(&["stream", "ls"]).ok();
    let took = began.elapsed();
    assert!(took < SERVED_WITHIN, "beside {beside}: {} ms", took.as_millis());
}

fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

/// Streams that a client opens, in their order.
fn streams() -> impl Iterator<Item = u32> {
    (0..MANY).map(|number| 2 * number + 1)
}

#[test]
fn t4_frames_of_http_2_cost_little_and_keep_nobody_out() {
    let platform = Platform::started(&[]);
    let pid = platform.pid("coordinator").unwrap();
    is_served(&platform, "nothing");
    let before = resident_kib(pid);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &call());
    let ended = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &call());
    assert!(runtime.block_on(is_answered(&platform, ended(1))));
    let many = |bytes: Vec<u8>| std::iter::repeat_n(bytes, MANY as usize);
    let first = |bytes: Vec<u8>| std::iter::once(bytes);
    let long = "x".repeat(100);
    let attacks: [(&str, Frames<'_>); 7] = [
        (
            "rapid reset",
            Box::new(
                streams().map(|stream| [ended(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()),
            ),
        ),
        ("calls whose answers nobody reads", Box::new(streams().map(ended))),
        (
            "a header that never ends",
            Box::new(first(frame(HEADERS, 0, 1, &call())).chain(many(frame(
                CONTINUATION,
                0,
                1,
                &field("a", &long),
            )))),
        ),
        ("data without bytes", Box::new(first(open(1)).chain(many(frame(DATA, 0, 1, &[]))))),
        ("settings", Box::new(many(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])))),
        ("pings", Box::new(many(frame(PING, 0, 0, &[7; 8])))),
        (
            "a header of a megabyte",
            Box::new(
                first(frame(HEADERS, 0, 1, &call()))
                    .chain((0..10_000).map(|_| frame(CONTINUATION, 0, 1, &field("a", &long))))
                    .chain(first(frame(CONTINUATION, END_HEADERS, 1, &[]))),
            ),
        ),
    ];
    let mut held = vec![];
    for (name, frames) in attacks {
        let stream = runtime.block_on(async {
            let mut stream = connected(&platform).await;
            attack(&mut stream, frames).await;
            stream
        });
        is_served(&platform, name);
        let grown = resident_kib(pid).saturating_sub(before);
        eprintln!("{name}: {grown} KiB more");
        assert!(grown < KIB_MAX, "{name}: {grown} KiB more");
        // They stay, so that what one leaves behind adds to what the next one does.
        held.push(stream);
    }
    drop(held);
    assert!(platform.panics().is_empty());
}

#[test]
fn t3_datagrams_that_look_like_handshakes_end_no_session_and_take_no_memory() {
    let platform = Platform::started(&[]);
    let pid = platform.pid("coordinator").unwrap();
    eventually("a session over QUIC", || (platform.carrier() == "quic").then_some(()));
    let before = resident_kib(pid);
    let sessions = || platform.log("agent").matches("uplink connected").count();
    let sessions_before = sessions();
    let address = platform.endpoint("agents").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random = Random::seeded(3);
    for number in 0..u64::from(MANY) {
        let mut datagram = vec![0_u8; 1200];
        datagram.iter_mut().for_each(|byte| *byte = (random.number() >> 32) as u8);
        // An Initial packet of version 1 (RFC 9000 section 17.2.2) from a connection of its own; what it carries is noise.
        datagram[0] = 0xC0 | (datagram[0] & 0x0F);
        datagram[1..5].copy_from_slice(&[0, 0, 0, 1]);
        datagram[5] = 8;
        datagram[14] = 8;
        datagram[23] = 0;
        // A full socket drops it: an attacker does not mind.
        drop(socket.send_to(&datagram, &address));
        if number % 1000 == 0 {
            aap_tests::load::post_until_taken(&platform, number / 1000 * 10, 10);
        }
    }
    platform.await_delivered();
    assert_eq!(platform.count("select count(*) from posts"), u64::from(MANY) / 1000 * 10);
    assert_eq!(platform.carrier(), "quic");
    assert_eq!(sessions(), sessions_before, "no session was lost");
    let grown = resident_kib(pid).saturating_sub(before);
    assert!(grown < KIB_MAX, "{grown} KiB more");
}
