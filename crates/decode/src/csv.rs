//! Comma-separated values as RFC 4180 has them: quotes around a field, doubled within it, line ends inside quotes.
//!
//! The first record of the decoder's life names the columns. An empty field is null, `""` is the empty text. A
//! quote inside a field that does not begin with one is a plain character.

use memchr::{memchr, memchr_iter, memchr2};

use crate::config::{ConfigError, DecoderConfig, Format};
use crate::decoded::{BadRows, Context, DecodeError, Decoded, RowError};
use crate::record::Records;
use crate::scan;
use crate::time::TimeReader;
use crate::{COLUMNS_MAX, FIELD_NAME_BYTES_MAX, INPUT_BYTES_MAX};

#[derive(Debug)]
pub(crate) struct CsvDecoder {
    delimiter: u8,
    /// Columns of the header; zero while it was not seen.
    width: usize,
    records: Records,
    pieces: Vec<Piece>,
    unquoted: Vec<u8>,
}

/// Where a field lies in the input.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: usize,
    end: usize,
    is_quoted: bool,
    has_doubled_quotes: bool,
}

/// Why a record does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// The input ends within quotes: more input may help.
    Unfinished,
    /// Something stands between a closing quote and the delimiter.
    AfterQuote,
}

impl CsvDecoder {
    pub(crate) fn new(
        config: &DecoderConfig,
        time: TimeReader,
        time_field: Option<String>,
    ) -> Result<Self, ConfigError> {
        let delimiter = delimiter(config.delimiter.unwrap_or(','))?;
        let records = Records::events(time_field, time, config.keep_raw);
        let mut decoder = Self { delimiter, width: 0, records, pieces: Vec::new(), unquoted: Vec::new() };
        if let Some(columns) = &config.columns {
            let repeated = columns.iter().enumerate().find(|(index, name)| columns[..*index].contains(name));
            if columns.is_empty() || columns.len() > COLUMNS_MAX || repeated.is_some() {
                let name = repeated.map_or("", |(_, name)| name);
                return Err(ConfigError::Columns(name.to_owned()));
            }
            decoder.name_columns(columns.iter().map(String::as_str));
        }
        Ok(decoder)
    }

    fn name_columns<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        for name in names {
            self.records.table.add(None, name);
            self.width += 1;
        }
    }

    /// The end of the last record of `chunk` that is whole.
    pub(crate) fn boundary(&self, chunk: &[u8]) -> usize {
        let mut at = 0;
        while at < chunk.len() {
            let end = match split(chunk, at, self.delimiter, |_| {}) {
                Ok(end) => end,
                Err(Broken::AfterQuote) => line_end(chunk, at),
                Err(Broken::Unfinished) => return at,
            };
            if chunk.get(end - 1) != Some(&b'\n') {
                return at;
            }
            at = end;
        }
        at
    }

    /// How many bytes at the beginning of `bytes` name the columns: up to the end of the first record that is not blank.
    pub(crate) fn header_length(&self, bytes: &[u8]) -> usize {
        let mut at = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        while at < bytes.len() {
            let mut fields = 0;
            let mut is_empty = true;
            let end = split(bytes, at, self.delimiter, |piece| {
                fields += 1;
                is_empty &= piece.start == piece.end && !piece.is_quoted;
            });
            match end {
                Ok(end) if fields == 1 && is_empty => at = end,
                Ok(end) => return end,
                Err(_) => at = line_end(bytes, at),
            }
        }
        0
    }

    pub(crate) fn decode(&mut self, bytes: &[u8], context: &Context<'_>) -> Result<Decoded, DecodeError> {
        debug_assert!(bytes.len() <= INPUT_BYTES_MAX);
        self.records.time.observed(context.observed_us);
        let all_utf8 = scan::is_utf8(bytes);
        let mut bad = BadRows::within(bytes);
        let mut at = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        while at < bytes.len() && !self.records.is_full() {
            self.pieces.clear();
            let split = split(bytes, at, self.delimiter, |piece| self.pieces.push(piece));
            let end = split.unwrap_or_else(|_| line_end(bytes, at));
            let is_blank = matches!(&*self.pieces, [only] if only.start == only.end && !only.is_quoted);
            let text = trim_line_end(&bytes[at..end]);
            let outcome = match split {
                Err(Broken::Unfinished) => Err(csv_error("quoted field without an end")),
                Err(Broken::AfterQuote) => Err(csv_error("text after a closing quote")),
                Ok(_) if is_blank => Ok(()),
                Ok(_) if self.width == 0 => {
                    self.header(bytes)?;
                    Ok(())
                }
                Ok(_) if !all_utf8 => check_utf8(text).and_then(|()| self.row(bytes, text)),
                Ok(_) => self.row(bytes, text),
            };
            if let Err(reason) = outcome {
                bad.push(at, at + text.len(), reason);
            }
            at = end;
        }
        self.records.finish(at, bad.into_rows(), 0, context, &[])
    }

    fn header(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        if self.pieces.len() > COLUMNS_MAX {
            return Err(DecodeError::Header {
                what: format!("{} columns, the most is {COLUMNS_MAX}", self.pieces.len()),
            });
        }
        let mut names = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            let text = unquote(bytes, *piece, &mut self.unquoted);
            let name = std::str::from_utf8(text)
                .map_err(|_| DecodeError::Header { what: "not UTF-8".to_owned() })?;
            if name.len() > FIELD_NAME_BYTES_MAX {
                return Err(DecodeError::Header { what: RowError::NameTooLong.to_string() });
            }
            names.push(name.trim().to_owned());
        }
        self.name_columns(names.iter().map(String::as_str));
        Ok(())
    }

    fn row(&mut self, bytes: &[u8], text: &[u8]) -> Result<(), RowError> {
        if self.pieces.len() != self.width {
            return Err(RowError::Ragged { expected: self.width, found: self.pieces.len() });
        }
        for (column, piece) in self.pieces.iter().enumerate() {
            if piece.is_quoted || piece.start < piece.end {
                self.records.inferred(column, unquote(bytes, *piece, &mut self.unquoted));
            }
        }
        self.records.raw(text);
        self.records.commit();
        Ok(())
    }
}

