//! Rows made of named texts: what every format but JSON and plain lines builds its batches with.
//!
//! A format reads a record completely, then hands its fields over; nothing is pushed for a record that turns out bad.

use std::sync::Arc;

use arrow_array::StringArray;

use crate::FIELD_NAME_BYTES_MAX;
use crate::column::{self, Column, Kind};
use crate::decoded::{BadRow, Context, DecodeError, Decoded, RowError, ts_array};
use crate::json::number::{Number, number};
use crate::severity::{Severity, constant_array, log_columns, severity_array};
use crate::table::{Role, Table, is_full};
use crate::time::TimeReader;

/// The rows of the batch in the making.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) time: TimeReader,
    pub(crate) table: Table,
    ts: Vec<i64>,
    /// Of each row, as [`Severity`] numbers them.
    severity: Vec<i8>,
    was_severity_stated: bool,
    rows: usize,
    row_ts: Option<(u8, i64)>,
    row_severity: Severity,
    previous: Option<usize>,
    log: Option<LogColumns>,
    raw: Option<Column>,
}

/// The columns of the log model beside the times and the resource.
#[derive(Debug)]
struct LogColumns {
    body: Column,
    attributes: Column,
}

impl Records {
    /// Rows of an event format: `ts`, `raw` on request, then one column a field.
    pub(crate) fn events(time_field: Option<String>, time: TimeReader, keep_raw: bool) -> Self {
        let reserved: &[&str] = if keep_raw { &["ts", "raw"] } else { &["ts"] };
        Self::new(Table::new(time_field, reserved), time, None, keep_raw.then(Column::of_text))
    }

    /// Rows of a log format: the columns of the log model, then one column a field.
    pub(crate) fn logs(time_field: Option<String>, time: TimeReader) -> Self {
        let log = LogColumns { body: Column::of_text(), attributes: Column::of_text() };
        Self::new(Table::new(time_field, &crate::lines::LOG_COLUMNS), time, Some(log), None)
    }

    fn new(table: Table, time: TimeReader, log: Option<LogColumns>, raw: Option<Column>) -> Self {
        Self {
            time,
            table,
            ts: Vec::new(),
            severity: Vec::new(),
            was_severity_stated: false,
            rows: 0,
            row_ts: None,
            row_severity: Severity::Unstated,
            previous: None,
            log,
            raw,
        }
    }

    /// Whether the batch takes no further row.
    pub(crate) fn is_full(&self) -> bool {
        is_full(self.rows, self.table.entries.len())
    }

    /// Finds or adds the column of a field.
    pub(crate) fn entry(&mut self, field: &str) -> Result<usize, RowError> {
        let found = self.table.find(self.previous, field.as_bytes());
        if found.is_none() && field.len() > FIELD_NAME_BYTES_MAX {
            return Err(RowError::NameTooLong);
        }
        let entry = found.or_else(|| self.table.add(self.previous, field)).ok_or(RowError::TooManyColumns)?;
        self.previous = Some(entry);
        Ok(entry)
    }

    /// Gives the row a field whose type is learned from its text.
    pub(crate) fn field(&mut self, field: &str, value: &[u8]) -> Result<(), RowError> {
        let entry = self.entry(field)?;
        self.inferred(entry, value);
        Ok(())
    }

    /// Gives the row a field that is text whatever it looks like.
    pub(crate) fn text_field(&mut self, field: &str, value: &[u8]) -> Result<(), RowError> {
        let entry = self.entry(field)?;
        let column = &mut self.table.entries[entry].column;
        if !column.is_text() {
            column.widen(Kind::Text);
        }
        column.push_text(self.rows, value);
        Ok(())
    }

    /// Gives the row the value of a known column, its type learned from the text.
    pub(crate) fn inferred(&mut self, entry: usize, value: &[u8]) {
        let entry = &mut self.table.entries[entry];
        if entry.role == Role::Severity && self.log.is_none() {
            self.row_severity = match Severity::of_word(value) {
                Severity::Unstated => Severity::of_number(value),
                severity => severity,
            };
        }
        if let Role::Time { rank, column } = entry.role
            && let Some(us) = self.time.text(value)
        {
            if self.row_ts.is_none_or(|(best, _)| rank <= best) {
                self.row_ts = Some((rank, us));
            }
            if !column {
                return;
            }
        }
        push_inferred(&mut entry.column, self.rows, value);
    }

    /// Dates the row, unless a field does it better.
    pub(crate) fn stamp(&mut self, us: Option<i64>) {
        if let (Some(us), None) = (us, self.row_ts) {
            self.row_ts = Some((u8::MAX, us));
        }
    }

