//! Sinks: one task for each that is declared, which reads what landed and writes it to another system.
//!
//! ```text
//!  aap apply ─▶ resources ─▶ Sinks ─▶ Runner ──resume_point──▶ server: where does its ledger stand?
//!                                       │ groups.rs: rows behind that, from landing ∪ lake
//!                                       └──write──▶ server: rows and positions in one commit
//! ```
//! A sink holds nothing up but itself: the landing buffer reclaims without it, and what left the buffer is read from the lake.
//!
//! | file | owns |
//! |---|---|
//! | `spec.rs` | the document of kind Sink, and the driver that it names |
//! | `ledger.rs`, `stdout.rs` | where sinks stand whose server keeps no ledger; the one that prints |
//! | `groups.rs`, `filter.rs` | what is written next; which rows are |
//! | `runner.rs` | the life of one sink: take over, write, fail, try again |
//! | `dead_letters.rs` | rows that a server does not take; their replay |
//! | `board.rs` | how a sink stands |

mod board;
mod dead_letters;
mod filter;
mod groups;
mod ledger;
mod runner;
mod spec;
mod stdout;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_lake::Lake;
use aap_proto::v1;
use aap_runtime::documents::Document;
use aap_runtime::{Clock, SecretSource, Shutdown, Supervisor, TaskKind};
use aap_store::{ResourceRecord, ResourceStore, SinkState};
use aap_types::{ExitCode, Problem, Sequence, StreamKey, nearest};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::warn;

pub(crate) use dead_letters::json as dead_letter_row;
pub(crate) use ledger::StoreLedger;
pub(crate) use spec::{SinkSpec, Start};

use board::Board;
use groups::Groups;
use runner::{Control, Runner};

/// The kind of the documents that are sinks.
pub(crate) const KIND: &str = "Sink";
/// How long a changed sink may take to let go of its server: a commit that is under way.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// What sinks stand on.
#[derive(Debug)]
pub struct SinkDependencies {
    pub(crate) lake: Lake,
    pub(crate) buffer: aap_buffer::Buffer,
    pub(crate) store: Arc<dyn ResourceStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Supervisor,
    /// Who is asked for the secrets that they refer to.
    pub(crate) secrets: Arc<dyn SecretSource>,
}

/// All sinks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sinks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dependencies: SinkDependencies,
    running: Mutex<BTreeMap<String, Running>>,
    /// Those that cannot even be started, and why.
    broken: Mutex<BTreeMap<String, String>>,
}

/// A sink that has a task.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) uid: String,
    revision: u64,
    board: Arc<Board>,
    control: Arc<watch::Sender<Control>>,
    stop: Shutdown,
    ended: watch::Receiver<bool>,
}

impl Sinks {
    /// No sink yet.
    pub(crate) fn new(dependencies: SinkDependencies) -> Self {
        Self { inner: Arc::new(Inner { dependencies, running: Mutex::default(), broken: Mutex::default() }) }
    }

    /// Starts every sink that is declared.
    pub(crate) async fn start_all(&self, records: &[ResourceRecord]) {
        for record in records.iter().filter(|record| record.kind == KIND) {
            if let Err(problem) = self.start_or_show(record).await {
                // A document that an earlier version took. The others must run.
                warn!(sink = record.name, %problem, "a sink cannot be started");
            }
        }
    }

    /// Starts a sink; one that cannot even be started is shown with its reason.
    pub(crate) async fn start_or_show(&self, record: &ResourceRecord) -> Result<(), Problem> {
        let started = self.start(record).await;
        if let Err(problem) = &started {
            self.broken().insert(record.name.clone(), problem.message.clone());
        }
        started
    }

    /// Starts a sink, or starts it anew with its changed document.
    pub(crate) async fn start(&self, record: &ResourceRecord) -> Result<(), Problem> {
        self.stop(&record.name).await;
        self.broken().remove(&record.name);
        let document = Document::of_record(&record.name, &record.document);
        let spec = SinkSpec::read(&document).map_err(|error| error.problem())?;
        let store = self.inner.dependencies.store.clone();
        let uid = record.uid.clone();
        let state = blocking(move || store.sink_state(&uid)).await?;
        let running = self.launch(record, &spec, state)?;
        self.running().insert(record.name.clone(), running);
        Ok(())
    }

    fn launch(&self, record: &ResourceRecord, spec: &SinkSpec, state: SinkState) -> Result<Running, Problem> {
        let SinkDependencies { lake, buffer, store, clock, tasks, secrets } = &self.inner.dependencies;
        let target = aap_sinks::Target { name: record.name.clone(), uid: record.uid.clone() };
        let ledger = StoreLedger { store: store.clone(), uid: record.uid.clone() };
        let sink = spec.build(target, Arc::new(ledger));
        let groups = Groups::new(lake.clone(), buffer.clone(), spec, &state)?;
        let board = Arc::new(Board::new(
            spec.driver_name(),
            spec.place(),
            sink.guarantee(),
            groups.starts().clone(),
            clock.clone(),
        ));
        let (control, controlled) = watch::channel(Control { paused: state.paused, pokes: 0 });
        let (ending, ended) = watch::channel(false);
        let stop = tasks.shutdown().child();
        let runner = Runner {
            name: record.name.clone(),
            uid: record.uid.clone(),
            sink,
            secrets: (spec.secrets(), secrets.clone()),
            groups: Arc::new(groups),
            store: store.clone(),
            clock: clock.clone(),
            board: board.clone(),
            control: controlled,
            stop: stop.clone(),
        };
        tasks.spawn(TaskKind::optional("sink"), async move {
            runner.run().await;
            ending.send_replace(true);
            Ok::<(), Problem>(())
        });
        let (uid, revision) = (record.uid.clone(), record.revision);
        Ok(Running { uid, revision, board, control: Arc::new(control), stop, ended })
    }

