//! What an operator writes about a Kafka sink, and whether it makes sense.

use aap_runtime::SecretRef;
use aap_sinks::Template;
use aap_types::StreamName;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

/// Longest name of a topic, and the only characters in it: Kafka's own rules.
const TOPIC_BYTES_MAX: usize = 249;
/// Longest name of a stream, which stands in for `{stream}`.
const STREAM_BYTES_MAX: usize = 63;
/// Copies that survive two lost disks, and the loss of one without a stop.
pub(crate) const REPLICAS_SAFE: i32 = 3;
/// Copies that must exist before a row counts as written.
pub(crate) const IN_SYNC_SAFE: i32 = 2;

/// Where and how rows are written to Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSpec {
    /// Some brokers of the cluster, each `host:port`; they tell of the others.
    pub brokers: Vec<String>,
    /// The topic. `{stream}` stands for the stream's name.
    pub topic: Template,
    /// What a record holds. Default: one row as JSON.
    #[serde(default)]
    pub format: Format,
    /// The column whose text is the record's key. Default: records have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The column whose value decides the partition, where there is no key. Default: rows are spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_by: Option<String>,
    /// Whether records tell their row's id in `aap-batch` and `aap-row`. Default: they do.
    #[serde(default = "yes")]
    pub headers: bool,
    /// Whether topics that are missing are made. Default: they are.
    #[serde(default = "yes")]
    pub create: bool,
    /// Partitions of topics that are made. Default: 3.
    #[serde(default = "partitions")]
    pub partitions: i32,
    /// Copies of topics that are made. Default: 3; with `allow_unreplicated`, what the brokers do by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<i32>,
    /// How records are compressed. Default: lz4, which costs the least time by far and halves JSON at least.
    #[serde(default)]
    pub compression: Compression,
    /// Whether topics may have fewer than 3 replicas, or `min.insync.replicas` below 2: a lost disk loses rows then that were
    /// acknowledged. Default: they may not.
    #[serde(default)]
    pub allow_unreplicated: bool,
    /// Speaks TLS. `{}` trusts the authorities of the system. Default: no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Logs in. Default: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// The compacted topic that holds how far each stream was written. Sinks may share it. Default: `__aap_offsets`.
    #[serde(default = "ledger_topic")]
    pub ledger_topic: String,
}

fn yes() -> bool {
    true
}

fn partitions() -> i32 {
    3
}

fn ledger_topic() -> String {
    "__aap_offsets".to_owned()
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One row, as a JSON object.
    #[default]
    Json,
    /// Rows of one batch after another, as an Arrow IPC stream.
    Arrow,
}

/// How records are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    #[default]
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// As librdkafka calls it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Files for TLS, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificates of the authorities that are trusted. Default: those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Utf8PathBuf>,
    /// The sink's own certificate, where brokers ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Utf8PathBuf>,
    /// The key of that certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Utf8PathBuf>,
}

/// Who logs in, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How.
    pub mechanism: Mechanism,
    /// Who.
    pub username: String,
    /// Where the password stands.
    pub password: SecretRef,
}

/// How a login proves itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// The password itself; only within TLS.
    Plain,
    /// SCRAM with SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

