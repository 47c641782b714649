//! The audit log: what was done with privilege and what was denied, so that nobody changes it afterwards unseen.
//!
//! ```text
//!  append(record) ── bounded queue ──► writer thread ── lines of one group ──► write, fdatasync ──► answered
//!                                          │                                                   └──► Tail, Reader
//!                                          └── every 1,000 records, after a minute, at close: a checkpoint, signed
//!  verify(directory, public key, checkpoints kept elsewhere) ──► every place where the log is not what was written
//! ```
//!
//! # On disk
//! ```text
//! DIRECTORY/
//!   LOCK                          flock of the one writer
//!   00000000000000000001.ndjson   segments, named for the sequence of their first line; a group stands in one of them
//!   00000000000000014210.ndjson
//!   head                          the last checkpoint: finds a tail that was cut off
//!   start                         only after retention: the last line that was removed, signed; verify begins behind it
//! KEY                             the signing key (PKCS #8), mode 0600; never in DIRECTORY, so that a copy of the log gives no key away
//! ```
//! A line is one JSON object, its fields always there and always in this order:
//! ```text
//! {"seq":7,"group":6,"time":1790000000000000,"request":null,"actor":{…},"from":"10.0.0.9:4412","action":"token create",
//!  "permission":"node:approve","object":{"kind":"token","name":"…"},"outcome":"done","problem":null,"details":{…},
//!  "prev":"<hash of the line before>","hash":"<hash of this line>"}⏎
//! ```
//! `hash` is BLAKE3 over the bytes of its line up to, and without, `,"hash":`. Nothing is ever serialised again to judge it: the bytes
//! on disk are the form that counts. `prev` is the `hash` of the line before, 64 zeros in the first line of all. The line of a checkpoint
//! goes on with `,"signature":"<Ed25519>"}`; what is signed is drawn in `checkpoint.rs`. `group` is the sequence of the first line that
//! was written with this one: everything before it was durable by then, which is how recovery knows a torn tail from damage.
//!
//! # Promises
//! - An append is answered after the fdatasync of its group, never before. What was answered is there after a kill and a power cut.
//! - A sync that failed is never repeated: the log is broken from then on and every append fails, so the caller must refuse what it
//!   cannot record. A write that failed (a full disk) is taken back whole; the next append tries again.
//! - Damage never prevents a start. A torn tail is cut and noted (`audit.recovered`); anything else stays where it is, and the log goes
//!   on in a new segment whose first line says so (`audit.broken`).
//! - `verify` finds every byte that was flipped, cut, inserted or moved, but for what `docs/audit.md` names: above all, a tail behind
//!   the last checkpoint, and everything behind an old checkpoint where `head` was put back with it.
//!
//! | file | owns |
//! |---|---|
//! | `log.rs` | [`AuditLog`]: the handle; [`AuditConfig`] |
//! | `queue.rs` | the writer thread: what waits, when to commit, when to sign |
//! | `writer.rs` | groups to disk, checkpoints, what happens when the disk fails |
//! | `retention.rs` | whole segments that are too old |
//! | `recovery.rs` | opening: where the log ends, and whether it is whole there |
//! | `record.rs` | [`Record`], [`Entry`] |
//! | `own.rs` | the records that the log makes of itself |
//! | `line.rs` | the form of a line |
//! | `checkpoint.rs`, `key.rs` | [`Checkpoint`], [`SigningKey`], [`PublicKey`] |
//! | `read.rs`, `tail.rs` | [`Reader`], [`Tail`]: records by what they say, and as they come |
//! | `verify.rs`, `findings.rs` | [`verify`] and what it finds |
//! | `files.rs`, `lines.rs` | names of files; lines of a file, in either direction |
//! | `disk.rs` | the seam to storage, for what can fail while writing |
//! | `mutant.rs` | deliberate faults that the tests must notice |

mod checkpoint;
mod disk;
mod error;
mod files;
mod findings;
mod hex;
mod key;
mod line;
mod lines;
mod log;
mod mutant;
mod own;
mod queue;
mod read;
mod record;
mod recovery;
mod retention;
mod tail;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use checkpoint::{Checkpoint, NotACheckpoint};
pub use error::Error;
pub use files::HEAD;
pub use findings::{FINDINGS_MAX, Fault, Finding, Verification};
pub use key::{KeyError, NotAKey, PublicKey, SigningKey};
pub use log::{AuditConfig, AuditLog, Opened, Place, RETENTION, SEGMENT_BYTES};
pub use own::{OwnAction, SYSTEM_ACTOR};
pub use read::{Filter, Order, Query, Reader};
pub use record::{Actor, DETAILS_MAX, Entry, Object, Outcome, Record, TEXT_BYTES_MAX};
pub use recovery::Recovery;
pub use tail::Tail;
pub use verify::verify;
pub use writer::{CHECKPOINT_AFTER, CHECKPOINT_RECORDS};
