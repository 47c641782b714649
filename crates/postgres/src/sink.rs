//! Delivers rows to tables of PostgreSQL, exactly once.
//!
//! | file | owns |
//! |---|---|
//! | `spec.rs` | [`PostgresSpec`]: what an operator says about a sink |
//! | `ledger.rs` | who may write, and how far everything was written |
//! | `write.rs` | the transaction of a group |
//! | `shape.rs` | tables that are made, follow their stream, or do not fit |
//! | `partition.rs` | partitions, made ahead of their rows |
//! | `rows.rs` | slices as fields, and the rows that no table takes |
//! | `probe.rs` | a look that changes nothing |
//! | `fail.rs` | what the runner is told of trouble |

mod fail;
mod ledger;
mod partition;
mod probe;
mod rows;
mod shape;
mod spec;
mod write;

use std::time::Duration;

use aap_sinks::{Failure, FailureKind, Group, GroupLimits, Guarantee, Positions, Sink, Target};
use futures::future::BoxFuture;

pub use spec::{Mode, Partition, PostgresSpec};

use crate::connection::{Access, Session};
use crate::names::TableName;
use fail::{Carries, failure};
use ledger::Ledger;
use write::Writer;

/// Rows at a time: enough that the ten or so round trips of a group do not count, few enough that its transaction is over
/// within a second or two and holds no vacuum up.
const GROUP_ROWS: usize = 100_000;
/// Bytes at a time: what a group may take of the coordinator's memory.
const GROUP_BYTES: usize = 32 << 20;
/// How long rows wait for others: a commit costs the server a flush.
const LINGER: Duration = Duration::from_millis(500);

/// A sink that writes to PostgreSQL.
#[derive(Debug)]
pub struct PostgresSink {
    target: Target,
    spec: PostgresSpec,
    access: Access,
    /// Taken out while it is used: a call that fails or is dropped leaves none behind, and the server rolls back.
    session: Option<Session>,
    /// What it writes under since it took the place over.
    generation: Option<String>,
}

impl PostgresSink {
    /// A sink for `target`. Connects when it is first used.
    pub fn new(target: Target, spec: PostgresSpec) -> Self {
        let access = Access { url: spec.url.clone(), password: spec.password.clone() };
        Self { target, spec, access, session: None, generation: None }
    }

    fn ledger(&self) -> Result<Ledger, Failure> {
        let refused = |problem| Failure::new(FailureKind::Refused, problem);
        self.spec.validate().map_err(refused)?;
        let table = TableName::fixed(&self.spec.ledger)
            .map_err(|error| shape::misfit(format!("the ledger cannot be: {error}"), None))?;
        Ok(Ledger { table, uid: self.target.uid.clone() })
    }

    async fn connected(&mut self) -> Result<Session, Failure> {
        match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => Ok(session),
            None => self.access.connect().await.map_err(|error| self.failed(error)),
        }
    }

    fn failed(&self, error: crate::connection::Error) -> Failure {
        failure(&self.access, &error, Carries::Nothing)
    }

    async fn take_over(&mut self) -> Result<Positions, Failure> {
        self.generation = None;
        let ledger = self.ledger()?;
        let session = self.connected().await?;
        let taken = async {
            session.begin().await?;
            ledger.ensure(&session).await?;
            let generation = ledger.take_over(&session).await?;
            let positions = ledger.positions(&session).await?;
            session.commit().await?;
            Ok((generation, positions))
        };
        let (generation, positions) = taken.await.map_err(|error| self.failed(error))?;
        self.generation = Some(generation);
        self.session = Some(session);
        Ok(positions)
    }

    async fn write_group(&mut self, group: &Group) -> Result<(), Failure> {
        if group.slices.is_empty() {
            return Ok(());
        }
        let Some(generation) = self.generation.clone() else {
            return Err(Failure::moved("the sink has not asked where it stands"));
        };
        let ledger = self.ledger()?;
        let session = self.connected().await?;
        let writer = Writer {
            access: &self.access,
            spec: &self.spec,
            ledger: &ledger,
            session: &session,
            generation: &generation,
        };
        let written = writer.write(group).await;
        let usable = match &written {
            Ok(()) => true,
            // The outcome is unknown: the next one asks, in a session of its own.
            Err(failure) if failure.kind == FailureKind::Retry => false,
            Err(_) => session.rollback().await.is_ok(),
        };
        if usable {
            self.session = Some(session);
        }
        written
    }

    async fn look(&mut self) -> Result<Vec<String>, Failure> {
        let ledger = self.ledger()?;
        let session = self.connected().await?;
        let lines = probe::look(&session, &self.spec, &ledger).await.map_err(|error| self.failed(error))?;
        self.session = Some(session);
        Ok(lines)
    }
}

impl Sink for PostgresSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn limits(&self) -> GroupLimits {
        GroupLimits { rows: GROUP_ROWS, bytes: GROUP_BYTES, linger: LINGER }
    }

    fn resume_point(&mut self) -> BoxFuture<'_, Result<Positions, Failure>> {
        Box::pin(self.take_over())
    }

    fn write<'a>(&'a mut self, group: &'a Group) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.write_group(group))
    }

    fn probe(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        Box::pin(self.look())
    }
}
