//! The place in Kafka: taken over, looked at, and what is known about it. Blocks; lives in the sink's thread.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use aap_runtime::{Clock, SystemClock};
use aap_sinks::{Failure, Positions, Target};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::failure;
use crate::ledger;
use crate::settings::{Bounds, Settings};
use crate::spec::KafkaSpec;
use crate::topics::{Role, Topic, Topics, counted};
use crate::watch::Watch;
use crate::worker::Deadline;
use crate::write;

/// How long a cluster may take to answer at all.
const REACH_TIMEOUT: Duration = Duration::from_secs(15);
/// How long one look takes; what went wrong meanwhile is read after it.
const REACH_PAUSE: Duration = Duration::from_millis(250);
/// The same while others are fenced. To be asked again makes librdkafka look again at once, for the coordinator of its transactions
/// and whether that has ended what was left open; by itself it would wait half a second each time.
const FENCE_PAUSE: Duration = Duration::from_millis(50);
/// How long taking over may take: the cluster ends the transaction of whoever was before, with all its partitions.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything a sink knows about its cluster.
pub(crate) struct Place {
    pub(crate) target: Target,
    pub(crate) spec: KafkaSpec,
    /// Of topics seen so far; outlives the producer, which may have to be made again to fit them.
    pub(crate) bounds: Bounds,
    /// Topics that were checked since the last taking over.
    pub(crate) topics: BTreeMap<String, Topic>,
    /// The right to write, until the first doubt.
    pub(crate) taken: Option<Taken>,
}

/// The right to write, and where.
pub(crate) struct Taken {
    pub(crate) producer: BaseProducer<Watch>,
    pub(crate) watch: Watch,
    pub(crate) positions: Positions,
}

impl Place {
    /// Nothing is known yet.
    pub(crate) fn new(target: Target, spec: KafkaSpec) -> Self {
        Self { target, spec, bounds: Bounds::default(), topics: BTreeMap::new(), taken: None }
    }

    /// Fences whoever wrote before and reads how far that was.
    pub(crate) fn take_over(&mut self) -> Result<Positions, Failure> {
        self.taken = None;
        self.topics.clear();
        self.valid()?;
        let settings = Settings::of(&self.target, &self.spec)?;
        let watch = Watch::default();
        let scout = settings.scout(&watch)?;
        reach(&scout, &watch)?;
        drop(scout);
        self.ensure_known(&settings, &watch)?;

        let producer = settings.producer(self.bounds, &watch)?;
        producer
            .init_transactions(TAKE_OVER_TIMEOUT)
            .map_err(|error| failure::of("let this sink take over", &error, &watch))?;
        let positions = self.settle(&settings, &producer, &watch)?;
        self.taken = Some(Taken { producer, watch, positions: positions.clone() });
        Ok(positions)
    }

    /// What is there, changing nothing.
    pub(crate) fn probe(&mut self) -> Result<Vec<String>, Failure> {
        self.valid()?;
        let settings = Settings::of(&self.target, &self.spec)?;
        let watch = Watch::default();
        let scout = settings.scout(&watch)?;
        reach(&scout, &watch)?;
        drop(scout);
        let admin = settings.admin(&watch)?;
        let topics = Topics { admin: &admin, watch: &watch, spec: &self.spec };
        let brokers = topics.brokers(&self.spec.ledger_topic)?;
        let mut lines = vec![format!("Kafka cluster of {}", counted(brokers as i64, "broker"))];
        match self.fixed_topic() {
            Some(name) => lines.push(looked_at(&topics, &name, Role::Rows)?),
            None => lines.push(format!("topics `{}`: one for each stream", self.spec.topic)),
        }
        lines.push(looked_at(&topics, &self.spec.ledger_topic, Role::Ledger)?);
        Ok(lines)
    }

    fn valid(&self) -> Result<(), Failure> {
        self.spec
            .validate()
            .map_err(|error| failure::setting("the settings of this sink do not work", error.to_string()))
    }

    /// The topic, where all streams have one.
    fn fixed_topic(&self) -> Option<String> {
        self.spec.topic.is_fixed().then(|| self.spec.topic.to_string())
    }

