//! The network between agent and coordinator fails in every way it does: UDP vanishes, connections are cut, the coordinator
//! is away. Data goes on over what is left, and every row arrives once.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aap_tests::{Differs, Load, PATIENCE, Pace, Platform, Proxy, Random, Settings, eventually, wait_until};
use rustix::process::Signal;

/// Within this, data flows over TCP where UDP does not pass.
const FALLBACK_WITHIN: Duration = Duration::from_secs(5);

/// A platform with a network between its daemons; nothing runs.
pub(crate) fn prepared(platform: Platform) -> (Arc<Platform>, Proxy) {
    let network = platform.network();
    let settings = Settings { coordinator_address: Some(network.address()), ..Settings::default() };
    platform.prepare("n1", &settings.tail(&Load::glob(&platform)));
    (Arc::new(platform), network)
}

/// How long until data flows over `carrier`.
#[track_caller]
fn until_flowing(platform: &Platform, carrier: &str) -> Duration {
    let began = Instant::now();
    eventually(carrier, || (platform.carrier() == carrier).then_some(()));
    let rows = || platform.coordinator_metric("aap_landing_rows_total");
    let before = rows();
    eventually("rows that land", || (rows() > before).then_some(()));
    began.elapsed()
}

/// Blocks UDP from the start, and twice mid-stream. Returns how long each way back to TCP took, and compares.
#[track_caller]
pub(crate) fn lose_udp(
    (platform, network): &(Arc<Platform>, Proxy),
    pace: Pace,
) -> (Vec<Duration>, Result<(), Differs>) {
    network.block_udp(true);
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    let _agent = platform.start("agent");
    let load = Load::start(platform, pace);
    let mut took = vec![until_flowing(platform, "grpc")];
    for _ in 0..2 {
        network.block_udp(false);
        until_flowing(platform, "quic");
        network.block_udp(true);
        took.push(until_flowing(platform, "grpc"));
    }
    let compared = load.stop().compare(platform);
    assert_eq!(platform.coordinator_metric("aap_landing_forks_total"), Some(0.0));
    (took, compared)
}

#[test]
fn without_udp_data_flows_over_tcp_within_five_seconds_and_returns_to_quic() {
    let (took, compared) = lose_udp(&prepared(Platform::new()), Pace::LIGHT);
    eprintln!("fell back within {took:?}");
    // Other tests run beside this one: the machine may be busy once, but not always.
    assert!(took[0] < FALLBACK_WITHIN, "at the start: {took:?}");
    assert!(took[1].min(took[2]) < FALLBACK_WITHIN, "mid-stream: {took:?}");
    assert_eq!(compared, Ok(()));
}

/// Cuts what stands again and again, `rounds` times over each carrier. Returns whether every row is there once.
#[track_caller]
pub(crate) fn cut_again_and_again(
    (platform, network): &(Arc<Platform>, Proxy),
    pace: Pace,
    rounds: u64,
) -> Result<(), Differs> {
    let mut random = Random::of_test("cuts");
    let (_coordinator, _agent) = platform.start_both();
    let load = Load::start(platform, pace);
    // Over QUIC a cut is a new address, over TCP the end of the connection.
    for carrier in ["quic", "grpc"] {
        network.block_udp(carrier == "grpc");
        eventually(carrier, || (platform.carrier() == carrier).then_some(()));
        for _ in 0..rounds {
            network.damage_datagrams(random.below(80));
            thread::sleep(random.millis(50, 900));
            if random.below(2) == 0 {
                network.lose_answers();
                thread::sleep(random.millis(20, 300));
            }
            network.cut();
        }
        network.damage_datagrams(0);
    }
    network.block_udp(false);
    let compared = load.stop().compare(platform);
    assert_eq!(platform.coordinator_metric("aap_landing_forks_total"), Some(0.0));
    compared
}

#[test]
fn a_network_that_is_cut_again_and_again_neither_loses_nor_doubles_a_row() {
    let pace = Pace { lines: 200, ..Pace::LIGHT };
    assert_eq!(cut_again_and_again(&prepared(Platform::new()), pace, 6), Ok(()));
}

#[test]
fn what_gathers_while_the_coordinator_is_unreachable_drains_when_it_is_back() {
    let (platform, network) = prepared(Platform::new());
    let (mut coordinator, _agent) = platform.start_both();
    let load = Load::start(&platform, Pace { lines: 1000, run_rows: 5000, ..Pace::LIGHT });
    // Once as a network that is gone, once as a coordinator that is.
    network.block_udp(true);
    network.block_tcp(true);
    let waiting = || platform.agent_metric("aap_agent_buffer_waiting_batches").unwrap_or(0.0);
    assert!(wait_until(PATIENCE, || waiting() > 50.0), "{} batches wait", waiting());
    let posted = load.posted();
    eventually("requests answered without a coordinator", || (load.posted() > posted + 500).then_some(()));
    network.block_tcp(false);
    network.block_udp(false);
    until_flowing_again(&platform);
    coordinator.kill();
    assert!(wait_until(PATIENCE, || waiting() > 50.0), "{} batches wait", waiting());
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    load.stop().assert_exactly_once(&platform);
    platform.await_delivered();
}

#[test]
fn daemons_that_freeze_for_longer_than_their_sessions_live_go_on_where_they_were() {
    let (platform, _network) = prepared(Platform::new());
    let (coordinator, agent) = platform.start_both();
    let load = Load::start(&platform, Pace::LIGHT);
    for (name, frozen) in [("agent", &agent), ("coordinator", &coordinator)] {
        eventually("rows that land", || {
            platform.coordinator_metric("aap_landing_rows_total").filter(|n| *n > 0.0)
        });
        frozen.signal(Signal::STOP);
        // The silence is what is tested: the other side must have given the session up.
        thread::sleep(Duration::from_secs(6));
        frozen.signal(Signal::CONT);
        eprintln!("{name}: flows again after {:?}", until_flowing_again(&platform));
    }
    load.stop().assert_exactly_once(&platform);
}

#[test]
fn a_connection_that_carries_nothing_any_more_is_noticed_and_replaced() {
    let (platform, network) = prepared(Platform::new());
    network.block_udp(true);
    let (_coordinator, _agent) = platform.start_both();
    let load = Load::start(&platform, Pace::LIGHT);
    until_flowing(&platform, "grpc");
    network.go_silent();
    // Keep-alives notice within ten seconds; the rest is for a busy machine.
    let took = until_flowing(&platform, "grpc");
    assert!(took < Duration::from_secs(20), "{took:?}");
    load.stop().assert_exactly_once(&platform);
}

fn until_flowing_again(platform: &Platform) -> Duration {
    let carrier = eventually("a session", || Some(platform.carrier()).filter(|carrier| !carrier.is_empty()));
    until_flowing(platform, &carrier)
}
