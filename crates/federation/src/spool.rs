//! Rows on their way from another system to the engine: Arrow IPC streams in files, counted and bounded.

use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aap_types::{ExitCode, Problem};
use arrow_array::RecordBatch;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{Schema, SchemaRef};
use camino::Utf8PathBuf;

/// The key of a field's metadata that holds the engine's type of its column, where the field's own is another.
pub const TYPE_KEY: &str = "duckdb.type";

/// What one query may still fetch, in bytes. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    left: Arc<AtomicU64>,
    whole: u64,
    problem: fn(u64) -> Problem,
}

impl Budget {
    /// So many bytes for all tables of other systems together.
    pub fn new(bytes: u64) -> Self {
        Self::of(bytes, fetched_too_much)
    }

    /// So many bytes of something else; `problem` says that they are not enough.
    pub fn of(bytes: u64, problem: fn(u64) -> Problem) -> Self {
        Self { left: Arc::new(AtomicU64::new(bytes)), whole: bytes, problem }
    }

    /// What it was in the beginning.
    pub fn whole(&self) -> u64 {
        self.whole
    }

    /// Uses some of it.
    ///
    /// # Errors
    /// [`Self::exceeded`]; then nothing was used.
    pub fn take(&self, bytes: u64) -> Result<(), Problem> {
        let taken =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.map(drop).map_err(|_| self.exceeded())
    }

    /// That it is not enough.
    pub fn exceeded(&self) -> Problem {
        (self.problem)(self.whole)
    }
}

fn fetched_too_much(whole: u64) -> Problem {
    let message =
        format!("the query fetches more than {} MiB from other systems and nodes", whole / (1 << 20));
    Problem::new("query.fetched_too_much", ExitCode::Failed, message)
        .hint("filter by columns with plain comparisons, name fewer columns, or add a LIMIT")
        .hint_command("see what was pushed and what was not", "aap query --explain \"…\"")
        .hint("or raise `query.fetched` of the coordinator")
}

/// Files of rows, one for each run of batches with the same columns; the engine unites them by name. Writes go to the page
/// cache: the files are read by the engine and removed.
pub struct Spool {
    path: Utf8PathBuf,
    files: Vec<Utf8PathBuf>,
    budget: Budget,
    writer: Option<StreamWriter<BufWriter<File>>>,
    schema: Option<SchemaRef>,
    rows: u64,
    bytes: u64,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("path", &self.path).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Spool {
    /// Will write to files whose names begin with `path`. None of them may be there.
    pub fn new(path: Utf8PathBuf, budget: Budget) -> Self {
        Self { path, files: vec![], budget, writer: None, schema: None, rows: 0, bytes: 0 }
    }

    /// What it wrote.
    pub fn files(&self) -> &[Utf8PathBuf] {
        &self.files
    }

    /// Says what the columns are from here on. Needed where there may be no row.
    ///
    /// # Errors
    /// `query.scratch`.
    pub fn begin(&mut self, schema: &Schema) -> Result<(), Problem> {
        self.end_file()?;
        let path = Utf8PathBuf::from(format!("{}-{}.arrow", self.path, self.files.len()));
        let file = File::create_new(&path).map_err(|error| self.failed(&error))?;
        self.files.push(path);
        let writer =
            StreamWriter::try_new(BufWriter::new(file), schema).map_err(|error| self.failed(&error))?;
        (self.writer, self.schema) = (Some(writer), Some(Arc::new(schema.clone())));
        Ok(())
    }

    /// Appends rows. Blocks on the page cache only.
    ///
    /// # Errors
    /// `query.fetched_too_much`, `query.scratch`.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Problem> {
        let bytes = batch.get_array_memory_size() as u64;
        self.budget.take(bytes)?;
        if self.schema.as_ref() != Some(batch.schema_ref()) {
            self.begin(batch.schema_ref())?;
        }
        let written = self.writer.as_mut().map_or(Ok(()), |writer| writer.write(batch));
        written.map_err(|error| self.failed(&error))?;
        self.rows += batch.num_rows() as u64;
        self.bytes += bytes;
        Ok(())
    }

    /// Takes over a file that holds such a stream already. Its bytes have been taken from the budget as they came.
    ///
    /// # Errors
    /// `query.scratch`.
    pub fn take_over(&mut self, path: Utf8PathBuf, rows: u64, bytes: u64) -> Result<(), Problem> {
        self.end_file()?;
        self.schema = None;
        self.files.push(path);
        self.rows += rows;
        self.bytes += bytes;
        Ok(())
    }

    /// Ends the last file.
    ///
    /// # Errors
    /// `query.scratch`.
    pub fn finish(&mut self) -> Result<(), Problem> {
        self.end_file()
    }

    fn end_file(&mut self) -> Result<(), Problem> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        writer.finish().and_then(|()| writer.flush()).map_err(|error| self.failed(&error))
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of them in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> Problem {
        Problem::new("query.scratch", ExitCode::Failed, format!("cannot write `{}`", self.path))
            .caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Int64Array;
    use arrow_schema::{DataType, Field};

    use super::*;

    #[test]
    fn rows_are_counted_and_bounded_over_all_tables_of_a_query() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let batch =
            RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from_iter_values(0..100))])
                .unwrap();
        let size = batch.get_array_memory_size() as u64;
        let budget = Budget::new(size * 3);
        let mut first = Spool::new(root.join("1"), budget.clone());
        let mut second = Spool::new(root.join("2"), budget);
        for spool in [&mut first, &mut second] {
            spool.begin(&schema).unwrap();
            spool.write(&batch).unwrap();
        }
        second.write(&batch).unwrap();
        assert_eq!(second.write(&batch).unwrap_err().code, "query.fetched_too_much");
        assert_eq!((first.rows(), second.rows(), second.bytes()), (100, 200, 2 * size));
        second.finish().unwrap();
        let reader =
            arrow_ipc::reader::StreamReader::try_new(File::open(&second.files()[0]).unwrap(), None).unwrap();
        assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 200);
        assert_eq!(second.files().len(), 1);
        let other = Schema::new(vec![Field::new("m", DataType::Int64, true)]);
        second.begin(&other).unwrap();
        assert_eq!(second.files().len(), 2, "other columns begin another file");
    }
}
