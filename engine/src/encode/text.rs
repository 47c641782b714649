//! Rows, JSON, NDJSON and CSV.

use aap_columns::value::{self, Form, object_keys, write_object, writers};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, SchemaRef};

use super::{Encoder, Stop};
use crate::output::Output;

/// Writes rows one by one; a row that would pass the byte cap is taken back.
fn rows(
    batch: &RecordBatch,
    output: &mut Output,
    mut row: impl FnMut(usize, &mut Vec<u8>),
) -> Result<usize, Stop> {
    for index in 0..batch.num_rows() {
        let start = output.data().len();
        row(index, output.data());
        if output.is_over() {
            output.data().truncate(start);
            return Ok(index);
        }
        if output.data().len() >= FLUSH_BYTES {
            output.pace()?;
        }
    }
    Ok(batch.num_rows())
}

/// Wide rows are sent before a batch is complete.
const FLUSH_BYTES: usize = 64 << 10;

/// Each row as one JSON array on a line.
pub(super) struct Rows;

impl Encoder for Rows {
    fn begin(&mut self, _output: &mut Output) -> Result<(), Stop> {
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<usize, Stop> {
        let writers = writers(batch, Form::Json);
        rows(batch, output, |index, out| {
            out.push(b'[');
            for (place, write) in writers.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write(index, out);
            }
            out.extend_from_slice(b"]\n");
        })
    }

    fn end(&mut self, _output: &mut Output) -> Result<(), Stop> {
        Ok(())
    }
}

/// One JSON object a line.
pub(super) struct Ndjson {
    keys: Vec<Vec<u8>>,
}

impl Ndjson {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self { keys: object_keys(schema) }
    }
}

impl Encoder for Ndjson {
    fn begin(&mut self, _output: &mut Output) -> Result<(), Stop> {
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<usize, Stop> {
        let writers = writers(batch, Form::Json);
        rows(batch, output, |index, out| {
            write_object(index, &self.keys, &writers, out);
            out.push(b'\n');
        })
    }

    fn end(&mut self, _output: &mut Output) -> Result<(), Stop> {
        Ok(())
    }
}

/// One JSON array of objects.
pub(super) struct Json {
    keys: Vec<Vec<u8>>,
    any: bool,
}

impl Json {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self { keys: object_keys(schema), any: false }
    }
}

impl Encoder for Json {
    fn begin(&mut self, output: &mut Output) -> Result<(), Stop> {
        output.data().push(b'[');
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<usize, Stop> {
        let writers = writers(batch, Form::Json);
        let before = self.any;
        let written = rows(batch, output, |index, out| {
            out.extend_from_slice(if before || index > 0 { b",\n" } else { b"\n" });
            write_object(index, &self.keys, &writers, out);
        })?;
        self.any |= written > 0;
        Ok(written)
    }

    fn end(&mut self, output: &mut Output) -> Result<(), Stop> {
        output.data().extend_from_slice(if self.any { b"\n]\n" } else { b"]\n" });
        Ok(())
    }
}

/// RFC 4180 with a header; lines end in `\n`. NULL is an empty field, an empty text is `""`.
pub(super) struct Csv {
    schema: SchemaRef,
    scratch: Vec<u8>,
}

impl Csv {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self { schema: schema.clone(), scratch: vec![] }
    }
}

impl Encoder for Csv {
    fn begin(&mut self, output: &mut Output) -> Result<(), Stop> {
        for (place, field) in self.schema.fields().iter().enumerate() {
            if place > 0 {
                output.data().push(b',');
            }
            write_field(field.name().as_bytes(), output.data());
        }
        output.data().push(b'\n');
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<usize, Stop> {
        let writers = writers(batch, Form::Plain);
        let columns = batch.columns();
        let scratch = &mut self.scratch;
        rows(batch, output, |index, out| {
            for (place, (write, column)) in writers.iter().zip(columns).enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                if value::is_null(column.as_ref(), index) {
                    continue;
                }
                if is_plain(column.data_type()) {
                    write(index, out);
                } else {
                    scratch.clear();
                    write(index, scratch);
                    write_field(scratch, out);
                }
            }
            out.push(b'\n');
        })
    }

    fn end(&mut self, _output: &mut Output) -> Result<(), Stop> {
        Ok(())
    }
}

/// Types whose text never needs quotes.
fn is_plain(data_type: &DataType) -> bool {
    data_type.is_primitive() || *data_type == DataType::Boolean
}

fn write_field(text: &[u8], out: &mut Vec<u8>) {
    let quote = text.is_empty() || text.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r'));
    if !quote {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    for byte in text {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}
