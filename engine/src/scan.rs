//! Frames and Arrow IPC files as a table that DuckDB scans on all its threads.
//!
//! A [`Source`] is what one table has of them: found once, before the statement is bound. Its unit of work is a frame
//! or an IPC file. Only the columns that the plan wants are decompressed; a frame outside the time range is not read.
//!
//! | file | owns |
//! |---|---|
//! | `scan/source.rs` | [`Source`]: which units, which columns, which types |
//! | `scan/vtab.rs` | the table function |
//! | `scan/vector.rs` | Arrow arrays into DuckDB vectors |

mod source;
mod vector;
mod vtab;

pub(crate) use source::{Damage, Source};
pub(crate) use vtab::{FUNCTION, register};
