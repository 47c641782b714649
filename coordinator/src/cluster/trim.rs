//! What may go from the landing topic: records of which every view can do without, because what they hold is in the lake or was
//! deleted.
//!
//! ```text
//!  view ──note──▶ sections of each partition: where it ends, and how far it goes of each stream
//!  leader: sections whose streams are all cut behind them ─▶ positions into the metadata store ─▶ records before them deleted
//! ```
//! A view that was away meanwhile takes from the catalogue where streams end, and from the metadata store how far sources were read.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aap_types::{NodeId, Sequence, StreamKey};

/// Bytes of a section: what is kept longer than it must be, of each partition.
const SECTION_BYTES: usize = 8 << 20;

/// A part of a partition.
#[derive(Debug, Default)]
struct Section {
    /// The offset after it.
    next: i64,
    bytes: usize,
    tails: HashMap<StreamKey, Sequence>,
}

/// What the view holds of each partition. The sections of a start begin with one for everything that was there before.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    known: Mutex<BTreeMap<i32, VecDeque<Section>>>,
}

/// What can be deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Of each partition, everything before this offset.
    pub(crate) before: BTreeMap<i32, i64>,
    /// Whose batches these records are.
    pub(crate) nodes: Vec<NodeId>,
}

impl Sections {
    /// Notes what came of a partition.
    pub(crate) fn note<'a>(
        &self,
        partition: i32,
        next: i64,
        bytes: usize,
        tails: impl IntoIterator<Item = (&'a StreamKey, &'a Sequence)>,
    ) {
        let mut known = self.known();
        let sections = known.entry(partition).or_default();
        if sections.back().is_none_or(|last| last.bytes >= SECTION_BYTES) {
            sections.push_back(Section::default());
        }
        let Some(last) = sections.back_mut() else { return };
        last.next = next;
        last.bytes += bytes;
        last.tails.extend(tails.into_iter().map(|(key, tail)| (key.clone(), *tail)));
    }

    /// The first sections of each partition of which everything is behind `cut`, without the one that still grows.
    pub(crate) fn passed(&self, cut: impl Fn(&StreamKey) -> Sequence) -> Passed {
        let mut passed = Passed::default();
        for (partition, sections) in self.known().iter() {
            let is_done = |section: &&Section| section.tails.iter().all(|(key, tail)| *tail <= cut(key));
            for section in sections.iter().take_while(is_done) {
                passed.before.insert(*partition, section.next);
                passed.nodes.extend(section.tails.keys().map(|key| key.node.clone()));
            }
        }
        passed.nodes.sort();
        passed.nodes.dedup();
        passed
    }

    /// Forgets what was deleted.
    pub(crate) fn forget(&self, before: &BTreeMap<i32, i64>) {
        for (partition, sections) in self.known().iter_mut() {
            let until = before.get(partition).copied().unwrap_or(0);
            while sections.front().is_some_and(|first| first.next <= until) {
                sections.pop_front();
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<i32, VecDeque<Section>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use aap_types::Epoch;

    use super::*;

    fn key(node: &str) -> StreamKey {
        StreamKey { node: node.parse().unwrap(), epoch: Epoch(1), stream: "logs".parse().unwrap() }
    }

    #[test]
    fn only_what_is_cut_of_every_stream_goes_and_the_order_of_a_partition_holds() {
        let sections = Sections::default();
        let note = |next, node: &str, tail| {
            sections.note(3, next, SECTION_BYTES, [(&key(node), &Sequence(tail))]);
        };
        note(10, "a", 5);
        note(20, "b", 7);
        note(30, "a", 9);
        let passed = |a: u64, b: u64| {
            sections
                .passed(|of| Sequence(if of.node.as_str() == "a" { a } else { b }))
                .before
                .get(&3)
                .copied()
        };
        assert_eq!(passed(4, 7), None);
        assert_eq!(passed(5, 0), Some(10));
        assert_eq!(passed(9, 6), Some(10), "what waits holds what comes after it");
        assert_eq!(passed(9, 7), Some(30));
        let all = sections.passed(|_| Sequence(9));
        assert_eq!(all.nodes, ["a".parse().unwrap(), "b".parse().unwrap()]);
        sections.forget(&[(3, 20)].into());
        assert_eq!(passed(0, 7), None);
        assert_eq!(passed(9, 0), Some(30));
    }
}
