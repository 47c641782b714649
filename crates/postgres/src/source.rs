//! A table as a source: its new rows, in the order of a column that only grows.
//!
//! Transactions do not become visible in the order in which they took their numbers, so what is above the last row that was read
//! is not all that will ever be there. A *mark* is made at each look: the greatest value there was, and the transactions that had
//! begun. Rows up to a mark are read once every one of these has ended, and [`SETTLE`] has passed for those that had a number and
//! no transaction yet. Nothing below a mark appears after that.
//!
//! ```text
//!  look ──► mark { max(cursor), snapshot xmax, when }          a mark is settled: snapshot xmin ≥ its xmax, and SETTLE has passed
//!  page ──► WHERE cursor > last AND cursor <= settled mark ORDER BY cursor FETCH FIRST n ROWS WITH TIES
//! ```
//! <https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT>

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use aap_runtime::{Clock, SecretRef, SystemClock};
use aap_types::{ExitCode, Problem, StreamName};
use arrow_array::RecordBatch;
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::connection::{Access, Error, ServerUrl, Session};
use crate::copy::Held;
use crate::names::{TableName, literal, quoted};
use crate::remote::column::{Decoder, Fetched};
use crate::table::{Column, Table};

/// How long somebody may hold a number of a sequence without having begun to write: the time of one statement's evaluation.
const SETTLE: Duration = Duration::from_secs(2);
/// Rows of a page.
const PAGE_ROWS: usize = 8192;
/// How often a table is looked at where nothing is said, in seconds.
const EVERY_DEFAULT_S: u64 = 5;
/// Marks that wait to be settled: more say that a transaction has been open for long, and the oldest ones do.
const MARKS_MAX: usize = 1_000;

/// What an operator says about a table that is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSourceSpec {
    /// `postgres://user@host:port/database?sslmode=…&sslrootcert=…`. A password is refused here.
    pub url: ServerUrl,
    /// Where the password stands. Default: none, for servers that ask for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// `table` or `schema.table`.
    pub table: String,
    /// A column that is never null and greater in every row that is added: a sequence, or the time of writing.
    pub cursor: String,
    /// The column that is the row's `ts`. Default: a column `ts`, else the cursor if it is a time, else when the row was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Where rows go. Default: the stream of the table's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamName>,
    /// Seconds between looks. Default: 5.
    #[serde(default = "every")]
    pub every_seconds: u64,
}

fn every() -> u64 {
    EVERY_DEFAULT_S
}

impl PostgresSourceSpec {
    /// Whether it makes sense, as far as that can be told without the server.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), String> {
        TableName::fixed(&self.table).map_err(|error| format!("`table`: {error}"))?;
        if self.every_seconds == 0 {
            return Err("`every_seconds` must be 1 at least".to_owned());
        }
        self.stream().map(drop)
    }

    /// Where rows go.
    ///
    /// # Errors
    /// If the table's name is none of a stream, and no other is given.
    pub fn stream(&self) -> Result<StreamName, String> {
        let table = self.table.rsplit_once('.').map_or(self.table.as_str(), |(_, table)| table);
        match &self.stream {
            Some(stream) => Ok(stream.clone()),
            None => table.parse().map_err(|_| {
                format!("table `{table}` cannot be the name of a stream: say which with `stream: NAME`")
            }),
        }
    }
}

/// Rows that were read, and the value of the cursor that they end with.
pub struct Page {
    /// The rows, with `ts` first.
    pub batches: Vec<RecordBatch>,
    /// Where the next page begins, as text of the cursor's type.
    pub last: String,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("last", &self.last).finish_non_exhaustive()
    }
}

/// What was known at a look.
#[derive(Debug, Clone)]
struct Mark {
    greatest: String,
    /// The first transaction that had not begun.
    xmax: i64,
    at: Duration,
}

/// Reads a table page by page. After an error it connects anew.
#[derive(Debug)]
pub struct TableReader {
    spec: PostgresSourceSpec,
    access: Access,
    clock: SystemClock,
    marks: VecDeque<Mark>,
    /// Up to here nothing new appears.
    settled: Option<String>,
    last: Option<String>,
    session: Option<Session>,
}

