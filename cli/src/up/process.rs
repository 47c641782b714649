//! One process: start, adopt, wait, signal, its pid file.
//!
//! A pid file alone proves nothing: the number may belong to another program by now. A process counts as ours only
//! if it runs our program on this home (`/proc/PID/cmdline`); a zombie has no command line and counts as ended.

use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use aap_client::Home;
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal};
use tokio::io::unix::AsyncFd;

use super::{log_file, prepare, programs};

/// A daemon of the platform.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Short name: pid file, log, messages.
    pub(crate) name: &'static str,
    /// Executable.
    pub(crate) executable: &'static str,
}

/// The daemons, in the order in which they are stopped: data flows from the first to the last.
pub(crate) const PROGRAMS: [Program; 2] = [
    Program { name: "agent", executable: "aap-agent" },
    Program { name: "coordinator", executable: "aap-coordinator" },
];

impl Program {
    pub(crate) fn log(&self, home: &Home) -> Utf8PathBuf {
        home.log().join(format!("{}.log", self.name))
    }
    fn pid_file(&self, home: &Home) -> Utf8PathBuf {
        home.run().join(format!("{}.pid", self.name))
    }
}

/// A process that we may signal, by its number and a handle that cannot mean another one later.
#[derive(Debug)]
pub(crate) struct RunningProgram {
    name: &'static str,
    pid: Pid,
    handle: OwnedFd,
}

/// The process that runs `program` for this home, if one does.
pub(crate) fn running(home: &Home, program: &Program) -> Option<RunningProgram> {
    let is_ours =
        |words: &[String]| is_program(words, program.executable) && words.iter().any(|w| w == home.root());
    find(&program.pid_file(home), program.name, is_ours)
}

/// The supervisor of this home, if one runs.
pub(crate) fn supervisor(home: &Home) -> Option<RunningProgram> {
    find(&home.run().join("up.pid"), "supervisor", |words| {
        is_program(words, "aap") && words.iter().any(|word| word == "up")
    })
}

/// Whether the command line is that of a program, started by itself or by an interpreter.
fn is_program(words: &[String], name: &str) -> bool {
    words.iter().take(2).any(|path| Utf8Path::new(path).file_name() == Some(name))
}

fn find(
    pid_file: &Utf8Path,
    name: &'static str,
    is_ours: impl Fn(&[String]) -> bool,
) -> Option<RunningProgram> {
    let number = std::fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    let pid = Pid::from_raw(number)?;
    // The handle first: if the process ends after it, the check below fails, and never checks another one.
    let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK).ok()?;
    let line = std::fs::read(format!("/proc/{number}/cmdline")).ok()?;
    let words: Vec<String> =
        line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    is_ours(&words).then_some(RunningProgram { name, pid, handle })
}

impl RunningProgram {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Sends a signal; a process that ended meanwhile needs none.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ended = rustix::process::pidfd_send_signal(&self.handle, signal);
    }

    /// Waits until it has ended. `false` if it still runs after `limit`.
    pub(crate) async fn ended_within(&self, limit: Duration) -> bool {
        let Ok(handle) = self.handle.try_clone() else { return false };
        tokio::time::timeout(limit, ended(handle)).await.is_ok()
    }

    /// SIGTERM, and SIGKILL after `limit`. `false` if it had to be killed.
    pub(crate) async fn stop(&self, limit: Duration) -> bool {
        self.signal(Signal::TERM);
        if self.ended_within(limit).await {
            return true;
        }
        self.signal(Signal::KILL);
        self.ended_within(Duration::from_secs(5)).await;
        false
    }

    /// Removes its pid file.
    pub(crate) fn forget(&self, home: &Home) {
        forget(&home.run().join(format!("{}.pid", self.name)));
    }

    /// Whether the executable it runs is still the one on disk.
    fn is_current(&self, executable: &Utf8Path) -> bool {
        let link = std::fs::read_link(format!("/proc/{}/exe", self.pid.as_raw_nonzero()));
        link.is_ok_and(|link| link == executable.as_std_path())
    }
}

