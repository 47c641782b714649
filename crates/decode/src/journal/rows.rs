//! Columns of journal entries: those of all logs, then what units and processes say of themselves.

use std::borrow::Cow;

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;

use super::file::{Cursor, Journal, JournalError, ReadAt, Scratch};
use crate::BATCH_BYTES_MAX;
use crate::builders::{Finished, Integers, Texts, Times, Words};
use crate::otlp::ROWS_MAX;
use crate::put::put_string;

/// What a row costs beside its text.
const ROW_BYTES: usize = 64;

/// Severities of the OpenTelemetry log model by syslog priority.
const SEVERITIES: [&str; 8] = ["FATAL", "ERROR", "ERROR", "ERROR", "WARN", "INFO", "INFO", "DEBUG"];

/// Entries that become rows of a batch.
#[derive(Debug, Default)]
pub struct JournalRows {
    ts: Times,
    observed_ts: Times,
    severity: Words,
    body: Texts,
    attributes: Texts,
    unit: Words,
    identifier: Words,
    pid: Integers,
    host: Words,
    transport: Words,
    rows: usize,
    bytes: usize,
    scratch: Scratch,
    entry: Fields,
    /// Fields that could not be read.
    pub left_out: u64,
    /// Entries that could not.
    pub damaged: u64,
}

/// The fields of one entry.
#[derive(Debug, Default)]
struct Fields {
    body: Option<String>,
    unit: Option<String>,
    identifier: Option<String>,
    host: Option<String>,
    transport: Option<String>,
    pid: Option<i64>,
    priority: Option<usize>,
    attributes: Vec<u8>,
}

impl Fields {
    fn take(&mut self, field: &[u8]) {
        let Some(at) = memchr::memchr(b'=', field) else { return };
        let (name, value) =
            (String::from_utf8_lossy(&field[..at]), String::from_utf8_lossy(&field[at + 1..]));
        let own = |value: Cow<'_, str>| Some(value.into_owned());
        match &*name {
            "MESSAGE" => self.body = own(value),
            "_SYSTEMD_UNIT" => self.unit = own(value),
            "SYSLOG_IDENTIFIER" => self.identifier = own(value),
            "_HOSTNAME" => self.host = own(value),
            "_TRANSPORT" => self.transport = own(value),
            "_PID" if value.parse::<i64>().is_ok() => self.pid = value.parse().ok(),
            "PRIORITY" if value.parse::<usize>().is_ok() => self.priority = value.parse().ok(),
            _ => {
                self.attributes.push(if self.attributes.is_empty() { b'{' } else { b',' });
                put_string(&mut self.attributes, &name);
                self.attributes.push(b':');
                put_string(&mut self.attributes, &value);
            }
        }
    }
}

impl JournalRows {
    /// Reads entries behind the cursor until the batch is full or there are no more; returns how many rows it has. What was
    /// read before an error is in the batch, and the cursor stands behind it.
    pub fn read<F: ReadAt>(
        &mut self,
        journal: &Journal<F>,
        cursor: &mut Cursor,
        observed_us: i64,
    ) -> Result<usize, JournalError> {
        while self.rows < ROWS_MAX && self.bytes < BATCH_BYTES_MAX {
            let mut ahead = *cursor;
            let entry = match journal.next(&mut ahead) {
                Ok(Some(entry)) => entry,
                Ok(None) => {
                    *cursor = ahead;
                    break;
                }
                // An entry is damaged; those behind it are not.
                Err(_) if ahead != *cursor => {
                    *cursor = ahead;
                    self.damaged += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.entry = Fields::default();
            let fields = &mut self.entry;
            self.left_out += journal.fields(&entry, &mut self.scratch, |field| fields.take(field));
            self.push(entry.realtime_us.cast_signed(), observed_us);
            *cursor = ahead;
        }
        Ok(self.rows)
    }

    fn push(&mut self, ts_us: i64, observed_us: i64) {
        let entry = &mut self.entry;
        if !entry.attributes.is_empty() {
            entry.attributes.push(b'}');
        }
        let attributes = std::str::from_utf8(&entry.attributes).ok().filter(|json| !json.is_empty());
        self.ts.push(ts_us);
        self.observed_ts.push(observed_us);
        self.severity.push(entry.priority.and_then(|priority| SEVERITIES.get(priority).copied()));
        self.body.push(entry.body.as_deref());
        self.attributes.push(attributes);
        self.unit.push(entry.unit.as_deref());
        self.identifier.push(entry.identifier.as_deref());
        self.pid.push(entry.pid);
        self.host.push(entry.host.as_deref());
        self.transport.push(entry.transport.as_deref());
        self.rows += 1;
        self.bytes += ROW_BYTES + entry.body.as_ref().map_or(0, String::len) + attributes.map_or(0, str::len);
    }

    /// Takes the rows out; `None` if there are none.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.rows == 0 {
            return Ok(None);
        }
        (self.rows, self.bytes) = (0, 0);
        let mut batch = Finished::default();
        batch.add("ts", &mut self.ts);
        batch.add("observed_ts", &mut self.observed_ts);
        batch.add("severity", &mut self.severity);
        batch.add("body", &mut self.body);
        batch.add("attributes", &mut self.attributes);
        batch.add("unit", &mut self.unit);
        batch.add("identifier", &mut self.identifier);
        batch.add("pid", &mut self.pid);
        batch.add("host", &mut self.host);
        batch.add("transport", &mut self.transport);
        batch.batch().map(Some)
    }
}
