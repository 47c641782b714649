//! Delivers groups: see the documentation of the crate for the steps.

use std::collections::HashMap;
use std::time::Duration;

use aap_sinks::{
    BadRow, Failure, FailureKind, Group, GroupLimits, Guarantee, Positions, Sink, Slice, Target,
};
use aap_types::{ExitCode, Problem, Sequence};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use scylla::statement::batch::{Batch, BatchType};

use crate::fail::{self, CassandraError, Trouble};
use crate::ledger::{self, Ledger};
use crate::names::{self, LEDGER};
use crate::probe;
use crate::rows::{Ready, Row, Rows, wanted};
use crate::session::Connected;
use crate::spec::CassandraSpec;
use crate::table::{self, Place, Table};

/// Rows at a time: enough that the look at the ledger and its advance, one after the other, do not count; few enough that
/// little is written again after a doubt.
const GROUP_ROWS: usize = 50_000;
/// Bytes at a time: what a group may take of the coordinator's memory.
const GROUP_BYTES: usize = 16 << 20;
/// How long rows wait for others.
const LINGER: Duration = Duration::from_millis(250);

/// A sink that writes to Cassandra.
#[derive(Debug)]
pub struct CassandraSink {
    target: Target,
    spec: CassandraSpec,
    connected: Option<Connected>,
    /// What it knows since it took the place over; taken out while it writes, so that a call that is dropped leaves none.
    held: Option<Held>,
    tables: HashMap<String, Table>,
}

/// A place that is ours.
#[derive(Debug)]
struct Held {
    owner: i64,
    positions: Positions,
}

impl CassandraSink {
    /// A sink for `target`. Connects when it is first used.
    pub fn new(target: Target, spec: CassandraSpec) -> Self {
        Self { target, spec, connected: None, held: None, tables: HashMap::new() }
    }

    /// A session, kept until one of its requests fails: the next one finds the cluster as it is then.
    async fn connect(&mut self) -> Result<Connected, Failure> {
        self.spec.check().map_err(fail::setting)?;
        match self.connected.take() {
            Some(connected) => Ok(connected),
            None => Connected::to(&self.spec).await,
        }
    }

    fn keep<T>(&mut self, connected: Connected, done: Result<T, Failure>) -> Result<T, Failure> {
        let is_doubtful = matches!(&done, Err(failure) if failure.kind == FailureKind::Retry);
        if !is_doubtful {
            self.connected = Some(connected);
        }
        done
    }

    async fn take_over(&mut self) -> Result<Positions, Failure> {
        self.held = None;
        self.tables.clear();
        let connected = self.connect().await?;
        let taken = self.take_over_with(&connected).await;
        let held = self.keep(connected, taken)?;
        let positions = held.positions.clone();
        self.held = Some(held);
        Ok(positions)
    }

    async fn take_over_with(&self, connected: &Connected) -> Result<Held, Failure> {
        let definition = ledger::definition(&self.spec);
        table::ensure_keyspace(connected, &self.spec, LEDGER, &definition).await?;
        let ledger = self.ledger(connected);
        let owner = ledger.take_over().await?;
        let positions = ledger.positions().await.map_err(|error| self.failed(&error))?;
        Ok(Held { owner, positions })
    }

    async fn write_group(&mut self, group: &Group) -> Result<(), Failure> {
        if group.slices.is_empty() {
            return Ok(());
        }
        let Some(mut held) = self.held.take() else {
            return Err(Failure::moved("the sink has not asked where it stands"));
        };
        let connected = self.connect().await?;
        let mut tables = std::mem::take(&mut self.tables);
        let written = self.write_with(&connected, &mut tables, &held, group).await;
        let nothing_happened = matches!(&written, Err(failure) if matches!(failure.kind, FailureKind::Rows(_) | FailureKind::Group));
        let written = self.keep(connected, written);
        if written.is_ok() {
            held.positions.extend(group.positions());
        }
        if written.is_ok() || nothing_happened {
            self.tables = tables;
            self.held = Some(held);
        }
        written
    }

    async fn write_with(
        &self,
        connected: &Connected,
        tables: &mut HashMap<String, Table>,
        held: &Held,
        group: &Group,
    ) -> Result<(), Failure> {
        let ledger = self.ledger(connected);
        stands(held, group)?;
        if ledger.owner().await.map_err(|error| self.failed(&error))? != Some(held.owner) {
            return Err(Failure::moved("another instance of the sink has taken the place over"));
        }
        let mut ready = vec![];
        for (number, slice) in group.slices.iter().enumerate().filter(|(_, slice)| slice.rows.num_rows() > 0)
        {
            ready.push(self.ready(connected, tables, number, slice).await?);
        }
        let bad: Vec<BadRow> = ready.iter().flat_map(|ready| ready.rows.bad(ready.slice)).collect();
        if !bad.is_empty() {
            return Err(Failure::rows(bad));
        }
        self.send_all(connected, &ready).await?;
        ledger.advance(group).await.map_err(|error| self.failed(&error))
    }

