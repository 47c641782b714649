//! The view: everything that is in the landing topic, in this coordinator's own buffer, so that it answers any query and knows
//! where each stream ends.
//!
//! ```text
//!  topic, 64 partitions ──committed records, in order of each──▶ Entry ──▶ buffer ──▶ what waits, cuts, whoever waits for it
//! ```
//! Reading goes on behind the positions that stand in the buffer itself, after the frames they speak of; what comes twice is
//! known by its sequence. A view that was away so long that records were deleted meanwhile finds a gap: what lies in it is in
//! the lake, or was deleted, and a skip takes its place.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aap_buffer::{Buffer, Entry, RECLAIMED, ReadPosition};
use aap_kafka::{LandingChunk, LandingReader, LandingSpec, LandingWatcher, SHARDS};
use aap_lake::{FrameInfo, Lake};
use aap_runtime::{Clock, Shutdown};
use aap_store::{ClusterStore, LandedPosition, RowCounts};
use aap_types::{BatchId, Sequence, SourceKind, SourcePosition, StreamKey};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::record::Decoder;
use super::shards::is_of;
use super::trim::{Passed, Sections};
use crate::arrival::chain;
use crate::landing::{Error, Landed, counts_of};

/// Under which key the buffer has how far a partition was read. No source has a uid like this.
const POSITION: &str = "@landing/";
/// How often that is written down: what was read since is read again after a crash.
const WRITE_DOWN: Duration = Duration::from_secs(2);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// What one append to the buffer takes: a disk writes it in some ten milliseconds.
const APPEND_BYTES: usize = 8 << 20;
/// How long a question may take that every query asks: where the topic ends.
const ENDS_DEADLINE: Duration = Duration::from_secs(5);

/// The view. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct View {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: LandingSpec,
    cluster: String,
    buffer: Buffer,
    lake: Lake,
    landed: Landed,
    clock: Arc<dyn Clock>,
    watcher: LandingWatcher,
    /// Another one: a deletion that takes its time must not hold questions up.
    deleter: LandingWatcher,
    /// The next offset of each partition.
    next: watch::Sender<BTreeMap<i32, i64>>,
    /// What of the topic is still needed.
    sections: Sections,
    problem: Mutex<Option<String>>,
}

