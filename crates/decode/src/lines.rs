//! Plain lines: one copy into the `body` column, a glance at the beginning for the time and the severity.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::{Field, Schema, SchemaRef};
use memchr::{memchr, memchr_iter};

use crate::ROWS_MAX;
use crate::decoded::{Context, DecodeError, Decoded, ts_array};
use crate::scan;
use crate::severity::{Severity, constant_array, severity_array};
use crate::time::TimeReader;

/// The columns of the OpenTelemetry log model, in order.
pub(crate) const LOG_COLUMNS: [&str; 6] = ["ts", "observed_ts", "severity", "body", "attributes", "resource"];

#[derive(Debug)]
pub(crate) struct LineDecoder {
    time: TimeReader,
    schema: Option<SchemaRef>,
    rows_before: usize,
}

/// The columns of one batch in the making.
struct Rows {
    ts: Vec<i64>,
    severity: Vec<i8>,
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

impl Rows {
    fn with_capacity(rows: usize, bytes: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        let bytes = Vec::with_capacity(bytes);
        Self { ts: Vec::with_capacity(rows), severity: Vec::with_capacity(rows), offsets, bytes }
    }

    #[inline(always)]
    fn push(&mut self, line: &[u8], time: &TimeReader) {
        self.bytes.extend_from_slice(line);
        self.offsets.push(self.bytes.len() as i32);
        self.ts.push(time.leading(line).unwrap_or(time.observed_us()));
        self.severity.push(Severity::of_line(line) as i8);
    }
}

impl LineDecoder {
    pub(crate) fn new(time: TimeReader) -> Self {
        Self { time, schema: None, rows_before: 0 }
    }

    /// Decodes lines that end with LF or CRLF, as many as a batch takes; the last may have no end.
    pub(crate) fn lines(&mut self, bytes: &[u8], context: &Context<'_>) -> Result<Decoded, DecodeError> {
        self.time.observed(context.observed_us);
        let (bytes, clean, replaced) = match scan::is_utf8(bytes) {
            true => (bytes, None, 0),
            false => {
                let taken = first_lines(bytes);
                let (clean, replaced) = replace_invalid(taken);
                (taken, Some(clean), replaced)
            }
        };
        let (rows, end) = self.split(clean.as_deref().unwrap_or(bytes));
        let raw_bytes = if clean.is_some() { bytes.len() } else { end } as u64;
        self.rows_before = rows.ts.len();
        let batch = self.batch(rows, context)?;
        Ok(Decoded { batch, raw_bytes, bad: Vec::new(), replaced, duplicate_fields: 0 })
    }

    /// The rows of the first lines, and where the next line begins.
    fn split(&self, bytes: &[u8]) -> (Rows, usize) {
        let expected = (self.rows_before + self.rows_before / 8 + 1).min(ROWS_MAX);
        let mut rows = Rows::with_capacity(expected, bytes.len());
        let mut at = 0;
        while at < bytes.len() && rows.ts.len() < ROWS_MAX {
            let end = memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |length| at + length);
            let line = &bytes[at..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            rows.push(line, &self.time);
            at = end + 1;
        }
        (rows, at.min(bytes.len()))
    }

    fn batch(&mut self, rows: Rows, context: &Context<'_>) -> Result<RecordBatch, DecodeError> {
        let count = rows.ts.len();
        let columns: Vec<ArrayRef> = vec![
            ts_array(rows.ts),
            ts_array(vec![context.observed_us; count]),
            severity_array(rows.severity),
            Arc::new(scan::string_array(rows.offsets, rows.bytes, None)),
            Arc::new(StringArray::new_null(count)),
            constant_array(context.resource, count),
        ];
        let schema = self.schema.get_or_insert_with(|| {
            let fields = LOG_COLUMNS.iter().zip(&columns);
            let fields = fields.map(|(name, array)| Field::new(*name, array.data_type().clone(), true));
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        });
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}

/// As many lines as a batch takes.
fn first_lines(bytes: &[u8]) -> &[u8] {
    memchr_iter(b'\n', bytes).nth(ROWS_MAX - 1).map_or(bytes, |end| &bytes[..=end])
}

/// The same text with U+FFFD for each invalid sequence, and how many there were. Line ends stay where they are: no
/// invalid sequence contains one.
fn replace_invalid(bytes: &[u8]) -> (Vec<u8>, u64) {
    let mut clean = Vec::with_capacity(bytes.len() + bytes.len() / 8);
    let mut replaced = 0;
    for chunk in bytes.utf8_chunks() {
        clean.extend_from_slice(chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            clean.extend_from_slice("\u{fffd}".as_bytes());
            replaced += 1;
        }
    }
    (clean, replaced)
}
