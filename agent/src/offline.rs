//! `aap-agent buffer …`: a buffer directory seen from outside, with no daemon running or beside one. Only `salvage`,
//! `export` and `replay` write, and never into the directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use aap_buffer::offline::{self, OfflineStore};
use aap_buffer::{Frame, FrameKind, decode};
use aap_runtime::Home;
use aap_types::{ByteCount, ExitCode, Problem, StreamKey, StreamName};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema};
use camino::{Utf8Path, Utf8PathBuf};
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::cli::{Output, print_line};
use crate::replay;

/// What to do with a buffer directory.
#[derive(Debug, Subcommand)]
pub enum BufferCommand {
    /// Lists the streams of the store: batches, rows, what waits.
    Ls {
        /// The buffer directory, such as HOME/agent/buffer.
        dir: Utf8PathBuf,
    },
    /// Shows who the store is, its segments, and how far its sources were read.
    Show {
        /// The buffer directory.
        dir: Utf8PathBuf,
    },
    /// Reads every byte and says what is wrong. Exit code 11 if anything is.
    Verify {
        /// The buffer directory.
        dir: Utf8PathBuf,
    },
    /// Copies everything readable, under its own identity, into a new store.
    Salvage {
        /// The buffer directory.
        dir: Utf8PathBuf,
        /// The new store; it must not exist.
        #[arg(long, value_name = "DIR")]
        out: Utf8PathBuf,
    },
    /// Writes the rows of a stream, with the columns that identify them, to a file or to stdout.
    Export {
        /// The buffer directory.
        dir: Utf8PathBuf,
        /// Which stream. Default: the only one there is.
        #[arg(long)]
        stream: Option<StreamName>,
        /// Where to. Default: stdout.
        #[arg(long, value_name = "FILE")]
        out: Option<Utf8PathBuf>,
        /// Form of the rows.
        #[arg(long, value_enum, default_value_t = Rows::Ndjson)]
        format: Rows,
    },
    /// Sends the rows of the store that were not delivered to a running agent, once however often it is repeated.
    Replay {
        /// The buffer directory.
        dir: Utf8PathBuf,
        /// Which stream. Default: all.
        #[arg(long)]
        stream: Option<StreamName>,
        /// Delivered rows, too: the coordinator has them already, and has them twice afterwards.
        #[arg(long)]
        all: bool,
        /// Home of the agent that takes them. Default: `AAP_HOME`, else `$XDG_STATE_HOME/aap`.
        #[arg(long, value_name = "DIR")]
        home: Option<Utf8PathBuf>,
    },
}

/// Form of exported rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rows {
    /// One JSON object a line.
    Ndjson,
    /// An Arrow IPC stream; all batches must have the same columns.
    Arrow,
}

/// Runs one command and gives its exit code.
pub fn run(command: BufferCommand, output: Output) -> Result<u8, Problem> {
    match command {
        BufferCommand::Ls { dir } => list(&open(&dir)?, output),
        BufferCommand::Show { dir } => show(&open(&dir)?, output),
        BufferCommand::Verify { dir } => verify(&dir, output),
        BufferCommand::Salvage { dir, out } => salvage(&dir, &out, output),
        BufferCommand::Export { dir, stream, out, format } => export(&open(&dir)?, stream, out, format),
        BufferCommand::Replay { dir, stream, all, home } => {
            let home = Home::find(home.as_deref());
            replay::refuse_own(&dir, &home)?;
            let what = replay::What { stream: stream.as_ref(), delivered_too: all };
            replay::run(&open(&dir)?, &what, &home, output)
        }
    }
}

fn open(directory: &Utf8Path) -> Result<OfflineStore, Problem> {
    offline::inspect(directory).map_err(|error| error.problem())
}

fn answer(output: Output, kind: &str, content: Value, text: impl FnOnce() -> String) {
    match output {
        Output::Json => {
            let mut envelope = json!({ "format_version": "1.0", "kind": kind });
            if let (Some(envelope), Value::Object(content)) = (envelope.as_object_mut(), content) {
                envelope.extend(content);
            }
            print_line(&envelope.to_string());
        }
        Output::Text => print_line(&text()),
    }
}

