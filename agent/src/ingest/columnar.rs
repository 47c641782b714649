//! Arrow and Parquet files: spooled whole, checked, then taken batch by batch.
//!
//! Columns keep their types, with these exceptions, so that every reader downstream can unite them: text and bytes of the
//! large and view kinds become plain ones, nested values become JSON-like text, `ts` becomes microseconds UTC (and is added
//! where it is missing), and names that belong to the system get a suffix.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use aap_runtime::Home;
use aap_types::{ExitCode, Problem, SYSTEM_COLUMNS};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, DataType, Field, Schema, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::run::{Run, Whole, content_changed};
use crate::ingress::{Parcel, Sealer, Tally, positions_only};

/// Rows of a batch read from Parquet.
const BATCH_ROWS: usize = 8192;
/// Largest batch that is stored as one; larger ones are cut. A frame is at most 16 MiB decoded.
const BATCH_MEMORY_MAX: usize = 4 << 20;
/// Most columns (reliability-security 4.6).
const COLUMNS_MAX: usize = 4096;

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// One run of a columnar file. Blocks: it belongs on the blocking pool.
pub struct Columnar {
    run: Run,
    spool: File,
    size: u64,
    hasher: blake3::Hasher,
    batches: Option<Batches>,
    /// Rows read of the file so far.
    row: u64,
    done: bool,
    sealer: Sealer,
}

impl Columnar {
    /// A run that is about to be spooled into a file without a name.
    pub fn new(run: Run, home: &Home) -> Result<Self, Problem> {
        if !run.detail.codec.is_empty() {
            let message =
                format!("{} files are compressed inside: `--codec` does not apply", run.detail.format);
            return Err(Problem::new("ingest.codec_unknown", ExitCode::Usage, message));
        }
        let directory = home.tmp().join("agent");
        let spool = unnamed(&directory).map_err(|error| spool_failed(&error))?;
        Ok(Self {
            run,
            spool,
            size: 0,
            hasher: blake3::Hasher::new(),
            batches: None,
            row: 0,
            done: false,
            sealer: Sealer::default(),
        })
    }

    /// How far the run is.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Takes the next bytes of the file.
    pub fn spool(&mut self, pieces: &[bytes::Bytes]) -> Result<(), Problem> {
        for piece in pieces {
            self.hasher.update(piece);
            self.size += piece.len() as u64;
            self.spool.write_all(piece).map_err(|error| spool_failed(&error))?;
        }
        Ok(())
    }

    /// The next parcel; `None` after the one that completes the run.
    pub fn next(&mut self, observed_us: i64) -> Result<Option<Parcel>, Problem> {
        if self.done {
            return Ok(None);
        }
        if self.batches.is_none() {
            self.begin()?;
        }
        while let Some(batch) = self.batches.as_mut().and_then(Iterator::next) {
            let batch = batch.map_err(|error| unreadable(&self.run, &error))?;
            let rows = batch.num_rows() as u64;
            self.row += rows;
            if self.row <= self.run.offset || rows == 0 {
                continue;
            }
            // A run that was broken off may have ended inside of what is one batch now.
            let known = usize::try_from(self.run.offset.saturating_sub(self.row - rows)).unwrap_or(0);
            return self.parcel(&batch.slice(known, batch.num_rows() - known), observed_us).map(Some);
        }
        self.done = true;
        self.run.detail.complete = true;
        let parcel = positions_only(&self.run.stream, vec![self.run.position()]);
        parcel.map(Some).map_err(|error| unreadable(&self.run, &error))
    }

    /// Looks at the whole file: it must be what was taken before, if anything was.
    fn begin(&mut self) -> Result<(), Problem> {
        let whole = Whole::new(self.size, self.hasher.finalize().as_bytes());
        let before = self.run.detail.input.replace(whole.clone());
        if self.run.offset > 0 && before != Some(whole) {
            return Err(content_changed(&self.run.stream, &self.run.name, "the file is another"));
        }
        let file = self.spool.try_clone().map_err(|error| spool_failed(&error))?;
        self.batches = Some(open(file, &self.run)?);
        Ok(())
    }

