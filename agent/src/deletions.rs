//! Which batches of this node were deleted at the coordinator: what a run of `aap ingest` stored in them may be taken again.
//!
//! The coordinator remembers its deletions and tells them in every welcome, and at once where a session is open. Here they are
//! only known in memory, and asked when a run opens: nothing has to be written while the buffer may be full, and a run that is
//! under way is not disturbed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aap_proto::v1::StreamTail;
use aap_types::{Epoch, Sequence, StreamName};
use serde::{Deserialize, Serialize};

/// Where a stream of this store ended at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoodAt {
    /// The epoch that was being written.
    pub epoch: Epoch,
    /// Its newest batch of the stream.
    pub sequence: Sequence,
}

/// What was deleted, by epoch and stream: everything up to a sequence.
#[derive(Debug, Default)]
pub struct Deletions(Mutex<BTreeMap<(StreamName, Epoch), Sequence>>);

impl Deletions {
    /// Takes what the coordinator tells. It may tell the same again.
    pub fn tell(&self, deleted: &[StreamTail]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for tail in deleted {
            let Ok(stream) = tail.stream.parse() else { continue };
            let through = known.entry((stream, Epoch(tail.epoch))).or_default();
            *through = (*through).max(Sequence(tail.sequence));
        }
    }

    /// Whether the rows of a run are deleted whose last batch was made when `stream` stood there. `None`: a run of a version
    /// that did not note it; any deletion of its stream came later, because that version's coordinator did not keep them.
    pub fn cover(&self, stream: &StreamName, stood_at: Option<StoodAt>) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match stood_at {
            Some(at) => known.get(&(stream.clone(), at.epoch)).is_some_and(|through| at.sequence < *through),
            None => known.keys().any(|(deleted, _)| deleted == stream),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_covers_what_was_stored_before_it_and_nothing_after() {
        let stream: StreamName = "events".parse().unwrap();
        let other: StreamName = "other".parse().unwrap();
        let at = |epoch, sequence| Some(StoodAt { epoch: Epoch(epoch), sequence: Sequence(sequence) });
        let tail = |epoch, sequence| StreamTail {
            epoch,
            stream: "events".into(),
            sequence,
            ..StreamTail::default()
        };
        let deletions = Deletions::default();
        assert!(!deletions.cover(&stream, at(1, 0)) && !deletions.cover(&stream, None));
        deletions.tell(&[tail(1, 5), tail(2, 3)]);
        // Told again, also in an older form, it says the same.
        deletions.tell(&[tail(1, 4)]);
        for (stood_at, covered) in
            [(at(1, 0), true), (at(1, 4), true), (at(1, 5), false), (at(2, 2), true), (at(3, 0), false)]
        {
            assert_eq!(deletions.cover(&stream, stood_at), covered, "{stood_at:?}");
        }
        assert!(deletions.cover(&stream, None));
        assert!(!deletions.cover(&other, at(1, 0)) && !deletions.cover(&other, None));
    }
}
