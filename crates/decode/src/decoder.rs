//! One front for all formats: where records end, and what they say.

use memchr::memrchr;

use crate::INPUT_BYTES_MAX;
use crate::config::{ConfigError, DecoderConfig, Format};
use crate::cri::{self, CriDecoder};
use crate::csv::CsvDecoder;
use crate::decoded::{Context, DecodeError, Decoded};
use crate::json::JsonDecoder;
use crate::lines::LineDecoder;
use crate::logs::{LogDecoder, lines_of};
use crate::time::TimeReader;

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

    /// Decodes whole records into one batch. Bad records are part of the answer, not an error; after an error the decoder
    /// can go on.
    pub fn decode(&mut self, records: &[u8], context: &Context<'_>) -> Result<Decoded, DecodeError> {
        if records.len() > INPUT_BYTES_MAX {
            return Err(DecodeError::InputTooLarge { bytes: records.len() });
        }
        match &mut self.inner {
            Inner::Json(json) if self.format == Format::Json => json.document(records, context),
            Inner::Json(json) => json.lines(records, context),
            Inner::Csv(csv) => csv.decode(records, context),
            Inner::Lines(lines) => lines.lines(records, context),
            Inner::Logs(logs) => logs.decode(lines_of(records), context),
            Inner::Cri(cri) => cri.decode(lines_of(records), context),
        }
    }

    /// Decodes records that their transport has already cut apart, such as datagrams, so that a line end within one is
    /// part of it. `line` of a bad row counts records then. JSON and CSV records are joined by line ends first.
    pub fn decode_each<'a>(
        &mut self,
        records: impl Iterator<Item = &'a [u8]>,
        context: &Context<'_>,
    ) -> Result<Decoded, DecodeError> {
        match &mut self.inner {
            Inner::Logs(logs) => logs.decode(records, context),
            Inner::Cri(cri) => cri.decode(records, context),
            Inner::Lines(lines) => lines.each(records, context),
            Inner::Json(_) | Inner::Csv(_) => {
                let joined = records.fold(Vec::new(), |mut joined, record| {
                    joined.extend_from_slice(record);
                    joined.push(b'\n');
                    joined
                });
                self.decode(&joined, context)
            }
        }
    }
}
