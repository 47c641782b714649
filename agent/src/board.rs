//! What `aap status` and `/readyz` show of sources and of the uplink: one small board that everyone writes to.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceState {
    /// It works.
    Running,
    /// It works, but something needs attention: see its problems.
    Degraded,
    /// It cannot work and is tried again.
    Failed,
    /// It ended by itself (standard input closed) or was removed.
    Stopped,
}

impl SourceState {
    /// As it is written in status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// One source on the board.
#[derive(Debug, Clone)]
pub struct SourceEntry {
    /// Its type.
    pub kind: &'static str,
    /// The stream it feeds; empty if its requests name it.
    pub stream: String,
    /// What it promises.
    pub guarantee: &'static str,
    /// How it is.
    pub state: SourceState,
    /// One line about what it does now.
    pub detail: String,
    /// What is wrong, by what it is wrong with.
    pub problems: BTreeMap<String, String>,
}

/// The uplink on the board.
#[derive(Debug, Clone, Default)]
pub struct UplinkEntry {
    /// Whether a coordinator is configured.
    pub configured: bool,
    /// Whether a session stands.
    pub connected: bool,
    /// The coordinator it stands with, or stood with last.
    pub address: String,
    /// What carries it.
    pub carrier: String,
    /// What is wrong. Empty if all is well.
    pub problem: String,
    /// The coordinator's clock minus ours, as the last hello measured it.
    pub clock_offset_us: i64,
    /// Streams whose history forked, with why.
    pub forked: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Entries {
    sources: BTreeMap<String, SourceEntry>,
    uplink: UplinkEntry,
    notes: BTreeMap<String, String>,
}

/// The board.
#[derive(Debug, Default)]
pub struct Board {
    entries: Mutex<Entries>,
}

impl Board {
    /// Puts a source on the board.
    pub fn add_source(&self, name: &str, entry: SourceEntry) {
        self.lock().sources.insert(name.to_owned(), entry);
    }

    /// Takes it off.
    pub fn remove_source(&self, name: &str) {
        self.lock().sources.remove(name);
    }

    /// Changes one source's entry.
    pub fn source(&self, name: &str, change: impl FnOnce(&mut SourceEntry)) {
        if let Some(entry) = self.lock().sources.get_mut(name) {
            change(entry);
        }
    }

    /// Sets (or with `None` clears) what is wrong with `what` at a source, and its state with it. Returns whether
    /// that is news, so that the caller logs it once.
    pub fn source_problem(&self, name: &str, what: &str, problem: Option<String>) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.sources.get_mut(name) else { return false };
        let news = match problem {
            Some(text) => entry.problems.insert(what.to_owned(), text.clone()) != Some(text),
            None => entry.problems.remove(what).is_some(),
        };
        if matches!(entry.state, SourceState::Running | SourceState::Degraded) {
            entry.state =
                if entry.problems.is_empty() { SourceState::Running } else { SourceState::Degraded };
        }
        news
    }

    /// Changes the uplink's entry.
    pub fn uplink(&self, change: impl FnOnce(&mut UplinkEntry)) {
        change(&mut self.lock().uplink);
    }

    /// Sets or clears a problem of the agent as a whole.
    pub fn note(&self, what: &str, problem: Option<String>) {
        let mut entries = self.lock();
        match problem {
            Some(text) => entries.notes.insert(what.to_owned(), text),
            None => entries.notes.remove(what),
        };
    }

    /// All sources as they stand.
    pub fn sources(&self) -> BTreeMap<String, SourceEntry> {
        self.lock().sources.clone()
    }

    /// The uplink as it stands.
    pub fn uplink_entry(&self) -> UplinkEntry {
        self.lock().uplink.clone()
    }

    /// Everything that is wrong, in words.
    pub fn problems(&self) -> Vec<String> {
        let entries = self.lock();
        let of_sources = entries.sources.iter().flat_map(|(name, entry)| {
            // A thousand unreadable files are one problem to whoever reads this.
            const SHOWN: usize = 8;
            entry.problems.values().take(SHOWN).map(move |text| format!("source `{name}`: {text}"))
        });
        let uplink = Some(&entries.uplink.problem).filter(|text| !text.is_empty()).cloned();
        let forks = entries.uplink.forked.values().cloned();
        of_sources.chain(uplink).chain(forks).chain(entries.notes.values().cloned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
