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
//! | `topics.rs`, `rows.rs` | topics of Kafka; their records as batches of streams |
//! | `table.rs` | tables of PostgreSQL that only grow |
//! | `changes.rs` | every change of tables of PostgreSQL |

mod changes;
mod rows;
mod table;
mod topics;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_buffer::EncodedBatch;
use aap_kafka::KafkaSourceSpec;
use aap_postgres::{ChangesSource, PostgresSource, PostgresSourceSpec};
use aap_runtime::documents::{Document, DocumentError};
use aap_runtime::{Clock, SecretRef, SecretSource, Shutdown, Supervisor, TaskKind, resolve_secrets};
use aap_store::ResourceRecord;
use aap_types::{ExitCode, Problem, SourceKind, SourcePosition, StreamName};
use serde::Deserialize;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::landing::Landing;
use changes::ChangedTables;
use table::Table;
use topics::Topics;

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
    #[serde(default)]
    kafka: Option<KafkaSourceSpec>,
    #[serde(default)]
    postgres: Option<PostgresSourceSpec>,
}

/// What is read.
#[derive(Debug, Clone)]
enum Place {
    Kafka(Box<KafkaSourceSpec>),
    Postgres(Box<PostgresSource>),
}

impl Place {
    /// What it keeps on the server.
    fn kept(&self) -> Option<ChangesSource> {
        match self {
            Self::Postgres(source) => match source.as_ref() {
                PostgresSource::Changes(source) => Some(source.clone()),
                PostgresSource::Table(_) => None,
            },
            Self::Kafka(_) => None,
        }
    }
}

impl SourceSpec {
    /// Whether a document of kind Source is one of ours: the others are a node's own.
    pub(crate) fn is_ours(document: &Document) -> bool {
        #[derive(Deserialize)]
        struct Any {
            #[serde(default)]
            kafka: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            postgres: Option<serde::de::IgnoredAny>,
        }
        document.spec::<Any>().is_ok_and(|any| any.kafka.is_some() || any.postgres.is_some())
    }

    /// Reads and checks the section.
    pub(crate) fn read(document: &Document) -> Result<Self, DocumentError> {
        let spec: Self = document.spec()?;
        let checked = match (&spec.kafka, &spec.postgres) {
            (Some(kafka), None) => kafka.check().map_err(|message| ("kafka", message)),
            (None, Some(postgres)) => {
                postgres.clone().read().map(drop).map_err(|message| ("postgres", message))
            }
            _ => Err(("spec", "a source reads one place".to_owned())),
        };
        checked.map_err(|(section, message)| document.error(section, message, None))?;
        Ok(spec)
    }

    /// Every secret that it refers to.
    pub(crate) fn secrets(&self) -> Vec<SecretRef> {
        let kafka = self.kafka.iter().flat_map(KafkaSourceSpec::secrets);
        kafka.chain(self.postgres.iter().flat_map(PostgresSourceSpec::secrets)).collect()
    }

    fn place(self) -> Option<Place> {
        let postgres = self.postgres.and_then(|spec| spec.read().ok());
        let postgres = postgres.map(|source| Place::Postgres(Box::new(source)));
        self.kafka.map(|spec| Place::Kafka(Box::new(spec))).or(postgres)
    }
}

/// What sources stand on.
#[derive(Debug)]
pub(crate) struct SourceDependencies {
    pub(crate) landing: Landing,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Supervisor,
    /// Who is asked for the secrets that they refer to.
    pub(crate) secrets: Arc<dyn SecretSource>,
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
    /// What sources keep on their servers, by name, with the identity under which they do.
    kept: Mutex<BTreeMap<String, (String, ChangesSource)>>,
    /// What is wrong with those that cannot read, by name.
    problems: Arc<Mutex<BTreeMap<String, String>>>,
}

#[derive(Debug, Clone)]
struct Running {
    stop: Shutdown,
    ended: watch::Receiver<bool>,
}

