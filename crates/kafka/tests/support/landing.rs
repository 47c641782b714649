//! A landing topic of one test, and what a reader has got of it.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use aap_kafka::{LandingReader, LandingSpec, LandingWatcher, ShardWriter};
use aap_runtime::{Clock, SystemClock};
use aap_sinks::Failure;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::common::{Kafka, blocking, wait};

/// How long anything may take.
const WITHIN: Duration = Duration::from_secs(30);

/// Payloads that tell themselves apart.
pub(crate) fn texts(name: &str, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("{name}-{n}").into_bytes()).collect()
}

/// The topic, which goes with the test.
pub(crate) struct Topic {
    pub(crate) kafka: Kafka,
    pub(crate) spec: LandingSpec,
}

impl Drop for Topic {
    fn drop(&mut self) {
        // 64 partitions each: a broker of the tests does not hold many of these.
        let _gone = delete(&self.kafka, &self.spec.topic);
    }
}

fn admin(kafka: &Kafka) -> AdminClient<DefaultClientContext> {
    kafka.config().create().unwrap()
}

fn delete(kafka: &Kafka, topic: &str) -> bool {
    let deleted = futures::executor::block_on(admin(kafka).delete_topics(&[topic], &AdminOptions::new()));
    deleted.is_ok()
}

impl Topic {
    pub(crate) fn of(kafka: Kafka) -> Self {
        let spec = LandingSpec {
            brokers: kafka.brokers.split(',').map(str::to_owned).collect(),
            topic: kafka.topic.clone(),
            replication: None,
            allow_unreplicated: true,
            tls: None,
            sasl: None,
        };
        Self { kafka, spec }
    }

    pub(crate) fn shard_id(&self, shard: i32) -> String {
        format!("aap.{}.shard-{shard}", self.spec.topic)
    }

    /// A writer whose mark is the text with a number, as [`texts`] make it.
    pub(crate) async fn take_over(&self, shard: i32, mark: &str) -> Result<(ShardWriter, i64), Failure> {
        ShardWriter::take_over(&self.spec, shard, format!("{mark}-0").into_bytes()).await
    }

    /// The same, tried again while a broker comes back.
    pub(crate) async fn take_over_within(
        &self,
        shard: i32,
        mark: &str,
        within: Duration,
    ) -> (ShardWriter, i64) {
        let clock = SystemClock::default();
        loop {
            match self.take_over(shard, mark).await {
                Ok(taken) => return taken,
                Err(_) if clock.monotonic() < within => {}
                Err(failure) => panic!("not taken over: {failure:?}"),
            }
        }
    }

    /// A producer that has a record in the log and does not end its transaction.
    pub(crate) async fn open_transaction(&self, id: &str, shard: i32, text: &str) -> BaseProducer {
        let mut config = self.kafka.config();
        config.set("transactional.id", id);
        let (topic, text) = (self.spec.topic.clone(), text.to_owned());
        blocking(move || {
            let producer: BaseProducer = config.create().unwrap();
            producer.init_transactions(WITHIN).unwrap();
            producer.begin_transaction().unwrap();
            let record = BaseRecord::<(), str>::to(&topic).partition(shard).payload(&text);
            producer.send(record).map_err(|(error, _)| error).unwrap();
            producer.flush(WITHIN).unwrap();
            producer
        })
        .await
    }

    pub(crate) async fn commit(&self, producer: BaseProducer) -> Result<(), rdkafka::error::KafkaError> {
        blocking(move || producer.commit_transaction(WITHIN)).await
    }

    pub(crate) async fn abort(&self, producer: BaseProducer) {
        blocking(move || producer.abort_transaction(WITHIN).unwrap()).await;
    }

    /// Where the partition ends, once it is there: a transaction is committed before its end is marked.
    pub(crate) async fn end_is(&self, watcher: &LandingWatcher, shard: i32, expected: i64) -> i64 {
        self.end_above(watcher, shard, expected - 1).await
    }

