//! Rows of one stream of one store behind a position, in the order in which they were sealed, wherever they lie now: in the
//! landing buffer, or, once that has let go of them, in files of the lake. What sinks are written from.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use aap_buffer::{Frame, FrameKind, mutant};
use aap_store::{LakeFile, SequenceRange};
use aap_types::{Sequence, StreamKey, StreamName};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use parquet::arrow::arrow_reader::RowSelection;

use crate::lake::{READ_BYTES, lock};
use crate::load::part_of;
use crate::rows::{Part, gather};
use crate::unite::{Columns, United};
use crate::{Error, Lake, parquet_file};

/// How much of it a reader wants at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedLimits {
    /// Rows; one batch at least is given.
    pub rows: usize,
    /// Bytes of the columns in memory, about.
    pub bytes: u64,
}

/// Rows that follow on a position.
#[derive(Debug, Clone)]
pub struct Fed {
    /// Everything up to here was looked at.
    pub through: Sequence,
    /// The rows, ordered by (`_seq`, `_row`), in the types of the stream's columns, with the system columns last. No rows where
    /// the batches have none: they were given up, or deleted.
    pub rows: RecordBatch,
    /// Bytes as the sources gave them; 0 for what comes from files.
    pub raw_bytes: u64,
    /// Rows that were given up on the way here, and those of frames that cannot be read.
    pub lost: u64,
}

impl Lake {
    /// Rows of `key` after `after`; `None` when there are none yet. Blocking.
    ///
    /// Deleted rows are left out. Rows that are damaged in the landing buffer come from the lake if it has them.
    ///
    /// # Errors
    /// Whatever keeps segments or files from being read.
    pub fn feed(&self, key: &StreamKey, after: Sequence, limits: FeedLimits) -> Result<Option<Fed>, Error> {
        let from = match mutant::is("feedagain") {
            true => Sequence::ZERO,
            false => after.max(self.deleted_through(key)),
        };
        let mut taken = Taken::new(self, key, from);
        while !taken.is_full(limits) {
            let frames = self.inner.buffer.read(key, taken.through, READ_BYTES)?;
            if frames.is_empty() {
                // A landing buffer that was lost does not know the keys that the lake has.
                let cut = self.cut(key);
                if taken.through < cut && taken.parts.is_empty() {
                    if let Some(found) = self.feed_files(key, taken.through, cut, limits)? {
                        return Ok(Some(found));
                    }
                    taken.through = cut;
                }
                break;
            }
            for frame in frames {
                if taken.is_full(limits) {
                    break;
                }
                match &frame.kind {
                    FrameKind::Skip { to, rows, .. } => {
                        // What is not here may be there.
                        let is_there = !self.files_of(key, taken.through, *to)?.0.is_empty();
                        if is_there && !taken.parts.is_empty() {
                            // The next call begins with the files.
                            return taken.finish().map(Some);
                        }
                        if let Some(found) = self.feed_files(key, taken.through, *to, limits)? {
                            return Ok(Some(found));
                        }
                        taken.lost += rows;
                        taken.through = *to;
                    }
                    FrameKind::Data => taken.add(frame),
                }
            }
        }
        match taken.through > after {
            true => taken.finish().map(Some),
            false => Ok(None),
        }
    }

    /// Where each key ends, of those in the landing buffer and those that only the lake has.
    pub fn ends(&self) -> Vec<(StreamKey, Sequence)> {
        let mut ends: HashMap<StreamKey, Sequence> = lock(&self.inner.told).cuts.clone();
        for (key, tail) in self.inner.buffer.tails() {
            let end = ends.entry(key).or_default();
            *end = (*end).max(tail);
        }
        ends.into_iter().collect()
    }

    /// Up to where a key is in the lake, or deleted, as far as readers were told.
    pub fn cut(&self, key: &StreamKey) -> Sequence {
        lock(&self.inner.told).cuts.get(key).copied().unwrap_or_default()
    }

    fn deleted_through(&self, key: &StreamKey) -> Sequence {
        lock(&self.inner.told).deleted.get(key).copied().unwrap_or_default()
    }

