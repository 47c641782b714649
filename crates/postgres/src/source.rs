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
//!
//! | file | owns |
//! |---|---|
//! | `spec.rs` | what an operator says about a server that is read: a table, or the changes of several |

mod spec;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use aap_runtime::{Clock, SystemClock};
use aap_types::{ExitCode, Problem};
use arrow_array::RecordBatch;
use futures::StreamExt;

use crate::connection::{Error, Session};
use crate::copy::Held;
use crate::names::{literal, quoted};
use crate::remote::column::{Decoder, Fetched};
use crate::table::{Column, Table};
pub use spec::{ChangesSource, PostgresSource, PostgresSourceSpec, Publish, TableSource};

/// How long somebody may hold a number of a sequence without having begun to write: the time of one statement's evaluation.
const SETTLE: Duration = Duration::from_secs(2);
/// Rows of a page.
const PAGE_ROWS: usize = 8192;
/// Places of a second that a cursor must have.
const MICROSECONDS: u32 = 6;
/// Bytes of a page in memory: what the buffer takes as one group, with room. A page of more is read again with half its rows.
const PAGE_BYTES: usize = 24 << 20;
/// Marks that wait to be settled: more say that a transaction has been open for long, and the oldest ones do.
const MARKS_MAX: usize = 1_000;

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
    /// The first transaction number that was not given out.
    xmax: i64,
    /// Transactions of this database that were open: those that have not written have no number.
    open: Vec<String>,
    at: Duration,
}

/// Reads a table page by page. After an error it connects anew.
#[derive(Debug)]
pub struct TableReader {
    spec: TableSource,
    clock: SystemClock,
    marks: VecDeque<Mark>,
    /// Up to here nothing new appears.
    settled: Option<String>,
    last: Option<String>,
    session: Option<Session>,
    /// Rows of the next page.
    rows: usize,
}

impl TableReader {
    /// Behind `last`, or from the first row.
    pub fn new(spec: TableSource, last: Option<String>) -> Self {
        let (clock, marks, settled, session) = Default::default();
        Self { spec, clock, marks, settled, last, session, rows: PAGE_ROWS }
    }

    /// The next rows, or none where nothing new is certain. Dropping the future loses nothing: `last` moves by [`Self::taken`].
    ///
    /// # Errors
    /// `source.unreachable`, `source.denied`, `source.table`.
    pub async fn next(&mut self, now_us: i64) -> Result<Option<Page>, Problem> {
        let session = match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => self.spec.access.connect().await.map_err(|error| self.problem(&error))?,
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
        // Days and rounded times are shared by rows that come later.
        if !matches!(cursor.held, Held::Int(_) | Held::Timestamp(MICROSECONDS)) {
            let message =
                format!("`cursor: {}` is {}, which does not only grow", cursor.name, cursor.declared);
            return Err(shape(message, "take a column of integers, or of times with microseconds"));
        }
        self.look(session, &table, &cursor).await.map_err(|error| self.problem(&error))?;
        let page = match &self.settled {
            Some(settled) if self.last.as_ref() != Some(settled) => {
                let settled = settled.clone();
                self.fitting_page(session, &table, &cursor, &settled, now_us).await?
            }
            _ => None,
        };
        session.rollback().await.map_err(|error| self.problem(&error))?;
        Ok(page)
    }

    async fn table(&self, session: &Session) -> Result<Table, Problem> {
        let name = &self.spec.table;
        let found = Table::read(session, name).await.map_err(|error| self.problem(&error))?;
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
             (SELECT max({})::text FROM {}), \
             ARRAY(SELECT l.virtualxid FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
                   WHERE l.locktype = 'virtualxid' AND a.datname = current_database() AND l.pid <> pg_backend_pid())::text[] \
             FROM pg_current_snapshot() s",
            quoted(&cursor.name),
            table.name
        );
        let rows = session.query("look at the table", &sql, &[]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (xmin, xmax, greatest): (i64, i64, Option<String>) = (row.get(0), row.get(1), row.get(2));
        let open: Vec<String> = row.get(3);
        let now = self.clock.monotonic();
        while let Some(mark) = self.marks.front() {
            let goes_on = mark.open.iter().any(|transaction| open.contains(transaction));
            if mark.xmax > xmin || goes_on || now < mark.at + SETTLE {
                break;
            }
            self.settled = self.marks.pop_front().map(|mark| mark.greatest);
        }
        let is_new = |greatest: &String| self.marks.back().is_none_or(|mark| mark.greatest != *greatest);
        if let Some(greatest) = greatest.filter(is_new)
            && self.marks.len() < MARKS_MAX
            && self.settled.as_ref() != Some(&greatest)
        {
            self.marks.push_back(Mark { greatest, xmax, open, at: now });
        }
        Ok(())
    }

    /// A page that can land in one piece.
    async fn fitting_page(
        &mut self,
        session: &Session,
        table: &Table,
        cursor: &Column,
        settled: &str,
        now_us: i64,
    ) -> Result<Option<Page>, Problem> {
        loop {
            let page = self.page(session, table, cursor, settled, now_us).await?;
            let bytes = page
                .iter()
                .flat_map(|page| &page.batches)
                .map(RecordBatch::get_array_memory_size)
                .sum::<usize>();
            match bytes {
                0..=PAGE_BYTES => {
                    // Rows may become small again.
                    self.rows = (self.rows * 2).min(PAGE_ROWS);
                    return Ok(page);
                }
                _ if self.rows > 1 => self.rows /= 2,
                bytes => {
                    let message = format!(
                        "rows of {} with one value of `{}` are {} MiB",
                        table.name,
                        cursor.name,
                        bytes >> 20
                    );
                    return Err(shape(
                        message,
                        "they are more than can land in one piece: take a cursor with fewer rows for each value",
                    ));
                }
            }
        }
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
            "FROM {} WHERE {after}{order} <= {}::{kind} ORDER BY {order} FETCH FIRST {} ROWS WITH TIES",
            table.name,
            literal(settled),
            self.rows
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
            Some(column) => {
                let name = quoted(&column.name);
                Fetched::time(&format!("CASE WHEN isfinite({name}) THEN {name}::timestamptz END"))
            }
            None => Fetched::time(&format!("to_timestamp({now_us}::float8 / 1000000)")),
        };
        let is_ts = |column: &Column| column.name.eq_ignore_ascii_case("ts");
        let others = table.columns.iter().filter(|column| !(is_ts(column) && time.is_some_and(is_ts)));
        let others = others.map(|column| match is_ts(column) {
            // It is not the row's time.
            true => Fetched::kept(column, "ts_1"),
            false => Fetched::kept(column, &column.name),
        });
        Ok(std::iter::once(ts).chain(others).collect())
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
        Problem::new(code, exit, format!("PostgreSQL at {} {message}", self.spec.access.url)).caused_by(error)
    }
}

pub(crate) fn shape(message: String, remedy: &str) -> Problem {
    Problem::new("source.table", ExitCode::Conflict, message).hint(remedy)
}
