//! The Kafka sink, counted by Kafka's own console consumer.

use aap_tests::{Platform, Service};
use serde_json::Value;

use super::{Place, apply, assert_each_once, each_once_through_kills, ingest, settles, sink};

pub(crate) struct Kafka {
    service: Service,
    topic: String,
}

impl Kafka {
    pub(crate) fn find(test: &str) -> Option<Self> {
        let service = Service::find("kafka", "kafka-1", "AAP_TEST_KAFKA", test)?;
        // A topic of its own, also beside an earlier run against the same server.
        let topic = format!("it-{}-{}", test.replace(' ', "-"), std::process::id());
        Some(Self { service, topic })
    }

    /// Three brokers, where they are there.
    pub(crate) fn find_three(test: &str) -> Option<Self> {
        let service = Service::find("kafka3", "kafka3-1", "AAP_TEST_KAFKA3", test)?;
        let topic = format!("it-{}-{}", test.replace(' ', "-"), std::process::id());
        Some(Self { service, topic })
    }

    /// The server.
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    /// Some brokers, as a list of YAML.
    fn brokers(&self) -> String {
        self.service.address.split(',').map(|broker| format!("'{broker}'")).collect::<Vec<_>>().join(", ")
    }

    /// Records by Kafka's own console producer, one for each line; it makes the topic with its first record.
    pub(crate) fn produce(&self, lines: impl Iterator<Item = String>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text: String = lines.map(|line| line + "\n").collect();
        std::fs::write(file.path(), text).unwrap();
        // It drops what it could not send in time, and ends as if nothing were wrong: another test may have the server killed.
        let patient = ["delivery.timeout.ms=600000", "max.block.ms=600000"];
        let [delivery, block] = patient.map(|property| ["--command-property", property]);
        let arguments = [&["cli", "produce", "--topic", &self.topic], &delivery[..], &block[..]].concat();
        self.service.feed(&arguments, file.path());
    }

    /// The topic as a source of the stream `taken`.
    pub(crate) fn source(&self) -> String {
        let (brokers, topic) = (&self.service.address, &self.topic);
        format!(
            "apiVersion: aap/v1\nkind: Source\nmetadata: {{ name: orders }}\nspec:\n  \
             kafka: {{ brokers: ['{brokers}'], topics: [{topic}], stream: taken }}\n"
        )
    }

    /// A topic of its own for a cluster's landing, as a section of a configuration has it.
    pub(crate) fn landing(&self) -> String {
        let (brokers, topic) = (self.brokers(), &self.topic);
        let is_safe = self.service.name == "kafka3";
        format!("{{ brokers: [{brokers}], topic: '{topic}-landing', allow_unreplicated: {} }}", !is_safe)
    }

    /// The cluster as the catalog `kafka`.
    pub(crate) fn catalog(&self) -> String {
        let brokers = &self.service.address;
        format!(
            "apiVersion: aap/v1\nkind: Catalog\nmetadata: {{ name: kafka }}\nspec:\n  kafka: {{ brokers: ['{brokers}'] }}\n"
        )
    }

    /// The topic as a table of it.
    pub(crate) fn table(&self) -> String {
        format!("kafka.\"{}\"", self.topic)
    }

    /// What a reader sees who sees only what was committed.
    fn records(&self) -> Vec<Value> {
        let text = self.service.tool(&[
            "cli",
            "consume",
            "--topic",
            &self.topic,
            "--from-beginning",
            "--command-property",
            "isolation.level=read_committed",
            "--timeout-ms",
            "8000",
        ]);
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Place for Kafka {
    fn document(&self) -> String {
        let (brokers, topic) = (self.brokers(), &self.topic);
        format!(
            "apiVersion: aap/v1\nkind: Sink\nmetadata: {{ name: kafka }}\nspec:\n  streams: [events]\n  \
             kafka: {{ brokers: [{brokers}], topic: {topic}, key: id, allow_unreplicated: true, ledger_topic: {topic}-ledger }}\n"
        )
    }

    fn stored(&self) -> (u64, u64, u64) {
        let mut ids: Vec<u64> = self.records().iter().map(|record| record["id"].as_u64().unwrap()).collect();
        let (rows, sum) = (ids.len() as u64, ids.iter().sum());
        ids.sort_unstable();
        ids.dedup();
        (rows, ids.len() as u64, sum)
    }

    fn kill_and_restart(&self) {
        self.service.kill_and_restart();
    }
}

#[test]
fn records_in_kafka_are_there_exactly_once_whoever_is_killed() {
    let Some(place) = Kafka::find("kills") else { return };
    each_once_through_kills(&place, Platform::new(), "kafka");
}

#[test]
fn kafka_without_replicas_is_refused_until_the_document_allows_it() {
    let Some(place) = Kafka::find("unreplicated") else { return };
    let platform = Platform::started(&[]);
    ingest(&platform, 0, 1_000);
    apply(&platform, &place.document().replace(", allow_unreplicated: true", ""));
    settles("it is refused", || sink(&platform, "kafka")["state"] == "refused");
    assert_eq!(sink(&platform, "kafka")["problem"]["code"], "sink.unreplicated");
    apply(&platform, &place.document());
    assert_each_once(&platform, &place, "kafka", 1_000);
    let mut record = Value::Null;
    settles("a record can be read, whoever has the server killed", || {
        record = place.records().into_iter().next().unwrap_or_default();
        record.is_object()
    });
    assert!(
        record["_node"].is_string() && record["name"].is_string() && record["price"].is_number(),
        "{record}"
    );
}
