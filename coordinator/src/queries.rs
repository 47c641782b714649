//! Running queries: the registry, waiting for what was acknowledged, and the answer as it streams.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_proto::v1::{self, query_event};
use aap_runtime::{Clock, Shutdown, Supervisor, TaskKind};
use aap_sql::{Catalog, Engine, EngineQuery, Format, Limits, QueryEnd, QueryEvent, QueryStream};
use aap_types::{ExitCode, Problem};
use camino::Utf8PathBuf;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::catalog::LakeAndLanding;
use crate::config::QueryConfig;
use crate::freshness::wait_for_ingest;
use crate::landing::Landing;
use crate::node_query;
use crate::nodes::Nodes;

/// Parts of an answer between engine and network: a slow client holds the engine back after these.
const PARTS: usize = 4;

/// How long a query whose client has gone may take to stop.
const CANCEL_DEADLINE: Duration = Duration::from_secs(5);

/// What an answer consists of, on its way to the client.
pub type Answer = mpsc::Receiver<Result<v1::QueryEvent, Problem>>;
pub(crate) type AnswerSender = mpsc::Sender<Result<v1::QueryEvent, Problem>>;

/// Runs queries. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queries {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) engine: Engine,
    pub(crate) tables: Arc<LakeAndLanding>,
    pub(crate) nodes: Nodes,
    pub(crate) landing: Landing,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: QueryConfig,
    pub(crate) scratch: Utf8PathBuf,
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

/// What queries stand on.
#[derive(Debug)]
pub struct QueriesDependencies {
    /// Runs SQL.
    pub engine: Engine,
    /// The coordinator's own data.
    pub tables: Arc<LakeAndLanding>,
    /// Who may be asked.
    pub nodes: Nodes,
    /// Where acknowledged data stands.
    pub landing: Landing,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where answers of nodes are put while they are merged.
    pub scratch: Utf8PathBuf,
    /// Owns the tasks.
    pub tasks: Supervisor,
}

/// A query under way: who it is for, and how it is stopped.
#[derive(Debug)]
pub(crate) struct Ticket {
    queries: Queries,
    pub(crate) id: String,
    pub(crate) cancel: Shutdown,
    pub(crate) started_us: i64,
    rows: Arc<AtomicU64>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queries.running().remove(&self.id);
    }
}

impl Queries {
    /// With nothing running.
    pub fn new(dependencies: QueriesDependencies, config: QueryConfig) -> Self {
        let QueriesDependencies { engine, tables, nodes, landing, clock, scratch, tasks } = dependencies;
        let (running, next, sandbox_missing) = Default::default();
        let inner = Inner {
            engine,
            tables,
            nodes,
            landing,
            clock,
            config,
            scratch,
            tasks,
            running,
            next,
            sandbox_missing,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Starts a query for `principal`. Dropping the answer stops it.
    pub fn run(&self, request: v1::QueryRequest, principal: &str) -> Result<Answer, Problem> {
        let ticket = self.register(&request.id, &request.sql, principal)?;
        Ok(self.spawn(ticket, move |queries, ticket, answer| async move {
            queries.answer(request, &ticket, &answer).await
        }))
    }

    /// Runs `work`, whose failure ends the answer, until it ends or nobody takes the answer any more.
    pub(crate) fn spawn<F>(
        &self,
        ticket: Ticket,
        work: impl FnOnce(Self, Arc<Ticket>, AnswerSender) -> F,
    ) -> Answer
    where
        F: Future<Output = Result<(), Problem>> + Send + 'static,
    {
        let (answer, parts) = mpsc::channel(PARTS);
        let cancel = ticket.cancel.clone();
        let ticket = Arc::new(ticket);
        let (work, stopping) =
            (work(self.clone(), ticket.clone(), answer.clone()), self.inner.tasks.shutdown());
        self.inner.tasks.spawn(TaskKind::optional("query"), async move {
            let mut work = pin!(work);
            tokio::select! {
                done = &mut work => {
                    if let Err(problem) = done {
                        let problem = aap_sql::problem::unless_stopping(problem, &stopping);
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

    /// Layers of the sandbox that the last query found missing here.
    pub fn sandbox_missing(&self) -> Vec<String> {
        self.inner.sandbox_missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn register(&self, id: &str, sql: &str, principal: &str) -> Result<Ticket, Problem> {
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
        Ok(Ticket { queries: self.clone(), id, cancel, started_us, rows })
    }

    async fn answer(
        &self,
        request: v1::QueryRequest,
        ticket: &Ticket,
        answer: &AnswerSender,
    ) -> Result<(), Problem> {
        let query = self.engine_query(&request)?;
        let mut coverage = v1::Coverage::default();
        if request.wait_for_ingest {
            tokio::select! {
                found = wait_for_ingest(&self.inner.nodes, &self.inner.landing) => coverage = found,
                () = ticket.cancel.requested() => return Err(aap_sql::problem::cancelled()),
            }
        }
        if request.all_nodes || !request.nodes.is_empty() {
            return node_query::answer(self, request, query, ticket, answer).await;
        }
        let as_of_us = self.inner.clock.unix_us();
        let tables: Arc<dyn Catalog> = self.inner.tables.clone();
        let deadline_ms = query.limits.deadline_ms;
        let stream = self.inner.engine.run(query, tables, ticket.cancel.clone()).await?;
        let done = v1::QueryDone { as_of_us, coverage: Some(coverage), ..Default::default() };
        self.forward(stream, deadline_ms, ticket, answer, done).await
    }

    /// What the engine is asked, within the limits of the configuration.
    pub(crate) fn engine_query(&self, request: &v1::QueryRequest) -> Result<EngineQuery, Problem> {
        let asked = request.limits.unwrap_or_default();
        let deadline = self.inner.config.deadline(asked.deadline_ms);
        Ok(EngineQuery {
            sql: request.sql.clone(),
            format: format_of(&request.format)?,
            limits: Limits {
                rows: asked.rows,
                bytes: asked.bytes,
                deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
                memory_bytes: self.inner.config.memory.0,
            },
            scratch: Utf8PathBuf::new(),
        })
    }

    /// Passes the engine's answer on. `done` is completed and sent last.
    pub(crate) async fn forward(
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
                    () = ticket.cancel.requested() => return Err(aap_sql::problem::cancelled()),
                    () = tokio::time::sleep(stall) => return Err(aap_sql::problem::deadline(deadline_ms)),
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
                    };
                    return send(answer, query_event::Kind::Done(done)).await;
                }
            }
        }
        Err(aap_sql::problem::protocol("no end"))
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
pub(crate) async fn send(answer: &AnswerSender, kind: query_event::Kind) -> Result<(), Problem> {
    let event = v1::QueryEvent { kind: Some(kind) };
    answer.send(Ok(event)).await.map_err(|_gone| aap_sql::problem::cancelled())
}

/// The format of a request by its name.
pub(crate) fn format_of(name: &str) -> Result<Format, Problem> {
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