    /// Where the partition ends, once that is above an offset.
    pub(crate) async fn end_above(&self, watcher: &LandingWatcher, shard: i32, before: i64) -> i64 {
        let clock = SystemClock::default();
        loop {
            let end = watcher.ends(vec![shard]).await.unwrap()[&shard];
            if end > before {
                return end;
            }
            assert!(clock.monotonic() < WITHIN, "partition {shard} ends at {end}, and not above {before}");
        }
    }

    pub(crate) async fn make(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let made = admin(&self.kafka).create_topics([&topic], &AdminOptions::new()).await.unwrap();
        made.into_iter().next().unwrap().unwrap();
    }

    pub(crate) async fn delete(&self) {
        self.delete_named(&self.spec.topic).await;
    }

    pub(crate) async fn delete_named(&self, name: &str) {
        admin(&self.kafka).delete_topics(&[name], &AdminOptions::new()).await.unwrap();
    }

    /// Waits until the topic is not there any more.
    pub(crate) fn gone(&self) {
        wait("the topic to be gone", || (self.kafka.partitions(&self.spec.topic) == 0).then_some(()));
    }
}

/// What a reader has got.
pub(crate) struct View {
    spec: LandingSpec,
    reader: LandingReader,
    pub(crate) next: BTreeMap<i32, i64>,
    /// Offset and payload by partition.
    pub(crate) records: BTreeMap<i32, Vec<(i64, Vec<u8>)>>,
}

impl View {
    pub(crate) fn fresh(topic: &Topic) -> Self {
        Self::at(topic, BTreeMap::new())
    }

    pub(crate) fn at(topic: &Topic, next: BTreeMap<i32, i64>) -> Self {
        let reader = LandingReader::start(&topic.spec, next.clone()).unwrap();
        Self { spec: topic.spec.clone(), reader, next, records: BTreeMap::new() }
    }

    /// Takes chunks until each partition stands there at least.
    pub(crate) async fn read_to(&mut self, next: &BTreeMap<i32, i64>) {
        let read = async {
            while !self.is_at(next) {
                self.take().await.unwrap();
            }
        };
        assert!(
            tokio::time::timeout(WITHIN, read).await.is_ok(),
            "only got to {:?}, not {next:?}",
            self.next
        );
    }

    /// The same with another reader after each failure.
    pub(crate) async fn read_to_despite(&mut self, next: &BTreeMap<i32, i64>, within: Duration) {
        let clock = SystemClock::default();
        while !self.is_at(next) {
            assert!(clock.monotonic() < within, "only got to {:?}, not {next:?}", self.next);
            if self.take().await.is_err() {
                self.reader = LandingReader::start(&self.spec, self.next.clone()).unwrap();
            }
        }
    }

    /// Takes chunks until there is no more.
    pub(crate) async fn fails(&mut self) -> Failure {
        let read = async {
            loop {
                if let Err(failure) = self.take().await {
                    return failure;
                }
            }
        };
        tokio::time::timeout(WITHIN, read).await.unwrap()
    }

    fn is_at(&self, next: &BTreeMap<i32, i64>) -> bool {
        next.iter().all(|(partition, next)| self.next.get(partition).is_some_and(|stands| stands >= next))
    }

    async fn take(&mut self) -> Result<(), Failure> {
        let chunk = self.reader.next().await.unwrap()?;
        let mut stands = self.next.insert(chunk.partition, chunk.next).unwrap_or(0);
        assert!(chunk.next > stands, "partition {} went back to {}", chunk.partition, chunk.next);
        for (offset, _) in &chunk.records {
            assert!(*offset >= stands && *offset < chunk.next, "partition {}: {offset}", chunk.partition);
            stands = offset + 1;
        }
        if !chunk.records.is_empty() {
            self.records.entry(chunk.partition).or_default().extend(chunk.records);
        }
        Ok(())
    }

    pub(crate) fn payloads(&self, partition: i32) -> Vec<Vec<u8>> {
        let records = self.records.get(&partition).into_iter().flatten();
        records.map(|(_, payload)| payload.clone()).collect()
    }
}
