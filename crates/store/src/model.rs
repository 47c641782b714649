//! The records of the metadata store.

use aap_types::{BatchId, ByteCount, Epoch, NodeId, Sequence, StreamKey, StreamName};
use serde::{Deserialize, Serialize};

/// What is known about a node whether or not it is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its name.
    pub node: NodeId,
    /// First hello.
    pub first_seen_us: i64,
    /// Last hello.
    pub last_seen_us: i64,
    /// Identity of the store it opened last.
    pub store_id: Vec<u8>,
    /// How often that store had been opened.
    pub generation: u64,
    /// The epoch it was writing.
    pub epoch: Epoch,
    /// Version of its agent.
    pub agent_version: String,
}

/// A contiguous range of one stream of one store, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceRange {
    /// Which node's store.
    pub node: NodeId,
    /// Which life of it.
    pub epoch: Epoch,
    /// First batch with rows in the file.
    pub first: Sequence,
    /// Last batch with rows in the file.
    pub last: Sequence,
}

/// One Parquet file of the lake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LakeFile {
    /// The stream whose rows it holds.
    pub stream: StreamName,
    /// Relative to the lake's root; unique for ever.
    pub path: String,
    /// Rows.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Size of its columns in memory, about.
    pub memory_bytes: u64,
    /// Smallest `ts`.
    pub ts_min_us: i64,
    /// Largest `ts`.
    pub ts_max_us: i64,
    /// Where its rows came from. Several files can name overlapping ranges: rows of one batch may go to several days.
    pub ranges: Vec<SequenceRange>,
    /// When it became visible.
    pub created_us: i64,
}

/// Moves the cut of one stream of one store, if it still stands at `from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorMove {
    /// The stream.
    pub key: StreamKey,
    /// Where the writer found it.
    pub from: Sequence,
    /// Where it goes.
    pub to: Sequence,
}

/// What passed from the landing buffer into the lake.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// Rows.
    pub rows: u64,
    /// Batches.
    pub batches: u64,
    /// Bytes as stored in frames.
    pub bytes: u64,
    /// Bytes as the sources read them.
    pub raw_bytes: u64,
    /// Rows that were given up on the way, by Skip.
    pub rows_skipped: u64,
    /// Largest `ts`, or 0.
    pub newest_us: i64,
    /// When the newest batch was sealed, or 0.
    pub landed_us: i64,
}

impl RowCounts {
    /// Adds what `other` counted.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.batches += other.batches;
        self.bytes += other.bytes;
        self.raw_bytes += other.raw_bytes;
        self.rows_skipped += other.rows_skipped;
        self.newest_us = self.newest_us.max(other.newest_us);
        self.landed_us = self.landed_us.max(other.landed_us);
    }
}

/// One change of the lake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeCommit {
    /// The stream it concerns.
    pub stream: StreamName,
    /// Files that become visible.
    pub add: Vec<LakeFile>,
    /// Paths that stop being visible.
    pub remove: Vec<String>,
    /// Cuts that move.
    pub cursors: Vec<CursorMove>,
    /// What the cursors passed over. Zero for compaction and retention.
    pub counts: RowCounts,
    /// Columns of the added files: name and type.
    pub columns: Vec<(String, String)>,
}

/// How much of a stream is kept in the lake. Both limits hold; zero means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Files whose newest row is older than this many hours go. Default: 0, kept for ever.
    pub hours: u64,
    /// The oldest files go when the stream's files are larger than this. Default: 0, no limit.
    pub bytes: ByteCount,
}

/// A stream, as counted up to its cuts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// Its name.
    pub stream: StreamName,
    /// Everything that went into the lake since the stream was created or last deleted.
    pub counts: RowCounts,
    /// Columns with their types, in the order they appeared.
    pub columns: Vec<(String, String)>,
    /// Its own retention, if it has one.
    pub retention: Option<Retention>,
}

/// Everything a query or a listing needs, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Streams by name.
    pub streams: Vec<StreamRecord>,
    /// Visible files, by stream, then in order of age.
    pub files: Vec<LakeFile>,
    /// The cut of each stream of each store: rows up to it are in `files` or deleted.
    pub cursors: Vec<(StreamKey, Sequence)>,
    /// Batches that were deleted with their streams: by key, everything up to a sequence.
    #[serde(default)]
    pub deleted: Vec<(StreamKey, Sequence)>,
    /// Number of changes of the lake so far.
    pub version: u64,
}

/// What a deletion took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Files to unlink once nobody reads them.
    pub files: Vec<LakeFile>,
}

/// A declared object: what `aap apply` was given, as it stands now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceRecord {
    /// `Sink`, `Source` and so on.
    pub kind: String,
    /// Unique within its kind.
    pub name: String,
    /// Given when it was created: one deleted and made again is another. 32 hexadecimal digits.
    pub uid: String,
    /// 1 when it was created, one more with every change.
    pub revision: u64,
    /// The document, as it was written.
    pub document: String,
    /// Who changed it last.
    pub author: String,
    /// When it was created.
    pub created_us: i64,
    /// When it was changed last.
    pub updated_us: i64,
}

/// What is known of a sink beside its document and what its server knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkState {
    /// Whether an operator stopped it.
    pub paused: bool,
    /// Where it begins, of the keys that were there when it was created; the others begin at their first batch.
    pub starts: Vec<(StreamKey, Sequence)>,
    /// Rows whose `ts` is known to be before this, in microseconds, are left out. As it was when the sink was created.
    #[serde(default)]
    pub start_us: Option<i64>,
    /// The number of the newest replay of dead letters that was begun.
    pub replays: u64,
}

/// A row that a sink could not write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkDeadLetter {
    /// The batch it is of.
    pub batch: BatchId,
    /// Which row of it.
    pub row: u64,
    /// Why, as the operator reads it.
    pub reason: String,
    /// When it was put here.
    pub at_us: i64,
    /// The row: an Arrow IPC stream of one batch of one row.
    pub arrow: Vec<u8>,
    /// The replay it is part of, 0 if none.
    pub replay: u64,
}
