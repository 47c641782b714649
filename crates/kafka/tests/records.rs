//! What readers find, and what happens where Kafka says no.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/common.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use aap_kafka::KafkaSink;
use aap_sinks::conformance::{key, slice};
use aap_sinks::{BadRow, FailureKind, Group, Sink, Slice};
use aap_types::Sequence;
use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use common::{Kafka, Use, code};
use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

fn group(slices: impl IntoIterator<Item = Slice>) -> Group {
    Group { slices: slices.into_iter().collect() }
}

/// Rows with one text each, in one batch.
fn texts(node: &str, after: u64, texts: &[String]) -> Slice {
    let key = key(node, "events");
    let count = texts.len();
    let columns: [(&str, ArrayRef); 5] = [
        ("text", Arc::new(StringArray::from_iter_values(texts))),
        ("_node", Arc::new(StringArray::from_iter_values(texts.iter().map(|_| node)))),
        ("_epoch", Arc::new(UInt64Array::from(vec![key.epoch.0; count]))),
        ("_seq", Arc::new(UInt64Array::from(vec![after + 1; count]))),
        ("_row", Arc::new(UInt64Array::from_iter_values(0..count as u64))),
    ];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    Slice { key, after: Sequence(after), through: Sequence(after + 1), rows }
}

/// Texts of the rows that are there, each once.
fn read_texts(kafka: &Kafka) -> BTreeSet<String> {
    let read = kafka.read(&kafka.topic);
    let texts: BTreeSet<String> =
        read.iter().map(|record| record.json()["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(texts.len(), read.len(), "a row stands there twice");
    texts
}

fn make_topic(kafka: &Kafka, name: &str, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = kafka.config().create().unwrap();
    let topic = NewTopic::new(name, 2, TopicReplication::Fixed(1));
    let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
    block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap().pop().unwrap().unwrap();
    common::wait("the topic", || (kafka.partitions(name) == 2).then_some(()));
}

#[test]
fn a_reader_sees_each_row_once_with_its_key_and_its_id() {
    let Some(kafka) = common::kafka("each_row_once", Use::Shared) else { return };
    common::run(async {
        let mut sink = kafka.sink("key: n");
        sink.resume_point().await.unwrap();
        let one = key("edge-1", "events");
        sink.write(&group([slice(&one, 0, 2)])).await.unwrap();
        let read = kafka.read(&kafka.topic);
        assert_eq!(read.len(), 14);
        for record in &read {
            let row = record.json();
            assert_eq!(record.key, Some(row["n"].to_string()));
            let id = format!("edge-1/{}/events/{}", one.epoch, row["_seq"]);
            assert_eq!(record.headers["aap-batch"], id);
            assert_eq!(record.headers["aap-row"], row["_row"].to_string());
        }
        let row = read.iter().find(|record| record.key.as_deref() == Some("8")).unwrap();
        assert_eq!(
            String::from_utf8(row.value.clone()).unwrap(),
            format!(
                "{{\"ts\":\"2025-10-09T08:53:20.123464Z\",\"n\":8,\
                 \"message\":\"row 8 \\\"quoted\\\", tab\\t, é, \\\\ and '\",\"score\":1.0,\"good\":null,\
                 \"price\":8.08,\"_node\":\"edge-1\",\"_epoch\":{},\"_seq\":1,\"_row\":1}}",
                one.epoch
            )
        );
    });
}

#[test]
fn rows_of_one_value_share_a_partition_and_need_no_headers() {
    let Some(kafka) = common::kafka("partition_by", Use::Shared) else { return };
    common::run(async {
        let mut sink = kafka.sink("partition_by: good\nheaders: false\npartitions: 5");
        sink.resume_point().await.unwrap();
        sink.write(&group([slice(&key("edge-1", "events"), 0, 20)])).await.unwrap();
        let mut places: HashMap<String, BTreeSet<i32>> = HashMap::new();
        for record in kafka.read(&kafka.topic) {
            assert!(record.key.is_none() && record.headers.is_empty());
            places.entry(record.json()["good"].to_string()).or_default().insert(record.partition);
        }
        assert_eq!((places["true"].len(), places["false"].len()), (1, 1), "{places:?}");
    });
}

#[test]
fn each_stream_gets_a_topic_and_sinks_share_a_ledger() {
    let Some(kafka) = common::kafka("topic_per_stream", Use::Shared) else { return };
    common::run(async {
        let more = format!("topic: \"{}.{{stream}}\"", kafka.topic);
        let mut sink = kafka.sink(&more);
        let mut target = kafka.target.clone();
        target.uid = target.uid.chars().rev().collect();
        let mut other = KafkaSink::new(target, kafka.spec(&more));
        sink.resume_point().await.unwrap();
        other.resume_point().await.unwrap();
        let (logs, metrics) = (key("edge-1", "logs"), key("edge-1", "metrics"));
        sink.write(&group([slice(&logs, 0, 1), slice(&metrics, 0, 2)])).await.unwrap();
        other.write(&group([slice(&logs, 0, 3)])).await.unwrap();
        assert_eq!(kafka.read(&format!("{}.logs", kafka.topic)).len(), 28);
        assert_eq!(kafka.read(&format!("{}.metrics", kafka.topic)).len(), 14);
        let stands = BTreeMap::from([(logs.clone(), Sequence(1)), (metrics, Sequence(2))]);
        assert_eq!(sink.resume_point().await.unwrap(), stands);
        assert_eq!(other.resume_point().await.unwrap(), BTreeMap::from([(logs, Sequence(3))]));
    });
}

#[test]
fn a_slice_that_does_not_follow_is_not_written() {
    let Some(kafka) = common::kafka("does_not_follow", Use::Shared) else { return };
    common::run(async {
        let mut sink = kafka.sink("");
        let one = key("edge-1", "events");
        let early = sink.write(&group([slice(&one, 0, 1)])).await.unwrap_err();
        assert_eq!(early.kind, FailureKind::Moved, "{early:?}");
        sink.resume_point().await.unwrap();
        let gap = sink.write(&group([slice(&one, 1, 2)])).await.unwrap_err();
        assert_eq!(gap.kind, FailureKind::Moved, "{gap:?}");
        assert!(kafka.read(&kafka.topic).is_empty());
    });
}

#[test]
fn a_row_that_is_too_large_is_named_and_the_rest_can_be_written() {
    let Some(kafka) = common::kafka("row_too_large", Use::Shared) else { return };
    common::run(async {
        make_topic(&kafka, &kafka.topic, &[("max.message.bytes", "20000")]);
        let mut sink = kafka.sink("compression: none");
        sink.resume_point().await.unwrap();
        let mut wide: Vec<String> = (0..200).map(|n| format!("{n}-{}", "x".repeat(15_000))).collect();
        wide[7] = "y".repeat(20_000);
        let small = texts("edge-2", 0, &["small".to_owned()]);
        let failure = sink.write(&group([small.clone(), texts("edge-1", 0, &wide)])).await.unwrap_err();
        let FailureKind::Rows(rows) = &failure.kind else { panic!("{failure:?}") };
        let at = rows.iter().map(|BadRow { slice, row, .. }| (*slice, *row)).collect::<Vec<_>>();
        assert_eq!(at, [(1, 7)], "{failure:?}");
        assert!(kafka.read(&kafka.topic).is_empty(), "nothing was written");
        // Rows as large as is allowed go through, uncompressed, each in a batch of its own.
        wide[7] = "7-instead".to_owned();
        sink.write(&group([small, texts("edge-1", 0, &wide)])).await.unwrap();
        assert_eq!(read_texts(&kafka), wide.into_iter().chain(["small".to_owned()]).collect());
    });
}

#[test]
fn arrow_records_are_cut_to_the_limit() {
    let Some(kafka) = common::kafka("arrow_cut", Use::Shared) else { return };
    common::run(async {
        make_topic(&kafka, &kafka.topic, &[("max.message.bytes", "20000")]);
        let mut sink = kafka.sink("format: arrow\ncompression: none");
        sink.resume_point().await.unwrap();
        let mut rows: Vec<String> = (0..1000).map(|n| format!("{n}-{}", "x".repeat(100))).collect();
        rows[500] = "y".repeat(30_000);
        let failure = sink.write(&group([texts("edge-1", 0, &rows)])).await.unwrap_err();
        let FailureKind::Rows(bad) = &failure.kind else { panic!("{failure:?}") };
        assert_eq!((bad.len(), bad[0].row), (1, 500));
        rows[500] = "500".to_owned();
        sink.write(&group([texts("edge-1", 0, &rows)])).await.unwrap();
        let read = kafka.read(&kafka.topic);
        let count: u64 = read.iter().map(|one| one.headers["aap-rows"].parse::<u64>().unwrap()).sum();
        assert_eq!(count, 1000);
        assert!(read.len() >= 6 && read.iter().all(|one| one.value.len() < 20_000), "{}", read.len());
    });
}

#[test]
fn a_missing_topic_is_not_made_against_the_operators_will() {
    let Some(kafka) = common::kafka("topic_missing", Use::Shared) else { return };
    common::run(async {
        let mut sink = kafka.sink("create: false");
        let failure = sink.resume_point().await.unwrap_err();
        assert_eq!(
            (failure.kind, failure.problem.code.as_str()),
            (FailureKind::Refused, "sink.topic_missing")
        );
        assert_eq!(code(sink.probe().await), "sink.topic_missing");
        assert_eq!((kafka.partitions(&kafka.topic), kafka.partitions(&kafka.ledger)), (0, 0));
    });
}

#[test]
fn too_few_replicas_are_refused_before_anything_is_made() {
    let Some(kafka) = common::kafka("unreplicated", Use::Shared) else { return };
    common::run(async {
        if kafka.brokers.contains(',') {
            return println!("skipped: unreplicated: the cluster replicates");
        }
        let mut sink = kafka.sink("allow_unreplicated: false");
        let failure = sink.resume_point().await.unwrap_err();
        assert_eq!(
            (failure.kind, failure.problem.code.as_str()),
            (FailureKind::Refused, "sink.unreplicated")
        );
        assert_eq!(kafka.partitions(&kafka.ledger), 0);
        make_topic(&kafka, &kafka.ledger, &[("cleanup.policy", "compact")]);
        assert_eq!(code(sink.resume_point().await), "sink.unreplicated");
        assert_eq!(code(sink.probe().await), "sink.unreplicated");
    });
}

#[test]
fn a_ledger_that_forgets_is_refused() {
    let Some(kafka) = common::kafka("ledger_forgets", Use::Shared) else { return };
    common::run(async {
        make_topic(&kafka, &kafka.ledger, &[("cleanup.policy", "compact,delete")]);
        let failure = kafka.sink("").resume_point().await.unwrap_err();
        assert_eq!((failure.kind, failure.problem.code.as_str()), (FailureKind::Refused, "sink.ledger"));
    });
}

#[test]
fn a_probe_tells_what_is_there_and_makes_nothing() {
    let Some(kafka) = common::kafka("probe", Use::Shared) else { return };
    common::run(async {
        let mut sink = kafka.sink("");
        let brokers = match kafka.brokers.split(',').count() {
            1 => "Kafka cluster of 1 broker".to_owned(),
            count => format!("Kafka cluster of {count} brokers"),
        };
        let missing = |name| format!("topic `{name}`: missing, will be made");
        let before = [brokers.clone(), missing(&kafka.topic), missing(&kafka.ledger)];
        assert_eq!(sink.probe().await.unwrap(), before);
        assert_eq!(kafka.partitions(&kafka.topic), 0);
        sink.resume_point().await.unwrap();
        let lines = sink.probe().await.unwrap();
        let replicas = if kafka.brokers.contains(',') { "3 replicas" } else { "1 replica" };
        assert_eq!(lines[1], format!("topic `{}`: 3 partitions, {replicas}", kafka.topic));
        assert_eq!(lines[2], format!("topic `{}`: 1 partition, {replicas}", kafka.ledger));
        // A probe takes nothing away.
        sink.write(&group([slice(&key("edge-1", "events"), 0, 1)])).await.unwrap();
    });
}

/// The spec for the listener with TLS and SCRAM.
fn secured(kafka: &Kafka, folder: &std::path::Path, password: &str) -> KafkaSink {
    let setting = |name: &str| std::env::var(name).unwrap();
    let file = folder.join("password");
    std::fs::write(&file, format!("{password}\n")).unwrap();
    let mut spec = kafka.spec(&format!(
        "tls: {{ ca: {} }}\nsasl: {{ mechanism: scram-sha-512, username: {}, password: \"file:{}\" }}",
        setting("AAP_TEST_KAFKA_CA"),
        setting("AAP_TEST_KAFKA_USER"),
        file.display()
    ));
    spec.brokers = setting("AAP_TEST_KAFKA_TLS").split(',').map(str::to_owned).collect();
    KafkaSink::new(kafka.target.clone(), spec)
}

#[test]
fn tls_and_scram_let_in_whoever_knows_the_password() {
    let Some(kafka) = common::kafka("tls_and_scram", Use::Shared) else { return };
    let folder = tempfile::tempdir().unwrap();
    common::run(async {
        let password = std::env::var("AAP_TEST_KAFKA_PASSWORD").unwrap();
        let mut sink = secured(&kafka, folder.path(), &password);
        sink.resume_point().await.unwrap();
        sink.write(&group([slice(&key("edge-1", "events"), 0, 1)])).await.unwrap();
        assert_eq!(kafka.read(&kafka.topic).len(), 7);

        let failure = secured(&kafka, folder.path(), "wrong").resume_point().await.unwrap_err();
        assert_eq!(
            (failure.kind.clone(), failure.problem.code.as_str()),
            (FailureKind::Refused, "sink.denied")
        );
        println!("{}", failure.problem.report());
        // Nobody vouches for the broker's certificate.
        let mut spec = kafka.spec("tls: {}");
        spec.brokers = vec![std::env::var("AAP_TEST_KAFKA_TLS").unwrap()];
        let failure = KafkaSink::new(kafka.target.clone(), spec).resume_point().await.unwrap_err();
        assert_eq!((failure.kind.clone(), failure.problem.code.as_str()), (FailureKind::Refused, "sink.tls"));
        println!("{}", failure.problem.report());
    });
}

#[test]
fn nobody_there_asks_for_patience() {
    let Some(kafka) = common::kafka("nobody_there", Use::Shared) else { return };
    common::run(async {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut spec = kafka.spec("");
        spec.brokers = vec![free.to_string()];
        let failure = KafkaSink::new(kafka.target.clone(), spec).resume_point().await.unwrap_err();
        assert_eq!(
            (failure.kind.clone(), failure.problem.code.as_str()),
            (FailureKind::Retry, "sink.unreachable")
        );
        println!("{}", failure.problem.report());
    });
}

#[test]
fn a_broker_that_dies_in_the_middle_of_a_write_costs_no_row_and_doubles_none() {
    let Some(kafka) = common::kafka("dies_in_the_middle", Use::Alone) else { return };
    let kafka = Arc::new(kafka);
    common::run(async {
        let mut sink = kafka.sink("compression: none");
        sink.resume_point().await.unwrap();
        let first = texts("edge-1", 0, &["first".to_owned()]);
        sink.write(&group([first])).await.unwrap();
        let before = kafka.uncommitted(&kafka.topic);

        let rows: Vec<String> = (0..150_000).map(|n| format!("{n}-{}", "x".repeat(500))).collect();
        let large = group([texts("edge-1", 1, &rows)]);
        let killer = kafka.clone();
        let kill = common::blocking(move || {
            common::wait("a part of the group", || {
                (killer.uncommitted(&killer.topic) > before + 100).then_some(())
            });
            common::kill();
        });
        let (written, ()) = futures::join!(sink.write(&large), kill);
        let failure = written.unwrap_err();
        assert_eq!(
            (failure.kind.clone(), failure.problem.code.as_str()),
            (FailureKind::Retry, "sink.unreachable")
        );
        println!("{}", failure.problem.report());
        let away = sink.resume_point().await.unwrap_err();
        assert_eq!(away.kind, FailureKind::Retry, "{away:?}");

        common::blocking(common::start).await;
        let positions = common::settle(&mut sink).await;
        let stands = positions[&key("edge-1", "events")];
        assert_eq!(stands, Sequence(1), "the commit was not asked for");
        sink.write(&large).await.unwrap();
        let all: BTreeSet<String> = rows.into_iter().chain(["first".to_owned()]).collect();
        assert!(read_texts(&kafka) == all, "rows are missing, or were not written by anybody");
    });
}

#[test]
fn a_call_that_nobody_waits_for_any_more_loses_nothing() {
    let Some(kafka) = common::kafka("dropped_call", Use::Shared) else { return };
    common::run(async {
        let mut sink = kafka.sink("");
        sink.resume_point().await.unwrap();
        let rows: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
        let all = group([texts("edge-1", 0, &rows)]);
        let write = sink.write(&all);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(5), write).await.is_err());
        // What was dropped ends first, whichever way; the ledger says which.
        if sink.resume_point().await.unwrap().is_empty() {
            sink.write(&all).await.unwrap();
        }
        assert_eq!(read_texts(&kafka), rows.into_iter().collect());
    });
}
