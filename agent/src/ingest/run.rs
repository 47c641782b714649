//! What is durable of an ingest run: its position in the buffer.

use aap_types::{ExitCode, Problem, SourceKind, SourcePosition, StreamName};
use serde::{Deserialize, Serialize};

use super::digest::{SavedDigest, hex};
use crate::deletions::Place;

/// The detail of an ingest position. The position's offset counts bytes of content (after decompression) for lines,
/// and rows for columnar files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDetail {
    /// How often the run was begun anew with `--again`.
    #[serde(default)]
    pub generation: u64,
    /// Format and codec it was begun with.
    pub format: String,
    /// See `format`.
    pub codec: String,
    /// Good rows so far.
    pub rows: u64,
    /// Bad rows so far.
    pub bad: u64,
    /// Bytes beyond the longest record so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut: u64,
    /// BLAKE3 of the content up to the offset.
    #[serde(default)]
    pub content: SavedDigest,
    /// The offset lies in a record that was too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipping: bool,
    /// First record of a CSV file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub header: String,
    /// All was taken: size and digest of the input as it was sent. Of a columnar file from its first batch on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Whole>,
    /// All was taken.
    #[serde(default)]
    pub complete: bool,
    /// All was taken of lines: how the content ended. `None`: what follows it is not known to be new records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// The last batch of a complete run: noted when it is known, so after all rows are durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_batch: Option<Place>,
}

/// How the content of a complete run ended, as far as it matters when the content grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// With the end of a record: another one may follow.
    Closed,
    /// Within a record that a line end closes: nothing but that may follow, or the record was another one.
    Open,
}

impl RunDetail {
    /// It grows: what was said of its end does not hold any more.
    pub(super) fn begin_to_grow(&mut self) {
        (self.complete, self.input, self.end, self.last_batch) = (false, None, None, None);
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A whole input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
    /// Bytes as sent.
    pub size: u64,
    /// BLAKE3 of them, as hex.
    pub digest: String,
}

impl Whole {
    /// Of an input of `size` bytes.
    pub fn new(size: u64, digest: &[u8]) -> Self {
        Self { size, digest: hex(digest) }
    }
}

/// A run and how far it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The stream it feeds.
    pub stream: StreamName,
    /// Its name.
    pub name: String,
    /// Content taken.
    pub offset: u64,
    /// The rest.
    pub detail: RunDetail,
}

impl Run {
    /// The key of its position.
    pub fn key(stream: &StreamName, name: &str) -> String {
        format!("{stream}/{name}")
    }

    /// The position to commit.
    pub fn position(&self) -> SourcePosition {
        SourcePosition {
            kind: SourceKind::Ingest,
            key: Self::key(&self.stream, &self.name),
            offset: self.offset,
            detail: serde_json::to_string(&self.detail).unwrap_or_default(),
        }
    }
}

/// What was taken under this name is not what is sent now.
pub fn content_changed(stream: &StreamName, name: &str, what: &str) -> Problem {
    let message =
        format!("the content differs from what was taken into `{stream}` under the name `{name}`: {what}");
    Problem::new("ingest.content_changed", ExitCode::Conflict, message)
        .hint("take it again from the beginning with `--again`, or under another `--name`")
}
