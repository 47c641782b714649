//! Real servers beside the platform: `cargo xtask test` starts them and tells by `AAP_TEST_…` where they are.
//!
//! A test whose server is not there is left out and says so, unless `AAP_TEST_SERVICES_REQUIRED` names the server: then it fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A real server that a test may kill.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its script in `tests/services`, without `.sh`.
    pub name: &'static str,
    /// The process that `fault` names.
    process: &'static str,
    /// Where it answers.
    pub address: String,
}

impl Service {
    /// The server whose address `variable` holds; `None` leaves the test `test` out.
    ///
    /// # Panics
    /// Where it is required and not there.
    pub fn find(name: &'static str, process: &'static str, variable: &str, test: &str) -> Option<Self> {
        if let Some(address) = std::env::var(variable).ok().filter(|address| !address.is_empty()) {
            return Some(Self { name, process, address });
        }
        let required = std::env::var("AAP_TEST_SERVICES_REQUIRED").unwrap_or_default();
        assert!(
            !required.split(',').any(|one| one == name),
            "{test}: {name} is required, and {variable} is not set"
        );
        eprintln!("skipped: {test}: no {name} ({variable} is not set)");
        None
    }

    /// While this is held, no test kills a server, and each that was killed answers again: for what is measured. Kills take
    /// turns by it too: a server that another test is starting must not be killed under it.
    pub fn quiet() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills it with SIGKILL and starts it again; returns when it answers.
    pub fn kill_and_restart(&self) {
        let _turn = Self::quiet();
        run(Command::new(scripts().join("fault")).args([self.process, "KILL"]));
        run(Command::new(scripts().join(format!("{}.sh", self.name))).arg("start"));
    }

    /// Kills one of its processes with SIGKILL, which [`Self::revive`] starts again.
    pub fn kill_process(&self, process: &str) {
        run(Command::new(scripts().join("fault")).args([process, "KILL"]));
    }

    /// Starts what was killed; returns when it answers.
    pub fn revive(&self) {
        run(Command::new(scripts().join(format!("{}.sh", self.name))).arg("start"));
    }

    /// Runs a tool of its script and returns what it prints.
    pub fn tool(&self, arguments: &[&str]) -> String {
        run(Command::new(scripts().join(format!("{}.sh", self.name))).args(arguments))
    }

    /// Runs a tool of its script with `input` on stdin.
    pub fn feed(&self, arguments: &[&str], input: &Path) {
        let mut command = Command::new(scripts().join(format!("{}.sh", self.name)));
        run(command.args(arguments).stdin(File::open(input).unwrap()));
    }
}

fn scripts() -> PathBuf {
    crate::platform::own_folder().join("services")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
