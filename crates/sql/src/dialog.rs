//! The messages daemon and engine exchange.

use aap_buffer::SegmentRef;
use aap_federation::Scan;
use aap_types::{NodeId, Sequence, StreamKey, StreamName};
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::PlanRequest;

/// The first line the daemon writes: what this engine process is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Answer a statement.
    Query(EngineQuery),
    /// Split a statement for many nodes: `Needs`, then a manifest, then one `Planned` frame.
    Plan(PlanRequest),
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Each row as one compact JSON array on a line of its own. What tables are drawn from.
    #[default]
    Rows,
    /// One JSON array of objects.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// RFC 4180 with a header line.
    Csv,
    /// One Parquet file.
    Parquet,
    /// An Arrow IPC stream.
    Arrow,
}

/// What a query may use. Zero means unlimited for rows and bytes, and the engine's default for the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Most rows in the answer.
    pub rows: u64,
    /// Most bytes in the answer.
    pub bytes: u64,
    /// Time from the start to the last byte taken by the consumer.
    pub deadline_ms: u64,
    /// Memory of DuckDB. The process may use 512 MiB more.
    pub memory_bytes: u64,
}

/// A statement to answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EngineQuery {
    /// One SELECT over stream names.
    pub sql: String,
    /// Form of the answer.
    #[serde(default)]
    pub format: Format,
    /// Caps.
    #[serde(default)]
    pub limits: Limits,
    /// An empty folder of its own, for spilling. [`crate::Engine`] makes one and fills this in.
    #[serde(default)]
    pub scratch: Utf8PathBuf,
}

/// A table that a statement names, with the range of `ts` that it can need.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableNeed {
    /// Stream name, lower case; or the parts of `path` joined by dots, lower case.
    pub name: String,
    /// The parts of a name with dots, as they are written: a catalogue, perhaps a schema, a table. Empty for a plain name.
    pub path: Vec<String>,
    /// What to fetch, where the first part of `path` is another system.
    pub scan: Option<Scan>,
    /// Rows with an earlier `ts` cannot matter, microseconds since 1970 UTC.
    pub ts_min_us: Option<i64>,
    /// Rows with a later `ts` cannot matter.
    pub ts_max_us: Option<i64>,
}

/// All tables that a statement names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Needs {
    /// Each once.
    pub tables: Vec<TableNeed>,
}

/// What one table is made of: the union of its segments' frames, Parquet files and Arrow IPC files.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TableManifest {
    /// The table's name in the statement.
    pub name: String,
    /// Segments to scan for frames.
    pub segments: Vec<SegmentRef>,
    /// Of these (node, epoch, stream) only frames with a greater sequence; all frames of the others.
    pub after: Vec<(StreamKey, Sequence)>,
    /// Only frames of this stream. Absent: the stream named as the table is.
    pub only: Option<StreamName>,
    /// Parquet files, which hold the system columns.
    pub parquet: Vec<Utf8PathBuf>,
    /// Arrow IPC stream files: answers of nodes, or what was fetched from another system.
    pub ipc: Vec<Utf8PathBuf>,
    /// Whether `ipc` holds the aggregation of [`Scan::aggregate`] instead of rows, each file for rows of its own.
    pub aggregated: bool,
    /// Only rows of these nodes. Absent: of all.
    pub nodes: Option<Vec<NodeId>>,
    /// Declared names and DuckDB types of columns: they exist even where no data does.
    pub columns: Option<Vec<(String, String)>>,
}

/// What all tables of a statement are made of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// One entry for each table needed.
    pub tables: Vec<TableManifest>,
}

/// A column of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its DuckDB type, such as `BIGINT` or `TIMESTAMP WITH TIME ZONE`.
    #[serde(rename = "type")]
    pub type_name: String,
}

/// How an answer ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueryEnd {
    /// Rows in the answer.
    pub rows: u64,
    /// Bytes in the answer.
    pub bytes: u64,
    /// Whether there was more.
    pub truncated: bool,
    /// The cap that ended it: `rows` or `bytes`.
    pub truncated_by: Option<String>,
    /// Layers of the sandbox that this kernel or machine does not have. Empty where all hold.
    pub sandbox_missing: Vec<String>,
    /// Frames that were skipped because they are damaged.
    pub damaged: Vec<String>,
}
