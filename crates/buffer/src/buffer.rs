//! The handle: cheap to clone, safe to share; every append goes to the writer thread, every read is its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use aap_runtime::Clock;
use aap_types::{
    BatchId, Digest, Epoch, NodeId, Sequence, SourceKind, SourcePosition, StreamKey, StreamName,
};
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::format::SEGMENT_HEADER;
use crate::identity::Identity;
use crate::index::Channel;
use crate::log::{GROUP_BYTES_MAX, Shared};
use crate::positions::ReadPosition;
use crate::recovery::RecoveryReport;
use crate::scrub::{self, Scrubbed};
use crate::stats::{self, Stats};
use crate::writer::{self, Call, Feed, Work};
use crate::{BufferConfig, Entry, Error, FileSystem, Frame, WaitingFrame, read, recovery, waiting};

/// What declarations may add to the entries of one append.
const GROUP_SLACK: u64 = 8 << 20;

/// What opening gave.
#[derive(Debug)]
pub struct Opened {
    /// The buffer.
    pub buffer: Buffer,
    /// What recovery found.
    pub recovery: RecoveryReport,
}

/// The newest durable batch of a stream key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Its number.
    pub sequence: Sequence,
    /// Its digest; zeros if it was lost with a damaged segment.
    pub digest: Digest,
}

/// One segment file of a snapshot. Bytes from `durable_end` on must not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// The file.
    pub path: Utf8PathBuf,
    /// Its number.
    pub segment: u64,
    /// Of which store: checksums depend on it.
    pub store_id: [u8; 16],
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
    _pins: Vec<Arc<()>>,
}

/// The outcome of [`Buffer::try_append`]: await it. Dropping it does not cancel the append.
#[derive(Debug)]
pub struct AppendTicket {
    answer: oneshot::Receiver<Result<Vec<BatchId>, Error>>,
}

impl AppendTicket {
    /// Waits until the group is durable.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::OutOfOrder`], [`Error::Oversize`], [`Error::Io`], [`Error::Closed`].
    pub async fn durable(self) -> Result<Vec<BatchId>, Error> {
        self.answer.await.unwrap_or(Err(Error::Closed))
    }
}

/// A cheap handle of an open store.
#[derive(Debug, Clone)]
pub struct Buffer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    changes: watch::Receiver<u64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The thread syncs and ends by itself; waiting for it here could block an executor.
        self.feed.close();
    }
}

impl Buffer {
    /// Opens or creates the store and starts its writer thread. Blocking: call it on the blocking pool.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::ForeignNode`], [`Error::NewerFormat`], [`Error::Setting`], [`Error::Io`]. Damaged
    /// data is never an error: it stands in the report.
    pub fn open(
        fs: Arc<dyn FileSystem>,
        clock: Arc<dyn Clock>,
        config: BufferConfig,
    ) -> Result<Opened, Error> {
        if let Some(window) = config.durability.loss_window() {
            tracing::warn!(directory = %config.directory, durability = ?config.durability, "{window}");
        }
        let (log, recovery) = recovery::open(fs, clock, config)?;
        let shared = log.shared.clone();
        let feed = Arc::new(Feed::new());
        let (sender, changes) = watch::channel(0);
        let thread = std::thread::Builder::new()
            .name("buffer-writer".into())
            .spawn({
                let feed = feed.clone();
                move || writer::run(log, &feed, &sender)
            })
            .map_err(|error| Error::io("start the writer of", &shared.config.directory, error))?;
        let thread = Mutex::new(Some(thread));
        Ok(Opened { buffer: Self { inner: Arc::new(Inner { shared, feed, changes, thread }) }, recovery })
    }

