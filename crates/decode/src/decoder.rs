//! One front for all formats: where records end, and what they say.

use memchr::memrchr;

use crate::INPUT_BYTES_MAX;
use crate::config::{ConfigError, DecoderConfig, Format};
use crate::decoded::{Context, DecodeError, Decoded};
use crate::json::JsonDecoder;
use crate::lines::LineDecoder;
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
    Lines(LineDecoder),
}

impl Decoder {
    /// Builds the decoder, or says which option is wrong.
    pub fn new(config: DecoderConfig) -> Result<Self, ConfigError> {
        let time = TimeReader::new(config.timestamp.as_ref())?;
        let time_field = config.timestamp.and_then(|rule| rule.column);
        let inner = match config.format {
            Format::Ndjson | Format::Json => {
                Inner::Json(Box::new(JsonDecoder::new(time_field, time, config.keep_raw)))
            }
            _ => Inner::Lines(LineDecoder::new(time)),
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
        match self.format {
            Format::Json => 0,
            _ => memrchr(b'\n', chunk).map_or(0, |last| last + 1),
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
            Inner::Lines(lines) => lines.lines(records, context),
        }
    }
}
