//! The records that the log makes of itself. Everybody else's actions are operations of the registry, which have no dot.

use std::fmt;

use crate::{Actor, Outcome, Record};

/// Name of the actor of the log's own records; its kind is `system`.
pub const SYSTEM_ACTOR: &str = "audit";

/// What the log does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnAction {
    /// The first line of all: names the random id of the log and its public key.
    Genesis,
    /// Signs where the log stands.
    Checkpoint,
    /// Found a log that was not closed: `bytes` of a torn tail were cut, `unsigned_lines` stood behind the last checkpoint.
    Recovered,
    /// Goes on where the chain is broken, when the log was opened: `reason`.
    Broken,
    /// Removed old segments: `through`, `segments`.
    Retired,
}

impl OwnAction {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::Genesis, Self::Checkpoint, Self::Recovered, Self::Broken, Self::Retired];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        const fn action(name: &'static str) -> &'static str {
            name
        }
        match self {
            Self::Genesis => action("audit.genesis"),
            Self::Checkpoint => action("audit.checkpoint"),
            Self::Recovered => action("audit.recovered"),
            Self::Broken => action("audit.broken"),
            Self::Retired => action("audit.retired"),
        }
    }

    /// Whether the record is this one of the log's own.
    pub fn is(self, record: &Record) -> bool {
        record.action == self.as_str()
    }

    pub(crate) fn record(self) -> Record {
        let actor = Actor { kind: "system".to_owned(), name: SYSTEM_ACTOR.to_owned(), credential: None };
        Record::new(actor, self.as_str(), Outcome::Done)
    }
}

impl fmt::Display for OwnAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
