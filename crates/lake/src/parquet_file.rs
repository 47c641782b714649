//! Batches to the bytes of a Parquet file, and back.

use arrow_array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::Error;

/// Small enough that a query of a short time skips most of a day's file; large enough for good compression.
const ROW_GROUP_ROWS: usize = 256 << 10;
/// Three times the effort of level 1 for a tenth less space: files are written once and read for months.
const ZSTD_LEVEL: i32 = 3;

/// Writes one batch, which is sorted by its column number `ts_column`, if it has one.
pub(crate) fn encode(batch: &RecordBatch, ts_column: Option<usize>) -> Result<Bytes, Error> {
    let doing = "write Parquet";
    let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(Error::parquet(doing))?;
    let sorted = ts_column
        .and_then(|column| i32::try_from(column).ok())
        .map(|column_idx| vec![SortingColumn { column_idx, descending: false, nulls_first: true }]);
    let properties = WriterProperties::builder()
        .set_created_by(concat!("aap ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_sorting_columns(sorted)
        .build();
    let mut bytes = vec![];
    let mut writer =
        ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).map_err(Error::parquet(doing))?;
    writer.write(batch).map_err(Error::parquet(doing))?;
    writer.close().map_err(Error::parquet(doing))?;
    Ok(Bytes::from(bytes))
}

/// Reads a whole file.
pub(crate) fn decode(bytes: Bytes) -> Result<Vec<RecordBatch>, Error> {
    let doing = "read Parquet";
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.with_batch_size(ROW_GROUP_ROWS).build())
        .map_err(Error::parquet(doing))?;
    reader.collect::<Result<_, _>>().map_err(Error::arrow(doing))
}
