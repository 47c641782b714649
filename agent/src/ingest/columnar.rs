//! Arrow and Parquet files: spooled whole, checked, then taken batch by batch.
//!
//! Columns keep their types, with these exceptions, so that every reader downstream can unite them: text and bytes of the
//! large and view kinds become plain ones, nested values become JSON-like text, `ts` becomes microseconds UTC (the time of
//! observation where a row states none; what is no time stands in `ts_`), and names that belong to the system get a suffix.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use aap_decode::{COLUMNS_MAX, FIELD_NAME_BYTES_MAX};
use aap_runtime::Home;
use aap_types::{ExitCode, Problem, SYSTEM_COLUMNS};
use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, DataType, Field, Schema, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::claims::{self, Allowance};
use super::run::{Run, Whole, content_changed};
use crate::ingress::{Parcel, Sealer, Tally, positions_only};

/// Rows of a batch read from Parquet.
const BATCH_ROWS: usize = 8192;
/// Largest batch that is stored as one; larger ones are cut. A frame is at most 16 MiB decoded.
const BATCH_MEMORY_MAX: usize = 4 << 20;
/// Largest batch of a file that is read: it is in memory as a whole.
const READ_BYTES_MAX: u64 = 256 << 20;
/// Largest dictionary that is kept as one.
const WORDS_BYTES_MAX: usize = 64 << 10;
/// Most text that a column of nested values becomes in one batch. Values may share their parts, and are written out each.
const TEXT_BYTES_MAX: usize = 64 << 20;

