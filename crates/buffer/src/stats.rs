//! The books of a store.

use std::collections::BTreeMap;

use aap_types::{Sequence, StreamName};
use serde::{Deserialize, Serialize};

use crate::BufferConfig;
use crate::format::Span;
use crate::index::Index;

/// One stream's books, in this store's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStats {
    /// Rows ever stored.
    pub rows: u64,
    /// Batches ever stored.
    pub batches: u64,
    /// Bytes ever stored.
    pub bytes: u64,
    /// Their size as the sources gave them.
    pub raw_bytes: u64,
    /// Rows given up (skips, drops, damage).
    pub dropped_rows: u64,
    /// Batches given up.
    pub dropped_batches: u64,
    /// Batches not yet delivered.
    pub waiting_batches: u64,
    /// Rows not yet delivered; by share where a segment is delivered in part.
    pub waiting_rows: u64,
    /// Bytes not yet delivered; by share where a segment is delivered in part.
    pub waiting_bytes: u64,
}

/// What the store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes of data on disk.
    pub stored_bytes: u64,
    /// Of these, not yet delivered to the landing consumer.
    pub waiting_bytes: u64,
    /// Batches not yet delivered.
    pub waiting_batches: u64,
    /// The budget.
    pub capacity_bytes: u64,
    /// Appends wait, because the budget or the disk is used up.
    pub blocked: bool,
    /// Segment files.
    pub segments: u64,
    /// By stream, all nodes and epochs together.
    pub streams: BTreeMap<StreamName, StreamStats>,
    /// What is wrong. Empty where all is well.
    pub problems: Vec<String>,
}

pub(crate) fn of(index: &Index, config: &BufferConfig) -> Stats {
    let mut stats = Stats {
        stored_bytes: index.segments.values().map(|segment| segment.index.end).sum(),
        capacity_bytes: config.budget.0,
        blocked: index.blocked.is_some(),
        segments: index.segments.len() as u64,
        problems: index.problems.iter().chain(&index.blocked).cloned().collect(),
        ..Stats::default()
    };
    for channel in &index.channels {
        let stream = stats.streams.entry(channel.key.stream.clone()).or_default();
        let counters = &channel.counters;
        stream.rows += counters.rows;
        stream.batches += counters.batches;
        stream.bytes += counters.bytes;
        stream.raw_bytes += counters.raw_bytes;
        stream.dropped_rows += counters.dropped_rows;
        stream.dropped_batches += counters.dropped_batches;
    }
    for segment in index.segments.values() {
        for (number, span) in &segment.index.spans {
            let Some(channel) = index.named_channel(*number) else { continue };
            let cursor =
                index.cursors.get(&(config.landing_consumer.clone(), *number)).copied().unwrap_or_default();
            let (batches, rows, bytes) = waiting(span, cursor);
            stats.waiting_batches += batches;
            stats.waiting_bytes += bytes;
            let stream = stats.streams.entry(channel.key.stream.clone()).or_default();
            stream.waiting_batches += batches;
            stream.waiting_rows += rows;
            stream.waiting_bytes += bytes;
        }
    }
    stats
}

/// What of a span lies after the cursor.
fn waiting(span: &Span, cursor: Sequence) -> (u64, u64, u64) {
    let all = span.last.0 - span.first.0 + 1;
    let delivered = (cursor.0 + 1).saturating_sub(span.first.0).min(all);
    let batches = all - delivered;
    let share = |of: u64| (u128::from(of) * u128::from(batches)).div_ceil(u128::from(all)) as u64;
    (batches, share(span.rows), share(span.bytes))
}
