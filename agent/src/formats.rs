//! From the words of a configuration or a request to a decoder.

use aap_decode::{ConfigError, Decoder, DecoderConfig, Format, TimestampRule};
use memchr::memchr;

use crate::config::FormatSpec;

/// How to make the decoder of a file, a request or a run.
#[derive(Debug, Clone)]
pub struct Recipe {
    format: FormatSpec,
    pattern: Option<String>,
    timestamp: Option<TimestampRule>,
    keep_raw: bool,
    joins_lines: bool,
}

impl Recipe {
    /// A recipe of these words.
    pub fn new(
        format: FormatSpec,
        pattern: Option<String>,
        timestamp: Option<TimestampRule>,
        keep_raw: bool,
    ) -> Self {
        Self { format, pattern, timestamp, keep_raw, joins_lines: false }
    }

    /// The same for records whose inner line ends are taken out of them before they are decoded.
    #[must_use]
    pub fn joining_lines(self) -> Self {
        Self { joins_lines: true, ..self }
    }

    /// Whether inner line ends are to be put back.
    pub fn joins_lines(&self) -> bool {
        self.joins_lines
    }

    /// Makes the decoder of something that begins with `head`, and says whether its bodies may have several lines.
    pub fn build(&self, head: &[u8]) -> Result<(Decoder, bool), ConfigError> {
        let format = match self.format {
            FormatSpec::Auto => guess(head),
            FormatSpec::Text => Format::Text,
            FormatSpec::Json | FormatSpec::Ndjson => Format::Ndjson,
            FormatSpec::JsonDocument => Format::Json,
            FormatSpec::Logfmt => Format::Logfmt,
            FormatSpec::Csv => Format::Csv,
            FormatSpec::Combined => Format::Combined,
            FormatSpec::Syslog => Format::Syslog,
            FormatSpec::Cri => Format::Cri,
            FormatSpec::Regex => Format::Regex,
        };
        let config = DecoderConfig {
            format,
            pattern: self.pattern.clone(),
            timestamp: self.timestamp.clone(),
            keep_raw: self.keep_raw,
            ..DecoderConfig::default()
        };
        let keeps_lines = matches!(format, Format::Text | Format::Syslog | Format::Cri | Format::Regex);
        Ok((Decoder::new(config)?, keeps_lines))
    }

    /// Whether the first record names the columns.
    pub fn has_header(&self) -> bool {
        self.format == FormatSpec::Csv
    }
}

/// The length of the first line with its end; of all if there is no end.
pub fn first_line(bytes: &[u8]) -> usize {
    memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1)
}

/// The format that the first line looks like.
fn guess(head: &[u8]) -> Format {
    let line = head[..first_line(head)].trim_ascii();
    let text = String::from_utf8_lossy(line);
    if line.first() == Some(&b'{') && line.ends_with(b"}") {
        return Format::Ndjson;
    }
    if text.split(' ').nth(1).is_some_and(|word| word == "stdout" || word == "stderr") {
        return Format::Cri;
    }
    let priority = text.strip_prefix('<').and_then(|rest| rest.split_once('>')).map(|(number, _)| number);
    if priority.is_some_and(|number| number.parse::<u8>().is_ok_and(|n| n <= 191)) {
        return Format::Syslog;
    }
    let access = text.split_once(" [").and_then(|(_, rest)| rest.split_once("] \""));
    if access.is_some_and(|(time, _)| time.len() == 26 && time.as_bytes()[2] == b'/') {
        return Format::Combined;
    }
    Format::Text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_tells_the_format() {
        for (head, format) in [
            ("{\"a\":1}\n{\"a\":2}\n", Format::Ndjson),
            ("2026-11-23T22:00:00.1Z stdout F hello\n", Format::Cri),
            ("<34>1 2026-11-23T22:00:00Z host app - - - hello\n", Format::Syslog),
            ("127.0.0.1 - - [23/Nov/2026:22:00:00 +0000] \"GET / HTTP/1.1\" 200 1\n", Format::Combined),
            ("Nov 23 22:00:00 host app[1]: hello\n", Format::Text),
            ("", Format::Text),
        ] {
            assert_eq!(guess(head.as_bytes()), format, "{head}");
        }
    }
}
