//! What is asked of the landing topic beside reading it, and deleting its records: one thread, which keeps its clients.

use std::collections::BTreeMap;
use std::time::Duration;

use aap_sinks::Failure;
use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::SHARDS;
use super::spec::LandingSpec;
use super::topic::{changed, hear, offsets};
use crate::failure;
use crate::settings::Settings;
use crate::watch::Watch;
use crate::worker::Worker;

/// Calls that wait: every shard may ask at the same time, and an answer takes some milliseconds.
const CALLS_WAITING: usize = SHARDS as usize;
/// How long a deletion may take.
const DELETE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is being done where no more is known.
const DELETING: &str = "delete records of the landing topic";

/// Asks and deletes. Where a call fails because its thread hangs, start another one.
#[derive(Debug)]
pub struct LandingWatcher {
    worker: Worker<Watching>,
}

impl LandingWatcher {
    /// Connects when it is asked.
    ///
    /// # Errors
    /// Where a setting cannot be used, or a thread not be started.
    pub fn start(spec: &LandingSpec) -> Result<Self, Failure> {
        let settings = spec.settings("landing", spec.reader_id())?;
        let watch = Watch::default();
        let asker = settings.asker(&watch)?;
        let watching = Watching { topic: spec.topic.clone(), settings, watch, asker, admin: None };
        Ok(Self { worker: Worker::start(watching, CALLS_WAITING)? })
    }

    /// Where each of the partitions ends, open transactions included: a commit is acknowledged some milliseconds before its end stands
    /// in the partition, and readers get to it only then. A reader whose `next` is there has everything that was acknowledged
    /// when this was asked.
    ///
    /// # Errors
    /// Where Kafka does not answer for all of them.
    pub async fn ends(&self, partitions: Vec<i32>) -> Result<BTreeMap<i32, i64>, Failure> {
        self.call(move |watching| watching.ends(&partitions)).await
    }

    /// Deletes the records before these offsets.
    ///
    /// # Errors
    /// Where Kafka does not do so for all of them: some may be deleted.
    pub async fn delete_before(&self, offsets: BTreeMap<i32, i64>) -> Result<(), Failure> {
        self.call(move |watching| watching.delete_before(offsets)).await
    }

    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Watching) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.worker.call(job).await.unwrap_or_else(|| Err(failure::stuck()))
    }
}

/// The thread's own.
struct Watching {
    topic: String,
    settings: Settings,
    watch: Watch,
    asker: BaseConsumer<Watch>,
    /// Only one coordinator of a cluster deletes.
    admin: Option<AdminClient<Watch>>,
}

impl Watching {
    fn ends(&self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, Failure> {
        hear(&self.asker);
        self.watch.clear();
        offsets(&self.asker, &self.watch, &self.topic, partitions, Offset::End)
    }

    fn delete_before(&mut self, offsets: BTreeMap<i32, i64>) -> Result<(), Failure> {
        if offsets.is_empty() {
            return Ok(());
        }
        self.watch.clear();
        let admin = match self.admin.take() {
            Some(admin) => admin,
            None => self.settings.admin(&self.watch)?,
        };
        let deleted = self.delete(&admin, offsets);
        self.admin = Some(admin);
        deleted
    }

    fn delete(&self, admin: &AdminClient<Watch>, offsets: BTreeMap<i32, i64>) -> Result<(), Failure> {
        let failed = |error: &KafkaError| failure::of(DELETING, error, &self.watch);
        let mut before = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let added = before.add_partition_offset(&self.topic, partition, Offset::Offset(offset));
            added.map_err(|error| failed(&error))?;
        }
        let options =
            AdminOptions::new().request_timeout(Some(DELETE_TIMEOUT)).operation_timeout(Some(DELETE_TIMEOUT));
        let deleted = block_on(admin.delete_records(&before, &options)).map_err(|error| failed(&error))?;
        for one in deleted.elements() {
            match one.error() {
                Err(error) if failure::is_out_of_range(&error) => {
                    let why =
                        format!("partition {} ends before what is to be deleted of it", one.partition());
                    return Err(changed(&self.topic, why));
                }
                other => other.map_err(|error| failed(&error))?,
            }
        }
        Ok(())
    }
}