impl TableReader {
    /// Behind `last`, or from the first row.
    pub fn new(spec: PostgresSourceSpec, last: Option<String>) -> Self {
        let access = Access { url: spec.url.clone(), password: spec.password.clone() };
        let (clock, marks, settled, session) = Default::default();
        Self { spec, access, clock, marks, settled, last, session }
    }

    /// The next rows, or none where nothing new is certain. Dropping the future loses nothing: `last` moves by [`Self::taken`].
    ///
    /// # Errors
    /// `source.unreachable`, `source.denied`, `source.table`.
    pub async fn next(&mut self, now_us: i64) -> Result<Option<Page>, Problem> {
        let session = match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => self.access.connect().await.map_err(|error| self.problem(&error))?,
        };
        let page = self.read(&session, now_us).await?;
        self.session = Some(session);
        Ok(page)
    }

    /// The page has landed.
    pub fn taken(&mut self, page: &Page) {
        self.last = Some(page.last.clone());
    }

    async fn read(&mut self, session: &Session, now_us: i64) -> Result<Option<Page>, Problem> {
        session.begin_long_read().await.map_err(|error| self.problem(&error))?;
        let table = self.table(session).await?;
        let cursor = self.column(&table, "cursor", &self.spec.cursor)?.clone();
        if !matches!(cursor.held, Held::Int(_) | Held::Timestamp(_) | Held::Date) {
            let message =
                format!("`cursor: {}` is {}, which does not only grow", cursor.name, cursor.declared);
            return Err(shape(message, "take a column of integers or times"));
        }
        self.look(session, &table, &cursor).await.map_err(|error| self.problem(&error))?;
        let page = match &self.settled {
            Some(settled) if self.last.as_ref() != Some(settled) => {
                self.page(session, &table, &cursor, settled, now_us).await?
            }
            _ => None,
        };
        session.rollback().await.map_err(|error| self.problem(&error))?;
        Ok(page)
    }

    async fn table(&self, session: &Session) -> Result<Table, Problem> {
        let name = TableName::fixed(&self.spec.table).map_err(|error| {
            shape(format!("`table: {}` is none", self.spec.table), "write table or schema.table")
                .caused_by(&error)
        })?;
        let found = Table::read(session, &name).await.map_err(|error| self.problem(&error))?;
        found.ok_or_else(|| shape(format!("there is no table {name}"), "make it, or correct `table`"))
    }

    fn column<'a>(&self, table: &'a Table, field: &str, name: &str) -> Result<&'a Column, Problem> {
        table.column(name).ok_or_else(|| {
            let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
            shape(
                format!("`{field}: {name}` is no column of {}", table.name),
                &format!("it has {}", names.join(", ")),
            )
        })
    }

    /// Makes a mark, and settles those that can be.
    async fn look(&mut self, session: &Session, table: &Table, cursor: &Column) -> Result<(), Error> {
        let sql = format!(
            "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint, \
             (SELECT max({})::text FROM {}) FROM pg_current_snapshot() s",
            quoted(&cursor.name),
            table.name
        );
        let rows = session.query("look at the table", &sql, &[]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (xmin, xmax, greatest): (i64, i64, Option<String>) = (row.get(0), row.get(1), row.get(2));
        let now = self.clock.monotonic();
        while let Some(mark) = self.marks.front() {
            if mark.xmax > xmin || now < mark.at + SETTLE {
                break;
            }
            self.settled = self.marks.pop_front().map(|mark| mark.greatest);
        }
        let is_new = |greatest: &String| self.marks.back().is_none_or(|mark| mark.greatest != *greatest);
        if let Some(greatest) = greatest.filter(is_new)
            && self.marks.len() < MARKS_MAX
            && self.settled.as_ref() != Some(&greatest)
        {
            self.marks.push_back(Mark { greatest, xmax, at: now });
        }
        Ok(())
    }

    async fn page(
        &self,
        session: &Session,
        table: &Table,
        cursor: &Column,
        settled: &str,
        now_us: i64,
    ) -> Result<Option<Page>, Problem> {
        let (order, kind) = (quoted(&cursor.name), &cursor.declared);
        let columns = self.columns(table, cursor, now_us)?;
        let list: Vec<&str> = columns.iter().map(|column| column.sql.as_str()).collect();
        let after = match &self.last {
            Some(last) => format!("{order} > {}::{kind} AND ", literal(last)),
            None => String::new(),
        };
        let within = format!(
            "FROM {} WHERE {after}{order} <= {}::{kind} ORDER BY {order} FETCH FIRST {PAGE_ROWS} ROWS WITH TIES",
            table.name,
            literal(settled)
        );
        let sql = format!("SELECT max({order})::text FROM (SELECT {order} {within}) p");
        let rows =
            session.query("find the next rows", &sql, &[]).await.map_err(|error| self.problem(&error))?;
        let Some(last) = rows.first().and_then(|row| row.get::<_, Option<String>>(0)) else {
            return Ok(None);
        };
        let select = format!("SELECT {} {within}", list.join(", "));
        let parts = session.copy_out(&select).await.map_err(|error| self.problem(&error))?;
        let mut parts = std::pin::pin!(parts);
        let (mut decoder, mut batches) = (Decoder::new(&columns), vec![]);
        let mut keep = |batch| {
            batches.push(batch);
            Ok(())
        };
        while let Some(part) = parts.next().await {
            decoder.take(&part.map_err(|error| self.problem(&error))?, &mut keep)?;
        }
        decoder.finish(&mut keep)?;
        Ok(Some(Page { batches, last }))
    }

    /// `ts`, then every column of the table.
    fn columns(&self, table: &Table, cursor: &Column, now_us: i64) -> Result<Vec<Fetched>, Problem> {
        let is_time = |column: &&Column| matches!(column.held, Held::Timestamp(_) | Held::Date);
        let time = match &self.spec.time {
            Some(name) => Some(self.column(table, "time", name)?),
            None => table.column("ts").filter(is_time).or_else(|| Some(cursor).filter(is_time)),
        };
        if let Some(column) = time.filter(|column| !is_time(column)) {
            return Err(shape(
                format!("`time: {}` is {}, which is no time", column.name, column.declared),
                "take a column of times, or none",
            ));
        }
        let ts = match time {
            Some(column) => Fetched::time(&format!("{}::timestamptz", quoted(&column.name))),
            None => Fetched::time(&format!("to_timestamp({now_us}::float8 / 1000000)")),
        };
        let others = table.columns.iter().filter(|column| !column.name.eq_ignore_ascii_case("ts"));
        Ok(std::iter::once(ts).chain(others.map(|column| Fetched::of(column, &column.name))).collect())
    }

    fn problem(&self, error: &Error) -> Problem {
        use crate::connection::Trouble as T;
        let (code, exit, message) = match error.trouble() {
            T::Away => ("source.unreachable", ExitCode::Unavailable, "does not answer"),
            T::Denied | T::Tls | T::Setting | T::NoDatabase => {
                ("source.denied", ExitCode::Denied, "does not let us read")
            }
            T::ReadOnly | T::Data | T::Statement => {
                ("source.failed", ExitCode::Failed, "refuses what it was asked")
            }
        };
        Problem::new(code, exit, format!("PostgreSQL at {} {message}", self.spec.url)).caused_by(error)
    }
}

fn shape(message: String, remedy: &str) -> Problem {
    Problem::new("source.table", ExitCode::Conflict, message).hint(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(more: &str, expected: &str) {
        let text = format!("url: postgres://me@db/x\n{more}");
        let found = match serde_norway::from_str::<PostgresSourceSpec>(&text) {
            Ok(spec) => spec.check().err().unwrap_or_else(|| "fine".to_owned()),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{more}: {found}");
    }

    #[test]
    fn what_cannot_work_is_told_before_a_connection_is_made() {
        check("table: public.orders\ncursor: id", "fine");
        check("table: Orders\ncursor: id", "`stream: NAME`");
        check("table: a.b.c\ncursor: id", "names no table");
        check("table: orders\ncursor: id\nevery_seconds: 0", "`every_seconds`");
        check("table: orders", "missing field `cursor`");
    }
}
