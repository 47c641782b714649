//! A message with data is checked before it can land: identity, digest, and that its payload really is a batch.
//!
//! What cannot be decoded must not reach the lake, and must not stop its stream either: it is *poison*, goes to the
//! stream's dead letters as it is, and a skip takes its place.

use std::sync::Arc;

use aap_buffer::{EncodedBatch, FrameSchema};
use aap_proto::v1;
use aap_types::{BatchId, Digest, Epoch, NodeId, Sequence, StreamKey};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use bytes::Bytes;

/// Longest reason that is kept of a refused or skipped batch.
const REASON_BYTES_MAX: usize = 1024;

/// Data that may go to the ledger.
#[derive(Debug)]
pub enum Arrival {
    /// A batch in good order.
    Batch {
        /// Its identity.
        id: BatchId,
        /// Its digest, which holds.
        digest: Digest,
        /// Its positions, as they arrived.
        positions: Bytes,
        /// When it was sealed.
        sealed_us: i64,
        /// Its rows.
        batch: EncodedBatch,
    },
    /// A batch that is not what it says.
    Poison {
        /// Its identity.
        id: BatchId,
        /// Rows it says it has.
        rows: u64,
        /// What is wrong with it.
        reason: String,
        /// Its payload.
        payload: Bytes,
    },
    /// Sequences that will never have data.
    Skip {
        /// Of which stream.
        key: StreamKey,
        /// First.
        from: Sequence,
        /// Last.
        to: Sequence,
        /// Rows lost.
        rows: u64,
        /// Why.
        reason: String,
    },
}

impl Arrival {
    /// The stream it belongs to.
    pub fn key(&self) -> &StreamKey {
        match self {
            Self::Batch { id, .. } | Self::Poison { id, .. } => &id.key,
            Self::Skip { key, .. } => key,
        }
    }

    /// Its first sequence.
    pub fn sequence(&self) -> Sequence {
        match self {
            Self::Batch { id, .. } | Self::Poison { id, .. } => id.sequence,
            Self::Skip { from, .. } => *from,
        }
    }

    /// What it took of the agent's credit: its payload, as it stands in the agent's buffer.
    pub fn credit_bytes(&self) -> u64 {
        let bytes = match self {
            Self::Batch { batch, .. } => batch.payload.len(),
            Self::Poison { payload, .. } => payload.len(),
            // `to`, `rows` and the reason.
            Self::Skip { reason, .. } => 16 + reason.len(),
        };
        bytes as u64
    }

    /// Bytes it may take where it is stored, its schema included.
    pub fn stored_bytes(&self) -> usize {
        let schema = match self {
            Self::Batch { batch, .. } => batch.schema.ipc().len(),
            Self::Poison { .. } | Self::Skip { .. } => 0,
        };
        self.bytes() + schema
    }

    /// Bytes it holds in memory, but for its small parts.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Batch { batch, .. } => batch.payload.len(),
            Self::Poison { payload, .. } => payload.len(),
            Self::Skip { .. } => 0,
        }
    }
}

/// Checks a batch of `node`. Takes as long as decompressing it: call it on the blocking pool.
///
/// # Errors
/// If not even its identity can be read: the peer does not speak the protocol.
pub fn check_batch(
    node: &NodeId,
    message: v1::Batch,
    schema: Arc<FrameSchema>,
) -> Result<Arrival, aap_proto::ConvertError> {
    let (id, digest, _positions) = aap_proto::batch_id(node, &message)?;
    let poison = |reason: String, message: v1::Batch, id: BatchId| {
        Ok(Arrival::Poison {
            id,
            rows: u64::from(message.rows),
            reason: shortened(reason),
            payload: message.payload,
        })
    };
    if Digest::of(&id, &message.positions, &message.payload) != digest {
        return poison("its digest does not hold".to_owned(), message, id);
    }
    let rows = match aap_buffer::decode(&schema, &message.payload, None) {
        Ok(rows) => rows,
        Err(error) => return poison(format!("it cannot be decoded: {}", chain(&error)), message, id),
    };
    if rows.num_rows() as u64 != u64::from(message.rows) {
        let reason = format!("it has {} rows and says {}", rows.num_rows(), message.rows);
        return poison(reason, message, id);
    }
    // Queries skip frames by these times, and the digest does not cover them: ours hold.
    let (ts_min_us, ts_max_us) = time_range(&rows);
    let batch = EncodedBatch {
        schema,
        payload: message.payload,
        rows: message.rows,
        ts_min_us,
        ts_max_us,
        raw_bytes: message.raw_bytes,
    };
    Ok(Arrival::Batch { id, digest, positions: message.positions, sealed_us: message.sealed_us, batch })
}

/// Checks a skip of `node`.
///
/// # Errors
/// If its stream is no name or its range no range.
pub fn check_skip(node: &NodeId, message: v1::Skip) -> Result<Arrival, String> {
    if message.epoch == 0 {
        return Err("a skip of epoch 0, which is none".to_owned());
    }
    if message.from == 0 || message.to < message.from {
        return Err(format!("a skip from {} to {}", message.from, message.to));
    }
    let stream = message.stream.parse().map_err(|error: aap_types::NameError| error.to_string())?;
    Ok(Arrival::Skip {
        key: StreamKey { node: node.clone(), epoch: Epoch(message.epoch), stream },
        from: Sequence(message.from),
        to: Sequence(message.to),
        rows: message.rows,
        reason: shortened(message.reason),
    })
}

fn time_range(rows: &RecordBatch) -> (i64, i64) {
    let column = rows.column_by_name("ts").and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
    let Some(times) = column else { return (0, 0) };
    let mut known = times.iter().flatten();
    let Some(first) = known.next() else { return (0, 0) };
    known.fold((first, first), |(min, max), ts| (min.min(ts), max.max(ts)))
}

fn shortened(mut text: String) -> String {
    let mut end = REASON_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// An error with its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
