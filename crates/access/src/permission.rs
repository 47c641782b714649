//! What can be permitted: kinds of objects, what is done to them, and the two together as the operation registry names them.

use std::fmt;
use std::str::FromStr;

use aap_types::nearest;
use serde::{Deserialize, Serialize};

/// A word that is none of those known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no {what}")]
pub struct UnknownWord {
    what: &'static str,
    found: String,
    /// The nearest that is one.
    pub meant: Option<&'static str>,
}

macro_rules! words {
    ($(#[$doc:meta])* $type:ident, $what:literal: $($(#[$of:meta])* $variant:ident = $text:literal),* $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$of])* #[serde(rename = $text)] $variant),*
        }

        impl $type {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As it is written.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = UnknownWord;
            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|known| known.as_str() == text).ok_or_else(|| {
                    let meant = nearest(text, &[$($text),*]).first().and_then(|near| {
                        Self::ALL.iter().map(|known| known.as_str()).find(|known| known == near)
                    });
                    UnknownWord { what: $what, found: text.to_owned(), meant }
                })
            }
        }
    };
}

words! {
    /// A kind of object that something can be done to.
    Kind, "kind of object":
    /// An alert rule, its alerts and silences.
    Alert = "alert",
    /// The record of who did what.
    Audit = "audit",
    /// Another system whose tables a query can name.
    Catalog = "catalog",
    /// The coordinators and the servers behind them.
    Cluster = "cluster",
    /// A model.
    Model = "model",
    /// A node; whoever may approve nodes may also issue enrolment tokens.
    Node = "node",
    /// A pipeline.
    Pipeline = "pipeline",
    /// The platform as a whole: its state, its limits.
    Platform = "platform",
    /// A statement that is running or has run.
    Query = "query",
    /// A role.
    Role = "role",
    /// A way through the gateway to other servers.
    Route = "route",
    /// A secret that is kept for sinks, sources and catalogs.
    Secret = "secret",
    /// A sink with its dead letters.
    Sink = "sink",
    /// A site.
    Site = "site",
    /// A source that the coordinator runs.
    Source = "source",
    /// A stream.
    Stream = "stream",
    /// An API token.
    Token = "token",
    /// A user with their sessions.
    User = "user",
}

words! {
    /// What is done to an object. A small set: one that is in doubt between two takes the stronger.
    Verb, "verb":
    /// Lets in what waits for it: nodes, rollouts.
    Approve = "approve",
    /// Takes it away, for good.
    Delete = "delete",
    /// Rolls it out to nodes.
    Deploy = "deploy",
    /// Sends rows into it.
    Ingest = "ingest",
    /// Changes what it does, not what it is: pauses, tests, replays, recovers, cancels.
    Operate = "operate",
    /// Sees rows of it.
    Query = "query",
    /// Sees that it is there, its settings and its state; never rows.
    Read = "read",
    /// Declares it: creates or changes.
    Write = "write",
}

/// What an operation needs, as the registry names it: `stream:query`, or `resource:write` for one that acts on an object of
/// whatever kind it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Permission {
    /// On what; `None`: on the kind of the object in hand.
    pub kind: Option<Kind>,
    /// To do what.
    pub verb: Verb,
}

/// How a permission is written that is for whatever kind.
const WHATEVER_KIND: &str = "resource";

impl Permission {
    /// To do something to objects of a kind.
    pub const fn on(kind: Kind, verb: Verb) -> Self {
        Self { kind: Some(kind), verb }
    }

    /// To do something to an object of the kind in hand.
    pub const fn on_resource(verb: Verb) -> Self {
        Self { kind: None, verb }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.map_or(WHATEVER_KIND, Kind::as_str), self.verb)
    }
}

impl FromStr for Permission {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let (kind, verb) = text.split_once(':').unwrap_or((text, ""));
        let kind = if kind == WHATEVER_KIND { None } else { Some(kind.parse()?) };
        Ok(Self { kind, verb: verb.parse()? })
    }
}
