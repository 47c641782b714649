//! The thread that reads a topic: from where its conditions begin to where it ended when it was asked.

use std::collections::BTreeMap;
use std::time::Duration;

use aap_federation::Scan;
use aap_sinks::Failure;
use aap_types::Problem;
use arrow_array::RecordBatch;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::bounds::Bounds;
use super::rows::Rows;
use crate::failure;
use crate::settings::Settings;
use crate::watch::Watch;

/// Longest time for one question to the brokers.
const ASK: Duration = Duration::from_secs(10);
/// How often a silent topic is looked at, and whether anybody still listens.
const POLL: Duration = Duration::from_millis(100);
/// How long a partition may be silent before its end: a leader that is elected takes seconds.
const SILENCE: Duration = Duration::from_secs(30);

/// Why it ended before the end.
pub(super) enum Stop {
    Failed(Failure),
    /// The topic that was asked for, and those that are there.
    NoTopic(String, Vec<String>),
    Rows(Problem),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Where a partition is read.
struct Range {
    next: i64,
    end: i64,
}

/// Reads, and says what was read. Ends early where nobody listens any more.
pub(super) fn read(
    settings: &Settings,
    topic: &str,
    scan: &Scan,
    bounds: Bounds,
    out: &mpsc::Sender<RecordBatch>,
) -> Result<String, Stop> {
    let watch = Watch::default();
    let consumer = settings.reader(&watch)?;
    let failed = |doing: &str, error: &KafkaError| Stop::Failed(failure::of(doing, error, &watch));
    let partitions = partitions(&consumer, topic, &watch)?;
    let mut ranges = ranges(&consumer, topic, &partitions, &bounds)
        .map_err(|error| failed("tell where the topic begins and ends", &error))?;
    ranges.retain(|_, range| range.next < range.end);
    let statement = described(topic, &partitions, &ranges);
    let mut assignment = TopicPartitionList::new();
    for (partition, range) in &ranges {
        let added = assignment.add_partition_offset(topic, *partition, Offset::Offset(range.next));
        added.map_err(|error| failed("read the topic", &error))?;
    }
    consumer.assign(&assignment).map_err(|error| failed("read the topic", &error))?;
    let mut rows = Rows::new(scan);
    let (mut silent, mut left) = (Duration::ZERO, bounds.limit.unwrap_or(u64::MAX));
    while !ranges.is_empty() && left > 0 {
        match consumer.poll(POLL) {
            None => silent += POLL,
            Some(Ok(record)) => {
                silent = Duration::ZERO;
                let Some(range) = ranges.get_mut(&record.partition()) else { continue };
                let is_within = record.offset() < range.end;
                if is_within && bounds.wants(&record) {
                    rows.push(&record);
                    left -= 1;
                }
                if record.offset() + 1 >= range.end {
                    ranges.remove(&record.partition());
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ranges.remove(&partition)),
            Some(Err(error)) if failure::is_lasting(&error) => return Err(failed("read the topic", &error)),
            Some(Err(error)) => tracing::debug!(%error, topic, "a topic cannot be read yet"),
        }
        if let Some(reason) = watch.denied() {
            return Err(failure::denied("read the topic", reason).into());
        }
        if silent >= SILENCE {
            let why = watch.last().unwrap_or_else(|| "no record came, and no end".to_owned());
            return Err(failure::unreachable("Kafka does not give the records of the topic", why).into());
        }
        if out.is_closed() {
            return Ok(statement);
        }
        if rows.are_full() {
            send(&mut rows, out)?;
        }
    }
    send(&mut rows, out)?;
    Ok(statement)
}

fn send(rows: &mut Rows, out: &mpsc::Sender<RecordBatch>) -> Result<(), Stop> {
    for batch in rows.take().map_err(Stop::Rows)? {
        if out.blocking_send(batch).is_err() {
            break;
        }
    }
    Ok(())
}

fn partitions(consumer: &BaseConsumer<Watch>, topic: &str, watch: &Watch) -> Result<Vec<i32>, Stop> {
    let metadata = consumer.fetch_metadata(None, ASK);
    let metadata = metadata.map_err(|error| failure::of("tell its topics", &error, watch))?;
    let known = metadata.topics().iter().find(|known| known.name() == topic && known.error().is_none());
    let known = known.ok_or_else(|| {
        let names = metadata.topics().iter().map(|known| known.name().to_owned());
        Stop::NoTopic(topic.to_owned(), names.filter(|name| !name.starts_with("__")).collect())
    })?;
    Ok(known.partitions().iter().map(|partition| partition.id()).collect())
}

/// Where each partition that can matter is read, within where it begins and ends now.
fn ranges(
    consumer: &BaseConsumer<Watch>,
    topic: &str,
    partitions: &[i32],
    bounds: &Bounds,
) -> Result<BTreeMap<i32, Range>, KafkaError> {
    let wanted: Vec<i32> =
        partitions.iter().copied().filter(|partition| bounds.wants_partition(*partition)).collect();
    let (low, high) = bounds.offsets();
    let mut ranges = BTreeMap::new();
    for partition in &wanted {
        let (first, end) = consumer.fetch_watermarks(topic, *partition, ASK)?;
        let range = Range { next: first.max(low), end: end.min(high.saturating_add(1)) };
        ranges.insert(*partition, range);
    }
    let Some(first_ms) = bounds.first_ms().filter(|_| !wanted.is_empty()) else { return Ok(ranges) };
    let mut times = TopicPartitionList::new();
    for partition in &wanted {
        times.add_partition_offset(topic, *partition, Offset::Offset(first_ms))?;
    }
    for found in consumer.offsets_for_times(times, ASK)?.elements() {
        let Some(range) = ranges.get_mut(&found.partition()) else { continue };
        match found.offset() {
            Offset::Offset(offset) => range.next = range.next.max(offset),
            // No record is as late.
            _ => range.next = range.end,
        }
    }
    Ok(ranges)
}

fn described(topic: &str, partitions: &[i32], ranges: &BTreeMap<i32, Range>) -> String {
    let parts = ranges.iter().map(|(partition, range)| format!("{partition}: {}..{}", range.next, range.end));
    let parts = parts.collect::<Vec<_>>().join(", ");
    format!("topic {topic}, {} of {} partitions, offsets {{{parts}}}", ranges.len(), partitions.len())
}
