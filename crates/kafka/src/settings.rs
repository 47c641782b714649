//! librdkafka's settings from a spec.

use aap_sinks::{Failure, Target};
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;

use crate::failure;
use crate::landing::RECORD_BYTES_MAX;
use crate::spec::{KafkaSpec, Sasl, Tls};
use crate::watch::Watch;

/// How long the cluster keeps a transaction open that nobody ends, which holds back readers of committed records. Above the
/// time that a write may take.
pub(crate) const TRANSACTION_TIMEOUT_MS: u32 = 60_000;
/// The same for a shard of a landing topic, whose readers wait for every batch. Not the 15 s that would be enough on a quiet
/// cluster: a leader that is lost is replaced only after 9 s, and a disk or a collector that stalls takes as long. A transaction
/// that the cluster ends meanwhile costs its shard a taking over; one that nobody ends, because its writer died, costs readers
/// nothing more, since whoever takes the shard over ends it at once.
pub(crate) const SHARD_TRANSACTION_TIMEOUT_MS: u32 = 30_000;
/// Kilobytes that wait in the librdkafka of one shard: the largest record, and half of another one. A coordinator has up to 64.
const SHARD_QUEUE_KB: u32 = 32 << 10;
/// How long a reader's connection may be silent: a broker that vanished is noticed then, and its partitions are led by another.
/// Brokers answer what readers ask within 100 ms.
const READER_SOCKET_TIMEOUT_MS: u32 = 10_000;
/// How long a reader pauses whose queue is full. librdkafka's own second would be most of the time of catching up.
const QUEUE_BACKOFF_MS: u32 = 20;
/// Records that wait in librdkafka: more than a group has, apart from one that is far above the limits.
const QUEUE_RECORDS: u32 = 500_000;
/// Kilobytes that wait in librdkafka, so that a slow cluster costs no more memory.
const QUEUE_KB: u32 = 64 << 10;
/// Largest batch of records: librdkafka's own default, above which there is nothing to gain.
const BATCH_BYTES: usize = 1_000_000;
/// What Kafka's limit for a batch of records counts beside the records.
pub(crate) const BATCH_OVERHEAD: usize = 1024;
/// Kafka's own limit for a batch where nobody changed it.
pub(crate) const KAFKA_BATCH_BYTES: usize = 1_048_588;

/// How readers are told of transactions: when they were committed.
const READ_COMMITTED: &str = "read_committed";

/// What a producer may send. The limits of topics are known only after a connection, so it may have to be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Smallest limit of a topic.
    pub(crate) smallest: usize,
    /// Largest limit of a topic.
    pub(crate) largest: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { smallest: KAFKA_BATCH_BYTES, largest: KAFKA_BATCH_BYTES }
    }
}

impl Bounds {
    /// With a topic of this limit beside the others.
    pub(crate) fn with(self, limit: usize) -> Self {
        Self { smallest: self.smallest.min(limit), largest: self.largest.max(limit) }
    }
}

/// Makes clients.
#[derive(Debug)]
pub(crate) struct Settings {
    common: ClientConfig,
    id: String,
    compression: &'static str,
}

impl Settings {
    /// Those of a target. Reads the secrets.
    pub(crate) fn of(target: &Target, spec: &KafkaSpec) -> Result<Self, Failure> {
        Self::new(&target.name, format!("aap.{}.{}", target.name, target.uid), spec)
    }

    /// Reads the secrets. Brokers log the name; `id` is that of transactions, and of the group that librdkafka wants of readers.
    pub(crate) fn new(name: &str, id: String, spec: &KafkaSpec) -> Result<Self, Failure> {
        let mut common = ClientConfig::new();
        // Otherwise it follows the `log` crate, which nobody uses here, and says nothing.
        common.set_log_level(RDKafkaLogLevel::Info);
        common
            .set("bootstrap.servers", spec.brokers.join(","))
            .set("client.id", format!("aap.{name}"))
            .set("security.protocol", protocol(spec))
            .set("socket.keepalive.enable", "true")
            .set("socket.connection.setup.timeout.ms", "10000")
            // A cluster that is back is found within a second.
            .set("reconnect.backoff.max.ms", "1000")
            // Only what the operator asked for is created, and as asked for.
            .set("allow.auto.create.topics", "false");
        if let Some(tls) = &spec.tls {
            set_tls(&mut common, tls);
        }
        if let Some(sasl) = &spec.sasl {
            set_sasl(&mut common, sasl)?;
        }
        Ok(Self { common, id, compression: spec.compression.as_str() })
    }

    /// The one that writes rows.
    pub(crate) fn producer(&self, bounds: Bounds, watch: &Watch) -> Result<BaseProducer<Watch>, Failure> {
        let batch = BATCH_BYTES.min(bounds.smallest.saturating_sub(BATCH_OVERHEAD).max(1));
        let mut config = self.writing(TRANSACTION_TIMEOUT_MS);
        config
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5")
            .set("batch.size", batch.to_string())
            .set("message.max.bytes", bounds.largest.to_string())
            .set("queue.buffering.max.messages", QUEUE_RECORDS.to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KB.to_string());
        made(BaseProducer::from_config_and_context(&config, watch.clone()))
    }

