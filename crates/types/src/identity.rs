//! Identity of data: who sealed a batch, in which life of the store, and as which number.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{NodeId, StreamName};

/// One life of a store. Sorts by the time it was minted; a rollback, clone or fork gets a new one.
///
/// Layout: Unix milliseconds in the upper 44 bits (until the year 2527), 20 random bits below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Mints an epoch from the wall clock and randomness of the caller.
    pub fn mint(unix_ms: u64, random: u64) -> Self {
        Self((unix_ms << 20) | (random & 0xF_FFFF))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a batch in its (node, epoch, stream). The first is 1; there are no gaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before the first batch.
    pub const ZERO: Self = Self(0);

    /// The number that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What is delivered strictly in order: one stream of one life of one node's store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamKey {
    /// The node whose store sealed the batches.
    pub node: NodeId,
    /// The life of that store.
    pub epoch: Epoch,
    /// The stream.
    pub stream: StreamName,
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.node, self.epoch, self.stream)
    }
}

/// The identity of a batch, given when it is sealed, before it can be sent, and never changed on the way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BatchId {
    /// The (node, epoch, stream) it belongs to.
    pub key: StreamKey,
    /// Its number there.
    pub sequence: Sequence,
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.key, self.sequence)
    }
}

/// BLAKE3 over identity, positions and payload of a batch. Equal ids with unequal digests mean a forked store.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Digest of a batch as it is sealed. `positions` is the encoded form that travels with the batch.
    pub fn of(id: &BatchId, positions: &[u8], payload: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        // Lengths first, so that no two different tuples give the same bytes.
        for name in [id.key.node.as_str(), id.key.stream.as_str()] {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
        }
        hasher.update(&id.key.epoch.0.to_le_bytes());
        hasher.update(&id.sequence.0.to_le_bytes());
        hasher.update(&(positions.len() as u64).to_le_bytes());
        hasher.update(positions);
        hasher.update(payload);
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..8] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
