//! The suite of all sinks, against a real broker that is killed on the way.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/common.rs"]
mod common;

use std::io::Cursor;
use std::sync::Arc;

use aap_sinks::Sink;
use aap_sinks::conformance::{self, Server, Stored};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt64Type};
use arrow_ipc::reader::StreamReader;
use common::{Kafka, Read, Use};
use futures::FutureExt;
use futures::future::BoxFuture;

struct OneBroker {
    kafka: Arc<Kafka>,
    more: &'static str,
    rows: fn(&Read) -> Vec<Stored>,
}

impl Server for OneBroker {
    fn sink(&self) -> Box<dyn Sink> {
        Box::new(self.kafka.sink(self.more))
    }

    fn stored(&self) -> BoxFuture<'_, Vec<Stored>> {
        let (kafka, rows) = (self.kafka.clone(), self.rows);
        common::blocking(move || kafka.read(&kafka.topic).iter().flat_map(rows).collect()).boxed()
    }

    fn restart(&self) -> BoxFuture<'_, ()> {
        common::blocking(|| {
            common::kill();
            common::start();
        })
        .boxed()
    }
}

fn one_json(record: &Read) -> Vec<Stored> {
    let row = record.json();
    let number = |name: &str| row[name].as_u64().unwrap();
    vec![Stored {
        node: row["_node"].as_str().unwrap().to_owned(),
        epoch: number("_epoch"),
        seq: number("_seq"),
        row: number("_row"),
        n: row["n"].as_i64().unwrap(),
    }]
}

fn all_arrow(record: &Read) -> Vec<Stored> {
    let mut stored = vec![];
    for batch in StreamReader::try_new(Cursor::new(&record.value), None).unwrap() {
        let batch = batch.unwrap();
        let nodes = batch["_node"].as_string::<i32>();
        let number = |name: &str, row| batch[name].as_primitive::<UInt64Type>().value(row);
        stored.extend((0..batch.num_rows()).map(|row| Stored {
            node: nodes.value(row).to_owned(),
            epoch: number("_epoch", row),
            seq: number("_seq", row),
            row: number("_row", row),
            n: batch["n"].as_primitive::<Int64Type>().value(row),
        }));
    }
    stored
}

fn check(test: &str, more: &'static str, rows: fn(&Read) -> Vec<Stored>) {
    let Some(kafka) = common::kafka(test, Use::Alone) else { return };
    let server = OneBroker { kafka: Arc::new(kafka), more, rows };
    common::run(conformance::run(&server));
}

#[test]
fn rows_as_json_stand_there_once() {
    check("rows_as_json_stand_there_once", "compression: zstd", one_json);
}

#[test]
fn rows_as_arrow_stand_there_once() {
    check("rows_as_arrow_stand_there_once", "format: arrow", all_arrow);
}