const ALLOWANCE: Allowance = Allowance { message: READ_BYTES_MAX, total: u64::MAX };

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// One run of a columnar file. Blocks: it belongs on the blocking pool.
pub struct Columnar {
    run: Run,
    spool: File,
    size: u64,
    hasher: blake3::Hasher,
    batches: Option<Batches>,
    /// What is left of the batch read last, cut into what is stored as one.
    pieces: VecDeque<RecordBatch>,
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
            pieces: VecDeque::new(),
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
    pub fn spool(&mut self, pieces: &VecDeque<bytes::Bytes>) -> Result<(), Problem> {
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
        if let Some(piece) = self.pieces.pop_front() {
            return self.parcel(&piece).map(Some);
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
            self.cut(&batch.slice(known, batch.num_rows() - known), observed_us)?;
            if let Some(piece) = self.pieces.pop_front() {
                return self.parcel(&piece).map(Some);
            }
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

    /// Gives a batch its form, and cuts it: each piece is durable by itself, so that a large batch is no large append.
    fn cut(&mut self, batch: &RecordBatch, observed_us: i64) -> Result<(), Problem> {
        let normal = normalise(batch, observed_us).map_err(|error| unreadable(&self.run, &error))?;
        let pieces = normal.get_array_memory_size().div_ceil(BATCH_MEMORY_MAX).clamp(1, normal.num_rows());
        let step = normal.num_rows().div_ceil(pieces).min(aap_decode::ROWS_MAX);
        let starts = (0..normal.num_rows()).step_by(step);
        self.pieces.extend(starts.map(|from| normal.slice(from, step.min(normal.num_rows() - from))));
        Ok(())
    }

    /// One piece and the position behind it.
    fn parcel(&mut self, piece: &RecordBatch) -> Result<Parcel, Problem> {
        // Slices share their memory: each is told its part of it.
        let bytes = piece.columns().iter().filter_map(|column| column.to_data().get_slice_memory_size().ok());
        let bytes = bytes.sum::<usize>() as u64;
        // Rows are not all of a size, so a piece may have to be cut again.
        let sealed = self.sealer.seal_parts(piece, bytes).map_err(|error| match error {
            aap_buffer::Error::Oversize { .. } => {
                unreadable_text(&self.run, &format!("one row of it is too large: {error}"))
            }
            error => unreadable(&self.run, &error),
        })?;
        let stream = self.run.stream.clone();
        let mut parcel = Parcel::default();
        for batch in sealed {
            let (rows, bytes) = (u64::from(batch.rows), batch.raw_bytes);
            self.run.offset += rows;
            self.run.detail.rows += rows;
            let positions = vec![self.run.position()];
            parcel.entries.push(aap_buffer::Entry::Own { stream: stream.clone(), batch, positions });
            parcel.tallies.push(Tally { rows, bytes, ..Tally::new(&stream) });
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
            claims::check_file(&mut file, ALLOWANCE).map_err(|error| unreadable(run, &error))?;
            file.seek(SeekFrom::Start(0)).map_err(|error| spool_failed(&error))?;
            let reader = FileReader::try_new_buffered(file, None).map_err(|error| unreadable(run, &error))?;
            let columns = reader.schema().fields().len();
            (Box::new(reader), columns)
        }
        _ => {
            claims::check_stream(&mut file, ALLOWANCE).map_err(|error| unreadable(run, &error))?;
            file.seek(SeekFrom::Start(0)).map_err(|error| spool_failed(&error))?;
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
    if batch.num_columns() > COLUMNS_MAX {
        let message = format!("{} columns, more than {COLUMNS_MAX}", batch.num_columns());
        return Err(ArrowError::InvalidArgumentError(message));
    }
    let mut fields = Vec::with_capacity(batch.num_columns() + 1);
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns() + 1);
    let mut names = Names::default();
    let of_ts = batch.schema_ref().index_of("ts").ok();
    let ts = of_ts.map(|index| ts_column(batch.column(index), observed_us)).transpose()?.flatten();
    let ts_index = if ts.is_some() { of_ts } else { None };
    if ts.is_none() {
        let times = TimestampMicrosecondArray::from(vec![observed_us; batch.num_rows()]);
        fields.push(Field::new("ts", ts_type(), true));
        columns.push(Arc::new(times.with_timezone("UTC")));
    }
    for (index, (field, column)) in batch.schema_ref().fields().iter().zip(batch.columns()).enumerate() {
        let own = match &ts {
            Some(ts) if ts_index == Some(index) => vec![
                ("ts".to_owned(), Some(ArrayRef::clone(&ts.times))),
                (names.free("ts")?, ts.no_times.clone()),
            ],
            _ => vec![(names.free(field.name())?, Some(plain(column)?))],
        };
        for (name, column) in own.into_iter().filter_map(|(name, column)| Some((name, column?))) {
            fields.push(Field::new(name, column.data_type().clone(), true));
            columns.push(column);
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// The names in use, which SQL compares without case.
#[derive(Default)]
struct Names {
    taken: HashSet<String>,
    /// The number that the next column of this name gets.
    next: HashMap<String, u32>,
}

impl Names {
    /// The name itself, or with a suffix where it is the system's or another column's.
    fn free(&mut self, name: &str) -> Result<String, ArrowError> {
        if name.len() > FIELD_NAME_BYTES_MAX {
            let message = format!("a column name of more than {FIELD_NAME_BYTES_MAX} bytes");
            return Err(ArrowError::InvalidArgumentError(message));
        }
        let lower = name.to_lowercase();
        let is_reserved = name.is_empty() || lower == "ts" || SYSTEM_COLUMNS.contains(&lower.as_str());
        if !is_reserved && self.taken.insert(lower.clone()) {
            return Ok(name.to_owned());
        }
        let next = self.next.entry(lower).or_insert(1);
        loop {
            let free = if *next == 1 { format!("{name}_") } else { format!("{name}_{next}") };
            *next += 1;
            if self.taken.insert(free.to_lowercase()) {
                return Ok(free);
            }
        }
    }
}

fn ts_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// A column named `ts`, row by row: what it holds in one batch changes nothing in the next.
struct Ts {
    /// The time each row states, else the time it was observed.
    times: ArrayRef,
    /// The texts that are no time, if there are any.
    no_times: Option<ArrayRef>,
}

/// The times of a column named `ts`, if its type can state one.
fn ts_column(column: &ArrayRef, observed_us: i64) -> Result<Option<Ts>, ArrowError> {
    let is_text = matches!(column.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_time = matches!(column.data_type(), DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    if !is_text && !is_time {
        return Ok(None);
    }
    let column = &if is_text { plain(column)? } else { ArrayRef::clone(column) };
    // Arrow knows zones by their offset only; the name is put on afterwards.
    let offset = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    let cast = arrow_cast::cast(column, &offset)?;
    let read = cast.as_primitive::<TimestampMicrosecondType>();
    let times: Vec<i64> = read.iter().map(|time| time.unwrap_or(observed_us)).collect();
    let times = Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"));
    let no_times = column.as_string_opt::<i32>().filter(|_| read.null_count() > column.null_count());
    let no_times = no_times.map(|texts| {
        let kept = texts.iter().zip(read).map(|(text, time)| text.filter(|_| time.is_none()));
        Arc::new(kept.collect::<StringArray>()) as ArrayRef
    });
    Ok(Some(Ts { times, no_times }))
}

fn plain(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let target = match column.data_type() {
        DataType::Utf8View => {
            bounded(column.as_string_view().views().iter().map(|view| *view as u32))?;
            DataType::Utf8
        }
        DataType::BinaryView => {
            bounded(column.as_binary_view().views().iter().map(|view| *view as u32))?;
            DataType::Binary
        }
        DataType::LargeUtf8 => DataType::Utf8,
        DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Float16 => DataType::Float32,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Dictionary(..) => return words(column),
        DataType::RunEndEncoded(..) => return text(column),
        other if other.is_nested() => return text(column),
        DataType::Null => DataType::Utf8,
        _ => return Ok(column.clone()),
    };
    arrow_cast::cast(column, &target)
}

/// A dictionary of texts. A large one would come again with every piece of the batch: then plain text.
fn words(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let dictionary = column.as_any_dictionary();
    let values = match dictionary.values().data_type() {
        DataType::Utf8 => ArrayRef::clone(dictionary.values()),
        // Once a value, not once a row.
        _ => text(dictionary.values())?,
    };
    let column = dictionary.with_values(ArrayRef::clone(&values));
    if values.get_array_memory_size() <= WORDS_BYTES_MAX {
        return Ok(column);
    }
    let lengths = values.as_string::<i32>();
    let keys = column.as_any_dictionary().normalized_keys();
    bounded(keys.into_iter().map(|key| lengths.value_length(key).unsigned_abs()))?;
    arrow_cast::cast(&column, &DataType::Utf8)
}

/// Views may all show the same bytes: plain text of them has those bytes each time.
fn bounded(lengths: impl Iterator<Item = u32>) -> Result<(), ArrowError> {
    let bytes: u64 = lengths.map(u64::from).sum();
    if bytes > READ_BYTES_MAX { Err(too_much_text()) } else { Ok(()) }
}

fn too_much_text() -> ArrowError {
    ArrowError::InvalidArgumentError("a column of more text than a batch may hold".to_owned())
}

/// Values as text.
fn text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column, &options)?;
    let mut values = Bounded { builder: StringBuilder::new(), left: TEXT_BYTES_MAX };
    for row in 0..column.len() {
        if column.is_null(row) {
            values.builder.append_null();
        } else {
            write!(values, "{}", formatter.value(row)).map_err(|_| too_much_text())?;
            values.builder.append_value("");
        }
    }
    Ok(Arc::new(values.builder.finish()))
}

/// Takes text up to a limit.
struct Bounded {
    builder: StringBuilder,
    left: usize,
}

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.left = self.left.checked_sub(text.len()).ok_or(std::fmt::Error)?;
        self.builder.write_str(text)
    }
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
