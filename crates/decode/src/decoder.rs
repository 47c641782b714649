//! One front for all formats: where records end, and what they say.

use memchr::{memchr, memchr_iter, memrchr};

use crate::config::{ConfigError, DecoderConfig, Format};
use crate::cri::{self, CriDecoder};
use crate::csv::CsvDecoder;
use crate::decoded::{Context, DecodeError, Decoded};
use crate::json::JsonDecoder;
use crate::lines::LineDecoder;
use crate::logs::{LogDecoder, lines_of};
use crate::time::TimeReader;
use crate::{BATCH_BYTES_MAX, INPUT_BYTES_MAX, ROWS_MAX};

/// Decodes the records of one source for as long as it lives; the types it has learned stay.
#[derive(Debug)]
pub struct Decoder {
    format: Format,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Json(Box<JsonDecoder>),
    Csv(Box<CsvDecoder>),
    Lines(LineDecoder),
    Logs(Box<LogDecoder>),
    Cri(Box<CriDecoder>),
}

impl Decoder {
    /// Builds the decoder, or says which option is wrong.
    pub fn new(config: DecoderConfig) -> Result<Self, ConfigError> {
        config.check_options()?;
        let time = TimeReader::new(config.timestamp.as_ref())?;
        let time_field = config.timestamp.as_ref().and_then(|rule| rule.column.clone());
        let inner = match config.format {
            Format::Ndjson | Format::Json => {
                Inner::Json(Box::new(JsonDecoder::new(time_field, time, config.keep_raw)))
            }
            Format::Csv => Inner::Csv(Box::new(CsvDecoder::new(&config, time, time_field)?)),
            Format::Text => Inner::Lines(LineDecoder::new(time)),
            Format::Cri => Inner::Cri(Box::new(CriDecoder::new(time))),
            Format::Logfmt | Format::Regex | Format::Combined | Format::Syslog => {
                Inner::Logs(Box::new(LogDecoder::new(&config, time, time_field)?))
            }
        };
        Ok(Self { format: config.format, inner })
    }

    /// The format this decoder reads.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether bad records are numbered as elements of their document, over all its calls, rather than by line of each call.
    pub fn numbers_elements(&self) -> bool {
        self.format == Format::Json
    }

    /// How many bytes of `chunk`, which begins with a record, are whole records: `0` if none ends here. The rest
    /// belongs to the next chunk. A JSON document is one whole and never ends before its input does.
    pub fn boundary(&self, chunk: &[u8]) -> usize {
        match &self.inner {
            Inner::Json(_) if self.format == Format::Json => 0,
            Inner::Csv(csv) => csv.boundary(chunk),
            Inner::Cri(_) => cri::boundary(chunk),
            Inner::Json(_) | Inner::Lines(_) | Inner::Logs(_) => {
                memrchr(b'\n', chunk).map_or(0, |last| last + 1)
            }
        }
    }

    /// How many bytes at the beginning of an input give no rows but name the columns of those that follow: the CSV header with
    /// the blank lines before it. `0` in other formats, and where it is not there yet. A decoder that continues in the middle
    /// of an input must be given them first.
    pub fn header_length(&self, input: &[u8]) -> usize {
        match &self.inner {
            Inner::Csv(csv) => csv.header_length(input),
            _ => 0,
        }
    }

    /// Decodes whole records into one batch: all of them, or as many as a batch takes ([`ROWS_MAX`],
    /// [`CELLS_MAX`](crate::CELLS_MAX), [`BATCH_BYTES_MAX`]); then [`Decoded::raw_bytes`] says where the next call goes on. Bad
    /// records are part of the answer, not an error; after an error the decoder can go on.
    pub fn decode(&mut self, records: &[u8], context: &Context<'_>) -> Result<Decoded, DecodeError> {
        if records.len() > INPUT_BYTES_MAX {
            return Err(DecodeError::InputTooLarge { bytes: records.len() });
        }
        let records = &records[..self.part(records)];
        match &mut self.inner {
            Inner::Json(json) if self.format == Format::Json => json.document(records, context),
            Inner::Json(json) => json.lines(records, context),
            Inner::Csv(csv) => csv.decode(records, context),
            Inner::Lines(lines) => lines.lines(records, context),
            Inner::Logs(logs) => logs.decode(lines_of(records), context),
            Inner::Cri(cri) => cri.decode(lines_of(records), context),
        }
    }

    /// How much of `records` one batch may look at, so that what is left of long input is not looked at again and again.
    fn part(&self, records: &[u8]) -> usize {
        let is_long = records.len() > BATCH_BYTES_MAX;
        let whole = |end: usize| if end == 0 { records.len() } else { end };
        match &self.inner {
            // Ends where an element does.
            Inner::Json(_) if self.format == Format::Json => records.len(),
            Inner::Cri(_) => match memchr_iter(b'\n', records).nth(ROWS_MAX - 1) {
                Some(last) => whole(cri::boundary(&records[..=last])),
                None => records.len(),
            },
            _ if !is_long => records.len(),
            Inner::Csv(csv) => whole(csv.boundary(&records[..BATCH_BYTES_MAX])),
            Inner::Json(_) | Inner::Lines(_) | Inner::Logs(_) => {
                let (first, rest) = records.split_at(BATCH_BYTES_MAX);
                let last = memrchr(b'\n', first);
                let end = last.or_else(|| memchr(b'\n', rest).map(|end| first.len() + end));
                end.map_or(records.len(), |end| end + 1)
            }
        }
    }
}