    /// Stops a sink and waits until it has let go of its server. Whether it ran.
    pub(crate) async fn stop(&self, name: &str) -> bool {
        self.broken().remove(name);
        let Some(mut running) = self.running().remove(name) else { return false };
        running.stop.request();
        let ended = tokio::time::timeout(STOP_DEADLINE, running.ended.wait_for(|ended| *ended)).await;
        if ended.is_err() {
            warn!(sink = name, "a sink is still writing; whoever takes over will find where it stands");
        }
        true
    }

    /// One of them.
    pub(crate) fn find(&self, name: &str) -> Result<Running, Problem> {
        let running = self.running();
        running.get(name).cloned().ok_or_else(|| unknown_sink(name, running.keys().map(String::as_str)))
    }

    /// Pauses or resumes; the decision survives a restart.
    pub(crate) async fn set_paused(&self, name: &str, paused: bool) -> Result<Running, Problem> {
        let running = self.find(name)?;
        let (store, uid) = (self.inner.dependencies.store.clone(), running.uid.clone());
        blocking(move || store.set_sink_paused(&uid, paused)).await?;
        running.control.send_modify(|control| {
            control.paused = paused;
            control.pokes += 1;
        });
        Ok(running)
    }

    /// Makes a sink look again at once, instead of after its pause.
    pub(crate) fn poke(&self, name: &str) -> Result<(), Problem> {
        self.find(name)?.control.send_modify(|control| control.pokes += 1);
        Ok(())
    }

    /// What is wrong with those that cannot write, a line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let broken = self.broken().clone();
        let running = self.running();
        let running =
            running.iter().filter_map(|(name, running)| Some((name.clone(), running.board.problem()?)));
        broken.into_iter().chain(running).map(|(name, problem)| format!("sink `{name}`: {problem}")).collect()
    }

    /// Whether it has a task.
    pub(crate) fn is_running(&self, name: &str) -> bool {
        self.running().contains_key(name)
    }

    fn broken(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.inner.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where everything that has landed ends now.
    pub(crate) fn tails(&self) -> Vec<(StreamKey, Sequence)> {
        self.inner.dependencies.lake.ends()
    }

    /// How all of them stand, or one. Blocking.
    pub(crate) fn statuses(&self, name: &str) -> Result<Vec<v1::SinkStatus>, Problem> {
        let all: Vec<(String, Running)> = match name {
            "" => self.running().iter().map(|(name, running)| (name.clone(), running.clone())).collect(),
            name => vec![(name.to_owned(), self.find(name)?)],
        };
        let SinkDependencies { store, lake, .. } = &self.inner.dependencies;
        let tails = lake.ends();
        all.into_iter()
            .map(|(name, running)| {
                let letters = store.dead_letter_count(&running.uid).map_err(|error| store_problem(&error))?;
                Ok(running.board.status(name, running.revision, letters, &tails))
            })
            .collect()
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads or writes the store on the blocking pool.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, aap_store::Error> + Send + 'static,
) -> Result<T, Problem> {
    let done = spawn_blocking(work).await.map_err(|panic| {
        Problem::new("platform.bug", ExitCode::Bug, "the coordinator failed at its work").caused_by(&panic)
    })?;
    done.map_err(|error| store_problem(&error))
}

/// The store of metadata failed, or somebody was faster.
pub(crate) fn store_problem(error: &aap_store::Error) -> Problem {
    match error {
        aap_store::Error::Revision { kind, name, .. } => {
            let message = format!("somebody changed {} `{name}` in between", kind.to_lowercase());
            Problem::new("resource.conflict", ExitCode::Conflict, message)
                .caused_by(error)
                .hint_command("see how it stands now", format!("aap get {} {name}", kind.to_lowercase()))
        }
        _ => Problem::new("resource.store", ExitCode::Failed, "the metadata cannot be read or written")
            .caused_by(error),
    }
}

pub(crate) fn unknown_sink<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Problem {
    let problem = Problem::new("sink.not_found", ExitCode::NotFound, format!("there is no sink `{name}`"));
    match nearest(name, &known.collect::<Vec<_>>()).first() {
        Some(near) => {
            problem.hint_command(format!("did you mean `{near}`?"), format!("aap sink show {near}"))
        }
        None => problem.hint_command("list them", "aap sink ls"),
    }
}
