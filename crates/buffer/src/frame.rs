//! What goes in and what comes out: entries and frames.

use std::sync::Arc;

use aap_types::{BatchId, Digest, Sequence, SourcePosition, StreamKey, StreamName};
use bytes::Bytes;

use crate::{EncodedBatch, FrameSchema};

/// What a caller appends.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A batch of this node. Epoch, sequence and digest are given here.
    Own {
        /// Its stream.
        stream: StreamName,
        /// The rows.
        batch: EncodedBatch,
        /// How far the sources were read with these rows.
        positions: Vec<SourcePosition>,
    },
    /// A batch that another node sealed. Must be the next of its stream key.
    Landed {
        /// Its identity.
        id: BatchId,
        /// Its digest, as it arrived.
        digest: Digest,
        /// Its positions, as they arrived.
        positions: Bytes,
        /// When it was sealed.
        sealed_us: i64,
        /// The rows.
        batch: EncodedBatch,
    },
    /// Sequences that will never have data: either the next ones of the key, or ones stored already whose data is
    /// given up.
    Skip {
        /// Which stream.
        key: StreamKey,
        /// First sequence.
        from: Sequence,
        /// Last sequence.
        to: Sequence,
        /// Rows lost, as far as known.
        rows: u64,
        /// Why.
        reason: String,
    },
}

impl Entry {
    /// Bytes this entry takes in a group, about.
    pub(crate) fn bytes(&self) -> u64 {
        const OVERHEAD: usize = 256;
        let bytes = match self {
            Self::Own { batch, positions, .. } => {
                batch.payload.len()
                    + positions.iter().map(|p| p.key.len() + p.detail.len() + 15).sum::<usize>()
            }
            Self::Landed { positions, batch, .. } => batch.payload.len() + positions.len(),
            Self::Skip { reason, .. } => reason.len(),
        };
        (bytes + OVERHEAD) as u64
    }
}

/// Rows, or the lack of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameKind {
    /// A batch of rows.
    Data,
    /// The sequences from the frame's own up to `to` have no data.
    Skip {
        /// Last sequence without data.
        to: Sequence,
        /// Rows lost, as far as known.
        rows: u64,
        /// Why.
        reason: String,
    },
}

/// A durable frame, as it was sealed.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its identity; of a skip, the first sequence.
    pub id: BatchId,
    /// Rows or a skip.
    pub kind: FrameKind,
    /// BLAKE3 over identity, positions and payload.
    pub digest: Digest,
    /// Number of rows; 0 of a skip.
    pub rows: u32,
    /// Smallest `ts`, microseconds.
    pub ts_min_us: i64,
    /// Largest `ts`, microseconds.
    pub ts_max_us: i64,
    /// When it was sealed.
    pub sealed_us: i64,
    /// Size of the rows as the source gave them.
    pub raw_bytes: u64,
    /// `SourcePosition::encode_all`.
    pub positions: Bytes,
    /// The schema; an empty one for a skip.
    pub schema: Arc<FrameSchema>,
    /// The rows as encapsulated IPC messages; of a skip, the bytes its digest covers.
    pub payload: Bytes,
}

impl Frame {
    /// The last sequence this frame stands for.
    pub fn last_sequence(&self) -> Sequence {
        match &self.kind {
            FrameKind::Data => self.id.sequence,
            FrameKind::Skip { to, .. } => *to,
        }
    }
}

/// The bytes of a skip that its digest covers: `to u64 | rows u64 | reason`.
pub(crate) fn skip_payload(to: Sequence, rows: u64, reason: &str) -> Bytes {
    let mut out = Vec::with_capacity(16 + reason.len());
    out.extend_from_slice(&to.0.to_le_bytes());
    out.extend_from_slice(&rows.to_le_bytes());
    out.extend_from_slice(reason.as_bytes());
    Bytes::from(out)
}

/// The inverse of [`skip_payload`]. `None` for anything else.
pub(crate) fn parse_skip(payload: &[u8]) -> Option<(Sequence, u64, String)> {
    let (to, rest) = payload.split_first_chunk::<8>()?;
    let (rows, reason) = rest.split_first_chunk::<8>()?;
    let reason = String::from_utf8_lossy(reason).into_owned();
    Some((Sequence(u64::from_le_bytes(*to)), u64::from_le_bytes(*rows), reason))
}
