//! Many sorted files become one: read side by side, a batch of each at a time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;

use aap_store::LakeFile;
use arrow_schema::SchemaRef;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use crate::file::{NewFile, Ranges};
use crate::load::{COLUMNS_MAX, guarded};
use crate::rows::Part;
use crate::unite::{Columns, United};
use crate::{Error, Lake, parquet_file};

/// What is read of one file at a time.
const BATCH_BYTES: u64 = 512 << 10;
const BATCH_ROWS: u64 = 8192;

/// Why files could not be merged.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Files to leave alone from now on.
    pub(crate) suspects: Vec<String>,
    pub(crate) error: Error,
}

/// A file that is being read.
struct Run {
    reader: ParquetRecordBatchReader,
    /// Which of the parts holds its present batch.
    part: usize,
    row: usize,
    times: Vec<Option<i64>>,
}

impl Lake {
    /// Merges files of one folder, under a pin. Nothing is visible of it yet.
    pub(crate) fn merge(
        &self,
        group: &[LakeFile],
        known: &[(String, String)],
    ) -> Result<(LakeFile, Columns), Box<Failure>> {
        let all = |error: Error| {
            // A full disk is not the fault of what is merged.
            let is_theirs = error.is_about_data()
                || matches!(error, Error::TooManyColumns { .. } | Error::RowsDiffer { .. });
            let suspects = if is_theirs { group } else { &[] };
            Box::new(Failure { suspects: suspects.iter().map(|file| file.path.clone()).collect(), error })
        };
        let one = |file: &LakeFile, error| Box::new(Failure { suspects: vec![file.path.clone()], error });
        self.fetch(group).map_err(|error| match error.broken_file().map(str::to_owned) {
            Some(broken) => Box::new(Failure { suspects: vec![broken], error }),
            None => all(error),
        })?;
        let mut united = United::over(known);
        let mut files = vec![];
        for file in group {
            let opened = guarded(|| self.open_file(file)).map_err(|error| one(file, error))?;
            united.add(&opened.1);
            files.push(opened);
        }
        if united.len() > COLUMNS_MAX {
            return Err(all(Error::TooManyColumns { columns: united.len() }));
        }
        for (file, (opened, schema)) in group.iter().zip(&files) {
            let tried = guarded(|| try_values(&mut united, opened, schema));
            tried.map_err(|error| one(file, error))?;
        }
        let merged = guarded(|| self.merge_into(group, &files, &united)).map_err(all)?;
        Ok((merged, united.described()))
    }

    fn open_file(&self, file: &LakeFile) -> Result<(File, SchemaRef), Error> {
        let opened = self.inner.storage.open_object(&file.path)?;
        let schema = parquet_file::schema_of(&opened)?;
        Ok((opened, schema))
    }

    fn merge_into(
        &self,
        group: &[LakeFile],
        files: &[(File, SchemaRef)],
        united: &United,
    ) -> Result<LakeFile, Error> {
        let first = &group[0];
        let folder = first.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut merged = NewFile::create(self, &first.stream, folder, united)?;
        let mut parts = vec![];
        let mut runs = vec![];
        for (record, (file, _)) in group.iter().zip(files) {
            let row_bytes = record.memory_bytes / record.rows.max(1);
            let rows = (BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS);
            let reader = parquet_file::read(file, usize::try_from(rows).unwrap_or(1), None)?;
            let mut run = Run { reader, part: 0, row: 0, times: vec![] };
            if run.next_batch(&mut parts, united)? {
                runs.push(run);
            }
        }
        let mut heap: BinaryHeap<Reverse<(Option<i64>, usize)>> =
            runs.iter().enumerate().map(|(number, run)| Reverse((run.times[0], number))).collect();
        let (mut ts_min_us, mut ts_max_us) = (i64::MAX, i64::MIN);
        while let Some(Reverse((ts, number))) = heap.pop() {
            if let Some(ts) = ts {
                (ts_min_us, ts_max_us) = (ts_min_us.min(ts), ts_max_us.max(ts));
            }
            let run = &mut runs[number];
            merged.row(&parts, run.part, run.row)?;
            run.row += 1;
            if run.row < run.times.len() || run.next_batch(&mut parts, united)? {
                heap.push(Reverse((run.times[run.row], number)));
            }
            if parts.len() > 2 * runs.len() + 1 {
                merged.flush(&parts)?;
                parts = present_parts(&mut runs, parts);
            }
        }
        merged.flush(&parts)?;
        let mut ranges = Ranges::default();
        for range in group.iter().flat_map(|file| &file.ranges) {
            ranges.add(&range.node, range.epoch, range.first, range.last);
        }
        let times = if ts_min_us > ts_max_us { (0, 0) } else { (ts_min_us, ts_max_us) };
        let merged = merged.finish(times, ranges.list())?;
        match group.iter().map(|file| file.rows).sum() {
            expected if expected == merged.rows => Ok(merged),
            expected => Err(Error::RowsDiffer { expected, found: merged.rows }),
        }
    }
}

/// Finds columns whose values need text, reading no others.
fn try_values(united: &mut United, file: &File, schema: &SchemaRef) -> Result<(), Error> {
    let mut doubtful = united.doubtful_in(schema);
    if doubtful.is_empty() {
        return Ok(());
    }
    doubtful.sort_by_key(|(_, index)| *index);
    let indexes: Vec<usize> = doubtful.iter().map(|(_, index)| *index).collect();
    for batch in parquet_file::read(file, 1024, Some(&indexes))? {
        let batch = batch.map_err(Error::arrow("read Parquet"))?;
        for ((place, _), column) in doubtful.iter().zip(batch.columns()) {
            united.try_values(*place, column);
        }
    }
    Ok(())
}

impl Run {
    /// Reads on. Returns whether there was more.
    fn next_batch(&mut self, parts: &mut Vec<Part>, united: &United) -> Result<bool, Error> {
        for batch in self.reader.by_ref() {
            let batch = batch.map_err(Error::arrow("read Parquet"))?;
            if batch.num_rows() == 0 {
                continue;
            }
            let mut part = Part::new(None, batch);
            part.place(united);
            (self.row, self.times) = (0, part.times(united)?);
            self.part = parts.len();
            parts.push(part);
            return Ok(true);
        }
        self.part = usize::MAX;
        Ok(false)
    }
}

/// Keeps the parts that are still being read.
fn present_parts(runs: &mut [Run], parts: Vec<Part>) -> Vec<Part> {
    let mut parts: Vec<Option<Part>> = parts.into_iter().map(Some).collect();
    let mut present = vec![];
    for run in runs {
        if let Some(part) = parts.get_mut(run.part).and_then(Option::take) {
            run.part = present.len();
            present.push(part);
        }
    }
    present
}
