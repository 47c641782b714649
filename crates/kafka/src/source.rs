//! Topics as a source: records from where the platform stands, in order within a partition.
//!
//! No group is joined and nothing is committed to Kafka: how far a partition was taken stands with the rows themselves, in the
//! buffer that they land in. Whoever reads says where to begin, and begins anew there after any doubt.
//!
//! librdkafka blocks, so a thread reads; it ends at the next look after the [`SourceReader`] was dropped. Memory is bounded by
//! [`CHUNKS`] chunks beside librdkafka's own queue.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use aap_runtime::documents::nearest_of;
use aap_runtime::{Clock, SecretRef, SystemClock};
use aap_sinks::{Failure, Target};
use aap_types::StreamName;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::failure;
use crate::settings::Settings;
use crate::spec::{KafkaSpec, Sasl, Tls};
use crate::watch::Watch;

/// Chunks between the thread and whoever lands them.
const CHUNKS: usize = 2;
/// Records of a chunk: a batch of a few thousand rows is what everything behind likes.
const CHUNK_RECORDS: usize = 8192;
/// Bytes of values after which a chunk ends before it has its records.
const CHUNK_BYTES: usize = 4 << 20;
/// How long the first record of a chunk waits for others.
const LINGER: Duration = Duration::from_millis(100);
/// How often a silent topic is looked at, and whether anybody still listens.
const POLL: Duration = Duration::from_millis(50);
/// How often new partitions are looked for.
const LOOK_FOR_PARTITIONS: Duration = Duration::from_secs(30);
/// Longest time for one question to the brokers.
const ASK: Duration = Duration::from_secs(10);

/// What an operator says about topics that are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSourceSpec {
    /// Some brokers of the cluster, each `host:port`; they tell of the others.
    pub brokers: Vec<String>,
    /// The topics.
    pub topics: Vec<String>,
    /// The stream that all of them go to. Default: each to the stream of its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamName>,
    /// What a value is. Default: JSON.
    #[serde(default)]
    pub format: RecordFormat,
    /// Where partitions begin of which nothing was taken yet: `earliest`, `now` (when the source was made), or a time. Default: earliest.
    #[serde(default = "earliest")]
    pub start: String,
    /// Whether rows tell their `kafka_topic`, `kafka_partition`, `kafka_offset` and `kafka_key`. Default: they do.
    #[serde(default = "yes")]
    pub metadata: bool,
    /// Speaks TLS. `{}` trusts the authorities of the system. Default: no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Logs in. Default: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
}

/// What a record's value is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordFormat {
    /// A JSON object: its fields become columns. Anything else becomes a dead letter.
    #[default]
    Json,
    /// Text: it becomes `body`.
    Text,
}

fn earliest() -> String {
    "earliest".to_owned()
}

fn yes() -> bool {
    true
}

impl KafkaSourceSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.sasl.iter().map(|sasl| sasl.password.clone()).collect()
    }

    /// Whether it makes sense, as far as that can be told without the cluster.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), String> {
        if self.topics.is_empty() {
            return Err("`topics` is empty: name one at least".to_owned());
        }
        for topic in &self.topics {
            let spec = self.access(topic)?;
            spec.validate().map_err(|error| error.to_string())?;
            self.stream_of(topic)?;
        }
        self.start_ms(0).map(drop)
    }

    /// The stream that a topic goes to.
    ///
    /// # Errors
    /// If the topic's name is none of a stream, and no other is given.
    pub fn stream_of(&self, topic: &str) -> Result<StreamName, String> {
        match &self.stream {
            Some(stream) => Ok(stream.clone()),
            None => topic.parse().map_err(|_| {
                format!("topic `{topic}` cannot be the name of a stream: say which with `stream: NAME`")
            }),
        }
    }

    /// Where partitions begin, in milliseconds since 1970; `None` for their first record. `made_us` is when the source was made.
    ///
    /// # Errors
    /// What it should be instead.
    pub fn start_ms(&self, made_us: i64) -> Result<Option<i64>, String> {
        match self.start.as_str() {
            "earliest" => Ok(None),
            "now" => Ok(Some(made_us / 1000)),
            time => match time.parse::<jiff::Timestamp>() {
                Ok(time) => Ok(Some(time.as_millisecond())),
                Err(_) => {
                    let near = nearest_of(time, ["earliest", "now"]);
                    let hint = near.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default();
                    Err(format!(
                        "`start: {time}` is none: write earliest, now, or a time such as 2026-11-26T10:00:00Z{hint}"
                    ))
                }
            },
        }
    }

    fn access(&self, topic: &str) -> Result<KafkaSpec, String> {
        let template = topic.parse().map_err(|error: aap_sinks::TemplateError| error.to_string())?;
        Ok(KafkaSpec::access(self.brokers.clone(), template, self.tls.clone(), self.sasl.clone()))
    }
}

