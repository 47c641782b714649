//! What the ledger's word on a stream means for what stands here. Pure decisions.
//!
//! A sequence alone proves nothing: a store that was rolled back or cloned gives old sequences to new data. Both sides
//! compare the digest of the newest batch that both have, and what is not proven is never taken as delivered where the
//! ledger knows more than the store does.

use aap_buffer::mutant;
use aap_types::{Digest, Sequence};

/// What this store has of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ours {
    /// Its newest batch.
    pub(super) tail: Sequence,
    /// What was acknowledged.
    pub(super) cursor: Sequence,
    /// The digest of the newest batch that both sides have, if it is still known here.
    pub(super) digest: Option<Digest>,
}

/// What the ledger says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theirs {
    /// Its newest batch there.
    pub(super) landed: Sequence,
    /// As in [`Ours`], if it is still known there.
    pub(super) digest: Option<Digest>,
}

/// Where the stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Everything up to here is in the ledger as it stands here.
    Landed(Sequence),
    /// What stands here is not, or may not be, what the ledger has under the same identities.
    Forked,
}

/// The newest batch that both sides have.
pub(super) fn common(tail: Sequence, landed: Sequence) -> Sequence {
    tail.min(landed)
}

/// Compares the two.
pub(super) fn standing(ours: Ours, theirs: Theirs) -> Standing {
    let common = common(ours.tail, theirs.landed);
    let same = ours.digest.zip(theirs.digest).map(|(ours, theirs)| ours == theirs);
    match same {
        _ if mutant::is("nodigest") => Standing::Landed(common),
        Some(true) => Standing::Landed(common),
        Some(false) => Standing::Forked,
        // The ledger is ahead: this store lost its newest batches, and what it wrote since cannot be told from them.
        None if theirs.landed > ours.tail && ours.cursor < ours.tail => Standing::Forked,
        None => Standing::Landed(common),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<Digest> = Some(Digest([1; 32]));
    const B: Option<Digest> = Some(Digest([2; 32]));

    fn check(
        (tail, cursor, ours): (u64, u64, Option<Digest>),
        (landed, theirs): (u64, Option<Digest>),
        expected: Standing,
    ) {
        let ours = Ours { tail: Sequence(tail), cursor: Sequence(cursor), digest: ours };
        let theirs = Theirs { landed: Sequence(landed), digest: theirs };
        assert_eq!(standing(ours, theirs), expected);
    }

    #[test]
    fn what_is_not_proven_to_have_landed_is_not_let_go() {
        let landed = |sequence| Standing::Landed(Sequence(sequence));
        // A reconnection, with and without digests.
        check((9, 5, A), (7, A), landed(7));
        check((9, 5, None), (7, None), landed(7));
        // Rolled back, nothing written since: all of it landed, or was acknowledged before.
        check((5, 3, A), (9, A), landed(5));
        check((5, 5, None), (9, None), landed(5));
        // Rolled back, and written to since.
        check((8, 3, A), (9, B), Standing::Forked);
        check((8, 3, None), (9, B), Standing::Forked);
        // Rolled back, and written to until it was ahead again.
        check((20, 3, A), (9, B), Standing::Forked);
        // A clone whose twin wrote something else.
        check((12, 10, A), (15, B), Standing::Forked);
    }
}