    fn parcel(&mut self, batch: &RecordBatch, observed_us: i64) -> Result<Parcel, Problem> {
        let normal = normalise(batch, observed_us).map_err(|error| unreadable(&self.run, &error))?;
        let mut parcel = Parcel::default();
        let pieces = normal.get_array_memory_size().div_ceil(BATCH_MEMORY_MAX).clamp(1, normal.num_rows());
        let step = normal.num_rows().div_ceil(pieces);
        for from in (0..normal.num_rows()).step_by(step) {
            let piece = normal.slice(from, step.min(normal.num_rows() - from));
            let bytes = (normal.get_array_memory_size() as u64).div_ceil(pieces as u64);
            // Rows are not all of a size, so a piece may have to be cut again.
            let sealed = self.sealer.seal_parts(&piece, bytes).map_err(|error| match error {
                aap_buffer::Error::Oversize { .. } => {
                    unreadable_text(&self.run, &format!("one row of it is too large: {error}"))
                }
                error => unreadable(&self.run, &error),
            })?;
            for batch in sealed {
                let (rows, bytes) = (u64::from(batch.rows), batch.raw_bytes);
                self.run.offset += rows;
                self.run.detail.rows += rows;
                let stream = self.run.stream.clone();
                let positions = vec![self.run.position()];
                parcel.entries.push(aap_buffer::Entry::Own { stream: stream.clone(), batch, positions });
                parcel.tallies.push(Tally { stream, rows, bad: 0, bytes, replaced: 0 });
            }
        }
        Ok(parcel)
    }
}

/// A file in `directory` that vanishes with its descriptor.
fn unnamed(directory: &camino::Utf8Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::open(directory.as_std_path(), flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(File::from(file)),
        // A file system without O_TMPFILE.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            let path = directory.join(format!("spool-{}", std::process::id()));
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        Err(error) => Err(error.into()),
    }
}

fn open(mut file: File, run: &Run) -> Result<Batches, Problem> {
    let mut magic = [0; 6];
    file.seek(SeekFrom::Start(0)).map_err(|error| spool_failed(&error))?;
    let short = file.read_exact(&mut magic).is_err();
    file.seek(SeekFrom::Start(0)).map_err(|error| spool_failed(&error))?;
    let (batches, columns): (Batches, usize) = match run.detail.format.as_str() {
        _ if short => return Err(unreadable_text(run, "it is too short to be one")),
        "parquet" => {
            let builder =
                ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unreadable(run, &error))?;
            let columns = builder.schema().fields().len();
            let reader =
                builder.with_batch_size(BATCH_ROWS).build().map_err(|error| unreadable(run, &error))?;
            (Box::new(reader), columns)
        }
        _ if &magic == b"ARROW1" => {
            let reader = FileReader::try_new_buffered(file, None).map_err(|error| unreadable(run, &error))?;
            let columns = reader.schema().fields().len();
            (Box::new(reader), columns)
        }
        _ => {
            let reader =
                StreamReader::try_new_buffered(file, None).map_err(|error| unreadable(run, &error))?;
            let columns = reader.schema().fields().len();
            (Box::new(reader), columns)
        }
    };
    if columns > COLUMNS_MAX {
        return Err(unreadable_text(run, &format!("it has {columns} columns, more than {COLUMNS_MAX}")));
    }
    Ok(guarded(batches))
}

/// A hostile file may make its reader panic; that is the file's error.
fn guarded(mut batches: Batches) -> Batches {
    let mut over = false;
    Box::new(std::iter::from_fn(move || {
        if over {
            return None;
        }
        let next = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batches.next()));
        let next =
            next.unwrap_or_else(|_| Some(Err(ArrowError::ParseError("the reader gave up".to_owned()))));
        over = !matches!(next, Some(Ok(_)));
        next
    }))
}

