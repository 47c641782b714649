//! The promises of every decoder, checked where callers meet them.

mod config;
mod csv;
mod json;
mod limits;
mod lines;
mod logs;
mod time;

use arrow_array::{Array, RecordBatch, cast::AsArray as _, types::TimestampMicrosecondType};
use arrow_cast::display::{ArrayFormatter, FormatOptions};

use crate::{Context, Decoded, Decoder, DecoderConfig, Format};

/// 2026-11-23T22:44:30Z
const OBSERVED_US: i64 = 1_795_473_870_000_000;

fn context() -> Context<'static> {
    Context { observed_us: OBSERVED_US, ..Context::default() }
}

fn decode(format: Format, input: &[u8]) -> Decoded {
    decode_with(DecoderConfig::of(format), input)
}

fn decode_with(config: DecoderConfig, input: &[u8]) -> Decoded {
    let decoded = Decoder::new(config).unwrap().decode(input, &context()).unwrap();
    assert_eq!(decoded.raw_bytes, input.len() as u64);
    decoded
}

/// One cell as text; `NULL` for null.
fn cell(batch: &RecordBatch, column: &str, row: usize) -> String {
    let array =
        batch.column_by_name(column).unwrap_or_else(|| panic!("no column {column}: {:?}", batch.schema()));
    let options = FormatOptions::default().with_null("NULL");
    ArrayFormatter::try_new(array, &options).unwrap().value(row).to_string()
}

fn column(batch: &RecordBatch, name: &str) -> Vec<String> {
    (0..batch.num_rows()).map(|row| cell(batch, name, row)).collect()
}

fn type_of(batch: &RecordBatch, name: &str) -> String {
    batch.schema().field_with_name(name).unwrap().data_type().to_string()
}

fn ts(batch: &RecordBatch) -> Vec<i64> {
    let array = batch.column_by_name("ts").unwrap();
    assert_eq!(array.null_count(), 0);
    array.as_primitive::<TimestampMicrosecondType>().values().to_vec()
}

/// The reasons of the bad rows, with their lines.
fn reasons(decoded: &Decoded) -> Vec<(u64, String)> {
    decoded.bad.iter().map(|row| (row.line, row.reason.to_string())).collect()
}
