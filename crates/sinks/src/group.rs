//! What is written at a time, and how far each key stands.

use std::collections::BTreeMap;

use aap_columns::held_bytes;
use aap_types::{Sequence, StreamKey, StreamName};
use arrow_array::RecordBatch;

use crate::{Failure, Range};

/// How far each (node, epoch, stream) was written: everything up to and including the sequence.
pub type Positions = BTreeMap<StreamKey, Sequence>;

/// Rows of one (node, epoch, stream), in the order in which they were sealed.
#[derive(Debug, Clone)]
pub struct Slice {
    /// Whose they are.
    pub key: StreamKey,
    /// Where the ledger of the server must stand: everything up to here was written before.
    pub after: Sequence,
    /// Where it stands once this is written. Greater than `after`; more than one further where batches had no rows for this
    /// sink.
    pub through: Sequence,
    /// The rows, ordered by (`_seq`, `_row`). The columns are those of the stream in the types of `aap_columns::stored`, then
    /// `_node` (Utf8), `_epoch`, `_seq`, `_row` (UInt64), never null, which together identify a row. May have no rows.
    pub rows: RecordBatch,
}

/// Slices that are committed together. No key stands in it twice.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// In no particular order.
    pub slices: Vec<Slice>,
}

impl Group {
    /// Rows of all slices.
    pub fn rows(&self) -> usize {
        self.slices.iter().map(|slice| slice.rows.num_rows()).sum()
    }

    /// Bytes of all columns in memory.
    pub fn bytes(&self) -> usize {
        self.slices.iter().map(|slice| held_bytes(&slice.rows)).sum()
    }

    /// Where the ledger stands once it is written.
    pub fn positions(&self) -> Positions {
        self.slices.iter().map(|slice| (slice.key.clone(), slice.through)).collect()
    }

    /// What it covers.
    pub fn ranges(&self) -> Vec<Range> {
        let range =
            |slice: &Slice| Range { key: slice.key.clone(), after: slice.after, through: slice.through };
        self.slices.iter().map(range).collect()
    }

    /// Why it may not be written where `positions` stand: a slice that does not begin there.
    pub fn misplaced(&self, positions: &Positions) -> Option<Failure> {
        self.slices.iter().find_map(|slice| {
            let stands = positions.get(&slice.key).copied().unwrap_or_default();
            let message =
                || format!("the ledger stands at {stands} for {}, not at {}", slice.key, slice.after);
            (stands != slice.after).then(|| Failure::moved(message()))
        })
    }

    /// The slices of each stream: a stream has columns of its own.
    pub fn by_stream(&self) -> BTreeMap<&StreamName, Vec<&Slice>> {
        let mut streams: BTreeMap<&StreamName, Vec<&Slice>> = BTreeMap::new();
        for slice in &self.slices {
            streams.entry(&slice.key.stream).or_default().push(slice);
        }
        streams
    }
}