fn list(store: &OfflineStore, output: Output) -> Result<u8, Problem> {
    let keys = store.keys();
    let items: Vec<Value> = keys
        .iter()
        .map(|info| {
            json!({
                "stream": info.key.stream, "node": info.key.node, "epoch": info.key.epoch, "head": info.head,
                "tail": info.tail, "batches": info.batches, "rows": info.rows,
                "delivered": delivered(&info.cursors), "cursors": info.cursors.iter().cloned().collect::<BTreeMap<_, _>>(),
            })
        })
        .collect();
    answer(output, "buffer.list", json!({ "items": items, "truncated": false }), || {
        let mut rows =
            vec![["STREAM", "EPOCH", "FIRST", "LAST", "DELIVERED", "BATCHES", "ROWS"].map(str::to_owned)];
        rows.extend(keys.iter().map(|info| {
            [
                info.key.stream.to_string(),
                info.key.epoch.to_string(),
                info.head.map_or_else(|| "-".to_owned(), |head| head.to_string()),
                info.tail.to_string(),
                delivered(&info.cursors).to_string(),
                info.batches.to_string(),
                info.rows.to_string(),
            ]
        }));
        table(&rows)
    });
    Ok(0)
}

/// How far the consumer came that the data was for.
fn delivered(cursors: &[(String, aap_types::Sequence)]) -> u64 {
    cursors
        .iter()
        .filter(|(name, _)| name == "uplink" || name == "lake")
        .map(|(_, sequence)| sequence.0)
        .max()
        .unwrap_or(0)
}

/// Columns as wide as their widest word.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn show(store: &OfflineStore, output: Output) -> Result<u8, Problem> {
    let (identity, stats, segments) = (store.identity(), store.stats(), store.segments());
    let (positions, recovery) = (store.positions(), store.recovery());
    let content = json!({
        "identity": identity, "stats": stats, "segments": segments, "positions": positions, "recovery": recovery,
    });
    answer(output, "buffer.show", content, || {
        let mut lines = vec![
            format!("node        {}", identity.node),
            format!("epoch       {}", identity.epoch),
            format!("generation  {}", identity.generation),
            format!("stored      {} in {} segments", ByteCount(stats.stored_bytes), segments.len()),
            format!("waiting     {} in {} batches", ByteCount(stats.waiting_bytes), stats.waiting_batches),
            format!("torn        {} B", recovery.torn_bytes),
        ];
        lines.extend(
            recovery.problems.iter().chain(&stats.problems).map(|problem| format!("problem     {problem}")),
        );
        lines.extend(segments.iter().map(|segment| {
            format!("segment     {} {} batches, {} rows", segment.segment.path, segment.batches, segment.rows)
        }));
        lines.extend(positions.iter().map(|position| {
            format!("position    {:?} {} at {}", position.kind, position.key, position.offset)
        }));
        lines.join("\n")
    });
    Ok(0)
}

fn verify(directory: &Utf8Path, output: Output) -> Result<u8, Problem> {
    let report = offline::verify(directory).map_err(|error| error.problem())?;
    let well = report.damage.is_empty();
    let content = serde_json::to_value(&report).unwrap_or_default();
    answer(output, "buffer.verify", content, || {
        let head = format!(
            "{} batches with {} rows in {} segments ({}) are whole; {} bytes of an unfinished group",
            report.batches,
            report.rows,
            report.segments,
            ByteCount(report.bytes),
            report.torn_bytes
        );
        let damage = report.damage.iter().map(|damage| match damage.offset {
            Some(offset) => format!("damage: {} at {offset}: {}", damage.path, damage.what),
            None => format!("damage: {}: {}", damage.path, damage.what),
        });
        std::iter::once(head).chain(damage).collect::<Vec<_>>().join("\n")
    });
    Ok(if well { 0 } else { ExitCode::CheckFailed.number() })
}

fn salvage(directory: &Utf8Path, out: &Utf8Path, output: Output) -> Result<u8, Problem> {
    let report = offline::salvage(directory, out).map_err(|error| error.problem())?;
    let content = serde_json::to_value(&report).unwrap_or_default();
    answer(output, "buffer.salvage", content, || {
        let head = format!(
            "{} batches with {} rows were copied to `{out}`; {} could not be",
            report.batches, report.rows, report.skipped_batches
        );
        std::iter::once(head)
            .chain(report.problems.iter().map(|problem| format!("problem: {problem}")))
            .collect::<Vec<_>>()
            .join("\n")
    });
    Ok(0)
}

/// The keys of a stream (all streams if `None`), oldest epoch first.
pub(crate) fn keys_of(store: &OfflineStore, stream: Option<&StreamName>) -> Result<Vec<StreamKey>, Problem> {
    let mut keys: Vec<StreamKey> = store.keys().into_iter().map(|info| info.key).collect();
    keys.sort();
    if let Some(stream) = stream {
        keys.retain(|key| key.stream == *stream);
        if keys.is_empty() {
            let message = format!("the store has no stream `{stream}`");
            return Err(Problem::new("buffer.no_stream", ExitCode::NotFound, message)
                .hint_command("see which there are", "aap buffer ls DIR"));
        }
    }
    Ok(keys)
}

