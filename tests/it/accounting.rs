//! The books of sources that cannot be asked to send again: what was produced is what is stored and what is counted.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use aap_tests::load::exactly_once;
use aap_tests::{PATIENCE, Platform, Random, Settings, free_port, source, wait_until};
use rustix::process::Signal;

/// What became of what was produced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Books {
    produced: u64,
    stored: u64,
    dropped: u64,
}

impl Books {
    /// The books of a stream as soon as they balance, or as they are when `patience` ends.
    fn of(platform: &Platform, stream: &str, reason: &str, produced: u64, patience: Duration) -> Self {
        let look = || {
            let (stored, dropped) = (stored(platform, stream), dropped(platform, stream, reason));
            Self { produced, stored, dropped }
        };
        wait_until(patience, || look().stored + look().dropped >= produced);
        look()
    }

    /// Everything is stored or counted, and nothing twice.
    pub(crate) fn balance(&self) -> bool {
        self.stored + self.dropped == self.produced
    }
}

/// Prepares syslog over UDP and TCP on the port that is answered.
fn with_syslog(platform: &Platform) -> u16 {
    let port = free_port();
    let spec = format!("type: syslog, udp: '127.0.0.1:{port}', tcp: '127.0.0.1:{port}'");
    platform.prepare("n1", &Settings { sources: vec![source("syslog", &spec)], ..Settings::default() });
    port
}

/// Rows of a stream that became durable since the agent started.
fn stored(platform: &Platform, stream: &str) -> u64 {
    let name = format!("aap_agent_rows_durable_total{{stream=\"{stream}\"}}");
    platform.agent_metric(&name).unwrap_or(0.0) as u64
}

/// Rows of a stream that were counted as dropped for a reason.
fn dropped(platform: &Platform, stream: &str, reason: &str) -> u64 {
    let name = format!("aap_agent_rows_dropped_total{{stream=\"{stream}\",reason=\"{reason}\"}}");
    platform.agent_metric(&name).unwrap_or(0.0) as u64
}

fn message(id: u64) -> String {
    format!("<13>1 2026-01-01T00:00:00Z host app - - - {id}")
}

/// Sends datagrams, many of them while nobody reads: the queue of the socket overflows for certain.
#[track_caller]
pub(crate) fn flood_syslog(platform: &Platform, patience: Duration) -> Books {
    const CALM: u64 = 2_000;
    const FLOOD: u64 = 60_000;
    let port = with_syslog(platform);
    let (_coordinator, agent) = platform.start_both();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |id| assert!(socket.send_to(message(id).as_bytes(), ("127.0.0.1", port)).unwrap() > 0);
    (0..CALM).for_each(send);
    agent.signal(Signal::STOP);
    (CALM..CALM + FLOOD).for_each(send);
    agent.signal(Signal::CONT);

    let books = Books::of(platform, "syslog", "kernel_queue", CALM + FLOOD, patience);
    assert!(books.stored > CALM / 2 && books.stored < CALM + FLOOD, "{books:?}");
    let counted =
        &platform.rows("select count(*) n, count(distinct cast(body as bigint)) ids from syslog")[0];
    assert_eq!(counted, &serde_json::json!({"n": books.stored, "ids": books.stored}));
    books
}

#[test]
fn every_datagram_of_syslog_is_stored_or_counted_as_dropped_by_the_kernel() {
    let books = flood_syslog(&Platform::new(), PATIENCE);
    assert!(books.balance() && books.dropped > 0, "{books:?}");
}

#[test]
fn every_message_of_syslog_over_tcp_is_stored_in_either_framing_or_is_a_dead_letter() {
    const CONNECTIONS: u64 = 4;
    const MESSAGES: u64 = 3_000;
    let mut random = Random::of_test("syslog framings");
    let platform = Platform::new();
    let port = with_syslog(&platform);
    let (_coordinator, _agent) = platform.start_both();
    let mut broken = 0;
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let mut bytes = Vec::new();
            for id in connection * MESSAGES..(connection + 1) * MESSAGES {
                let mut text = message(id);
                if id % 100 == 99 {
                    // A priority that is none: nobody can say what this is.
                    text = format!("<99999>1 {id}");
                    broken += 1;
                }
                match random.below(2) {
                    0 => bytes.extend(format!("{} {text}", text.len()).bytes()),
                    _ => bytes.extend(format!("{text}\n").bytes()),
                }
            }
            let mut random = Random::seeded(random.number());
            thread::spawn(move || {
                let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (piece, later) = rest.split_at(rest.len().min(1 + random.below(5_000) as usize));
                    socket.write_all(piece).unwrap();
                    rest = later;
                }
            })
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());

    let books = Books::of(&platform, "syslog", "dead_letter", CONNECTIONS * MESSAGES, PATIENCE);
    assert!(books.balance(), "{books:?}, {broken} broken");
    assert_eq!(platform.count("select count(*) from syslog"), books.stored);
    assert_eq!(platform.count("select count(*) from \"syslog.dead\""), books.dropped);
}

/// Feeds lines to standard input, some of them broken. Returns the books, and how many lines were good.
#[track_caller]
pub(crate) fn feed_standard_input(platform: &Platform, patience: Duration) -> (Books, u64) {
    const LINES: u64 = 100_000;
    const BROKEN_EVERY: u64 = 1_000;
    let spec = "type: stdin, stream: lines, format: ndjson";
    platform.prepare("n1", &Settings { sources: vec![source("stdin", spec)], ..Settings::default() });
    let _coordinator = platform.start("coordinator");
    let mut agent = platform.start_command("agent", platform.command("aap-agent").stdin(Stdio::piped()));
    let mut input = agent.stdin().unwrap();
    let mut good = 0;
    for id in 0..LINES {
        if id % BROKEN_EVERY == 0 {
            input.write_all(b"{\"id\":\n").unwrap();
        } else {
            let end = if id + 1 == LINES { "" } else { "\n" };
            input.write_all(format!("{{\"id\":{good}}}{end}").as_bytes()).unwrap();
            good += 1;
        }
    }
    drop(input);

    let books = Books::of(platform, "lines", "dead_letter", LINES, patience);
    platform.await_coordinator();
    platform.await_connected();
    exactly_once(platform, "lines", "id", good);
    assert_eq!(platform.count("select count(*) from \"lines.dead\""), LINES - good);
    (books, good)
}

#[test]
fn every_line_of_standard_input_is_stored_or_is_a_dead_letter() {
    let (books, good) = feed_standard_input(&Platform::new(), PATIENCE);
    assert!(books.balance() && books.stored == good, "{books:?}, {good} good");
}
