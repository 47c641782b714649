//! Queries that a daemon answers: who they are for, how they are listed and cancelled, and their answers on the way to
//! the client.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_proto::v1::{self, query_event};
use aap_runtime::{Clock, Shutdown, Supervisor, TaskKind};
use aap_types::{ExitCode, Problem};
use camino::Utf8PathBuf;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::{
    Catalog, Engine, EngineQuery, Format, Limits, QueryEnd, QueryEvent, QueryStream, coverage, problem,
};

/// Parts of an answer between engine and network: a slow client holds the engine back after these.
const PARTS: usize = 4;

/// How long a query whose client has gone may take to stop.
const CANCEL_DEADLINE: Duration = Duration::from_secs(5);

/// What an answer consists of, on its way to the client.
pub type Answer = mpsc::Receiver<Result<v1::QueryEvent, Problem>>;
/// Where the parts of an answer are put.
pub type AnswerSender = mpsc::Sender<Result<v1::QueryEvent, Problem>>;

/// What a query may take.
#[derive(Debug, Clone, Copy)]
pub struct ServingLimits {
    /// Deadline of a query that names none.
    pub deadline: Duration,
    /// Longest deadline a query may ask for.
    pub deadline_max: Duration,
    /// Memory of one query, in bytes.
    pub memory_bytes: u64,
}

impl ServingLimits {
    /// The deadline of a query that asks for `asked_ms` (0: none asked).
    pub fn deadline(&self, asked_ms: u64) -> Duration {
        let asked = if asked_ms == 0 { self.deadline } else { Duration::from_millis(asked_ms) };
        asked.min(self.deadline_max)
    }
}

/// The queries of one daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Serving {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    clock: Arc<dyn Clock>,
    limits: ServingLimits,
    tasks: Supervisor,
    running: Mutex<BTreeMap<String, Running>>,
    next: AtomicU64,
    sandbox_missing: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Running {
    sql: String,
    started_us: i64,
    principal: String,
    rows: Arc<AtomicU64>,
    cancel: Shutdown,
}

/// A query under way: who it is for, and how it is stopped.
#[derive(Debug)]
pub struct Ticket {
    serving: Serving,
    /// Its name, for `aap query cancel`.
    pub id: String,
    /// Ends it.
    pub cancel: Shutdown,
    /// When it came.
    pub started_us: i64,
    rows: Arc<AtomicU64>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.serving.running().remove(&self.id);
    }
}

impl Serving {
    /// With nothing running. `tasks` owns the work.
    pub fn new(engine: Engine, clock: Arc<dyn Clock>, limits: ServingLimits, tasks: Supervisor) -> Self {
        let (running, next, sandbox_missing) = Default::default();
        Self { inner: Arc::new(Inner { engine, clock, limits, tasks, running, next, sandbox_missing }) }
    }

    /// What runs the statements.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// The time.
    pub fn clock(&self) -> &dyn Clock {
        self.inner.clock.as_ref()
    }

    /// Runs `work` as the query of `ticket`. Its failure ends the answer; it runs until it ends or nobody takes the
    /// answer any more.
    pub fn spawn<F>(&self, ticket: Ticket, work: impl FnOnce(Arc<Ticket>, AnswerSender) -> F) -> Answer
    where
        F: Future<Output = Result<(), Problem>> + Send + 'static,
    {
        let (answer, parts) = mpsc::channel(PARTS);
        let cancel = ticket.cancel.clone();
        let ticket = Arc::new(ticket);
        let (work, stopping) = (work(ticket.clone(), answer.clone()), self.inner.tasks.shutdown());
        self.inner.tasks.spawn(TaskKind::optional("query"), async move {
            let mut work = pin!(work);
            tokio::select! {
                done = &mut work => {
                    if let Err(problem) = done {
                        let problem = problem::unless_stopping(problem, &stopping);
                        // The client may have gone meanwhile.
                        drop(answer.send(Err(problem)).await);
                    }
                }
                () = answer.closed() => {
                    cancel.request();
                    // Nodes that were asked are told; nobody waits for the result.
                    drop(timeout(CANCEL_DEADLINE, work).await);
                }
            }
            drop(ticket);
            Ok::<(), Problem>(())
        });
        parts
    }

    /// What runs now.
    pub fn list(&self) -> Vec<v1::RunningQuery> {
        let running = self.running();
        let described = running.iter().map(|(id, query)| v1::RunningQuery {
            id: id.clone(),
            sql: query.sql.clone(),
            started_us: query.started_us,
            principal: query.principal.clone(),
            rows: query.rows.load(Ordering::Relaxed),
        });
        described.collect()
    }

    /// Stops a query. Whether there was one.
    pub fn cancel(&self, id: &str) -> bool {
        let running = self.running();
        let found = running.get(id);
        if let Some(query) = found {
            query.cancel.request();
        }
        found.is_some()
    }

    /// The same for whoever named it.
    ///
    /// # Errors
    /// `query.unknown` (3) where none runs under that name.
    pub fn cancel_or_refuse(&self, id: &str) -> Result<(), Problem> {
        if self.cancel(id) {
            return Ok(());
        }
        Err(self.unknown(id))
    }

    /// `query.unknown`.
    pub fn unknown(&self, id: &str) -> Problem {
        let message = format!("no query `{id}` is running");
        Problem::new("query.unknown", ExitCode::NotFound, message)
            .hint_command("list the running ones", "aap query ls")
    }

