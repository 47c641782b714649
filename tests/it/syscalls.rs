//! The long version of crashes and failing disks: the daemons die at, or get an error from, every system call of the write
//! path in turn. Needs `strace`; runs with `AAP_TEST_LONG`.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aap_tests::{
    Daemon, Load, Pace, Platform, Settings, amount, eventually, is_long, program, skipped, wait_until,
};

/// What changes a disk.
const CALLS: [&str; 7] = ["pwrite64", "write", "fdatasync", "fsync", "openat", "rename", "unlink"];

/// How many calls of each kind are tried, if this is the long version.
fn tries() -> Option<u64> {
    if !is_long() || Command::new("strace").arg("-V").output().is_err() {
        skipped("runs with AAP_TEST_LONG, and needs strace");
        return None;
    }
    Some(amount("AAP_TEST_CALLS", 60, 60))
}

fn prepared() -> Arc<Platform> {
    // Small segments and files, so that rolling, recycling, loading and merging come by all the time.
    let settings = Settings {
        buffer: "{ segment_bytes: 1MiB, retain: 1MiB }".into(),
        coordinator: "landing: { retain: 1MiB }, lake: { age_seconds: 0, compact_files: 2 }".into(),
        ..Settings::default()
    };
    Load::prepared(settings)
}

/// A daemon under `strace`, which does `inject` to it. The daemon is the child, the tracer stands beside it.
fn traced(platform: &Platform, name: &str, calls: &str, inject: &str) -> Daemon {
    let mut command = Command::new("strace");
    command
        .args(["-D", "-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:{inject}")])
        .arg(program(&format!("aap-{name}")))
        .env("AAP_HOME", platform.home());
    platform.start_command(name, &mut command)
}

/// Kills `name` at the first calls of each kind of every thread: the first ones are its recovery.
fn dies_at_every_call(name: &str) {
    let Some(tries) = tries() else { return };
    let platform = prepared();
    let other = if name == "agent" { "coordinator" } else { "agent" };
    let _other = platform.start(other);
    let load = Load::start(&platform, Pace::LIGHT);
    for call in CALLS {
        for n in 1..=tries {
            let mut daemon = traced(&platform, name, call, &format!("signal=SIGKILL:when={n}"));
            // Some calls are made a few times only.
            wait_until(Duration::from_secs(2), || daemon.ended().is_some());
            if let Some(status) = daemon.ended() {
                assert_eq!(status.signal(), Some(9), "{name} at {call} {n} ended with {status}");
            }
        }
    }
    let _daemon = platform.start(name);
    platform.await_coordinator();
    load.stop().assert_exactly_once(&platform);
}

#[test]
fn rows_survive_an_agent_that_dies_at_every_system_call() {
    dies_at_every_call("agent");
}

#[test]
fn rows_survive_a_coordinator_that_dies_at_every_system_call() {
    dies_at_every_call("coordinator");
}

/// Every call of each kind fails once, then from there on until the daemon is started anew.
fn bears_failing_calls(name: &str) {
    let Some(tries) = tries() else { return };
    let platform = prepared();
    let other = if name == "agent" { "coordinator" } else { "agent" };
    let _other = platform.start(other);
    let load = Load::start(&platform, Pace::LIGHT);
    for call in ["pwrite64", "fdatasync", "fsync"] {
        for error in ["EIO", "ENOSPC"] {
            for n in (1..=tries).step_by(4) {
                for when in [format!("{n}"), format!("{n}+")] {
                    let inject = format!("error={error}:when={when}");
                    let mut daemon = traced(&platform, name, call, &inject);
                    // It may refuse to start, or refuse data; it may not crash.
                    wait_until(Duration::from_millis(700), || daemon.ended().is_some());
                    let ended = daemon.ended();
                    assert!(ended.is_none_or(|status| status.code().is_some()), "{call} {inject}: {ended:?}");
                }
            }
        }
    }
    assert!(!platform.log(name).contains("panicked"), "{name} panicked");
    let _daemon = platform.start(name);
    eventually("a platform that works again", || platform.agent_metric("aap_agent_uplink_connected"));
    load.stop().assert_exactly_once(&platform);
}

#[test]
fn rows_survive_an_agent_whose_disk_fails_at_every_write() {
    bears_failing_calls("agent");
}

#[test]
fn rows_survive_a_coordinator_whose_disk_fails_at_every_write() {
    bears_failing_calls("coordinator");
}
