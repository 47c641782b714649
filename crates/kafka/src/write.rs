//! One transaction: the records of a group and its positions.

use std::fmt::Write as _;
use std::time::Duration;

use aap_sinks::{BadRow, Failure, FailureKind, Group, Slice};
use aap_types::Sequence;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};

use crate::encode::{Encoder, Record, Room};
use crate::failure;
use crate::ledger;
use crate::place::{Place, Taken};
use crate::settings::Settings;
use crate::spec::KafkaSpec;
use crate::topics::{Role, Topics};
use crate::watch::Watch;
use crate::worker::Deadline;

/// How long the records of a group may take to be acknowledged. Below the transaction's timeout, with the commit.
pub(crate) const DELIVER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the commit may take, from the end of that time on.
pub(crate) const COMMIT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long giving up may take, and before it what is on its way; what stays open, the cluster or the next taking over ends.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for what librdkafka has to tell, where it has nothing. Not in its own call: rdkafka stays there until the time is
/// over, whatever comes, and turns in circles for the last millisecond of it, which 64 shards would notice.
const PAUSE: Duration = Duration::from_micros(500);
/// How long librdkafka gets to tell why something failed.
const POLL: Duration = Duration::from_millis(1);
/// Records between two looks at what librdkafka tells on the side.
const LOOK_EVERY: u32 = 4096;

impl Place {
    /// Writes a group and its positions, whole or not at all.
    pub(crate) fn write(&mut self, group: &Group) -> Result<(), Failure> {
        let written = self.attempt(group);
        if let Err(failure) = &written {
            // Only these say that nothing happened; after all others the next resume point tells what did.
            if !matches!(failure.kind, FailureKind::Rows(_) | FailureKind::Group) {
                self.taken = None;
            }
        }
        written
    }

    fn attempt(&mut self, group: &Group) -> Result<(), Failure> {
        self.follows(group)?;
        let rooms = self.rooms(group)?;
        let Some(taken) = &mut self.taken else { return Err(not_taken()) };
        let batch = Batch { spec: &self.spec, uid: &self.target.uid, rooms: &rooms, taken };
        batch.transact(group)?;
        taken.positions.extend(group.positions());
        Ok(())
    }

    /// Whether each slice begins where its stream stands.
    fn follows(&self, group: &Group) -> Result<(), Failure> {
        let Some(taken) = &self.taken else { return Err(not_taken()) };
        for slice in &group.slices {
            let stands = taken.positions.get(&slice.key).copied().unwrap_or(Sequence::ZERO);
            if slice.after != stands {
                return Err(Failure::moved(format!(
                    "`{}` stands at {stands} in Kafka's ledger, and the rows follow after {}",
                    slice.key, slice.after
                )));
            }
        }
        Ok(())
    }

    /// What the topic of each slice takes. Looks at topics that were not seen before.
    fn rooms(&mut self, group: &Group) -> Result<Vec<Room>, Failure> {
        let names: Vec<String> =
            group.slices.iter().map(|slice| self.spec.topic.of(&slice.key.stream)).collect();
        if names.iter().any(|name| !self.topics.contains_key(name)) {
            self.look_at(&names)?;
        }
        let rooms = names.iter().filter_map(|name| self.topics.get(name));
        Ok(rooms.map(|topic| Room { partitions: topic.partitions, batch_bytes: topic.batch_bytes }).collect())
    }

    fn look_at(&mut self, names: &[String]) -> Result<(), Failure> {
        let watch = Watch::default();
        let admin = Settings::of(&self.target, &self.spec)?.admin(&watch)?;
        let topics = Topics { admin: &admin, watch: &watch, spec: &self.spec };
        let before = self.bounds;
        for name in names {
            if self.topics.contains_key(name) {
                continue;
            }
            if *name == self.spec.ledger_topic {
                return Err(failure::setting(
                    format!("the topic of a stream is that of the ledger, `{name}`"),
                    "readers of the rows would get positions; take another `topic` or `ledger_topic`",
                ));
            }
            let topic = topics.ensure(name, Role::Rows)?;
            self.bounds = self.bounds.with(topic.batch_bytes);
            self.topics.insert(name.clone(), topic);
        }
        if self.bounds != before {
            return Err(failure::unreachable(
                "a topic takes records of another size than those before it",
                "the producer is made again to fit it",
            ));
        }
        Ok(())
    }
}

