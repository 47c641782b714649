//! The books of sources that cannot be asked to send again: what was produced is what is stored and what is counted.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::thread;

use aap_tests::load::exactly_once;
use aap_tests::{Platform, Random, Settings, eventually, free_port, source};
use rustix::process::Signal;

/// A platform with syslog over UDP and TCP on the port that is answered.
fn with_syslog() -> (Platform, u16) {
    let (platform, port) = (Platform::new(), free_port());
    let spec = format!("type: syslog, udp: '127.0.0.1:{port}', tcp: '127.0.0.1:{port}'");
    platform.prepare("n1", &Settings { sources: vec![source("syslog", &spec)], ..Settings::default() });
    (platform, port)
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

#[test]
fn every_datagram_of_syslog_is_stored_or_counted_as_dropped_by_the_kernel() {
    const CALM: u64 = 2_000;
    const FLOOD: u64 = 60_000;
    let (platform, port) = with_syslog();
    let (_coordinator, agent) = platform.start_both();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |id| assert!(socket.send_to(message(id).as_bytes(), ("127.0.0.1", port)).unwrap() > 0);
    (0..CALM).for_each(send);
    // Nobody reads: the queue of the socket overflows for certain.
    agent.signal(Signal::STOP);
    (CALM..CALM + FLOOD).for_each(send);
    agent.signal(Signal::CONT);

    let books = || (stored(&platform, "syslog"), dropped(&platform, "syslog", "kernel_queue"));
    let balanced = || Some(books()).filter(|(stored, dropped)| stored + dropped >= CALM + FLOOD);
    let (stored, dropped) = eventually("books that balance", balanced);
    assert_eq!(stored + dropped, CALM + FLOOD, "{stored} stored, {dropped} dropped");
    assert!(stored > CALM / 2 && dropped > 0, "{stored} stored, {dropped} dropped");
    let counted =
        &platform.rows("select count(*) n, count(distinct cast(body as bigint)) ids from syslog")[0];
    assert_eq!(counted, &serde_json::json!({"n": stored, "ids": stored}));
}

#[test]
fn every_message_of_syslog_over_tcp_is_stored_in_either_framing_or_is_a_dead_letter() {
    const CONNECTIONS: u64 = 4;
    const MESSAGES: u64 = 3_000;
    let mut random = Random::of_test("syslog framings");
    let (platform, port) = with_syslog();
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

    let produced = CONNECTIONS * MESSAGES;
    let books = || (stored(&platform, "syslog"), dropped(&platform, "syslog", "dead_letter"));
    let balanced = || Some(books()).filter(|(stored, dead)| stored + dead >= produced);
    let (stored, dead) = eventually("books that balance", balanced);
    assert_eq!(stored + dead, produced, "{stored} stored, {dead} dead letters, {broken} broken");
    assert_eq!(platform.count("select count(*) from syslog"), stored);
    assert_eq!(platform.count("select count(*) from \"syslog.dead\""), dead);
}

#[test]
fn every_line_of_standard_input_is_stored_or_is_a_dead_letter() {
    const LINES: u64 = 100_000;
    const BROKEN_EVERY: u64 = 1_000;
    let platform = Arc::new(Platform::new());
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

    let balanced = || {
        let books = (stored(&platform, "lines"), dropped(&platform, "lines", "dead_letter"));
        (books.0 + books.1 >= LINES).then_some(books)
    };
    let books = eventually("books that balance", balanced);
    assert_eq!(books, (good, LINES / BROKEN_EVERY));
    platform.await_coordinator();
    platform.await_connected();
    exactly_once(&platform, "lines", "id", good);
    assert_eq!(platform.count("select count(*) from \"lines.dead\""), LINES / BROKEN_EVERY);
}
