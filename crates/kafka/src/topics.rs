//! Topics: whether they are there, made where they may be, safe enough, and how large their records may be.

use std::time::Duration;

use aap_sinks::Failure;
use aap_types::{ExitCode, Problem};
use futures::executor::block_on;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::Metadata;

use crate::failure;
use crate::landing::{RECORD_BYTES_MAX, SHARDS};
use crate::settings::{BATCH_OVERHEAD, KAFKA_BATCH_BYTES};
use crate::spec::{IN_SYNC_SAFE, KafkaSpec, REPLICAS_SAFE};
use crate::watch::Watch;
use crate::worker::Deadline;

/// How long a request to the cluster may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a topic may take from its creation until each partition has a leader.
const CREATE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a broker may take to hear of a topic that another one told of.
pub(crate) const HEARD_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at a topic that is being made.
const PAUSE: Duration = Duration::from_millis(50);
/// The ledger's segments: only those that are full or old are compacted, so these are small and short-lived, or a start would
/// have to read a gigabyte.
const LEDGER_SETTINGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "16777216"),
    ("segment.ms", "3600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
];

/// What a landing topic's segments hold at most. Space of records that were deleted comes back by whole segments, so this and
/// the number of shards bound what is kept in vain: 8 GiB, where Kafka's own gigabyte would make it 64.
const LANDING_SEGMENT_BYTES: usize = 128 << 20;
/// How settings say that nothing is deleted for its age or size.
const FOR_EVER: &str = "-1";
/// What a batch of the landing topic may have at least.
const LANDING_BATCH_BYTES: usize = RECORD_BYTES_MAX + BATCH_OVERHEAD;

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Rows.
    Rows,
    /// Positions.
    Ledger,
    /// What the coordinators of a cluster land.
    Landing,
}

impl Role {
    /// Settings that a topic is made with, beside those for its replicas.
    fn settings(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Rows => vec![],
            Self::Ledger => LEDGER_SETTINGS.map(|(key, value)| (key, value.to_owned())).to_vec(),
            Self::Landing => vec![
                ("cleanup.policy", "delete".to_owned()),
                ("retention.ms", FOR_EVER.to_owned()),
                ("retention.bytes", FOR_EVER.to_owned()),
                ("max.message.bytes", LANDING_BATCH_BYTES.to_string()),
                ("segment.bytes", LANDING_SEGMENT_BYTES.to_string()),
            ],
        }
    }
}

/// A topic that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic {
    /// How many.
    pub(crate) partitions: i32,
    /// Of the partition that has fewest.
    pub(crate) replicas: i32,
    /// What must be written before a row counts.
    pub(crate) in_sync: i32,
    /// Largest batch of records.
    pub(crate) batch_bytes: usize,
    /// Whether old records go while their key lives.
    loses: bool,
    /// Whether records stay until they are deleted by name.
    keeps: bool,
}

impl Topic {
    /// Why it cannot be the landing topic, and what to do.
    fn unfit_for_landing(&self) -> Option<(String, String)> {
        let (partitions, batch) = (self.partitions, self.batch_bytes);
        if partitions != SHARDS {
            let partitions = counted(i64::from(partitions), "partition");
            let why = format!("it has {partitions}, and the cluster has {SHARDS} shards");
            return Some((why, "name another topic, which is made as it has to be".to_owned()));
        }
        if !self.keeps {
            let why = "it deletes or compacts records that are not in the lake yet";
            let hint =
                "set its `cleanup.policy` to `delete`, and its `retention.ms` and `retention.bytes` to -1";
            return Some((why.to_owned(), hint.to_owned()));
        }
        (batch < LANDING_BATCH_BYTES).then(|| {
            let why = format!("its `max.message.bytes` is {batch}; a record may need {LANDING_BATCH_BYTES}");
            (why, format!("set its `max.message.bytes` to {LANDING_BATCH_BYTES}"))
        })
    }

    /// As `aap sink probe` says it.
    pub(crate) fn line(&self, name: &str) -> String {
        format!(
            "topic `{name}`: {}, {}",
            counted(i64::from(self.partitions), "partition"),
            counted(i64::from(self.replicas), "replica")
        )
    }
}

/// `1 broker`, `3 brokers`.
pub(crate) fn counted(count: i64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Asks about topics.
pub(crate) struct Topics<'a> {
    /// The connection.
    pub(crate) admin: &'a AdminClient<Watch>,
    /// What it told.
    pub(crate) watch: &'a Watch,
    /// What is wanted.
    pub(crate) spec: &'a KafkaSpec,
}

