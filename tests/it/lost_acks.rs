//! Every acknowledgement of a scripted run is lost in turn, at every hop: between coordinator and agent, between the HTTP
//! source and its client, between agent and `aap ingest`. What is repeated is there once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::process::Stdio;
use std::time::Duration;

use aap_tests::load::{compare, post_until_taken};
use aap_tests::{Differs, Platform, Random, Settings, eventually};

/// Rows of one request.
const ROWS: u64 = 10;
/// Requests of the script. Each is delivered before the next, so that it has an acknowledgement of its own.
const STEPS: u64 = 8;

/// Rows of the script.
const SCRIPT_ROWS: u64 = STEPS * ROWS;
/// A daemon that is asked to end has ended.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// Posts `STEPS` requests from row `from` on, each after the one before has been delivered. Returns how many rows.
#[track_caller]
fn run_script(platform: &Platform, from: u64) -> u64 {
    for step in 0..STEPS {
        post_until_taken(platform, from + step * ROWS, ROWS);
        platform.await_delivered();
    }
    SCRIPT_ROWS
}

/// The agent loses each acknowledgement of the script in turn, or those numbered `losses`.
#[track_caller]
pub(crate) fn agent_loses(platform: &Platform, losses: RangeInclusive<u64>) -> Result<(), Differs> {
    platform.prepare("n1", &Settings::default());
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    let mut rows = 0;
    for k in losses {
        let mut agent = platform.start_failing("agent", &format!("agent.uplink_before_advance:{k}=error"));
        platform.await_connected();
        rows += run_script(platform, rows);
        agent.stop(STOPS_WITHIN);
        let lost = platform.log("agent").matches("failpoint asked for an error").count() as u64;
        assert_eq!(lost, rows / SCRIPT_ROWS, "one loss each");
    }
    let _agent = platform.start("agent");
    platform.await_connected();
    compare(platform, "posts", "id", rows)
}

#[test]
fn an_acknowledgement_that_the_agent_loses_costs_no_row_and_doubles_none() {
    assert_eq!(agent_loses(&Platform::new(), 1..=STEPS), Ok(()));
}

/// The coordinator has committed, and the connection is cut before it answers: for each acknowledgement in turn.
#[track_caller]
pub(crate) fn connection_cut(platform: &Platform, losses: RangeInclusive<u64>) -> Result<(), Differs> {
    platform.prepare("n1", &Settings::default());
    let _agent = platform.start("agent");
    let mut rows = 0;
    for k in losses {
        let mut coordinator = platform.start_failing("coordinator", &format!("session.before_ack:{k}=error"));
        platform.await_coordinator();
        platform.await_connected();
        rows += run_script(platform, rows);
        coordinator.stop(STOPS_WITHIN);
        let lost = platform.log("coordinator").matches("cut the session before its acknowledgement").count();
        assert_eq!(lost as u64, rows / SCRIPT_ROWS, "one cut each");
    }
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    platform.await_connected();
    compare(platform, "posts", "id", rows)
}

#[test]
fn an_acknowledgement_cut_off_after_the_commit_costs_no_row_and_doubles_none() {
    let platform = Platform::new();
    assert_eq!(connection_cut(&platform, 1..=STEPS), Ok(()));
}

#[test]
fn an_acknowledgement_that_the_network_loses_costs_no_row_and_doubles_none() {
    assert_eq!(network_loses(&Platform::new(), 0..=STEPS - 1), Ok(()));
}

/// The network loses what the coordinator says, from the `losses`th step of the script on, and is cut.
#[track_caller]
pub(crate) fn network_loses(platform: &Platform, losses: RangeInclusive<u64>) -> Result<(), Differs> {
    let network = platform.network();
    let settings = Settings { coordinator_address: Some(network.address()), ..Settings::default() };
    platform.prepare("n1", &settings);
    let (_coordinator, _agent) = platform.start_both();
    let landed = || platform.coordinator_metric("aap_landing_rows_total").unwrap_or(0.0) as u64;
    let mut row = 0;
    // Over QUIC the agent notices after seconds of silence, so it does not get every k.
    for (carrier, losses) in [("quic", vec![*losses.start(), *losses.end()]), ("grpc", losses.collect())] {
        network.block_udp(carrier == "grpc");
        eventually(carrier, || (platform.carrier() == carrier).then_some(()));
        for k in losses {
            for step in 0..STEPS {
                let before = landed();
                if step == k {
                    network.lose_answers();
                }
                post_until_taken(platform, row, ROWS);
                if step == k {
                    eventually("the batch to land", || (landed() >= before + ROWS).then_some(()));
                    assert!(platform.agent_metric("aap_agent_buffer_waiting_batches") > Some(0.0));
                    network.cut();
                }
                platform.await_delivered();
                row += ROWS;
            }
        }
    }
    assert_eq!(platform.coordinator_metric("aap_landing_forks_total"), Some(0.0));
    compare(platform, "posts", "id", row)
}