fn not_taken() -> Failure {
    Failure::moved("this sink has not taken its place in Kafka over, or is in doubt of it")
}

/// A group on its way.
struct Batch<'a> {
    spec: &'a KafkaSpec,
    uid: &'a str,
    rooms: &'a [Room],
    taken: &'a Taken,
}

impl Batch<'_> {
    fn transact(&self, group: &Group) -> Result<(), Failure> {
        let Taken { producer, watch, .. } = self.taken;
        watch.clear();
        let doing = "write a group";
        producer.begin_transaction().map_err(|error| failure::of(doing, &error, watch))?;
        let deadline = Deadline::after(DELIVER_TIMEOUT);
        let end = |()| commit(producer, watch, doing, &deadline, COMMIT_TIMEOUT);
        let sent = self.send_all(group, &deadline).and_then(end);
        sent.map_err(|failure| self.abort(failure))
    }

    /// Gives up what was begun, so that readers need not wait for the transaction's timeout.
    fn abort(&self, failure: Failure) -> Failure {
        if failure.kind == FailureKind::Moved {
            return failure;
        }
        let Taken { producer, watch, .. } = self.taken;
        let goes_on = matches!(failure.kind, FailureKind::Group | FailureKind::Rows(_));
        if goes_on {
            // Records that are thrown away leave a gap in the producer's numbers, over which its next transaction may stumble.
            drain(producer);
        }
        let aborted = looking(producer, || producer.abort_transaction(ABORT_TIMEOUT));
        match aborted {
            // That nothing was written is true of these only once it was given up.
            Err(error) if goes_on => failure::of("give a transaction up", &error, watch),
            _ => failure,
        }
    }

    fn send_all(&self, group: &Group, deadline: &Deadline) -> Result<(), Failure> {
        let mut bad = vec![];
        for (number, (slice, room)) in group.slices.iter().zip(self.rooms).enumerate() {
            let encoder = Encoder { spec: self.spec, slice, number, room: *room };
            self.send_slice(&encoder, &mut bad, deadline)?;
            let key = ledger::key(self.uid, &slice.key);
            let value = ledger::value(slice.through);
            let record = BaseRecord::to(&self.spec.ledger_topic)
                .partition(ledger::PARTITION)
                .key(key.as_bytes())
                .payload(value.as_bytes());
            self.send(record, deadline)?;
        }
        if bad.is_empty() { Ok(()) } else { Err(Failure::rows(bad)) }
    }

    fn send_slice(
        &self,
        encoder: &Encoder<'_>,
        bad: &mut Vec<BadRow>,
        deadline: &Deadline,
    ) -> Result<(), Failure> {
        let topic = self.spec.topic.of(&encoder.slice.key.stream);
        let (mut headers, mut sent) = (RowHeaders::default(), 0);
        encoder.each(bad, &mut |record| {
            let mut message = BaseRecord::to(&topic).payload(record.value);
            message.partition = record.partition;
            message.key = record.key;
            message.headers = self.spec.headers.then(|| headers.of(encoder.slice, record));
            self.send(message, deadline)?;
            sent += 1;
            if sent % LOOK_EVERY == 0 {
                self.taken.producer.poll(Duration::ZERO);
            }
            Ok(())
        })
    }

    fn send(&self, record: BaseRecord<'_, [u8], [u8]>, deadline: &Deadline) -> Result<(), Failure> {
        send(&self.taken.producer, &self.taken.watch, record, deadline)
    }
}

/// Hands a record to librdkafka, which copies it; waits while it has enough.
pub(crate) fn send(
    producer: &BaseProducer<Watch>,
    watch: &Watch,
    mut record: BaseRecord<'_, [u8], [u8]>,
    deadline: &Deadline,
) -> Result<(), Failure> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                if deadline.passed() {
                    return Err(deadline.late("take the records of a group", watch.last()));
                }
                look(producer);
                record = again;
            }
            Err((error, _)) => return Err(lost_or(producer, &error, watch, "write a record")),
        }
    }
}

/// The headers of records; those of one batch differ in the row only.
#[derive(Default)]
struct RowHeaders {
    batch: String,
    seq: Option<u64>,
    number: String,
}

