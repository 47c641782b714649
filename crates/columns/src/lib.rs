//! Columns of frames: the type in which everybody sees them, and how their values get there. Pure.
//!
//! Lake and engine read the same frames, and a row must say the same from both. So both take the type of a column from
//! [`stored`], unite two types by [`unite`], call columns as [`distinct_names`] says, and change values by [`convert`]
//! and [`text`].
//!
//! | Arrow type | stored as |
//! |---|---|
//! | boolean, integers, Float32, Float64, Date32, Utf8, Binary | itself |
//! | dictionaries, run ends | their values |
//! | large and view forms, fixed-size binary, Float16 | the plain or next wider form |
//! | timestamps | microseconds; those with a zone in UTC |
//! | Time32, Time64, Date64 | microseconds, microseconds, Date32 |
//! | Decimal32, 64, 128 | Decimal128 |
//! | Decimal256, negative scales, intervals, durations, nested types, unions | text |
//!
//! Bytes become text as SQL casts `BLOB` to `VARCHAR`: printable ASCII as it is, all else as `\xNN`.
//!
//! | file | owns |
//! |---|---|
//! | `form.rs` | types and names |
//! | `convert.rs` | values |
//! | `value.rs` | one value as JSON or as plain text, a row as an object |

mod convert;
mod form;
#[cfg(test)]
mod tests;
pub mod value;

pub use convert::{convert, text};
pub use form::{arrow_type, distinct_names, held_bytes, sql_type, stored, unite};
