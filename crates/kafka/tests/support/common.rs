//! A real Kafka for the tests, and a reader of it.
//!
//! `eval "$(tests/services/up kafka)"` starts one and says where it is. Tests share it, so each has topics and an uid of its
//! own, and one that kills the broker waits until no other runs.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::print_stdout, reason = "tests say what they leave out")]

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::process::{Command, Output};
use std::time::Duration;

use aap_kafka::{KafkaSink, KafkaSpec};
use aap_runtime::{Clock, SystemClock};
use aap_sinks::{Failure, Positions, Sink, Target};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

/// How long what was committed may take until readers see it.
const VISIBLE_WITHIN: Duration = Duration::from_secs(30);

/// What a test does to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Beside other tests.
    Shared,
    /// Alone: it kills the broker.
    Alone,
}

/// A record as a reader sees it.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) partition: i32,
    pub(crate) key: Option<String>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: HashMap<String, String>,
}

impl Read {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.value).unwrap()
    }
}

/// The broker, and the names of one test.
#[derive(Debug)]
pub(crate) struct Kafka {
    pub(crate) brokers: String,
    pub(crate) topic: String,
    pub(crate) ledger: String,
    pub(crate) target: Target,
    _turn: File,
}

/// The broker, or nothing where there is none and none is required.
#[expect(clippy::print_stdout, reason = "a test that did nothing says so")]
pub(crate) fn kafka(test: &str, wanted: Use) -> Option<Kafka> {
    let Ok(brokers) = std::env::var("AAP_TEST_KAFKA") else {
        let required = std::env::var("AAP_TEST_SERVICES_REQUIRED").unwrap_or_default();
        let required = required.split([',', ' ']).any(|name| name == "kafka");
        assert!(
            !required,
            "{test}: no Kafka, though AAP_TEST_SERVICES_REQUIRED names it: AAP_TEST_KAFKA is not set"
        );
        println!("skipped: {test}: no Kafka (AAP_TEST_KAFKA)");
        return None;
    };
    let turn = File::create(std::env::temp_dir().join("aap-kafka-tests.lock")).unwrap();
    match wanted {
        Use::Shared => turn.lock_shared().unwrap(),
        Use::Alone => turn.lock().unwrap(),
    }
    let (one, two) = (RandomState::new().hash_one(test), RandomState::new().hash_one(test));
    let uid = format!("{one:016x}{two:016x}");
    let name = test.replace('_', "-");
    Some(Kafka {
        brokers,
        topic: format!("{name}-{one:x}"),
        ledger: format!("{name}-{one:x}-ledger"),
        target: Target { name, uid },
        _turn: turn,
    })
}

impl Kafka {
    /// The spec of this test's names, and what `more` says.
    pub(crate) fn spec(&self, more: &str) -> KafkaSpec {
        let addresses: Vec<String> =
            self.brokers.split(',').map(|address| format!("\"{address}\"")).collect();
        let topic = if more.contains("topic:") { String::new() } else { format!("topic: {}\n", self.topic) };
        let unreplicated =
            if more.contains("allow_unreplicated") { "" } else { "allow_unreplicated: true\n" };
        let text = format!(
            "brokers: [{}]\nledger_topic: {}\n{topic}{unreplicated}{more}",
            addresses.join(", "),
            self.ledger
        );
        serde_norway::from_str(&text).unwrap()
    }

    pub(crate) fn sink(&self, more: &str) -> KafkaSink {
        KafkaSink::new(self.target.clone(), self.spec(more))
    }

    /// A client of the tests.
    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("allow.auto.create.topics", "false");
        config
    }

    fn consumer(&self, isolation: &str) -> BaseConsumer {
        self.config()
            .set("group.id", "aap-tests")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", isolation)
            .create()
            .unwrap()
    }

    /// Partitions of a topic; none where it is not there.
    pub(crate) fn partitions(&self, topic: &str) -> i32 {
        let metadata = self.consumer("read_committed").fetch_metadata(Some(topic), VISIBLE_WITHIN).unwrap();
        metadata.topics()[0].partitions().len() as i32
    }

    /// How far the log of a topic goes, with what is not committed.
    pub(crate) fn uncommitted(&self, topic: &str) -> i64 {
        let raw = self.consumer("read_uncommitted");
        let end =
            |partition| raw.fetch_watermarks(topic, partition, VISIBLE_WITHIN).map_or(0, |(_, end)| end);
        (0..self.partitions(topic)).map(end).sum()
    }

    /// Every committed record of a topic.
    pub(crate) fn read(&self, topic: &str) -> Vec<Read> {
        let (raw, committed) = (self.consumer("read_uncommitted"), self.consumer("read_committed"));
        let mut assignment = TopicPartitionList::new();
        let count = self.partitions(topic);
        for partition in 0..count {
            let end = raw.fetch_watermarks(topic, partition, VISIBLE_WITHIN).unwrap().1;
            // A commit returns before its end is marked in each partition.
            let visible = || committed.fetch_watermarks(topic, partition, VISIBLE_WITHIN).unwrap().1;
            wait("what was committed to become visible", || (visible() >= end).then_some(()));
            assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        committed.assign(&assignment).unwrap();
        let (mut found, mut ended, waited) = (vec![], 0, SystemClock::default());
        while ended < count {
            assert!(waited.monotonic() < VISIBLE_WITHIN * 2, "`{topic}` is not read to its end");
            match committed.poll(Duration::from_millis(100)) {
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
                Some(Ok(record)) => found.push(read(&record)),
                Some(Err(_)) | None => {}
            }
        }
        found
    }
}

fn read(record: &rdkafka::message::BorrowedMessage<'_>) -> Read {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    Read {
        partition: record.partition(),
        key: record.key().map(text),
        value: record.payload().unwrap_or_default().to_vec(),
        headers: headers
            .map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default())))
            .collect(),
    }
}

/// Waits for a condition, with a deadline.
pub(crate) fn wait<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let clock = SystemClock::default();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(clock.monotonic() < VISIBLE_WITHIN, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Resume point until it answers: a broker that has just started asks for patience.
pub(crate) async fn settle(sink: &mut dyn Sink) -> Positions {
    let clock = SystemClock::default();
    loop {
        match sink.resume_point().await {
            Ok(positions) => return positions,
            Err(_) if clock.monotonic() < VISIBLE_WITHIN * 3 => {}
            Err(failure) => panic!("no resume point: {failure:?}"),
        }
    }
}

/// Code of a failure.
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    result.unwrap_err().problem.code
}

fn called(script: &str, arguments: &[&str]) -> (String, Output) {
    let path = format!("{}/../../tests/services/{script}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(&path).args(arguments).output().unwrap();
    (path, output)
}

fn service(script: &str, arguments: &[&str]) {
    let (path, output) = called(script, arguments);
    assert!(output.status.success(), "{path} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Kills the broker, and waits until it is gone: a start that finds it dying believes that it runs.
pub(crate) fn kill() {
    service("fault", &["kafka-1", "KILL"]);
    wait("the broker to be gone", || (!called("kafka.sh", &["status"]).1.status.success()).then_some(()));
}

/// Starts the broker that was killed.
pub(crate) fn start() {
    service("kafka.sh", &["start"]);
}

/// Runs something that blocks beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(job).await.unwrap()
}

/// A runtime for a test that took its turn before.
pub(crate) fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}
