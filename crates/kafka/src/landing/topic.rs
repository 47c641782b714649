//! The topic: made or checked, and where its partitions begin and end.

use std::collections::BTreeMap;
use std::time::Duration;

use aap_sinks::{Failure, FailureKind};
use aap_types::{ExitCode, Problem};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::spec::LandingSpec;
use crate::failure;
use crate::place::reach;
use crate::topics::{HEARD_TIMEOUT, Role, Topics};
use crate::watch::Watch;
use crate::worker::{Deadline, ONE_CALLER, Worker};

/// Longest time for one question to the brokers, with looking for leaders, which a topic that was just made has not got yet.
const ASK: Duration = Duration::from_secs(10);
/// Between two of the same question.
const PAUSE: Duration = Duration::from_millis(20);
/// Most events that are taken in at once; those behind them would say the same.
const EVENTS_MAX: usize = 100;
/// What is being done where no more is known.
const ASKING: &str = "tell where the landing topic begins and ends";

/// Makes the topic, or checks the one that is there: the partitions, the copies, that it keeps what it is given, and that the
/// largest record fits.
///
/// # Errors
/// Where Kafka does not answer, does not let us, or the topic would lose records.
pub async fn prepare_landing(spec: &LandingSpec) -> Result<(), Failure> {
    let worker = Worker::start(spec.clone(), ONE_CALLER)?;
    worker.call(|spec| prepare(spec)).await.unwrap_or_else(|| Err(failure::stuck()))
}

fn prepare(spec: &LandingSpec) -> Result<(), Failure> {
    let settings = spec.settings("landing", spec.reader_id())?;
    let watch = Watch::default();
    let scout = settings.scout(&watch)?;
    reach(&scout, &watch)?;
    drop(scout);
    let admin = settings.admin(&watch)?;
    let access = spec.access().map_err(|why| failure::setting("the landing topic cannot be used", why))?;
    Topics { admin: &admin, watch: &watch, spec: &access }.ensure(&spec.topic, Role::Landing).map(drop)
}

/// The offset of each partition at one end of it, in one round: `Beginning`, or `End` as the client's isolation level sees it. After a
/// failure, records that the consumer has fetched may be lost to it.
pub(super) fn offsets(
    consumer: &BaseConsumer<Watch>,
    watch: &Watch,
    topic: &str,
    partitions: &[i32],
    at: Offset,
) -> Result<BTreeMap<i32, i64>, Failure> {
    let (deadline, heard) = (Deadline::after(ASK), Deadline::after(HEARD_TIMEOUT));
    loop {
        let error = match ask(consumer, topic, partitions, at, deadline.left()) {
            Ok(offsets) => return Ok(offsets),
            Err(error) => error,
        };
        let failure = failure::of(ASKING, &error, watch);
        let may_pass = failure.kind == FailureKind::Retry || !heard.passed();
        if deadline.passed() || !may_pass {
            hear(consumer);
            failure::if_unwanted(watch)?;
            return Err(failure);
        }
        deadline.pause(PAUSE);
    }
}

fn ask(
    consumer: &BaseConsumer<Watch>,
    topic: &str,
    partitions: &[i32],
    at: Offset,
    within: Duration,
) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition_offset(topic, *partition, at)?;
    }
    if asked.count() == 0 {
        return Ok(BTreeMap::new());
    }
    let mut found = BTreeMap::new();
    // Brokers take these two in the place of a time, and answer with the offset that there is.
    for one in consumer.offsets_for_times(asked, within)?.elements() {
        one.error()?;
        // It stays what was asked for where nobody was there to answer.
        let Offset::Offset(offset) = one.offset() else {
            return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::LeaderNotAvailable));
        };
        found.insert(one.partition(), offset);
    }
    Ok(found)
}

/// Takes in what librdkafka has to tell: it waits for somebody who polls. Records that come with it are thrown away.
pub(super) fn hear(consumer: &BaseConsumer<Watch>) {
    for _ in 0..EVENTS_MAX {
        // Nothing says that there is no more: what rdkafka takes care of by itself, such as a line of the log, is nothing too.
        drop(consumer.poll(Duration::ZERO));
    }
}

/// The topic is not the one that was read or written.
pub(super) fn changed(topic: &str, why: String) -> Failure {
    let message = format!("the landing topic `{topic}` is another than the one that was read");
    let problem = Problem::new("landing.topic_changed", ExitCode::Conflict, message).cause(why);
    failure::refused(problem.hint(
        "either it was deleted and made anew, or its brokers lost records: what was in it and is not in the lake is lost",
    ))
}