impl Mechanism {
    /// As Kafka calls it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// What is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Nobody to talk to.
    #[error("`brokers` is empty: name one at least, as `host:port`")]
    NoBroker,
    /// Not an address.
    #[error("`{0}` in `brokers` is not `host:port`")]
    Broker(String),
    /// Not a name.
    #[error(
        "`{name}` in `{field}` is no name of a topic: use 1 to {TOPIC_BYTES_MAX} of a-z, A-Z, 0-9, `.`, `_`, `-`{also}"
    )]
    Topic {
        /// Which setting.
        field: &'static str,
        /// What stands there.
        name: String,
        /// Why it may still be too long.
        also: &'static str,
    },
    /// One topic for both.
    #[error("`ledger_topic` is the topic of the rows: readers of the rows would get positions")]
    LedgerIsTopic,
    /// A record of many rows has no one key.
    #[error("`{0}` needs `format: json`: an Arrow record holds many rows")]
    ManyRows(&'static str),
    /// The key decides already.
    #[error("`partition_by` stands beside `key`, which decides the partition already: remove one of them")]
    KeyDecides,
    /// Not a count.
    #[error("`{0}` must be 1 at least")]
    Count(&'static str),
    /// Too few, and not said so.
    #[error(
        "`replication: {0}` keeps too few copies to survive a lost disk: take {REPLICAS_SAFE} or more, or say \
         `allow_unreplicated: true`"
    )]
    Unreplicated(i32),
    /// One without the other.
    #[error("`tls.certificate` and `tls.key` belong together: give both or none")]
    HalfCertificate,
    /// The password would be readable.
    #[error("`sasl.mechanism: plain` sends the password as it is: it needs `tls`")]
    PlainWithoutTls,
    /// Nobody.
    #[error("`sasl.username` is empty")]
    NoUser,
}

impl KafkaSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.sasl.iter().map(|sasl| sasl.password.clone()).collect()
    }

    /// How a cluster is reached, with every default.
    pub(crate) fn access(
        brokers: Vec<String>,
        topic: Template,
        tls: Option<Tls>,
        sasl: Option<Sasl>,
    ) -> Self {
        Self {
            brokers,
            topic,
            format: Format::default(),
            key: None,
            partition_by: None,
            headers: true,
            create: false,
            partitions: partitions(),
            replication: None,
            compression: Compression::default(),
            allow_unreplicated: true,
            tls,
            sasl,
            ledger_topic: ledger_topic(),
        }
    }

    /// Whether it makes sense, as far as that can be told without the cluster.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn validate(&self) -> Result<(), SpecError> {
        self.validate_brokers()?;
        self.validate_topics()?;
        self.validate_records()?;
        self.validate_security()
    }

    fn validate_brokers(&self) -> Result<(), SpecError> {
        if self.brokers.is_empty() {
            return Err(SpecError::NoBroker);
        }
        let is_address = |broker: &&String| {
            broker.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty()
                    && !host.contains([',', ' ', '/'])
                    && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        match self.brokers.iter().find(|broker| !is_address(broker)) {
            Some(broker) => Err(SpecError::Broker(broker.clone())),
            None => Ok(()),
        }
    }

    fn validate_topics(&self) -> Result<(), SpecError> {
        let (topic, also) = match self.longest_topic() {
            (topic, true) => (topic, ", and leave room for the stream's name"),
            (topic, false) => (topic, ""),
        };
        if !is_topic(&topic) {
            return Err(SpecError::Topic { field: "topic", name: self.topic.to_string(), also });
        }
        if !is_topic(&self.ledger_topic) {
            let name = self.ledger_topic.clone();
            return Err(SpecError::Topic { field: "ledger_topic", name, also: "" });
        }
        if self.topic.is_fixed() && topic == self.ledger_topic {
            return Err(SpecError::LedgerIsTopic);
        }
        match self.replication {
            _ if self.partitions < 1 => Err(SpecError::Count("partitions")),
            Some(count) if count < 1 => Err(SpecError::Count("replication")),
            Some(count) if count < REPLICAS_SAFE && !self.allow_unreplicated => {
                Err(SpecError::Unreplicated(count))
            }
            _ => Ok(()),
        }
    }

    /// The topic of the stream with the longest name, and whether it depends on the stream.
    fn longest_topic(&self) -> (String, bool) {
        let stream: Result<StreamName, _> = "x".repeat(STREAM_BYTES_MAX).parse();
        match stream {
            Ok(stream) => (self.topic.of(&stream), !self.topic.is_fixed()),
            Err(_) => (self.topic.to_string(), false),
        }
    }

    fn validate_records(&self) -> Result<(), SpecError> {
        match (self.format, &self.key, &self.partition_by) {
            (Format::Arrow, Some(_), _) => Err(SpecError::ManyRows("key")),
            (Format::Arrow, _, Some(_)) => Err(SpecError::ManyRows("partition_by")),
            (_, Some(_), Some(_)) => Err(SpecError::KeyDecides),
            _ => Ok(()),
        }
    }

    fn validate_security(&self) -> Result<(), SpecError> {
        if self.tls.as_ref().is_some_and(|tls| tls.certificate.is_some() != tls.key.is_some()) {
            return Err(SpecError::HalfCertificate);
        }
        match &self.sasl {
            Some(sasl) if sasl.username.is_empty() => Err(SpecError::NoUser),
            Some(sasl) if sasl.mechanism == Mechanism::Plain && self.tls.is_none() => {
                Err(SpecError::PlainWithoutTls)
            }
            _ => Ok(()),
        }
    }
}

