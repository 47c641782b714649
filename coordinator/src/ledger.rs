//! What the ledger answers: to a hello, and to a batch. Pure decisions, without I/O.
//!
//! The ledger is the landing buffer itself: its frames carry identity and digest of every batch.

use std::collections::HashMap;

use aap_proto::v1;
use aap_store::NodeRecord;
use aap_types::{Digest, Epoch, Sequence, StreamKey};

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is the next one.
    Append,
    /// It stands in the ledger already, with the same digest.
    Duplicate,
    /// It stands in the ledger, but its digest is no longer kept.
    DuplicateUnverified,
    /// Another batch stands in the ledger under this identity.
    Forked,
    /// Batches before it are missing.
    Gap {
        /// What must come next.
        expected: Sequence,
    },
}

/// Decides about the batch `sequence` with `digest`, where the ledger ends at `tail`. `known` looks a digest up.
pub fn decide(
    tail: Sequence,
    sequence: Sequence,
    digest: &Digest,
    known: impl FnOnce() -> Option<Digest>,
) -> Decision {
    if sequence == tail.next() {
        return Decision::Append;
    }
    if sequence > tail {
        return Decision::Gap { expected: tail.next() };
    }
    match known() {
        Some(found) if found == *digest => Decision::Duplicate,
        Some(_) => Decision::Forked,
        None => Decision::DuplicateUnverified,
    }
}

/// Why the store that said this hello is not the newest state of itself; `None` if it may be.
pub fn went_back_reason(hello: &v1::Hello, known: Option<&NodeRecord>) -> Option<String> {
    let known = known.filter(|known| known.store_id[..] == hello.store_id[..])?;
    // A store that began a new epoch since has settled this.
    if hello.generation < known.generation && hello.epoch <= known.epoch.0 {
        return Some(format!(
            "the store was rolled back or cloned: it was opened {} times before and says {} now",
            known.generation, hello.generation
        ));
    }
    (hello.epoch < known.epoch.0).then(|| {
        format!(
            "the store was rolled back or cloned: it had reached epoch {} and says {} now",
            known.epoch, hello.epoch
        )
    })
}

/// Why the store that said this hello must begin a new epoch; `None` if it need not.
///
/// Either its number of openings went back, or the ledger holds batches of its epoch that it does not remember: it was
/// rolled back or cloned, and would give old identities to new data.
pub fn new_epoch_reason(
    hello: &v1::Hello,
    known: Option<&NodeRecord>,
    ledger: &[(StreamKey, Sequence)],
) -> Option<String> {
    if let Some(reason) = went_back_reason(hello, known) {
        return Some(reason);
    }
    let told: HashMap<&str, u64> = hello
        .tails
        .iter()
        .filter(|tail| tail.epoch == hello.epoch)
        .map(|tail| (tail.stream.as_str(), tail.sequence))
        .collect();
    let ahead = ledger
        .iter()
        .filter(|(key, _)| key.epoch == Epoch(hello.epoch))
        .find(|(key, landed)| told.get(key.stream.as_str()).copied().unwrap_or(0) < landed.0);
    ahead.map(|(key, landed)| {
        format!(
            "the store was rolled back: batch {landed} of `{}` has landed, and it does not know it",
            key.stream
        )
    })
}

/// What an operator must know when a node comes back with another store: nobody has what the former one alone held.
pub fn replaced_store(hello: &v1::Hello, known: Option<&NodeRecord>) -> Option<String> {
    let known =
        known.filter(|known| !known.store_id.is_empty() && known.store_id[..] != hello.store_id[..])?;
    Some(format!(
        "the node came back with a new store: what the former one (epoch {}) had acknowledged and not delivered is lost; \
         replayable sources read it again",
        known.epoch
    ))
}

