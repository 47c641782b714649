//! The writer of a shard: a thread, a transactional producer, one transaction at a time.

use std::time::Duration;

use aap_sinks::Failure;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::spec::LandingSpec;
use super::{RECORD_BYTES_MAX, SHARDS};
use crate::failure;
use crate::place::fence;
use crate::watch::Watch;
use crate::worker::{Deadline, ONE_CALLER, Worker};
use crate::write::{commit, send};

/// How long the records of a transaction may take to be acknowledged. With the commit it stays below the transaction's timeout.
const DELIVER_TIMEOUT: Duration = Duration::from_secs(18);
/// How long the commit may take, from the end of that time on.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(8);
/// What is being done where no more is known.
const APPENDING: &str = "append to a shard";

/// Writes one shard until another takes it over.
///
/// Appends are made one after the other. An append whose future is dropped is not taken back: it may still be committed, and the
/// next one waits for it.
#[derive(Debug)]
pub struct ShardWriter {
    worker: Worker<Shard>,
}

impl ShardWriter {
    /// Fences whoever wrote before, ends what they left open, and commits `mark` as a record of its own. Returns the writer, and
    /// the offset after the mark: whoever has read up to it has all that was committed before.
    ///
    /// # Errors
    /// Where Kafka does not answer or does not let us, and with [`FailureKind::Moved`](aap_sinks::FailureKind::Moved) where
    /// another took over meanwhile.
    pub async fn take_over(spec: &LandingSpec, shard: i32, mark: Vec<u8>) -> Result<(Self, i64), Failure> {
        let state = Shard { topic: spec.topic.clone(), partition: shard, taken: None, in_doubt: false };
        let writer = Self { worker: Worker::start(state, ONE_CALLER)? };
        let spec = spec.clone();
        let next = writer.call(move |shard| shard.take_over(&spec, mark)).await?;
        Ok((writer, next))
    }

    /// Commits all records in one transaction, in order. Returns the offset after the last of them.
    ///
    /// # Errors
    /// Whatever it is, the writer is of no use any more: drop it and take over again, which tells by what a reader gets whether the
    /// records were committed. [`FailureKind::Moved`](aap_sinks::FailureKind::Moved) where another took over.
    pub async fn append(&self, records: Vec<Vec<u8>>) -> Result<i64, Failure> {
        self.call(move |shard| shard.append(records)).await
    }

    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Shard) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.worker.call(job).await.unwrap_or_else(|| Err(failure::stuck()))
    }
}

/// The thread's own.
struct Shard {
    topic: String,
    partition: i32,
    /// The right to write.
    taken: Option<Taken>,
    /// Whether something failed, so that nobody knows what is committed.
    in_doubt: bool,
}

/// The right to write.
struct Taken {
    producer: BaseProducer<Watch>,
    watch: Watch,
    /// The offset after the last record.
    next: i64,
}

impl Shard {
    fn take_over(&mut self, spec: &LandingSpec, mark: Vec<u8>) -> Result<i64, Failure> {
        if !(0..SHARDS).contains(&self.partition) {
            let why = format!("{} is none of 0 to {}", self.partition, SHARDS - 1);
            return Err(failure::setting("the landing topic has no such shard", why));
        }
        let name = format!("shard-{}", self.partition);
        // Of the topic, which is one cluster's: two clusters of one name would fence each other for ever.
        let settings = spec.settings(&name, format!("aap.{}.{name}", self.topic))?;
        let watch = Watch::default();
        let producer = settings.shard(&watch)?;
        fence(&producer, &watch)?;
        self.taken = Some(Taken { producer, watch, next: 0 });
        self.append(vec![mark])
    }

    fn append(&mut self, records: Vec<Vec<u8>>) -> Result<i64, Failure> {
        let appended = match &self.taken {
            Some(taken) if !self.in_doubt => self.transact(taken, records),
            _ => Err(Failure::moved("this writer of a shard failed before: take the shard over again")),
        };
        match (&appended, &mut self.taken) {
            (Ok(next), Some(taken)) => taken.next = *next,
            // What it left open is ended by the next taking over, or by the cluster. The producer goes with the writer: to end it
            // takes longer than an answer should.
            _ => self.in_doubt = true,
        }
        appended
    }

    fn transact(&self, taken: &Taken, records: Vec<Vec<u8>>) -> Result<i64, Failure> {
        let Taken { producer, watch, next } = taken;
        if records.is_empty() {
            return Ok(*next);
        }
        fits(&records)?;
        watch.clear();
        producer.begin_transaction().map_err(|error| failure::of(APPENDING, &error, watch))?;
        let deadline = Deadline::after(DELIVER_TIMEOUT);
        for record in records {
            let record = BaseRecord::to(&self.topic).partition(self.partition).payload(record.as_slice());
            send(producer, watch, record, &deadline)?;
        }
        commit(producer, watch, APPENDING, &deadline, COMMIT_TIMEOUT)?;
        // A record that was sent twice and came once may be known to be there, but not where.
        let last = watch.delivered().filter(|offset| offset >= next);
        last.map(|offset| offset + 1).ok_or_else(|| {
            Failure::moved(
                "Kafka does not say where the records of a shard came to stand, only that they are there",
            )
        })
    }
}

fn fits(records: &[Vec<u8>]) -> Result<(), Failure> {
    match records.iter().map(Vec::len).max() {
        Some(size) if size > RECORD_BYTES_MAX => Err(failure::setting(
            "a record is too large for the landing topic",
            format!("it has {size} bytes, of at most {RECORD_BYTES_MAX}"),
        )),
        _ => Ok(()),
    }
}
