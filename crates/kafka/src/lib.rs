//! Rows into Kafka, exactly once; topics as tables of a query; the topic that a cluster of coordinators lands in. The only crate that names `rdkafka`.
//!
//! One transactional producer writes the records of a group and, in the same transaction, one record per slice to a compacted
//! topic, the ledger. A reader with `isolation.level=read_committed` sees each row once.
//!
//! ```text
//!  Group ──begin──► rows ──encode──► records ──► topic(s)                ┐
//!                    │        └──► uid/node/epoch/stream ──► ledger       ┴─commit──► new positions
//!                    └── a row is too large: abort, and say which
//!
//!  resume_point: new producer ─init_transactions (fences the one before)─► a mark of ours into the ledger
//!                ─► read the ledger from its beginning until the mark ─► the last position of each key
//! ```
//!
//! The mark makes the end of the reading certain: it lies behind everything that was committed before, and a reader of
//! committed records gets to it only when no open transaction, of whichever sink, lies before it. A high watermark says neither.
//!
//! librdkafka blocks and has threads of its own, so each sink has one thread that owns all of it; the async side sends it
//! closures and waits with a deadline. A call whose caller went away is not begun.
//!
//! # Which row goes where
//! | | partition |
//! |---|---|
//! | `key: column` | by murmur2 of the value's text, as Java's producers do it |
//! | `partition_by: column` | the same, without a key in the record |
//! | neither, or NULL | spread; only rows of one key keep their order |
//!
//! # Record
//! Value: the row as a JSON object, as queries give it, or with `format: arrow` one Arrow IPC stream of several rows. Headers:
//! `aap-batch` (`node/epoch/stream/seq`) and `aap-row` name the row, or the first of the record, and `aap-rows` says how many an
//! Arrow record has.
//!
//! | file | owns |
//! |---|---|
//! | `spec.rs` | [`KafkaSpec`]: what an operator writes, and whether it makes sense |
//! | `settings.rs` | librdkafka's settings from it |
//! | `watch.rs` | what librdkafka tells on the side: refused logins, lost records, its log |
//! | `failure.rs` | its errors as [`Failure`] |
//! | `worker.rs` | the thread, and deadlines |
//! | `place.rs` | taking over and probing |
//! | `write.rs` | one transaction |
//! | `encode.rs` | rows as records |
//! | `topics.rs` | topics: made, checked, measured |
//! | `ledger.rs` | the form of its records, and reading it |
//! | `remote.rs`, `remote/` | [`KafkaTables`]: topics as tables of a query |
//! | `source.rs` | [`SourceReader`]: topics as a source |
//! | `landing.rs`, `landing/` | [`ShardWriter`], [`LandingReader`]: the landing topic of a cluster |

mod encode;
mod failure;
mod landing;
mod ledger;
mod place;
mod remote;
mod settings;
mod source;
mod spec;
mod topics;
mod watch;
mod worker;
mod write;

use std::time::Duration;

use aap_sinks::{Failure, Group, GroupLimits, Guarantee, Positions, Sink, Target};
use futures::future::BoxFuture;

pub use landing::{
    LandingChunk, LandingReader, LandingSpec, LandingWatcher, RECORD_BYTES_MAX, SHARDS, ShardWriter,
    prepare_landing,
};
pub use remote::{KafkaTables, KafkaTablesSpec};
pub use source::{Begin, Chunk, KafkaSourceSpec, Partition, RecordFormat, SourceReader};
pub use spec::{Compression, Format, KafkaSpec, Mechanism, Sasl, SpecError, Tls};

use place::Place;
use worker::{ONE_CALLER, Worker};

/// How much is committed at a time: a commit costs some 10 ms and a marker in each partition, which a hundred thousand rows
/// pay easily; more only takes memory, and delays whoever reads.
const LIMITS: GroupLimits =
    GroupLimits { rows: 100_000, bytes: 32 << 20, linger: Duration::from_millis(100) };

/// Topics of a Kafka cluster.
#[derive(Debug)]
pub struct KafkaSink {
    target: Target,
    spec: KafkaSpec,
    worker: Option<Worker<Place>>,
}

impl KafkaSink {
    /// A sink that connects when it is asked for its resume point.
    pub fn new(target: Target, spec: KafkaSpec) -> Self {
        Self { target, spec, worker: None }
    }

    /// Lets the thread do something, and forgets it where it hangs: the next call begins with another one.
    async fn call<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Place) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        if self.worker.is_none() {
            let place = Place::new(self.target.clone(), self.spec.clone());
            self.worker = Some(Worker::start(place, ONE_CALLER)?);
        }
        let answer = match &self.worker {
            Some(worker) => worker.call(job).await,
            None => None,
        };
        answer.unwrap_or_else(|| {
            self.worker = None;
            Err(failure::stuck())
        })
    }
}

impl Sink for KafkaSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn limits(&self) -> GroupLimits {
        LIMITS
    }

    fn resume_point(&mut self) -> BoxFuture<'_, Result<Positions, Failure>> {
        Box::pin(self.call(Place::take_over))
    }

    fn write<'a>(&'a mut self, group: &'a Group) -> BoxFuture<'a, Result<(), Failure>> {
        let group = group.clone();
        Box::pin(self.call(move |place| place.write(&group)))
    }

    fn probe(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        Box::pin(self.call(|place| place.probe()))
    }
}
