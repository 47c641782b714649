//! Tables of a cluster as tables of a query.
//!
//! Cassandra finds rows by their partition key, and within a partition by the beginning of the clustering key. Conditions on
//! these are pushed; every other one would make each node read all it has, so the rows come and the engine applies it.
//!
//! | file | owns |
//! |---|---|
//! | `statement.rs` | the statement of a scan |
//! | `column.rs` | values as Arrow |

mod column;
mod statement;

use aap_federation::{Remote, Report, Scan, Spool, problem};
use aap_runtime::SecretRef;
use aap_sinks::{Failure, FailureKind, TemplateError};
use aap_types::{ExitCode, Problem};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use scylla::value::Row;
use serde::{Deserialize, Serialize};

use crate::fail::{CassandraError, Trouble};
use crate::session::Connected;
use crate::spec::{CassandraSpec, Consistency, Tls};
use crate::table::Table;
use column::Values;
use statement::Statement;

/// What this kind of system is called.
const KIND: &str = "cassandra";

/// Which cluster, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CassandraTablesSpec {
    /// Some nodes of the cluster, each `host:port`. The others are found through them.
    pub nodes: Vec<String>,
    /// How many copies must answer a read. Default: `local_quorum`.
    #[serde(default)]
    pub consistency: Consistency,
    /// The datacenter whose nodes are asked first. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// Who we are. Default: nobody, for clusters that ask for no password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the password stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Encrypts. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl CassandraTablesSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.password.iter().cloned().collect()
    }

    /// Whether it makes sense, as far as that can be told without the cluster.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), String> {
        self.access("system").and_then(|spec| spec.check())
    }

    /// The same access as a sink has it; the table is never used.
    fn access(&self, keyspace: &str) -> Result<CassandraSpec, String> {
        let table = "t".parse().map_err(|error: TemplateError| error.to_string())?;
        let mut spec = CassandraSpec::access(self.nodes.clone(), keyspace.to_owned(), table);
        spec.consistency = self.consistency;
        spec.datacenter.clone_from(&self.datacenter);
        spec.username.clone_from(&self.username);
        spec.password.clone_from(&self.password);
        spec.tls.clone_from(&self.tls);
        Ok(spec)
    }
}

/// The tables of a cluster. Each scan has a session of its own.
#[derive(Debug)]
pub struct CassandraTables {
    spec: CassandraTablesSpec,
}

impl CassandraTables {
    /// Connects when it is asked.
    pub fn new(spec: CassandraTablesSpec) -> Self {
        Self { spec }
    }

    async fn fetch(&self, scan: &Scan, spool: &mut Spool) -> Result<Report, Problem> {
        let [keyspace, name] = scan.table.as_slice() else {
            let message = format!("`{}` names no table of Cassandra", scan.table_name());
            return Err(Problem::new("query.remote_table", ExitCode::Usage, message)
                .hint("write it as CATALOG.keyspace.table"));
        };
        let unusable = |why: String| Problem::new("query.remote_table", ExitCode::Usage, why);
        let spec = self.spec.access(keyspace).map_err(unusable)?;
        let connected = Connected::to(&spec).await.map_err(|failure| self.failed(&failure))?;
        let table =
            Table::read(&connected, keyspace, name).await.map_err(|error| self.problem("", &error))?;
        let Some(table) = table else { return Err(self.no_table(&connected, scan).await) };
        let statement = Statement::of(scan, (keyspace, name), &table);
        let cql = &statement.report.statement;
        let mut values = Values::new(&statement.columns);
        spool.begin(values.schema())?;
        let read = |error: CassandraError| self.problem(cql, &error);
        let mut rows = connected.pages::<Row>(cql).await.map_err(read)?;
        while let Some(row) = rows.try_next().await.map_err(read)? {
            if let Some(batch) = values.push(row)? {
                spool.write(&batch)?;
            }
        }
        if let Some(batch) = values.finish()? {
            spool.write(&batch)?;
        }
        Ok(statement.report)
    }

    fn problem(&self, statement: &str, error: &CassandraError) -> Problem {
        match error.trouble() {
            Trouble::Away => problem::unreachable(KIND, &self.place(), error),
            Trouble::Denied => problem::denied(KIND, &self.place(), error),
            Trouble::Oversized | Trouble::Statement => {
                problem::refused(KIND, &self.place(), statement, error)
            }
        }
    }

    fn failed(&self, failure: &Failure) -> Problem {
        let problem = match failure.kind {
            FailureKind::Refused => problem::denied(KIND, &self.place(), failure),
            _ => problem::unreachable(KIND, &self.place(), failure),
        };
        failure.problem.causes.iter().fold(problem, |problem, cause| problem.cause(cause.clone()))
    }

    async fn no_table(&self, connected: &Connected, scan: &Scan) -> Problem {
        let cql = "SELECT keyspace_name, table_name FROM system_schema.tables";
        match connected.rows::<(String, String)>(cql, ()).await {
            Ok(rows) => {
                let names = rows.into_iter().filter(|(keyspace, _)| !keyspace.starts_with("system"));
                let mut names: Vec<String> =
                    names.map(|(keyspace, table)| format!("{keyspace}.{table}")).collect();
                names.sort();
                problem::no_table(KIND, &self.place(), &scan.table_name(), &names)
            }
            Err(error) => self.problem("", &error),
        }
    }
}

impl Remote for CassandraTables {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn place(&self) -> String {
        self.spec.nodes.join(",")
    }

    fn scan<'a>(&'a self, scan: &'a Scan, spool: &'a mut Spool) -> BoxFuture<'a, Result<Report, Problem>> {
        Box::pin(self.fetch(scan, spool))
    }
}
