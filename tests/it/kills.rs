//! Programs killed under load: afterwards every produced row is there exactly once.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aap_tests::{Load, Pace, Platform, Random, amount};

#[test]
fn rows_of_killed_agents_and_coordinators_are_there_exactly_once() {
    let mut random = Random::of_test("kills");
    let platform = Platform::new();
    platform.up(&["--tail", &Load::glob(&platform)]).ok();
    let platform = Arc::new(platform);
    let load = Load::start(&platform, Pace::FULL);

    for round in 0..amount("AAP_TEST_KILLS", 20, 1000) {
        for name in ["agent", "coordinator"] {
            thread::sleep(random.millis(20, 500));
            let down = platform.kill_and_wait(name);
            assert!(down < Duration::from_secs(2), "round {round}: {name} came back after {down:?}");
        }
    }
    load.stop().assert_exactly_once(&platform);
    // Files that gathered while the agent was away are read side by side; each is read in its order.
    let per_file = Pace::FULL.rotate_every;
    let unordered = platform.count(&format!(
        "select count(*) from (select n, lag(n) over (partition by n // {per_file} order by _epoch, _seq, _row) previous \
         from (select *, cast(body as bigint) n from logs)) where n < previous"
    ));
    assert_eq!(unordered, 0, "lines of one file are in the order in which they were read");
}
