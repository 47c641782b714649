//! From frames to visible files: read, decode, unite, sort, write, commit, advance.

use std::collections::{BTreeMap, BTreeSet};

use aap_buffer::{Frame, FrameKind};
use aap_runtime::failpoint;
use aap_store::{CursorMove, LakeCommit, LakeFile, RowCounts, SequenceRange};
use aap_types::{Epoch, NodeId, Sequence, StreamKey, StreamName};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use bytes::Bytes;
use tokio::task::spawn_blocking;
use tracing::debug;

use crate::lake::{CONSUMER, READ_BYTES, frame_info};
use crate::partition::{DayOfRows, by_day, identify, ts_column};
use crate::unite::{sql_type, unite};
use crate::{Error, Lake, manifest, parquet_file};

/// Rows of one load: `u32` row numbers must do, and memory must be bounded even for rows of few bytes.
const ROWS_MAX: u64 = 4 << 20;

/// A file and what stands in it.
pub(crate) type NewFile = (LakeFile, Bytes);
/// Names and types.
pub(crate) type Columns = Vec<(String, String)>;

/// A change that is ready to be written.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) files: Vec<NewFile>,
    pub(crate) commit: LakeCommit,
    /// Whether more of the stream waits.
    pub(crate) more: bool,
}

impl Lake {
    /// Brings what waits of a stream into the lake, about `file_bytes` of it. Returns whether more waits.
    pub async fn load(&self, stream: &StreamName) -> Result<bool, Error> {
        let _turn = self.inner.turn.lock().await;
        let (lake, name) = (self.clone(), stream.clone());
        let Some(prepared) = spawn_blocking(move || lake.prepare_load(&name)).await?? else {
            return Ok(false);
        };
        let more = prepared.more;
        self.publish(prepared).await?;
        Ok(more)
    }

    /// Brings everything that waits into the lake.
    pub async fn load_all(&self) -> Result<(), Error> {
        let streams: BTreeSet<StreamName> =
            self.inner.buffer.tails().into_iter().map(|(key, _)| key.stream).collect();
        for stream in streams {
            while self.load(&stream).await? {}
        }
        Ok(())
    }

    /// Writes the files, makes them visible, and only then lets go of what they replace.
    pub(crate) async fn publish(&self, prepared: Prepared) -> Result<(), Error> {
        let Prepared { files, commit, .. } = prepared;
        for (file, bytes) in files {
            self.inner.storage.create(&file.path, bytes).await?;
        }
        failpoint::hit("lake.after_files_before_commit");
        let (lake, change) = (self.clone(), commit.clone());
        let committed = spawn_blocking(move || lake.commit(&change)).await?;
        if let Err(Error::Store(stale)) = &committed
            && stale.is_stale_view()
        {
            // Any other failure leaves it open whether the commit stands; the next start sweeps.
            let invisible = commit.add.iter().map(|file| file.path.clone()).collect();
            self.inner.storage.remove(invisible).await;
        }
        committed?;
        self.inner.pins.hide(commit.remove);
        self.unlink_unread().await;
        Ok(())
    }

    fn commit(&self, change: &LakeCommit) -> Result<(), Error> {
        let inner = &self.inner;
        inner.store.commit(change)?;
        failpoint::hit("lake.after_commit_before_manifest");
        manifest::write(&inner.storage, &inner.store.catalogue()?)?;
        failpoint::hit("lake.after_manifest_before_advance");
        for moved in &change.cursors {
            inner.buffer.advance(CONSUMER, &moved.key, moved.to);
            inner.waiting.passed(&moved.key, moved.to);
        }
        debug!(stream = %change.stream, files = change.add.len(), rows = change.counts.rows, "lake changed");
        Ok(())
    }

    /// Reads what waits of a stream and makes files of it. `None` when nothing waits. Blocking.
    fn prepare_load(&self, stream: &StreamName) -> Result<Option<Prepared>, Error> {
        let cuts = self.inner.store.catalogue()?.cursors;
        let mut taken = Taken { room: self.inner.config.file_bytes.0.max(1), ..Taken::default() };
        for (key, tail) in self.inner.buffer.tails().into_iter().filter(|(key, _)| key.stream == *stream) {
            let cut = cuts.iter().find(|(known, _)| *known == key).map_or(Sequence::ZERO, |(_, cut)| *cut);
            // A frame can be loaded between becoming durable and being noted; what was noted late is dropped here.
            self.inner.waiting.passed(&key, cut);
            if cut < tail {
                self.take(&mut taken, key, cut, tail)?;
            }
        }
        if taken.cursors.is_empty() {
            return Ok(None);
        }
        let (files, columns) = match taken.batches.is_empty() {
            true => (vec![], vec![]),
            false => self.files_of(stream, &taken.batches)?,
        };
        let commit = LakeCommit {
            stream: stream.clone(),
            add: files.iter().map(|(file, _)| file.clone()).collect(),
            remove: vec![],
            cursors: taken.cursors,
            counts: taken.counts,
            columns,
        };
        Ok(Some(Prepared { files, commit, more: taken.more }))
    }