/// A partition of a topic.
pub type Partition = (String, i32);

/// Where reading begins.
#[derive(Debug, Clone, Default)]
pub struct Begin {
    /// The next offset of each partition of which something was taken.
    pub next: BTreeMap<Partition, i64>,
    /// Where the others begin, in milliseconds since 1970; `None`: with their first record.
    pub start_ms: Option<i64>,
}

/// Records of one topic, one after the other.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The topic.
    pub topic: String,
    /// The values, each followed by a line end; with [`RecordFormat::Json`] none of them has another one.
    pub text: Vec<u8>,
    /// Where each value ends, without its line end.
    pub ends: Vec<usize>,
    /// The time of each record, in microseconds since 1970; 0 where it has none.
    pub times_us: Vec<i64>,
    /// The partition of each record.
    pub partitions: Vec<i32>,
    /// The offset of each record.
    pub offsets: Vec<i64>,
    /// The key of each record, as text.
    pub keys: Vec<Option<Box<str>>>,
    /// The next offset of each partition that has records here.
    pub next: BTreeMap<i32, i64>,
    /// Records that were taken from the topic before they could be read.
    pub lost: u64,
}

impl Chunk {
    fn push(&mut self, record: &BorrowedMessage<'_>, format: RecordFormat) {
        let value = record.payload().unwrap_or_default();
        match format {
            // A line end within JSON is a blank like others.
            RecordFormat::Json => {
                self.text.extend(value.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
            }
            RecordFormat::Text => self.text.extend_from_slice(value),
        }
        self.ends.push(self.text.len());
        self.text.push(b'\n');
        self.times_us.push(record.timestamp().to_millis().unwrap_or(0).saturating_mul(1000));
        self.partitions.push(record.partition());
        self.offsets.push(record.offset());
        self.keys.push(record.key().map(|key| String::from_utf8_lossy(key).into()));
        self.next.insert(record.partition(), record.offset() + 1);
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The value of a record.
    pub fn value(&self, record: usize) -> &[u8] {
        let start = record.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        &self.text[start..self.ends[record]]
    }
}

/// Reads until it is dropped.
#[derive(Debug)]
pub struct SourceReader {
    chunks: mpsc::Receiver<Result<Chunk, Failure>>,
}

impl SourceReader {
    /// Begins to read.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(name: &str, spec: &KafkaSourceSpec, begin: Begin) -> std::io::Result<Self> {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let (name, spec) = (name.to_owned(), spec.clone());
        std::thread::Builder::new().name("kafka-source".into()).spawn(move || {
            if let Err(failure) = read(&name, &spec, begin, &sender) {
                // Nobody may listen any more.
                drop(sender.blocking_send(Err(failure)));
            }
        })?;
        Ok(Self { chunks })
    }

    /// The next records; after an error, none. Cancel-safe.
    ///
    /// # Errors
    /// Why it cannot go on: begin anew.
    pub async fn next(&mut self) -> Option<Result<Chunk, Failure>> {
        self.chunks.recv().await
    }
}

/// A thread's work. It ends well where nobody listens any more.
fn read(
    name: &str,
    spec: &KafkaSourceSpec,
    begin: Begin,
    out: &mpsc::Sender<Result<Chunk, Failure>>,
) -> Result<(), Failure> {
    let setting = |why: String| failure::setting("a setting of the Kafka source is not usable", why);
    let access = spec.access(spec.topics.first().map_or("", String::as_str)).map_err(setting)?;
    let settings = Settings::of(&Target { name: name.to_owned(), uid: "source".to_owned() }, &access)?;
    let watch = Watch::default();
    let consumer = settings.follower(&watch)?;
    let clock = SystemClock::default();
    let (looked, lost) = (clock.monotonic(), Cell::new(0));
    let mut reading = Reading { consumer, watch, spec, begin, clock, looked, lost };
    reading.assign()?;
    let mut chunks: BTreeMap<String, Chunk> = BTreeMap::new();
    let mut since = reading.clock.monotonic();
    while !out.is_closed() {
        if let Some(record) = reading.poll()? {
            if chunks.is_empty() {
                since = reading.clock.monotonic();
            }
            let (topic, lost) = (record.topic().to_owned(), reading.lost.take());
            let chunk = chunks
                .entry(topic)
                .or_insert_with_key(|topic| Chunk { topic: topic.clone(), ..Chunk::default() });
            chunk.push(&record, spec.format);
            chunk.lost += lost;
            drop(record);
        }
        let is_full =
            chunks.values().any(|chunk| chunk.len() >= CHUNK_RECORDS || chunk.text.len() >= CHUNK_BYTES);
        if is_full || (!chunks.is_empty() && reading.clock.monotonic() - since >= LINGER) {
            for chunk in std::mem::take(&mut chunks).into_values() {
                if out.blocking_send(Ok(chunk)).is_err() {
                    return Ok(());
                }
            }
        }
        reading.look_for_partitions()?;
    }
    Ok(())
}

struct Reading<'a> {
    consumer: BaseConsumer<Watch>,
    watch: Watch,
    spec: &'a KafkaSourceSpec,
    /// Where partitions begin that are not assigned yet.
    begin: Begin,
    clock: SystemClock,
    /// When partitions were looked for.
    looked: Duration,
    lost: Cell<u64>,
}