    /// Syncs, ends the writer thread, gives the lock back. Blocking. Later appends get [`Error::Closed`].
    pub fn close(&self) {
        self.inner.feed.close();
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the buffer's writer thread panicked");
        }
    }

    /// Appends all entries in one group, all or none, and resolves when it is durable. Waits for room. Once queued it
    /// commits even if the future is dropped.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`], [`Error::Oversize`], [`Error::Io`], [`Error::Closed`]; nothing of it was taken.
    pub async fn append(&self, entries: Vec<Entry>) -> Result<Vec<BatchId>, Error> {
        if entries.is_empty() {
            return Ok(vec![]);
        }
        let bytes = check_size(&entries)?;
        let room = self.inner.feed.room(bytes).await?;
        self.enqueue(entries, bytes, true, room)?.durable().await
    }

    /// Like [`Self::append`], but refuses with [`Error::Full`] instead of waiting for room.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Oversize`], [`Error::Closed`].
    pub fn try_append(&self, entries: Vec<Entry>) -> Result<AppendTicket, Error> {
        let bytes = check_size(&entries)?;
        if self.inner.feed.is_waiting() {
            return Err(Error::Full);
        }
        let room = self.inner.feed.try_room(bytes)?;
        self.enqueue(entries, bytes, false, room)
    }

    fn enqueue(
        &self,
        entries: Vec<Entry>,
        bytes: u64,
        waits: bool,
        room: tokio::sync::OwnedSemaphorePermit,
    ) -> Result<AppendTicket, Error> {
        let (sender, answer) = oneshot::channel();
        self.inner.feed.push(Work::Append(Call { entries, bytes, answer: sender, waits, _room: room }))?;
        Ok(AppendTicket { answer })
    }

    /// Moves a consumer's cursor forward, at most to the tail. In memory at once; durable with the next group or within
    /// a second. A key that this store does not know is ignored.
    pub fn advance(&self, consumer: &str, key: &StreamKey, through: Sequence) {
        if self.inner.shared.index().advance(consumer, key, through) {
            self.inner.feed.moved();
        }
    }

    /// Begins a new epoch, durably: later own batches count from 1 again under it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Closed`].
    pub async fn new_epoch(&self, reason: &str) -> Result<Epoch, Error> {
        let (answer, outcome) = oneshot::channel();
        self.inner.feed.push(Work::NewEpoch { reason: reason.to_owned(), answer })?;
        outcome.await.unwrap_or(Err(Error::Closed))
    }

    /// Takes positions from a ledger, durably; only replaces older or missing ones.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Closed`].
    pub async fn adopt_positions(&self, positions: Vec<SourcePosition>) -> Result<(), Error> {
        let (answer, outcome) = oneshot::channel();
        self.inner.feed.push(Work::Adopt { positions, answer })?;
        outcome.await.unwrap_or(Err(Error::Closed))
    }

    /// The last durable sequence of every key.
    pub fn tails(&self) -> Vec<(StreamKey, Sequence)> {
        let index = self.inner.shared.index();
        let stored = index.named_channels().filter(|(_, c)| c.tail > Sequence::ZERO);
        stored.map(|(_, c)| (c.key.clone(), c.tail)).collect()
    }

    /// The newest durable batch of a key.
    pub fn tail(&self, key: &StreamKey) -> Option<Tail> {
        let index = self.inner.shared.index();
        let (_, channel) = index.channel(key)?;
        let digest = channel.digests.back().copied().unwrap_or(Digest([0; 32]));
        (channel.tail > Sequence::ZERO).then_some(Tail { sequence: channel.tail, digest })
    }

    /// The first sequence of every key that [`Self::read`] gives without a gap up to the tail: stored, or given up for a
    /// reason that is known and comes as a skip.
    pub fn heads(&self) -> Vec<(StreamKey, Sequence)> {
        let index = self.inner.shared.index();
        let mut stored: BTreeMap<u32, Sequence> = BTreeMap::new();
        for segment in index.segments.values() {
            for (number, span) in &segment.index.spans {
                stored.entry(*number).or_insert(span.first);
            }
        }
        let head = |(number, channel): (u32, &Channel)| {
            let behind = stored.get(&number).copied().unwrap_or(channel.tail.next());
            let mut head = behind;
            while let Some(hole) = head.0.checked_sub(1).and_then(|last| channel.hole_at(Sequence(last))) {
                head = hole.from;
            }
            (stored.contains_key(&number) || head < behind).then(|| (channel.key.clone(), head))
        };
        index.named_channels().filter_map(head).collect()
    }

    /// The digest of a stored batch, from memory or (blocking) from its frame. `None` if it is no longer known.
    pub fn digest_of(&self, id: &BatchId) -> Option<Digest> {
        let recent = {
            let index = self.inner.shared.index();
            index.channel(&id.key)?.1.recent_digest(id.sequence)
        };
        recent.or_else(|| read::digest_of(&self.inner.shared, id))
    }

    /// Durable frames of a key after a sequence, in order, about `bytes_max` of them and at least one; empty = nothing
    /// more. What is damaged, was dropped or reclaimed comes as a skip. Blocking.
    ///
    /// # Errors
    /// [`Error::Io`] if a segment cannot be opened.
    pub fn read(&self, key: &StreamKey, after: Sequence, bytes_max: usize) -> Result<Vec<Frame>, Error> {
        read::read(&self.inner.shared, key, after, bytes_max)
    }

    /// Everything behind a consumer's cursor, every key, in order, by one pass over the headers: what it would read, at a
    /// small part of the cost. What is damaged is left out. Blocking.
    ///
    /// # Errors
    /// [`Error::Io`] if a segment cannot be opened.
    pub fn waiting(&self, consumer: &str) -> Result<BTreeMap<StreamKey, Vec<WaitingFrame>>, Error> {
        let cursors: HashMap<StreamKey, Sequence> = {
            let index = self.inner.shared.index();
            let of_it = index.cursors.iter().filter(|((of, _), _)| of == consumer);
            let named = of_it.filter_map(|((_, number), sequence)| {
                index.named_channel(*number).map(|channel| (channel.key.clone(), *sequence))
            });
            named.collect()
        };
        self.waiting_after(|key| cursors.get(key).copied().unwrap_or_default())
    }

    /// The same behind given cuts.
    ///
    /// # Errors
    /// As [`Self::waiting`].
    pub fn waiting_after(
        &self,
        cut: impl Fn(&StreamKey) -> Sequence,
    ) -> Result<BTreeMap<StreamKey, Vec<WaitingFrame>>, Error> {
        waiting::after(&self.inner.shared, cut)
    }

    /// Reads every byte of the first sealed segment numbered above `after`, against bits that rot: call it at a low rate,
    /// each time with the segment of the call before, from 0 again after `None`. Damage shows in [`Self::stats`].
    /// Blocking.
    pub fn scrub(&self, after: u64) -> Option<Scrubbed> {
        scrub::scrub(&self.inner.shared, after)
    }

    /// How far a consumer came.
    pub fn cursor(&self, consumer: &str, key: &StreamKey) -> Sequence {
        let index = self.inner.shared.index();
        let Some((number, _)) = index.channel(key) else { return Sequence::ZERO };
        index.cursors.get(&(consumer.to_owned(), number)).copied().unwrap_or_default()
    }

    /// Changes with every durable group.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.clone()
    }

    /// The last durable position of a source of this node.
    pub fn position(&self, kind: SourceKind, key: &str) -> Option<SourcePosition> {
        let index = self.inner.shared.index();
        index.positions.get(&index.identity.node, kind, key).cloned()
    }

    /// All of this node's.
    pub fn positions(&self) -> Vec<SourcePosition> {
        let node = self.inner.shared.index().identity.node.clone();
        self.positions_of(&node)
    }

    /// All positions that came with the batches of `node`: what a ledger gives back in the hello.
    pub fn positions_of(&self, node: &NodeId) -> Vec<SourcePosition> {
        let index = self.inner.shared.index();
        index.positions.of_node(node).cloned().collect()
    }

    /// The same, with the batches that they came with.
    pub fn landed_positions_of(&self, node: &NodeId) -> Vec<ReadPosition> {
        self.inner.shared.index().positions.read_of_node(node).collect()
    }

    /// Who this store is.
    pub fn identity(&self) -> Identity {
        self.inner.shared.index().identity.clone()
    }

    /// What a file beside the store belongs to, if it may say no more than the store itself: the store, and where its
    /// durability has a loss window also its present life, which ends where acknowledged data was lost.
    pub fn keeps_with(&self) -> [u8; 16] {
        let Identity { mut store_id, epoch, .. } = self.identity();
        if self.inner.shared.config.durability.loss_window().is_some() {
            for (byte, of_epoch) in store_id.iter_mut().zip(epoch.0.to_le_bytes()) {
                *byte ^= of_epoch;
            }
        }
        store_id
    }

    /// Pins the segments that hold frames of these streams (all if `None`) until the snapshot is dropped.
    pub fn snapshot(&self, streams: Option<&[StreamName]>) -> Snapshot {
        let index = self.inner.shared.index();
        let wanted = |number: &u32| {
            let channel = index.channels.get(*number as usize);
            channel.is_some_and(|c| streams.is_none_or(|streams| streams.contains(&c.key.stream)))
        };
        let (segments, pins) = index
            .segments
            .iter()
            .filter(|(_, segment)| segment.index.spans.keys().any(wanted))
            .map(|(id, segment)| {
                let reference = SegmentRef {
                    path: segment.path.clone(),
                    segment: *id,
                    store_id: index.identity.store_id,
                    start: SEGMENT_HEADER as u64,
                    durable_end: segment.index.end,
                };
                (reference, segment.pin.clone())
            })
            .unzip();
        Snapshot { segments, _pins: pins }
    }

    /// What the store holds.
    pub fn stats(&self) -> Stats {
        stats::of(&self.inner.shared.index(), &self.inner.shared.config)
    }
}

fn check_size(entries: &[Entry]) -> Result<u64, Error> {
    const LIMIT: u64 = GROUP_BYTES_MAX - GROUP_SLACK;
    for entry in entries {
        // What landed came over the wire, so it fits.
        if let Entry::Own { batch, .. } = entry {
            batch.check_size()?;
        }
    }
    let bytes = entries.iter().map(Entry::bytes).sum();
    if bytes > LIMIT { Err(Error::Oversize { bytes, limit: LIMIT }) } else { Ok(bytes) }
}
