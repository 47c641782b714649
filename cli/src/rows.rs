//! Rows of a query or a tail, as they stream in.
//!
//! Tables and plain text are laid out here from JSON arrays, one a line; the `json` envelope is put around lines of
//! NDJSON; every other encoding is made by the server and passed on as it is.

use std::io;

use aap_client::operations::Format;
use aap_client::v1::{Column, Coverage, QueryDone};
use aap_types::Problem;
use serde_json::json;

use crate::listing::FORMAT_VERSION;
use crate::printer::Printer;
use crate::table::{Table, terminal_width};
use crate::text;

/// Rows that decide how wide columns are.
const SIZING_ROWS: usize = 200;

/// How rows are printed.
#[derive(Debug, Clone)]
pub(crate) struct RowStyle {
    pub(crate) format: Format,
    /// `kind` of the envelope.
    pub(crate) kind: &'static str,
    pub(crate) headers: bool,
    pub(crate) wide: bool,
}

impl RowStyle {
    /// What to ask the server for.
    pub(crate) fn wire_format(&self) -> &'static str {
        match self.format {
            Format::Table | Format::Plain => "rows",
            Format::Json | Format::Ndjson => "ndjson",
            Format::Csv => "csv",
            Format::Parquet => "parquet",
            Format::Arrow => "arrow",
        }
    }
}

/// Prints the rows of one answer.
pub(crate) struct RowPrinter {
    style: RowStyle,
    columns: Vec<Column>,
    /// What follows the last line break, until the rest of its line arrives.
    partial: Vec<u8>,
    waiting: Vec<Vec<String>>,
    table: Option<Table>,
    begun: bool,
    items: u64,
    header_cut: bool,
}

impl RowPrinter {
    pub(crate) fn new(style: RowStyle) -> Self {
        Self {
            style,
            columns: vec![],
            partial: vec![],
            waiting: vec![],
            table: None,
            begun: false,
            items: 0,
            header_cut: false,
        }
    }

    /// The columns are known.
    pub(crate) fn started(&mut self, columns: Vec<Column>, printer: &mut Printer) -> io::Result<()> {
        self.columns = columns;
        match self.style.format {
            Format::Json => self.open_envelope(printer),
            Format::Plain if self.style.headers => {
                let names: Vec<String> = self.columns.iter().map(|c| text::escape_plain(&c.name)).collect();
                printer.line(&names.join("\t"))?;
                // Who follows a stream sees that it has begun before the first row comes.
                printer.flush()
            }
            _ => Ok(()),
        }
    }

    /// The next bytes of the answer.
    pub(crate) fn data(&mut self, bytes: &[u8], printer: &mut Printer) -> io::Result<()> {
        match self.style.format {
            Format::Parquet | Format::Arrow | Format::Ndjson => printer.write(bytes),
            Format::Csv => self.csv(bytes, printer),
            Format::Json | Format::Table | Format::Plain => self.lines(bytes, printer),
        }
    }

    /// Whether rows wait for more rows, which decide the widths.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Nothing more came for a moment: show what there is.
    pub(crate) fn show_waiting(&mut self, printer: &mut Printer) -> io::Result<()> {
        self.size_table(printer)?;
        printer.flush()
    }

    /// The answer is complete.
    pub(crate) fn done(&mut self, done: &QueryDone, printer: &mut Printer) -> io::Result<()> {
        self.finish_lines(printer)?;
        if self.style.format == Format::Json {
            let tail = json!({
                "truncated": done.truncated,
                "truncated_by": (!done.truncated_by.is_empty()).then_some(&done.truncated_by),
                "next": null,
                "rows": done.rows,
                "as_of": text::rfc3339(done.as_of_us),
                "stale_ms": 0,
                "elapsed_ms": done.elapsed_ms,
                "coverage": done.coverage.as_ref().map(coverage_json),
            });
            self.close_envelope(&tail, printer)?;
        }
        printer.flush()
    }

