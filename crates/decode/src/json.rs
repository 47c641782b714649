//! JSON straight into columns: no tree between, no allocation a row.
//!
//! A record is walked once. The n-th field is compared with the field that stood there in the record before
//! ([`Table::predict`]), so that a name costs one comparison; strings without escapes are copied from the input to their column;
//! numbers are read by hand. A schema change (new field, other type) first checks the rest of its record, so that a bad record never
//! teaches the schema anything.
//!
//! | file | owns |
//! |---|---|
//! | `json.rs` | records, fields, values |
//! | `json/text.rs`, `json/number.rs` | the scalars |
//! | `json/skip.rs` | passing over a value strictly: nested values are kept as their text |
//! | `json/fault.rs` | what is wrong and where |

mod fault;
pub(crate) mod number;
mod skip;
pub(crate) mod text;

use memchr::memchr;

use self::fault::{Cause, Fault};
use self::number::Number;
use crate::column::{self, Kind};
use crate::decoded::{BadRow, BadRows, Context, DecodeError, Decoded, RowError, ts_array};
use crate::scan;
use crate::severity::{Severity, log_columns};
use crate::table::{Role, Table, is_full};
use crate::time::TimeReader;
use crate::{BATCH_BYTES_MAX, FIELD_NAME_BYTES_MAX};

/// A row of no rank has not stated its time yet.
const UNRANKED: u8 = u8::MAX;

#[derive(Debug)]
pub(crate) struct JsonDecoder {
    table: Table,
    time: TimeReader,
    raw: Option<column::Column>,
    ts: Vec<i64>,
    /// Of each row, as [`Severity`] numbers them.
    severity: Vec<i8>,
    was_severity_stated: bool,
    rows: usize,
    row: Row,
    /// Field names and strings with escapes, decoded.
    scratch: Vec<u8>,
    duplicates: u64,
    /// The document that the next call is given is the rest of an array: it begins with an element.
    is_inside: bool,
    /// Elements of the document so far, over all its calls.
    elements: u64,
}

/// What is known of the record being read.
#[derive(Debug)]
struct Row {
    start: usize,
    ts: i64,
    ts_rank: u8,
    severity: Severity,
    /// Its grammar was checked to its end: it may change the schema.
    is_checked: bool,
}

impl Row {
    #[inline(always)]
    fn beginning_at(start: usize) -> Self {
        Self { start, ts: 0, ts_rank: UNRANKED, severity: Severity::Unstated, is_checked: false }
    }
}

impl JsonDecoder {
    pub(crate) fn new(time_field: Option<String>, time: TimeReader, keep_raw: bool) -> Self {
        let reserved: &[&str] = if keep_raw { &["ts", "raw"] } else { &["ts"] };
        Self {
            table: Table::new(time_field, reserved),
            time,
            raw: keep_raw.then(column::Column::of_text),
            ts: Vec::new(),
            severity: Vec::new(),
            was_severity_stated: false,
            rows: 0,
            row: Row::beginning_at(0),
            scratch: Vec::new(),
            duplicates: 0,
            is_inside: false,
            elements: 0,
        }
    }

    /// Decodes one object a line, as many as a batch takes.
    pub(crate) fn lines(&mut self, bytes: &[u8], context: &Context<'_>) -> Result<Decoded, DecodeError> {
        self.time.observed(context.observed_us);
        let all_utf8 = scan::is_utf8(bytes);
        let mut bad = BadRows::within(bytes);
        let mut at = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        while at < bytes.len() && !is_full(self.rows, self.table.entries.len()) {
            match self.line(bytes, at, all_utf8) {
                Ok(end) => at = end,
                Err(reason) => {
                    let end = line_end(bytes, at);
                    bad.push(at, trim_line_end(bytes, at, end), reason);
                    at = end + 1;
                }
            }
        }
        self.finish(at.min(bytes.len()), bad.into_rows(), context)
    }