    /// Takes frames of one key after its cut, until there is no room.
    fn take(&self, taken: &mut Taken, key: StreamKey, cut: Sequence, tail: Sequence) -> Result<(), Error> {
        let mut to = cut;
        while to < tail {
            if taken.is_full() {
                taken.more = true;
                break;
            }
            let frames = self.inner.buffer.read(&key, to, READ_BYTES)?;
            let Some(last) = frames.last() else { break };
            to = last.last_sequence();
            for frame in &frames {
                taken.add(frame, self.inner.clock.unix_us())?;
            }
        }
        if to > cut {
            taken.cursors.push(CursorMove { key, from: cut, to });
        }
        Ok(())
    }

    /// One file for each day in `batches`, and the columns of all. Blocking.
    pub(crate) fn files_of(
        &self,
        stream: &StreamName,
        batches: &[RecordBatch],
    ) -> Result<(Vec<NewFile>, Columns), Error> {
        let rows = unite(batches)?;
        let schema = rows.schema();
        let columns = schema.fields().iter().map(|field| (field.name().clone(), sql_type(field.data_type())));
        let columns = columns.collect();
        let days = by_day(&rows)?;
        drop(rows);
        let files = days.iter().enumerate().map(|(number, day)| self.file_of(stream, day, number));
        Ok((files.collect::<Result<_, _>>()?, columns))
    }

    fn file_of(
        &self,
        stream: &StreamName,
        day: &DayOfRows,
        number: usize,
    ) -> Result<(LakeFile, Bytes), Error> {
        let bytes = parquet_file::encode(&day.rows, ts_column(&day.rows.schema()))?;
        let created_us = self.inner.clock.unix_us();
        // Unique for ever even if the clock goes back: the generation counts the openings of the landing buffer.
        let generation = self.inner.buffer.identity().generation;
        let unique =
            format!("{created_us:016x}-{generation:04x}-{:04x}-{number:04x}", self.inner.next_file());
        let file = LakeFile {
            stream: stream.clone(),
            path: format!("{stream}/date={}/{unique}.parquet", day.date),
            rows: day.rows.num_rows() as u64,
            bytes: bytes.len() as u64,
            memory_bytes: day.rows.get_array_memory_size() as u64,
            ts_min_us: day.ts_min_us,
            ts_max_us: day.ts_max_us,
            ranges: ranges_of(&day.rows),
            created_us,
        };
        Ok((file, bytes))
    }
}

/// What a load has taken so far.
#[derive(Debug, Default)]
struct Taken {
    batches: Vec<RecordBatch>,
    cursors: Vec<CursorMove>,
    counts: RowCounts,
    room: u64,
    more: bool,
}

impl Taken {
    fn is_full(&self) -> bool {
        self.counts.raw_bytes >= self.room || self.counts.rows >= ROWS_MAX
    }

    fn add(&mut self, frame: &Frame, now_us: i64) -> Result<(), Error> {
        self.counts.add(&frame_info(frame, now_us).counts);
        if matches!(frame.kind, FrameKind::Data) {
            let batch = aap_buffer::decode(&frame.schema, &frame.payload, None)?;
            self.batches.push(identify(&batch, &frame.id)?);
        }
        Ok(())
    }
}

/// Which batches the rows come from, by node and epoch.
fn ranges_of(rows: &RecordBatch) -> Vec<SequenceRange> {
    let text = |name| rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    let number = |name| rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<UInt64Type>());
    let (Some(nodes), Some(epochs), Some(sequences)) = (text("_node"), number("_epoch"), number("_seq"))
    else {
        return vec![];
    };
    let mut ranges: BTreeMap<(&str, u64), (u64, u64)> = BTreeMap::new();
    for row in 0..rows.num_rows() {
        let sequence = sequences.value(row);
        let range = ranges.entry((nodes.value(row), epochs.value(row))).or_insert((sequence, sequence));
        *range = (range.0.min(sequence), range.1.max(sequence));
    }
    let named = ranges.into_iter().filter_map(|((node, epoch), (first, last))| {
        let node: NodeId = node.parse().ok()?;
        Some(SequenceRange { node, epoch: Epoch(epoch), first: Sequence(first), last: Sequence(last) })
    });
    named.collect()
}
