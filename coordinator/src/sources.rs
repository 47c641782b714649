//! Sources that the coordinator reads itself: one task for each that is declared. What it reads lands as its own batches, with how
//! far the source was read in the same group, so that after any crash reading goes on behind what landed: each record once.
//!
//! ```yaml
//! apiVersion: aap/v1
//! kind: Source
//! metadata: { name: orders }
//! spec:
//!   kafka: { brokers: ['127.0.0.1:9092'], topics: [orders] }
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `rows.rs` | records as batches of streams |

mod rows;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_kafka::{Begin, KafkaSourceSpec, SourceReader};
use aap_runtime::documents::{Document, DocumentError};
use aap_runtime::{Clock, Shutdown, Supervisor, TaskKind};
use aap_store::ResourceRecord;
use aap_types::{Problem, SourceKind, SourcePosition};
use serde::Deserialize;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::landing::Landing;
use rows::Rows;

/// The kind of the documents that are sources.
pub(crate) const KIND: &str = "Source";
/// The first pause after a failure: a broker that restarts is often back at once.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest: somebody who has mended the cause does not wait longer for it to be noticed.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a changed source may take to stop: an append that is under way.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// The section `spec`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceSpec {
    kafka: KafkaSourceSpec,
}

impl SourceSpec {
    /// Whether a document of kind Source is one of ours: the others are a node's own.
    pub(crate) fn is_ours(document: &Document) -> bool {
        #[derive(Deserialize)]
        struct Any {
            #[serde(default)]
            kafka: Option<serde::de::IgnoredAny>,
        }
        document.spec::<Any>().is_ok_and(|any| any.kafka.is_some())
    }

    /// Reads and checks the section.
    pub(crate) fn read(document: &Document) -> Result<Self, DocumentError> {
        let spec: Self = document.spec()?;
        spec.kafka.check().map_err(|message| document.error("kafka", message, None))?;
        Ok(spec)
    }
}

/// What sources stand on.
#[derive(Debug)]
pub(crate) struct SourceDependencies {
    pub(crate) landing: Landing,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Supervisor,
}

/// All sources. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sources {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dependencies: SourceDependencies,
    running: Mutex<BTreeMap<String, Running>>,
    /// What is wrong with those that cannot read, by name.
    problems: Arc<Mutex<BTreeMap<String, String>>>,
}

#[derive(Debug)]
struct Running {
    stop: Shutdown,
    ended: watch::Receiver<bool>,
}

impl Sources {
    /// No source yet.
    pub(crate) fn new(dependencies: SourceDependencies) -> Self {
        let (running, problems) = Default::default();
        Self { inner: Arc::new(Inner { dependencies, running, problems }) }
    }

    /// Starts every source that is declared. One that an earlier version took and this one does not is shown with its reason.
    pub(crate) async fn start_all(&self, records: &[ResourceRecord]) {
        for record in records.iter().filter(|record| record.kind == KIND) {
            if let Err(problem) = self.start(record).await {
                warn!(source = record.name, %problem, "a source cannot be started");
                lock(&self.inner.problems).insert(record.name.clone(), problem.message);
            }
        }
    }

