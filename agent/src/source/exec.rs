//! The output of commands: what a program prints becomes rows, what it complains about becomes log lines.
//!
//! No shell reads the command, nothing of the agent's environment reaches it, and where the agent is root it runs as `nobody`
//! unless another user is named. Each run is a process group of its own, which is killed as a whole at its deadline, at a stop, and
//! when its first process has ended. Unacknowledged: what is printed while the agent does not run is not there; a full
//! buffer makes the program wait.

use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use aap_runtime::Shutdown;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::{SourceDeps, SourceError, lines, stdin};
use crate::config::ExecSpec;

/// What a command finds programs by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Who a command of root runs as, if nobody else is named.
const NOBODY: &str = "nobody";
/// Between asking a process group to end and killing it.
const GRACE: Duration = Duration::from_secs(1);
/// Before a command that ended is started anew; doubled at each quick end.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// The longest such pause. A run that lasted longer begins with the shortest again.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// Complaints of one run that are logged; the rest is only counted.
const COMPLAINTS_MAX: u64 = 20;
/// A complaint is logged up to this length.
const COMPLAINT_BYTES_MAX: usize = 1024;
/// Exit codes that are counted apart: a program has few.
const CODES_MAX: usize = 16;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ended {
    Code(i32),
    Signal(i32),
    TimedOut,
    Stopped,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::TimedOut => f.write_str("timeout"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// How all runs ended so far.
#[derive(Debug, Default)]
struct Ends {
    runs: u64,
    by_end: BTreeMap<Ended, u64>,
}

impl Ends {
    fn count(&mut self, ended: Ended) {
        self.runs += 1;
        if self.by_end.len() < CODES_MAX || self.by_end.contains_key(&ended) {
            *self.by_end.entry(ended).or_default() += 1;
        }
    }

    fn text(&self) -> String {
        let ends: Vec<String> = self.by_end.iter().map(|(ended, runs)| format!("{ended}: {runs}")).collect();
        format!("{} runs ({})", self.runs, ends.join(", "))
    }
}

/// Runs the command until the source is asked to stop.
pub(super) async fn run(
    name: String,
    spec: ExecSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let (pieces, queue) = lines::feed();
    let storing = lines::run(spec.stream.clone(), name.clone(), spec.recipe(), deps.clone(), queue);
    let running = run_again(&name, &spec, &deps, pieces, shutdown);
    let (stored, ran) = tokio::join!(storing, running);
    stored.and(ran)
}

async fn run_again(
    name: &str,
    spec: &ExecSpec,
    deps: &SourceDeps,
    pieces: lines::Pieces,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let mut ends = Ends::default();
    let mut pause = AGAIN_MIN;
    let mut ticks = spec.every.map(|every| {
        let mut ticks = tokio::time::interval(every.0);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        ticks
    });
    loop {
        let next = async {
            match &mut ticks {
                Some(ticks) => _ = ticks.tick().await,
                None if ends.runs == 0 => {}
                None => tokio::time::sleep(pause).await,
            }
        };
        tokio::select! {
            () = next => {}
            () = shutdown.requested() => return Ok(()),
        }
        let began = Instant::now();
        let ended = run_once(name, spec, deps, &pieces, &shutdown).await?;
        if ended == Ended::Stopped {
            return Ok(());
        }
        pause = if began.elapsed() >= AGAIN_MAX { AGAIN_MIN } else { (pause * 2).min(AGAIN_MAX) };
        ends.count(ended);
        deps.board.source(name, |entry| entry.detail = ends.text());
        let problem = (ended != Ended::Code(0)).then(|| format!("the last run ended with {ended}"));
        if deps.board.source_problem(name, "run", problem) {
            tracing::warn!(source = name, %ended, "a command failed");
        }
    }
}

async fn run_once(
    name: &str,
    spec: &ExecSpec,
    deps: &SourceDeps,
    pieces: &lines::Pieces,
    shutdown: &Shutdown,
) -> Result<Ended, SourceError> {
    let mut child = start(spec)?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    // Requested when the run is over: what is in the pipes then is still taken.
    let over = Shutdown::default();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let reading = async {
        match stdout {
            Some(stdout) => {
                stdin::read(stdout, pieces.clone(), deps.clone(), spec.stream.clone(), over.clone()).await
            }
            None => Ok(()),
        }
    };
    let listening = async {
        if let Some(stderr) = stderr {
            tokio::select! {
                () = log_complaints(name, stderr) => {}
                () = async { over.requested().await; tokio::time::sleep(GRACE).await } => {}
            }
        }
    };
    let ending = async {
        let deadline = async {
            match spec.run_within() {
                Some(within) => tokio::time::sleep(within).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            status = child.wait() => Some(status),
            () = deadline => None,
            () = shutdown.requested() => None,
        };
        let ended = match ended {
            Some(status) => status.map(of_status),
            None => {
                stop(&mut child, group).await;
                Ok(if shutdown.is_requested() { Ended::Stopped } else { Ended::TimedOut })
            }
        };
        // What it left running holds the pipes open, and belongs to a run that is over.
        signal(group, Signal::KILL);
        over.request();
        ended
    };
    let (read, (), ended) = tokio::join!(reading, listening, ending);
    read?;
    ended.map_err(SourceError::io(format!("wait for `{}`", spec.command[0])))
}

fn of_status(status: ExitStatus) -> Ended {
    use std::os::unix::process::ExitStatusExt;
    status.code().map_or_else(|| Ended::Signal(status.signal().unwrap_or(0)), Ended::Code)
}

/// Starts the command as a group of its own.
fn start(spec: &ExecSpec) -> Result<Child, SourceError> {
    let [program, arguments @ ..] = &spec.command[..] else {
        return Err(SourceError::Config("a command needs a program".to_owned()));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .envs(&spec.environment)
        .current_dir(&spec.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some((user, group)) = user(spec)? {
        // Also gives up the groups that root has beside.
        command.uid(user).gid(group);
    }
    command.spawn().map_err(SourceError::io(format!("run `{program}`")))
}

/// The user and group to become; `None` where the agent has no choice.
fn user(spec: &ExecSpec) -> Result<Option<(u32, u32)>, SourceError> {
    if !rustix::process::geteuid().is_root() {
        return match &spec.user {
            None => Ok(None),
            Some(user) => {
                let message =
                    format!("only an agent of root can run a command as `{user}`: leave `user` out");
                Err(SourceError::Config(message))
            }
        };
    }
    let wanted = spec.user.as_deref().unwrap_or(NOBODY);
    let users = std::fs::read_to_string("/etc/passwd").map_err(SourceError::io("read `/etc/passwd`"))?;
    let known = users.lines().find_map(|line| {
        let mut words = line.split(':');
        let is_wanted = words.next() == Some(wanted);
        let mut number = || words.next().and_then(|word| word.parse().ok());
        is_wanted.then(|| (number(), number(), number())).and_then(|(_, user, group)| Some((user?, group?)))
    });
    let known =
        known.ok_or_else(|| SourceError::Config(format!("there is no user `{wanted}` on this machine")))?;
    Ok(Some(known))
}

/// Asks the group to end, then makes it.
async fn stop(child: &mut Child, group: Option<Pid>) {
    signal(group, Signal::TERM);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        signal(group, Signal::KILL);
        child.wait().await.ok();
    }
}

/// A group that is gone is no error.
fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        kill_process_group(group, signal).ok();
    }
}

/// Logs what a run writes to its standard error.
async fn log_complaints(name: &str, stderr: impl AsyncRead + Unpin) {
    let mut stderr = BufReader::new(stderr);
    let (mut line, mut lines) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = (&mut stderr).take(COMPLAINT_BYTES_MAX as u64).read_until(b'\n', &mut line).await;
        if !matches!(read, Ok(1..)) {
            break;
        }
        lines += 1;
        if lines <= COMPLAINTS_MAX {
            let text = String::from_utf8_lossy(line.trim_ascii_end());
            tracing::warn!(source = name, %text, "a command complains");
        }
    }
    if lines > COMPLAINTS_MAX {
        tracing::warn!(
            source = name,
            lines = lines - COMPLAINTS_MAX,
            "more complaints of a command are left out"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DEADLINE, Rig};

    fn spec(script: &str, more: serde_json::Value) -> ExecSpec {
        let mut spec =
            serde_json::json!({ "type": "exec", "stream": "out", "command": ["/bin/sh", "-c", script] });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    /// Runs the source until `holds`, then stops it.
    async fn check(rig: &Rig, spec: ExecSpec, what: &str, holds: impl Fn(&Rig) -> bool) {
        rig.deps.board.add_source("exec", crate::testing::entry());
        let shutdown = Shutdown::default();
        let running = run("exec".into(), spec, rig.deps.clone(), shutdown.clone());
        let (ran, ()) = tokio::join!(tokio::time::timeout(DEADLINE * 2, running), async {
            rig.until(what, holds).await;
            shutdown.request();
        });
        ran.expect("the source stops when it is asked to").unwrap();
    }

    fn problem(rig: &Rig) -> Option<String> {
        rig.deps.board.sources()["exec"].problems.get("run").cloned()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_command_prints_becomes_rows_at_every_run() {
        let rig = Rig::new();
        let more = serde_json::json!({ "every": "1s", "format": "json", "environment": { "WHO": "me" } });
        let script = r#"printf '{"who":"%s","home":"%s","at":"%s"}' "$WHO" "$HOME" "$PWD"; echo trouble >&2"#;
        check(&rig, spec(script, more), "two runs", |rig| rig.texts("out", "who").len() >= 2).await;
        assert_eq!(rig.texts("out", "who")[..2], ["me", "me"]);
        assert_eq!(rig.texts("out", "home")[..2], ["", ""], "nothing of the agent's environment");
        assert_eq!(rig.texts("out", "at")[0], "/");
        assert_eq!(problem(&rig), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_command_that_runs_on_is_read_as_it_prints_and_killed_at_a_stop_with_its_children() {
        let rig = Rig::new();
        let script = "sleep 1000 & echo $!; echo first; wait";
        check(&rig, spec(script, serde_json::json!({})), "a line", |rig| rig.texts("out", "body").len() >= 2)
            .await;
        let child: i32 = rig.texts("out", "body")[0].parse().unwrap();
        let is_gone = |rig: &Rig| {
            _ = rig;
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z")
        };
        rig.until("the child is gone", is_gone).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_beyond_its_deadline_is_killed_and_named_and_its_rows_stay() {
        let rig = Rig::new();
        let more = serde_json::json!({ "every": "2s", "timeout": "500ms" });
        let script = "trap '' TERM; echo before; while :; do sleep 0.1; done";
        check(&rig, spec(script, more), "the deadline", |rig| problem(rig).is_some()).await;
        assert_eq!(problem(&rig).unwrap(), "the last run ended with timeout");
        assert_eq!(rig.texts("out", "body")[0], "before");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn exit_codes_are_counted() {
        let rig = Rig::new();
        let more = serde_json::json!({ "every": "1s" });
        check(&rig, spec("echo x; exit 3", more), "a run", |rig| problem(rig).is_some()).await;
        assert_eq!(problem(&rig).unwrap(), "the last run ended with exit 3");
        assert!(
            rig.deps.board.sources()["exec"].detail.contains("exit 3: "),
            "{:?}",
            rig.deps.board.sources()
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_command_of_root_runs_as_nobody() {
        let rig = Rig::new();
        let more = serde_json::json!({ "every": "1s" });
        check(&rig, spec("id -un; id -Gn", more), "a run", |rig| rig.texts("out", "body").len() >= 2).await;
        let who = rig.texts("out", "body");
        match rustix::process::geteuid().is_root() {
            true => assert_eq!((who[0].as_str(), who[1].contains("root")), ("nobody", false), "{who:?}"),
            false => assert_ne!(who[0], "root"),
        }
    }
}
