//! Slices as rows of a table, in batches; and the rows that no table takes.

use std::collections::HashMap;

use aap_sinks::{BadRow, Slice};
use aap_types::Epoch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, TimestampMicrosecondArray, UInt64Array};
use arrow_schema::ArrowError;
use scylla::serialize::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::RowWriter;
use scylla::statement::prepared::PreparedStatement;

use crate::cells::{Cells, micros};
use crate::kind::Kind;
use crate::ledger::signed;
use crate::names::{self, KEY, Named, ROW, SEQ, TS, TS_US, quoted};
use crate::spec::Bucket;
use crate::table::{Table, Wanted};

/// Bytes of a batch. It is one partition's, which Cassandra applies as one mutation and does not warn of; larger ones gain
/// little, and hold a coordinator's memory longer.
const BATCH_BYTES: usize = 16 << 10;
/// Largest row: below the 16 MiB that Cassandra takes as a message, and as a mutation, with room for the key and the lengths.
const ROW_BYTES_MAX: usize = 15 << 20;
/// What a value takes besides itself.
const CELL_BYTES: usize = 4;
/// What the key takes, about: its numbers. Node and stream are counted.
const KEY_BYTES: usize = 64;
/// Batches of a stream without times in one partition: as many rows as an hour of a lively stream has.
const TIMELESS_BATCHES: i64 = 1000;
/// Random bits below the milliseconds of an epoch.
const EPOCH_RANDOM_BITS: u32 = 20;

/// What a slice's rows need of their table.
pub(crate) fn wanted(slice: &Slice) -> Vec<Wanted> {
    let schema = slice.rows.schema();
    names::columns(&schema)
        .into_iter()
        .map(|Named { index, name, us }| Wanted { name, kind: schema.field(index).data_type().clone(), us })
        .collect()
}

/// A slice as rows of its table.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    stream: &'a str,
    node: &'a str,
    epoch: i64,
    epoch_us: i64,
    seqs: &'a UInt64Array,
    rows: &'a UInt64Array,
    ts: Option<TimestampMicrosecondArray>,
    bucket_ms: i64,
    cells: Vec<Cells>,
    names: Vec<String>,
}

impl<'a> Rows<'a> {
    /// The rows of a slice for a table that fits them.
    pub(crate) fn of(slice: &'a Slice, table: &Table, bucket: Bucket) -> Result<Self, ArrowError> {
        let batch = &slice.rows;
        let numbers = |name: &str| {
            let column =
                batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<UInt64Type>());
            column.ok_or_else(|| ArrowError::SchemaError(format!("the rows have no `{name}`")))
        };
        let ts = batch.column_by_name(TS).filter(|column| Kind::of(column.data_type()) == Kind::Timestamp);
        let mut rows = Self {
            stream: slice.key.stream.as_str(),
            node: slice.key.node.as_str(),
            epoch: signed(slice.key.epoch.0),
            epoch_us: epoch_us(slice.key.epoch),
            seqs: numbers(SEQ)?,
            rows: numbers(ROW)?,
            ts: ts.map(micros).transpose()?,
            bucket_ms: bucket.ms(),
            cells: vec![],
            names: vec![],
        };
        for Named { index, name, us } in names::columns(&batch.schema()) {
            let array = batch.column(index);
            let kind = table.kind(&name).unwrap_or(Kind::Text);
            rows.cells.push(Cells::of(array, kind)?);
            rows.names.push(name);
            if let Some(us) = us.filter(|_| kind == Kind::Timestamp) {
                rows.cells.push(Cells::micros_of(array)?);
                rows.names.push(us);
            }
        }
        Ok(rows)
    }

    /// The statement that writes one, into `table` as CQL calls it.
    pub(crate) fn statement(&self, table: &str) -> String {
        let key = KEY.iter().map(|(name, _)| *name).chain([TS_US]);
        let names: Vec<String> = key.chain(self.names.iter().map(String::as_str)).map(quoted).collect();
        let marks = vec!["?"; names.len()].join(", ");
        format!("INSERT INTO {table} ({}) VALUES ({marks}) USING TIMESTAMP ?", names.join(", "))
    }

    pub(crate) fn len(&self) -> usize {
        self.seqs.len()
    }

    /// The rows that no table takes.
    pub(crate) fn bad(&self, slice: usize) -> Vec<BadRow> {
        let mut bad: HashMap<usize, String> = HashMap::new();
        for (cells, name) in self.cells.iter().zip(&self.names) {
            for (row, why) in cells.misfits() {
                bad.entry(row).or_insert_with(|| format!("column `{name}`: {why}"));
            }
        }
        for row in 0..self.len() {
            let size = self.size(row);
            if size > ROW_BYTES_MAX {
                let limit = ROW_BYTES_MAX >> 20;
                bad.entry(row).or_insert_with(|| {
                    format!("the row has {size} bytes; Cassandra takes {limit} MiB at a time")
                });
            } else if self.seqs.value(row).max(self.rows.value(row)) > i64::MAX as u64 {
                bad.entry(row).or_insert_with(|| "its number does not fit into a bigint".to_owned());
            }
        }
        let mut bad: Vec<BadRow> =
            bad.into_iter().map(|(row, reason)| BadRow { slice, row, reason }).collect();
        bad.sort_by_key(|bad| bad.row);
        bad
    }

    /// The rows by partition, a few kilobytes at a time.
    pub(crate) fn batches(&self) -> Vec<Vec<usize>> {
        let mut batches = vec![];
        let mut open: HashMap<i64, (Vec<usize>, usize)> = HashMap::new();
        for row in 0..self.len() {
            let size = self.size(row);
            let (rows, bytes) = open.entry(self.bucket(row)).or_default();
            if *bytes + size > BATCH_BYTES && !rows.is_empty() {
                batches.push(std::mem::take(rows));
                *bytes = 0;
            }
            rows.push(row);
            *bytes += size;
        }
        batches.extend(open.into_values().map(|(rows, _)| rows));
        batches
    }

    /// Bytes of a row, about.
    fn size(&self, row: usize) -> usize {
        let cells: usize = self.cells.iter().map(|cells| cells.size(row) + CELL_BYTES).sum();
        KEY_BYTES + self.stream.len() + self.node.len() + cells
    }

    /// Microseconds of `ts`.
    fn ts_us(&self, row: usize) -> Option<i64> {
        self.ts.as_ref().filter(|ts| ts.is_valid(row)).map(|ts| ts.value(row))
    }

    /// Where its partition begins, in milliseconds.
    fn bucket(&self, row: usize) -> i64 {
        let number = match self.ts_us(row) {
            Some(us) => us.div_euclid(1000).div_euclid(self.bucket_ms),
            None => -1 - signed(self.seqs.value(row)) / TIMELESS_BATCHES,
        };
        number.saturating_mul(self.bucket_ms)
    }

    /// Its write time: see the documentation of the crate.
    fn written_us(&self, row: usize) -> i64 {
        self.epoch_us.saturating_add(signed(self.seqs.value(row)))
    }
}