    /// Layers of the sandbox that the last query found missing here.
    pub fn sandbox_missing(&self) -> Vec<String> {
        self.inner.sandbox_missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a query in. Its ticket ends it.
    ///
    /// # Errors
    /// `query.id_in_use` (6).
    pub fn register(&self, id: &str, sql: &str, principal: &str) -> Result<Ticket, Problem> {
        let (cancel, rows) = (self.inner.tasks.shutdown().child(), Arc::<AtomicU64>::default());
        let started_us = self.inner.clock.unix_us();
        let id = match id {
            "" => format!("q{}-{}", started_us / 1_000_000, self.inner.next.fetch_add(1, Ordering::Relaxed)),
            chosen => chosen.to_owned(),
        };
        let mut running = self.running();
        if running.contains_key(&id) {
            let message = format!("a query with the id `{id}` is running");
            return Err(
                Problem::new("query.id_in_use", ExitCode::Conflict, message).hint("choose another id")
            );
        }
        let query = Running {
            sql: sql.to_owned(),
            started_us,
            principal: principal.to_owned(),
            rows: rows.clone(),
            cancel: cancel.clone(),
        };
        running.insert(id.clone(), query);
        drop(running);
        Ok(Ticket { serving: self.clone(), id, cancel, started_us, rows })
    }

    /// Answers one statement over the tables of `catalog`. `done` is completed and sent last.
    ///
    /// # Errors
    /// Whatever is wrong with the statement, its data, or who asked.
    pub async fn answer(
        &self,
        query: EngineQuery,
        catalog: Arc<dyn Catalog>,
        ticket: &Ticket,
        answer: &AnswerSender,
        mut done: v1::QueryDone,
    ) -> Result<(), Problem> {
        let deadline_ms = query.limits.deadline_ms;
        let stream = self.inner.engine.run(query, catalog.clone(), ticket.cancel.clone()).await?;
        done.scans.extend(catalog.scans());
        for of_a_table in catalog.coverage() {
            coverage::add(done.coverage.get_or_insert_default(), of_a_table);
        }
        self.forward(stream, deadline_ms, ticket, answer, done).await
    }

    /// What the engine is asked, within the limits of the configuration.
    ///
    /// # Errors
    /// `query.format` (2).
    pub fn engine_query(&self, request: &v1::QueryRequest) -> Result<EngineQuery, Problem> {
        let asked = request.limits.unwrap_or_default();
        let deadline = self.inner.limits.deadline(asked.deadline_ms);
        Ok(EngineQuery {
            sql: request.sql.clone(),
            format: format_of(&request.format)?,
            limits: Limits {
                rows: asked.rows,
                bytes: asked.bytes,
                deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
                memory_bytes: self.inner.limits.memory_bytes,
            },
            scratch: Utf8PathBuf::new(),
        })
    }

    async fn forward(
        &self,
        mut stream: QueryStream,
        deadline_ms: u64,
        ticket: &Ticket,
        answer: &AnswerSender,
        done: v1::QueryDone,
    ) -> Result<(), Problem> {
        let stall = Duration::from_millis(deadline_ms);
        while let Some(event) = stream.next().await {
            match event? {
                QueryEvent::Columns(columns) => {
                    let columns =
                        columns.into_iter().map(|c| v1::Column { name: c.name, r#type: c.type_name });
                    let started = v1::QueryStarted { id: ticket.id.clone(), columns: columns.collect() };
                    send(answer, query_event::Kind::Started(started)).await?;
                }
                // A client that stops reading must not hold the engine and its pins for longer than its query may take.
                QueryEvent::Data(bytes) => tokio::select! {
                    sent = send(answer, query_event::Kind::Data(bytes)) => sent?,
                    () = ticket.cancel.requested() => return Err(problem::cancelled()),
                    () = tokio::time::sleep(stall) => return Err(problem::deadline(deadline_ms)),
                },
                QueryEvent::End(end) => {
                    self.note(&end, ticket);
                    let elapsed_us = self.inner.clock.unix_us() - ticket.started_us;
                    let done = v1::QueryDone {
                        rows: end.rows,
                        truncated: done.truncated || end.truncated,
                        truncated_by: end.truncated_by.unwrap_or(done.truncated_by),
                        elapsed_ms: u64::try_from(elapsed_us / 1000).unwrap_or(0),
                        as_of_us: done.as_of_us,
                        coverage: done.coverage,
                        scans: done.scans,
                    };
                    return send(answer, query_event::Kind::Done(done)).await;
                }
            }
        }
        Err(problem::protocol("no end"))
    }

    fn note(&self, end: &QueryEnd, ticket: &Ticket) {
        ticket.rows.store(end.rows, Ordering::Relaxed);
        self.inner
            .sandbox_missing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&end.sandbox_missing);
        for damaged in &end.damaged {
            tracing::warn!(query = ticket.id, %damaged, "a query passed over a damaged frame");
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a part; a client that is gone is a cancel.
pub async fn send(answer: &AnswerSender, kind: query_event::Kind) -> Result<(), Problem> {
    let event = v1::QueryEvent { kind: Some(kind) };
    answer.send(Ok(event)).await.map_err(|_gone| problem::cancelled())
}

/// The format of a request by its name.
pub fn format_of(name: &str) -> Result<Format, Problem> {
    Ok(match name {
        "" | "rows" => Format::Rows,
        "json" => Format::Json,
        "ndjson" => Format::Ndjson,
        "csv" => Format::Csv,
        "parquet" => Format::Parquet,
        "arrow" => Format::Arrow,
        other => {
            let message = format!("there is no format `{other}`");
            return Err(Problem::new("query.format", ExitCode::Usage, message)
                .hint("use rows, json, ndjson, csv, parquet or arrow"));
        }
    })
}