    /// Visible files with batches of a key between two sequences, and the columns that the catalogue knows.
    fn files_of(
        &self,
        key: &StreamKey,
        after: Sequence,
        through: Sequence,
    ) -> Result<(Vec<LakeFile>, Columns), Error> {
        let catalogue = self.catalogue()?;
        let has = |file: &LakeFile| {
            file.ranges.iter().any(|range| {
                range.node == key.node
                    && range.epoch == key.epoch
                    && range.last > after
                    && range.first <= through
            })
        };
        let files =
            catalogue.files.into_iter().filter(|file| file.stream == key.stream && has(file)).collect();
        let known = catalogue.streams.into_iter().find(|stream| stream.stream == key.stream);
        Ok((files, known.map(|known| known.columns).unwrap_or_default()))
    }

    /// The same from files, for sequences that the landing buffer does not have; `None` if no file has any of them.
    fn feed_files(
        &self,
        key: &StreamKey,
        after: Sequence,
        to: Sequence,
        limits: FeedLimits,
    ) -> Result<Option<Fed>, Error> {
        let _pin = self.pin();
        let (mut files, known) = self.files_of(key, after, to)?;
        // The files of the next stretch alone: history may be long, and each call looks through what it takes here.
        let stretch = |file: &LakeFile| {
            range_of(file, key).map_or((Sequence(u64::MAX), to), |range| (range.first, range.last))
        };
        files.sort_by_key(|file| stretch(file));
        let horizon = files.first().map_or(to, |first| stretch(first).1.min(to));
        files.retain(|file| stretch(file).0 <= horizon);
        self.fetch(&files)?;
        // Nothing of the key lies between the horizon and the next file.
        let to = horizon;
        let mut found = vec![];
        let mut rows_by_sequence: BTreeMap<u64, usize> = BTreeMap::new();
        for file in &files {
            let opened = self.inner.storage.open_object(&file.path)?;
            let places = Places::find(&opened, key, after, to)?;
            places
                .rows
                .iter()
                .for_each(|(seq, rows)| *rows_by_sequence.entry(*seq).or_default() += rows.len());
            if !places.rows.is_empty() {
                found.push((file, opened, places));
            }
        }
        if files.is_empty() {
            return Ok(None);
        }
        let row_bytes =
            files.iter().map(|file| file.memory_bytes / file.rows.max(1)).max().unwrap_or(1).max(1);
        let rows_max =
            limits.rows.min(usize::try_from(limits.bytes / row_bytes).unwrap_or(usize::MAX)).max(1);
        let (mut rows, mut last, mut all) = (0, 0, true);
        for (seq, count) in &rows_by_sequence {
            if rows > 0 && rows + count > rows_max {
                all = false;
                break;
            }
            rows += count;
            last = *seq;
        }
        let mut taken = Taken::over(after, &known);
        for (_, opened, places) in &found {
            let selection = places.selection(last);
            for batch in parquet_file::read_rows(opened, selection)? {
                taken.add_part(Part::new(None, batch.map_err(Error::arrow("read Parquet"))?));
            }
        }
        taken.through = if all { to } else { Sequence(last) };
        taken.finish().map(Some)
    }
}

/// Rows of one stream from several batches, all with system columns, as one batch in the order of (`_seq`, `_row`).
///
/// # Errors
/// A batch without system columns.
pub fn unite(batches: Vec<RecordBatch>) -> Result<RecordBatch, Error> {
    let mut taken = Taken::over(Sequence::ZERO, &[]);
    batches.into_iter().for_each(|batch| taken.add_part(Part::new(None, batch)));
    Ok(taken.finish()?.rows)
}

/// What a file has of a key.
fn range_of<'a>(file: &'a LakeFile, key: &StreamKey) -> Option<&'a SequenceRange> {
    file.ranges.iter().find(|range| range.node == key.node && range.epoch == key.epoch)
}

/// Where the rows of a key stand in a file, by sequence.
struct Places {
    rows: Vec<(u64, Range<usize>)>,
    total: usize,
}

impl Places {
    fn find(file: &File, key: &StreamKey, after: Sequence, to: Sequence) -> Result<Self, Error> {
        let schema = parquet_file::schema_of(file)?;
        let index = |name: &str| schema.index_of(name).map_err(Error::arrow("find a system column"));
        let columns = [index("_node")?, index("_epoch")?, index("_seq")?];
        let mut rows: Vec<(u64, Range<usize>)> = vec![];
        let mut at = 0;
        for batch in parquet_file::read(file, 8192, Some(&columns))? {
            let batch = batch.map_err(Error::arrow("read Parquet"))?;
            let column = |name: &str| batch.column_by_name(name).expect("it was asked for");
            let nodes = column("_node").as_string::<i32>();
            let epochs = column("_epoch").as_primitive::<UInt64Type>().values();
            let sequences = column("_seq").as_primitive::<UInt64Type>().values();
            for row in 0..batch.num_rows() {
                let seq = sequences[row];
                let is_wanted = seq > after.0
                    && seq <= to.0
                    && epochs[row] == key.epoch.0
                    && nodes.value(row) == key.node.as_str();
                if !is_wanted {
                    continue;
                }
                match rows.last_mut() {
                    Some((last, range)) if *last == seq && range.end == at + row => range.end += 1,
                    _ => rows.push((seq, at + row..at + row + 1)),
                }
            }
            at += batch.num_rows();
        }
        Ok(Self { rows, total: at })
    }