fn epoch_us(epoch: Epoch) -> i64 {
    signed((epoch.0 >> EPOCH_RANDOM_BITS) * 1000)
}

/// One of them, for the driver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) of: &'a Rows<'a>,
    pub(crate) row: usize,
}

impl SerializeRow for Row<'_> {
    /// In the order of [`Rows::statement`].
    fn serialize(
        &self,
        _types: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        let (of, row) = (self.of, self.row);
        let mut put = |bytes: &[u8]| {
            writer.make_cell_writer().set_value(bytes).map(drop).map_err(SerializationError::new)
        };
        put(of.stream.as_bytes())?;
        put(of.node.as_bytes())?;
        let ts_us = of.ts_us(row);
        let ts_ms = ts_us.unwrap_or(0).div_euclid(1000);
        let (seq, number) = (signed(of.seqs.value(row)), signed(of.rows.value(row)));
        for value in [of.bucket(row), ts_ms, of.epoch, seq, number] {
            put(&value.to_be_bytes())?;
        }
        match ts_us {
            Some(us) => put(&us.to_be_bytes())?,
            None => drop(writer.make_cell_writer().set_unset()),
        }
        for cells in &of.cells {
            // Not NULL, which is a deletion, and stays one on the disk of every copy.
            if cells.is_absent(row) {
                writer.make_cell_writer().set_unset();
                continue;
            }
            let cell = writer.make_cell_writer();
            cells.with(row, |bytes| cell.set_value(bytes).map(drop)).map_err(SerializationError::new)?;
        }
        let cell = writer.make_cell_writer();
        cell.set_value(&of.written_us(row).to_be_bytes()).map(drop).map_err(SerializationError::new)
    }

    fn is_empty(&self) -> bool {
        false
    }
}

/// A slice's rows, the statement that writes one, and which slice it is.
#[derive(Debug)]
pub(crate) struct Ready<'a> {
    pub(crate) slice: usize,
    pub(crate) rows: Rows<'a>,
    pub(crate) statement: PreparedStatement,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aap_sinks::conformance::{key, slice};

    use super::*;

    #[test]
    fn a_batch_stays_in_its_partition_and_small_and_no_row_is_left_out() {
        let slice = slice(&key("edge-1", "events"), 10, 3_000);
        let rows = Rows::of(&slice, &Table::default(), Bucket::Hour).unwrap();
        let batches = rows.batches();
        let mut seen = BTreeSet::new();
        for batch in &batches {
            let buckets: BTreeSet<i64> = batch.iter().map(|row| rows.bucket(*row)).collect();
            assert_eq!(buckets.len(), 1);
            assert!(batch.iter().map(|row| rows.size(*row)).sum::<usize>() <= BATCH_BYTES);
            assert!(batch.iter().all(|row| seen.insert(*row)));
        }
        assert_eq!(seen.len(), slice.rows.num_rows());
        assert!(batches.len() < seen.len() / 20, "{} batches", batches.len());
        assert!(rows.bad(0).is_empty());
    }

    #[test]
    fn write_times_grow_along_a_stream_and_need_no_clock() {
        let slice = slice(&key("edge-1", "events"), 0, 9);
        let rows = Rows::of(&slice, &Table::default(), Bucket::Day).unwrap();
        let times: Vec<i64> = (0..rows.len()).map(|row| rows.written_us(row)).collect();
        assert!(times.is_sorted());
        assert_eq!(times[0], (slice.key.epoch.0 as i64 >> 20) * 1000 + 1);
        assert!(epoch_us(Epoch(u64::MAX)) > 0, "the last epoch has a time that Cassandra takes");
    }
}
