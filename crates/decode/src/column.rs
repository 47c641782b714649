//! One column while its batch is being built: values, nulls, and how it widens.

use std::io::Write as _;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array};
use arrow_buffer::{BooleanBufferBuilder, NullBufferBuilder};

use crate::scan;
use crate::words::Words;

/// The widest integer a double holds exactly.
const EXACT_MAX: u64 = 1 << 53;

/// What a column holds so far. Text bytes are UTF-8: see [`scan::string_array`].
#[derive(Debug)]
pub(crate) enum Values {
    Nothing,
    Boolean(BooleanBufferBuilder),
    Integer(Vec<i64>),
    Float(Vec<f64>),
    /// Text of few distinct values, until they turn out to be many.
    Words(Words),
    Text {
        offsets: Vec<i32>,
        bytes: Vec<u8>,
    },
}

/// The type a value needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean,
    Integer,
    Float,
    Text,
}

#[derive(Debug)]
pub(crate) struct Column {
    /// Rows this column has; rows beyond it are null until something is pushed.
    len: usize,
    nulls: NullBufferBuilder,
    values: Values,
}

impl Column {
    pub(crate) fn new() -> Self {
        Self { len: 0, nulls: NullBufferBuilder::new(0), values: Values::Nothing }
    }

    /// A column of text that is hardly ever the same twice.
    pub(crate) fn of_text() -> Self {
        Self { values: Values::Text { offsets: vec![0], bytes: Vec::new() }, ..Self::new() }
    }

    /// Whether `row` already has a value: the field came twice.
    #[inline(always)]
    pub(crate) fn has(&self, row: usize) -> bool {
        self.len > row
    }

    /// Whether nothing was pushed since the batch began.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a value of `kind` needs no widening.
    #[inline(always)]
    pub(crate) fn accepts(&self, kind: Kind) -> bool {
        matches!(
            (&self.values, kind),
            (Values::Text { .. } | Values::Words(_), Kind::Text)
                | (Values::Integer(_), Kind::Integer)
                | (Values::Float(_), Kind::Float)
                | (Values::Boolean(_), Kind::Boolean)
        )
    }

    pub(crate) fn is_text(&self) -> bool {
        matches!(self.values, Values::Text { .. } | Values::Words(_))
    }

    pub(crate) fn is_float(&self) -> bool {
        matches!(self.values, Values::Float(_))
    }

    /// Makes the column long enough for `row` to be pushed: missing rows become null, a value of the same row goes.
    #[inline(always)]
    fn align(&mut self, row: usize) {
        if self.len != row {
            self.align_slowly(row);
        }
    }

    #[cold]
    fn align_slowly(&mut self, row: usize) {
        if self.len > row {
            return self.truncate(row);
        }
        let missing = row - self.len;
        self.nulls.append_n_nulls(missing);
        match &mut self.values {
            Values::Nothing => {}
            Values::Boolean(bits) => bits.append_n(missing, false),
            Values::Integer(values) => values.resize(row, 0),
            Values::Float(values) => values.resize(row, 0.0),
            Values::Words(words) => words.resize(row),
            Values::Text { offsets, .. } => {
                let end = offsets.last().copied().unwrap_or(0);
                offsets.resize(row + 1, end);
            }
        }
        self.len = row;
    }

    /// Forgets every row from `rows` on.
    pub(crate) fn truncate(&mut self, rows: usize) {
        if self.len <= rows {
            return;
        }
        self.nulls.truncate(rows);
        match &mut self.values {
            Values::Nothing => {}
            Values::Boolean(bits) => bits.truncate(rows),
            Values::Integer(values) => values.truncate(rows),
            Values::Float(values) => values.truncate(rows),
            Values::Words(words) => words.resize(rows),
            Values::Text { offsets, bytes } => {
                offsets.truncate(rows + 1);
                bytes.truncate(offsets.last().map_or(0, |end| *end as usize));
            }
        }
        self.len = rows;
    }

    /// # Invariants
    /// The column is text; `text` is UTF-8.
    #[inline(always)]
    pub(crate) fn push_text(&mut self, row: usize, text: &[u8]) {
        self.align(row);
        match &mut self.values {
            Values::Text { offsets, bytes } => {
                bytes.extend_from_slice(text);
                offsets.push(bytes.len() as i32);
            }
            Values::Words(words) => {
                if words.push(text).is_err() {
                    self.push_as_text(text);
                }
            }
            _ => return debug_assert!(false),
        }
        self.nulls.append_non_null();
        self.len = row + 1;
    }

    /// Turns words to plain text and pushes the value they had no room for.
    #[cold]
    fn push_as_text(&mut self, text: &[u8]) {
        self.make_plain();
        if let Values::Text { offsets, bytes } = &mut self.values {
            bytes.extend_from_slice(text);
            offsets.push(bytes.len() as i32);
        }
    }

    fn make_plain(&mut self) {
        if let Values::Words(words) = &self.values {
            let (offsets, bytes) = words.to_text(|row| self.nulls.is_valid(row));
            self.values = Values::Text { offsets, bytes };
        }
    }

