//! The durable buffer: an append-only log of batches that is database, outbox and ledger at once.
//!
//! Agent and coordinator embed the same [`Buffer`]. *Append durably → acknowledge upstream → consume downstream →
//! move the cursor → reclaim.*

mod buffer;
mod codec;
mod config;
mod error;
mod format;
mod frame;
pub mod fs;
mod group;
mod identity;
mod index;
mod log;
mod mutant;
pub mod offline;
mod read;
mod recovery;
pub mod scan;
mod schema;
mod stats;
mod walk;
mod writer;

#[cfg(test)]
mod tests;

pub use buffer::{AppendTicket, Buffer, Opened, SegmentRef, Snapshot, Tail};
pub use codec::{DECODED_BYTES_MAX, EncodedBatch, Encoder, decode};
pub use config::{BufferConfig, Durability, WhenFull};
pub use error::{Error, Retry};
pub use format::FORMAT_VERSION;
pub use frame::{Entry, Frame, FrameKind};
pub use fs::{FileHandle, FileSystem, RealFileSystem};
pub use identity::Identity;
pub use recovery::RecoveryReport;
pub use schema::{FrameSchema, SCHEMA_BYTES_MAX};
pub use stats::{Stats, StreamStats};