    /// The one that writes a shard: few records, which are large, say where they came to stand, and are waited for. What it needs
    /// at rest is little.
    pub(crate) fn shard(&self, watch: &Watch) -> Result<BaseProducer<Watch>, Failure> {
        let mut config = self.writing(SHARD_TRANSACTION_TIMEOUT_MS);
        config
            .set("linger.ms", "0")
            .set("message.max.bytes", (RECORD_BYTES_MAX + BATCH_OVERHEAD).to_string())
            .set("queue.buffering.max.kbytes", SHARD_QUEUE_KB.to_string())
            .set("enable.metrics.push", "false");
        made(BaseProducer::from_config_and_context(&config, watch.clone()))
    }

    fn writing(&self, timeout_ms: u32) -> ClientConfig {
        let mut config = self.common.clone();
        config
            .set("transactional.id", &self.id)
            .set("transaction.timeout.ms", timeout_ms.to_string())
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", self.compression);
        config
    }

    /// One that only asks.
    pub(crate) fn scout(&self, watch: &Watch) -> Result<BaseProducer<Watch>, Failure> {
        made(BaseProducer::from_config_and_context(&self.common, watch.clone()))
    }

    /// The one that makes and describes topics.
    pub(crate) fn admin(&self, watch: &Watch) -> Result<AdminClient<Watch>, Failure> {
        made(AdminClient::from_config_and_context(&self.common, watch.clone()))
    }

    /// One that reads topics to where they end now, in order of time or from an offset; it says where a partition ends.
    pub(crate) fn reader(&self, watch: &Watch) -> Result<BaseConsumer<Watch>, Failure> {
        let mut config = self.reading();
        config.set("enable.partition.eof", "true").set("auto.offset.reset", "earliest");
        made(BaseConsumer::from_config_and_context(&config, watch.clone()))
    }

    /// One that reads topics for ever, and says so where an offset is none any more.
    pub(crate) fn follower(&self, watch: &Watch) -> Result<BaseConsumer<Watch>, Failure> {
        let mut config = self.reading();
        config
            .set("auto.offset.reset", "error")
            .set("socket.timeout.ms", READER_SOCKET_TIMEOUT_MS.to_string())
            .set("fetch.queue.backoff.ms", QUEUE_BACKOFF_MS.to_string());
        made(BaseConsumer::from_config_and_context(&config, watch.clone()))
    }

    /// One that asks where partitions end, open transactions included. It belongs to no group and reads nothing.
    pub(crate) fn asker(&self, watch: &Watch) -> Result<BaseConsumer<Watch>, Failure> {
        let mut config = self.common.clone();
        config
            .set("isolation.level", "read_uncommitted")
            .set("socket.timeout.ms", READER_SOCKET_TIMEOUT_MS.to_string());
        made(BaseConsumer::from_config_and_context(&config, watch.clone()))
    }

    /// The one that reads the ledger.
    pub(crate) fn consumer(&self, watch: &Watch) -> Result<BaseConsumer<Watch>, Failure> {
        let mut config = self.reading();
        config.set("auto.offset.reset", "earliest");
        made(BaseConsumer::from_config_and_context(&config, watch.clone()))
    }

    fn reading(&self) -> ClientConfig {
        let mut config = self.common.clone();
        config
            // librdkafka wants one; nothing is committed to it, and no other member joins it.
            .set("group.id", &self.id)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", READ_COMMITTED)
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "100");
        config
    }
}

fn protocol(spec: &KafkaSpec) -> &'static str {
    match (&spec.tls, &spec.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    }
}

fn set_tls(config: &mut ClientConfig, tls: &Tls) {
    let files = [
        ("ssl.ca.location", &tls.ca),
        ("ssl.certificate.location", &tls.certificate),
        ("ssl.key.location", &tls.key),
    ];
    for (key, path) in files {
        if let Some(path) = path {
            config.set(key, path.as_str());
        }
    }
}

fn set_sasl(config: &mut ClientConfig, sasl: &Sasl) -> Result<(), Failure> {
    let password = sasl.password.read().map_err(|error| {
        let why = std::error::Error::source(&error).map(|source| format!("{error}: {source}"));
        failure::setting("the password for Kafka cannot be had", why.unwrap_or_else(|| error.to_string()))
    })?;
    config
        .set("sasl.mechanisms", sasl.mechanism.as_str())
        .set("sasl.username", &sasl.username)
        .set("sasl.password", password.reveal());
    Ok(())
}

fn made<T>(client: Result<T, KafkaError>) -> Result<T, Failure> {
    client.map_err(|error| {
        failure::setting("librdkafka cannot work with these settings", failure::text(&error))
    })
}
