//! The handle. SKELETON: the signatures stand; the log behind them follows.

use std::collections::BTreeMap;
use std::sync::Arc;

use aap_runtime::Clock;
use aap_types::{
    BatchId, Digest, Epoch, NodeId, Sequence, SourceKind, SourcePosition, StreamKey, StreamName,
};
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{BufferConfig, Entry, Error, FileSystem, Frame};

/// What opening gave.
#[derive(Debug)]
pub struct Opened {
    /// The buffer.
    pub buffer: Buffer,
    /// What recovery found.
    pub recovery: RecoveryReport,
}

/// What recovery found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// The store was made just now.
    pub created: bool,
    /// Segment files found.
    pub segments: u64,
    /// Bytes read to find out.
    pub bytes_read: u64,
    /// Bytes of an unfinished group that were cut off.
    pub torn_bytes: u64,
    /// Damaged regions below the synced mark, copied to `lost+found/`.
    pub damaged_regions: u64,
    /// Their bytes.
    pub damaged_bytes: u64,
    /// A new epoch was minted, and why.
    pub new_epoch: Option<String>,
    /// What an operator must know. Empty where all is well.
    pub problems: Vec<String>,
}

/// Who this store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Minted with the store.
    pub store_id: [u8; 16],
    /// Counts the openings, durably; a coordinator that saw a larger one knows of a roll-back or a clone.
    pub generation: u64,
    /// The present life.
    pub epoch: Epoch,
    /// Whose it is.
    pub node: NodeId,
}

/// The newest durable batch of a stream key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Its number.
    pub sequence: Sequence,
    /// Its digest.
    pub digest: Digest,
}

/// One stream's books, in this store's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStats {
    /// Rows ever stored.
    pub rows: u64,
    /// Batches ever stored.
    pub batches: u64,
    /// Bytes ever stored.
    pub bytes: u64,
    /// Their size as the sources gave them.
    pub raw_bytes: u64,
    /// Rows given up (skips, drops, damage).
    pub dropped_rows: u64,
    /// Batches not yet delivered.
    pub waiting_batches: u64,
    /// Rows not yet delivered, about.
    pub waiting_rows: u64,
    /// Bytes not yet delivered, about.
    pub waiting_bytes: u64,
}

/// What the store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes of data on disk.
    pub stored_bytes: u64,
    /// Of these, not yet delivered to the landing consumer.
    pub waiting_bytes: u64,
    /// Batches not yet delivered.
    pub waiting_batches: u64,
    /// The budget.
    pub capacity_bytes: u64,
    /// Appends wait, because the budget or the disk is used up.
    pub blocked: bool,
    /// By stream, all nodes and epochs together.
    pub streams: BTreeMap<StreamName, StreamStats>,
    /// What is wrong. Empty where all is well.
    pub problems: Vec<String>,
}

/// One segment file of a snapshot. Bytes from `durable_end` on must not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// The file.
    pub path: Utf8PathBuf,
    /// Its number.
    pub segment: u64,
    /// Where its first group begins.
    pub start: u64,
    /// Where its durable groups end.
    pub durable_end: u64,
}

/// A consistent view of the durable frames; its segments stay until it is dropped.
#[derive(Debug)]
pub struct Snapshot {
    /// Oldest first.
    pub segments: Vec<SegmentRef>,
}

/// The outcome of [`Buffer::try_append`]: await it. Dropping it does not cancel the append.
#[derive(Debug)]
pub struct AppendTicket {}

impl AppendTicket {
    /// Waits until the group is durable. Cancel-safe.
    pub async fn durable(self) -> Result<Vec<BatchId>, Error> {
        Err(Error::Closed)
    }
}

/// A cheap handle of an open store.
#[derive(Debug, Clone)]
pub struct Buffer {}

impl Buffer {
    /// Opens or creates the store and starts its writer thread. Blocking: call it on the blocking pool.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::ForeignNode`], [`Error::NewerFormat`], [`Error::Setting`], [`Error::Io`]. Damaged
    /// data is never an error: it stands in the report.
    pub fn open(
        _fs: Arc<dyn FileSystem>,
        _clock: Arc<dyn Clock>,
        _config: BufferConfig,
    ) -> Result<Opened, Error> {
        Err(Error::Closed)
    }

    /// Syncs, ends the writer thread, gives the lock back. Blocking. Later appends get [`Error::Closed`].
    pub fn close(&self) {}

    /// Appends all entries in one group, all or none, and resolves when it is durable. Waits for room. Once queued it
    /// commits even if the future is dropped.
    pub async fn append(&self, _entries: Vec<Entry>) -> Result<Vec<BatchId>, Error> {
        Err(Error::Closed)
    }

    /// Like [`Self::append`], but refuses with [`Error::Full`] instead of waiting for room.
    pub fn try_append(&self, _entries: Vec<Entry>) -> Result<AppendTicket, Error> {
        Err(Error::Closed)
    }

    /// Moves a consumer's cursor forward. In memory at once; durable with the next group or within a second.
    pub fn advance(&self, _consumer: &str, _key: &StreamKey, _through: Sequence) {}

    /// Begins a new epoch, durably: later own batches count from 1 again under it.
    pub async fn new_epoch(&self, _reason: &str) -> Result<Epoch, Error> {
        Err(Error::Closed)
    }

    /// The last durable sequence of every key.
    pub fn tails(&self) -> Vec<(StreamKey, Sequence)> {
        vec![]
    }
    /// The newest durable batch of a key.
    pub fn tail(&self, _key: &StreamKey) -> Option<Tail> {
        None
    }
    /// The first sequence still stored of every key that has any.
    pub fn heads(&self) -> Vec<(StreamKey, Sequence)> {
        vec![]
    }
    /// The digest of a stored batch, from memory or (blocking) from its frame. `None` if it is no longer known.
    pub fn digest_of(&self, _id: &BatchId) -> Option<Digest> {
        None
    }
    /// Durable frames of a key after a sequence, in order, about `bytes_max` of them and at least one; empty = nothing
    /// more. What is damaged or was dropped comes as a skip. Blocking.
    pub fn read(&self, _key: &StreamKey, _after: Sequence, _bytes_max: usize) -> Result<Vec<Frame>, Error> {
        Err(Error::Closed)
    }
    /// How far a consumer came.
    pub fn cursor(&self, _consumer: &str, _key: &StreamKey) -> Sequence {
        Sequence::ZERO
    }
    /// Changes with every durable group.
    pub fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
    /// The last durable position of a source of this node.
    pub fn position(&self, _kind: SourceKind, _key: &str) -> Option<SourcePosition> {
        None
    }
    /// All of this node's.
    pub fn positions(&self) -> Vec<SourcePosition> {
        vec![]
    }
    /// All positions that came with the batches of `node`: what a ledger gives back in the hello.
    pub fn positions_of(&self, _node: &NodeId) -> Vec<SourcePosition> {
        vec![]
    }
    /// Takes positions from a ledger, durably; only replaces older or missing ones.
    pub async fn adopt_positions(&self, _positions: Vec<SourcePosition>) -> Result<(), Error> {
        Err(Error::Closed)
    }
    /// Who this store is.
    pub fn identity(&self) -> Identity {
        unreachable!("skeleton")
    }
    /// Pins the segments that hold frames of these streams (all if `None`) until the snapshot is dropped.
    pub fn snapshot(&self, _streams: Option<&[StreamName]>) -> Snapshot {
        Snapshot { segments: vec![] }
    }
    /// What the store holds.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
