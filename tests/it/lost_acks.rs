//! Every acknowledgement of a scripted run is lost in turn, at every hop: between coordinator and agent, between the HTTP
//! source and its client, between agent and `aap ingest`. What is repeated is there once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use aap_tests::load::{exactly_once, post_until_taken};
use aap_tests::{Platform, Random, Settings, eventually};

/// Rows of one request.
const ROWS: u64 = 10;
/// Requests of the script. Each is delivered before the next, so that it has an acknowledgement of its own.
const STEPS: u64 = 8;

/// Posts `STEPS` requests from row `from` on, each after the one before has been delivered.
#[track_caller]
fn run_script(platform: &Platform, from: u64, before_delivery: impl Fn(u64)) {
    for step in 0..STEPS {
        post_until_taken(platform, from + step * ROWS, ROWS);
        before_delivery(step);
        platform.await_delivered();
    }
}

#[test]
fn an_acknowledgement_that_the_agent_loses_costs_no_row_and_doubles_none() {
    let platform = Platform::new();
    platform.prepare("n1", &Settings::default());
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    for k in 1..=STEPS {
        let mut agent = platform.start_failing("agent", &format!("agent.uplink_before_advance:{k}=error"));
        platform.await_connected();
        run_script(&platform, (k - 1) * STEPS * ROWS, |_| {});
        agent.stop(Duration::from_secs(20));
        let log = platform.log("agent");
        assert_eq!(log.matches("failpoint asked for an error").count() as u64, k, "one loss each");
    }
    let _agent = platform.start("agent");
    platform.await_connected();
    exactly_once(&platform, "posts", "id", STEPS * STEPS * ROWS);
}

#[test]
fn an_acknowledgement_that_the_network_loses_costs_no_row_and_doubles_none() {
    let platform = Platform::new();
    let network = platform.network();
    let settings = Settings { coordinator_address: Some(network.address()), ..Settings::default() };
    platform.prepare("n1", &settings);
    let (_coordinator, _agent) = platform.start_both();
    let landed = || platform.coordinator_metric("aap_landing_rows_total").unwrap_or(0.0) as u64;
    // Over QUIC the agent notices after seconds of silence, so it does not get every k.
    for (carrier, losses) in [("quic", vec![0, STEPS - 1]), ("grpc", (0..STEPS).collect())] {
        network.block_udp(carrier == "grpc");
        eventually(carrier, || (platform.carrier() == carrier).then_some(()));
        for k in losses {
            let from = landed();
            for step in 0..STEPS {
                let row = from + step * ROWS;
                if step == k {
                    network.lose_answers();
                }
                post_until_taken(&platform, row, ROWS);
                if step == k {
                    eventually("the batch to land", || (landed() >= row + ROWS).then_some(()));
                    assert!(platform.agent_metric("aap_agent_buffer_waiting_batches") > Some(0.0));
                    network.cut();
                }
                platform.await_delivered();
            }
        }
    }
    exactly_once(&platform, "posts", "id", 10 * STEPS * ROWS);
    assert_eq!(platform.coordinator_metric("aap_landing_forks_total"), Some(0.0));
}

#[test]
fn an_acknowledgement_lost_with_the_coordinator_costs_no_row_and_doubles_none() {
    let platform = Platform::new();
    platform.prepare("n1", &Settings::default());
    let _agent = platform.start("agent");
    for k in 1..=STEPS {
        let fail = format!("landing.after_commit_before_ack:{k}=abort");
        let mut coordinator = platform.start_failing("coordinator", &fail);
        let from = (k - 1) * STEPS * ROWS;
        let mut next = None;
        for step in 0..STEPS {
            post_until_taken(&platform, from + step * ROWS, ROWS);
            if step + 1 == k {
                coordinator.await_end("it has committed and not answered");
                next = Some(platform.start("coordinator"));
            }
            platform.await_delivered();
        }
        next.unwrap().stop(Duration::from_secs(20));
    }
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    platform.await_connected();
    exactly_once(&platform, "posts", "id", STEPS * STEPS * ROWS);
}

#[test]
fn a_client_that_never_sees_its_answer_repeats_with_its_key_and_adds_nothing() {
    let platform = Platform::new();
    platform.prepare("n1", &Settings::default());
    let (_coordinator, _agent) = platform.start_both();
    let http = platform.http();
    let token = std::fs::read_to_string(platform.home().join("run/operator.token")).unwrap();
    for request in 0..60 {
        let body: String = (0..ROWS).map(|row| format!("{{\"id\":{}}}\n", request * ROWS + row)).collect();
        let key = format!("key-{request}");
        let head = format!(
            "POST /v1/streams/posts HTTP/1.1\r\nhost: {0}\r\nauthorization: Bearer {1}\r\n\
             content-type: application/x-ndjson\r\nidempotency-key: {key}\r\ncontent-length: {2}\r\n\r\n",
            http.address(),
            token.trim(),
            body.len()
        );
        let mut connection = TcpStream::connect(http.address()).unwrap();
        connection.write_all(head.as_bytes()).unwrap();
        match request % 3 {
            // The whole request, and gone at once.
            0 => connection.write_all(body.as_bytes()).unwrap(),
            // Half of it: nothing may be taken.
            1 => connection.write_all(&body.as_bytes()[..body.len() / 2]).unwrap(),
            // The whole, and gone when the answer has come but is not read.
            _ => {
                connection.write_all(body.as_bytes()).unwrap();
                connection.peek(&mut [0]).unwrap();
            }
        }
        drop(connection);
        let headers = [("content-type", "application/x-ndjson"), ("idempotency-key", key.as_str())];
        let answers: Vec<_> =
            (0..2).map(|_| http.post("posts", &headers, body.as_bytes()).unwrap()).collect();
        for answer in &answers {
            assert_eq!((answer.status, answer.body["rows"].as_u64()), (200, Some(ROWS)), "{answer:?}");
        }
        assert_eq!(answers[0].body, answers[1].body, "answered as before");
    }
    exactly_once(&platform, "posts", "id", 60 * ROWS);
}

#[test]
fn a_killed_ingest_run_that_is_repeated_adds_what_was_missing_and_nothing_else() {
    const LINES: u64 = 300_000;
    let mut random = Random::of_test("killed ingest");
    let platform = Platform::new();
    platform.prepare("n1", &Settings::default());
    let (_coordinator, _agent) = platform.start_both();
    let path = platform.beside("run.ndjson");
    let text: String = (0..LINES).map(|id| format!("{{\"id\":{id},\"text\":\"row {id}\"}}\n")).collect();
    std::fs::write(&path, text).unwrap();
    let run = ["ingest", "runs", path.to_str().unwrap()];
    let durable = || platform.agent_metric("aap_agent_rows_durable_total{stream=\"runs\"}").unwrap_or(0.0);
    let mut killed_inside = 0;
    for _ in 0..12 {
        let before = durable();
        let mut child =
            platform.command("aap").args(run).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        if random.below(2) == 0 {
            // Somewhere inside, after some of it is durable.
            eventually("progress or its end", || {
                (durable() > before || child.try_wait().unwrap().is_some()).then_some(())
            });
        } else {
            std::thread::sleep(random.millis(1, 60));
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        if !status.success() && durable() < LINES as f64 {
            killed_inside += 1;
        }
    }
    assert!(killed_inside > 0, "no run was killed before its end");
    platform.aap(&run).ok();
    exactly_once(&platform, "runs", "id", LINES);
    platform.aap(&run).ok();
    exactly_once(&platform, "runs", "id", LINES);
}
