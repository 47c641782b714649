//! The columns of a stream as its records teach them: found by name, predicted by order, finished as one batch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};

use crate::column::Column;
use crate::{CELLS_MAX, COLUMNS_MAX, ROWS_MAX};

/// What a field means beside being a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Plain,
    /// It may state the record's time; the lowest rank wins. `column` says whether it is a column too even when it parses.
    Time {
        rank: u8,
        column: bool,
    },
    /// It states the record's severity, and is a column too.
    Severity,
}

#[derive(Debug)]
pub(crate) struct Entry {
    /// The column's name in the batch.
    name: String,
    /// `"field"` as it stands in JSON without escapes; empty where it needs escapes, which matches nothing.
    pattern: Box<[u8]>,
    /// The first sixteen bytes of `pattern` as a number, and which of its bits count: one comparison for most names. Without a
    /// pattern no bit counts and the number is not zero.
    head: u128,
    head_mask: u128,
    /// The entry that followed this one in the last record.
    next: u32,
    pub(crate) role: Role,
    pub(crate) column: Column,
}

/// In a stream of more columns, a batch leaves out those in which it has no value: records that use data as field names
/// would store mostly nulls.
const COLUMNS_KEPT_MAX: usize = 256;

/// No entry: the end of a chain of predictions.
const NOBODY: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
    by_field: HashMap<Box<[u8]>, u32>,
    /// Lower-cased column names in use.
    names: HashSet<String>,
    first: u32,
    schema: SchemaRef,
    /// The field that states the time, if the configuration names one.
    time_field: Option<String>,
}

/// The fields that state a record's time unless the configuration names one, best first.
const TIME_FIELDS: [&str; 4] = ["ts", "timestamp", "time", "@timestamp"];

/// The fields that state a record's severity.
const SEVERITY_FIELDS: [&str; 5] = ["severity", "level", "lvl", "loglevel", "log_level"];

impl Entry {
    fn new(name: String, pattern: Vec<u8>, role: Role) -> Self {
        let mut head = [0; 16];
        let mut mask = [0; 16];
        for (index, byte) in pattern.iter().take(16).enumerate() {
            (head[index], mask[index]) = (*byte, u8::MAX);
        }
        let (head, head_mask) = (u128::from_le_bytes(head), u128::from_le_bytes(mask));
        let head = if pattern.is_empty() { 1 } else { head };
        let column = Column::new();
        Self { name, pattern: pattern.into(), head, head_mask, next: NOBODY, role, column }
    }

    /// Whether the field stands quoted at `at`.
    #[inline(always)]
    fn stands_at(&self, bytes: &[u8], at: usize) -> bool {
        let rest = bytes.get(at..).unwrap_or_default();
        match rest.first_chunk::<16>() {
            Some(block) => {
                u128::from_le_bytes(*block) & self.head_mask == self.head
                    && (self.pattern.len() <= 16 || rest.starts_with(&self.pattern))
            }
            None => !self.pattern.is_empty() && rest.starts_with(&self.pattern),
        }
    }
}

/// Whether a batch of `rows` rows and as many columns takes no further row.
#[inline(always)]
pub(crate) fn is_full(rows: usize, columns: usize) -> bool {
    rows >= ROWS_MAX || rows * columns >= CELLS_MAX
}

impl Table {
    /// A table whose batches begin with the columns `reserved`, which no field can take.
    pub(crate) fn new(time_field: Option<String>, reserved: &[&str]) -> Self {
        let names =
            aap_types::SYSTEM_COLUMNS.iter().chain(reserved).map(|name| name.to_lowercase()).collect();
        Self {
            entries: Vec::new(),
            by_field: HashMap::new(),
            names,
            first: NOBODY,
            schema: Arc::new(Schema::empty()),
            time_field,
        }
    }

    /// The entry whose field stands quoted at `at`, if it is one of those expected after `previous`, and the byte after it.
    #[inline(always)]
    pub(crate) fn predict(&self, previous: Option<usize>, bytes: &[u8], at: usize) -> Option<(usize, usize)> {
        let mut guess = previous.map_or(self.first, |index| self.entries[index].next);
        // Two guesses: the field that came next in the last record, and, if that is missing here, the one after it.
        for _ in 0..2 {
            let entry = self.entries.get(guess as usize)?;
            if entry.stands_at(bytes, at) {
                return Some((guess as usize, at + entry.pattern.len()));
            }
            guess = entry.next;
        }
        None
    }