/// Resolves when the process has ended: its handle becomes readable.
async fn ended(handle: OwnedFd) {
    #[expect(deprecated, reason = "its successor is `unsafe`; an owned descriptor cannot be closed under it")]
    let registered = AsyncFd::with_interest(handle, tokio::io::Interest::READABLE);
    match registered {
        Ok(handle) => {
            // An error here would mean a broken event loop; nothing can be waited for then.
            let _ready = handle.readable().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// A daemon that the supervisor looks after.
#[derive(Debug)]
pub(crate) struct Process {
    kind: Kind,
    /// For signals.
    running: Option<RunningProgram>,
    /// How long its log was before it: what a former run said is not its own.
    pub(crate) log_from: u64,
}

#[derive(Debug)]
enum Kind {
    Child(Box<tokio::process::Child>),
    /// Left by a supervisor that was killed.
    Adopted,
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exit {
    pub(crate) status: Option<ExitStatus>,
}

impl Process {
    /// Adopts the process that a killed supervisor left, if it runs the program that is installed now.
    pub(crate) async fn adopt(home: &Home, program: &Program) -> Option<Self> {
        let found = running(home, program)?;
        let executable = programs::beside(program.executable).ok()?;
        if !found.is_current(&executable) {
            // Another version: it makes room for the new one.
            found.stop(super::STOP_WITHIN).await;
            return None;
        }
        let log_from = std::fs::metadata(program.log(home)).map_or(0, |metadata| metadata.len());
        Some(Self { kind: Kind::Adopted, running: Some(found), log_from })
    }

    /// Starts the program on this home, in a process group of its own, with its log as output.
    pub(crate) fn start(home: &Home, program: &Program) -> Result<Self, Problem> {
        let executable = programs::beside(program.executable)?;
        let failed = |error: &std::io::Error| {
            Problem::new("up.start", ExitCode::Failed, format!("`{executable}` cannot be started"))
                .caused_by(error)
        };
        let log = log_file::open(&program.log(home)).map_err(|error| failed(&error))?;
        let log_from = log.metadata().map_err(|error| failed(&error))?.len();
        let errors = log.try_clone().map_err(|error| failed(&error))?;
        let child = tokio::process::Command::new(&executable)
            .args(["--home", home.root().as_str()])
            .env_remove(super::detach::MARK)
            .current_dir(home.root())
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors))
            .process_group(0)
            .spawn()
            .map_err(|error| failed(&error))?;
        let number = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = number {
            prepare::replace(&program.pid_file(home), &format!("{}\n", pid.as_raw_nonzero()), 0o644)?;
        }
        let running = number.and_then(|pid| {
            let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK).ok()?;
            Some(RunningProgram { name: program.name, pid, handle })
        });
        Ok(Self { kind: Kind::Child(Box::new(child)), running, log_from })
    }

    /// Waits for its end. Cancel-safe.
    pub(crate) async fn wait(&mut self) -> Exit {
        match &mut self.kind {
            Kind::Child(child) => Exit { status: child.wait().await.ok() },
            Kind::Adopted => {
                match self.running.as_ref().and_then(|running| running.handle.try_clone().ok()) {
                    Some(handle) => ended(handle).await,
                    None => std::future::pending().await,
                }
                Exit { status: None }
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(running) = &self.running {
            running.signal(signal);
        }
    }
}

/// Writes our own pid file.
pub(crate) fn remember_supervisor(home: &Home) -> Result<(), Problem> {
    prepare::replace(&home.run().join("up.pid"), &format!("{}\n", std::process::id()), 0o644)
}

/// Removes the pid files of everything that has ended.
pub(crate) fn forget_all(home: &Home) {
    for program in &PROGRAMS {
        forget(&program.pid_file(home));
    }
    forget(&home.run().join("up.pid"));
}

fn forget(path: &Utf8Path) {
    // A pid file that stays behind names no process of ours; the check above finds that out.
    let _ignored = std::fs::remove_file(path);
}
