//! Parquet and Arrow.

use std::io::{self, Write};
use std::sync::Arc;

use aap_types::{ExitCode, Problem};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::{Encoder, Stop};
use crate::output::Output;
use crate::types;

/// Rows of a row group: DuckDB's own default, good for parallel reading.
const ROW_GROUP_ROWS: usize = 122_880;
/// A row group that is larger than this in memory is closed early.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// DuckDB streams vectors of 2,048 rows; an IPC message each would be mostly headers.
const IPC_ROWS: usize = 32 << 10;

fn failed(what: &str, error: &(dyn std::error::Error + 'static)) -> Stop {
    Problem::new("query.encode", ExitCode::Failed, format!("the answer cannot be written as {what}"))
        .caused_by(error)
        .into()
}

/// Collects bytes of a writer that wants to own its output.
#[derive(Debug, Default, Clone)]
struct Sink(Arc<std::sync::Mutex<Vec<u8>>>);

impl Sink {
    fn drain(&self, output: &mut Output) -> io::Result<()> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        output.write_all(&bytes)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One Parquet file, zstd.
pub(super) struct Parquet {
    schema: SchemaRef,
    sink: Sink,
    writer: Option<ArrowWriter<Sink>>,
}

impl Parquet {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self { schema: storable_schema(schema), sink: Sink::default(), writer: None }
    }
}

impl Encoder for Parquet {
    fn begin(&mut self, _output: &mut Output) -> Result<(), Stop> {
        if let Some(field) = self.schema.fields().iter().find(|field| !fits_parquet(field.data_type())) {
            return Err(no_form(field).into());
        }
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .build();
        let writer = ArrowWriter::try_new(self.sink.clone(), self.schema.clone(), Some(properties));
        self.writer = Some(writer.map_err(|error| failed("Parquet", &error))?);
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<usize, Stop> {
        if output.is_over() {
            return Ok(0);
        }
        let Some(writer) = self.writer.as_mut() else { return Ok(0) };
        let batch = storable_batch(batch, &self.schema)?;
        writer.write(&batch).map_err(|error| failed("Parquet", &error))?;
        if writer.in_progress_size() > ROW_GROUP_BYTES {
            writer.flush().map_err(|error| failed("Parquet", &error))?;
        }
        self.sink.drain(output)?;
        Ok(batch.num_rows())
    }

    fn end(&mut self, output: &mut Output) -> Result<(), Stop> {
        if let Some(writer) = self.writer.take() {
            writer.close().map_err(|error| failed("Parquet", &error))?;
        }
        Ok(self.sink.drain(output)?)
    }
}

/// Whether the writer of Parquet knows the type; it panics at a union.
fn fits_parquet(data_type: &DataType) -> bool {
    use DataType as T;
    match data_type {
        T::Union(_, _) | T::Interval(_) => false,
        T::List(item) | T::LargeList(item) | T::FixedSizeList(item, _) | T::Map(item, _) => {
            fits_parquet(item.data_type())
        }
        T::Struct(fields) => fields.iter().all(|field| fits_parquet(field.data_type())),
        T::Dictionary(_, values) => fits_parquet(values),
        _ => true,
    }
}

fn no_form(field: &Field) -> Problem {
    let name = field.name();
    let kind = field.metadata().get(types::TYPE_KEY).map_or("", String::as_str);
    Problem::new("query.encode", ExitCode::Failed, format!("column `{name}` cannot be written as Parquet"))
        .cause(format!("Parquet has no form for the type {kind}"))
        .hint(format!(
            "cast it in the statement: `cast({} as varchar)`; or ask for another format: `-o arrow`, `-o ndjson`",
            types::quoted(name)
        ))
}

/// Parquet has no place for month-day-nanosecond intervals: they become text.
fn storable_schema(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Interval(_) | DataType::Null => {
                field.as_ref().clone().with_data_type(DataType::Utf8).with_nullable(true)
            }
            _ => field.as_ref().clone().with_nullable(true),
        })
        .collect();
    Arc::new(Schema::new(fields))
}

fn storable_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Stop> {
    let columns: Result<Vec<ArrayRef>, _> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(column.clone())
            } else {
                arrow_cast::cast(column, field.data_type())
            }
        })
        .collect();
    columns
        .and_then(|columns| RecordBatch::try_new(schema.clone(), columns))
        .map_err(|error| failed("Parquet", &error))
}

/// An Arrow IPC stream.
pub(super) struct Arrow {
    schema: SchemaRef,
    sink: Sink,
    writer: Option<StreamWriter<Sink>>,
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
}

impl Arrow {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self { schema: schema.clone(), sink: Sink::default(), writer: None, waiting: vec![], waiting_rows: 0 }
    }

    fn write_waiting(&mut self, output: &mut Output) -> Result<(), Stop> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let batch = arrow_select::concat::concat_batches(&self.schema, &self.waiting)
            .map_err(|error| failed("Arrow", &error))?;
        self.waiting.clear();
        self.waiting_rows = 0;
        if let Some(writer) = self.writer.as_mut() {
            writer.write(&batch).map_err(|error| failed("Arrow", &error))?;
        }
        Ok(self.sink.drain(output)?)
    }
}

impl Encoder for Arrow {
    fn begin(&mut self, output: &mut Output) -> Result<(), Stop> {
        let writer = StreamWriter::try_new(self.sink.clone(), &self.schema);
        self.writer = Some(writer.map_err(|error| failed("Arrow", &error))?);
        Ok(self.sink.drain(output)?)
    }

    fn batch(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<usize, Stop> {
        if output.is_over() {
            return Ok(0);
        }
        self.waiting_rows += batch.num_rows();
        self.waiting.push(batch.clone());
        if self.waiting_rows >= IPC_ROWS {
            self.write_waiting(output)?;
        }
        Ok(batch.num_rows())
    }

    fn end(&mut self, output: &mut Output) -> Result<(), Stop> {
        self.write_waiting(output)?;
        if let Some(mut writer) = self.writer.take() {
            writer.finish().map_err(|error| failed("Arrow", &error))?;
        }
        Ok(self.sink.drain(output)?)
    }
}