fn export(
    store: &OfflineStore,
    stream: Option<StreamName>,
    out: Option<Utf8PathBuf>,
    format: Rows,
) -> Result<u8, Problem> {
    let keys = keys_of(store, stream.as_ref())?;
    let names: std::collections::BTreeSet<_> = keys.iter().map(|key| &key.stream).collect();
    if names.len() > 1 {
        let list = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("the store has several streams: {list}");
        return Err(
            Problem::new("buffer.which_stream", ExitCode::Usage, message).hint("name one with `--stream`")
        );
    }
    let sink: Box<dyn Write> = match &out {
        Some(path) => Box::new(File::create(path).map_err(|error| written(path.as_str(), &error))?),
        None => Box::new(io::stdout().lock()),
    };
    let mut writer = RowWriter::new(BufWriter::new(sink), format);
    for key in keys {
        store.export::<ExportError>(&key, |frame| writer.frame(&frame)).map_err(|error| error.problem())?;
    }
    writer.finish().map_err(|error| error.problem())?;
    Ok(0)
}

fn written(what: &str, error: &io::Error) -> Problem {
    Problem::new("buffer.export", ExitCode::Failed, format!("`{what}` cannot be written")).caused_by(error)
}

/// Why rows could not be exported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("read the store")]
    Buffer(#[from] aap_buffer::Error),
    #[error("write rows")]
    Arrow(#[from] arrow_schema::ArrowError),
    #[error("write rows")]
    Io(#[from] io::Error),
}

impl ExportError {
    pub(crate) fn problem(&self) -> Problem {
        match self {
            Self::Buffer(error) => error.problem(),
            other => Problem::new("buffer.export", ExitCode::Failed, "the rows cannot be exported")
                .caused_by(other),
        }
    }
}

struct RowWriter<W: Write> {
    out: Option<W>,
    format: Rows,
    arrow: Option<StreamWriter<W>>,
}

impl<W: Write> RowWriter<W> {
    fn new(out: W, format: Rows) -> Self {
        Self { out: Some(out), format, arrow: None }
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), ExportError> {
        if frame.kind != FrameKind::Data {
            return Ok(());
        }
        let batch = identified(frame)?;
        match self.format {
            Rows::Ndjson => {
                let Some(out) = &mut self.out else { return Ok(()) };
                let mut writer = arrow_json::LineDelimitedWriter::new(out);
                writer.write(&zones_by_offset(&batch)?)?;
                writer.finish()?;
            }
            Rows::Arrow => {
                if let Some(out) = self.out.take() {
                    self.arrow = Some(StreamWriter::try_new(out, batch.schema_ref())?);
                }
                if let Some(writer) = &mut self.arrow {
                    writer.write(&batch)?;
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), ExportError> {
        if let Some(mut writer) = self.arrow.take() {
            writer.finish()?;
        }
        if let Some(mut out) = self.out.take() {
            out.flush()?;
        }
        Ok(())
    }
}

/// The same batch with `+00:00` for `UTC`: Arrow's writers know zones by their offset only.
pub(crate) fn zones_by_offset(batch: &RecordBatch) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let times = column.as_primitive_opt::<TimestampMicrosecondType>();
        let column: ArrayRef = match (field.data_type(), times) {
            (DataType::Timestamp(_, Some(zone)), Some(times)) if zone.as_ref() == "UTC" => {
                Arc::new(times.clone().with_timezone("+00:00"))
            }
            _ => column.clone(),
        };
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// The rows of a frame with the columns that identify them.
fn identified(frame: &Frame) -> Result<RecordBatch, ExportError> {
    let batch = decode(&frame.schema, &frame.payload, None)?;
    let rows = batch.num_rows();
    let count = u32::try_from(rows).unwrap_or(u32::MAX);
    let system: [(&str, ArrayRef); 4] = [
        ("_node", Arc::new(StringArray::new_repeated(frame.id.key.node.as_str(), rows))),
        ("_epoch", Arc::new(UInt64Array::from(vec![frame.id.key.epoch.0; rows]))),
        ("_seq", Arc::new(UInt64Array::from(vec![frame.id.sequence.0; rows]))),
        ("_row", Arc::new(UInt32Array::from_iter_values(0..count))),
    ];
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (name, column) in system {
        fields.push(Arc::new(Field::new(name, column.data_type().clone(), false)));
        columns.push(column);
    }
    fields.extend(batch.schema_ref().fields().iter().cloned());
    columns.extend(batch.columns().iter().cloned());
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}
