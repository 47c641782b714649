//! Journal files of systemd, read without its library: entries in order, and their fields as log columns.
//!
//! ```text
//! header │ objects, each at a multiple of 8: type (1) flags (1) … size (8) │ what the type has
//!   entry array: next array (8) │ offsets of entries                 header ──► first array ──► next …
//!   entry: seqnum (8) realtime (8) monotonic (8) boot id (16) xor (8) │ offsets of its data
//!   data: … │ `FIELD=value`, compressed by itself where the flags say so
//! ```
//! Offsets of entries and data have 8 bytes, in compact files (systemd 252 and later) 4. A file grows while it is read: what the writer has
//! linked is whole, an offset of zero is not written yet.
//!
//! | file | owns |
//! |---|---|
//! | `journal/file.rs` | [`Journal`]: the format |
//! | `journal/rows.rs` | [`JournalRows`]: columns of entries |

mod file;
mod rows;

pub use file::{Cursor, Journal, JournalError, ReadAt};
pub use rows::JournalRows;