    /// The entry of a known field; it is expected after `previous` from now on.
    pub(crate) fn find(&mut self, previous: Option<usize>, field: &[u8]) -> Option<usize> {
        let index = *self.by_field.get(field)?;
        self.expect(previous, index);
        Some(index as usize)
    }

    fn expect(&mut self, previous: Option<usize>, index: u32) {
        match previous {
            None => self.first = index,
            Some(previous) => self.entries[previous].next = index,
        }
    }

    /// Adds the entry of a new field; `None` beyond the limit.
    pub(crate) fn add(&mut self, previous: Option<usize>, field: &str) -> Option<usize> {
        if self.entries.len() >= COLUMNS_MAX {
            return None;
        }
        let index = self.entries.len() as u32;
        let role = self.role(field);
        let name = self.free_name(if field == "ts" { "ts_raw" } else { field });
        self.names.insert(name.to_lowercase());
        let plain = !field.bytes().any(|byte| byte == b'"' || byte == b'\\' || byte < 0x20);
        let pattern = if plain { format!("\"{field}\"").into_bytes() } else { Vec::new() };
        self.entries.push(Entry::new(name, pattern, role));
        self.by_field.insert(field.as_bytes().into(), index);
        self.expect(previous, index);
        Some(index as usize)
    }

    fn role(&self, field: &str) -> Role {
        let rank = match &self.time_field {
            Some(named) => (named == field).then_some(0),
            None => TIME_FIELDS.iter().position(|name| *name == field),
        };
        match rank {
            Some(rank) => Role::Time { rank: rank as u8, column: field != "ts" },
            None if SEVERITY_FIELDS.contains(&field) => Role::Severity,
            None => Role::Plain,
        }
    }

    /// A column name that SQL can tell from the others, which compares without case.
    fn free_name(&self, wanted: &str) -> String {
        let wanted = if wanted.is_empty() { "_" } else { wanted };
        if !self.names.contains(&wanted.to_lowercase()) {
            return wanted.to_owned();
        }
        let numbered = (2..).map(|n| format!("{wanted}_{n}"));
        numbered
            .into_iter()
            .find(|name| !self.names.contains(&name.to_lowercase()))
            .expect("some number is free")
    }

    /// Forgets what a bad record left: its values, and the columns it brought.
    pub(crate) fn roll_back(&mut self, rows: usize, entries: usize) {
        for entry in &mut self.entries {
            entry.column.truncate(rows);
        }
        if self.entries.len() > entries {
            self.forget_entries(entries);
        }
    }

    fn forget_entries(&mut self, entries: usize) {
        for removed in self.entries.drain(entries..) {
            self.names.remove(&removed.name.to_lowercase());
        }
        self.by_field.retain(|_, index| (*index as usize) < entries);
        let links = self.entries.iter_mut().map(|entry| &mut entry.next);
        for link in links.chain([&mut self.first]).filter(|link| **link as usize >= entries) {
            *link = NOBODY;
        }
    }

    /// Whether a field has the column of this lower-case name.
    pub(crate) fn has_column(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The batch of `rows` rows: `leading` columns, then those of the table that ever held a value.
    pub(crate) fn finish(
        &mut self,
        rows: usize,
        leading: Vec<(&str, ArrayRef)>,
    ) -> Result<RecordBatch, ArrowError> {
        let mut fields = Vec::with_capacity(leading.len() + self.entries.len());
        let mut arrays = Vec::with_capacity(fields.capacity());
        for (name, array) in leading {
            fields.push(Field::new(name, array.data_type().clone(), true));
            arrays.push(array);
        }
        let is_wide = self.entries.len() > COLUMNS_KEPT_MAX;
        for entry in self.entries.iter_mut().filter(|entry| !(is_wide && entry.column.is_empty())) {
            if let Some(array) = entry.column.finish(rows) {
                fields.push(Field::new(&entry.name, array.data_type().clone(), true));
                arrays.push(array);
            }
        }
        // The same allocation while nothing changes, so that whoever caches by schema compares pointers.
        let unchanged = self.schema.fields().iter().map(AsRef::as_ref).eq(fields.iter());
        if !unchanged {
            self.schema = Arc::new(Schema::new(fields));
        }
        RecordBatch::try_new(Arc::clone(&self.schema), arrays)
    }
}