impl Topics<'_> {
    /// The topic, made if it is missing and may be; refused where it would lose what was acknowledged.
    pub(crate) fn ensure(&self, name: &str, role: Role) -> Result<Topic, Failure> {
        let topic = match self.find(name)? {
            Some(topic) => topic,
            None => {
                self.create(name, role)?;
                self.made(name)?
            }
        };
        self.check(name, &topic, role)?;
        Ok(topic)
    }

    /// The topic, if it is there.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Topic>, Failure> {
        match self.led(name)? {
            Some((partitions, replicas)) => {
                Ok(Some(described_as(&self.settings(name)?, partitions, replicas)))
            }
            None => Ok(None),
        }
    }

    /// Partitions and replicas of a topic that is there. Waits until each partition has a leader: they are elected after a
    /// topic is made, and after a broker is lost.
    fn led(&self, name: &str) -> Result<Option<(i32, i32)>, Failure> {
        let deadline = Deadline::after(CREATE_TIMEOUT);
        while !deadline.passed() {
            let metadata = self.metadata(name)?;
            match metadata.topics().first().and_then(|topic| topic.error()).map(Code::from) {
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => return Ok(None),
                None | Some(Code::LeaderNotAvailable) => {}
                Some(code) => {
                    let doing = format!("tell about the topic `{name}`");
                    return Err(self.failed(&doing, &KafkaError::MetadataFetch(code)));
                }
            }
            if let Some(found) = partitions(&metadata) {
                return Ok(Some(found));
            }
            deadline.pause(PAUSE);
        }
        Err(deadline.late(&format!("elect leaders of the topic `{name}`"), self.watch.last()))
    }

    /// The settings of a topic that is there.
    fn settings(&self, name: &str) -> Result<ConfigResource, Failure> {
        let doing = format!("describe the topic `{name}`");
        let deadline = Deadline::after(HEARD_TIMEOUT);
        loop {
            let settings = self.described(name, &doing)?;
            // rdkafka passes no error of a single topic on: one that has no settings may not be looked at, or the broker that was
            // asked has not heard of it yet.
            match settings.entries.is_empty() {
                false => return Ok(settings),
                true if deadline.passed() => {
                    return Err(failure::denied(&doing, "an answer without settings"));
                }
                true => deadline.pause(PAUSE),
            }
        }
    }

    fn described(&self, name: &str, doing: &str) -> Result<ConfigResource, Failure> {
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let described = block_on(self.admin.describe_configs(&[ResourceSpecifier::Topic(name)], &options));
        match described.map(|mut results| results.pop()) {
            Ok(Some(Ok(settings))) => Ok(settings),
            Ok(Some(Err(code))) => Err(self.failed(doing, &KafkaError::AdminOp(code))),
            Ok(None) => Err(failure::unreachable(format!("Kafka could not {doing}"), "an empty answer")),
            Err(error) => Err(self.failed(doing, &error)),
        }
    }

    /// How many brokers the cluster has; told beside a topic, which need not be there.
    pub(crate) fn brokers(&self, name: &str) -> Result<usize, Failure> {
        Ok(self.metadata(name)?.brokers().len())
    }

    /// Of one topic, which does not make it: `allow.auto.create.topics` is off.
    fn metadata(&self, name: &str) -> Result<Metadata, Failure> {
        self.admin
            .inner()
            .fetch_metadata(Some(name), REQUEST_TIMEOUT)
            .map_err(|error| self.failed(&format!("tell about the topic `{name}`"), &error))
    }

    fn create(&self, name: &str, role: Role) -> Result<(), Failure> {
        if !self.spec.create {
            return Err(self.missing(name));
        }
        let replicas = self.replicas(name)?;
        let count = if role == Role::Ledger { 1 } else { self.spec.partitions };
        let in_sync = IN_SYNC_SAFE.to_string();
        let mut topic = NewTopic::new(name, count, TopicReplication::Fixed(replicas));
        if replicas >= REPLICAS_SAFE {
            topic = topic.set("min.insync.replicas", &in_sync);
        }
        let settings = role.settings();
        topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let options = AdminOptions::new()
            .request_timeout(Some(CREATE_TIMEOUT))
            .operation_timeout(Some(REQUEST_TIMEOUT));
        let doing = format!("make the topic `{name}`");
        match block_on(self.admin.create_topics([&topic], &options)).map(|mut results| results.pop()) {
            // Somebody else made it meanwhile, perhaps another sink that shares the ledger.
            Ok(Some(Ok(_) | Err((_, Code::TopicAlreadyExists)))) => Ok(()),
            Ok(Some(Err((_, code)))) => Err(self.failed(&doing, &KafkaError::AdminOp(code))),
            Ok(None) => Err(failure::unreachable(format!("Kafka could not {doing}"), "an empty answer")),
            Err(error) => Err(self.failed(&doing, &error)),
        }
    }

    /// Copies of a topic that is made; -1 leaves it to the brokers.
    fn replicas(&self, name: &str) -> Result<i32, Failure> {
        match self.spec.replication {
            Some(count) => Ok(count),
            None if self.spec.allow_unreplicated => Ok(-1),
            None => {
                let brokers = self.brokers(name)?;
                if brokers < REPLICAS_SAFE as usize {
                    let cluster = counted(brokers as i64, "broker");
                    return Err(unreplicated(
                        name,
                        format!("the cluster has {cluster}, so it cannot keep 3 copies"),
                    ));
                }
                Ok(REPLICAS_SAFE)
            }
        }
    }

    /// Waits until the broker that is asked has heard of a topic that was made.
    fn made(&self, name: &str) -> Result<Topic, Failure> {
        let deadline = Deadline::after(CREATE_TIMEOUT);
        while !deadline.passed() {
            if let Some(topic) = self.find(name)? {
                return Ok(topic);
            }
            deadline.pause(PAUSE);
        }
        Err(deadline.late(&format!("tell of the new topic `{name}`"), self.watch.last()))
    }

    /// Whether it keeps what it is given.
    pub(crate) fn check(&self, name: &str, topic: &Topic, role: Role) -> Result<(), Failure> {
        if role == Role::Ledger && topic.loses {
            return Err(failure::refused(
                Problem::new(
                    "sink.ledger",
                    ExitCode::Failed,
                    format!("the ledger topic `{name}` forgets positions: rows would be written twice"),
                )
                .cause("its `cleanup.policy` is not `compact`")
                .hint("set its `cleanup.policy` to `compact`, or give this sink another `ledger_topic`"),
            ));
        }
        if let (Role::Landing, Some((why, hint))) = (role, topic.unfit_for_landing()) {
            return Err(failure::refused(
                Problem::new(
                    "landing.topic",
                    ExitCode::Failed,
                    format!("a cluster cannot land in the topic `{name}`"),
                )
                .cause(why)
                .hint(hint),
            ));
        }
        let safe = topic.replicas >= REPLICAS_SAFE && topic.in_sync >= IN_SYNC_SAFE;
        if safe || self.spec.allow_unreplicated {
            return Ok(());
        }
        let replicas = counted(i64::from(topic.replicas), "replica");
        Err(unreplicated(name, format!("it has {replicas} and `min.insync.replicas` of {}", topic.in_sync)))
    }

    /// Not there, and not to be made.
    pub(crate) fn missing(&self, name: &str) -> Failure {
        failure::refused(
            Problem::new("sink.topic_missing", ExitCode::NotFound, format!("Kafka has no topic `{name}`"))
                .hint("make it, or say `create: true`"),
        )
    }

    fn failed(&self, doing: &str, error: &KafkaError) -> Failure {
        failure::of(doing, error, self.watch)
    }
}