    /// Decodes the line at `start`; returns where the next one begins.
    #[inline]
    fn line(&mut self, bytes: &[u8], start: usize, all_utf8: bool) -> Result<usize, RowError> {
        if !all_utf8 {
            check_utf8(&bytes[start..line_end(bytes, start)])?;
        }
        let begin = skip::space::<false>(bytes, start);
        match bytes.get(begin) {
            None => return Ok(begin),
            Some(b'\n') => return Ok(begin + 1),
            _ => {}
        }
        let columns = self.table.entries.len();
        let ended = self.record::<false>(bytes, begin).and_then(|end| {
            let next = skip::space::<false>(bytes, end);
            match bytes.get(next) {
                None => Ok((end, next)),
                Some(b'\n') => Ok((end, next + 1)),
                Some(_) => Err(Fault::syntax(next, "something after the object")),
            }
        });
        match ended {
            Ok((end, next)) => {
                self.commit(&bytes[begin..end]);
                Ok(next)
            }
            Err(fault) => {
                // What is no object has left nothing: garbage of short lines must not visit every column a line.
                if bytes[begin] == b'{' {
                    self.table.roll_back(self.rows, columns);
                }
                Err(fault.into_error(start))
            }
        }
    }

    /// Decodes one document: an array of objects, or one object. Of an array as much as a batch takes: the rest is the next call's.
    /// After an error nothing of the document is kept.
    pub(crate) fn document(&mut self, bytes: &[u8], context: &Context<'_>) -> Result<Decoded, DecodeError> {
        self.time.observed(context.observed_us);
        let mut bad = BadRows::within(bytes);
        let is_inside = std::mem::take(&mut self.is_inside);
        if !is_inside {
            self.elements = 0;
        }
        if !scan::is_utf8(bytes)
            && let Err(error) = std::str::from_utf8(bytes)
        {
            let at = error.valid_up_to();
            // Only to find out in which element that is.
            let _in_it = self.elements(&bytes[..at], is_inside, &mut bad);
            return Err(self.broken(RowError::NotUtf8 { at: at as u64 }));
        }
        match self.elements(bytes, is_inside, &mut bad) {
            Ok(end) => self.finish(end, bad.into_rows(), context),
            Err((at, fault)) => Err(self.broken(fault.into_error(at))),
        }
    }

    /// Nothing of the document is kept.
    fn broken(&mut self, reason: RowError) -> DecodeError {
        self.forget_rows();
        self.is_inside = false;
        DecodeError::Document { element: self.elements.max(1), reason }
    }

    /// Decodes the elements, as many as a batch takes, and returns where the next one begins; on a syntax error, where the broken
    /// element began and what is wrong: nothing after it can be read.
    fn elements(
        &mut self,
        bytes: &[u8],
        is_inside: bool,
        bad: &mut BadRows<'_>,
    ) -> Result<usize, (usize, Fault)> {
        let begin = if !is_inside && bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let mut at = skip::space::<true>(bytes, begin);
        if at == bytes.len() && !is_inside {
            return Ok(at);
        }
        let opens = !is_inside && bytes.get(at) == Some(&b'[');
        if opens {
            at = skip::space::<true>(bytes, at + 1);
        }
        let is_array = is_inside || opens;
        let mut is_open = !(opens && bytes.get(at) == Some(&b']'));
        while is_open {
            if is_array && (at > BATCH_BYTES_MAX || is_full(self.rows, self.table.entries.len())) {
                self.is_inside = true;
                return Ok(at);
            }
            let start = at;
            self.elements += 1;
            at = self.element(bytes, start, bad).map_err(|fault| (start, fault))?;
            at = skip::space::<true>(bytes, at);
            is_open = is_array && bytes.get(at) == Some(&b',');
            if is_open {
                at = skip::space::<true>(bytes, at + 1);
            }
        }
        if is_array {
            if bytes.get(at) != Some(&b']') {
                return Err((at, Fault::syntax(at, "no comma or closing bracket after an element")));
            }
            at = skip::space::<true>(bytes, at + 1);
        }
        if at < bytes.len() {
            self.elements += 1;
            return Err((at, Fault::syntax(at, "something after the document")));
        }
        Ok(at)
    }