/// Why a view cannot go on.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("read the landing topic")]
    Kafka(#[from] aap_sinks::Failure),
    #[error("start a thread that reads the landing topic")]
    Thread(#[from] std::io::Error),
    #[error(transparent)]
    Record(#[from] super::record::Unreadable),
    #[error("append to the landing buffer")]
    Buffer(#[from] aap_buffer::Error),
    #[error("the landing topic is not read any more")]
    Ended,
}

impl View {
    /// A view in `lake`'s own landing buffer; `landed` is told what came.
    pub(crate) fn new(
        (spec, cluster): (LandingSpec, &str),
        (buffer, lake): (Buffer, Lake),
        landed: Landed,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, aap_sinks::Failure> {
        let (watcher, deleter) = (LandingWatcher::start(&spec)?, LandingWatcher::start(&spec)?);
        let read = written_down(&buffer);
        let sections = Sections::default();
        for partition in 0..SHARDS {
            // What was read in an earlier life may still wait for the lake, also where it is not written down how far that was.
            let tails = buffer.tails().into_iter().filter(|(key, _)| is_of(&key.node, partition));
            let tails: BTreeMap<StreamKey, Sequence> = tails.collect();
            sections.note(partition, read.get(&partition).copied().unwrap_or(0), 0, &tails);
        }
        let next = watch::Sender::new(read);
        let problem = Mutex::default();
        let cluster = cluster.to_owned();
        let inner =
            Inner { spec, cluster, buffer, lake, landed, clock, watcher, deleter, next, sections, problem };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Why it does not get on, if it does not.
    pub(crate) fn problem(&self) -> Option<String> {
        self.inner.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Deletes records of the topic that no view needs any more. Only the leader does: its cuts are those of the catalogue.
    pub(crate) async fn trim(&self, store: &Arc<dyn ClusterStore>) -> Result<(), Error> {
        let inner = &*self.inner;
        let Passed { before, nodes } = inner.sections.passed(|key| inner.lake.cut(key));
        if before.is_empty() {
            return Ok(());
        }
        let buffer = inner.buffer.clone();
        let store = store.clone();
        // First: what is deleted cannot tell any more how far its sources were read.
        let saved = tokio::task::spawn_blocking(move || {
            let positions: Vec<LandedPosition> =
                nodes.iter().flat_map(|node| buffer.landed_positions_of(node)).map(landed_position).collect();
            store.save_positions(&positions)
        });
        saved.await??;
        inner.deleter.delete_before(before.clone()).await?;
        inner.sections.forget(&before);
        debug!(partitions = before.len(), "records that are in the lake went from the landing topic");
        Ok(())
    }

    /// Up to where a key is in the lake.
    pub(crate) fn cut(&self, key: &StreamKey) -> Sequence {
        self.inner.lake.cut(key)
    }

    /// Forgets of what went into the lake: a coordinator that does not lead deletes nothing, and one that leads later deletes with what
    /// comes then everything before it.
    pub(crate) fn forget_passed(&self) {
        let Passed { before, .. } = self.inner.sections.passed(|key| self.inner.lake.cut(key));
        self.inner.sections.forget(&before);
    }

    /// Waits until everything of a partition before `next` is in the view. Cancel-safe.
    pub(crate) async fn reached(&self, partition: i32, next: i64) {
        let mut known = self.inner.next.subscribe();
        // The sender lives as long as the view.
        drop(known.wait_for(|known| known.get(&partition).copied().unwrap_or(0) >= next).await);
    }

    /// Knows of streams, though nothing of them is in the topic any more, where they end: at the cut of the lake. Call it when the
    /// view has everything that is there.
    pub(crate) async fn seed(&self, shard: i32) -> Result<(), Error> {
        let lake = self.inner.lake.clone();
        let catalogue = tokio::task::spawn_blocking(move || lake.catalogue()).await?;
        let catalogue = catalogue.map_err(|error| Error::Shard(chain(&error)))?;
        let now_us = self.inner.clock.unix_us();
        let mut group = Group::default();
        for (key, cut) in catalogue.cursors.iter().filter(|(key, _)| is_of(&key.node, shard)) {
            let tail = self.inner.buffer.tail(key).map_or(Sequence::ZERO, |tail| tail.sequence);
            if tail < *cut {
                let (from, to, reason) = (tail.next(), *cut, RECLAIMED.to_owned());
                group.push(Entry::Skip { key: key.clone(), from, to, rows: 0, reason }, now_us);
                group.tails.insert(key.clone(), *cut);
            }
        }
        self.append(group, None).await.map_err(|broken| Error::Shard(chain(&broken)))
    }

    /// Waits until everything is in the view that had landed anywhere when this was called. Whether it came in time.
    pub(crate) async fn catch_up(&self, deadline: Duration) -> bool {
        let ends = self.inner.watcher.ends((0..SHARDS).collect());
        let Ok(Ok(ends)) = tokio::time::timeout(ENDS_DEADLINE.min(deadline), ends).await else {
            return false;
        };
        let mut known = self.inner.next.subscribe();
        let all = |known: &BTreeMap<i32, i64>| {
            ends.iter().all(|(partition, end)| known.get(partition).copied().unwrap_or(0) >= *end)
        };
        matches!(tokio::time::timeout(deadline, known.wait_for(all)).await, Ok(Ok(_)))
    }

    /// Reads until `shutdown`.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        while !shutdown.is_requested() {
            let Err(broken) = self.follow(&shutdown).await else { break };
            let reason = chain(&broken);
            warn!(reason, "the view of the landing topic is behind");
            *self.inner.problem.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(format!("landing: {reason}"));
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = shutdown.requested() => {}
            }
        }
        Ok(())
    }

    async fn follow(&self, shutdown: &Shutdown) -> Result<(), Broken> {
        let inner = &*self.inner;
        let mut reader = LandingReader::start(&inner.spec, inner.next.borrow().clone())?;
        let mut decoder = Decoder::of(&inner.cluster);
        let mut written = inner.clock.monotonic();
        loop {
            let chunk = tokio::select! {
                chunk = reader.next() => chunk.ok_or(Broken::Ended)??,
                () = shutdown.requested() => break,
            };
            self.take(chunk, &mut decoder).await?;
            *inner.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
            let now = inner.clock.monotonic();
            if now.saturating_sub(written) >= WRITE_DOWN {
                self.write_down().await?;
                written = now;
            }
        }
        self.write_down().await
    }

    /// How far partitions were read goes into the buffer after what was read of them.
    async fn write_down(&self) -> Result<(), Broken> {
        let next = self.inner.next.borrow().clone();
        let positions = next.into_iter().map(|(partition, next)| SourcePosition {
            kind: SourceKind::Kafka,
            key: format!("{POSITION}{partition}"),
            offset: u64::try_from(next).unwrap_or(0),
            detail: String::new(),
        });
        let positions = positions.collect();
        Ok(self.inner.buffer.adopt_positions(positions).await?)
    }

    async fn take(&self, chunk: LandingChunk, decoder: &mut Decoder) -> Result<(), Broken> {
        let LandingChunk { partition, records, next } = chunk;
        let mut group = Group::default();
        for (offset, record) in records {
            let Some(entry) = decoder.decode(record.into())? else { continue };
            self.add(&mut group, entry);
            if group.bytes >= APPEND_BYTES {
                self.append(std::mem::take(&mut group), Some((partition, offset + 1))).await?;
            }
        }
        self.append(group, Some((partition, next))).await?;
        self.inner.next.send_modify(|known| {
            known.insert(partition, next);
        });
        Ok(())
    }

    /// Adds an entry if it is new, and a skip before it where something is missing.
    fn add(&self, group: &mut Group, entry: Entry) {
        let (key, from, to) = match &entry {
            Entry::Landed { id, .. } => (id.key.clone(), id.sequence, id.sequence),
            Entry::Skip { key, from, to, .. } => (key.clone(), *from, *to),
            Entry::Own { .. } => return,
        };
        let tail = group
            .tails
            .get(&key)
            .copied()
            .unwrap_or_else(|| self.inner.buffer.tail(&key).map_or(Sequence::ZERO, |tail| tail.sequence));
        if to <= tail {
            return;
        }
        if from > tail.next() {
            self.fill(group, &key, tail.next(), Sequence(from.0 - 1));
        }
        // A skip may begin before what is known of it.
        let entry = match entry {
            Entry::Skip { key, to, rows, reason, .. } => {
                Entry::Skip { from: from.max(tail.next()), key, to, rows, reason }
            }
            other => other,
        };
        group.tails.insert(key, to);
        group.push(entry, self.inner.clock.unix_us());
    }

    fn fill(&self, group: &mut Group, key: &StreamKey, from: Sequence, to: Sequence) {
        if self.inner.lake.cut(key) < to {
            warn!(%key, %from, %to, "batches are neither in the landing topic nor in the lake");
        } else {
            info!(%key, %from, %to, "batches went into the lake before this view saw them");
        }
        let skip = Entry::Skip { key: key.clone(), from, to, rows: 0, reason: RECLAIMED.to_owned() };
        group.push(skip, self.inner.clock.unix_us());
    }

    /// Appends a group that was read of a partition up to an offset.
    async fn append(&self, group: Group, read: Option<(i32, i64)>) -> Result<(), Broken> {
        let Group { entries, frames, tails, bytes } = group;
        if let Some((partition, next)) = read {
            self.inner.sections.note(partition, next, bytes, &tails);
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.inner.buffer.append(entries).await?;
        self.inner.landed.note(frames);
        // The lake may have been there first: what it told the buffer of keys that were not known here is told again.
        tails.keys().for_each(|key| self.inner.lake.tell_cut(key));
        Ok(())
    }
}

/// How far a source was read, as the buffer knows it, as the metadata store keeps it.
pub(super) fn landed_position(known: ReadPosition) -> LandedPosition {
    let ReadPosition { node, epoch, sealed_us, updated_us, position } = known;
    LandedPosition { node, epoch, sealed_us, updated_us, position }
}

/// What goes into the buffer in one append.
#[derive(Debug, Default)]
struct Group {
    entries: Vec<Entry>,
    frames: Vec<FrameInfo>,
    tails: HashMap<StreamKey, Sequence>,
    bytes: usize,
}

impl Group {
    fn push(&mut self, entry: Entry, now_us: i64) {
        let (id, counts) = match &entry {
            Entry::Landed { id, batch, .. } => {
                self.bytes += batch.payload.len();
                (id.clone(), counts_of(batch))
            }
            Entry::Skip { key, from, rows, .. } => {
                let id = BatchId { key: key.clone(), sequence: *from };
                (id, RowCounts { rows_skipped: *rows, ..RowCounts::default() })
            }
            Entry::Own { .. } => return,
        };
        self.frames.push(FrameInfo { id, counts: RowCounts { landed_us: now_us, ..counts } });
        self.entries.push(entry);
    }
}

/// How far partitions were read, as the buffer has it.
fn written_down(buffer: &Buffer) -> BTreeMap<i32, i64> {
    let positions = buffer.positions().into_iter().filter(|position| position.kind == SourceKind::Kafka);
    let of_partition = positions.filter_map(|position| {
        let partition = position.key.strip_prefix(POSITION)?.parse().ok()?;
        Some((partition, i64::try_from(position.offset).ok()?))
    });
    of_partition.collect()
}
