//! The section of commands.

use std::collections::BTreeMap;
use std::time::Duration;

use aap_decode::TimestampRule;
use aap_types::StreamName;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::load::{Complaint, check_format};
use super::{FormatSpec, Period};
use crate::formats::Recipe;

/// The output of a command, run again and again or for as long as it likes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// Always `exec`.
    pub r#type: String,
    /// The stream that the records feed.
    pub stream: StreamName,
    /// The program by its absolute path, and its arguments. No shell reads them.
    pub command: Vec<String>,
    /// How often it runs, at least 1 s. Default: it runs on, and is started anew when it ends.
    #[serde(default)]
    pub every: Option<Period>,
    /// How long one run may take; then its whole process group is killed. Only with `every`. Default: `every`, at most 30 s.
    #[serde(default)]
    pub timeout: Option<Period>,
    /// Its environment beside `PATH`; nothing of the agent's own.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Where it runs. Default: `/`.
    #[serde(default = "root")]
    pub directory: Utf8PathBuf,
    /// The user that it runs as, where the agent is root. Default: `nobody`.
    #[serde(default)]
    pub user: Option<String>,
    /// How a record is parsed. Default: text.
    #[serde(default)]
    pub format: FormatSpec,
    /// For `format: regex`.
    #[serde(default)]
    pub pattern: Option<String>,
    /// Where the time of a record stands.
    #[serde(default)]
    pub timestamp: Option<TimestampRule>,
}

impl ExecSpec {
    /// A command that is started more often costs the machine more than it tells.
    const EVERY_MIN: Duration = Duration::from_secs(1);
    /// Longest run, where none is stated.
    const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

    /// How long one run may take; `None` where it runs on.
    pub fn run_within(&self) -> Option<Duration> {
        let every = self.every?.0;
        Some(self.timeout.map_or(every.min(Self::TIMEOUT_DEFAULT), |timeout| timeout.0))
    }

    /// How its records are read.
    pub fn recipe(&self) -> Recipe {
        Recipe::new(self.format, self.pattern.clone(), self.timestamp.clone(), false)
    }

    pub(super) fn check(&self) -> Result<(), Complaint> {
        match self.command.first() {
            None => return Err(("command", "a command needs a program".to_owned())),
            Some(program) if !program.starts_with('/') => {
                let message = format!("`{program}` is not an absolute path: no shell and no search finds it");
                return Err(("command", message));
            }
            Some(_) => {}
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            return Err(("command", "a word of the command has a NUL byte".to_owned()));
        }
        if self.every.is_some_and(|every| every.0 < Self::EVERY_MIN) {
            return Err(("every", "a command runs at most once a second".to_owned()));
        }
        match self.timeout {
            Some(_) if self.every.is_none() => {
                return Err(("timeout", "a command without `every` runs for as long as it likes".to_owned()));
            }
            Some(timeout) if timeout.0.is_zero() => {
                return Err(("timeout", "a run needs some time".to_owned()));
            }
            _ => {}
        }
        let is_odd = |text: &String| text.contains('\0');
        if self
            .environment
            .iter()
            .any(|(name, value)| name.is_empty() || name.contains('=') || is_odd(name) || is_odd(value))
        {
            return Err(("environment", "a variable has a name without `=`, and no NUL byte".to_owned()));
        }
        if !self.directory.is_absolute() {
            return Err(("directory", format!("`{}` is not an absolute path", self.directory)));
        }
        if self.format == FormatSpec::Csv {
            let message = "CSV has a header in each output, which would become rows: use json or regex";
            return Err(("format", message.to_owned()));
        }
        check_format(&self.recipe())
    }
}

fn root() -> Utf8PathBuf {
    "/".into()
}
