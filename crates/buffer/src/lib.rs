//! The durable buffer: an append-only log of batches that is database, outbox and ledger at once.
//!
//! Agent and coordinator embed the same [`Buffer`]. *Append durably → acknowledge upstream → consume downstream →
//! move the cursor → reclaim.* What was acknowledged survives a killed process, a power cut, a full disk, a failing
//! fsync; what the medium itself destroys is found, counted, and comes out as a skip instead of silence.
//!
//! ```text
//!  append(entries)                                          read(key, after)   snapshot()
//!       │ bounded queue                                           │                │ pins segments
//!       ▼                                                         ▼                ▼
//!  writer thread ── plan ── encode ── pwrite ── fdatasync ──► index (memory) ──► segments/*.seg ──► Scanner
//!   (log.rs)        sequences,  one reused                   only durable things      read-only, checksummed
//!                   digests     group buffer                 stand in it
//! ```
//!
//! # On disk
//! ```text
//! DIRECTORY/
//!   STORE            who this store is: id, node, epoch, generation (counts openings), format version, checksum
//!   LOCK             flock of the one owner
//!   RESTORED         only after a restore: the next opening begins a new epoch
//!   reserve          given up on a full disk, so that a checkpoint can still be written
//!   lost+found/      bytes that did not match their checksums, by segment and offset
//!   segments/
//!     0000000000000001.seg …    16 MiB each, zero-filled once, recycled; numbers are never used twice
//!     spare.tmp, next.tmp       the file of the next segment, made ready
//! ```
//! The form of a segment is drawn in `format.rs`. Each segment begins with a checkpoint of everything but frames, so the
//! newest one is enough to start from and any older one may go at any time.
//!
//! # Promises
//! - A group (one or more appends) is there whole or not at all. It is shown to readers after its fdatasync, never before.
//! - A failed write or sync is never repeated on the same file: the group goes to a new segment or is refused.
//! - Recovery cuts a torn tail; damage below the synced mark costs the damaged records, which become skips. It never
//!   prevents a start. Where a tail may be older than what was acknowledged, or a backup was restored, a new epoch begins,
//!   so that no sequence is given twice.
//! - Reclaim takes only what the landing consumer's *durable* cursor has passed and no snapshot holds.
//! - A skip that was read once reads the same again, digest included.
//!
//! # Limits
//! One append: 56 MiB, and what the budget admits. One batch: [`PAYLOAD_BYTES_MAX`], decoded [`DECODED_BYTES_MAX`], its
//! schema [`SCHEMA_BYTES_MAX`]. Queue: 16 MiB. Positions: 100,000 a kind; of HTTP keys the newest
//! 10,000 a node, for a day; files 30 days where a node has over a thousand. Rows and bytes *waiting* are by share where a segment is delivered in part.
//!
//! | file | owns |
//! |---|---|
//! | `buffer.rs` | [`Buffer`]: the handle, [`Snapshot`], [`SegmentRef`] |
//! | `writer.rs` | the writer thread: queue, when to commit, waiting for room |
//! | `log.rs` | groups to disk, what happens when the disk fails |
//! | `log/` | `segment.rs` the next segment; `space.rs` room: rolling, reclaim, full disks; `prepare.rs` its file |
//! | `group.rs` | entries to a plan, a plan to bytes |
//! | `index.rs` | what is known in memory: channels, cursors, positions, segments |
//! | `positions.rs` | how far sources were read |
//! | `recovery.rs`, `recovery/` | files to index: listing, replaying, finding the end |
//! | `places.rs` | where the frames of a segment stand |
//! | `waiting.rs` | what waits for a consumer, by headers alone |
//! | `read.rs` | frames in order, over whatever is missing |
//! | `scrub.rs` | reading everything, against bits that rot |
//! | `walk.rs` | the bytes of a segment, record by record |
//! | `format.rs`, `format/` | the form on disk |
//! | `identity.rs` | the file `STORE` |
//! | `codec.rs`, `schema.rs` | rows to payload and back |
//! | `scan.rs`, `offline.rs` | reading without a [`Buffer`]: engine and tools |
//! | `fs.rs`, `fs/` | the seam to storage: real, simulated with power cuts, faulty |
//! | `mutant.rs` | deliberate faults that the test harnesses must notice |

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
pub mod mutant;
pub mod offline;
mod places;
mod positions;
mod read;
mod recovery;
pub mod scan;
mod schema;
mod scrub;
mod stats;
mod waiting;
mod walk;
mod writer;

#[cfg(test)]
mod tests;

pub use buffer::{AppendTicket, Buffer, Opened, SegmentRef, Snapshot, Tail};
pub use codec::{DECODED_BYTES_MAX, EncodedBatch, Encoder, PAYLOAD_BYTES_MAX, decode};
pub use config::{BufferConfig, Durability, WhenFull};
pub use error::{Error, Retry};
pub use format::FORMAT_VERSION;
pub use frame::{Entry, Frame, FrameKind};
pub use fs::{FileHandle, FileSystem, RealFileSystem};
pub use identity::Identity;
pub use index::{DAMAGED, RECLAIMED};
pub use positions::ReadPosition;
pub use recovery::RecoveryReport;
pub use schema::{FrameSchema, SCHEMA_BYTES_MAX};
pub use scrub::{SCRUB_PAUSE, Scrubbed, scrub_for_ever};
pub use stats::{Stats, StreamStats};
pub use waiting::WaitingFrame;