    #[inline(always)]
    pub(crate) fn push_integer(&mut self, row: usize, value: i64) {
        self.align(row);
        let Values::Integer(values) = &mut self.values else { return debug_assert!(false) };
        values.push(value);
        self.nulls.append_non_null();
        self.len = row + 1;
    }

    #[inline(always)]
    pub(crate) fn push_float(&mut self, row: usize, value: f64) {
        self.align(row);
        let Values::Float(values) = &mut self.values else { return debug_assert!(false) };
        values.push(value);
        self.nulls.append_non_null();
        self.len = row + 1;
    }

    #[inline(always)]
    pub(crate) fn push_boolean(&mut self, row: usize, value: bool) {
        self.align(row);
        let Values::Boolean(bits) = &mut self.values else { return debug_assert!(false) };
        bits.append(value);
        self.nulls.append_non_null();
        self.len = row + 1;
    }

    /// A null is what is not pushed; only a value of the same row must go.
    pub(crate) fn push_null(&mut self, row: usize) {
        self.truncate(row);
    }

    /// Widens so that a value of `kind` fits; keeps what is there without loss.
    #[cold]
    pub(crate) fn widen(&mut self, kind: Kind) {
        let old = std::mem::replace(&mut self.values, Values::Nothing);
        self.values = match (old, kind) {
            (Values::Nothing, kind) => self.empty(kind),
            (Values::Integer(values), Kind::Float)
                if values.iter().all(|v| v.unsigned_abs() <= EXACT_MAX) =>
            {
                Values::Float(values.iter().map(|v| *v as f64).collect())
            }
            (same @ Values::Float(_), Kind::Integer | Kind::Float)
            | (same @ Values::Integer(_), Kind::Integer)
            | (same @ Values::Boolean(_), Kind::Boolean)
            | (same @ (Values::Text { .. } | Values::Words(_)), _) => same,
            (Values::Integer(values), _) => self.as_text(|out, row| write!(out, "{}", values[row])),
            (Values::Float(values), _) => self.as_text(|out, row| write_float(out, values[row])),
            (Values::Boolean(bits), _) => self.as_text(|out, row| write!(out, "{}", bits.get_bit(row))),
        };
    }

    fn empty(&self, kind: Kind) -> Values {
        let rows = self.len;
        match kind {
            Kind::Boolean => {
                let mut bits = BooleanBufferBuilder::new(rows);
                bits.append_n(rows, false);
                Values::Boolean(bits)
            }
            Kind::Integer => Values::Integer(vec![0; rows]),
            Kind::Float => Values::Float(vec![0.0; rows]),
            Kind::Text => Values::Words(Words::new(rows)),
        }
    }

    fn as_text(&self, write: impl Fn(&mut Vec<u8>, usize) -> std::io::Result<()>) -> Values {
        let mut offsets = Vec::with_capacity(self.len + 1);
        let mut bytes = Vec::new();
        offsets.push(0);
        for row in 0..self.len {
            if self.nulls.is_valid(row) {
                write(&mut bytes, row).expect("writing to memory does not fail");
            }
            offsets.push(bytes.len() as i32);
        }
        Values::Text { offsets, bytes }
    }

    /// The column of `rows` rows, `None` if it never held anything. The column begins anew, with the type it has learned.
    pub(crate) fn finish(&mut self, rows: usize) -> Option<ArrayRef> {
        self.align(rows);
        if let Values::Words(words) = &self.values
            && words.pays() == Some(false)
        {
            self.make_plain();
        }
        self.len = 0;
        let nulls = std::mem::replace(&mut self.nulls, NullBufferBuilder::new(rows)).build();
        Some(match &mut self.values {
            Values::Nothing => return None,
            Values::Boolean(bits) => Arc::new(BooleanArray::new(bits.finish(), nulls)),
            Values::Integer(values) => {
                let next = Vec::with_capacity(values.len());
                Arc::new(Int64Array::new(std::mem::replace(values, next).into(), nulls))
            }
            Values::Float(values) => {
                let next = Vec::with_capacity(values.len());
                Arc::new(Float64Array::new(std::mem::replace(values, next).into(), nulls))
            }
            Values::Words(words) => {
                let words = std::mem::replace(words, Words::new(0));
                match words.pays() {
                    Some(_) => words.into_array(nulls),
                    None => {
                        let is_valid = |row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
                        let (offsets, bytes) = words.to_text(is_valid);
                        Arc::new(scan::string_array(offsets, bytes, nulls))
                    }
                }
            }
            Values::Text { offsets, bytes } => {
                let mut next_offsets = Vec::with_capacity(rows + 1);
                next_offsets.push(0);
                // An eighth more than last time: batches of one source are alike, and growing copies everything.
                let next_bytes = Vec::with_capacity(bytes.len() + bytes.len() / 8);
                let offsets = std::mem::replace(offsets, next_offsets);
                Arc::new(scan::string_array(offsets, std::mem::replace(bytes, next_bytes), nulls))
            }
        })
    }
}

/// A double as JSON text: the shortest that reads back as the same value.
fn write_float(out: &mut Vec<u8>, value: f64) -> std::io::Result<()> {
    write!(out, "{value:?}")
}

/// Whether a double holds `value` exactly.
pub(crate) fn is_exact(value: i64) -> bool {
    value.unsigned_abs() <= EXACT_MAX
}