impl Sources {
    /// No source yet.
    pub(crate) fn new(dependencies: SourceDependencies) -> Self {
        let (running, kept, problems) = Default::default();
        Self { inner: Arc::new(Inner { dependencies, running, kept, problems }) }
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
        let spec = SourceSpec::read(&document).map_err(|error| error.problem())?;
        let references = spec.secrets();
        let Some(place) = spec.place() else { return Ok(()) };
        match place.kept() {
            Some(kept) => {
                drop(lock(&self.inner.kept).insert(record.name.clone(), (record.uid.clone(), kept)))
            }
            // It keeps nothing any more.
            None => self.clean_up(&record.name).await,
        }
        let SourceDependencies { landing, clock, tasks, secrets } = &self.inner.dependencies;
        let (ending, ended) = watch::channel(false);
        let stop = tasks.shutdown().child();
        let runner = Runner {
            name: record.name.clone(),
            uid: record.uid.clone(),
            made_us: record.created_us,
            landing: landing.clone(),
            clock: clock.clone(),
            problems: self.inner.problems.clone(),
            secrets: (references, secrets.clone()),
            stop: stop.clone(),
        };
        let record_name = record.name.clone();
        // What an earlier task of this source has queued lands before this one looks where to begin, however long that takes.
        let before = lock(&self.inner.running).get(&record.name).map(|running| running.ended.clone());
        tasks.spawn(TaskKind::optional("source"), async move {
            if let Some(mut before) = before {
                drop(before.wait_for(|ended| *ended).await);
            }
            match place {
                Place::Kafka(spec) => runner.run(Topics::new(record_name, *spec)).await,
                Place::Postgres(source) => match *source {
                    PostgresSource::Table(source) => runner.run(Table::new(source)).await,
                    PostgresSource::Changes(source) => runner.run(ChangedTables::new(source)).await,
                },
            }
            ending.send_replace(true);
            Ok::<(), Problem>(())
        });
        lock(&self.inner.running).insert(record.name.clone(), Running { stop, ended });
        Ok(())
    }

    /// Stops a source and waits until nothing of it is under way.
    pub(crate) async fn stop(&self, name: &str) {
        lock(&self.inner.problems).remove(name);
        let Some(mut running) = lock(&self.inner.running).get(name).cloned() else { return };
        running.stop.request();
        match tokio::time::timeout(STOP_DEADLINE, running.ended.wait_for(|ended| *ended)).await {
            Ok(_) => drop(lock(&self.inner.running).remove(name)),
            // It stays known, so that its successor waits for it.
            Err(_late) => warn!(source = name, "a source is still landing what it read"),
        }
    }

    /// Removes what a source that is no more, and was stopped, kept on its server. Where that cannot be done, the log says how an
    /// operator does it.
    pub(crate) async fn clean_up(&self, name: &str) {
        let Some((uid, kept)) = lock(&self.inner.kept).remove(name) else { return };
        changes::drop_kept(name, &uid, &kept).await;
    }

    /// Whether it has a task.
    pub(crate) fn is_running(&self, name: &str) -> bool {
        lock(&self.inner.running).get(name).is_some_and(|running| !running.stop.is_requested())
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
    landing: Landing,
    clock: Arc<dyn Clock>,
    problems: Arc<Mutex<BTreeMap<String, String>>>,
    /// What it refers to, and who is asked.
    secrets: (Vec<SecretRef>, Arc<dyn SecretSource>),
    stop: Shutdown,
}

impl Runner {
    /// Until it is stopped.
    async fn run(self, mut reading: impl Read) {
        let mut pause = PAUSE_FIRST;
        while !self.stop.is_requested() {
            let read = async {
                resolve_secrets(&self.secrets.0, self.secrets.1.as_ref()).await?;
                reading.read(&self, &mut pause).await
            };
            let Err(problem) = read.await else { continue };
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

    /// Lands what was read, with how far. It is durable when this returns.
    async fn land(
        &self,
        batches: Vec<(StreamName, EncodedBatch)>,
        positions: Vec<SourcePosition>,
        pause: &mut Duration,
    ) -> Result<(), Problem> {
        // Once it is queued it lands, whether or not somebody waits.
        self.landing.land_own(batches, positions).await.map_err(|error| cannot("land rows", &error))?;
        self.is_well();
        *pause = PAUSE_FIRST;
        Ok(())
    }

    /// It reads.
    fn is_well(&self) {
        if lock(&self.problems).remove(&self.name).is_some() {
            info!(source = self.name, "source reads again");
        }
    }

    /// What landed of a kind of source under keys that begin with this source's.
    async fn landed(&self, kind: SourceKind) -> Result<Vec<(String, SourcePosition)>, Problem> {
        let positions = self.landing.own_positions().await;
        let positions = positions.map_err(|error| cannot("learn how far it was read", &error))?.into_iter();
        let ours = positions.filter(|position| position.kind == kind).filter_map(|position| {
            let rest = position.key.strip_prefix(&self.uid)?;
            Some((rest.strip_prefix('/').unwrap_or(rest).to_owned(), position))
        });
        Ok(ours.collect())
    }
}

/// A place that rows are read from.
trait Read: Send {
    /// Reads from behind what landed, until it fails or is to stop.
    fn read(
        &mut self,
        runner: &Runner,
        pause: &mut Duration,
    ) -> impl Future<Output = Result<(), Problem>> + Send;
}

fn cannot(what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("source.failed", ExitCode::Failed, format!("the source could not {what}")).caused_by(error)
}
