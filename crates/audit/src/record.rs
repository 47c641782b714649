//! What is recorded, and what is read again.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest text of a record, in bytes; names come from whoever was denied, too. What is longer is cut, and ends with `…`.
pub const TEXT_BYTES_MAX: usize = 256;
/// Most details of a record: a line says what was done, not everything about it.
pub const DETAILS_MAX: usize = 16;

/// What became of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is permitted, and about to be done: recorded first, so that nothing is done that could not be.
    Begun,
    /// It was done.
    Done,
    /// It was not permitted.
    Denied,
    /// It was permitted, and failed.
    Failed,
}

impl Outcome {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Begun, Self::Done, Self::Denied, Self::Failed];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Outcome {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|outcome| outcome.as_str() == text);
        known.ok_or_else(|| format!("`{text}` is no outcome: begun, done, denied or failed"))
    }
}

/// Who acted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// How they are known: `operator`, `user`, `api-token`, `node`, `coordinator`; `system` for the log itself.
    pub kind: String,
    /// Their name.
    pub name: String,
    /// Id of the session or API token that was shown; never the secret.
    pub credential: Option<String>,
}

/// What was acted on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its kind, as permissions name it.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// One privileged action, or one denial. Time and sequence are the log's to give.
///
/// Never put a secret into it: it is kept for a year, shown to whoever may read the log, and cannot be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The request that it belongs to.
    pub request: Option<String>,
    /// Who acted.
    pub actor: Actor,
    /// Where the request came from: address and port.
    pub from: Option<String>,
    /// The operation, as the registry names it: `token create`.
    pub action: String,
    /// What it needs, as the registry names it: `node:approve`.
    pub permission: Option<String>,
    /// What was acted on.
    pub object: Option<Object>,
    /// What became of it.
    pub outcome: Outcome,
    /// Code of the problem, if it was denied or failed.
    pub problem: Option<String>,
    /// Whatever else tells what was done. At most [`DETAILS_MAX`] entries, the first by name.
    pub details: BTreeMap<String, String>,
}

impl Record {
    /// A record with nothing but what each has.
    pub fn new(actor: Actor, action: impl Into<String>, outcome: Outcome) -> Self {
        Self {
            request: None,
            actor,
            from: None,
            action: action.into(),
            permission: None,
            object: None,
            outcome,
            problem: None,
            details: BTreeMap::new(),
        }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The same within the limits, and without characters that could act on the terminal of whoever looks at the file.
    pub(crate) fn bounded(mut self) -> Self {
        let Actor { kind, name, credential } = &mut self.actor;
        let object = self.object.iter_mut().flat_map(|object| [&mut object.kind, &mut object.name]);
        let optional =
            [&mut self.request, &mut self.from, &mut self.permission, &mut self.problem, credential];
        let texts = optional.into_iter().flatten().chain(object).chain([kind, name, &mut self.action]);
        texts.for_each(bound);
        let details = std::mem::take(&mut self.details).into_iter().take(DETAILS_MAX);
        self.details = details
            .map(|(mut name, mut value)| {
                bound(&mut name);
                bound(&mut value);
                (name, value)
            })
            .collect();
        self
    }
}

/// Cuts a text that is too long. JSON escapes the control characters of ASCII but one; the others are taken out here.
fn bound(text: &mut String) {
    const CUT: char = '…';
    if text.chars().any(is_control_beyond_json) {
        *text = text.replace(is_control_beyond_json, "\u{fffd}");
    }
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX - CUT.len_utf8()));
        text.push(CUT);
    }
}

fn is_control_beyond_json(letter: char) -> bool {
    letter.is_control() && !letter.is_ascii_control() || letter == '\u{7f}'
}

/// One line of the log, as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When it was written, microseconds since 1970, by the wall clock: where that was set back, so are times.
    pub time: i64,
    /// What it says.
    pub record: Record,
    /// The line as it stands on disk, without its end.
    pub text: String,
}
