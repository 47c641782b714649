//! The landing topic of a cluster of coordinators: what they land is one record after the other in it. Payloads are bytes here;
//! what they mean is the coordinator's.
//!
//! ```text
//!            ShardWriter of shard n          one for each shard, with a transactional id of its own
//!                    │ append: one transaction
//!                    ▼
//!  partition n   mark r r r │C│ r r │C│ mark r │C│ …          C: the end of a transaction, which takes an offset too
//!                    │ committed records only
//!                    ▼
//!            LandingReader of every coordinator, all partitions
//! ```
//!
//! # Promises
//! - What [`ShardWriter::append`] returned for is committed: every reader gets it, once, whole, in the order of its partition.
//! - When [`ShardWriter::take_over`] has returned, no writer before it commits anything any more, and what it left open is never
//!   read. Everything that is ever read from before the mark was committed before the mark.
//! - An append that failed may have been committed, or be committed until the next taking over, which tells: what a reader got
//!   before the mark is there, what it did not get is not and never will be.
//! - A reader loses no record without saying so, apart from those that [`LandingWatcher::delete_before`] deleted.
//!
//! # Offsets
//! A partition's `next` is the offset to read next, its end the offset that comes next of all committed. Ends of transactions and
//! records of aborted ones take offsets that no record has. A reader passes them and says so by a chunk without records, so its
//! `next` reaches the end. What was committed is below the end only when its end is marked, some milliseconds after `append`
//! returned.
//!
//! | file | owns |
//! |---|---|
//! | `spec.rs` | [`LandingSpec`]: where the topic is |
//! | `topic.rs` | [`prepare_landing`]; where its partitions begin and end |
//! | `writer.rs` | [`ShardWriter`] |
//! | `reader.rs` | [`LandingReader`] |
//! | `watcher.rs` | [`LandingWatcher`] |

mod reader;
mod spec;
mod topic;
mod watcher;
mod writer;

pub use reader::{LandingChunk, LandingReader};
pub use spec::LandingSpec;
pub use topic::prepare_landing;
pub use watcher::LandingWatcher;
pub use writer::ShardWriter;

/// Partitions of the landing topic: shards. Changing it would move nodes between shards.
pub const SHARDS: i32 = 64;

/// Largest record: a payload (at most 15 MiB), its schema (at most 4 MiB), and room for the names and numbers around them.
pub const RECORD_BYTES_MAX: usize = 20 << 20;