/// What the agent does while the coordinator is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agent {
    /// It runs on.
    Runs,
    /// It ends, begins anew, and lets go of everything that it believes delivered.
    Restarts,
}

/// The coordinator dies at the passages `losses` of one of its points, in turn, and comes back.
#[track_caller]
pub(crate) fn coordinator_dies(
    platform: &Platform,
    point: &str,
    losses: RangeInclusive<u64>,
    meanwhile: Agent,
) -> Result<(), Differs> {
    let buffer = "{ retain: 0B, segment_bytes: 1MiB }".to_owned();
    platform.prepare("n1", &Settings { buffer, ..Settings::default() });
    let mut agent = platform.start("agent");
    let mut rows = 0;
    for k in losses {
        let mut coordinator = platform.start_failing("coordinator", &format!("{point}:{k}=abort"));
        let mut next = None;
        for step in 1..=STEPS {
            post_until_taken(platform, rows, ROWS);
            rows += ROWS;
            if step == k {
                coordinator.await_end("it comes by its point");
                if meanwhile == Agent::Restarts {
                    agent.stop(STOPS_WITHIN);
                    agent = platform.start("agent");
                    // The first append of a store that was opened anew lets go of what was delivered.
                    post_until_taken(platform, rows, ROWS);
                    rows += ROWS;
                }
                next = Some(platform.start("coordinator"));
            }
            platform.await_delivered();
        }
        next.unwrap().stop(STOPS_WITHIN);
    }
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    platform.await_connected();
    compare(platform, "posts", "id", rows)
}

#[test]
fn an_acknowledgement_lost_with_the_coordinator_costs_no_row_and_doubles_none() {
    let point = "landing.after_commit_before_ack";
    assert_eq!(coordinator_dies(&Platform::new(), point, 1..=STEPS, Agent::Runs), Ok(()));
}

#[test]
fn a_batch_lost_with_the_coordinator_is_sent_again_by_an_agent_that_keeps_only_what_it_must() {
    let point = "landing.before_commit";
    assert_eq!(coordinator_dies(&Platform::new(), point, 1..=3, Agent::Restarts), Ok(()));
}

#[test]
fn a_client_that_never_sees_its_answer_repeats_with_its_key_and_adds_nothing() {
    assert_eq!(client_repeats(&Platform::new(), 60), Ok(()));
}

/// A client goes away without its answer, and repeats each of its `requests`.
#[track_caller]
pub(crate) fn client_repeats(platform: &Platform, requests: u64) -> Result<(), Differs> {
    platform.prepare("n1", &Settings::default());
    let (_coordinator, _agent) = platform.start_both();
    let http = platform.http();
    let token = std::fs::read_to_string(platform.home().join("run/operator.token")).unwrap();
    for request in 0..requests {
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
    compare(platform, "posts", "id", requests * ROWS)
}

#[test]
fn a_killed_ingest_run_that_is_repeated_adds_what_was_missing_and_nothing_else() {
    assert_eq!(ingest_killed(&Platform::new(), 12), Ok(()));
}

/// Runs of `aap ingest` over one file are killed, and the last two are not.
#[track_caller]
pub(crate) fn ingest_killed(platform: &Platform, kills: u64) -> Result<(), Differs> {
    // A fast machine takes 300,000 before anybody could kill.
    const LINES: u64 = 1_000_000;
    let mut random = Random::of_test("killed ingest");
    platform.prepare("n1", &Settings::default());
    let (_coordinator, _agent) = platform.start_both();
    let path = platform.beside("run.ndjson");
    let text: String = (0..LINES).map(|id| format!("{{\"id\":{id},\"text\":\"row {id}\"}}\n")).collect();
    std::fs::write(&path, text).unwrap();
    let run = ["ingest", "runs", path.to_str().unwrap()];
    let durable = || platform.agent_metric("aap_agent_rows_durable_total{stream=\"runs\"}").unwrap_or(0.0);
    let mut killed_inside = 0;
    for _ in 0..kills {
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
    compare(platform, "runs", "id", LINES)?;
    platform.aap(&run).ok();
    compare(platform, "runs", "id", LINES)
}
