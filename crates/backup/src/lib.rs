//! The home of a platform that stands still as one file, and back.
//!
//! ```text
//! FILE = zstd of a tar archive:
//!   backup.json      first: version of this form, of `aap`, time, how many files and bytes follow
//!   home/…           every file of the home that outlives a run, by its path in the home
//!   manifest.json    last: each file with length, mode and SHA-256; what does not end with it was cut off
//! ```
//!
//! # Promises
//! - While a home is packed nothing else opens its stores: their locks are held. So metadata, landing buffer, lake and the
//!   agent's buffer are of one moment. SQLite's file is taken with its write-ahead log, as after a crash.
//! - FILE is there whole or not at all, and only its owner reads it: it holds private keys.
//! - A home is restored whole or not at all: into a folder beside it, checked against the manifest, then renamed. Paths lead
//!   nowhere else, and nothing but plain files is made.
//! - Every store that is restored begins a new epoch ([`aap_runtime::RESTORED`]), because other data may have the numbers
//!   that it would give next: what was delivered after the backup is known to sinks by these.
//!
//! | file | owns |
//! |---|---|
//! | `contents.rs` | what of a home belongs into a backup |
//! | `still.rs` | the locks that keep a home still |
//! | `form.rs` | the entries that are no files of the home |
//! | `pack.rs` | [`pack`] |
//! | `unpack.rs` | [`unpack`] |
//! | `progress.rs` | [`Progress`], and bytes that are counted and hashed as they pass |
//! | `error.rs` | [`Error`] |

mod contents;
mod error;
mod form;
mod pack;
mod progress;
mod still;
#[cfg(test)]
mod tests;
mod unpack;

pub use error::Error;
pub use form::Summary;
pub use pack::pack;
pub use progress::Progress;
pub use unpack::unpack;