fn unreplicated(name: &str, why: String) -> Failure {
    failure::refused(
        Problem::new(
            "sink.unreplicated",
            ExitCode::Failed,
            format!("the topic `{name}` could lose rows that were acknowledged"),
        )
        .cause(why)
        .hint(
            "give it 3 replicas and `min.insync.replicas` 2; or accept the loss: `allow_unreplicated: true`",
        ),
    )
}

/// Partitions, and the fewest replicas of one; `None` while a partition has no leader.
fn partitions(metadata: &Metadata) -> Option<(i32, i32)> {
    let topic = metadata.topics().first()?;
    let partitions = topic.partitions();
    let led =
        topic.error().is_none() && partitions.iter().all(|one| one.error().is_none() && one.leader() >= 0);
    let fewest = partitions.iter().map(|one| one.replicas().len()).min()?;
    led.then_some((i32::try_from(partitions.len()).ok()?, i32::try_from(fewest).ok()?))
}

fn described_as(settings: &ConfigResource, partitions: i32, replicas: i32) -> Topic {
    let text = |name: &str| settings.get(name).and_then(|entry| entry.value.as_deref());
    Topic {
        partitions,
        replicas,
        in_sync: text("min.insync.replicas").and_then(|text| text.parse().ok()).unwrap_or(1),
        batch_bytes: text("max.message.bytes")
            .and_then(|text| text.parse().ok())
            .unwrap_or(KAFKA_BATCH_BYTES),
        loses: text("cleanup.policy") != Some("compact"),
        keeps: text("cleanup.policy") == Some("delete")
            && [text("retention.ms"), text("retention.bytes")] == [Some(FOR_EVER); 2],
    }
}