/// Whether the ledger's positions must go with the welcome: the store has nothing of its epoch in the ledger yet.
pub fn needs_positions(hello: &v1::Hello, new_epoch: bool, ledger: &[(StreamKey, Sequence)]) -> bool {
    new_epoch || !ledger.iter().any(|(key, _)| key.epoch == Epoch(hello.epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: Digest = Digest([1; 32]);

    fn check(tail: u64, sequence: u64, known: Option<Digest>, expected: Decision) {
        assert_eq!(decide(Sequence(tail), Sequence(sequence), &DIGEST, || known), expected);
    }

    #[test]
    fn every_batch_is_taken_once_in_order_and_a_fork_is_seen() {
        check(0, 1, None, Decision::Append);
        check(7, 8, None, Decision::Append);
        check(7, 7, Some(DIGEST), Decision::Duplicate);
        check(7, 1, None, Decision::DuplicateUnverified);
        check(7, 5, Some(Digest([2; 32])), Decision::Forked);
        check(7, 9, None, Decision::Gap { expected: Sequence(8) });
        check(0, 2, None, Decision::Gap { expected: Sequence(1) });
    }

    fn hello(generation: u64, epoch: u64, tail: Option<u64>) -> v1::Hello {
        let tails = tail.map(|sequence| v1::StreamTail {
            epoch,
            stream: "logs".into(),
            sequence,
            ..v1::StreamTail::default()
        });
        v1::Hello {
            store_id: vec![7; 16].into(),
            generation,
            epoch,
            tails: tails.into_iter().collect(),
            ..Default::default()
        }
    }

    fn known(generation: u64, epoch: u64) -> NodeRecord {
        NodeRecord {
            node: "n".parse().unwrap(),
            first_seen_us: 0,
            last_seen_us: 0,
            store_id: vec![7; 16],
            generation,
            epoch: Epoch(epoch),
            agent_version: String::new(),
        }
    }

    fn ledger(epoch: u64, landed: u64) -> Vec<(StreamKey, Sequence)> {
        let key =
            StreamKey { node: "n".parse().unwrap(), epoch: Epoch(epoch), stream: "logs".parse().unwrap() };
        vec![(key, Sequence(landed))]
    }

    #[test]
    fn a_store_that_went_back_in_time_must_begin_a_new_epoch() {
        let reason = |hello: &v1::Hello, known: Option<&NodeRecord>, ledger: &[_]| {
            new_epoch_reason(hello, known, ledger).is_some()
        };
        let before = known(3, 5);
        assert!(!reason(&hello(3, 5, Some(9)), Some(&before), &ledger(5, 9)), "a reconnection");
        assert!(!reason(&hello(4, 5, Some(9)), Some(&before), &ledger(5, 4)), "a restart");
        assert!(!reason(&hello(1, 6, None), None, &[]), "a new node");
        assert!(reason(&hello(2, 5, Some(9)), Some(&before), &ledger(5, 9)), "fewer openings");
        assert!(reason(&hello(4, 4, Some(9)), Some(&before), &[]), "an earlier epoch");
        assert!(reason(&hello(4, 5, Some(8)), Some(&before), &ledger(5, 9)), "the ledger is ahead");
        assert!(
            reason(&hello(4, 5, None), Some(&before), &ledger(5, 1)),
            "the ledger knows a stream it forgot"
        );
        assert!(!reason(&hello(4, 6, None), Some(&before), &ledger(5, 9)), "an older epoch is no matter");
        let other = NodeRecord { store_id: vec![8; 16], ..before };
        assert!(
            !reason(&hello(1, 6, None), Some(&other), &ledger(5, 9)),
            "a new store in place of a lost one"
        );
    }

    #[test]
    fn positions_go_to_a_store_until_something_of_its_epoch_has_landed() {
        assert!(needs_positions(&hello(1, 6, None), false, &ledger(5, 9)));
        assert!(!needs_positions(&hello(1, 5, Some(9)), false, &ledger(5, 9)));
        assert!(needs_positions(&hello(1, 5, Some(8)), true, &ledger(5, 9)));
    }
}