    /// Starts a source, or starts it anew with its changed document.
    pub(crate) async fn start(&self, record: &ResourceRecord) -> Result<(), Problem> {
        self.stop(&record.name).await;
        let document = Document::of_record(&record.name, &record.document);
        let spec = SourceSpec::read(&document).map_err(|error| error.problem())?.kafka;
        let SourceDependencies { landing, clock, tasks } = &self.inner.dependencies;
        let (ending, ended) = watch::channel(false);
        let stop = tasks.shutdown().child();
        let runner = Runner {
            name: record.name.clone(),
            uid: record.uid.clone(),
            made_us: record.created_us,
            spec,
            landing: landing.clone(),
            clock: clock.clone(),
            problems: self.inner.problems.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(TaskKind::optional("source"), async move {
            runner.run().await;
            ending.send_replace(true);
            Ok::<(), Problem>(())
        });
        lock(&self.inner.running).insert(record.name.clone(), Running { stop, ended });
        Ok(())
    }

    /// Stops a source and waits until nothing of it is under way.
    pub(crate) async fn stop(&self, name: &str) {
        lock(&self.inner.problems).remove(name);
        let Some(mut running) = lock(&self.inner.running).remove(name) else { return };
        running.stop.request();
        if tokio::time::timeout(STOP_DEADLINE, running.ended.wait_for(|ended| *ended)).await.is_err() {
            warn!(source = name, "a source is still landing what it read");
        }
    }

    /// Whether it has a task.
    pub(crate) fn is_running(&self, name: &str) -> bool {
        lock(&self.inner.running).contains_key(name)
    }

    /// What is wrong with those that cannot read, a line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = lock(&self.inner.problems);
        problems.iter().map(|(name, problem)| format!("source `{name}`: {problem}")).collect()
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One source at work.
struct Runner {
    name: String,
    uid: String,
    made_us: i64,
    spec: KafkaSourceSpec,
    landing: Landing,
    clock: Arc<dyn Clock>,
    problems: Arc<Mutex<BTreeMap<String, String>>>,
    stop: Shutdown,
}

impl Runner {
    /// Until it is stopped.
    async fn run(self) {
        let mut rows = Rows::new(self.name.clone(), self.spec.clone());
        let mut pause = PAUSE_FIRST;
        while !self.stop.is_requested() {
            let Err(problem) = self.read(&mut rows, &mut pause).await else { continue };
            warn!(source = self.name, code = problem.code, causes = ?problem.causes, "{problem}");
            let causes = problem.causes.first().map(|cause| format!(": {cause}")).unwrap_or_default();
            lock(&self.problems).insert(self.name.clone(), format!("{}{causes}", problem.message));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.requested() => {}
            }
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// Reads from behind what landed, until it fails or is to stop.
    async fn read(&self, rows: &mut Rows, pause: &mut Duration) -> Result<(), Problem> {
        let begin = self.begin()?;
        info!(source = self.name, partitions = begin.next.len(), "source begins");
        let mut reader = SourceReader::start(&self.name, &self.spec, begin)
            .map_err(|error| cannot("start reading", &error))?;
        loop {
            let chunk = tokio::select! {
                chunk = reader.next() => chunk,
                () = self.stop.requested() => return Ok(()),
            };
            let Some(chunk) = chunk else { return Ok(()) };
            let chunk = chunk.map_err(|failure| *failure.problem)?;
            if chunk.lost > 0 {
                warn!(
                    source = self.name,
                    topic = chunk.topic,
                    records = chunk.lost,
                    "Kafka removed records before they were read"
                );
            }
            let positions = self.positions(&chunk.topic, &chunk.next);
            let (moved, now_us) = (std::mem::take(rows), self.clock.unix_us());
            let made = tokio::task::spawn_blocking(move || moved.batches(&chunk, now_us)).await;
            let (back, made) = made.map_err(|panic| cannot("make rows of records", &panic))?;
            *rows = back;
            // Once it is queued it lands, whether or not somebody waits.
            self.landing.land_own(made?, positions).await.map_err(|error| cannot("land records", &error))?;
            if lock(&self.problems).remove(&self.name).is_some() {
                info!(source = self.name, "source reads again");
            }
            *pause = PAUSE_FIRST;
        }
    }

    /// Behind what landed of each partition.
    fn begin(&self) -> Result<Begin, Problem> {
        let start_ms = self
            .spec
            .start_ms(self.made_us)
            .map_err(|why| Problem::new("config.invalid", aap_types::ExitCode::Usage, why))?;
        let landed = self.landing.buffer().positions().into_iter();
        let ours = landed.filter(|position| position.kind == SourceKind::Kafka).filter_map(|position| {
            let rest = position.key.strip_prefix(&self.uid)?.strip_prefix('/')?;
            let (topic, partition) = rest.rsplit_once('/')?;
            Some(((topic.to_owned(), partition.parse().ok()?), i64::try_from(position.offset).ok()?))
        });
        Ok(Begin { next: ours.collect(), start_ms })
    }

    fn positions(&self, topic: &str, next: &BTreeMap<i32, i64>) -> Vec<SourcePosition> {
        let position = |(partition, next): (&i32, &i64)| SourcePosition {
            kind: SourceKind::Kafka,
            key: format!("{}/{topic}/{partition}", self.uid),
            offset: u64::try_from(*next).unwrap_or(0),
            detail: String::new(),
        };
        next.iter().map(position).collect()
    }
}

fn cannot(what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("source.failed", aap_types::ExitCode::Failed, format!("the source could not {what}"))
        .caused_by(error)
}
