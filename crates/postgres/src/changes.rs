//! Every change of some tables as a source: what the server's log says of them, in the order of commits.
//!
//! A logical slot keeps the log until it was read. It is read by its SQL interface, with the plugin that every server has:
//!
//! ```text
//!  peek     pg_logical_slot_peek_binary_changes(slot, …, 'pgoutput')      whole transactions, from where the slot stands
//!  group    rows ──► batches, with the position behind them               the caller lands both in one group
//!  advance  pg_replication_slot_advance(slot, position)                   once they have landed
//! ```
//! After a crash between landing and advancing, the same changes are peeked again. The position that landed says which ones those
//! are: transactions whose commit stands before it, and the first changes of one that was cut. So each change lands once.
//!
//! A look that finds nothing moves the slot, too, or the log would be kept for tables that nobody reads.
//! <https://www.postgresql.org/docs/current/logicaldecoding.html>
//!
//! | file | owns |
//! |---|---|
//! | `message.rs` | the plugin's messages, read from bytes |
//! | `relation.rs` | a table of the log as columns of a stream |
//! | `value.rs` | values as text into columns |
//! | `rows.rs` | messages as groups of rows with positions |
//! | `slot.rs` | the slot and the publication on the server |
//! | `problem.rs` | what can be wrong, as operators see it |

mod message;
mod problem;
mod relation;
mod rows;
mod slot;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use aap_types::{Problem, StreamName};
use arrow_array::RecordBatch;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::PgLsn;

use crate::connection::{Error, Session};
use crate::names::{literal, quoted};
use crate::source::{ChangesSource, Publish};
use message::{Message, RelationMessage};
use problem::Doing;
use relation::Found;
use rows::{Rows, Taken, broken};
use slot::Slot;
pub use slot::slot_name;

/// Changes after which a look ends with the transaction: many, for the server begins each look at the oldest transaction that is
/// still open, and few, for it holds all of them until they are sent.
const LOOK_CHANGES: usize = 50_000;
/// How long somebody may hold a slot that is to be dropped: our own look, which the server has not noticed to be over.
const DROP_TRIES: u32 = 20;
/// Between two tries.
const DROP_PAUSE: Duration = Duration::from_millis(500);

/// How far the log was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogPosition {
    /// Transactions whose commit stands before this have landed.
    pub lsn: u64,
    /// Of the one whose commit stands exactly there, so many changes have.
    pub changes: u64,
}

/// Its form beside rows.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Detail {
    lsn: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    changes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl LogPosition {
    /// As JSON: `{"lsn":"16/B374D848","changes":7}`.
    pub fn to_detail(self) -> String {
        let detail = Detail { lsn: PgLsn::from(self.lsn).to_string(), changes: self.changes };
        serde_json::to_string(&detail).unwrap_or_default()
    }

    /// From that.
    pub fn of_detail(text: &str) -> Option<Self> {
        let detail: Detail = serde_json::from_str(text).ok()?;
        let lsn: PgLsn = detail.lsn.parse().ok()?;
        Some(Self { lsn: lsn.into(), changes: detail.changes })
    }
}

/// Rows that were read, and how far.
pub struct Changes {
    /// The rows with the streams that they belong to, `ts` first.
    pub batches: Vec<(StreamName, RecordBatch)>,
    /// Behind them.
    pub position: LogPosition,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("position", &self.position).finish_non_exhaustive()
    }
}

/// A look that is under way.
struct Look {
    changes: Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send + Sync>>,
    /// Where the log ended before.
    ended: u64,
    /// Messages so far.
    messages: usize,
}

/// Reads the changes of tables. After an error it is of no use: the next one begins behind what landed.
pub struct ChangesReader {
    source: ChangesSource,
    slot: String,
    has_landed: bool,
    rows: Rows,
    session: Option<Session>,
    /// For questions while a look is under way.
    catalogue: Option<Session>,
    look: Option<Look>,
    /// Where the slot may stand once everything has landed.
    advance: Option<u64>,
    /// Where it stands, as far as known.
    stands: u64,
}

impl fmt::Debug for ChangesReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangesReader").field("slot", &self.slot).finish_non_exhaustive()
    }
}

impl ChangesReader {
    /// Of the source with this identity, behind what landed of it.
    pub fn new(source: ChangesSource, uid: &str, landed: Option<LogPosition>) -> Self {
        let rows = Rows::new(source.stream.clone(), landed.unwrap_or_default());
        let (session, catalogue, look, advance, stands) = Default::default();
        let (slot, has_landed) = (slot_name(uid), landed.is_some());
        Self { source, slot, has_landed, rows, session, catalogue, look, advance, stands }
    }

