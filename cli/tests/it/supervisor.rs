//! `aap up` with programs that misbehave. How it runs with real ones is tested end to end.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::fake::{Home, Ran};
use crate::queries::wait_for;

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
    let mut command = Command::new(aap);
    command.args(arguments).env("AAP_HOME", home.path().join("state"));
    loop {
        match command.output() {
            // A process that another test forks in this moment has the copy open for writing, until it is another program.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            ended => return Ran::of(ended.unwrap()),
        }
    }
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
fn a_failed_start_shows_nothing_of_former_runs() {
    let home = Home::empty();
    let dies = "case $1 in init) exit 0;; esac; echo \"this is run $(cat $AAP_HOME/run-number)\" >&2; exit 6";
    let aap = installed(&home, dies, "sleep 100");
    std::fs::create_dir(home.path().join("state")).unwrap();
    for number in ["one", "two"] {
        std::fs::write(home.path().join("state/run-number"), number).unwrap();
        let ran = run(&aap, &home, &["up", "-o", "json"]);
        let causes = ran.error()["causes"].clone();
        assert_eq!(causes, serde_json::json!([format!("this is run {number}")]), "{ran:?}");
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

fn pid(home: &Home, name: &str) -> Option<Pid> {
    let text = std::fs::read_to_string(home.path().join(format!("state/run/{name}.pid"))).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

fn lives(pid: Pid) -> bool {
    // A process that nobody waits for stays as a zombie here; it has ended all the same.
    let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !status.contains(") Z ")
}

#[test]
fn killed_daemons_come_back_and_a_killed_supervisor_leaves_nothing_in_the_way() {
    const DAEMON: &str = "case $1 in init) exit 0;; esac; while :; do sleep 0.2; done";
    let home = Home::empty();
    let aap = installed(&home, DAEMON, DAEMON);
    let up = || run(&aap, &home, &["up", "--detach", "--timeout", "300ms"]);
    assert_eq!(up().code, 8);
    for _ in 0..3 {
        for name in ["agent", "coordinator"] {
            let before = pid(&home, name).unwrap();
            kill_process(before, Signal::KILL).unwrap();
            let is_back = || pid(&home, name).is_some_and(|now| now != before && lives(now));
            assert!(wait_for(Duration::from_secs(2), is_back), "{name} is not back");
        }
    }
    let (supervisor, agent, coordinator) =
        (pid(&home, "up").unwrap(), pid(&home, "agent").unwrap(), pid(&home, "coordinator").unwrap());
    kill_process(supervisor, Signal::KILL).unwrap();
    assert!(wait_for(Duration::from_secs(2), || !lives(supervisor)));
    assert!(lives(agent) && lives(coordinator), "daemons outlive their supervisor");
    assert_eq!(up().code, 8);
    // These programs are not the ones on disk (an interpreter runs them), so they were replaced and not adopted.
    assert!(!lives(agent) && !lives(coordinator));
    let (agent, coordinator) = (pid(&home, "agent").unwrap(), pid(&home, "coordinator").unwrap());
    assert!(lives(agent) && lives(coordinator));
    // Without a supervisor, too, everything is stopped.
    kill_process(pid(&home, "up").unwrap(), Signal::KILL).unwrap();
    let ran = run(&aap, &home, &["down", "-o", "json"]);
    assert_eq!(ran.json()["item"]["stopped"], serde_json::json!(["agent", "coordinator"]), "{ran:?}");
    assert!(!lives(agent) && !lives(coordinator));
}

#[test]
fn a_buffer_is_looked_at_by_the_agent_and_its_exit_code_is_ours() {
    let home = Home::empty();
    let aap = installed(&home, "exit 1", "echo \"$*\"; exit 11");
    let ran = run(&aap, &home, &["buffer", "verify", "/some/dir", "--deep", "-o", "json"]);
    assert_eq!((ran.code, ran.out.as_str()), (11, "buffer verify /some/dir --deep --output json\n"));
    let ran = run(&aap, &home, &["-o", "json", "buffer", "salvage", "/a", "/b"]);
    assert_eq!(ran.out, "buffer salvage /a /b --output json\n");
    assert_eq!(run(&aap, &home, &["buffer", "ls", "/a"]).out, "buffer ls /a\n");
    assert_eq!(run(&aap, &home, &["buffer", "ls", "/a", "-o", "pdf"]).code, 2);
}

#[test]
fn a_migration_is_the_coordinators_and_its_exit_code_is_ours() {
    let home = Home::empty();
    let aap = installed(&home, "echo \"$AAP_HOME $*\"; exit 6", "exit 1");
    let ran = run(&aap, &home, &["cluster", "migrate", "--config", "c.yaml", "-o", "json"]);
    assert_eq!(ran.code, 6);
    assert!(ran.out.ends_with(" --config c.yaml migrate --output json\n"), "{ran:?}");
    assert!(!run(&aap, &home, &["cluster", "migrate"]).out.contains("--config"));
}
