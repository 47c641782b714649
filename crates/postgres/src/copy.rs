//! Rows as `COPY … (FORMAT binary)` takes them.
//!
//! ```text
//!  "PGCOPY\n\xff\r\n\0" | flags i32 = 0 | extension i32 = 0
//!  ( fields i16 | ( length i32 | bytes ) × fields ) × rows       length -1: NULL; everything big-endian
//!  -1 i16
//! ```
//! What a column of Arrow becomes is decided once for a column ([`Field::of`]); a row is then one call for each field, which
//! appends to the buffer. The server takes the bytes for whatever its column is, and some types have the same length: so a plan
//! is only good while the table is locked against changes.
//!
//! | file | owns |
//! |---|---|
//! | `held.rs` | [`Held`]: what a column of a table can hold; the SQL type of an Arrow type, and of the wider of two |
//! | `field.rs` | [`Field`]: a column of Arrow as one of those: how each value is written, and which cannot be |
//! | `number.rs`, `moment.rs`, `texts.rs` | the same for numbers, times, and texts |
//! | `numeric.rs` | `numeric` on the wire |

mod field;
mod held;
mod moment;
mod number;
mod numeric;
#[cfg(test)]
mod tests;
mod texts;

pub(crate) use field::Field;
pub(crate) use held::{Digits, Held, sql_type, widened};

/// What every copy begins with.
pub(crate) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// And ends with.
pub(crate) const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// What a buffer is made for: a full chunk, and the row that fills it.
pub(crate) const CHUNK_ROOM: usize = crate::connection::CHUNK_BYTES + (4 << 10);

/// Appends a row, with one more field at its end if there is one.
pub(crate) fn write_row(fields: &[Field<'_>], last: Option<&Field<'_>>, row: usize, out: &mut Vec<u8>) {
    // The server allows 1600 columns, and the table has them all.
    let count = fields.len() + usize::from(last.is_some());
    out.extend_from_slice(&(count as i16).to_be_bytes());
    for field in fields.iter().chain(last) {
        field.write(row, out);
    }
}
