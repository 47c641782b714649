//! Records as Arrow.

use std::sync::Arc;

use aap_decode::{Context, Decoder, DecoderConfig, Format, TimestampRule};
use aap_federation::Scan;
use aap_types::{ExitCode, Problem};
use arrow_array::builder::{Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use arrow_select::take::take;
use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use super::bounds::{KEY, OFFSET, PARTITION, TS, VALUE};

/// Records of a batch.
const ROWS: usize = 8192;
/// Bytes of values after which a batch ends before it has its records.
const BYTES: usize = 8 << 20;
/// A field that no value has: the time of a row is the record's.
const NO_FIELD: &str = "\u{1}";

/// Records on their way into batches.
pub(super) struct Rows {
    scan: Scan,
    decoder: Option<Decoder>,
    times: TimestampMicrosecondBuilder,
    partitions: Int32Builder,
    offsets: Int64Builder,
    keys: StringBuilder,
    /// Values, each on a line.
    text: Vec<u8>,
    /// Where each value begins, and whether it is one: a tombstone is none.
    starts: Vec<(usize, bool)>,
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The columns that every topic has.
fn fields() -> [Field; 4] {
    [
        Field::new(TS, time_type(), true),
        Field::new(PARTITION, DataType::Int32, false),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new(KEY, DataType::Utf8, true),
    ]
}

/// The columns of a topic without records.
pub(super) fn schema_of_all(scan: &Scan) -> Schema {
    let value = is_asked_for(scan).then(|| Field::new(VALUE, DataType::Utf8, true));
    Schema::new(fields().into_iter().chain(value).collect::<Vec<_>>())
}

/// Whether the text of values is asked for by its name: it would double whatever is fetched for a star.
fn is_asked_for(scan: &Scan) -> bool {
    scan.words.as_ref().is_some_and(|words| words.contains(VALUE))
}

impl Rows {
    pub(super) fn new(scan: &Scan) -> Self {
        let rule = TimestampRule { column: Some(NO_FIELD.to_owned()), ..TimestampRule::default() };
        let config = DecoderConfig { timestamp: Some(rule), ..DecoderConfig::of(Format::Ndjson) };
        Self {
            scan: scan.clone(),
            decoder: Decoder::new(config).ok(),
            times: TimestampMicrosecondBuilder::new().with_data_type(time_type()),
            partitions: Int32Builder::new(),
            offsets: Int64Builder::new(),
            keys: StringBuilder::new(),
            text: vec![],
            starts: vec![],
        }
    }

    /// Takes a record.
    pub(super) fn push(&mut self, record: &BorrowedMessage<'_>) {
        self.times.append_option(record.timestamp().to_millis().map(|ms| ms.saturating_mul(1000)));
        self.partitions.append_value(record.partition());
        self.offsets.append_value(record.offset());
        self.keys.append_option(record.key().map(String::from_utf8_lossy));
        let value = record.payload();
        self.starts.push((self.text.len(), value.is_some()));
        // A line end within JSON is a blank like others; texts write it as `\n`.
        let line = value.unwrap_or_default().iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte });
        self.text.extend(line);
        self.text.push(b'\n');
    }

    pub(super) fn are_full(&self) -> bool {
        self.starts.len() >= ROWS || self.text.len() >= BYTES
    }

    /// The records so far as batches: those whose values are JSON objects, and the others.
    pub(super) fn take(&mut self) -> Result<Vec<RecordBatch>, Problem> {
        let count = self.starts.len();
        if count == 0 {
            return Ok(vec![]);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.times.finish()),
            Arc::new(self.partitions.finish()),
            Arc::new(self.offsets.finish()),
            Arc::new(self.keys.finish()),
        ];
        let (text, starts) = (std::mem::take(&mut self.text), std::mem::take(&mut self.starts));
        let common = Common { columns, text: &text, starts: &starts };
        let (mut batches, mut others): (Vec<RecordBatch>, Vec<u32>) = Default::default();
        let (mut line, mut at) = (0_u32, 0);
        while at < text.len() {
            let Some(decoder) = self.decoder.as_mut() else { break };
            let decoded = decoder.decode(&text[at..], &Context::default());
            let decoded = decoded.map_err(|error| unreadable(&error))?;
            let read =
                text[at..at + decoded.raw_bytes as usize].iter().filter(|byte| **byte == b'\n').count();
            let rows = decoded
                .lines(&text[at..])
                .ok_or_else(|| unreadable(&std::io::Error::other("rows and records do not agree")))?;
            let good: Vec<u32> = rows.into_iter().map(|row| line + row).collect();
            // Lines that no row stands for: blank, or not an object.
            others.extend((line..line + read as u32).filter(|row| good.binary_search(row).is_err()));
            if !good.is_empty() {
                batches.push(common.batch(good, Some(&decoded.batch), &self.scan)?);
            }
            (line, at) = (line + read as u32, at + decoded.raw_bytes as usize);
            if read == 0 {
                break;
            }
        }
        if !others.is_empty() {
            batches.push(common.batch(others, None, &self.scan)?);
        }
        Ok(batches)
    }
}

/// What all records of a batch have.
struct Common<'a> {
    columns: Vec<ArrayRef>,
    text: &'a [u8],
    starts: &'a [(usize, bool)],
}

impl Common<'_> {
    fn line(&self, row: u32) -> &[u8] {
        let (start, end) = self.range(row);
        &self.text[start..end]
    }

    fn range(&self, row: u32) -> (usize, usize) {
        let row = row as usize;
        let end = self.starts.get(row + 1).map_or(self.text.len(), |(start, _)| *start);
        (self.starts[row].0, end - 1)
    }

    /// Those records, with the fields of their values that are needed, or with their values as text.
    fn batch(
        &self,
        rows: Vec<u32>,
        fields_of: Option<&RecordBatch>,
        scan: &Scan,
    ) -> Result<RecordBatch, Problem> {
        let mut fields: Vec<Field> = fields().to_vec();
        let values = (fields_of.is_none() || is_asked_for(scan)).then(|| self.values(&rows));
        let indices = UInt32Array::from(rows);
        let columns = self.columns.iter().map(|column| take(column, &indices, None));
        let mut columns: Vec<ArrayRef> =
            columns.collect::<Result<_, _>>().map_err(|error| unreadable(&error))?;
        if let Some(values) = values {
            fields.push(Field::new(VALUE, DataType::Utf8, true));
            columns.push(values);
        }
        if let Some(batch) = fields_of {
            // The first is the time that the decoder had to give.
            for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()).skip(1) {
                if scan.needs(field.name()) {
                    fields.push(field.as_ref().clone());
                    columns.push(column.clone());
                }
            }
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|error| unreadable(&error))
    }

    fn values(&self, rows: &[u32]) -> ArrayRef {
        let mut values = StringBuilder::new();
        for row in rows {
            match self.starts[*row as usize].1 {
                true => values.append_value(String::from_utf8_lossy(self.line(*row))),
                false => values.append_null(),
            }
        }
        Arc::new(values.finish())
    }
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("query.remote_refused", ExitCode::Failed, "the records of the topic cannot be made rows")
        .caused_by(error)
}
