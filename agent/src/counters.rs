//! The books per stream: read = durable + dropped(reason) + what is on its way. Counted per batch, never per row.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aap_types::StreamName;

/// Why rows or bytes that were read are not in their stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Kept in the dead-letter stream instead.
    DeadLetter,
    /// The kernel dropped datagrams before we could read them.
    KernelQueue,
    /// The receiver's own queue was full.
    Overload,
    /// They could be neither stored nor asked for again.
    NotStored,
    /// Refused by themselves, with the reason in the answer to their sender.
    Rejected,
}

impl DropReason {
    /// Label in metrics and status.
    pub fn label(self) -> &'static str {
        match self {
            Self::DeadLetter => "dead_letter",
            Self::KernelQueue => "kernel_queue",
            Self::Overload => "overload",
            Self::NotStored => "not_stored",
            Self::Rejected => "rejected",
        }
    }
}

/// One stream's books since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamCount {
    /// Rows that sources read.
    pub rows_read: u64,
    /// Bytes that sources read.
    pub bytes_read: u64,
    /// Rows that are durable.
    pub rows_durable: u64,
    /// Batches that are durable.
    pub batches_durable: u64,
    /// Rows that are not in the stream, by reason.
    pub rows_dropped: BTreeMap<DropReason, u64>,
    /// Bytes beyond the line limit, cut.
    pub bytes_cut: u64,
    /// Bytes that rotated away or were truncated before they were read.
    pub bytes_lost: u64,
    /// Invalid UTF-8 sequences replaced by U+FFFD.
    pub replaced: u64,
}

impl StreamCount {
    /// Rows dropped for any reason.
    pub fn rows_dropped_total(&self) -> u64 {
        self.rows_dropped.values().sum()
    }
}

/// The books of all streams.
#[derive(Debug, Default)]
pub struct Counters {
    streams: Mutex<BTreeMap<StreamName, StreamCount>>,
}

impl Counters {
    /// Changes the books of one stream.
    pub fn count(&self, stream: &StreamName, change: impl FnOnce(&mut StreamCount)) {
        let mut streams = self.lock();
        match streams.get_mut(stream) {
            Some(count) => change(count),
            None => change(streams.entry(stream.clone()).or_default()),
        }
    }

    /// All books as they stand.
    pub fn snapshot(&self) -> BTreeMap<StreamName, StreamCount> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<StreamName, StreamCount>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
