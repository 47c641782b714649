//! The supervisor in the background: this program once more, in a session of its own, with `log/up.log` as stderr.
//!
//! It answers its parent with one JSON line on stdout: where the platform is, or why it could not start.

use std::io::Write;
use std::process::Stdio;

use aap_types::{ExitCode, Problem};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::ready::Ready;
use super::{Options, log_file, programs};
use crate::context::Context;
use crate::failure::Failure;

/// Marks the child.
pub(crate) const MARK: &str = "AAP_UP_DETACHED";

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Ready(Box<Ready>),
    Failed(Box<Problem>),
}

/// Whether this process is the supervisor in the background. It leaves its terminal then.
pub(crate) fn is_child() -> bool {
    let child = std::env::var_os(MARK).is_some();
    if child {
        // Fails only where the process leads its group already, and then it has no terminal to leave.
        let _ignored = rustix::process::setsid();
    }
    child
}

/// Starts the supervisor in the background and waits for its answer.
pub(crate) async fn start(context: &mut Context<'_>, options: &Options) -> Result<Ready, Failure> {
    let failed = |error: &std::io::Error| {
        Problem::new("up.detach", ExitCode::Failed, "the supervisor cannot be started in the background")
            .caused_by(error)
    };
    let own =
        programs::own_path().ok_or_else(|| failed(&std::io::Error::other("the program has no path")))?;
    let log = log_file::open(&options.home.log().join("up.log")).map_err(|error| failed(&error))?;
    let mut command = tokio::process::Command::new(own);
    command.args(["up", "--home", options.home.root().as_str()]);
    command.arg(format!("--timeout={}ms", options.ready_within.as_millis()));
    for glob in &options.tail {
        command.args(["--tail", glob]);
    }
    if let Some(node) = &options.node {
        command.args(["--node", node]);
    }
    command.env(MARK, "1").env_remove("AAP_OUTPUT").env_remove("AAP_QUIET").current_dir("/");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .spawn()
        .map_err(|error| failed(&error))?;
    context.printer.detail("starting in the background");
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        // The child has its own deadline for being ready and always answers, unless it dies.
        BufReader::new(out).read_line(&mut line).await.map_err(|error| failed(&error))?;
    }
    match serde_json::from_str(&line) {
        Ok(Answer::Ready(ready)) => Ok(*ready),
        Ok(Answer::Failed(problem)) => Err((*problem).into()),
        Err(_) => Err(Problem::new(
            "up.detach",
            ExitCode::Failed,
            "the supervisor ended before the platform was ready",
        )
        .hint_command("see why", "aap logs up -n 20")
        .into()),
    }
}

/// Tells the parent how the start went. The parent may be gone; then nobody needs to know.
pub(crate) fn answer(outcome: Result<Ready, Problem>) {
    let answer = match outcome {
        Ok(ready) => Answer::Ready(Box::new(ready)),
        Err(problem) => Answer::Failed(Box::new(problem)),
    };
    if let Ok(line) = serde_json::to_string(&answer) {
        let mut out = std::io::stdout().lock();
        let _ignored = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// The child found a platform that already runs, and has nothing to supervise.
pub(crate) fn answer_and_end(outcome: Result<Ready, Failure>) -> Result<ExitCode, Failure> {
    match outcome {
        Ok(ready) => answer(Ok(ready)),
        Err(Failure::Problem(problem)) => answer(Err(*problem)),
        Err(Failure::BrokenPipe | Failure::Interrupted) => {}
    }
    Ok(ExitCode::Ok)
}
