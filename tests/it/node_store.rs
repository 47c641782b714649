//! The node's store is lost, rolled back or cloned: what can be read again is there exactly once, and nothing that was
//! acknowledged vanishes silently.

use std::time::Duration;

use aap_tests::load::{await_progress, compare, exactly_once, post_until_taken, prepared_with_a_quick_lake};
use aap_tests::{Differs, Load, Pace, Platform, Settings, copy, eventually, put_back};

/// Rows of one request.
const ROWS: u64 = 50;

#[test]
fn a_lost_store_of_the_node_costs_nothing_that_was_delivered_and_doubles_nothing() {
    let platform = prepared_with_a_quick_lake();
    let (_coordinator, mut agent) = platform.start_both();
    let load = Load::start(&platform, Pace::FILE);
    let file = platform.beside("run.ndjson");
    let rows: String = (0..1000).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    std::fs::write(&file, rows).unwrap();
    platform.aap(&["ingest", "runs", file.to_str().unwrap()]).ok();
    (0..10).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    await_progress(&platform);
    platform.await_delivered();

    agent.kill();
    std::fs::remove_dir_all(platform.home().join("agent")).unwrap();
    let _agent = platform.start("agent");
    // Clients that never saw their answer repeat at once.
    (0..10).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    platform.aap(&["ingest", "runs", file.to_str().unwrap()]).ok();
    await_progress(&platform);
    load.stop().assert_exactly_once(&platform);
    exactly_once(&platform, "posts", "id", 10 * ROWS);
    exactly_once(&platform, "runs", "id", 1000);
}

#[test]
fn a_store_that_was_rolled_back_goes_on_where_the_data_stands() {
    let platform = prepared_with_a_quick_lake();
    let (_coordinator, mut agent) = platform.start_both();
    let load = Load::start(&platform, Pace::FILE);
    await_progress(&platform);
    agent.stop(Duration::from_secs(20));
    copy(&platform.home().join("agent"), &platform.beside("agent-before"));

    let mut agent = platform.start("agent");
    platform.await_connected();
    await_progress(&platform);
    agent.kill();
    put_back(&platform.beside("agent-before"), &platform.home().join("agent"));
    let _agent = platform.start("agent");
    await_progress(&platform);
    load.stop().assert_exactly_once(&platform);
}

/// The store of the node is rolled back while the coordinator is away, and takes as many batches again. Returns how many
/// rows an operator had to decide about.
#[track_caller]
pub(crate) fn rolled_back_unnoticed(platform: &Platform) -> (u64, Result<(), Differs>) {
    platform.prepare("n1", &Settings::default());
    let (mut coordinator, mut agent) = platform.start_both();
    (0..5).for_each(|request| post_until_taken(platform, request * ROWS, ROWS));
    agent.stop(Duration::from_secs(20));
    copy(&platform.home().join("agent"), &platform.beside("agent-before"));

    let mut agent = platform.start("agent");
    (5..15).for_each(|request| post_until_taken(platform, request * ROWS, ROWS));
    platform.await_connected();
    platform.await_delivered();
    agent.kill();
    coordinator.kill();
    put_back(&platform.beside("agent-before"), &platform.home().join("agent"));

    // The same number of batches again, with other rows, while nobody can say what landed before.
    let _agent = platform.start("agent");
    (15..25).for_each(|request| post_until_taken(platform, request * ROWS, ROWS));
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    platform.await_connected();
    // Nobody can tell whether these are new rows; an operator can.
    let mut held = 0;
    eventually("everything delivered", || {
        let recovered = platform.aap(&["node", "recover", "n1", "--resend", "-o", "json"]).ok().json();
        held += recovered["item"]["rows"].as_u64().unwrap_or(0);
        platform.agent_metric("aap_agent_buffer_waiting_batches").filter(|waiting| *waiting == 0.0)
    });
    (held, compare(platform, "posts", "id", 25 * ROWS))
}

#[test]
fn rows_that_a_rolled_back_store_acknowledged_before_anybody_noticed_are_not_lost() {
    assert_eq!(rolled_back_unnoticed(&Platform::new()), (10 * ROWS, Ok(())));
}

#[test]
fn a_cloned_store_is_refused_while_its_twin_lives_and_loses_no_acknowledged_row() {
    let platform = prepared_with_a_quick_lake();
    let (_coordinator, mut agent) = platform.start_both();
    (0..2).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    platform.await_delivered();
    agent.stop(Duration::from_secs(20));

    // The same node on another machine: certificates, configuration and store, and the address of the coordinator.
    let twin = Platform::new();
    let address = platform.endpoint("agents");
    twin.prepare("n1", &Settings { coordinator_address: address, ..Settings::default() });
    for part in ["agent", "tls", "run/operator.token"] {
        put_back(&platform.home().join(part), &twin.home().join(part));
    }
    let mut agent = platform.start("agent");
    let mut clone = twin.start("agent");
    for request in 2..20 {
        let of = if request % 2 == 0 { &*platform } else { &twin };
        post_until_taken(of, request * ROWS, ROWS);
    }
    agent.stop(Duration::from_secs(20));
    // Without its twin it is welcome; what both gave the same identity to is sent again as the operator says.
    eventually("everything of the twin delivered", || {
        twin.aap(&["node", "recover", "n1", "--resend"]);
        twin.agent_metric("aap_agent_buffer_waiting_batches").filter(|waiting| *waiting == 0.0)
    });
    clone.stop(Duration::from_secs(20));
    let _agent = platform.start("agent");
    eventually("everything of the other delivered", || {
        platform.aap(&["node", "recover", "n1", "--resend"]);
        platform.agent_metric("aap_agent_buffer_waiting_batches").filter(|waiting| *waiting == 0.0)
    });
    exactly_once(&platform, "posts", "id", 20 * ROWS);
}

#[test]
fn what_a_lost_store_had_not_delivered_is_reported() {
    let platform = prepared_with_a_quick_lake();
    let (mut coordinator, mut agent) = platform.start_both();
    post_until_taken(&platform, 0, ROWS);
    platform.await_delivered();
    coordinator.kill();
    post_until_taken(&platform, ROWS, ROWS);
    agent.kill();
    std::fs::remove_dir_all(platform.home().join("agent")).unwrap();
    let _coordinator = platform.start("coordinator");
    let _agent = platform.start("agent");
    platform.await_coordinator();
    platform.await_connected();
    // The only copy is gone; that nobody is told would be the worse loss.
    eventually("a report of the replaced store", || {
        let status = platform.aap(&["status", "-o", "json"]).json();
        let problems = status["item"]["nodes"][0]["problems"].to_string();
        problems.contains("store").then_some(())
    });
}