fn is_topic(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=TOPIC_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<KafkaSpec, String> {
        let text = format!("brokers: [\"kafka-1:9092\"]\ntopic: events\n{text}");
        serde_norway::from_str(&text).map_err(|error| error.to_string())
    }

    fn check(text: &str, expected: Result<(), SpecError>) {
        assert_eq!(parse(text).unwrap().validate(), expected, "{text}");
    }

    #[test]
    fn a_short_spec_has_the_documented_defaults() {
        let spec = parse("").unwrap();
        assert_eq!(spec.validate(), Ok(()));
        assert!(spec.headers && spec.create && !spec.allow_unreplicated);
        assert_eq!((spec.format, spec.compression), (Format::Json, Compression::Lz4));
        assert_eq!((spec.partitions, spec.replication), (3, None));
        assert_eq!(spec.ledger_topic, "__aap_offsets");
        let again: KafkaSpec = serde_norway::from_str(&serde_norway::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn what_cannot_work_is_told_before_a_connection_is_made() {
        check("key: id\npartition_by: id", Err(SpecError::KeyDecides));
        check("format: arrow\nkey: id", Err(SpecError::ManyRows("key")));
        check("format: arrow\npartition_by: id", Err(SpecError::ManyRows("partition_by")));
        check("partitions: 0", Err(SpecError::Count("partitions")));
        check("replication: 1", Err(SpecError::Unreplicated(1)));
        check("replication: 1\nallow_unreplicated: true", Ok(()));
        check("ledger_topic: events", Err(SpecError::LedgerIsTopic));
        check("tls: { certificate: /c.pem }", Err(SpecError::HalfCertificate));
        let sasl = "sasl: { mechanism: plain, username: aap, password: env:PASSWORD }";
        check(sasl, Err(SpecError::PlainWithoutTls));
        check(&format!("{sasl}\ntls: {{}}"), Ok(()));
        check("sasl: { mechanism: scram-sha-512, username: aap, password: \"env:PASSWORD\" }", Ok(()));
        let mut spec = parse("").unwrap();
        for bad in ["kafka", "kafka:", ":9092", "kafka:0", "a:1,b:2", "kafka:99999"] {
            spec.brokers = vec![bad.to_owned()];
            assert_eq!(spec.validate(), Err(SpecError::Broker(bad.to_owned())));
        }
        spec.brokers.clear();
        assert_eq!(spec.validate(), Err(SpecError::NoBroker));
    }

    #[test]
    fn topics_have_names_that_kafka_takes() {
        let with = |topic: &str| {
            let mut spec = parse("").unwrap();
            spec.topic = topic.parse().unwrap();
            spec.validate()
        };
        assert_eq!(with("aap.{stream}.v1"), Ok(()));
        for bad in ["a b", "é", ".", "..", &"x".repeat(250), &format!("{{stream}}{}", "x".repeat(190))] {
            assert!(matches!(with(bad), Err(SpecError::Topic { field: "topic", .. })), "{bad}");
        }
    }

    #[test]
    fn unknown_settings_and_passwords_in_the_open_are_errors() {
        assert!(parse("acks: 1").unwrap_err().contains("acks"));
        let open = parse("sasl: { mechanism: scram-sha-256, username: aap, password: hunter2 }").unwrap_err();
        assert!(!open.contains("hunter2"), "{open}");
    }
}
