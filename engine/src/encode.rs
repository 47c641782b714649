//! The formats of an answer, and the caps on its rows and bytes.
//!
//! | file | owns |
//! |---|---|
//! | `encode/text.rs` | rows, json, ndjson, csv |
//! | `encode/binary.rs` | parquet, arrow |

mod binary;
mod text;

use std::io;

use aap_sql::{Format, QueryEnd};
use aap_types::Problem;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use crate::output::Output;

/// Why encoding ended early.
pub(crate) enum Stop {
    Problem(Box<Problem>),
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

/// A format being written.
trait Encoder {
    /// Before the first row.
    fn begin(&mut self, output: &mut Output) -> Result<(), Stop>;
    /// Writes rows of `batch` until the byte cap; returns how many.
    fn batch(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<usize, Stop>;
    /// After the last row.
    fn end(&mut self, output: &mut Output) -> Result<(), Stop>;
}

/// Writes all batches, at most `rows_max` rows (0: all).
pub(crate) fn encode(
    format: Format,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, Problem>>,
    rows_max: u64,
    output: &mut Output,
) -> Result<QueryEnd, Stop> {
    let mut encoder: Box<dyn Encoder> = match format {
        Format::Rows => Box::new(text::Rows),
        Format::Json => Box::new(text::Json::new(schema)),
        Format::Ndjson => Box::new(text::Ndjson::new(schema)),
        Format::Csv => Box::new(text::Csv::new(schema)),
        Format::Parquet => Box::new(binary::Parquet::new(schema)),
        Format::Arrow => Box::new(binary::Arrow::new(schema)),
    };
    let rows_max = if rows_max == 0 { u64::MAX } else { rows_max };
    let mut end = QueryEnd::default();
    encoder.begin(output)?;
    for batch in batches {
        let batch = batch?;
        if batch.num_rows() == 0 {
            continue;
        }
        let left = rows_max - end.rows;
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(batch.num_rows());
        let written = if take > 0 { encoder.batch(&batch.slice(0, take), output)? } else { 0 };
        end.rows += written as u64;
        if written < take {
            end.truncated_by = Some("bytes".to_owned());
            break;
        }
        if take < batch.num_rows() {
            end.truncated_by = Some("rows".to_owned());
            break;
        }
        output.pace()?;
    }
    encoder.end(output)?;
    end.truncated = end.truncated_by.is_some();
    end.bytes = output.bytes();
    Ok(end)
}