impl Reading<'_> {
    fn failed(&self, error: &KafkaError) -> Failure {
        failure::of("read the topic", error, &self.watch)
    }

    fn poll(&self) -> Result<Option<BorrowedMessage<'_>>, Failure> {
        if let Some(reason) = self.watch.denied() {
            return Err(failure::denied("read the topic", reason));
        }
        match self.consumer.poll(POLL) {
            None => Ok(None),
            Some(Ok(record)) => Ok(Some(record)),
            Some(Err(error)) if failure::is_lasting(&error) => Err(self.failed(&error)),
            // Retention was faster, or the log is another: begin anew, and count what is missing.
            Some(Err(error)) if failure::is_out_of_range(&error) => Err(self.failed(&error)),
            Some(Err(error)) => {
                tracing::debug!(%error, "a topic cannot be read now");
                Ok(None)
            }
        }
    }

    /// Takes in every partition that is there and not assigned yet.
    fn assign(&mut self) -> Result<(), Failure> {
        let assigned = self.consumer.assignment().map_err(|error| self.failed(&error))?;
        let mut new = TopicPartitionList::new();
        for topic in &self.spec.topics {
            let metadata =
                self.consumer.fetch_metadata(Some(topic), ASK).map_err(|error| self.failed(&error))?;
            let known =
                metadata.topics().iter().find(|known| known.name() == topic && known.error().is_none());
            let Some(known) = known.filter(|known| !known.partitions().is_empty()) else {
                return Err(missing(topic));
            };
            for partition in known.partitions().iter().map(|partition| partition.id()) {
                if assigned.find_partition(topic, partition).is_none() {
                    let offset = self.first(topic, partition)?;
                    let added = new.add_partition_offset(topic, partition, Offset::Offset(offset));
                    added.map_err(|error| self.failed(&error))?;
                }
            }
        }
        if new.count() > 0 {
            self.consumer.incremental_assign(&new).map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }

    /// The first offset to read of a partition. What was removed before it could be read is counted.
    fn first(&self, topic: &str, partition: i32) -> Result<i64, Failure> {
        let marks = self.consumer.fetch_watermarks(topic, partition, ASK);
        let (low, high) = marks.map_err(|error| self.failed(&error))?;
        if let Some(next) = self.begin.next.get(&(topic.to_owned(), partition)) {
            if *next > high {
                return Err(behind(topic, partition, *next, high));
            }
            self.lost.set(self.lost.get() + u64::try_from(low - next).unwrap_or(0));
            return Ok((*next).max(low));
        }
        let Some(start_ms) = self.begin.start_ms else { return Ok(low) };
        let mut times = TopicPartitionList::new();
        let added = times.add_partition_offset(topic, partition, Offset::Offset(start_ms));
        let found = added.and_then(|()| self.consumer.offsets_for_times(times, ASK));
        let found = found.map_err(|error| self.failed(&error))?;
        Ok(match found.elements().first().map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => offset,
            _ => high,
        })
    }

    fn look_for_partitions(&mut self) -> Result<(), Failure> {
        if self.clock.monotonic() - self.looked < LOOK_FOR_PARTITIONS {
            return Ok(());
        }
        self.looked = self.clock.monotonic();
        // One made since begins with its first record: it is later than whatever time was asked for.
        self.begin.start_ms = None;
        self.assign()
    }
}