    /// Sees to a slice's table and statement.
    async fn ready<'a>(
        &self,
        connected: &Connected,
        tables: &mut HashMap<String, Table>,
        number: usize,
        slice: &'a Slice,
    ) -> Result<Ready<'a>, Failure> {
        let name = names::table(&self.spec.table, &slice.key.stream);
        let place = Place { connected, spec: &self.spec, name: &name };
        let table = place.ensure(tables.remove(&name), &wanted(slice)).await?;
        let rows = Rows::of(slice, &table, self.spec.bucket).map_err(|error| {
            let message = format!("the rows of stream `{}` have no form in Cassandra", slice.key.stream);
            Failure::new(
                FailureKind::Group,
                Problem::new("sink.group_refused", ExitCode::Failed, message).caused_by(&error),
            )
        })?;
        let statement = connected.prepared(&rows.statement(&place.quoted())).await;
        let statement = statement.map_err(|error| self.failed(&error))?;
        tables.insert(name, table);
        Ok(Ready { slice: number, rows, statement })
    }

    /// Every row, many batches at a time. Stops at the first that fails: those under way may still arrive, which changes nothing.
    async fn send_all(&self, connected: &Connected, ready: &[Ready<'_>]) -> Result<(), Failure> {
        let mut waiting =
            ready.iter().flat_map(|ready| ready.rows.batches().into_iter().map(move |rows| (ready, rows)));
        let mut sending = FuturesUnordered::new();
        loop {
            while sending.len() < self.spec.concurrency.get() {
                let Some((ready, rows)) = waiting.next() else { break };
                sending.push(send(connected, ready, rows));
            }
            match sending.next().await {
                None => return Ok(()),
                Some(Ok(())) => {}
                Some(Err((error, Some(bad)))) if error.trouble() == Trouble::Oversized => {
                    return Err(Failure::rows(vec![bad]));
                }
                Some(Err((error, _))) => return Err(self.failed(&error)),
            }
        }
    }

    async fn look(&mut self) -> Result<Vec<String>, Failure> {
        let connected = self.connect().await?;
        let seen = probe::look(&connected, &self.spec, &self.target.uid).await;
        let seen = seen.map_err(|error| self.failed(&error));
        self.keep(connected, seen)
    }

    fn ledger<'a>(&'a self, connected: &'a Connected) -> Ledger<'a> {
        Ledger { connected, spec: &self.spec, uid: &self.target.uid }
    }

    fn failed(&self, error: &CassandraError) -> Failure {
        fail::failure(&self.spec, error)
    }
}

/// Whether the group goes on where we believe the ledger.
fn stands(held: &Held, group: &Group) -> Result<(), Failure> {
    for slice in &group.slices {
        let stands = held.positions.get(&slice.key).copied().unwrap_or(Sequence::ZERO);
        if stands != slice.after {
            let message = format!("the ledger stands at {stands} for {}, not at {}", slice.key, slice.after);
            return Err(Failure::moved(message));
        }
        if slice.key.epoch.0.max(slice.through.0) > i64::MAX as u64 {
            let message = format!("the numbers of {} do not fit into the ledger", slice.key);
            return Err(Failure::new(
                FailureKind::Group,
                Problem::new("sink.group_refused", ExitCode::Failed, message),
            ));
        }
    }
    Ok(())
}

/// Writes some rows of one partition. With the error, the row that it is about, if there is only one.
fn send<'a>(
    connected: &'a Connected,
    ready: &'a Ready<'a>,
    rows: Vec<usize>,
) -> BoxFuture<'a, Result<(), (CassandraError, Option<BadRow>)>> {
    Box::pin(async move {
        let row = |row: usize| Row { of: &ready.rows, row };
        if let [only] = rows[..] {
            let done = connected.execute(&ready.statement, row(only)).await;
            return done.map_err(|error| {
                let reason = error.to_string();
                (error, Some(BadRow { slice: ready.slice, row: only, reason }))
            });
        }
        let values: Vec<Row<'_>> = rows.iter().map(|number| row(*number)).collect();
        let mut batch = Batch::new(BatchType::Unlogged);
        values.iter().for_each(|_| batch.append_statement(ready.statement.clone()));
        batch.set_is_idempotent(true);
        connected.batch(&batch, &values).await.map_err(|error| (error, None))
    })
}

impl Sink for CassandraSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::Idempotent
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
