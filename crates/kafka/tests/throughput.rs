//! The sink beside a plain producer of the same records: `cargo test --release -p aap-kafka --test throughput -- --ignored
//! --nocapture`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/common.rs"]
mod common;

use std::sync::Arc;
use std::time::Duration;

use aap_columns::value::Objects;
use aap_runtime::SystemClock;
use aap_sinks::conformance::{Effort, Meter, key};
use aap_sinks::{Group, Sink, Slice};
use aap_types::Sequence;
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use common::{Kafka, Use};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const GROUPS: u64 = 10;
const ROWS: u64 = 100_000;

/// Rows as of an access log, some 250 bytes each.
fn rows(seq: u64) -> RecordBatch {
    let ids = || (0..ROWS).map(move |row| seq * ROWS + row);
    let path = |n: u64| {
        format!("/shop/items/{}/details?session={:016x}", n % 5000, n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    };
    let columns: [(&str, ArrayRef); 8] = [
        ("n", Arc::new(Int64Array::from_iter_values(ids().map(|n| n as i64)))),
        ("path", Arc::new(StringArray::from_iter_values(ids().map(path)))),
        (
            "agent",
            Arc::new(StringArray::from_iter_values(ids().map(|n| format!("Browser/{} (Linux)", n % 40)))),
        ),
        ("seconds", Arc::new(Float64Array::from_iter_values(ids().map(|n| (n % 997) as f64 / 1000.0)))),
        ("_node", Arc::new(StringArray::from_iter_values(ids().map(|_| "edge-1")))),
        ("_epoch", Arc::new(UInt64Array::from_iter_values(ids().map(|_| 7_000_000_000_000_000_001)))),
        ("_seq", Arc::new(UInt64Array::from_iter_values(ids().map(|_| seq)))),
        ("_row", Arc::new(UInt64Array::from_iter_values(0..ROWS))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn groups() -> Vec<Group> {
    let key = key("edge-1", "events");
    let slice =
        |seq| Slice { key: key.clone(), after: Sequence(seq - 1), through: Sequence(seq), rows: rows(seq) };
    (1..=GROUPS).map(|seq| Group { slices: vec![slice(seq)] }).collect()
}

/// What a plain producer sends: texts that were made before, or the rows, which it makes texts of as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    SendOnly,
    EncodeAndSend,
    EncodeOnly,
}

/// A producer that only has `acks=all`.
fn plain(kafka: &Kafka, groups: &[Group], headers: bool, work: Work) -> Effort {
    let producer: BaseProducer = kafka
        .config()
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "500000")
        .create()
        .unwrap();
    let objects: Vec<Objects<'_>> = groups.iter().map(|group| Objects::of(&group.slices[0].rows)).collect();
    let encode = |number: usize, text: &mut Vec<u8>| {
        text.clear();
        objects[number / ROWS as usize].write(number % ROWS as usize, text);
    };
    let all = (GROUPS * ROWS) as usize;
    let mut made: Vec<Vec<u8>> = vec![];
    if work == Work::SendOnly {
        made.resize(all, vec![]);
        made.iter_mut().enumerate().for_each(|(number, text)| encode(number, text));
    }
    let (clock, mut buffer) = (SystemClock::default(), vec![]);
    let meter = Meter::start(&clock);
    for number in 0..all {
        if work != Work::SendOnly {
            encode(number, &mut buffer);
        }
        if work == Work::EncodeOnly {
            continue;
        }
        let text = made.get(number).unwrap_or(&buffer);
        let mut record = BaseRecord::<[u8], [u8]>::to(&kafka.topic).payload(text);
        if headers {
            let row = (number as u64 % ROWS).to_string();
            let both = OwnedHeaders::new_with_capacity(2)
                .insert(Header { key: "aap-batch", value: Some("edge-1/7000000000000000001/events/1") })
                .insert(Header { key: "aap-row", value: Some(&row) });
            record = record.headers(both);
        }
        while let Err((_, again)) = producer.send(record) {
            producer.poll(Duration::from_millis(1));
            record = again;
        }
        if number % 4096 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
    }
    meter.stop()
}

async fn transactional(kafka: &Kafka, groups: &[Group], headers: bool, round: u8) -> Effort {
    let mut target = kafka.target.clone();
    target.uid = format!("{round}{}", &target.uid[1..]);
    let spec = kafka.spec(&format!("headers: {headers}"));
    let mut sink = aap_kafka::KafkaSink::new(target, spec);
    sink.resume_point().await.unwrap();
    let clock = SystemClock::default();
    let meter = Meter::start(&clock);
    for group in groups {
        sink.write(group).await.unwrap();
    }
    meter.stop()
}

#[test]
#[ignore = "takes a minute, and means something only in a release build on a quiet machine"]
fn the_sink_keeps_up_with_a_plain_producer() {
    let Some(kafka) = common::kafka("throughput", Use::Alone) else { return };
    let groups = groups();
    common::run(async {
        // Makes the topic, and lets everybody warm up.
        transactional(&kafka, &groups[..0], true, 9).await;
        plain(&kafka, &groups, false, Work::SendOnly);
        let rows = (GROUPS * ROWS) as f64;
        println!("{}", plain(&kafka, &groups, false, Work::EncodeOnly).line("rows made to JSON alone", rows));
        for (round, headers) in [(0, true), (1, false), (2, true), (3, false)] {
            let sink = transactional(&kafka, &groups, headers, round).await;
            let sends = plain(&kafka, &groups, headers, Work::SendOnly);
            let encodes = plain(&kafka, &groups, headers, Work::EncodeAndSend);
            println!("headers {headers}:");
            println!("  {}", sink.line("sink", rows));
            println!("  {}", encodes.line("plain producer that makes the texts", rows));
            println!("  {}", sends.line("plain producer of texts made before", rows));
            println!(
                "  Kafka: sink / plain client = {:.2}, of texts made before {:.2}",
                encodes.seconds / sink.seconds,
                sends.seconds / sink.seconds
            );
        }
    });
}
