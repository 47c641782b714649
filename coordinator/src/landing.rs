//! Where data of nodes becomes durable: the ledger decides, the buffer stores, and only then the node hears of it.
//!
//! Embedded, the buffer is the ledger, and a node has a turn of its own. In a cluster a group is durable in the topic, the buffer
//! is the view of it, and the turn is that of the node's shard.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aap_buffer::{Buffer, EncodedBatch, Encoder, Entry, FrameSchema, mutant};
use aap_lake::{FrameInfo, Waiting};
use aap_runtime::{Clock, failpoint};
use aap_store::RowCounts;
use aap_types::{BatchId, Digest, NodeId, Sequence, SourcePosition, StreamKey, StreamName};
use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};
use tokio::task::spawn_blocking;

use crate::arrival::Arrival;
use crate::cluster::{LEADERS_SHARD, Place, ShardTurn, Shards, sealer, shard_of};
use crate::daemon::OWN_NODE;
use crate::ledger::{Decision, decide};

/// Why data could not land.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The landing buffer refused.
    #[error("append to the landing buffer")]
    Buffer(#[from] aap_buffer::Error),
    /// A worker thread panicked: a bug of ours.
    #[error("a worker panicked")]
    Worker(#[from] tokio::task::JoinError),
    /// Dead letters could not be written.
    #[error("write dead letters")]
    DeadLetters(#[from] arrow_schema::ArrowError),
    /// The landing topic refused.
    #[error("append to the landing topic")]
    Topic(#[from] aap_sinks::Failure),
    /// The leases cannot be asked.
    #[error("ask for the lease of a shard")]
    Lease(#[from] aap_store::Error),
    /// The node's shard is not this coordinator's.
    #[error("{0}")]
    Shard(String),
}

/// What became of an arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything of the key up to here is durable.
    Durable {
        /// Which stream.
        key: StreamKey,
        /// Up to here.
        through: Sequence,
    },
    /// Another batch has this identity.
    Forked {
        /// The identity.
        id: BatchId,
    },
    /// Batches before it are missing.
    Gap {
        /// Which stream.
        key: StreamKey,
        /// What must come next.
        expected: Sequence,
    },
}

/// What has landed since the start, in numbers.
#[derive(Debug, Default)]
pub struct Counters {
    /// Batches appended.
    pub batches: AtomicU64,
    /// Rows appended.
    pub rows: AtomicU64,
    /// Batches that stood in the ledger already.
    pub duplicates: AtomicU64,
    /// Of these, without a digest to compare.
    pub duplicates_unverified: AtomicU64,
    /// Batches refused because another one has their identity.
    pub forks: AtomicU64,
    /// Batches that became dead letters.
    pub poison: AtomicU64,
    /// Rows that nodes gave up.
    pub rows_skipped: AtomicU64,
}

/// The ledger and its numbers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Landing {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    buffer: Buffer,
    /// In a cluster: where groups become durable. What is in the buffer came from there.
    shards: Option<Shards>,
    landed: Landed,
    clock: Arc<dyn Clock>,
    /// One turn at a time per node: two sessions of a node may overlap while the older one ends.
    turns: Mutex<HashMap<NodeId, Arc<tokio::sync::Mutex<()>>>>,
}

/// What is told of frames that are in the buffer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Landed {
    waiting: Waiting,
    inner: Arc<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    rows: Mutex<HashMap<(NodeId, StreamName), u64>>,
    counters: Counters,
}

impl Landed {
    /// Nothing yet; `waiting` is told what comes.
    pub fn new(waiting: Waiting) -> Self {
        Self { waiting, inner: Arc::default() }
    }

    /// Notes frames that are durable.
    pub(crate) fn note(&self, frames: Vec<FrameInfo>) {
        let counters = &self.inner.counters;
        let mut landed = self.inner.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for FrameInfo { id, counts } in &frames {
            *landed.entry((id.key.node.clone(), id.key.stream.clone())).or_default() += counts.rows;
            counters.rows.fetch_add(counts.rows, Ordering::Relaxed);
            counters.batches.fetch_add(counts.batches, Ordering::Relaxed);
        }
        drop(landed);
        self.waiting.landed(frames);
    }
}

/// The right to add to the ledger what a node sends.
#[derive(Debug)]
enum Turn {
    /// To the buffer; what the coordinator reads itself needs no turn there.
    Buffer {
        _turn: Option<tokio::sync::OwnedMutexGuard<()>>,
    },
    Shard(Box<ShardTurn>),
}

impl Landing {
    /// A landing in `buffer`; `landed` is told what is durable.
    pub fn new(buffer: Buffer, landed: Landed, clock: Arc<dyn Clock>) -> Self {
        let (turns, shards) = Default::default();
        Self { inner: Arc::new(Inner { buffer, shards, landed, clock, turns }) }
    }

    /// A landing in the topic of a cluster, whose view `buffer` is.
    pub(crate) fn in_cluster(buffer: Buffer, shards: Shards, landed: Landed, clock: Arc<dyn Clock>) -> Self {
        let (turns, shards) = (Mutex::default(), Some(shards));
        Self { inner: Arc::new(Inner { buffer, shards, landed, clock, turns }) }
    }

    /// The shards, in a cluster.
    pub(crate) fn shards(&self) -> Option<&Shards> {
        self.inner.shards.as_ref()
    }

    /// Whether a node still belongs here; otherwise what is known of it may be old.
    pub(crate) fn is_ours(&self, node: &NodeId) -> bool {
        self.inner.shards.as_ref().is_none_or(|shards| shards.has(shard_of(node)))
    }

    /// Up to where a stream is in the ledger: in the buffer, or only in the lake any more.
    pub(crate) fn through(&self, key: &StreamKey) -> Sequence {
        let tail = self.inner.buffer.tail(key).map_or(Sequence::ZERO, |tail| tail.sequence);
        let cut = self.inner.shards.as_ref().map_or(Sequence::ZERO, |shards| shards.view().cut(key));
        tail.max(cut)
    }

    /// Where a node belongs: here, unless its shard is another coordinator's.
    pub(crate) async fn place(&self, node: &NodeId) -> Result<Place, Error> {
        match &self.inner.shards {
            None => Ok(Place::Here { lost: aap_runtime::Shutdown::default() }),
            Some(shards) => shards.place(node).await,
        }
    }

    /// The buffer.
    pub fn buffer(&self) -> &Buffer {
        &self.inner.buffer
    }

    /// Numbers since the start.
    pub fn counters(&self) -> &Counters {
        &self.inner.landed.inner.counters
    }

    /// Rows landed since the start, by node and stream.
    pub fn rows_landed(&self) -> HashMap<(NodeId, StreamName), u64> {
        self.inner.landed.inner.rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the ledger of `node` ends, after everything under way has landed.
    pub async fn tails(&self, node: &NodeId) -> Result<Vec<(StreamKey, Sequence)>, Error> {
        let _turn = self.turn(node).await?;
        Ok(self.inner.buffer.tails().into_iter().filter(|(key, _)| key.node == *node).collect())
    }

    /// How far the coordinator's own sources were read.
    pub(crate) async fn own_positions(&self) -> Result<Vec<SourcePosition>, Error> {
        match &self.inner.shards {
            None => Ok(self.inner.buffer.positions()),
            Some(shards) => {
                let _turn = shards.turn(LEADERS_SHARD).await?;
                // What was read before the platform became a cluster, and over it what was read since.
                let mut newest = HashMap::new();
                for node in [OWN_NODE.parse().ok(), Some(sealer(LEADERS_SHARD))].into_iter().flatten() {
                    for position in shards.positions_of(&node).await? {
                        newest.insert((position.kind, position.key.clone()), position);
                    }
                }
                Ok(newest.into_values().collect())
            }
        }
    }

    /// How far the sources of a node were read.
    pub(crate) async fn positions_of(&self, node: &NodeId) -> Result<Vec<SourcePosition>, Error> {
        match &self.inner.shards {
            None => Ok(self.inner.buffer.positions_of(node)),
            Some(shards) => shards.positions_of(node).await,
        }
    }

    /// Lands `arrivals` of `node`, in order, in one group: all of them or, on an error, none. When it returns, they are
    /// durable.
    pub async fn land(&self, node: &NodeId, arrivals: Vec<Arrival>) -> Result<Vec<Outcome>, Error> {
        let mut turn = self.turn(node).await?;
        let mut plan = Plan::default();
        for arrival in arrivals {
            self.plan(&mut plan, arrival).await?;
        }
        let Plan { entries, mut frames, dead_letters, outcomes, .. } = plan;
        if !entries.is_empty() {
            let ids = self.append(&mut turn, entries).await?;
            let dead = dead_letters.into_iter().filter_map(|(place, counts)| Some((ids.get(place)?, counts)));
            frames.extend(dead.map(|(id, counts)| self.info(id, counts)));
            self.note(frames);
        }
        Ok(outcomes)
    }

    async fn append(&self, turn: &mut Turn, entries: Vec<Entry>) -> Result<Vec<BatchId>, Error> {
        failpoint::hit("landing.before_commit");
        let ids = match turn {
            Turn::Buffer { .. } => self.inner.buffer.append(entries).await?,
            Turn::Shard(turn) => turn.append(entries).await?,
        };
        failpoint::hit("landing.after_commit_before_ack");
        Ok(ids)
    }

    /// Notes frames that are in the buffer; in a cluster the view does it, when they are.
    fn note(&self, frames: Vec<FrameInfo>) {
        if self.inner.shards.is_none() {
            self.inner.landed.note(frames);
        }
    }

    /// Lands what the coordinator itself has read, with how far its source was read, in one group: all or nothing. When it
    /// returns, they are durable.
    pub(crate) async fn land_own(
        &self,
        batches: Vec<(StreamName, EncodedBatch)>,
        positions: Vec<SourcePosition>,
    ) -> Result<(), Error> {
        let counts: Vec<RowCounts> = batches.iter().map(|(_, batch)| counts_of(batch)).collect();
        let last = batches.len().saturating_sub(1);
        let entries = batches.into_iter().enumerate().map(|(at, (stream, batch))| {
            // In one group it does not matter which of them carries the positions.
            let positions = if at == last { positions.clone() } else { vec![] };
            Entry::Own { stream, batch, positions }
        });
        let mut turn = match &self.inner.shards {
            None => Turn::Buffer { _turn: None },
            Some(shards) => Turn::Shard(Box::new(shards.turn(LEADERS_SHARD).await?)),
        };
        let ids = self.append(&mut turn, entries.collect()).await?;
        self.note(ids.iter().zip(counts).map(|(id, counts)| self.info(id, counts)).collect());
        Ok(())
    }

    async fn plan(&self, plan: &mut Plan, arrival: Arrival) -> Result<(), Error> {
        let key = arrival.key().clone();
        if plan.forked.contains(&key) {
            plan.outcomes.push(Outcome::Forked { id: BatchId { key, sequence: arrival.sequence() } });
            return Ok(());
        }
        let tail = self.tail(plan, &key);
        match arrival {
            Arrival::Batch { id, positions, sealed_us, batch, .. }
                if mutant::is("nodedupe") && id.sequence <= tail =>
            {
                plan.outcomes.push(Outcome::Durable { key: key.clone(), through: id.sequence });
                // Under the next number, or the buffer would not take it.
                let id = BatchId { key: key.clone(), sequence: tail.next() };
                let digest = Digest::of(&id, &positions, &batch.payload);
                plan.frames.push(self.info(&id, counts_of(&batch)));
                plan.took(key, id.sequence);
                plan.entries.push(Entry::Landed { id, digest, positions, sealed_us, batch });
            }
            Arrival::Batch { id, digest, positions, sealed_us, batch } => {
                let decision = if id.sequence <= tail {
                    self.decide_old(tail, &id, digest).await?
                } else {
                    decide(tail, id.sequence, &digest, || None)
                };
                if plan.settle(decision, &id, tail, self.counters()) {
                    plan.frames.push(self.info(&id, counts_of(&batch)));
                    plan.took(key, id.sequence);
                    plan.entries.push(Entry::Landed { id, digest, positions, sealed_us, batch });
                }
            }
            Arrival::Poison { id, rows, reason, payload } => {
                let decision = decide(tail, id.sequence, &Digest([0; 32]), || None);
                if plan.settle(decision, &id, tail, self.counters()) {
                    tracing::warn!(batch = %id, %reason, "batch goes to dead letters");
                    self.counters().poison.fetch_add(1, Ordering::Relaxed);
                    let stream = id.key.stream.dead_letters();
                    let batch = dead_letter(&id, rows, &reason, &payload, self.inner.clock.unix_us())?;
                    plan.dead_letters.push((plan.entries.len(), counts_of(&batch)));
                    plan.entries.push(Entry::Own { stream, batch, positions: vec![] });
                    self.skip(plan, key, id.sequence, id.sequence, rows, reason);
                }
            }
            Arrival::Skip { key, from, to, rows, reason } => {
                if to <= tail {
                    plan.outcomes.push(Outcome::Durable { key, through: tail });
                } else if from > tail.next() {
                    plan.outcomes.push(Outcome::Gap { key, expected: tail.next() });
                } else {
                    self.skip(plan, key.clone(), tail.next(), to, rows, reason);
                    plan.outcomes.push(Outcome::Durable { key, through: to });
                }
            }
        }
        Ok(())
    }

    fn skip(&self, plan: &mut Plan, key: StreamKey, from: Sequence, to: Sequence, rows: u64, reason: String) {
        self.counters().rows_skipped.fetch_add(rows, Ordering::Relaxed);
        let id = BatchId { key: key.clone(), sequence: from };
        plan.frames.push(self.info(&id, RowCounts { rows_skipped: rows, ..RowCounts::default() }));
        plan.took(key.clone(), to);
        plan.entries.push(Entry::Skip { key, from, to, rows, reason });
    }

    /// A digest may have to be read from disk.
    async fn decide_old(&self, tail: Sequence, id: &BatchId, digest: Digest) -> Result<Decision, Error> {
        let (buffer, id) = (self.inner.buffer.clone(), id.clone());
        let decided = spawn_blocking(move || decide(tail, id.sequence, &digest, || buffer.digest_of(&id)));
        Ok(decided.await?)
    }

    fn tail(&self, plan: &Plan, key: &StreamKey) -> Sequence {
        let queued = plan.tails.get(key).copied();
        queued.unwrap_or_else(|| self.inner.buffer.tail(key).map_or(Sequence::ZERO, |tail| tail.sequence))
    }

    fn info(&self, id: &BatchId, counts: RowCounts) -> FrameInfo {
        FrameInfo { id: id.clone(), counts: RowCounts { landed_us: self.inner.clock.unix_us(), ..counts } }
    }

    async fn turn(&self, node: &NodeId) -> Result<Turn, Error> {
        if let Some(shards) = &self.inner.shards {
            return Ok(Turn::Shard(Box::new(shards.turn(shard_of(node)).await?)));
        }
        let turn = {
            let mut turns = self.inner.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.entry(node.clone()).or_default().clone()
        };
        Ok(Turn::Buffer { _turn: Some(turn.lock_owned().await) })
    }
}

/// One group in the making.
#[derive(Debug, Default)]
struct Plan {
    entries: Vec<Entry>,
    frames: Vec<FrameInfo>,
    /// Entries that get their identity from the buffer, by place.
    dead_letters: Vec<(usize, RowCounts)>,
    outcomes: Vec<Outcome>,
    /// Where the ledger will end with this group.
    tails: HashMap<StreamKey, Sequence>,
    /// Streams of which a batch was refused as another one: what follows it has that other history, too.
    forked: HashSet<StreamKey>,
}

impl Plan {
    fn took(&mut self, key: StreamKey, through: Sequence) {
        self.tails.insert(key, through);
    }

    /// Notes the outcome; whether the batch is to be appended.
    fn settle(&mut self, decision: Decision, id: &BatchId, tail: Sequence, counters: &Counters) -> bool {
        let key = id.key.clone();
        self.outcomes.push(match decision {
            Decision::Append => Outcome::Durable { key, through: id.sequence },
            Decision::Gap { expected } => Outcome::Gap { key, expected },
            Decision::Forked => {
                counters.forks.fetch_add(1, Ordering::Relaxed);
                self.forked.insert(key);
                Outcome::Forked { id: id.clone() }
            }
            Decision::Duplicate | Decision::DuplicateUnverified => {
                counters.duplicates.fetch_add(1, Ordering::Relaxed);
                if decision == Decision::DuplicateUnverified {
                    counters.duplicates_unverified.fetch_add(1, Ordering::Relaxed);
                }
                Outcome::Durable { key, through: tail }
            }
        });
        decision == Decision::Append
    }
}

pub(crate) fn counts_of(batch: &EncodedBatch) -> RowCounts {
    RowCounts {
        rows: u64::from(batch.rows),
        batches: 1,
        bytes: batch.payload.len() as u64,
        raw_bytes: batch.raw_bytes,
        newest_us: batch.ts_max_us,
        ..RowCounts::default()
    }
}

/// A batch that was refused, as one row of its stream's dead letters.
fn dead_letter(
    id: &BatchId,
    rows: u64,
    reason: &str,
    payload: &[u8],
    now_us: i64,
) -> Result<EncodedBatch, Error> {
    let text = |value: String| Arc::new(StringArray::from(vec![value])) as ArrayRef;
    let number = |value: u64| Arc::new(UInt64Array::from(vec![value])) as ArrayRef;
    let row = RecordBatch::try_from_iter([
        ("ts", Arc::new(TimestampMicrosecondArray::from(vec![now_us]).with_timezone("UTC")) as ArrayRef),
        ("reason", text(reason.to_owned())),
        ("node", text(id.key.node.to_string())),
        ("stream", text(id.key.stream.to_string())),
        ("epoch", number(id.key.epoch.0)),
        ("sequence", number(id.sequence.0)),
        ("rows", number(rows)),
        ("payload", Arc::new(BinaryArray::from(vec![payload])) as ArrayRef),
    ])?;
    let schema = FrameSchema::of(row.schema());
    Ok(Encoder::new().encode(&row, &schema, payload.len() as u64)?)
}