/// Finds the fields of the record at `at`; returns where the next record begins.
fn split(bytes: &[u8], mut at: usize, delimiter: u8, mut found: impl FnMut(Piece)) -> Result<usize, Broken> {
    loop {
        let quoted = bytes.get(at) == Some(&b'"');
        let (piece, end) = if quoted { quoted_piece(bytes, at)? } else { plain_piece(bytes, at, delimiter) };
        found(piece);
        match bytes.get(end) {
            Some(byte) if *byte == delimiter => at = end + 1,
            Some(b'\n') => return Ok(end + 1),
            None => return Ok(end),
            Some(b'\r') if bytes.get(end + 1).is_none_or(|next| *next == b'\n') => {
                return Ok((end + 2).min(bytes.len()));
            }
            Some(_) => return Err(Broken::AfterQuote),
        }
    }
}

fn quoted_piece(bytes: &[u8], at: usize) -> Result<(Piece, usize), Broken> {
    let start = at + 1;
    let (mut from, mut has_doubled_quotes) = (start, false);
    loop {
        let quote = from + bytes.get(from..).and_then(|rest| memchr(b'"', rest)).ok_or(Broken::Unfinished)?;
        if bytes.get(quote + 1) != Some(&b'"') {
            return Ok((Piece { start, end: quote, is_quoted: true, has_doubled_quotes }, quote + 1));
        }
        (from, has_doubled_quotes) = (quote + 2, true);
    }
}

fn plain_piece(bytes: &[u8], at: usize, delimiter: u8) -> (Piece, usize) {
    let stop = memchr2(delimiter, b'\n', &bytes[at..]).map_or(bytes.len(), |length| at + length);
    let ends_line = bytes.get(stop) != Some(&delimiter);
    let end = if ends_line && stop > at && bytes[stop - 1] == b'\r' { stop - 1 } else { stop };
    (Piece { start: at, end, is_quoted: false, has_doubled_quotes: false }, stop)
}

fn unquote<'a>(bytes: &'a [u8], piece: Piece, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let text = &bytes[piece.start..piece.end];
    if !piece.has_doubled_quotes {
        return text;
    }
    scratch.clear();
    let mut from = 0;
    for quote in memchr_iter(b'"', text) {
        // The second of a pair was taken with the first.
        if quote >= from {
            scratch.extend_from_slice(&text[from..=quote]);
            from = quote + 2;
        }
    }
    scratch.extend_from_slice(text.get(from..).unwrap_or_default());
    scratch
}

fn delimiter(character: char) -> Result<u8, ConfigError> {
    let fits = character.is_ascii() && !matches!(character, '"' | '\n' | '\r' | '\0');
    if fits { Ok(character as u8) } else { Err(ConfigError::Delimiter(character)) }
}

fn csv_error(what: &'static str) -> RowError {
    RowError::Format { format: Format::Csv.words(), what }
}

fn check_utf8(text: &[u8]) -> Result<(), RowError> {
    std::str::from_utf8(text)
        .map(|_| ())
        .map_err(|error| RowError::NotUtf8 { at: error.valid_up_to() as u64 })
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |length| at + length + 1)
}

fn trim_line_end(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.strip_suffix(b"\r").unwrap_or(text)
}