    /// The answer ended early: what was begun is closed, so that stdout stays valid.
    pub(crate) fn failed(&mut self, problem: &Problem, printer: &mut Printer) -> io::Result<()> {
        let in_envelope = self.style.format == Format::Json && self.begun;
        if in_envelope || self.is_waiting() {
            self.finish_lines(printer)?;
        }
        if in_envelope {
            let mut tail = problem.to_json();
            tail["truncated"] = json!(true);
            self.close_envelope(&tail, printer)?;
        }
        printer.flush()
    }

    fn finish_lines(&mut self, printer: &mut Printer) -> io::Result<()> {
        let last = std::mem::take(&mut self.partial);
        if matches!(self.style.format, Format::Json | Format::Table | Format::Plain) && !last.is_empty() {
            self.row(&last, printer)?;
        }
        if self.style.format == Format::Table { self.size_table(printer) } else { Ok(()) }
    }

    fn lines(&mut self, bytes: &[u8], printer: &mut Printer) -> io::Result<()> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            if self.partial.is_empty() {
                self.row(line, printer)?;
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.row(&whole, printer)?;
            }
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    fn row(&mut self, line: &[u8], printer: &mut Printer) -> io::Result<()> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        self.items += 1;
        match self.style.format {
            Format::Json => {
                printer.write(if self.items > 1 { b",\n" } else { b"\n" })?;
                printer.write(line)
            }
            Format::Plain => {
                let cells: Vec<String> = split_cells(line).iter().map(|cell| cell.plain()).collect();
                printer.line(&cells.join("\t"))
            }
            _ => self.table_row(line, printer),
        }
    }

    fn table_row(&mut self, line: &[u8], printer: &mut Printer) -> io::Result<()> {
        let cells: Vec<String> = split_cells(line).iter().map(|cell| cell.readable()).collect();
        match &self.table {
            Some(table) => printer.line(&table.line(&cells)),
            None => {
                self.waiting.push(cells);
                if self.waiting.len() >= SIZING_ROWS { self.size_table(printer) } else { Ok(()) }
            }
        }
    }

    fn size_table(&mut self, printer: &mut Printer) -> io::Result<()> {
        if self.style.format != Format::Table || self.columns.is_empty() {
            return Ok(());
        }
        if self.table.is_none() {
            let headings = self.columns.iter().map(|column| text::clean(&column.name)).collect();
            let right: Vec<bool> = self.columns.iter().map(|column| is_number(&column.r#type)).collect();
            let fits = printer.stdout_is_terminal() && !self.style.wide;
            let width = if fits { terminal_width() } else { None };
            let table = Table::sized(headings, &right, &self.waiting, width);
            if self.style.headers {
                let header = printer.style().bold(&table.header());
                printer.line(&header)?;
                printer.line(&table.rule())?;
            }
            self.table = Some(table);
        }
        let waiting = std::mem::take(&mut self.waiting);
        let Some(table) = &self.table else { return Ok(()) };
        waiting.iter().try_for_each(|row| printer.line(&table.line(row)))
    }

    /// CSV as the server made it, without its first line if nobody wants names; on a terminal nothing in it may act.
    fn csv(&mut self, bytes: &[u8], printer: &mut Printer) -> io::Result<()> {
        let mut rest = bytes;
        if !self.style.headers && !self.header_cut {
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(()) };
            self.header_cut = true;
            rest = &rest[end + 1..];
        }
        if !printer.stdout_is_terminal() {
            return printer.write(rest);
        }
        let harmless: Vec<u8> =
            rest.iter().map(|b| if b.is_ascii_control() && *b != b'\n' { b'?' } else { *b }).collect();
        printer.write(&harmless)
    }

    fn open_envelope(&mut self, printer: &mut Printer) -> io::Result<()> {
        self.begun = true;
        let columns: Vec<_> =
            self.columns.iter().map(|c| json!({"name": c.name, "type": c.r#type})).collect();
        let head = format!(
            "{{\"format_version\":{},\"kind\":{},\"columns\":{},\"items\":[",
            json!(FORMAT_VERSION),
            json!(self.style.kind),
            json!(columns)
        );
        printer.write(head.as_bytes())
    }

    fn close_envelope(&mut self, tail: &serde_json::Value, printer: &mut Printer) -> io::Result<()> {
        if !self.begun {
            self.open_envelope(printer)?;
        }
        let tail = tail.to_string();
        printer.line(&format!("],{}", tail.trim_start_matches('{')))
    }
}

/// Coverage as JSON.
pub(crate) fn coverage_json(coverage: &Coverage) -> serde_json::Value {
    json!({
        "asked": coverage.asked,
        "answered": coverage.answered,
        "late": coverage.late,
        "failed": coverage.failed,
        "reasons": coverage.reasons,
        "late_reasons": coverage.late_reasons,
    })
}

fn is_number(type_name: &str) -> bool {
    let upper = type_name.to_ascii_uppercase();
    ["INT", "FLOAT", "DOUBLE", "DECIMAL", "NUMERIC", "REAL"].iter().any(|word| upper.contains(word))
        && !upper.contains("INTERVAL")
        && !upper.contains('[')
        && (!upper.contains('(') || upper.starts_with("DECIMAL"))
}

/// One value of a row.
#[derive(Debug, PartialEq)]
enum Cell {
    Null,
    Text(String),
    /// A number, a truth value, or nested JSON, as it was written.
    Literal(String),
}

impl Cell {
    fn readable(&self) -> String {
        match self {
            Self::Null => "NULL".to_owned(),
            Self::Text(text) | Self::Literal(text) => text::clean(text),
        }
    }

    fn plain(&self) -> String {
        match self {
            Self::Null => "NULL".to_owned(),
            Self::Text(text) | Self::Literal(text) => text::escape_plain(text),
        }
    }
}

/// The values of one JSON array. Numbers stay as they were written: no digit is lost.
fn split_cells(line: &[u8]) -> Vec<Cell> {
    let text = String::from_utf8_lossy(line);
    let inner = text.trim().strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(&text);
    let mut cells = Vec::new();
    let (mut start, mut depth, mut in_text, mut escaped) = (0, 0u32, false, false);
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                cells.push(cell(&inner[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner.trim().is_empty() {
        cells.push(cell(&inner[start..]));
    }
    cells
}

fn cell(text: &str) -> Cell {
    let text = text.trim();
    if text == "null" {
        return Cell::Null;
    }
    if text.starts_with('"')
        && let Ok(inner) = serde_json::from_str::<String>(text)
    {
        return Cell::Text(inner);
    }
    Cell::Literal(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_keep_every_digit_and_nested_values() {
        let cells = split_cells(
            br#"[170141183460469231731687303715884105727, "a,\"]b", null, {"x":[1,2]}, "", 1.50]"#,
        );
        let literal = |text: &str| Cell::Literal(text.to_owned());
        assert_eq!(
            cells,
            [
                literal("170141183460469231731687303715884105727"),
                Cell::Text("a,\"]b".into()),
                Cell::Null,
                literal("{\"x\":[1,2]}"),
                Cell::Text(String::new()),
                literal("1.50"),
            ]
        );
        assert_eq!(split_cells(b"[]"), []);
    }

    #[test]
    fn number_types_stand_right() {
        for (name, right) in [
            ("BIGINT", true),
            ("DECIMAL(18,3)", true),
            ("UInt64", true),
            ("Float64", true),
            ("VARCHAR", false),
            ("INTERVAL", false),
            ("INTEGER[]", false),
            ("STRUCT(a INTEGER)", false),
            ("TIMESTAMP WITH TIME ZONE", false),
        ] {
            assert_eq!(is_number(name), right, "{name}");
        }
    }
}
