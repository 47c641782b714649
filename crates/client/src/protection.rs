//! What a context protects its platform from: commands that change something, typed where they were not meant.
//!
//! It guards against mistakes of whoever has the context, not against whoever means harm: that is for roles.

use std::time::Duration;

use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::contexts::ContextName;

/// Longest time for which a context can be unlocked: a day's work. Whoever needs longer does not want the protection.
pub const UNLOCK_MAX: Duration = Duration::from_secs(12 * 3600);

/// What it takes to change something through a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protection {
    /// Nothing.
    #[default]
    Open,
    /// The name of the context has to be typed.
    Confirm,
    /// It cannot be done.
    ReadOnly,
    /// The context has to be unlocked before, for a time and with a reason.
    Unlock,
}

impl Protection {
    /// As they are written.
    pub const NAMES: &[&str] = &["open", "confirm", "read-only", "unlock"];
    const ALL: [Self; 4] = [Self::Open, Self::Confirm, Self::ReadOnly, Self::Unlock];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Confirm => "confirm",
            Self::ReadOnly => "read-only",
            Self::Unlock => "unlock",
        }
    }

    /// The one of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protection| protection.name() == name)
    }
}

/// That a context is unlocked, until when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlocked {
    /// Microseconds since 1970.
    pub until_us: i64,
    /// Why, as it was given.
    pub reason: String,
}

/// What has to happen before something is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// Nothing.
    Pass,
    /// Somebody types the name of the context.
    Ask,
    /// It is refused.
    Refuse(Problem),
}

/// Decides it.
pub fn guard(name: &ContextName, protection: Protection, unlocked: Option<&Unlocked>, now_us: i64) -> Guard {
    match protection {
        Protection::Open => Guard::Pass,
        Protection::Confirm => Guard::Ask,
        Protection::ReadOnly => {
            let message = format!("the context `{name}` is read-only, and this would change something");
            let problem = Problem::new("context.read_only", ExitCode::Denied, message);
            Guard::Refuse(problem.hint_command("if it was meant, name a context that may", "aap context ls"))
        }
        Protection::Unlock if unlocked.is_some_and(|unlocked| now_us < unlocked.until_us) => Guard::Pass,
        Protection::Unlock => {
            let message = match unlocked {
                Some(_over) => format!("the time is over for which the context `{name}` was unlocked"),
                None => format!("the context `{name}` is locked, and this would change something"),
            };
            let command = format!("aap context unlock {name} --for 15m --reason 'why'");
            let problem = Problem::new("context.locked", ExitCode::Denied, message);
            Guard::Refuse(problem.hint_command("unlock it for a time", command))
        }
    }
}

/// The files that say which contexts are unlocked.
#[derive(Debug, Clone)]
pub struct Unlocks {
    folder: Utf8PathBuf,
}

impl Unlocks {
    /// Those of a folder for state.
    pub fn within(state_folder: &Utf8Path) -> Self {
        Self { folder: state_folder.join("unlocked") }
    }

    /// What was said of a context, also where its time is over. A file that cannot be read unlocks nothing.
    pub fn get(&self, name: &ContextName) -> Option<Unlocked> {
        let text = std::fs::read(self.file(name)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Unlocks a context.
    ///
    /// # Errors
    /// `context.state` (1).
    pub fn set(&self, name: &ContextName, unlocked: &Unlocked) -> Result<(), Problem> {
        let path = self.file(name);
        let bytes = serde_json::to_vec(unlocked).expect("a number and a text are JSON");
        crate::files::make_private(&self.folder)
            .and_then(|()| aap_runtime::write_durably(&path, &bytes, 0o600))
            .map_err(|error| failed(&path, &error))
    }

    /// Locks a context; whether it was unlocked.
    ///
    /// # Errors
    /// `context.state` (1).
    pub fn remove(&self, name: &ContextName) -> Result<bool, Problem> {
        let path = self.file(name);
        crate::files::remove(&path).map_err(|error| failed(&path, &error))
    }

    fn file(&self, name: &ContextName) -> Utf8PathBuf {
        self.folder.join(name.as_str())
    }
}

fn failed(path: &Utf8Path, error: &std::io::Error) -> Problem {
    Problem::new("context.state", ExitCode::Failed, format!("`{path}` cannot be changed"))
        .caused_by(error)
        .hint("AAP_STATE_DIR names another folder for it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ContextName {
        "prod".parse().unwrap()
    }

    fn code(guard: &Guard) -> &str {
        match guard {
            Guard::Pass => "pass",
            Guard::Ask => "ask",
            Guard::Refuse(problem) => {
                assert_eq!((problem.exit, problem.hints.is_empty()), (ExitCode::Denied, false), "{problem}");
                &problem.code
            }
        }
    }

    #[test]
    fn each_protection_asks_for_what_it_says_and_unlocking_ends() {
        let unlocked = Unlocked { until_us: 100, reason: "repairs".into() };
        for (protection, unlocked, now_us, expected) in [
            (Protection::Open, None, 0, "pass"),
            (Protection::Confirm, Some(&unlocked), 0, "ask"),
            (Protection::ReadOnly, Some(&unlocked), 0, "context.read_only"),
            (Protection::Unlock, None, 0, "context.locked"),
            (Protection::Unlock, Some(&unlocked), 99, "pass"),
            (Protection::Unlock, Some(&unlocked), 100, "context.locked"),
        ] {
            assert_eq!(
                code(&guard(&name(), protection, unlocked, now_us)),
                expected,
                "{protection:?} at {now_us}"
            );
        }
        for known in Protection::NAMES {
            assert_eq!(Protection::of(known).unwrap().name(), *known);
        }
    }

    #[test]
    fn a_context_stays_unlocked_until_it_is_locked_and_a_broken_file_unlocks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let unlocks = Unlocks::within(Utf8Path::from_path(folder.path()).unwrap());
        assert_eq!((unlocks.get(&name()), unlocks.remove(&name()).unwrap()), (None, false));
        let unlocked = Unlocked { until_us: 7, reason: "repairs".into() };
        unlocks.set(&name(), &unlocked).unwrap();
        assert_eq!(unlocks.get(&name()), Some(unlocked));
        assert!(unlocks.remove(&name()).unwrap());
        std::fs::write(folder.path().join("unlocked/prod"), "{").unwrap();
        assert_eq!(unlocks.get(&name()), None);
    }
}
