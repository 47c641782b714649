//! What a source says about its records.

use serde::{Deserialize, Serialize};

/// The formats a record may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line.
    Ndjson,
    /// One JSON document: an array of objects, or one object.
    Json,
    /// Comma-separated values with quotes; the first record names the columns unless the configuration does.
    Csv,
    /// Plain lines: the line is the `body`.
    #[default]
    Text,
    /// `key=value key="quoted value"` pairs, one record a line.
    Logfmt,
    /// A regular expression whose named groups become columns.
    Regex,
    /// The combined access log of nginx and Apache.
    Combined,
    /// Syslog, RFC 5424 or RFC 3164, recognised line by line.
    Syslog,
    /// Container runtime interface logs of Kubernetes, partial lines joined.
    Cri,
}

/// How the records of a source look. Built once into a [`crate::Decoder`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// The format of a record.
    #[serde(default)]
    pub format: Format,
    /// Regex only: the expression; it must have at least one named group. Groups named `msg`, `level` or `ts` mean what they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// CSV only: the byte between fields. Default: `,`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// CSV only: the column names, if the data has no header record. Default: taken from the first record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Where a record states its time. Default: a field named `ts`, `timestamp`, `time` or `@timestamp` (log formats: the
    /// beginning of the line), recognised by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<TimestampRule>,
    /// Keep the text of each record beside its columns: in `body` for log formats, else in `raw`. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_raw: bool,
}

/// Where a record states its time, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestampRule {
    /// The field. Default: the first of `ts`, `timestamp`, `time`, `@timestamp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// `auto`, `rfc3339`, `epoch_s`, `epoch_ms`, `epoch_us`, `epoch_ns`, `common_log`, `syslog`, or a strptime pattern such
    /// as `%d.%m.%Y %H:%M:%S`. Default: `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The zone of times that do not state one, such as `Europe/Berlin` or `+02:00`. Default: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

impl Format {
    /// The format in the words of an error message.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Format::Ndjson | Format::Json => "JSON",
            Format::Csv => "CSV",
            Format::Text => "text",
            Format::Logfmt => "logfmt",
            Format::Regex => "what the pattern describes",
            Format::Combined => "a combined access log line",
            Format::Syslog => "syslog",
            Format::Cri => "a container log line",
        }
    }
}

impl DecoderConfig {
    /// The configuration of a format with every option at its default.
    pub fn of(format: Format) -> Self {
        Self { format, ..Self::default() }
    }

    /// Refuses an option that its format would silently ignore.
    pub(crate) fn check_options(&self) -> Result<(), ConfigError> {
        let format = self.format;
        let refused = [
            ("pattern", self.pattern.is_some() && format != Format::Regex),
            ("delimiter", self.delimiter.is_some() && format != Format::Csv),
            ("columns", self.columns.is_some() && format != Format::Csv),
        ];
        match refused.into_iter().find(|(_, is_wrong)| *is_wrong) {
            Some((option, _)) => Err(ConfigError::OptionNotApplicable { option, format }),
            None => Ok(()),
        }
    }
}

/// Why a configuration cannot become a decoder.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An option belongs to another format.
    #[error("option `{option}` does not apply to format `{format:?}`")]
    OptionNotApplicable {
        /// The option as written.
        option: &'static str,
        /// The format it was given for.
        format: Format,
    },
    /// Regex without an expression.
    #[error("format `regex` needs `pattern` with at least one named group such as `(?P<level>[A-Z]+)`")]
    PatternMissing,
    /// The expression is not one.
    #[error("read `pattern`")]
    Pattern(#[source] Box<regex::Error>),
    /// The delimiter is not one ASCII character, or is a quote or line end.
    #[error("`{0:?}` cannot separate fields: use one ASCII character other than a quote or line end")]
    Delimiter(char),
    /// Column names are empty or repeat.
    #[error("`columns` is empty or names `{0}` twice")]
    Columns(String),
    /// The zone is not known to this machine.
    #[error(
        "`{zone}` is not a time zone: write a name such as `Europe/Berlin` or an offset such as `+02:00`"
    )]
    Zone {
        /// As written.
        zone: String,
    },
    /// The pattern of times cannot be used.
    #[error("`{format}` is not a pattern of times: {reason}")]
    TimePattern {
        /// As written.
        format: String,
        /// What is wrong.
        reason: String,
    },
    /// The time format is neither a name nor a strptime pattern.
    #[error(
        "`{format}` is not a time format: use auto, rfc3339, epoch_s, epoch_ms, epoch_us, epoch_ns, common_log, syslog or a strptime pattern"
    )]
    TimeFormat {
        /// As written.
        format: String,
    },
}