    /// The ledger's topic, and that of the rows where there is only one. Others are looked at when their first row comes.
    fn ensure_known(&mut self, settings: &Settings, watch: &Watch) -> Result<(), Failure> {
        let admin = settings.admin(watch)?;
        let topics = Topics { admin: &admin, watch, spec: &self.spec };
        topics.ensure(&self.spec.ledger_topic, Role::Ledger)?;
        if let Some(name) = self.fixed_topic() {
            let topic = topics.ensure(&name, Role::Rows)?;
            self.bounds = self.bounds.with(topic.batch_bytes);
            self.topics.insert(name, topic);
        }
        Ok(())
    }

    /// Commits a mark to the ledger and reads up to it.
    fn settle(
        &self,
        settings: &Settings,
        producer: &BaseProducer<Watch>,
        watch: &Watch,
    ) -> Result<Positions, Failure> {
        let mark = fresh_mark();
        let (key, value) = ledger::mark(&self.target.uid, &mark);
        let doing = "mark its ledger";
        producer.begin_transaction().map_err(|error| failure::of(doing, &error, watch))?;
        let record = BaseRecord::to(&self.spec.ledger_topic)
            .partition(ledger::PARTITION)
            .key(key.as_str())
            .payload(value.as_str());
        producer.send(record).map_err(|(error, _)| failure::of(doing, &error, watch))?;
        let deadline = Deadline::after(write::DELIVER_TIMEOUT);
        write::commit(producer, watch, doing, &deadline, write::COMMIT_TIMEOUT)?;
        let consumer = settings.consumer(watch)?;
        ledger::read(&consumer, watch, &self.spec.ledger_topic, &self.target.uid, &mark)
    }
}

/// A text that no other mark has.
fn fresh_mark() -> String {
    let chance = RandomState::new().hash_one(std::process::id());
    format!("{}-{:x}-{chance:x}", SystemClock::default().unix_us(), std::process::id())
}

/// Waits until a broker answers, and tells at once where it does not want us.
pub(crate) fn reach(scout: &BaseProducer<Watch>, watch: &Watch) -> Result<(), Failure> {
    let deadline = Deadline::after(REACH_TIMEOUT);
    while !deadline.passed() {
        let answered = scout.client().fetch_cluster_id(REACH_PAUSE).is_some();
        hear(scout, &deadline);
        if answered {
            return Ok(());
        }
        failure::if_unwanted(watch)?;
    }
    Err(deadline.late("answer", watch.last()))
}

/// Fences whoever wrote under the same id, and waits until the transaction that they left is ended. Needs no scout before it: it
/// tells at once where no broker wants us.
pub(crate) fn fence(producer: &BaseProducer<Watch>, watch: &Watch) -> Result<(), Failure> {
    let deadline = Deadline::after(TAKE_OVER_TIMEOUT);
    loop {
        let fenced = producer.init_transactions(FENCE_PAUSE);
        hear(producer, &deadline);
        match fenced {
            Ok(()) => return Ok(()),
            // It goes on by itself, and the next call waits for the same.
            Err(KafkaError::Transaction(error)) if error.is_retriable() && !deadline.passed() => {
                failure::if_unwanted(watch)?;
            }
            Err(error) => return Err(failure::of("let this writer take over", &error, watch)),
        }
    }
}

/// Takes in what librdkafka has to tell: it waits for somebody who polls.
fn hear(producer: &BaseProducer<Watch>, deadline: &Deadline) {
    while producer.in_flight_count() > 0 && !deadline.passed() {
        producer.poll(Duration::ZERO);
    }
    producer.poll(Duration::ZERO);
}

fn looked_at(topics: &Topics<'_>, name: &str, role: Role) -> Result<String, Failure> {
    match topics.find(name)? {
        Some(topic) => {
            topics.check(name, &topic, role)?;
            Ok(topic.line(name))
        }
        None if topics.spec.create => Ok(format!("topic `{name}`: missing, will be made")),
        None => Err(topics.missing(name)),
    }
}