    /// Decodes one element; what is JSON but no record is a bad row of its own.
    fn element(&mut self, bytes: &[u8], start: usize, bad: &mut BadRows<'_>) -> Result<usize, Fault> {
        let columns = self.table.entries.len();
        match self.record::<true>(bytes, start) {
            Ok(end) => {
                self.commit(&bytes[start..end]);
                Ok(end)
            }
            Err(fault) => {
                self.table.roll_back(self.rows, columns);
                let end = skip::value::<true>(bytes, start)?;
                bad.push_text(self.elements, start, fault.into_error(start), &bytes[start..end]);
                Ok(end)
            }
        }
    }

    /// Reads the object at `at` into the columns; returns the byte after it.
    #[inline(always)]
    fn record<const MULTILINE: bool>(&mut self, bytes: &[u8], at: usize) -> Result<usize, Fault> {
        if bytes.get(at) != Some(&b'{') {
            // `nul` is no JSON at all, `null` is, but no record.
            skip::value::<MULTILINE>(bytes, at)?;
            return Err(Fault { at, cause: Cause::NotAnObject });
        }
        self.row = Row::beginning_at(at);
        let mut at = skip::space::<MULTILINE>(bytes, at + 1);
        if bytes.get(at) == Some(&b'}') {
            return Ok(at + 1);
        }
        let mut previous = None;
        loop {
            let (entry, after_name) = match self.table.predict(previous, bytes, at) {
                Some(found) => found,
                None => self.field::<MULTILINE>(previous, bytes, at)?,
            };
            let begin = skip::colon::<MULTILINE>(bytes, after_name)?;
            at = skip::space::<MULTILINE>(bytes, self.value::<MULTILINE>(bytes, begin, entry)?);
            match bytes.get(at) {
                Some(b',') => at = skip::space::<MULTILINE>(bytes, at + 1),
                Some(b'}') => return Ok(at + 1),
                Some(_) => return Err(Fault::syntax(at, "no comma or closing brace after a value")),
                None => return Err(Fault::syntax(at, "ends in the middle")),
            }
            previous = Some(entry);
        }
    }

    /// Finds or adds the field whose name stands at `at`, which was not the expected one.
    #[inline(never)]
    fn field<const MULTILINE: bool>(
        &mut self,
        previous: Option<usize>,
        bytes: &[u8],
        at: usize,
    ) -> Result<(usize, usize), Fault> {
        if bytes.get(at) != Some(&b'"') {
            return Err(Fault::syntax(at, "no field name where one must stand"));
        }
        self.scratch.clear();
        let end = text::string(bytes, at + 1, |piece| self.scratch.extend_from_slice(piece))?;
        if let Some(entry) = self.table.find(previous, &self.scratch) {
            return Ok((entry, end));
        }
        check_record::<MULTILINE>(&mut self.row, bytes)?;
        if self.scratch.len() > FIELD_NAME_BYTES_MAX {
            return Err(Fault { at, cause: Cause::NameTooLong });
        }
        let name = std::str::from_utf8(&self.scratch)
            .map_err(|_| Fault::syntax(at, "field name that is not UTF-8"))?;
        let entry = self.table.add(previous, name).ok_or(Fault { at, cause: Cause::TooManyColumns })?;
        Ok((entry, end))
    }

