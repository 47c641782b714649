//! The `Source` document: one section per type of source.

use std::net::SocketAddr;
use std::time::Duration;

use aap_decode::TimestampRule;
use aap_types::{ByteCount, StreamName};
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::{ExecSpec, JournaldSpec, MqttSpec, OtlpSpec, Period, RemoteWriteSpec, SOURCE_TYPES, ScrapeSpec};

/// `spec` of kind `Source`, by its `type`.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceSpec {
    /// Files, followed. Replayable: exactly once.
    File(FileSpec),
    /// The journal of systemd. Replayable: exactly once.
    Journald(JournaldSpec),
    /// HTTP requests. With `Idempotency-Key`: exactly once; without: once from the answer on.
    Http(HttpSpec),
    /// OTLP requests. Once from the answer on.
    Otlp(OtlpSpec),
    /// Output of commands. Unacknowledged.
    Exec(ExecSpec),
    /// What Prometheus writes. Once from the answer on.
    RemoteWrite(RemoteWriteSpec),
    /// Targets of Prometheus.
    Scrape(ScrapeSpec),
    /// Messages of an MQTT broker. Sent again until they are acknowledged.
    Mqtt(MqttSpec),
    /// Standard input of the agent. Unacknowledged.
    Stdin(StdinSpec),
    /// Syslog over UDP and TCP. Unacknowledged; drops by the kernel are counted.
    Syslog(SyslogSpec),
    /// Figures of this machine.
    HostMetrics(HostMetricsSpec),
}

impl SourceSpec {
    /// The `type` as it is written.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Http(_) => "http",
            Self::Journald(_) => "journald",
            Self::Otlp(_) => "otlp",
            Self::Exec(_) => "exec",
            Self::Mqtt(_) => "mqtt",
            Self::RemoteWrite(_) => "prometheus_remote_write",
            Self::Scrape(_) => "prometheus_scrape",
            Self::Stdin(_) => "stdin",
            Self::Syslog(_) => "syslog",
            Self::HostMetrics(_) => "host_metrics",
        }
    }

    /// The streams it feeds; none where its requests name them.
    pub fn streams(&self) -> Vec<&StreamName> {
        match self {
            Self::File(spec) => vec![&spec.stream],
            Self::Http(_) => vec![],
            Self::Journald(spec) => vec![&spec.stream],
            Self::Otlp(spec) => vec![&spec.logs, &spec.metrics, &spec.traces],
            Self::Exec(spec) => vec![&spec.stream],
            Self::Mqtt(spec) => spec.topics.iter().map(|topic| &topic.stream).collect(),
            Self::RemoteWrite(spec) => vec![&spec.stream],
            Self::Scrape(spec) => vec![&spec.stream],
            Self::Stdin(spec) => vec![&spec.stream],
            Self::Syslog(spec) => vec![&spec.stream],
            Self::HostMetrics(spec) => vec![&spec.stream],
        }
    }

    /// The same in a line.
    pub fn streams_text(&self) -> String {
        self.streams().into_iter().map(StreamName::as_str).collect::<Vec<_>>().join(", ")
    }

    /// What it promises, in the words of `aap status`.
    pub fn guarantee(&self) -> &'static str {
        let of_this = SOURCE_TYPES.iter().find(|known| known.name == self.type_name());
        of_this.map_or("", |known| known.guarantee)
    }
}

/// Followed files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Always `file`.
    pub r#type: String,
    /// The stream that the records feed.
    pub stream: StreamName,
    /// Globs of absolute paths; `**` crosses directories, `*` does not.
    pub include: Vec<String>,
    /// Globs of paths to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Where to begin in files that are there when the source first starts. Later files are read from their beginning.
    #[serde(default)]
    pub start: Start,
    /// Files not changed for longer are left alone (until they change). Default: none.
    #[serde(default)]
    pub ignore_older: Option<Period>,
    /// How lines make records. Default: one line, one record.
    #[serde(default)]
    pub multiline: Option<MultilineSpec>,
    /// How a record is parsed. Default: text.
    #[serde(default)]
    pub format: FormatSpec,
    /// For `format: regex`.
    #[serde(default)]
    pub pattern: Option<String>,
    /// Where the time of a record stands. Default: found by the format.
    #[serde(default)]
    pub timestamp: Option<TimestampRule>,
    /// Keep the raw text beside parsed columns. Default: false.
    #[serde(default)]
    pub keep_raw: bool,
    /// Longest record; what is beyond is cut and counted. Default: 1 MiB, at most 8 MiB.
    #[serde(default = "line_limit")]
    pub line_bytes_max: ByteCount,
}

