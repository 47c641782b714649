//! The power is cut: what the kernel had not been made to write is gone. Every row that was acknowledged is there once.

use std::sync::Arc;
use std::thread;

use aap_tests::load::compare;
use aap_tests::{Differs, Load, Pace, Platform, Random, Settings, SmallDisk, amount, eventually};

/// A platform whose whole home lies on a disk of its own; input lies elsewhere.
pub(crate) fn on_own_disk(platform: Platform, durability: &str) -> Option<(Arc<Platform>, SmallDisk)> {
    let disk = SmallDisk::mount(&platform.beside("disk.img"), &platform.home(), 1024)?;
    let settings = Settings {
        buffer: format!("{{ durability: {durability} }}"),
        coordinator: format!("landing: {{ durability: {durability} }}, lake: {{ age_seconds: 1 }}"),
        ..Settings::default()
    };
    platform.prepare("n1", &settings.tail(&Load::glob(&platform)));
    // The configuration is the operator's; what the daemons write is theirs to sync.
    std::process::Command::new("sync").status().ok()?;
    Some((Arc::new(platform), disk))
}

#[test]
fn acknowledged_rows_survive_power_cuts_under_load() {
    let mut random = Random::of_test("power cuts");
    let Some((platform, disk)) = on_own_disk(Platform::new(), "fsync") else { return };
    let load = Load::start(&platform, Pace::LIGHT);
    for _ in 0..amount("AAP_TEST_CUTS", 5, 1000) {
        let (mut coordinator, mut agent) = (platform.start("coordinator"), platform.start("agent"));
        // Sometimes in the start, sometimes long after it.
        thread::sleep(random.millis(20, 1500));
        disk.cut_power();
        agent.kill();
        coordinator.kill();
        drop((agent, coordinator));
        disk.restore();
    }
    let (_coordinator, _agent) = platform.start_both();
    load.stop().assert_exactly_once(&platform);
}

/// Cuts the power once, right after requests were acknowledged, and compares these.
#[track_caller]
pub(crate) fn cut_after_acknowledgements(platform: &Arc<Platform>, disk: &SmallDisk) -> Result<(), Differs> {
    let (mut coordinator, mut agent) = platform.start_both();
    let load = Load::start(platform, Pace::LIGHT);
    eventually("acknowledged rows", || (load.posted() > 1000).then_some(()));
    let posted = load.stop().posts;
    disk.cut_power();
    agent.kill();
    coordinator.kill();
    drop((agent, coordinator));
    disk.restore();
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    let _agent = platform.start("agent");
    eventually("an agent that answers", || platform.agent_metric("aap_agent_uplink_connected"));
    compare(platform, "posts", "id", posted)
}

#[test]
fn this_harness_notices_a_buffer_that_answers_before_its_rows_are_synced() {
    let Some((platform, disk)) = on_own_disk(Platform::new(), "memory") else { return };
    let differs = cut_after_acknowledgements(&platform, &disk).expect_err("rows survived without a sync");
    assert!(differs.missing > 0, "{differs}");
}
