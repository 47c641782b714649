//! Programs killed under load: afterwards every produced row is there exactly once.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aap_tests::{Load, Pace, Platform, Produced, Random, amount};

/// Kills agent and coordinator under load, `rounds` times each. Returns what was produced.
#[track_caller]
pub(crate) fn kill_under_load(platform: &Arc<Platform>, pace: Pace, rounds: u64) -> Produced {
    let mut random = Random::of_test("kills");
    platform.up(&["--tail", &Load::glob(platform)]).ok();
    let load = Load::start(platform, pace);
    for round in 0..rounds {
        for name in ["agent", "coordinator"] {
            thread::sleep(random.millis(20, 500));
            let down = platform.kill_and_wait(name);
            assert!(down < Duration::from_secs(2), "round {round}: {name} came back after {down:?}");
        }
    }
    load.stop()
}

#[test]
fn rows_of_killed_agents_and_coordinators_are_there_exactly_once() {
    let platform = Arc::new(Platform::new());
    let rounds = amount("AAP_TEST_KILLS", 20, 1000);
    kill_under_load(&platform, Pace::FULL, rounds).assert_exactly_once(&platform);
    // Files that gathered while the agent was away are read side by side; each is read in its order.
    let per_file = Pace::FULL.rotate_every;
    let unordered = platform.count(&format!(
        "select count(*) from (select n, lag(n) over (partition by n // {per_file} order by _epoch, _seq, _row) previous \
         from (select *, cast(body as bigint) n from logs)) where n < previous"
    ));
    assert_eq!(unordered, 0, "lines of one file are in the order in which they were read");
}
