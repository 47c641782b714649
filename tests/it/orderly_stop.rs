//! An agent that is asked to stop stores what its sources have been given, also what nobody can send again.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use aap_tests::load::exactly_once;
use aap_tests::{Daemon, Platform, Settings, eventually, free_port, source};
use rustix::process::Signal;

/// Few enough for every queue and pipe of the kernel.
const MESSAGES: u64 = 100;
/// An agent that only happens to look in time would not do so again and again.
const ROUNDS: u64 = 8;
/// Longest orderly stop.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Stops an agent that has not looked at its sources since `give` gave them something.
#[track_caller]
fn stop_while_full(agent: &mut Daemon, give: impl FnOnce()) {
    agent.signal(Signal::STOP);
    give();
    agent.signal(Signal::TERM);
    agent.signal(Signal::CONT);
    agent.stop(STOP_WITHIN);
}

fn message(id: u64) -> String {
    format!("<13>1 2026-01-01T00:00:00Z host app - - - {id}")
}

#[test]
fn datagrams_that_wait_in_the_kernel_are_stored_before_an_agent_stops() {
    let (platform, port) = (Platform::new(), free_port());
    let spec = format!("type: syslog, udp: '127.0.0.1:{port}'");
    platform.prepare("n1", &Settings { sources: vec![source("syslog", &spec)], ..Settings::default() });
    let (_coordinator, mut agent) = platform.start_both();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for round in 0..ROUNDS {
        stop_while_full(&mut agent, || {
            for id in round * MESSAGES..(round + 1) * MESSAGES {
                socket.send_to(message(id).as_bytes(), ("127.0.0.1", port)).unwrap();
            }
        });
        agent = platform.start("agent");
        platform.await_connected();
    }
    exactly_once(&platform, "syslog", "cast(body as bigint)", ROUNDS * MESSAGES);
}

#[test]
fn messages_on_open_connections_are_stored_before_an_agent_stops() {
    let (platform, port) = (Platform::new(), free_port());
    let spec = format!("type: syslog, tcp: '127.0.0.1:{port}'");
    platform.prepare("n1", &Settings { sources: vec![source("syslog", &spec)], ..Settings::default() });
    let (_coordinator, mut agent) = platform.start_both();
    for round in 0..ROUNDS {
        let mut connection = eventually("a listener", || TcpStream::connect(("127.0.0.1", port)).ok());
        let first = round * MESSAGES;
        writeln!(connection, "{}", message(first)).unwrap();
        eventually("the first message", || {
            (platform.count("select count(*) from syslog") > first).then_some(())
        });
        stop_while_full(&mut agent, || {
            let lines: Vec<String> = (first + 1..first + MESSAGES).map(message).collect();
            // The last one has no line end yet: an agent that stops does not wait for it.
            connection.write_all(lines.join("\n").as_bytes()).unwrap();
        });
        agent = platform.start("agent");
        platform.await_connected();
    }
    exactly_once(&platform, "syslog", "cast(body as bigint)", ROUNDS * MESSAGES);
}

#[test]
fn lines_that_wait_in_a_pipe_are_stored_before_an_agent_stops() {
    let platform = Platform::new();
    let spec = "type: stdin, stream: lines, format: ndjson";
    platform.prepare("n1", &Settings { sources: vec![source("stdin", spec)], ..Settings::default() });
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    for round in 0..ROUNDS {
        let mut agent = platform.start_command("agent", platform.command("aap-agent").stdin(Stdio::piped()));
        let mut input = agent.stdin().unwrap();
        let first = round * MESSAGES;
        writeln!(input, "{{\"id\":{first}}}").unwrap();
        platform.await_connected();
        eventually("the first line", || (platform.count("select count(*) from lines") > first).then_some(()));
        stop_while_full(&mut agent, || {
            (first + 1..first + MESSAGES).for_each(|id| writeln!(input, "{{\"id\":{id}}}").unwrap());
        });
    }
    let _agent = platform.start("agent");
    platform.await_connected();
    exactly_once(&platform, "lines", "id", ROUNDS * MESSAGES);
}
