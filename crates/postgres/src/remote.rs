//! Tables of a server as tables of a query: what of a scan the server can do itself, and its answer as Arrow.
//!
//! ```text
//!  Scan ──► BEGIN READ ONLY
//!           columns of the table                                            none: the near names
//!           COPY (SELECT columns FROM table WHERE … LIMIT …) TO STDOUT (FORMAT binary)
//!           rows ──► Arrow ──► Spool
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `condition.rs` | which conditions mean the same there, as SQL |
//! | `column.rs` | types on the wire as Arrow |
//! | `statement.rs` | the statement of a scan |

pub(crate) mod column;
mod condition;
mod statement;

use aap_federation::{Remote, Report, Scan, Spool, problem};
use aap_runtime::SecretRef;
use aap_types::Problem;
use futures::StreamExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::Type;

use crate::connection::{Access, Error, ServerUrl, Session, Trouble};
use crate::names::{NameError, TableName};
use crate::table::Table;
use column::Decoder;
use statement::Statement;

/// What this kind of system is called.
const KIND: &str = "postgres";
/// Most names that are looked at for a near one.
const NAMES_MAX: i64 = 1_000;

/// Which server, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresTablesSpec {
    /// `postgres://user@host:port/database?sslmode=…&sslrootcert=…`. A password is refused here.
    pub url: ServerUrl,
    /// Where the password stands. Default: none, for servers that ask for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
}

/// The tables of a server. Each scan has a connection and a read-only transaction of its own.
#[derive(Debug)]
pub struct PostgresTables {
    access: Access,
}

impl PostgresTablesSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.password.iter().cloned().collect()
    }
}

impl PostgresTables {
    /// Connects when it is asked.
    pub fn new(spec: PostgresTablesSpec) -> Self {
        Self { access: Access { url: spec.url, password: spec.password } }
    }

    async fn fetch(&self, scan: &Scan, spool: &mut Spool) -> Result<Report, Problem> {
        let name = table_name(&scan.table).map_err(|error| self.refused("", &error))?;
        let session = self.access.connect().await.map_err(|error| self.problem("", &error))?;
        session.begin_long_read().await.map_err(|error| self.problem("", &error))?;
        let table = Table::read(&session, &name).await.map_err(|error| self.problem("", &error))?;
        let Some(table) = table else { return Err(self.no_table(&session, &scan.table_name()).await) };
        let statement = Statement::of(scan, &table);
        let sql = &statement.report.statement;
        spool.begin(&statement.schema())?;
        let mut decoder = Decoder::new(&statement.columns);
        let parts = session.copy_out(sql).await.map_err(|error| self.problem(sql, &error))?;
        let mut parts = std::pin::pin!(parts);
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| self.problem(sql, &error))?;
            decoder.take(&part, |batch| spool.write(&batch))?;
        }
        decoder.finish(|batch| spool.write(&batch))?;
        session.rollback().await.map_err(|error| self.problem(sql, &error))?;
        Ok(statement.report)
    }

    fn problem(&self, statement: &str, error: &Error) -> Problem {
        match error.trouble() {
            Trouble::Away => problem::unreachable(KIND, &self.place(), error),
            Trouble::Denied | Trouble::Tls | Trouble::Setting | Trouble::NoDatabase => {
                problem::denied(KIND, &self.place(), error)
            }
            Trouble::ReadOnly | Trouble::Data | Trouble::Statement => self.refused(statement, error),
        }
    }

    fn refused(&self, statement: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
        problem::refused(KIND, &self.place(), statement, error)
    }

    async fn no_table(&self, session: &Session, wanted: &str) -> Problem {
        let sql = "SELECT n.nspname::text || '.' || c.relname::text FROM pg_catalog.pg_class c \
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r','p','v','m','f') \
                   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1 LIMIT $1";
        match session.query("list the tables", sql, &[(&NAMES_MAX, Type::INT8)]).await {
            Ok(rows) => {
                let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                problem::no_table(KIND, &self.place(), wanted, &names)
            }
            Err(error) => self.problem("", &error),
        }
    }
}

/// `table` or `schema.table`; unquoted SQL is lower case there, and so is what was written here without quotes.
fn table_name(parts: &[String]) -> Result<TableName, NameError> {
    match parts {
        [table] => Ok(TableName { schema: None, table: table.clone() }),
        [schema, table] => Ok(TableName { schema: Some(schema.clone()), table: table.clone() }),
        _ => Err(NameError::Parts(parts.join("."))),
    }
}

impl Remote for PostgresTables {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn place(&self) -> String {
        self.access.url.to_string()
    }

    fn scan<'a>(&'a self, scan: &'a Scan, spool: &'a mut Spool) -> BoxFuture<'a, Result<Report, Problem>> {
        Box::pin(self.fetch(scan, spool))
    }
}
