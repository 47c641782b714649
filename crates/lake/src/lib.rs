//! The lake: what the landing buffer held, as Parquet files by stream and day.
//!
//! ```text
//! lake/<stream>/date=YYYY-MM-DD/<unique>.parquet    zstd, sorted by `ts`, with `_node, _epoch, _seq, _row`
//! lake/_manifest/<version>.json                     the visible files, as other programs may read them
//! ```
//!
//! The lake is a consumer of the landing buffer. Files are written and synced first; then **one** metadata transaction
//! makes them visible and moves the cut of their streams; then the manifest is written; then the buffer may reclaim.
//! A crash leaves the state before or after the transaction; files that never became visible are swept at start.
//!
//! In a cluster the files lie in an object store, and each coordinator has copies on its disk of those that it reads. All have the
//! same frames in their landing buffers, sooner or later; one of them leads, and changes the lake.
//!
//! **The seam.** A reader takes three things in this order: a [`Pin`] (files hidden from now on stay on disk), a
//! snapshot of the landing buffer (segments present now stay on disk), the catalogue (one read transaction). It reads
//! the catalogue's files, and of the snapshot the frames beyond the catalogue's cut. No row is missed: a frame that had
//! left the buffer before the snapshot was below a cut committed even earlier, hence is in the catalogue's files. No row
//! comes twice: a frame at or below the cut is skipped, and one above it is in no file. Where another coordinator makes the files
//! that holds too: this buffer lets go of a frame only after this coordinator has seen a cut that covers it.
//!
//! | file | owns |
//! |---|---|
//! | `lake.rs` | [`Lake`]: open, pin, delete; whose turn it is, and what follows from a commit |
//! | `load.rs` | frames → files → commit |
//! | `dead_letters.rs` | frames that cannot be rows |
//! | `maintain.rs`, `merge.rs` | compaction and retention |
//! | `service.rs` | [`Lake::run`]: when each of these happens |
//! | `waiting.rs` | [`Waiting`]: what has landed and is not in the lake yet |
//! | `unite.rs` | one schema for batches that differ |
//! | `partition.rs` | days, and the order of rows |
//! | `rows.rs` | rows of many batches, system columns included, chunk by chunk |
//! | `file.rs`, `parquet_file.rs` | chunks → a Parquet file and its record; back |
//! | `storage.rs`, `writer.rs` | objects on local disk, synced, or in an object store; the sweep |
//! | `objects.rs`, `s3.rs` | [`LakeStoreSpec`], [`LakeObjects`]: that store, and what is asked of it |
//! | `cache.rs` | copies of its objects on local disk |
//! | `lead.rs` | which coordinator of a cluster changes the lake, and when a file of the store may go |
//! | `upload.rs` | [`upload`]: the lake of one coordinator becomes that of a cluster |
//! | `tell.rs` | what buffer, readers and the manifest are told of a catalogue |
//! | `feed.rs` | [`Lake::feed`]: rows behind a position, from landing buffer or files, for sinks |
//! | `object_sink.rs` | [`S3Sink`]: the same rows as a chain of objects in a store elsewhere |
//! | `pins.rs` | who still reads a file that is hidden |
//! | `manifest.rs` | the list for others, and the catalogue's second copy |

mod cache;
mod config;
mod dead_letters;
mod error;
mod feed;
mod file;
mod lake;
mod lead;
mod load;
mod maintain;
mod manifest;
mod merge;
mod object_sink;
mod objects;
mod parquet_file;
mod partition;
mod pins;
mod rows;
mod s3;
mod service;
mod storage;
mod tell;
#[cfg(test)]
mod tests;
mod unite;
mod upload;
mod waiting;
mod writer;

pub use config::LakeConfig;
pub use error::Error;
pub use feed::{Fed, FeedLimits, unite};
pub use lake::{CONSUMER, Lake, LakeDependencies};
pub use object_sink::{Every, S3Sink, S3Spec};
pub use objects::{LakeObjects, LakeStoreSpec};
pub use pins::Pin;
pub use upload::upload;
pub use waiting::{FrameInfo, Waiting};