    pub(crate) fn severity(&mut self, severity: Severity) {
        self.row_severity = severity;
    }

    pub(crate) fn body(&mut self, text: &[u8]) {
        if let Some(log) = &mut self.log {
            log.body.push_text(self.rows, text);
        }
    }

    pub(crate) fn attributes(&mut self, json: &[u8]) {
        if let Some(log) = &mut self.log {
            log.attributes.push_text(self.rows, json);
        }
    }

    /// Keeps the record's text beside its columns, where that was asked for.
    pub(crate) fn raw(&mut self, text: &[u8]) {
        if let Some(raw) = &mut self.raw {
            raw.push_text(self.rows, text);
        }
    }

    /// Makes what was given since the last commit a row.
    pub(crate) fn commit(&mut self) {
        self.ts.push(self.row_ts.take().map_or(self.time.observed_us(), |(_, us)| us));
        self.severity.push(std::mem::replace(&mut self.row_severity, Severity::Unstated) as i8);
        self.previous = None;
        self.rows += 1;
    }

    /// Forgets what was given since the last commit.
    pub(crate) fn roll_back(&mut self, entries: usize) {
        self.table.roll_back(self.rows, entries);
        for column in self.raw.iter_mut() {
            column.truncate(self.rows);
        }
        if let Some(log) = &mut self.log {
            log.body.truncate(self.rows);
            log.attributes.truncate(self.rows);
        }
        self.row_severity = Severity::Unstated;
        (self.row_ts, self.previous) = (None, None);
    }

    /// The batch of all committed rows.
    pub(crate) fn finish(
        &mut self,
        raw_bytes: usize,
        bad: Vec<BadRow>,
        replaced: u64,
        context: &Context<'_>,
        constants: &[(&str, Option<&str>)],
    ) -> Result<Decoded, DecodeError> {
        let rows = std::mem::take(&mut self.rows);
        let next = Vec::with_capacity(rows);
        let mut leading = vec![("ts", ts_array(std::mem::replace(&mut self.ts, next)))];
        let severity = std::mem::replace(&mut self.severity, Vec::with_capacity(rows));
        if let Some(log) = &mut self.log {
            leading.push(("observed_ts", ts_array(vec![context.observed_us; rows])));
            leading.push(("severity", severity_array(severity)));
            for (name, column) in [("body", &mut log.body), ("attributes", &mut log.attributes)] {
                let array = column.finish(rows).unwrap_or_else(|| Arc::new(StringArray::new_null(rows)));
                leading.push((name, array));
            }
            leading.push(("resource", constant_array(context.resource, rows)));
        } else {
            let has_column = |name: &str| self.table.has_column(name);
            leading.extend(log_columns(severity, &mut self.was_severity_stated, context, has_column));
        }
        leading.extend(constants.iter().map(|(name, text)| (*name, constant_array(*text, rows))));
        leading.extend(self.raw.as_mut().and_then(|raw| raw.finish(rows)).map(|raw| ("raw", raw)));
        let batch = self.table.finish(rows, leading)?;
        Ok(Decoded { batch, raw_bytes: raw_bytes as u64, bad, replaced, duplicate_fields: 0 })
    }
}

/// Pushes a text as the narrowest type that gives it back: `7` is an integer, `007` is not a number.
fn push_inferred(column: &mut Column, row: usize, text: &[u8]) {
    if column.is_text() {
        return column.push_text(row, text);
    }
    match text {
        b"true" | b"false" => {
            column.widen(Kind::Boolean);
            if column.accepts(Kind::Boolean) {
                column.push_boolean(row, text == b"true")
            } else {
                column.push_text(row, text)
            }
        }
        [b'-' | b'0'..=b'9', ..] => push_number(column, row, text),
        _ => {
            column.widen(Kind::Text);
            column.push_text(row, text);
        }
    }
}

fn push_number(column: &mut Column, row: usize, text: &[u8]) {
    let read = number(text, 0).ok().filter(|(_, end)| *end == text.len() && text != b"-0");
    match read.map(|(number, _)| number) {
        Some(Number::Integer(value)) if column.is_float() && column::is_exact(value) => {
            return column.push_float(row, value as f64);
        }
        Some(Number::Integer(value)) if !column.is_float() => {
            column.widen(Kind::Integer);
            if column.accepts(Kind::Integer) {
                return column.push_integer(row, value);
            }
        }
        Some(Number::Float(value)) => {
            column.widen(Kind::Float);
            if column.is_float() {
                return column.push_float(row, value);
            }
        }
        _ => column.widen(Kind::Text),
    }
    if !column.is_text() {
        column.widen(Kind::Text);
    }
    column.push_text(row, text);
}
