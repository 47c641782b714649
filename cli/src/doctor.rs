//! What `aap doctor` looks at: checks by name, and what each found.
//!
//! A check is a function from a [`Subject`] to findings. It changes nothing, unless it was asked to put right what can be put right without
//! a doubt: modes of files that are ours, and missing folders.
//!
//! | file | checks |
//! |---|---|
//! | `own_files.rs` | contexts, credentials, home |
//! | `machine.rs` | disk, limits, programs, ports |
//! | `platform.rs` | coordinator, tls, clock, nodes, approvals, buffers, sinks, audit, agent |
//! | `bundle.rs`, `redact.rs` | what `--bundle` writes, and what is left out of it |

pub(crate) mod bundle;
mod machine;
mod own_files;
mod platform;
mod redact;

use std::time::Duration;

use aap_client::environment::Environment;
use aap_client::operations::DOCTOR_CHECKS;
use aap_client::v1::{StatusReply, StatusRequest};
use aap_client::{Clock, Home, Platform, SystemClock, call};
use aap_types::{ExitCode, Problem};
use serde_json::json;

use crate::listing::{Object, object};

/// What answers at all answers within this; of an audit log that is verified see `platform.rs`.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// There is nothing here to look at, or somebody may not look.
    Skipped,
    Ok,
    /// It works, and may not for long.
    Warn,
    Fail,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) check: &'static str,
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) text: String,
    /// Why.
    pub(crate) cause: Option<String>,
    /// What to do, and the command for it.
    pub(crate) hint: Option<String>,
    pub(crate) command: Option<String>,
    /// What `--fix` did.
    pub(crate) fixed: Option<String>,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        Self { check, verdict, text: text.into(), cause: None, hint: None, command: None, fixed: None }
    }

    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, text)
    }

    fn skipped(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Verdict::Skipped, text)
    }

    /// A call or a file that failed. What somebody may not see is not looked at.
    fn of_problem(check: &'static str, problem: &Problem) -> Self {
        let verdict = if problem.exit == ExitCode::Denied { Verdict::Skipped } else { Verdict::Fail };
        let with_command = problem.hints.iter().find(|hint| hint.command.is_some());
        let hint = with_command.or(problem.hints.first());
        Self {
            cause: Some(problem.causes.join("; ")).filter(|cause| !cause.is_empty()),
            hint: hint.map(|hint| hint.text.clone()),
            command: hint.and_then(|hint| hint.command.clone()),
            ..Self::new(check, verdict, problem.message.clone())
        }
    }

    fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    fn hint(mut self, hint: impl Into<String>, command: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self.command = Some(command.into());
        self
    }

    /// As the registry describes it.
    pub(crate) fn item(&self) -> Object {
        object(json!({
            "check": self.check, "result": self.verdict.word(), "finding": self.text, "cause": self.cause,
            "hint": self.hint, "command": self.command, "fixed": self.fixed,
        }))
    }
}

/// What is looked at.
pub(crate) struct Subject {
    pub(crate) platform: Platform,
    pub(crate) environment: Environment,
    /// Why no platform is meant, where contexts are broken; then `platform` is of no interest.
    pub(crate) lost: Option<Problem>,
    /// Whether to put right what can be.
    pub(crate) fix: bool,
    pub(crate) clock: SystemClock,
}

/// What the coordinator said of itself.
pub(crate) struct Asked {
    status: StatusReply,
    /// How far its clock is ahead of ours, and how exactly that is known.
    ahead_us: i64,
    within_us: i64,
}

impl Subject {
    /// The home, where the platform is one of this machine and ever was here.
    fn home(&self) -> Option<&Home> {
        self.platform.home().ok().filter(|home| self.lost.is_none() && home.root().exists())
    }

    /// Asks the coordinator once for everything that several checks need.
    async fn ask(&self) -> Result<Asked, Problem> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        let mut api = self.platform.operator().await?;
        let before_us = self.clock.unix_us();
        let status = call(ANSWER_WITHIN, api.status(StatusRequest {})).await?;
        let took_us = self.clock.unix_us().saturating_sub(before_us);
        let ahead_us = status.as_of_us.saturating_sub(before_us.saturating_add(took_us / 2));
        Ok(Asked { status, ahead_us, within_us: took_us / 2 })
    }
}

/// Everything that was found.
pub(crate) struct Examination {
    pub(crate) findings: Vec<Finding>,
    /// The coordinator's answer, for whoever makes a bundle.
    pub(crate) status: Option<StatusReply>,
}

impl Examination {
    pub(crate) fn has_failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.verdict == Verdict::Fail)
    }
}

/// Runs the checks that are wanted; all, if none is named.
pub(crate) async fn examine(subject: &Subject, wanted: &[String]) -> Examination {
    let asked = subject.ask().await;
    let mut findings = vec![];
    let is_wanted = |check: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == check);
    for check in DOCTOR_CHECKS.iter().copied().filter(|check| is_wanted(check)) {
        findings.extend(look(check, subject, &asked).await);
    }
    Examination { findings, status: asked.ok().map(|asked| asked.status) }
}

async fn look(check: &'static str, subject: &Subject, asked: &Result<Asked, Problem>) -> Vec<Finding> {
    match check {
        "contexts" => own_files::contexts(check, subject),
        "credentials" => own_files::credentials(check, subject),
        "home" => own_files::home(check, subject),
        "disk" => machine::disk(check, subject),
        "limits" => machine::limits(check),
        "programs" => machine::programs(check, asked.as_ref().ok().map(|asked| &asked.status)).await,
        "ports" => machine::ports(check, subject).await,
        "tls" => platform::tls(check, subject).await,
        "agent" => platform::agent(check, subject).await,
        "coordinator" => platform::coordinator(check, asked),
        _ => match asked {
            Ok(asked) => platform::asked(check, subject, asked).await,
            Err(_said_by_coordinator) => {
                vec![Finding::skipped(check, "the coordinator was not reached")]
            }
        },
    }
}
