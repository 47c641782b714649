//! Shards: which nodes land where, who owns which, and adding to those that are ours.
//!
//! ```text
//!  hello of a node ─▶ shard ─▶ lease ──theirs──▶ REDIRECT
//!                               └─ours─▶ transactional id (fences who was before) ─▶ mark ─▶ view has the mark ─▶ welcome
//!  group of a node ─▶ shard's turn ─▶ view has the group before it ─▶ decide ─▶ one transaction ─▶ acknowledge
//! ```
//! A shard's ledger is the view of its partition, and it is read only when it holds everything that was committed: after the
//! mark at first, after the group before from then on. So a decision needs no other memory than that of the buffer, and a view
//! that cannot keep up holds the nodes of its shards back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_buffer::{Buffer, Entry};
use aap_kafka::{LandingSpec, SHARDS, ShardWriter};
use aap_runtime::{Clock, Shutdown};
use aap_store::{ClusterStore, LandedPosition};
use aap_types::{BatchId, Digest, Epoch, NodeId, Sequence, SourceKind, SourcePosition, StreamKey};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;
use tracing::{info, warn};

use super::leases::{Hold, Leases, Taken};
use super::record;
use super::view::{View, landed_position};
use crate::landing::Error;

/// The shard of what the leader itself reads: no node is in it.
pub(crate) const LEADERS_SHARD: i32 = SHARDS - 1;
/// How long a view may take to reach a mark: it has to read what landed while it was away.
const REACH_MARK: Duration = Duration::from_secs(60);
/// The life under which shards seal batches of their own: their tails stand in the topic, which is never rolled back.
const OWN_EPOCH: Epoch = Epoch(1);

/// Where a node belongs.
#[derive(Debug)]
pub(crate) enum Place {
    /// Here, until `lost`.
    Here { lost: Shutdown },
    /// At another coordinator, which agents find here.
    Elsewhere(String),
}

/// All shards. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shards {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: LandingSpec,
    /// The cluster's name, and this coordinator's.
    cluster: String,
    coordinator: String,
    leases: Leases,
    view: View,
    buffer: Buffer,
    store: Arc<dyn ClusterStore>,
    clock: Arc<dyn Clock>,
    owned: Mutex<HashMap<i32, Shard>>,
    /// One taking over of a shard at a time.
    turns: Vec<tokio::sync::Mutex<()>>,
}

/// A shard that is ours.
#[derive(Debug, Clone)]
struct Shard {
    number: i32,
    hold: Hold,
    writing: Arc<tokio::sync::Mutex<Writing>>,
}

#[derive(Debug)]
struct Writing {
    writer: ShardWriter,
    /// The offset after the last record that was committed: the view must have it before anything is decided.
    next: i64,
    /// An append was begun, and how it ended is not known: nothing may follow.
    in_doubt: bool,
}

/// The right to add to a shard, while no other task has it, with everything before it in the view.
#[derive(Debug)]
pub(crate) struct ShardTurn {
    shards: Shards,
    shard: Shard,
    writing: OwnedMutexGuard<Writing>,
}

/// The shard of a node. It must never change: FNV-1a over the name, by the number of shards that nodes have.
pub(crate) fn shard_of(node: &NodeId) -> i32 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let hash = node.as_str().bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    // The low bits of FNV of short names are those of their last letters.
    let mixed = (hash ^ (hash >> 32)) % u64::from(LEADERS_SHARD.unsigned_abs());
    i32::try_from(mixed).unwrap_or(0)
}

/// Under which name a shard seals batches of its own: dead letters, and what sources read. No host has a name like this.
pub(crate) fn sealer(shard: i32) -> NodeId {
    format!("aap_shard_{shard}").parse().unwrap_or_else(|_| NodeId::from_host_name("aap"))
}

/// Whether a node is none, but the name of a shard.
pub(crate) fn is_sealer(node: &NodeId) -> bool {
    node.as_str().starts_with("aap_shard_")
}

/// Whether what a node sealed lands in a shard.
pub(crate) fn is_of(node: &NodeId, shard: i32) -> bool {
    *node == sealer(shard) || (!is_sealer(node) && shard_of(node) == shard)
}

/// The lease of a shard.
pub(crate) fn lease_of(shard: i32) -> String {
    format!("shard/{shard:02}")
}

impl Shards {
    /// None is owned yet.
    pub(crate) fn new(
        (spec, cluster, coordinator): (LandingSpec, String, String),
        leases: Leases,
        view: View,
        (buffer, store): (Buffer, Arc<dyn ClusterStore>),
        clock: Arc<dyn Clock>,
    ) -> Self {
        let turns = (0..SHARDS).map(|_| tokio::sync::Mutex::default()).collect();
        let owned = Mutex::default();
        let inner = Inner { spec, cluster, coordinator, leases, view, buffer, store, clock, owned, turns };
        Self { inner: Arc::new(inner) }
    }

