//! Log formats of one record a line: each parser reads a line and hands its fields to the rows.
//!
//! A line that is not UTF-8 gets U+FFFD, counted; a blank line is no record.

use std::borrow::Cow;

use memchr::memchr;

use crate::combined;
use crate::config::{ConfigError, DecoderConfig, Format};
use crate::decoded::{BadRows, Context, DecodeError, Decoded, RowError};
use crate::logfmt::LogfmtParser;
use crate::pattern::PatternParser;
use crate::record::Records;
use crate::syslog;
use crate::time::TimeReader;

#[derive(Debug)]
pub(crate) struct LogDecoder {
    parser: Parser,
    records: Records,
    keep_raw: bool,
}

#[derive(Debug)]
enum Parser {
    Logfmt(LogfmtParser),
    Pattern(PatternParser),
    Combined,
    Syslog,
}

impl LogDecoder {
    pub(crate) fn new(
        config: &DecoderConfig,
        time: TimeReader,
        time_field: Option<String>,
    ) -> Result<Self, ConfigError> {
        let parser = match config.format {
            Format::Regex => Parser::Pattern(PatternParser::new(config.pattern.as_deref())?),
            Format::Combined => Parser::Combined,
            Format::Syslog => Parser::Syslog,
            _ => Parser::Logfmt(LogfmtParser::default()),
        };
        Ok(Self { parser, records: Records::logs(time_field, time), keep_raw: config.keep_raw })
    }

    pub(crate) fn decode<'a>(
        &mut self,
        records: impl Iterator<Item = &'a [u8]>,
        context: &Context<'_>,
    ) -> Result<Decoded, DecodeError> {
        self.records.time.observed(context.observed_us);
        let (mut bad, mut replaced, mut offset, mut number) = (BadRows::within(b""), 0, 0, 0);
        for line in records {
            if self.records.is_full() {
                break;
            }
            number += 1;
            let text = without_line_end(line);
            let (clean, invalid) = clean(text);
            replaced += invalid;
            if let Err(reason) = self.line(&clean) {
                bad.push_text(number, offset, reason, text);
            }
            offset += line.len();
        }
        self.records.finish(offset, bad.into_rows(), replaced, context, &[])
    }

    fn line(&mut self, line: &str) -> Result<(), RowError> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let entries = self.records.table.entries.len();
        let read = match &mut self.parser {
            Parser::Logfmt(parser) => parser.read(line, &mut self.records, self.keep_raw),
            Parser::Pattern(parser) => parser.read(line, &mut self.records, self.keep_raw),
            Parser::Combined => combined::read(line, &mut self.records),
            Parser::Syslog => syslog::read(line, &mut self.records, self.keep_raw),
        };
        if let Err(reason) = read {
            self.records.roll_back(entries);
            return Err(reason);
        }
        if self.keep_raw {
            self.records.body(line.as_bytes());
        }
        self.records.commit();
        Ok(())
    }
}

/// The pieces of `bytes` between line ends, each with its line end.
pub(crate) fn lines_of(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr(b'\n', rest).map_or(rest.len(), |last| last + 1);
        let (line, after) = rest.split_at(end);
        rest = after;
        Some(line)
    })
}

pub(crate) fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The text of a line, with U+FFFD for each invalid sequence, and how many there were.
pub(crate) fn clean(line: &[u8]) -> (Cow<'_, str>, u64) {
    match std::str::from_utf8(line) {
        Ok(text) => (Cow::Borrowed(text), 0),
        Err(_) => {
            let invalid = line.utf8_chunks().filter(|chunk| !chunk.invalid().is_empty()).count();
            (String::from_utf8_lossy(line), invalid as u64)
        }
    }
}