/// The topic ends before where it was read: it was made again, or its brokers lost records.
fn behind(topic: &str, partition: i32, next: i64, end: i64) -> Failure {
    let message = format!("partition {partition} of `{topic}` ends at {end}, and was read up to {next}");
    let problem = aap_types::Problem::new("source.topic_changed", aap_types::ExitCode::Conflict, message);
    failure::refused(
        problem
            .hint("if the topic was made again, delete the source and declare it anew: it begins with the first record")
            .hint("if its brokers lost records, that reads what is left a second time"),
    )
}

fn missing(topic: &str) -> Failure {
    let message = format!("Kafka has no topic `{topic}`");
    let problem = aap_types::Problem::new("source.topic_missing", aap_types::ExitCode::NotFound, message);
    failure::refused(problem.hint("make the topic, or correct `topics`; the source looks again by itself"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(more: &str, expected: &str) {
        let text = format!("brokers: ['b:9092']\n{more}");
        let found = match serde_norway::from_str::<KafkaSourceSpec>(&text) {
            Ok(spec) => spec.check().err().unwrap_or_else(|| "fine".to_owned()),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{more}: {found}");
    }

    #[test]
    fn what_cannot_work_is_told_before_a_connection_is_made() {
        check("topics: [orders]", "fine");
        check("topics: [Orders]", "`stream: NAME`");
        check("topics: [Orders, other]\nstream: orders\nstart: 2026-11-26T10:00:00Z", "fine");
        check("topics: []", "`topics` is empty");
        check("topics: ['a b']\nstream: a", "no name of a topic");
        check("topics: [orders]\nstart: earlyest", "did you mean `earliest`");
        check("topics: [orders]\nformat: xml", "unknown variant");
        check("topics: [orders]\ngroup: mine", "unknown field");
    }

    #[test]
    fn now_is_when_the_source_was_made_so_that_a_restart_begins_at_the_same_place() {
        let spec: KafkaSourceSpec =
            serde_norway::from_str("brokers: ['b:1']\ntopics: [a]\nstart: now").unwrap();
        assert_eq!(spec.start_ms(5_000_000), Ok(Some(5_000)));
    }
}
