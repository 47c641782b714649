//! Bytes to Arrow: every format a source may speak becomes a `RecordBatch` here. Pure: no I/O, no clock, no tasks.
//!
//! # How data enters and leaves
//! A source builds one [`Decoder`] from a [`DecoderConfig`] and keeps it as long as the source lives, because column
//! types are learned over its life: columns are only added and types only widened
//! (nothing yet → `Int64` → `Float64` → `Utf8`, `Boolean` → `Utf8`). One batch has one schema.
//!
//! ```text
//! chunk ──► boundary(chunk) = n ──► decode(&chunk[..n], context) ──► Decoded { batch, raw_bytes, bad, … }
//!              └─ the rest waits for more bytes        ▲                              │
//!                                                      └── again from `raw_bytes` on ─┘  while it is short of n
//! ```
//!
//! Every batch has `ts: Timestamp(us, "UTC")`, first: the time the record states, else the time it was observed. A
//! bad record never ends a batch: it is returned in [`Decoded::bad`] with its line, offset, reason and text, and the caller refuses
//! the whole input or keeps it as dead letters ([`dead_letters`]).
//!
//! # What the columns are
//! - JSON and CSV records: one typed column a field. Nested JSON stays as its text. Fields named like a system column
//!   (`_node`, `_seq` …) and names that differ only in case get a suffix, because SQL could not tell them apart. A
//!   column that has held nothing but nulls so far is left out. Text of few distinct values comes as `Dictionary(Int8, Utf8)`
//!   in batches of 256 rows or more, else as `Utf8`: readers take both as the same type.
//! - The same records from a source of logs, which says so by [`Context::resource`], have `observed_ts`, `resource` and, where a
//!   field states it (`severity`, `level`, `lvl`, `loglevel`, `log_level`), `severity` beside their own fields, unless a field has
//!   that name itself. Their message stays in the field that holds it: a second copy as `body` would cost as much as the first.
//! - Log formats (text, logfmt, regex, combined, syslog, CRI): the OpenTelemetry log columns `ts, observed_ts, severity, body, attributes,
//!   resource`, then typed columns. `severity` and `resource` are `Dictionary(Int8, Utf8)`.
//!
//! | file | owns |
//! |---|---|
//! | `config.rs` | [`DecoderConfig`], [`Format`], [`TimestampRule`] |
//! | `decoder.rs` | [`Decoder`]: one front for all formats, and the record boundaries |
//! | `decoded.rs` | [`Decoded`], [`BadRow`], [`RowError`], [`dead_letters`] |
//! | `table.rs`, `column.rs` | columns that grow, widen, and roll a bad row back |
//! | `words.rs` | text columns of few distinct values |
//! | `json.rs`, `json/` | the JSON hot path |
//! | `lines.rs`, `severity.rs` | plain lines and the log columns |
//! | `record.rs` | rows made of named texts, for the formats below |
//! | `csv.rs` | CSV |
//! | `logs.rs` | lines for the parsers in `logfmt.rs`, `pattern.rs` (regex), `combined.rs`, `syslog.rs` |
//! | `cri.rs` | container logs, pieces joined |
//! | `time.rs`, `time/` | timestamps in all their spellings |
//! | `wire.rs` | the protobuf wire format, field by field |
//! | `builders.rs`, `put.rs` | columns whose types are known beforehand; JSON text |
//! | `journal.rs`, `journal/` | journal files of systemd |
//! | `otlp.rs`, `otlp/` | requests of the OpenTelemetry protocol |
//! | `prometheus.rs`, `prometheus/` | samples of Prometheus: remote write, and what is scraped |
//! | `scan.rs` | the only `unsafe` code: vector scanning and unchecked UTF-8 |

mod builders;
mod column;
mod combined;
mod config;
mod cri;
mod csv;
mod decoded;
mod decoder;
pub mod journal;
mod json;
mod lines;
mod logfmt;
mod logs;
pub mod otlp;
mod pattern;
pub mod prometheus;
mod put;
mod record;
mod scan;
mod severity;
mod syslog;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod wire;
mod words;

pub use config::{ConfigError, DecoderConfig, Format, TimestampRule};
pub use decoded::{BadRow, Context, DecodeError, Decoded, RowError, dead_letters, refuse_lines};
pub use decoder::Decoder;
pub use wire::WireError;

/// Most columns a decoder learns: beyond it a record is refused. A source of more is almost surely using data as keys.
pub const COLUMNS_MAX: usize = 4096;
/// Deepest nesting of a JSON value. The scanner keeps one bit a level in a word.
pub const DEPTH_MAX: u32 = 64;
/// Longest name of a field. With [`COLUMNS_MAX`] it bounds what a schema can grow to, which every batch carries.
pub const FIELD_NAME_BYTES_MAX: usize = 512;
/// Most bytes one `decode` call is given: text grows at most sixfold on the way, and a column's offsets are 32 bit.
pub const INPUT_BYTES_MAX: usize = 256 << 20;
/// Most rows of a batch. Records of a byte or two must not make batches of millions.
pub const ROWS_MAX: usize = 1 << 16;
/// Most values of a batch, nulls included: rows times columns, 32 MiB of numbers. A batch of sparse records ends earlier.
pub const CELLS_MAX: usize = 1 << 22;
/// A batch takes no further record after this much input.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// How much of a bad record's text is kept: as long as a line of a log may be. The rest is counted in [`BadRow::cut`].
pub const BAD_TEXT_BYTES_MAX: usize = 1 << 20;
