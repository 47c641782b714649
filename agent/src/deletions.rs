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

/// A batch of a stream of this store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The epoch it was made in.
    pub epoch: Epoch,
    /// Its number there.
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

    /// Whether all rows of a run are deleted whose last batch was `last`. Where that is not known, as of a run that was
    /// broken off, only if everything is deleted of a stream whose newest batch is `newest`: in doubt nothing is, because rows
    /// that are still there must not come twice.
    pub fn cover(&self, stream: &StreamName, last: Option<Place>, newest: Place) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = last.unwrap_or(newest);
        let through = known.get(&(stream.clone(), place.epoch));
        place.sequence > Sequence::ZERO && through.is_some_and(|through| place.sequence <= *through)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_covers_what_was_stored_before_it_and_nothing_after() {
        let stream: StreamName = "events".parse().unwrap();
        let other: StreamName = "other".parse().unwrap();
        let at = |epoch, sequence| Place { epoch: Epoch(epoch), sequence: Sequence(sequence) };
        let tail = |epoch, sequence| StreamTail {
            epoch,
            stream: "events".into(),
            sequence,
            ..StreamTail::default()
        };
        let deletions = Deletions::default();
        assert!(
            !deletions.cover(&stream, Some(at(1, 1)), at(1, 1)) && !deletions.cover(&stream, None, at(1, 1))
        );
        deletions.tell(&[tail(1, 5), tail(2, 3)]);
        // Told again, also in an older form, it says the same.
        deletions.tell(&[tail(1, 4)]);
        for (last, covered) in
            [(at(1, 1), true), (at(1, 5), true), (at(1, 6), false), (at(2, 3), true), (at(3, 1), false)]
        {
            assert_eq!(deletions.cover(&stream, Some(last), at(9, 9)), covered, "{last:?}");
            assert_eq!(deletions.cover(&stream, None, last), covered, "only all of a stream: {last:?}");
            assert!(!deletions.cover(&other, Some(last), last));
        }
        assert!(!deletions.cover(&stream, None, at(1, 0)), "nothing was ever stored");
    }
}