    /// The next changes, or none where there are none now. What the call before answered must have landed.
    ///
    /// # Errors
    /// `source.unreachable`, `source.denied`, `source.table`, `source.replication_setting`, `source.replication_denied`,
    /// `source.identity`, `source.publication`, `source.slot_waits`, `source.slot_in_use`, `source.changes_lost`.
    pub async fn next(&mut self) -> Result<Option<Changes>, Problem> {
        if let Some(lsn) = self.advance.take() {
            self.move_slot(lsn).await?;
        }
        let mut look = match self.look.take() {
            Some(look) => look,
            None => self.begin().await?,
        };
        while let Some(change) = look.changes.next().await {
            look.messages += 1;
            let change = change.map_err(|error| self.failed(&error))?;
            if self.take(&change).await? == Taken::Full
                && let Some(group) = self.rows.group()?
            {
                self.look = Some(look);
                return Ok(Some(Changes { batches: group.batches, position: group.position }));
            }
        }
        let Look { ended, messages, .. } = look;
        self.rollback().await?;
        let read = self.rows.position().lsn;
        // One that was not cut short has seen everything that the log had when it began.
        let reached = if messages < LOOK_CHANGES { read.max(ended) } else { read };
        self.advance = (reached > self.stands).then_some(reached);
        let group = self.rows.group()?;
        if group.is_none()
            && let Some(lsn) = self.advance.take()
        {
            self.move_slot(lsn).await?;
        }
        Ok(group.map(|group| Changes { batches: group.batches, position: group.position }))
    }

    /// Begins a look.
    async fn begin(&mut self) -> Result<Look, Problem> {
        let session = match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => {
                let session = self.source.access.connect().await.map_err(|error| self.failed(&error))?;
                let slot = Slot { source: &self.source, name: &self.slot, session: &session };
                slot.prepare(self.has_landed).await?;
                session
            }
        };
        let look = self.look_at(&session).await.map_err(|error| self.failed(&error))?;
        self.session = Some(session);
        Ok(look)
    }

    async fn look_at(&self, session: &Session) -> Result<Look, Error> {
        session.begin_long_read().await?;
        let settings = "SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'postgres'; \
                        SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1";
        session.batch("begin a look", settings).await?;
        let rows = session.query("look where the log ends", "SELECT pg_current_wal_flush_lsn()", &[]).await?;
        let ended = rows.first().map_or(0, |row| row.get::<_, PgLsn>(0).into());
        let publication = match &self.source.publish {
            Publish::Tables(_) => &self.slot,
            Publish::Publication(name) => name,
        };
        let sql = format!(
            "SELECT data FROM pg_logical_slot_peek_binary_changes({}, NULL, {LOOK_CHANGES}, 'proto_version', '1', \
             'publication_names', {})",
            literal(&self.slot),
            literal(&quoted(publication))
        );
        let changes = session.rows("read the changes", &sql).await?;
        let changes = changes.map(|row| row.map(|row| Bytes::copy_from_slice(row.get(0))));
        Ok(Look { changes: Box::pin(changes), ended, messages: 0 })
    }

    async fn take(&mut self, change: &[u8]) -> Result<Taken, Problem> {
        match Message::parse(change).map_err(|error| broken(&error))? {
            Message::Relation(message) => {
                if !self.rows.knows(&message) {
                    let found = self.found(&message).await?;
                    self.rows.set_relation(message, &found)?;
                }
                Ok(Taken::Kept)
            }
            message => self.rows.take(&message),
        }
    }

    async fn found(&mut self, message: &RelationMessage) -> Result<Found, Problem> {
        if !message.needs_catalogue() {
            return Ok(Found::default());
        }
        let session = match self.catalogue.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => self.source.access.connect().await.map_err(|error| self.failed(&error))?,
        };
        let found = Found::of(&session, message).await.map_err(|error| self.failed(&error))?;
        self.catalogue = Some(session);
        Ok(found)
    }

    async fn rollback(&self) -> Result<(), Problem> {
        match &self.session {
            Some(session) => session.rollback().await.map_err(|error| self.failed(&error)),
            None => Ok(()),
        }
    }

    /// The server need not keep what is before this.
    async fn move_slot(&mut self, lsn: u64) -> Result<(), Problem> {
        let Some(session) = &self.session else { return Ok(()) };
        let (slot, to) = (literal(&self.slot), PgLsn::from(lsn));
        // It stands further where a later position was given to it before a crash.
        let sql = format!(
            "SELECT pg_replication_slot_advance({slot}, '{to}') FROM pg_catalog.pg_replication_slots \
             WHERE slot_name = {slot} AND confirmed_flush_lsn < '{to}'"
        );
        let moved = session.query("advance the slot", &sql, &[]).await;
        moved.map_err(|error| self.failed(&error))?;
        self.stands = lsn;
        Ok(())
    }

    fn failed(&self, error: &Error) -> Problem {
        self.source.problem(Doing::ReadingSlot, &self.slot, error)
    }
}

/// Drops what a source has on the server, when it is no more.
///
/// # Errors
/// As [`ChangesReader::next`].
pub async fn drop_slot(source: &ChangesSource, uid: &str) -> Result<(), Problem> {
    let name = slot_name(uid);
    let failed = |error: &Error| source.problem(Doing::ReadingSlot, &name, error);
    let session = source.access.connect().await.map_err(|error| failed(&error))?;
    let slot = literal(&name);
    let sql = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = {slot}"
    );
    let mut tries = 0;
    while let Err(error) = session.query("drop the slot", &sql, &[]).await {
        tries += 1;
        if tries >= DROP_TRIES || error.state().is_none_or(|state| state.code() != problem::IN_USE) {
            return Err(failed(&error));
        }
        tokio::time::sleep(DROP_PAUSE).await;
    }
    let sql = format!("DROP PUBLICATION IF EXISTS {}", quoted(&name));
    session.batch("drop the publication", &sql).await.map_err(|error| failed(&error))
}