    /// The view of all shards.
    pub(crate) fn view(&self) -> &View {
        &self.inner.view
    }

    /// What is wrong with this coordinator's place in the cluster, a line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let leases = self.inner.leases.problem().map(|problem| format!("leases: {problem}"));
        leases.into_iter().chain(self.inner.view.problem()).collect()
    }

    /// Whether a shard is ours.
    pub(crate) fn has(&self, number: i32) -> bool {
        self.owned().get(&number).is_some_and(|shard| !shard.hold.lost.is_requested())
    }

    /// How far the sources of a node were read: as the view has it, and where its records are gone, as the metadata store has it.
    pub(crate) async fn positions_of(&self, node: &NodeId) -> Result<Vec<SourcePosition>, Error> {
        let store = self.inner.store.clone();
        let kept = tokio::task::spawn_blocking(move || store.positions()).await??;
        let mut newest: HashMap<(SourceKind, String), LandedPosition> = HashMap::new();
        let seen = self.inner.buffer.landed_positions_of(node).into_iter().map(landed_position);
        // A view that was away for long may have missed what was written down, and what it saw since was not written down yet.
        for landed in kept.into_iter().filter(|kept| kept.node == *node).chain(seen) {
            let key = (landed.position.kind, landed.position.key.clone());
            let known = newest.entry(key).or_insert_with(|| landed.clone());
            if !known.is_newer_than(&landed) {
                *known = landed;
            }
        }
        Ok(newest.into_values().map(|landed| landed.position).collect())
    }

    /// Where a node belongs: a shard that nobody has becomes ours.
    pub(crate) async fn place(&self, node: &NodeId) -> Result<Place, Error> {
        self.own(shard_of(node)).await
    }

    /// Takes a shard over, unless somebody else has it.
    pub(crate) async fn own(&self, number: i32) -> Result<Place, Error> {
        let turn = usize::try_from(number).ok().and_then(|number| self.inner.turns.get(number));
        let Some(turn) = turn else { return Err(Error::Shard(format!("there is no shard {number}"))) };
        let _turn = turn.lock().await;
        if let Some(shard) = self.owned().get(&number).filter(|shard| !shard.hold.lost.is_requested()) {
            return Ok(Place::Here { lost: shard.hold.lost.clone() });
        }
        self.owned().remove(&number);
        let name = lease_of(number);
        let hold = match self.inner.leases.take_from_gone(&name).await? {
            Taken::Theirs(lease) => return Ok(Place::Elsewhere(super::agents_address(&lease.detail))),
            Taken::Ours(hold) => hold,
        };
        match self.take_over(number, &hold).await {
            Ok(writing) => {
                let (writing, lost) = (Arc::new(tokio::sync::Mutex::new(writing)), hold.lost.clone());
                self.owned().insert(number, Shard { number, hold, writing });
                Ok(Place::Here { lost })
            }
            Err(error) => {
                // Somebody else may have more luck.
                self.inner.leases.give_up(&name, &hold).await;
                Err(error)
            }
        }
    }

    async fn take_over(&self, number: i32, hold: &Hold) -> Result<Writing, Error> {
        let Inner { spec, cluster, coordinator, view, clock, .. } = &*self.inner;
        let began = clock.monotonic();
        let mark = record::mark(cluster, coordinator, hold.token);
        let (writer, next) = ShardWriter::take_over(spec, number, mark).await?;
        let committed = clock.monotonic();
        tokio::select! {
            reached = timeout(REACH_MARK, view.reached(number, next)) => {
                reached.map_err(|_| Error::Shard(format!(
                    "the view did not reach the end of shard {number} within {} s", REACH_MARK.as_secs()
                )))?;
            }
            () = hold.lost.requested() => return Err(Error::Shard(format!("shard {number} was taken again"))),
        }
        view.seed(number).await?;
        info!(
            shard = number,
            token = hold.token,
            fenced_ms = (committed - began).as_millis(),
            reached_ms = (clock.monotonic() - committed).as_millis(),
            "took a shard over"
        );
        Ok(Writing { writer, next, in_doubt: false })
    }

    /// Waits for the turn of a shard that is ours, and until the view has everything of it.
    pub(crate) async fn turn(&self, number: i32) -> Result<ShardTurn, Error> {
        let shard = self.owned().get(&number).cloned();
        let gone = || Error::Shard(format!("shard {number} belongs to another coordinator now"));
        let shard = shard.ok_or_else(gone)?;
        let writing = shard.writing.clone().lock_owned().await;
        if writing.in_doubt {
            self.lose(&shard);
        }
        tokio::select! {
            biased;
            () = shard.hold.lost.requested() => return Err(gone()),
            () = self.inner.view.reached(number, writing.next) => {}
        }
        Ok(ShardTurn { shards: self.clone(), shard, writing })
    }

    /// Gives a shard up after a doubt: whoever takes it over, perhaps this coordinator again, begins with what is committed.
    fn lose(&self, shard: &Shard) {
        if !self.inner.leases.forget(&lease_of(shard.number), &shard.hold) {
            return;
        }
        warn!(shard = shard.number, "a shard is given up, to be taken over anew");
        self.owned().retain(|number, known| *number != shard.number || known.hold.token != shard.hold.token);
    }

    /// Gives a shard up that somebody else is to have.
    pub(crate) async fn give_up(&self, number: i32) {
        let shard = self.owned().remove(&number);
        if let Some(shard) = shard {
            self.inner.leases.give_up(&lease_of(number), &shard.hold).await;
        }
    }

    fn owned(&self) -> MutexGuard<'_, HashMap<i32, Shard>> {
        self.inner.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShardTurn {
    /// Adds all entries in one transaction. When it returns, they are durable, and their identities are those returned. After
    /// an error the shard is not ours any more.
    pub(crate) async fn append(&mut self, entries: Vec<Entry>) -> Result<Vec<BatchId>, Error> {
        let (entries, ids) = self.seal(entries);
        let records: Vec<Vec<u8>> = entries.iter().filter_map(record::encode).collect();
        self.writing.in_doubt = true;
        match self.writing.writer.append(records).await {
            Ok(next) => {
                self.writing.next = next;
                self.writing.in_doubt = false;
                Ok(ids)
            }
            Err(failure) => {
                self.shards.lose(&self.shard);
                Err(failure.into())
            }
        }
    }

    /// Gives batches of the shard's own their identity.
    fn seal(&self, entries: Vec<Entry>) -> (Vec<Entry>, Vec<BatchId>) {
        let now_us = self.shards.inner.clock.unix_us();
        let mut tails: HashMap<StreamKey, Sequence> = HashMap::new();
        let mut ids = Vec::with_capacity(entries.len());
        let sealed = entries.into_iter().map(|entry| {
            let (entry, id) = match entry {
                Entry::Own { stream, batch, positions } => {
                    let key = StreamKey { node: sealer(self.shard.number), epoch: OWN_EPOCH, stream };
                    let stored =
                        || self.shards.inner.buffer.tail(&key).map_or(Sequence::ZERO, |t| t.sequence);
                    let sequence = tails.get(&key).copied().unwrap_or_else(stored).next();
                    tails.insert(key.clone(), sequence);
                    let id = BatchId { key, sequence };
                    let positions = bytes::Bytes::from(SourcePosition::encode_all(&positions));
                    let digest = Digest::of(&id, &positions, &batch.payload);
                    let landed =
                        Entry::Landed { id: id.clone(), digest, positions, sealed_us: now_us, batch };
                    (landed, id)
                }
                Entry::Landed { id, digest, positions, sealed_us, batch } => {
                    let known = id.clone();
                    (Entry::Landed { id, digest, positions, sealed_us, batch }, known)
                }
                Entry::Skip { key, from, to, rows, reason } => {
                    let id = BatchId { key: key.clone(), sequence: from };
                    (Entry::Skip { key, from, to, rows, reason }, id)
                }
            };
            ids.push(id);
            entry
        });
        let sealed: Vec<Entry> = sealed.collect();
        (sealed, ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_of_a_node_never_changes_and_nodes_spread() {
        let node = |name: &str| -> NodeId { name.parse().unwrap() };
        // Computed apart from this code.
        for (name, shard) in [("n1", 62), ("a", 1), ("edge-1", 18), ("web-01.example", 19)] {
            assert_eq!(shard_of(&node(name)), shard, "{name}");
        }
        let mut nodes = vec![0; 64];
        for number in 0..6_300 {
            nodes[shard_of(&node(&format!("edge-{number}"))) as usize] += 1;
        }
        assert_eq!(nodes[63], 0);
        assert!(nodes[..63].iter().all(|count| (50..200).contains(count)), "{nodes:?}");
        assert!(is_sealer(&sealer(7)) && sealer(7) != sealer(8) && !is_sealer(&node("edge-1")));
    }
}