impl RowHeaders {
    fn of(&mut self, slice: &Slice, record: &Record<'_>) -> OwnedHeaders {
        let (seq, row) = record.id;
        if self.seq != Some(seq) {
            self.batch.clear();
            let _infallible = write!(self.batch, "{}/{seq}", slice.key);
            self.seq = Some(seq);
        }
        let headers = OwnedHeaders::new_with_capacity(3)
            .insert(Header { key: "aap-batch", value: Some(&self.batch) })
            .insert(Header { key: "aap-row", value: Some(self.decimal(row)) });
        match record.rows {
            1 => headers,
            rows => headers.insert(Header { key: "aap-rows", value: Some(self.decimal(rows as u64)) }),
        }
    }

    fn decimal(&mut self, number: u64) -> &String {
        self.number.clear();
        let _infallible = write!(self.number, "{number}");
        &self.number
    }
}

/// Waits until no record is on its way any more, as long as that may take.
fn drain(producer: &BaseProducer<Watch>) {
    let deadline = Deadline::after(ABORT_TIMEOUT);
    while producer.in_flight_count() > 0 && !deadline.passed() {
        look(producer);
    }
}

/// Takes in what librdkafka has to tell, and waits a moment where that is nothing.
fn look(producer: &BaseProducer<Watch>) {
    let before = producer.in_flight_count();
    producer.poll(Duration::ZERO);
    if producer.in_flight_count() == before {
        std::thread::park_timeout(PAUSE);
    }
}

/// Lets librdkafka do what waits for reports of records, which come only to somebody who polls.
fn looking<T: Send>(producer: &BaseProducer<Watch>, what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let doing = scope.spawn(what);
        while !doing.is_finished() {
            look(producer);
        }
        doing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Waits until all records are acknowledged, until the deadline at most, then commits them, until so long after it.
pub(crate) fn commit(
    producer: &BaseProducer<Watch>,
    watch: &Watch,
    doing: &str,
    deadline: &Deadline,
    ending: Duration,
) -> Result<(), Failure> {
    // Before the commit, which waits for them too: rdkafka stays there for a tenth of a second at least, whatever comes.
    while producer.in_flight_count() > 0 {
        if let Some(failure) = hopeless(producer, watch, doing, deadline) {
            // Giving up would wait for these.
            producer.purge(PurgeConfig::default().queue().inflight());
            return Err(failure);
        }
        look(producer);
    }
    let committed = producer.commit_transaction(deadline.left() + ending);
    committed.map_err(|error| lost_or(producer, &error, watch, doing))
}

/// Why records that are on their way will not arrive in time, if that is known.
fn hopeless(
    producer: &BaseProducer<Watch>,
    watch: &Watch,
    doing: &str,
    deadline: &Deadline,
) -> Option<Failure> {
    if let Some((code, reason)) = producer.client().fatal_error() {
        return Some(fatal(code, &reason, doing));
    }
    if watch.broken().is_some() {
        return Some(lost_or(producer, &KafkaError::Canceled, watch, doing));
    }
    deadline.passed().then(|| deadline.late(doing, watch.last()))
}

/// An error by its cause: a record that was lost says more than the commit that failed for it.
fn lost_or(producer: &BaseProducer<Watch>, error: &KafkaError, watch: &Watch, doing: &str) -> Failure {
    if let Some((code, reason)) = producer.client().fatal_error() {
        return fatal(code, &reason, doing);
    }
    producer.poll(POLL);
    match (watch.lost(), watch.broken()) {
        (Some(lost), _) => failure::of(&format!("{doing} to the topic `{}`", lost.topic), &lost.error, watch),
        // The name of the error stands in the text, and nowhere else.
        (None, Some(reason)) if reason.contains("AUTHORIZATION_FAILED") => failure::denied(doing, reason),
        (None, Some(reason)) => failure::unreachable(format!("Kafka could not {doing}"), reason),
        (None, None) => failure::of(doing, error, watch),
    }
}

/// The producer is of no use any more: another one took over, or what it believed is not so.
fn fatal(code: RDKafkaErrorCode, reason: &str, doing: &str) -> Failure {
    match failure::of(doing, &KafkaError::Global(code), &Watch::default()) {
        // What only an operator can change stays so.
        refused @ Failure { kind: FailureKind::Refused, .. } => refused,
        _ => Failure::moved(format!(
            "the producer was replaced or gave up, when it wanted to {doing}: {reason}"
        )),
    }
}
