//! Reading a segment without a [`crate::Buffer`]: read-only, never beyond the durable end. SKELETON.

use std::sync::Arc;

use aap_types::BatchId;
use bytes::Bytes;

use crate::{Error, FrameKind, FrameSchema, SegmentRef};

/// A frame found by a scan; its payload is read when asked for.
#[derive(Debug, Clone)]
pub struct ScannedFrame {
    /// Its identity.
    pub id: BatchId,
    /// Rows or a skip (its details are in the payload).
    pub is_skip: bool,
    /// Number of rows.
    pub rows: u32,
    /// Smallest `ts`.
    pub ts_min_us: i64,
    /// Largest `ts`.
    pub ts_max_us: i64,
    /// Names its schema.
    pub schema: u64,
    /// Bytes of payload.
    pub payload_bytes: u32,
    pub(crate) offset: u64,
}

/// Iterates over the frames of one segment.
#[derive(Debug)]
pub struct Scanner {}

impl Scanner {
    /// Opens a segment.
    pub fn open(_segment: &SegmentRef) -> Result<Self, Error> {
        Err(Error::Closed)
    }
    /// A schema declared so far.
    pub fn schema(&self, _fingerprint: u64) -> Option<Arc<FrameSchema>> {
        None
    }
    /// The rows of a frame, checksummed. [`Error::Damaged`] if they do not match.
    pub fn payload(&self, frame: &ScannedFrame) -> Result<Bytes, Error> {
        let _ = (frame.offset, FrameKind::Data);
        Err(Error::Closed)
    }
    /// Bytes passed over so far because they were damaged.
    pub fn damaged_bytes(&self) -> u64 {
        0
    }
}

impl Iterator for Scanner {
    type Item = Result<ScannedFrame, Error>;
    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}
