//! `aap up` with programs that misbehave. How it runs with real ones is tested end to end.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::fake::{Home, Ran};

/// `aap` beside two scripts that stand for the daemons.
fn installed(home: &Home, coordinator: &str, agent: &str) -> std::path::PathBuf {
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_aap"), bin.join("aap")).unwrap();
    for (name, body) in [("aap-coordinator", coordinator), ("aap-agent", agent)] {
        let path = bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    bin.join("aap")
}

fn run(aap: &std::path::Path, home: &Home, arguments: &[&str]) -> Ran {
    Ran::of(Command::new(aap).args(arguments).env("AAP_HOME", home.path().join("state")).output().unwrap())
}

#[test]
fn a_daemon_that_does_not_start_ends_up_with_its_own_words() {
    for detach in [&["up"][..], &["up", "--detach"]] {
        let home = Home::empty();
        let aap = installed(
            &home,
            "case $1 in init) exit 0;; esac; echo port 7400 is in use >&2; exit 6",
            "sleep 100",
        );
        let ran = run(&aap, &home, detach);
        assert_eq!(ran.code, 6, "{ran:?}");
        assert!(ran.err.contains("error[up.failed_start]: the coordinator does not start"), "{ran:?}");
        assert!(ran.err.contains("cause: port 7400 is in use"), "{ran:?}");
        assert!(!home.path().join("state/run/agent.pid").exists());
    }
}

#[test]
fn certificates_that_cannot_be_made_are_said_at_once() {
    let home = Home::empty();
    let aap = installed(&home, "echo disk full >&2; exit 1", "exit 0");
    let ran = run(&aap, &home, &["up", "--detach"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("error[up.init]") && ran.err.contains("cause: disk full"), "{ran:?}");
}

#[test]
fn a_platform_that_is_slow_to_start_is_pending_and_down_stops_it() {
    let home = Home::empty();
    let aap = installed(&home, "case $1 in init) exit 0;; esac; exec sleep 100", "exec sleep 100");
    let ran = run(&aap, &home, &["up", "--detach", "--timeout", "300ms"]);
    assert_eq!(ran.code, 8, "{ran:?}");
    let ran = run(&aap, &home, &["down", "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!home.path().join("state/run/up.pid").exists());
    let ran = run(&aap, &home, &["down"]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("nothing was running"), "{ran:?}");
}

#[test]
fn a_home_is_private_and_its_configuration_is_written_once() {
    let home = Home::empty();
    let aap = installed(&home, "case $1 in init) exit 0;; esac; exit 2", "sleep 100");
    let ran = run(&aap, &home, &["up", "--node", "edge-1", "--tail", "x/*.log"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    let state = home.path().join("state");
    let mode = |name: &str| std::fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("run/operator.token"), mode("config/agent.yaml")), (0o700, 0o600, 0o600));
    let agent = std::fs::read_to_string(state.join("config/agent.yaml")).unwrap();
    assert!(agent.contains("metadata: { name: edge-1 }"), "{agent}");
    let tail = std::fs::read_to_string(state.join("config/sources.d/tail.yaml")).unwrap();
    let here = std::env::current_dir().unwrap();
    assert!(tail.contains(&format!("- '{}/x/*.log'", here.display())), "{tail}");
    assert_eq!(run(&aap, &home, &["up", "--node", "other"]).code, 6);
}