    /// Reads the value at `at` into its column; returns the byte after it.
    #[inline(always)]
    fn value<const MULTILINE: bool>(
        &mut self,
        bytes: &[u8],
        at: usize,
        entry: usize,
    ) -> Result<usize, Fault> {
        let Self { table, row, rows, time, duplicates, scratch, .. } = self;
        let entry = &mut table.entries[entry];
        if entry.column.has(*rows) {
            *duplicates += 1;
        }
        if entry.role != Role::Plain
            && let Some(end) = meaning(row, time, entry.role, bytes, at)?
        {
            return Ok(end);
        }
        let column = &mut entry.column;
        let mut admit = |column: &mut column::Column, kind| {
            if !column.accepts(kind) && !column.is_text() {
                check_record::<MULTILINE>(row, bytes)?;
                column.widen(kind);
            }
            Ok::<(), Fault>(())
        };
        match bytes.get(at) {
            Some(b'"') => {
                admit(column, Kind::Text)?;
                let end = scan::string_end(bytes, at + 1);
                if bytes.get(end) == Some(&b'"') {
                    column.push_text(*rows, &bytes[at + 1..end]);
                    return Ok(end + 1);
                }
                scratch.clear();
                let end = text::string(bytes, at + 1, |piece| scratch.extend_from_slice(piece))?;
                column.push_text(*rows, scratch);
                Ok(end)
            }
            Some(b'-' | b'0'..=b'9') => {
                let (number, end) = number::number(bytes, at)?;
                match number {
                    Number::Integer(value) if column.accepts(Kind::Integer) => {
                        column.push_integer(*rows, value)
                    }
                    Number::Float(value) if column.is_float() => column.push_float(*rows, value),
                    Number::Integer(value) if column.is_float() && column::is_exact(value) => {
                        column.push_float(*rows, value as f64);
                    }
                    _ if column.is_text() => column.push_text(*rows, &bytes[at..end]),
                    number => {
                        check_record::<MULTILINE>(row, bytes)?;
                        push_other_number(column, *rows, number, &bytes[at..end]);
                    }
                }
                Ok(end)
            }
            Some(b't') => {
                let end = skip::literal(bytes, at, b"true")?;
                admit(column, Kind::Boolean)?;
                push_boolean(column, *rows, true);
                Ok(end)
            }
            Some(b'f') => {
                let end = skip::literal(bytes, at, b"false")?;
                admit(column, Kind::Boolean)?;
                push_boolean(column, *rows, false);
                Ok(end)
            }
            Some(b'n') => {
                let end = skip::literal(bytes, at, b"null")?;
                column.push_null(*rows);
                Ok(end)
            }
            _ => {
                let end = skip::value::<MULTILINE>(bytes, at)?;
                admit(column, Kind::Text)?;
                column.push_text(*rows, &bytes[at..end]);
                Ok(end)
            }
        }
    }

    /// Makes the record just read a row.
    #[inline(always)]
    fn commit(&mut self, text: &[u8]) {
        self.ts.push(if self.row.ts_rank == UNRANKED { self.time.observed_us() } else { self.row.ts });
        self.severity.push(self.row.severity as i8);
        if let Some(raw) = &mut self.raw {
            raw.push_text(self.rows, text);
        }
        self.rows += 1;
    }

    /// Forgets the rows of a document that turned out broken.
    fn forget_rows(&mut self) {
        self.table.roll_back(0, self.table.entries.len());
        self.raw.iter_mut().for_each(|raw| raw.truncate(0));
        self.ts.clear();
        self.severity.clear();
        self.rows = 0;
    }

    fn finish(
        &mut self,
        taken: usize,
        bad: Vec<BadRow>,
        context: &Context<'_>,
    ) -> Result<Decoded, DecodeError> {
        let rows = std::mem::take(&mut self.rows);
        let mut leading = vec![("ts", ts_array(std::mem::replace(&mut self.ts, Vec::with_capacity(rows))))];
        let severity = std::mem::replace(&mut self.severity, Vec::with_capacity(rows));
        let has_column = |name: &str| self.table.has_column(name);
        leading.extend(log_columns(severity, &mut self.was_severity_stated, context, has_column));
        leading.extend(self.raw.as_mut().and_then(|raw| raw.finish(rows)).map(|raw| ("raw", raw)));
        let batch = self.table.finish(rows, leading)?;
        let duplicate_fields = std::mem::take(&mut self.duplicates);
        Ok(Decoded { batch, raw_bytes: taken as u64, bad, replaced: 0, duplicate_fields })
    }
}