/// Gives a batch the form that every stream has.
pub fn normalise(batch: &RecordBatch, observed_us: i64) -> Result<RecordBatch, ArrowError> {
    let mut fields = Vec::with_capacity(batch.num_columns() + 1);
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns() + 1);
    let mut has_ts = false;
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let (name, column) = if field.name() == "ts" {
            match ts_column(column) {
                Some(ts) => {
                    has_ts = true;
                    ("ts".to_owned(), ts)
                }
                None => ("ts_".to_owned(), plain(column)?),
            }
        } else {
            let reserved = SYSTEM_COLUMNS.iter().any(|system| system.eq_ignore_ascii_case(field.name()));
            let name = if reserved || field.name().is_empty() {
                format!("{}_", field.name())
            } else {
                field.name().clone()
            };
            (name, plain(column)?)
        };
        let mut unique = name;
        while fields.iter().any(|other: &Field| other.name().eq_ignore_ascii_case(&unique)) {
            unique.push('_');
        }
        fields.push(Field::new(unique, column.data_type().clone(), true));
        columns.push(column);
    }
    if !has_ts {
        let ts = TimestampMicrosecondArray::from(vec![observed_us; batch.num_rows()]).with_timezone("UTC");
        fields.insert(0, Field::new("ts", ts_type(), true));
        columns.insert(0, Arc::new(ts));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn ts_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// A column named `ts` as the time of its rows, if it is one.
fn ts_column(column: &ArrayRef) -> Option<ArrayRef> {
    match column.data_type() {
        DataType::Timestamp(..)
        | DataType::Date32
        | DataType::Date64
        | DataType::Utf8
        | DataType::LargeUtf8 => {
            // Arrow knows zones by their offset only; the name is put on afterwards.
            let offset = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
            let cast = arrow_cast::cast(column, &offset).ok()?;
            // Text that is no time would become null: then it is just text.
            if cast.null_count() != column.null_count() {
                return None;
            }
            let times = cast.as_primitive_opt::<TimestampMicrosecondType>()?.clone();
            Some(Arc::new(times.with_timezone("UTC")))
        }
        _ => None,
    }
}

fn plain(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let target = match column.data_type() {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Float16 => DataType::Float32,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Dictionary(..) | DataType::RunEndEncoded(..) => match column.data_type() {
            DataType::Dictionary(_, values) if **values == DataType::Utf8 => return Ok(column.clone()),
            _ => return text(column),
        },
        other if other.is_nested() => return text(column),
        DataType::Null => DataType::Utf8,
        _ => return Ok(column.clone()),
    };
    arrow_cast::cast(column, &target)
}

/// Values as text.
fn text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column, &options)?;
    let values: Vec<Option<String>> = (0..column.len())
        .map(
            |row| if column.is_null(row) { Ok(None) } else { formatter.value(row).try_to_string().map(Some) },
        )
        .collect::<Result<_, _>>()?;
    Ok(Arc::new(StringArray::from(values)))
}

fn unreadable(run: &Run, error: &(dyn std::error::Error + 'static)) -> Problem {
    let message = format!("`{}` cannot be read as {}", run.name, run.detail.format);
    Problem::new("ingest.unreadable", ExitCode::Failed, message).caused_by(error)
}

fn unreadable_text(run: &Run, reason: &str) -> Problem {
    let message = format!("`{}` cannot be read as {}: {reason}", run.name, run.detail.format);
    Problem::new("ingest.unreadable", ExitCode::Failed, message)
}

fn spool_failed(error: &std::io::Error) -> Problem {
    Problem::new("ingest.spool", ExitCode::Unavailable, "the file cannot be spooled below the agent's home")
        .caused_by(error)
        .hint("make room there; the same command begins again")
}

impl std::fmt::Debug for Columnar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Columnar").field("run", &self.run).finish_non_exhaustive()
    }
}