    /// The rows up to a sequence.
    fn selection(&self, through: u64) -> RowSelection {
        let ranges = self.rows.iter().filter(|(seq, _)| *seq <= through).map(|(_, range)| range.clone());
        RowSelection::from_consecutive_ranges(ranges, self.total)
    }
}

/// Rows on their way.
struct Taken {
    united: United,
    parts: Vec<Part>,
    rows: usize,
    bytes: u64,
    raw_bytes: u64,
    lost: u64,
    through: Sequence,
}

impl Taken {
    fn new(lake: &Lake, key: &StreamKey, after: Sequence) -> Self {
        let known = lock(&lake.inner.told).columns.get(&key.stream).cloned();
        Self::over(after, known.as_deref().map_or(&[], |known| known.as_slice()))
    }

    fn over(after: Sequence, known: &[(String, String)]) -> Self {
        Self {
            united: United::over(known),
            parts: vec![],
            rows: 0,
            bytes: 0,
            raw_bytes: 0,
            lost: 0,
            through: after,
        }
    }

    fn is_full(&self, limits: FeedLimits) -> bool {
        self.rows >= limits.rows || self.bytes >= limits.bytes
    }

    fn add(&mut self, frame: Frame) {
        self.through = frame.last_sequence();
        match part_of(&frame) {
            Ok(part) => {
                self.raw_bytes += frame.raw_bytes;
                self.add_part(part);
            }
            Err(reason) => {
                // The lake makes a dead letter of it when it meets it.
                tracing::warn!(batch = %frame.id, %reason, "a batch cannot be read for a sink");
                self.lost += u64::from(frame.rows);
            }
        }
    }

    fn add_part(&mut self, part: Part) {
        self.united.add(&part.batch.schema());
        self.rows += part.batch.num_rows();
        self.bytes = self.bytes.saturating_add(part.expanded_bytes);
        self.parts.push(part);
    }

    fn finish(mut self) -> Result<Fed, Error> {
        let Self { united, parts, .. } = &mut self;
        parts.iter().for_each(|part| united.try_batch(&part.batch));
        parts.iter_mut().for_each(|part| part.place(united));
        let schema = united.schema();
        let picks = in_order(parts)?;
        let rows = match picks.is_empty() {
            true => RecordBatch::new_empty(schema),
            false => gather(parts, &picks, united, &schema).map_err(Error::arrow("gather rows"))?,
        };
        Ok(Fed { through: self.through, rows, raw_bytes: self.raw_bytes, lost: self.lost })
    }
}

/// Every row as (part, row), by sequence and row. Frames come in that order; files are sorted by time.
fn in_order(parts: &[Part]) -> Result<Vec<(usize, usize)>, Error> {
    let is_frames = parts.iter().all(|part| part.id.is_some());
    let rows = parts.iter().enumerate();
    let all = rows.flat_map(|(number, part)| (0..part.batch.num_rows()).map(move |row| (number, row)));
    if is_frames {
        return Ok(all.collect());
    }
    let numbers = |part: &Part, name: &str| {
        let column = part.batch.column_by_name(name).cloned();
        column.ok_or_else(|| {
            Error::arrow("find a system column")(arrow_schema::ArrowError::SchemaError(name.to_owned()))
        })
    };
    let columns: Vec<_> = parts
        .iter()
        .map(|part| Ok((numbers(part, "_seq")?, numbers(part, "_row")?)))
        .collect::<Result<_, Error>>()?;
    let mut all: Vec<(usize, usize)> = all.collect();
    all.sort_by_key(|(part, row)| {
        let (sequences, rows) = &columns[*part];
        (sequences.as_primitive::<UInt64Type>().value(*row), rows.as_primitive::<UInt64Type>().value(*row))
    });
    Ok(all)
}

/// The columns of each stream, as the catalogue has them.
pub(crate) type KnownColumns = HashMap<StreamName, Arc<Columns>>;
