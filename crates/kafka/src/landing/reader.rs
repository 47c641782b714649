//! The reader of all shards: committed records, in order within a partition.
//!
//! No group is joined and nothing is committed to Kafka: how far a partition was taken stands with what was taken, and whoever
//! reads says where to begin. librdkafka blocks, so a thread reads; it ends at the next look after the [`LandingReader`] was
//! dropped. Memory is bounded by [`CHUNKS`] chunks beside librdkafka's own queue of 64 MiB.

use std::collections::BTreeMap;
use std::time::Duration;

use aap_runtime::{Clock, SystemClock};
use aap_sinks::Failure;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::SHARDS;
use super::spec::LandingSpec;
use super::topic::{changed, offsets};
use crate::failure;
use crate::watch::Watch;

/// Chunks between the thread and whoever takes them.
const CHUNKS: usize = 4;
/// Bytes of records after which no more are looked for before the chunks are handed over: what one fsync behind them likes.
const CHUNK_BYTES: usize = 4 << 20;
/// What a record costs beside its bytes, so that many small ones are bounded too.
const RECORD_COST: usize = 64;
/// How often a silent topic is looked at, for ends of transactions and whether anybody still listens. A record is handed over at
/// once.
const POLL: Duration = Duration::from_millis(20);
/// What is being done where no more is known.
const READING: &str = "read the landing topic";

/// Records of one partition, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LandingChunk {
    /// The partition.
    pub partition: i32,
    /// Offset and payload of each record. None where the partition went on without records: by the end of a transaction, records of
    /// one that was aborted, or a deletion.
    pub records: Vec<(i64, Vec<u8>)>,
    /// The offset to read next: after the last record, and perhaps after what no reader gets.
    pub next: i64,
}

/// Reads until it is dropped.
#[derive(Debug)]
pub struct LandingReader {
    chunks: mpsc::Receiver<Result<LandingChunk, Failure>>,
}

impl LandingReader {
    /// Begins to read, each partition at its `next`, or at its first record. Where that was deleted meanwhile, at the first record
    /// that is there.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(spec: &LandingSpec, next: BTreeMap<i32, i64>) -> std::io::Result<Self> {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let spec = spec.clone();
        std::thread::Builder::new().name("kafka-landing".into()).spawn(move || {
            if let Err(failure) = read(&spec, next, &sender) {
                // Nobody may listen any more.
                drop(sender.blocking_send(Err(failure)));
            }
        })?;
        Ok(Self { chunks })
    }

    /// The next records; after an error, none. Cancel-safe.
    ///
    /// # Errors
    /// Why it cannot go on: begin anew. With the code `landing.topic_changed` that does not help: a partition ends before its
    /// `next`, so its topic was made anew, or its brokers lost records.
    pub async fn next(&mut self) -> Option<Result<LandingChunk, Failure>> {
        self.chunks.recv().await
    }
}

