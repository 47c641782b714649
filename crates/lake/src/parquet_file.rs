//! Chunks of rows to a Parquet file, and back.

use std::fs::File;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};

use crate::Error;
use crate::writer::ObjectWriter;

/// Small enough that a query of a short time skips most of a day's file; large enough for good compression.
const ROW_GROUP_ROWS: usize = 256 << 10;
/// What a row group may take before it goes to disk: rows can be long.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// Pages are what a reader holds of each column, and compaction reads many files at once.
const PAGE_BYTES: usize = 256 << 10;
/// Three times the effort of level 1 for a tenth less space: files are written once and read for months.
const ZSTD_LEVEL: i32 = 3;

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 8192;

const WRITING: &str = "write Parquet";
const READING: &str = "read Parquet";

/// A file in the making, whose rows come sorted by its column number `ts`, if it has one.
#[derive(Debug)]
pub(crate) struct ParquetWriter {
    writer: ArrowWriter<ObjectWriter>,
}

impl ParquetWriter {
    pub(crate) fn new(to: ObjectWriter, schema: SchemaRef, ts: Option<usize>) -> Result<Self, Error> {
        let sorted = ts
            .and_then(|column| i32::try_from(column).ok())
            .map(|column_idx| vec![SortingColumn { column_idx, descending: false, nulls_first: true }]);
        let properties = properties()?.set_sorting_columns(sorted).build();
        let writer = ArrowWriter::try_new(to, schema, Some(properties)).map_err(Error::parquet(WRITING))?;
        Ok(Self { writer })
    }

    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        self.writer.write(rows).map_err(|error| self.reason(error))
    }

    /// Ends the file; it is durable when this returns. Returns its size.
    pub(crate) fn finish(mut self) -> Result<u64, Error> {
        self.writer.flush().map_err(|error| self.reason(error))?;
        // Only the footer is left to be written, and nothing in the rows makes that fail.
        let path = self.writer.inner_mut().path().to_owned();
        let broken = |error| Error::file("finish", path.as_str().into())(std::io::Error::other(error));
        self.writer.into_inner().map_err(broken)?.finish()
    }

    /// A disk that fails is no fault of the rows.
    fn reason(&mut self, error: ParquetError) -> Error {
        self.writer.inner_mut().failure().unwrap_or_else(|| Error::parquet(WRITING)(error))
    }
}

/// A file in the making, in memory.
#[derive(Debug)]
pub(crate) struct MemoryWriter {
    writer: ArrowWriter<Vec<u8>>,
}

impl MemoryWriter {
    /// With `notes` in its footer.
    pub(crate) fn new(schema: SchemaRef, notes: Vec<KeyValue>) -> Result<Self, Error> {
        let properties = properties()?.set_key_value_metadata(Some(notes)).build();
        let writer =
            ArrowWriter::try_new(vec![], schema, Some(properties)).map_err(Error::parquet(WRITING))?;
        Ok(Self { writer })
    }

    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        self.writer.write(rows).map_err(Error::parquet(WRITING))
    }

    /// The bytes of the file.
    pub(crate) fn finish(self) -> Result<Vec<u8>, Error> {
        self.writer.into_inner().map_err(Error::parquet(WRITING))
    }
}

/// How every file of ours is written.
fn properties() -> Result<WriterPropertiesBuilder, Error> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(Error::parquet(WRITING))?;
    Ok(WriterProperties::builder()
        .set_created_by(concat!("aap ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_data_page_size_limit(PAGE_BYTES)
        .set_dictionary_page_size_limit(PAGE_BYTES))
}

/// The columns of a file.
pub(crate) fn schema_of(file: &File) -> Result<SchemaRef, Error> {
    let file = file.try_clone().map_err(|error| Error::parquet(READING)(error.into()))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(Error::parquet(READING))?;
    Ok(builder.schema().clone())
}

/// Reads a file, `rows` at a time; with `only`, nothing but these columns.
pub(crate) fn read(
    file: &File,
    rows: usize,
    only: Option<&[usize]>,
) -> Result<ParquetRecordBatchReader, Error> {
    let file = file.try_clone().map_err(|error| Error::parquet(READING)(error.into()))?;
    let mut builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(Error::parquet(READING))?;
    if let Some(only) = only {
        let mask = ProjectionMask::roots(builder.parquet_schema(), only.iter().copied());
        builder = builder.with_projection(mask);
    }
    builder.with_batch_size(rows.max(1)).build().map_err(Error::parquet(READING))
}

/// Reads chosen rows of a file, all columns.
pub(crate) fn read_rows(file: &File, rows: RowSelection) -> Result<ParquetRecordBatchReader, Error> {
    let file = file.try_clone().map_err(|error| Error::parquet(READING)(error.into()))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(Error::parquet(READING))?;
    builder.with_row_selection(rows).with_batch_size(BATCH_ROWS).build().map_err(Error::parquet(READING))
}

/// Reads a whole file.
#[cfg(test)]
pub(crate) fn decode(file: &File) -> Vec<RecordBatch> {
    read(file, ROW_GROUP_ROWS, None).unwrap().map(Result::unwrap).collect()
}
