//! What comes out of a decoder: a batch, what it cost, and what could not be read.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, TimeUnit};
use bytes::Bytes;

use crate::logs::{lines_of, without_line_end};
use crate::{BAD_TEXT_BYTES_MAX, COLUMNS_MAX, DEPTH_MAX, FIELD_NAME_BYTES_MAX, INPUT_BYTES_MAX};

/// What the caller knows of a chunk and its bytes do not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// When the bytes were observed, in microseconds since 1970.
    pub observed_us: i64,
    /// Sources of logs: the JSON object that says where the lines come from, such as `{"log.file.path":"/var/log/x"}`.
    pub resource: Option<&'a str>,
    /// CRI: the path of the file, from which pod, namespace and container are read.
    pub path: Option<&'a str>,
}

/// The records of one call.
#[derive(Debug)]
pub struct Decoded {
    /// The good rows; it may have none.
    pub batch: RecordBatch,
    /// How many bytes of input were decoded, good and bad. Fewer than were given where the batch became full: the next call
    /// goes on from here.
    pub raw_bytes: u64,
    /// The records that are not in the batch, in order.
    pub bad: Vec<BadRow>,
    /// Invalid UTF-8 sequences of plain lines that became U+FFFD.
    pub replaced: u64,
    /// Fields that came again in the same record: the last one stands.
    pub duplicate_fields: u64,
}

impl Decoded {
    /// The line in `records`, from 0, that each row of the batch comes from, for formats of a record a line. `None` where rows and
    /// lines do not agree.
    pub fn lines(&self, records: &[u8]) -> Option<Vec<u32>> {
        let records = &records[..records.len().min(usize::try_from(self.raw_bytes).ok()?)];
        let mut bad = self.bad.iter().map(|bad| bad.line).peekable();
        let mut lines = Vec::with_capacity(self.batch.num_rows());
        for (line, text) in (0_u32..).zip(lines_of(records)) {
            let is_bad = bad.next_if_eq(&(u64::from(line) + 1)).is_some();
            if !is_bad && !text.iter().all(u8::is_ascii_whitespace) {
                lines.push(line);
            }
        }
        (lines.len() == self.batch.num_rows()).then_some(lines)
    }
}

/// A record that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Its number, from 1: the line in the call's input; of a JSON document the element, over all its calls.
    pub line: u64,
    /// Its first byte in the call's input.
    pub offset: u64,
    /// How many records this stands for. One, but beyond 65,536 bad records in a call the next ones are kept together: their
    /// texts joined by line ends, with the reason of the first.
    pub records: u64,
    /// Why.
    pub reason: RowError,
    /// Its text, at most [`BAD_TEXT_BYTES_MAX`] bytes of it.
    pub text: Bytes,
    /// Bytes of the record that are not in `text`.
    pub cut: u64,
}

/// Bad records kept one by one in a call. Beyond it they are kept together, so that two-byte garbage cannot take fifty
/// times its size in memory.
const BAD_ROWS_MAX: usize = 1 << 16;
/// Text of bad records that are kept together.
const TOGETHER_BYTES_MAX: usize = 64 << 10;

/// The bad records of a call, and the line they stand in.
#[derive(Debug)]
pub(crate) struct BadRows<'a> {
    input: &'a [u8],
    rows: Vec<BadRow>,
    /// The text of the last row while it takes in others.
    together: Vec<u8>,
    /// The lines before `counted` are counted.
    counted: usize,
    line: u64,
}

impl<'a> BadRows<'a> {
    /// For records that lie in `input`, whose lines are counted.
    pub(crate) fn within(input: &'a [u8]) -> Self {
        Self { input, rows: Vec::new(), together: Vec::new(), counted: 0, line: 1 }
    }

    /// Adds the record at `start..end` of the input. Records come in order.
    pub(crate) fn push(&mut self, start: usize, end: usize, reason: RowError) {
        self.line += memchr::memchr_iter(b'\n', &self.input[self.counted..start]).count() as u64;
        self.counted = start;
        self.push_text(self.line, start, reason, &self.input[start..end]);
    }

    /// Adds a record whose number and text the caller knows.
    pub(crate) fn push_text(&mut self, line: u64, offset: usize, reason: RowError, text: &[u8]) {
        let kept = &text[..text.len().min(BAD_TEXT_BYTES_MAX)];
        let cut = (text.len() - kept.len()) as u64;
        if self.rows.len() < BAD_ROWS_MAX {
            let text = Bytes::copy_from_slice(kept);
            return self.rows.push(BadRow { line, offset: offset as u64, records: 1, reason, text, cut });
        }
        if let Some(last) = self.rows.last_mut()
            && !self.together.is_empty()
            && self.together.len() + kept.len() < TOGETHER_BYTES_MAX
        {
            last.records += 1;
            last.cut += cut;
            self.together.push(b'\n');
            return self.together.extend_from_slice(kept);
        }
        self.seal();
        self.together.extend_from_slice(kept);
        self.rows.push(BadRow { line, offset: offset as u64, records: 1, reason, text: Bytes::new(), cut });
    }

