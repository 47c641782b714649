//! Queries of operators: over lake and landing, over nodes, and waiting for what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aap_federation::Budget;
use aap_proto::v1;
use aap_runtime::Clock;
use aap_spark::SparkSpec;
use aap_sql::serving::{Answer, AnswerSender, Ticket};
use aap_sql::{Catalog, Serving, TailTables};
use aap_types::Problem;
use camino::Utf8PathBuf;

use crate::access::{Scope, Scoped};
use crate::asking::Asking;
use crate::catalog::LakeAndLanding;
use crate::catalogs::Catalogs;
use crate::federation::Federated;
use crate::freshness::wait_for_ingest;
use crate::landing::Landing;
use crate::node_query;
use crate::node_tables::NodeTables;
use crate::reach::Reach;
use crate::spark::{self, EngineName};

/// Folders made for fetched rows so far, so that each is new.
static FOLDERS: AtomicU64 = AtomicU64::new(0);

/// How long a query waits, in a cluster, for what has landed elsewhere; then its answer says that it lacks it.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Runs queries. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queries {
    pub(crate) inner: Arc<Inner>,
}

/// What queries stand on.
#[derive(Debug)]
pub struct Inner {
    /// Which run, and how they are answered.
    pub serving: Serving,
    /// The coordinator's own data.
    pub tables: Arc<LakeAndLanding>,
    /// Who may be asked.
    pub reach: Reach,
    /// Where acknowledged data stands.
    pub landing: Landing,
    /// Where answers of nodes are put while they are merged.
    pub scratch: Utf8PathBuf,
    /// Most bytes that all nodes together may answer to one query.
    pub node_answers_bytes: u64,
    /// Other systems whose tables can be named.
    pub catalogs: Catalogs,
    /// Most bytes that one query may fetch from them.
    pub fetched_bytes: u64,
    /// The cluster that answers queries for the engine `spark`.
    pub spark: Option<SparkSpec>,
}

impl Queries {
    /// Over these.
    pub fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Starts a query for `principal`. Dropping the answer stops it.
    pub(crate) fn run(
        &self,
        request: v1::QueryRequest,
        principal: &str,
        scope: Scope,
    ) -> Result<Answer, Problem> {
        let serving = &self.inner.serving;
        let ticket = serving.register(&request.id, &request.sql, principal)?;
        let queries = self.clone();
        Ok(serving.spawn(ticket, move |ticket, answer| async move {
            queries.answer(request, scope, &ticket, &answer).await
        }))
    }

    /// Starts a tail for `principal`. Dropping the answer stops it.
    pub(crate) fn tail(
        &self,
        request: &v1::TailStreamRequest,
        principal: &str,
        scope: Scope,
    ) -> Result<Answer, Problem> {
        let tables = Arc::new(self.scoped(scope));
        let source = TailTables { tables, buffer: self.inner.landing.buffer().clone() };
        aap_sql::tail(&self.inner.serving, source, request, principal)
    }

    /// The coordinator's own tables, as somebody sees them.
    pub(crate) fn scoped(&self, scope: Scope) -> Scoped {
        Scoped { tables: self.inner.tables.clone(), scope }
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.inner.serving.clock()
    }

    /// The name of a folder for fetched rows, which nobody has made yet.
    pub(crate) fn new_folder(&self) -> Utf8PathBuf {
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        self.inner.scratch.join(format!("n-{}-f{number}", std::process::id()))
    }

    async fn answer(
        &self,
        request: v1::QueryRequest,
        scope: Scope,
        ticket: &Ticket,
        answer: &AnswerSender,
    ) -> Result<(), Problem> {
        let query = self.inner.serving.engine_query(&request)?;
        let engine = EngineName::of(&request)?;
        let mut coverage = v1::Coverage::default();
        if request.wait_for_ingest {
            tokio::select! {
                found = wait_for_ingest(&self.inner.reach, &self.inner.landing) => coverage = found,
                () = ticket.cancel.requested() => return Err(aap_sql::problem::cancelled()),
            }
        }
        if let Some(shards) = self.inner.landing.shards() {
            tokio::select! {
                caught_up = shards.view().catch_up(CATCH_UP) => if !caught_up {
                    coverage.failed.push("landing".to_owned());
                    coverage.reasons.push(format!(
                        "what landed last is not in this coordinator's view after {} s", CATCH_UP.as_secs()
                    ));
                },
                () = ticket.cancel.requested() => return Err(aap_sql::problem::cancelled()),
            }
        }
        if engine == EngineName::Spark {
            return spark::answer(self, query, scope, (ticket, answer), coverage).await;
        }
        if request.all_nodes || !request.nodes.is_empty() {
            return node_query::answer(self, (request, query), scope, ticket, answer).await;
        }
        let as_of_us = self.clock().unix_us();
        let deadline = Duration::from_millis(query.limits.deadline_ms);
        let (folder, budget) = (self.new_folder(), Budget::new(self.inner.fetched_bytes));
        let asking = Asking::new(self.inner.reach.clone(), &ticket.id, folder.clone(), budget.clone());
        let tables: Arc<dyn Catalog> = Arc::new(Federated::new(
            self.scoped(scope.clone()),
            (self.inner.catalogs.clone(), NodeTables::new(asking, scope, deadline)),
            (folder, budget),
            (deadline, ticket.cancel.clone()),
        ));
        let done = v1::QueryDone { as_of_us, coverage: Some(coverage), ..Default::default() };
        self.inner.serving.answer(query, tables, ticket, answer, done).await
    }
}