fn line_limit() -> ByteCount {
    ByteCount::mib(1)
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// With the first byte.
    #[default]
    Beginning,
    /// With what is written after the source first started.
    End,
}

/// Records of several lines: exactly one of the two.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MultilineSpec {
    /// A record begins with a line that matches.
    pub start: Option<String>,
    /// A line that matches belongs to the record before it.
    pub r#continue: Option<String>,
}

/// How records are parsed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FormatSpec {
    /// The line is the body.
    #[default]
    Text,
    /// Each file by its first line: JSON objects, CRI, syslog with priority, combined access log, else text.
    Auto,
    /// One JSON object a line.
    Json,
    /// The same under its format's name.
    Ndjson,
    /// One JSON document as a whole: for requests, not for files.
    #[serde(skip)]
    JsonDocument,
    /// `key=value` pairs.
    Logfmt,
    /// Comma-separated, with a header line.
    Csv,
    /// The combined (and common) access log.
    Combined,
    /// RFC 5424 or RFC 3164.
    Syslog,
    /// Container runtime lines; pod, namespace and container come from the path.
    Cri,
    /// Named groups of the regular expression in `pattern`.
    Regex,
}

/// HTTP ingest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSpec {
    /// Always `http`.
    pub r#type: String,
    /// Where to listen: loopback only, as there is no TLS here. Default: port 7410, or a free one if that is taken.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// File with the bearer token, readable by its owner only (mode 0600), relative to the home directory.
    pub token_file: Utf8PathBuf,
    /// Largest body, after decompression. Default: 16 MiB.
    #[serde(default = "http_body")]
    pub body_bytes_max: ByteCount,
    /// How long the answer to an `Idempotency-Key` is kept. Default: 24 h, which is also the most.
    #[serde(default = "http_keys")]
    pub keep_keys: Period,
}

impl HttpSpec {
    /// The port that is tried first where none is configured.
    pub const DEFAULT_PORT: u16 = 7410;
    /// The buffer forgets keys after this time.
    pub const KEEP_KEYS_MAX: Duration = Duration::from_secs(24 * 3600);
}

fn http_body() -> ByteCount {
    ByteCount::mib(16)
}
fn http_keys() -> Period {
    Period(HttpSpec::KEEP_KEYS_MAX)
}

/// The agent's standard input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdinSpec {
    /// Always `stdin`.
    pub r#type: String,
    /// The stream that the records feed.
    pub stream: StreamName,
    /// How a record is parsed. Default: text.
    #[serde(default)]
    pub format: FormatSpec,
    /// For `format: regex`.
    #[serde(default)]
    pub pattern: Option<String>,
    /// Where the time of a record stands.
    #[serde(default)]
    pub timestamp: Option<TimestampRule>,
}

/// Syslog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyslogSpec {
    /// Always `syslog`.
    pub r#type: String,
    /// The stream that the messages feed. Default: `syslog`.
    #[serde(default = "syslog_stream")]
    pub stream: StreamName,
    /// UDP address, such as 127.0.0.1:5514.
    #[serde(default)]
    pub udp: Option<SocketAddr>,
    /// TCP address.
    #[serde(default)]
    pub tcp: Option<SocketAddr>,
    /// Longest message; what is beyond is cut and counted. Default: 1 MiB, at least 1 KiB, at most 8 MiB.
    #[serde(default = "line_limit")]
    pub message_bytes_max: ByteCount,
    /// The zone of messages that state none, as RFC 3164 does, such as `Europe/Berlin` or `+02:00`. Default: UTC.
    #[serde(default)]
    pub zone: Option<String>,
    /// Listen on addresses other than loopback although syslog has neither encryption nor authentication.
    #[serde(default)]
    pub allow_remote: bool,
}

impl SyslogSpec {
    /// How the messages state their time.
    pub fn timestamp(&self) -> Option<TimestampRule> {
        self.zone.as_ref().map(|zone| TimestampRule { zone: Some(zone.clone()), ..TimestampRule::default() })
    }
}

fn syslog_stream() -> StreamName {
    "syslog".parse().expect("a literal name")
}

/// Figures of this machine, under their OpenTelemetry names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostMetricsSpec {
    /// Always `host_metrics`.
    pub r#type: String,
    /// The stream that they feed. Default: `host_metrics`.
    #[serde(default = "host_metrics_stream")]
    pub stream: StreamName,
    /// How often. Default: 10 s, at least 1 s.
    #[serde(default = "host_metrics_every")]
    pub every: Period,
}

fn host_metrics_stream() -> StreamName {
    "host_metrics".parse().expect("a literal name")
}
fn host_metrics_every() -> Period {
    Period(Duration::from_secs(10))
}
