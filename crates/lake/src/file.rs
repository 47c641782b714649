//! A file of the lake in the making: named, written chunk by chunk, described for the catalogue.

use std::collections::BTreeMap;

use aap_buffer::Identity;
use aap_columns::held_bytes;
use aap_store::{LakeFile, SequenceRange};
use aap_types::{Epoch, NodeId, Sequence, StreamName};
use arrow_schema::SchemaRef;

use crate::parquet_file::ParquetWriter;
use crate::rows::{Chunk, Part};
use crate::unite::United;
use crate::{Error, Lake};

/// A file in the making. Until its commit it is an orphan, which [`Lake::remove_orphans`] takes away.
pub(crate) struct NewFile<'a> {
    united: &'a United,
    schema: SchemaRef,
    writer: ParquetWriter,
    chunk: Chunk,
    file: LakeFile,
}

impl<'a> NewFile<'a> {
    /// Begins a file in a folder of the stream.
    pub(crate) fn create(
        lake: &Lake,
        stream: &StreamName,
        folder: &str,
        united: &'a United,
    ) -> Result<Self, Error> {
        let created_us = lake.inner.clock.unix_us();
        // Unique for ever even if the clock goes back: the generation counts the openings of the landing buffer, and each
        // coordinator has one of its own.
        let Identity { generation, store_id: [a, b, c, d, ..], .. } = lake.inner.buffer.identity();
        let (store, number) = (u32::from_be_bytes([a, b, c, d]), lake.inner.next_file());
        let unique = format!("{created_us:016x}-{generation:04x}-{number:06x}-{store:08x}");
        let path = format!("{folder}/{unique}.parquet");
        lake.inner.orphans().push(path.clone());
        let schema = united.schema();
        let writer = ParquetWriter::new(lake.inner.storage.create(&path)?, schema.clone(), united.ts())?;
        let file = LakeFile {
            stream: stream.clone(),
            path,
            rows: 0,
            bytes: 0,
            memory_bytes: 0,
            ts_min_us: 0,
            ts_max_us: 0,
            ranges: vec![],
            created_us,
        };
        Ok(Self { united, schema, writer, chunk: Chunk::new(), file })
    }

    /// Adds a row of `parts`. Returns whether nothing is held of it, or of any before.
    pub(crate) fn row(&mut self, parts: &[Part], part: usize, row: usize) -> Result<bool, Error> {
        let full = self.chunk.pick(parts, part, row, self.schema.fields().len());
        if full {
            self.flush(parts)?;
        }
        Ok(full)
    }

    /// Writes what was picked.
    pub(crate) fn flush(&mut self, parts: &[Part]) -> Result<(), Error> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let rows = self.chunk.gather(parts, self.united, &self.schema)?;
        self.file.rows += rows.num_rows() as u64;
        self.file.memory_bytes += held_bytes(&rows) as u64;
        self.writer.write(&rows)
    }

    /// Ends the file; it is durable when this returns.
    pub(crate) fn finish(
        self,
        (ts_min_us, ts_max_us): (i64, i64),
        ranges: Vec<SequenceRange>,
    ) -> Result<LakeFile, Error> {
        let bytes = self.writer.finish()?;
        tracing::debug!(path = %self.file.path, rows = self.file.rows, bytes, "lake file written");
        Ok(LakeFile { bytes, ts_min_us, ts_max_us, ranges, ..self.file })
    }
}

/// Which batches rows come from: one range for each node and epoch.
#[derive(Debug, Default)]
pub(crate) struct Ranges(BTreeMap<(NodeId, Epoch), (Sequence, Sequence)>);

impl Ranges {
    pub(crate) fn add(&mut self, node: &NodeId, epoch: Epoch, first: Sequence, last: Sequence) {
        let range = self.0.entry((node.clone(), epoch)).or_insert((first, last));
        *range = (range.0.min(first), range.1.max(last));
    }

    pub(crate) fn list(self) -> Vec<SequenceRange> {
        let named = self.0.into_iter();
        named.map(|((node, epoch), (first, last))| SequenceRange { node, epoch, first, last }).collect()
    }
}
