//! How far sources were read, by the batches that came from them.
//!
//! Batches of one source may go to several streams, and streams of another node land interleaved: what lands last is not
//! always what was read last. So a position of another node only replaces one that is not newer.

use std::cmp::Reverse;
use std::collections::HashMap;

use aap_types::{Epoch, NodeId, SourceKind, SourcePosition};

use crate::format::PositionState;

/// Most positions of a kind that are remembered: they stand in memory and in every checkpoint. The oldest go first.
const KEPT_PER_KIND: usize = 100_000;
/// Keys of HTTP requests are promised for a day. The agent keeps all of them elsewhere (`http-keys`); here stand the newest of
/// each node: those that it may not have written down yet, many times over.
const HTTP_KEY_KEPT_US: i64 = DAY_US;
const HTTP_KEYS_KEPT: usize = 10_000;
/// Of so many files of a node, the position is kept whatever its age: a file that rests may still be there, and would be
/// read again. Beyond, files that nothing came from for [`FILE_KEPT_US`] are taken for rotated away.
const FILES_KEPT: usize = 1000;
const FILE_KEPT_US: i64 = 30 * DAY_US;
const DAY_US: i64 = 24 * 3600 * 1_000_000;

/// When a position was read, in the order of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadAt {
    pub(crate) epoch: Epoch,
    pub(crate) sealed_us: i64,
}

/// How far a source was read, and with which batch that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPosition {
    /// The node whose source it is.
    pub node: NodeId,
    /// Which life of its store sealed that batch.
    pub epoch: Epoch,
    /// When it was sealed, by the node's clock.
    pub sealed_us: i64,
    /// When it came here.
    pub updated_us: i64,
    /// How far.
    pub position: SourcePosition,
}

#[derive(Debug)]
struct Known {
    updated_us: i64,
    read_at: ReadAt,
    position: SourcePosition,
}

type Key = (NodeId, SourceKind, String);

/// The newest position of every source.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    known: HashMap<Key, Known>,
}

impl Positions {
    /// Takes a position of this store's own node: what is committed later was read later.
    pub(crate) fn set_own(
        &mut self,
        node: &NodeId,
        updated_us: i64,
        read_at: ReadAt,
        position: SourcePosition,
    ) {
        let key = (node.clone(), position.kind, position.key.clone());
        self.known.insert(key, Known { updated_us, read_at, position });
    }

    /// Takes a landed position, unless it is older than what is known: by its epoch; within one, if both the offset and
    /// the time of sealing are lower, because either alone may fall back: a file is truncated, a clock is set.
    pub(crate) fn set_landed(
        &mut self,
        node: &NodeId,
        updated_us: i64,
        read_at: ReadAt,
        position: SourcePosition,
    ) {
        let key = (node.clone(), position.kind, position.key.clone());
        let is_newer = |known: &Known| {
            known.read_at.epoch > read_at.epoch
                || (known.read_at.epoch == read_at.epoch
                    && known.position.offset > position.offset
                    && known.read_at.sealed_us > read_at.sealed_us)
        };
        if !self.known.get(&key).is_some_and(is_newer) {
            self.known.insert(key, Known { updated_us, read_at, position });
        }
    }

    pub(crate) fn get(&self, node: &NodeId, kind: SourceKind, key: &str) -> Option<&SourcePosition> {
        let key = (node.clone(), kind, key.to_owned());
        self.known.get(&key).map(|known| &known.position)
    }

    pub(crate) fn of_node<'a>(&'a self, node: &'a NodeId) -> impl Iterator<Item = &'a SourcePosition> {
        let of_node = self.known.iter().filter(move |((of, ..), _)| of == node);
        of_node.map(|(_, known)| &known.position)
    }

    /// The same, with when each was read.
    pub(crate) fn read_of_node<'a>(&'a self, node: &'a NodeId) -> impl Iterator<Item = ReadPosition> + 'a {
        let of_node = self.known.iter().filter(move |((of, ..), _)| of == node);
        of_node.map(|((node, ..), known)| ReadPosition {
            node: node.clone(),
            epoch: known.read_at.epoch,
            sealed_us: known.read_at.sealed_us,
            updated_us: known.updated_us,
            position: known.position.clone(),
        })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &SourcePosition> {
        self.known.values().map(|known| &known.position)
    }

    /// Forgets what is too old or too many.
    pub(crate) fn prune(&mut self, now_us: i64) {
        let age_us = |known: &Known| now_us.saturating_sub(known.updated_us);
        self.known
            .retain(|(_, kind, _), known| *kind != SourceKind::HttpKey || age_us(known) < HTTP_KEY_KEPT_US);
        let mut times: HashMap<SourceKind, Vec<i64>> = HashMap::new();
        let mut of_files: HashMap<NodeId, Vec<i64>> = HashMap::new();
        let mut of_keys: HashMap<NodeId, Vec<i64>> = HashMap::new();
        for ((node, kind, _), known) in &self.known {
            times.entry(*kind).or_default().push(known.updated_us);
            match kind {
                SourceKind::File => of_files.entry(node.clone()).or_default().push(known.updated_us),
                SourceKind::HttpKey => of_keys.entry(node.clone()).or_default().push(known.updated_us),
                SourceKind::Ingest | SourceKind::Kafka | SourceKind::Table => {}
            }
        }
        let by_kind: HashMap<_, _> = times
            .into_iter()
            .filter_map(|(kind, times)| Some((kind, nth_newest(times, KEPT_PER_KIND)?)))
            .collect();
        let oldest = |times: HashMap<NodeId, Vec<i64>>, kept| -> HashMap<NodeId, i64> {
            let of_node = |(node, times)| Some((node, nth_newest(times, kept)?));
            times.into_iter().filter_map(of_node).collect()
        };
        let (by_node, keys) = (oldest(of_files, FILES_KEPT), oldest(of_keys, HTTP_KEYS_KEPT));
        if by_kind.is_empty() && by_node.is_empty() && keys.is_empty() {
            return;
        }
        self.known.retain(|(node, kind, _), known| {
            let is_beyond = |oldest: Option<&i64>| oldest.is_some_and(|oldest| known.updated_us < *oldest);
            let is_rotated = *kind == SourceKind::File
                && is_beyond(by_node.get(node))
                && now_us.saturating_sub(known.updated_us) >= FILE_KEPT_US;
            let is_old_key = *kind == SourceKind::HttpKey && is_beyond(keys.get(node));
            !is_beyond(by_kind.get(kind)) && !is_rotated && !is_old_key
        });
    }

    /// For a checkpoint, in a fixed order.
    pub(crate) fn state(&self) -> Vec<PositionState> {
        let mut states: Vec<PositionState> = self
            .known
            .iter()
            .map(|((node, ..), known)| PositionState {
                node: node.clone(),
                updated_us: known.updated_us,
                read_at: known.read_at,
                position: known.position.clone(),
            })
            .collect();
        states.sort_by(|a, b| {
            (&a.node, a.position.kind, &a.position.key).cmp(&(&b.node, b.position.kind, &b.position.key))
        });
        states
    }
}

/// The time of the `kept`-th newest; `None` if there are no more than that.
fn nth_newest(mut times: Vec<i64>, kept: usize) -> Option<i64> {
    if times.len() <= kept {
        return None;
    }
    let (_, nth, _) = times.select_nth_unstable_by_key(kept - 1, |time| Reverse(*time));
    Some(*nth)
}