    fn seal(&mut self) {
        if let Some(last) = self.rows.last_mut().filter(|_| !self.together.is_empty()) {
            last.text = std::mem::take(&mut self.together).into();
        }
    }

    pub(crate) fn into_rows(mut self) -> Vec<BadRow> {
        self.seal();
        self.rows
    }
}

/// Why a record could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Not JSON.
    #[error("not JSON: {what} at byte {at} of the record")]
    Json {
        /// What is wrong.
        what: &'static str,
        /// Where, from the beginning of the record.
        at: u64,
    },
    /// JSON, but a record must be an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// Nested too deep.
    #[error("nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// Too many columns.
    #[error("more than {COLUMNS_MAX} columns in this stream's records")]
    TooManyColumns,
    /// A field's name is not one.
    #[error("a field name of more than {FIELD_NAME_BYTES_MAX} bytes")]
    NameTooLong,
    /// Not UTF-8.
    #[error("not UTF-8 at byte {at} of the record")]
    NotUtf8 {
        /// Where, from the beginning of the record.
        at: u64,
    },
    /// CSV: another number of fields than the header.
    #[error("{found} fields where the header has {expected}")]
    Ragged {
        /// Columns of the header.
        expected: usize,
        /// Fields of the record.
        found: usize,
    },
    /// The record has not the shape of its format.
    #[error("not {format}: {what}")]
    Format {
        /// The format's name in words.
        format: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// Nothing is wrong with the record by itself: the bytes it came with could not be taken.
    #[error("{0}")]
    Refused(String),
}

/// Why a call decoded nothing.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// More bytes at once than a batch may hold.
    #[error("{bytes} bytes in one piece: the most is {INPUT_BYTES_MAX}")]
    InputTooLarge {
        /// How many were given.
        bytes: usize,
    },
    /// The CSV header cannot name columns.
    #[error("read the CSV header: {what}")]
    Header {
        /// What is wrong.
        what: String,
    },
    /// The JSON document cannot be read on: where its records begin and end is not known any more.
    #[error("{reason}")]
    Document {
        /// The broken element, from 1, over all calls of the document.
        element: u64,
        /// What is wrong.
        #[source]
        reason: RowError,
    },
    /// A bug of ours: the columns do not form a batch.
    #[error("build the batch")]
    Build(#[from] ArrowError),
}

/// Every line of `records` as a bad row: for bytes that could not be taken for a reason that lies not in one of them.
pub fn refuse_lines(records: &[u8], why: &str) -> Vec<BadRow> {
    let mut bad = BadRows::within(records);
    let mut at = 0;
    for line in lines_of(records) {
        let text = without_line_end(line);
        if !text.is_empty() {
            bad.push(at, at + text.len(), RowError::Refused(why.to_owned()));
        }
        at += line.len();
    }
    bad.into_rows()
}

/// The type of `ts` and `observed_ts`.
pub(crate) fn ts_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Makes the column of a time.
pub(crate) fn ts_array(values: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
}

/// The batch for the dead-letter stream of `stream`: `ts, stream, reason, source, text`, one row a bad record.
/// Text that is not UTF-8 gets U+FFFD.
pub fn dead_letters(
    bad: &[BadRow],
    stream: &str,
    source: &str,
    observed_us: i64,
) -> Result<RecordBatch, ArrowError> {
    let utf8 = |name: &str| Field::new(name, DataType::Utf8, true);
    let schema = Schema::new(vec![
        Field::new("ts", ts_type(), true),
        utf8("stream"),
        utf8("reason"),
        utf8("source"),
        utf8("text"),
    ]);
    let text = bad.iter().map(|row| String::from_utf8_lossy(&row.text));
    let columns: Vec<ArrayRef> = vec![
        ts_array(vec![observed_us; bad.len()]),
        Arc::new(StringArray::new_repeated(stream, bad.len())),
        Arc::new(StringArray::from_iter_values(bad.iter().map(|row| row.reason.to_string()))),
        Arc::new(StringArray::new_repeated(source, bad.len())),
        Arc::new(StringArray::from_iter_values(text)),
    ];
    RecordBatch::try_new(Arc::new(schema), columns)
}