/// Takes the record's time or severity from a field that may state it; the byte after the value if it is a column no more.
fn meaning(
    row: &mut Row,
    time: &mut TimeReader,
    role: Role,
    bytes: &[u8],
    at: usize,
) -> Result<Option<usize>, Fault> {
    let (rank, column) = match role {
        Role::Plain => return Ok(None),
        Role::Severity => {
            row.severity = severity_at(bytes, at);
            return Ok(None);
        }
        Role::Time { rank, column } => (rank, column),
    };
    let (read, end) = match bytes.get(at) {
        Some(b'"') => {
            let end = scan::string_end(bytes, at + 1);
            if bytes.get(end) != Some(&b'"') {
                return Ok(None);
            }
            (time.text(&bytes[at + 1..end]), end + 1)
        }
        Some(b'-' | b'0'..=b'9') => match number::number(bytes, at)? {
            (Number::Integer(value), end) => (time.integer(value), end),
            (Number::Float(value), end) => (time.float(value), end),
            (Number::Beyond, _) => return Ok(None),
        },
        _ => return Ok(None),
    };
    let Some(us) = read else { return Ok(None) };
    if rank <= row.ts_rank {
        (row.ts, row.ts_rank) = (us, rank);
    }
    Ok((!column).then_some(end))
}

/// The severity that the value at `at` states.
fn severity_at(bytes: &[u8], at: usize) -> Severity {
    match bytes.get(at) {
        Some(b'"') => {
            let end = scan::string_end(bytes, at + 1);
            if bytes.get(end) == Some(&b'"') {
                Severity::of_word(&bytes[at + 1..end])
            } else {
                Severity::Unstated
            }
        }
        Some(b'1'..=b'6') => {
            let digits = bytes[at..].iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
            Severity::of_number(&bytes[at..at + digits])
        }
        _ => Severity::Unstated,
    }
}

/// Checks the record's grammar to its end, once: before it may change the schema.
#[cold]
fn check_record<const MULTILINE: bool>(row: &mut Row, bytes: &[u8]) -> Result<(), Fault> {
    if !row.is_checked {
        let end = skip::value::<MULTILINE>(bytes, row.start)?;
        let next = skip::space::<MULTILINE>(bytes, end);
        if !MULTILINE && !matches!(bytes.get(next), None | Some(b'\n')) {
            return Err(Fault::syntax(next, "something after the object"));
        }
        row.is_checked = true;
    }
    Ok(())
}

/// A number in a column of another type: the column widens to hold both without loss.
#[cold]
fn push_other_number(column: &mut column::Column, row: usize, number: Number, text: &[u8]) {
    let kind = match number {
        Number::Integer(_) if !column.is_float() => Kind::Integer,
        Number::Float(_) => Kind::Float,
        _ => Kind::Text,
    };
    column.widen(kind);
    match number {
        Number::Integer(value) if column.accepts(Kind::Integer) => column.push_integer(row, value),
        Number::Float(value) if column.accepts(Kind::Float) => column.push_float(row, value),
        _ => column.push_text(row, text),
    }
}

#[inline(always)]
fn push_boolean(column: &mut column::Column, row: usize, value: bool) {
    if column.is_text() {
        column.push_text(row, if value { b"true" } else { b"false" });
    } else {
        column.push_boolean(row, value);
    }
}

fn line_end(bytes: &[u8], start: usize) -> usize {
    memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |length| start + length)
}

/// The end of the line `start..end` without a carriage return.
fn trim_line_end(bytes: &[u8], start: usize, end: usize) -> usize {
    end - usize::from(bytes[start..end].ends_with(b"\r"))
}

fn check_utf8(text: &[u8]) -> Result<(), RowError> {
    std::str::from_utf8(text)
        .map(|_| ())
        .map_err(|error| RowError::NotUtf8 { at: error.valid_up_to() as u64 })
}
