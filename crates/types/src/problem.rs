//! What an operator or a script sees when something fails: one form for text and JSON, one table of exit codes.

use serde::{Deserialize, Serialize};

/// The exit codes of `aap`: a contract (`aap help exit-codes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum ExitCode {
    /// It worked; an empty list too.
    Ok = 0,
    /// The operation failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The named object does not exist.
    NotFound = 3,
    /// Nobody is logged in, or the login expired.
    LoginNeeded = 4,
    /// Not permitted.
    Denied = 5,
    /// It exists already, or something changed in between.
    Conflict = 6,
    /// Not reachable now; trying again may help.
    Unavailable = 7,
    /// The deadline passed and the work goes on.
    Pending = 8,
    /// Some targets failed or did not answer.
    Partial = 9,
    /// There are changes.
    Changes = 10,
    /// A check failed.
    CheckFailed = 11,
    /// A bug of ours.
    Bug = 70,
    /// Interrupted by Ctrl-C.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl ExitCode {
    /// The code as the shell sees it.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The code of a number, `Failed` for one that is not in the table.
    pub fn from_number(number: u8) -> Self {
        use ExitCode::*;
        [
            Ok,
            Failed,
            Usage,
            NotFound,
            LoginNeeded,
            Denied,
            Conflict,
            Unavailable,
            Pending,
            Partial,
            Changes,
            CheckFailed,
            Bug,
            Interrupted,
            Terminated,
        ]
        .into_iter()
        .find(|code| code.number() == number)
        .unwrap_or(Failed)
    }
}

/// A remedy, if possible with the command to type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// What to do.
    pub text: String,
    /// The command that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// A failure as the operator meets it. Travels between programs as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// Stable dotted code, such as `ingest.content_changed`; each has a page in `docs/errors/`.
    pub code: String,
    /// What failed, on what. Lower case, no final period.
    pub message: String,
    /// Why, outermost first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What to do about it.
    #[serde(default)]
    pub hints: Vec<Hint>,
    /// The exit code a command ends with.
    pub exit: ExitCode,
    /// After how many milliseconds to try again, where that helps.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
}

impl Problem {
    /// A problem with its code, exit and message.
    pub fn new(code: &str, exit: ExitCode, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            causes: vec![],
            hints: vec![],
            exit,
            retry_after_ms: None,
        }
    }

    /// Adds the chain of sources of `error` (and `error` itself) as causes.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }

    /// Adds a cause as text.
    #[must_use]
    pub fn cause(mut self, text: impl Into<String>) -> Self {
        self.causes.push(text.into());
        self
    }

    /// Adds a remedy in words.
    #[must_use]
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hints.push(Hint { text: text.into(), command: None });
        self
    }

    /// Adds a remedy with the command to type.
    #[must_use]
    pub fn hint_command(mut self, text: impl Into<String>, command: impl Into<String>) -> Self {
        self.hints.push(Hint { text: text.into(), command: Some(command.into()) });
        self
    }

    /// Whether the same command may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.retry_after_ms.is_some() || self.exit == ExitCode::Unavailable
    }

    /// `{"error":{…}}`, as every program of ours gives it to scripts.
    pub fn to_json(&self) -> serde_json::Value {
        let hints = self.hints.iter();
        let hints: Vec<_> =
            hints.map(|hint| serde_json::json!({"text": hint.text, "command": hint.command})).collect();
        serde_json::json!({ "error": {
            "code": self.code,
            "class": self.exit,
            "exit": self.exit.number(),
            "message": self.message,
            "causes": self.causes,
            "hints": hints,
            "retryable": self.is_retryable(),
            "retry_after_ms": self.retry_after_ms,
            "request_id": null,
            "docs": format!("docs/errors/{}.md", self.code),
        }})
    }

    /// As people read it, without colour: what failed, causes, hints, exit code.
    pub fn report(&self) -> String {
        let mut lines = vec![format!("error[{}]: {}", self.code, self.message)];
        lines.extend(self.causes.iter().map(|cause| format!("  cause: {cause}")));
        lines.extend(self.hints.iter().map(|hint| match &hint.command {
            Some(command) => format!("  hint: {}: `{command}`", hint.text),
            None => format!("  hint: {}", hint.text),
        }));
        let retryable = if self.is_retryable() { " (retryable)" } else { "" };
        lines.push(format!("  exit {}{retryable}", self.exit.number()));
        lines.join("\n")
    }

    /// Says that trying again after `ms` may help.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }
}
