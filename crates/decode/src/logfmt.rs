//! `key=value key="quoted value" flag`: the format of Go services and Heroku.
//!
//! `msg` or `message` becomes the body (unless the body keeps the whole line); `level`, `lvl` or `severity` gives the severity. A key
//! without `=` is `true`; a key with nothing after `=` is null.

use crate::config::Format;
use crate::decoded::RowError;
use crate::record::Records;
use crate::severity::Severity;

/// Reads logfmt lines; keeps its memory between them.
#[derive(Debug, Default)]
pub(crate) struct LogfmtParser {
    unescaped: Vec<u8>,
}

impl LogfmtParser {
    pub(crate) fn read(&mut self, line: &str, records: &mut Records, keep_raw: bool) -> Result<(), RowError> {
        let bytes = line.as_bytes();
        let (mut at, mut pairs) = (0, 0);
        loop {
            at += bytes[at..].iter().take_while(|byte| **byte <= b' ').count();
            if at == bytes.len() {
                break;
            }
            let key_end = at
                + bytes[at..]
                    .iter()
                    .take_while(|byte| **byte > b' ' && **byte != b'=' && **byte != b'"')
                    .count();
            let key = &line[at..key_end];
            if key.is_empty() {
                return Err(error("a value without a key"));
            }
            if bytes.get(key_end) != Some(&b'=') {
                if bytes.get(key_end) == Some(&b'"') {
                    return Err(error("a quote within a key"));
                }
                records.field(key, b"true")?;
                at = key_end;
                continue;
            }
            pairs += 1;
            at = self.value(bytes, key, key_end + 1, records, keep_raw)?;
        }
        if pairs == 0 { Err(error("no key=value pair")) } else { Ok(()) }
    }

    fn value(
        &mut self,
        bytes: &[u8],
        key: &str,
        at: usize,
        records: &mut Records,
        keep_raw: bool,
    ) -> Result<usize, RowError> {
        if bytes.get(at) == Some(&b'"') {
            let end = self.quoted(bytes, at + 1)?;
            give(records, key, &self.unescaped, true, keep_raw)?;
            return Ok(end);
        }
        let end = at + bytes[at..].iter().take_while(|byte| **byte > b' ').count();
        if end > at {
            give(records, key, &bytes[at..end], false, keep_raw)?;
        }
        Ok(end)
    }

    /// Unescapes a quoted value; returns the byte after its closing quote. An unknown escape stays as it is.
    fn quoted(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, RowError> {
        self.unescaped.clear();
        loop {
            let stop =
                memchr::memchr2(b'"', b'\\', &bytes[at..]).ok_or(error("a quoted value without an end"))?;
            self.unescaped.extend_from_slice(&bytes[at..at + stop]);
            at += stop;
            if bytes[at] == b'"' {
                return Ok(at + 1);
            }
            at = match crate::json::text::escape(bytes, at, &mut |piece| {
                self.unescaped.extend_from_slice(piece)
            }) {
                Ok(after) => after,
                Err(_) => {
                    self.unescaped.push(b'\\');
                    at + 1
                }
            };
        }
    }
}

/// Gives the rows one pair, by what its key means in a log.
pub(crate) fn give(
    records: &mut Records,
    key: &str,
    value: &[u8],
    is_quoted: bool,
    keep_raw: bool,
) -> Result<(), RowError> {
    match key {
        "msg" | "message" | "body" if !keep_raw => {
            records.body(value);
            return Ok(());
        }
        "level" | "lvl" | "severity" => {
            records.severity(Severity::of_word(value));
            if key == "severity" && Severity::of_word(value) != Severity::Unstated {
                return Ok(());
            }
        }
        _ => {}
    }
    if is_quoted && value.is_empty() { records.text_field(key, value) } else { records.field(key, value) }
}

fn error(what: &'static str) -> RowError {
    RowError::Format { format: Format::Logfmt.words(), what }
}