/// A thread's work. It ends well where nobody listens any more.
fn read(
    spec: &LandingSpec,
    next: BTreeMap<i32, i64>,
    out: &mpsc::Sender<Result<LandingChunk, Failure>>,
) -> Result<(), Failure> {
    let watch = Watch::default();
    let consumer = spec.settings("landing", spec.reader_id())?.follower(&watch)?;
    let (clock, looked, told) = (SystemClock::default(), Duration::ZERO, next.clone());
    let mut reading = Reading { consumer, watch, topic: &spec.topic, next, told, clock, looked };
    reading.assign()?;
    while !out.is_closed() {
        for chunk in reading.chunks()? {
            if out.blocking_send(Ok(chunk)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

struct Reading<'a> {
    consumer: BaseConsumer<Watch>,
    watch: Watch,
    topic: &'a str,
    /// The offset that each partition is read at.
    next: BTreeMap<i32, i64>,
    /// The same, as far as it was handed over.
    told: BTreeMap<i32, i64>,
    clock: SystemClock,
    /// When ends of transactions were looked for.
    looked: Duration,
}

impl Reading<'_> {
    fn failed(&self, error: &KafkaError) -> Failure {
        failure::of(READING, error, &self.watch)
    }

    /// Reads every partition from where it stands on, or from its first record that is there.
    fn assign(&mut self) -> Result<(), Failure> {
        let all: Vec<i32> = (0..SHARDS).collect();
        let ask = |at| offsets(&self.consumer, &self.watch, self.topic, &all, at);
        let (first, end) = (ask(Offset::Beginning)?, ask(Offset::End)?);
        let mut assignment = TopicPartitionList::new();
        for (partition, first) in first {
            let next = self.next.entry(partition).or_insert(first);
            let end = end.get(&partition).copied().unwrap_or(first);
            if *next > end {
                let why = format!("partition {partition} ends at {end}, and was read up to {next}");
                return Err(changed(self.topic, why));
            }
            *next = first.max(*next);
            let added = assignment.add_partition_offset(self.topic, partition, Offset::Offset(*next));
            added.map_err(|error| self.failed(&error))?;
        }
        self.consumer.assign(&assignment).map_err(|error| self.failed(&error))
    }

    /// What there is, without waiting for more; waits only for the first record.
    fn chunks(&mut self) -> Result<Vec<LandingChunk>, Failure> {
        let (mut records, mut bytes, mut wait) = (BTreeMap::<i32, Vec<_>>::new(), 0, POLL);
        while bytes < CHUNK_BYTES {
            let Some((partition, offset, payload)) = self.poll(wait)? else { break };
            wait = Duration::ZERO;
            let next = self.next.entry(partition).or_default();
            // What comes again after partitions were assigned anew was taken.
            if offset >= *next {
                *next = offset + 1;
                bytes += payload.len() + RECORD_COST;
                records.entry(partition).or_default().push((offset, payload));
            }
        }
        if records.is_empty() || self.clock.monotonic() - self.looked >= POLL {
            self.looked = self.clock.monotonic();
            self.pass_markers()?;
        }
        Ok(self.went_on(records))
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<(i32, i64, Vec<u8>)>, Failure> {
        let polled = match self.consumer.poll(wait) {
            None => None,
            Some(Err(error)) => Some(error),
            Some(Ok(record)) => {
                let payload = record.payload().unwrap_or_default().to_vec();
                return Ok(Some((record.partition(), record.offset(), payload)));
            }
        };
        if let Some(reason) = self.watch.denied() {
            return Err(failure::denied(READING, reason));
        }
        match polled {
            // Records were deleted faster than they were read, or the topic was made anew: where it begins and ends tells.
            Some(error) if failure::is_out_of_range(&error) => self.assign()?,
            Some(error) if failure::is_another_log(&error) => {
                return Err(changed(self.topic, failure::text(&error)));
            }
            Some(error) if failure::is_lasting(&error) => return Err(self.failed(&error)),
            Some(error) => tracing::debug!(%error, "the landing topic cannot be read now"),
            None => {}
        }
        Ok(None)
    }

    /// Ends of transactions, and records of those that were aborted, take offsets that no record has; librdkafka says only by its
    /// position that it passed them.
    fn pass_markers(&mut self) -> Result<(), Failure> {
        let positions = self.consumer.position().map_err(|error| self.failed(&error))?;
        for position in positions.elements() {
            // It has none before the first record, or none of this assignment.
            let (Offset::Offset(offset), Some(next)) =
                (position.offset(), self.next.get_mut(&position.partition()))
            else {
                continue;
            };
            *next = offset.max(*next);
        }
        Ok(())
    }

    /// A chunk for each partition that stands elsewhere than was told.
    fn went_on(&mut self, mut records: BTreeMap<i32, Vec<(i64, Vec<u8>)>>) -> Vec<LandingChunk> {
        let mut chunks = vec![];
        for (&partition, &next) in &self.next {
            // Who said nothing of a partition has it from its beginning, which may not be its first record any more.
            if self.told.insert(partition, next).unwrap_or(0) != next {
                let records = records.remove(&partition).unwrap_or_default();
                chunks.push(LandingChunk { partition, records, next });
            }
        }
        chunks
    }
}
