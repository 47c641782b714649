//! Daemons that die at every numbered crash point of the write path, and once more while they recover or right after:
//! afterwards every produced row is there exactly once.

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::thread;

use aap_tests::{Daemon, Load, Pace, Platform, Produced, Random, Settings, is_long, wait_until};

/// The points of `agent/src/failpoint.rs`.
const AGENT_POINTS: [&str; 8] = [
    "agent.after_read",
    "agent.before_append",
    "agent.after_append_before_answer",
    "agent.after_answer",
    "agent.uplink_before_send",
    "agent.uplink_after_send",
    "agent.uplink_before_advance",
    "agent.uplink_after_advance",
];
/// The points of the landing.
const LANDING_POINTS: [&str; 3] =
    ["landing.before_commit", "landing.after_commit_before_ack", "session.before_ack"];
/// The points of the lake: each load passes them, and each compaction.
const LAKE_POINTS: [&str; 3] = [
    "lake.after_files_before_commit",
    "lake.after_commit_before_manifest",
    "lake.after_manifest_before_advance",
];

/// At which passages a daemon dies.
fn passages(default: &[u64], long: u64) -> Vec<u64> {
    if is_long() { (1..=long).collect() } else { default.to_vec() }
}

/// Prepares a platform. Everything goes to the lake at once, so that its points are passed all the time, and many files are
/// merged.
pub(crate) fn prepared(platform: Platform) -> Arc<Platform> {
    let coordinator = "lake: { age_seconds: 0, compact_files: 2 }".to_owned();
    platform.prepare("n1", &Settings { coordinator, ..Settings::default() }.tail(&Load::glob(&platform)));
    Arc::new(platform)
}

/// A daemon that dies at the `n`th passage of a point.
#[track_caller]
fn dies_at(platform: &Platform, name: &str, point: &str, n: u64) {
    let mut daemon = platform.start_failing(name, &format!("{point}:{n}=abort"));
    let status = daemon.await_end(&format!("{point}:{n} is never passed"));
    assert!(status.signal().is_some(), "{name} at {point}:{n} ended with {status}");
}

/// Dies at the `n`th passage, then in its recovery or soon after, then at its first passage.
#[track_caller]
fn dies_thrice(platform: &Platform, name: &str, point: &str, n: u64, random: &mut Random) {
    dies_at(platform, name, point, n);
    let mut recovering = platform.start(name);
    thread::sleep(random.millis(0, 60));
    recovering.kill();
    dies_at(platform, name, point, 1);
}

/// Points with the passages at which a daemon dies.
type Points<'a> = [(&'a str, Vec<u64>)];

/// Lets the agent die under load at each passage of each point. The daemons run on, so that they can be asked.
#[track_caller]
pub(crate) fn agent_dies(
    platform: &Arc<Platform>,
    pace: Pace,
    points: &Points<'_>,
) -> (Produced, [Daemon; 2]) {
    let coordinator = platform.start("coordinator");
    let load = Load::start(platform, pace);
    let agent = dies_at_all(platform, "agent", points);
    (load.stop(), [coordinator, agent])
}

/// The same of the coordinator.
#[track_caller]
pub(crate) fn coordinator_dies(
    platform: &Arc<Platform>,
    pace: Pace,
    points: &Points<'_>,
) -> (Produced, [Daemon; 2]) {
    let agent = platform.start("agent");
    let load = Load::start(platform, pace);
    let coordinator = dies_at_all(platform, "coordinator", points);
    platform.await_coordinator();
    (load.stop(), [coordinator, agent])
}

/// Returns the daemon in its last life.
#[track_caller]
fn dies_at_all(platform: &Platform, name: &str, points: &Points<'_>) -> Daemon {
    let mut random = Random::of_test(&format!("crash points of the {name}"));
    for (point, passages) in points {
        for n in passages {
            dies_thrice(platform, name, point, *n, &mut random);
        }
    }
    platform.start(name)
}

#[test]
fn rows_survive_an_agent_that_dies_at_every_point_of_its_write_path() {
    let platform = prepared(Platform::new());
    let points = AGENT_POINTS.map(|point| (point, passages(&[1, 2, 3, 5, 9, 23], 60)));
    let (produced, _daemons) = agent_dies(&platform, Pace::LIGHT, &points);
    produced.assert_exactly_once(&platform);
}

#[test]
fn rows_survive_a_coordinator_that_dies_at_every_point_of_landing_and_lake() {
    let platform = prepared(Platform::new());
    let of_landing = LANDING_POINTS.map(|point| (point, passages(&[1, 2, 3, 5, 9, 23], 60)));
    let of_lake = LAKE_POINTS.map(|point| (point, passages(&[1, 2, 3, 4, 6], 60)));
    let points = [&of_landing[..], &of_lake[..]].concat();
    let (produced, _daemons) = coordinator_dies(&platform, Pace::LIGHT, &points);
    produced.assert_exactly_once(&platform);

    // The same from the lake alone, once everything has arrived there.
    let arrived = || {
        let status = platform.aap(&["status", "-o", "json"]).json();
        let streams = status["item"]["streams"].as_array().unwrap().clone();
        streams.iter().all(|stream| stream["rows"] == stream["rows_in_lake"])
    };
    assert!(wait_until(aap_tests::PATIENCE, arrived), "{:?}", platform.aap(&["status", "-o", "json"]));
    produced.assert_exactly_once(&platform);
}
