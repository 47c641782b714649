//! Signed statements of where the log stands, and where it begins.
//!
//! What is signed is text, so that any tool that knows Ed25519 can check it:
//! ```text
//! aap audit checkpoint 1⏎  LOG⏎  SEQUENCE⏎  HASH⏎  TIME⏎        the line SEQUENCE has this hash
//! aap audit start 1⏎       LOG⏎  SEQUENCE⏎  HASH⏎  TIME⏎        everything up to this line was removed by retention
//! ```
//! without the blanks that stand between the lines here. The two differ, so that no checkpoint can be passed off as a beginning.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hex;
use crate::key::{PublicKey, SIGNATURE_BYTES, SigningKey};
use crate::line::Hash;

/// What is stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statement {
    Checkpoint,
    Start,
}

impl Statement {
    const fn context(self) -> &'static str {
        match self {
            Self::Checkpoint => "aap audit checkpoint 1",
            Self::Start => "aap audit start 1",
        }
    }

    fn message(self, log: &str, seq: u64, hash: &Hash, time: i64) -> String {
        format!("{}\n{log}\n{seq}\n{hash}\n{time}\n", self.context())
    }

    /// Whether `signature` is by `key`, over this statement.
    pub(crate) fn is_signed_by(
        self,
        key: &PublicKey,
        (log, seq, hash, time): (&str, u64, &Hash, i64),
        signature: &[u8; SIGNATURE_BYTES],
    ) -> bool {
        key.has_signed(self.message(log, seq, hash, time).as_bytes(), signature)
    }

    /// Signs that the line `seq` of the log `log` has `hash`.
    pub(crate) fn sign(self, key: &SigningKey, log: &str, seq: u64, hash: Hash, time: i64) -> Checkpoint {
        let signature = key.sign(self.message(log, seq, &hash, time).as_bytes());
        Checkpoint { log: log.to_owned(), seq, time, hash, signature }
    }
}

/// Where a log stands: signed, so it may be kept anywhere. As text one line of JSON with exactly one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The random id of the log.
    pub log: String,
    /// The line that it is about.
    pub seq: u64,
    /// When it was signed, microseconds since 1970.
    pub time: i64,
    pub(crate) hash: Hash,
    pub(crate) signature: [u8; SIGNATURE_BYTES],
}

impl Checkpoint {
    /// The hash of the line, hexadecimal.
    pub fn hash(&self) -> String {
        self.hash.to_string()
    }

    /// Whether the holder of the key stated it, as a checkpoint.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        self.states(Statement::Checkpoint, key)
    }

    pub(crate) fn states(&self, statement: Statement, key: &PublicKey) -> bool {
        statement.is_signed_by(key, (&self.log, self.seq, &self.hash, self.time), &self.signature)
    }
}

#[derive(Serialize, Deserialize)]
struct Form {
    log: String,
    seq: u64,
    time: i64,
    hash: String,
    signature: String,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = Form {
            log: self.log.clone(),
            seq: self.seq,
            time: self.time,
            hash: self.hash.to_string(),
            signature: hex::encode(&self.signature),
        };
        f.write_str(&serde_json::to_string(&form).map_err(|_| fmt::Error)?)
    }
}

/// A text that is no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no checkpoint of an audit log")]
pub struct NotACheckpoint;

impl FromStr for Checkpoint {
    type Err = NotACheckpoint;
    fn from_str(text: &str) -> Result<Self, NotACheckpoint> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let form: Form = serde_json::from_str(text).map_err(|_| NotACheckpoint)?;
        let hash = Hash::parse(form.hash.as_bytes()).ok_or(NotACheckpoint)?;
        let signature = hex::decode(form.signature.as_bytes()).ok_or(NotACheckpoint)?;
        let checkpoint = Self { log: form.log, seq: form.seq, time: form.time, hash, signature };
        // Not a blank more or less: a file that was touched is seen to be.
        if checkpoint.to_string() == text { Ok(checkpoint) } else { Err(NotACheckpoint) }
    }
}
