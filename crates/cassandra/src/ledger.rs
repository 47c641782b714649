//! Who may write, and how far each key was written: a table beside the rows.
//!
//! ```text
//!  uid text | owner bigint (static) || node text | epoch bigint | stream text | through bigint
//!  …        | 3                     || edge-1    | …            | events      | last batch that was written
//! ```
//! A partition for each sink. The owner is only ever changed on condition of the former one. A position is written with
//! itself as its write time, so of two that meet the further one stays.

use aap_sinks::{Failure, FailureKind, Group, Positions};
use aap_types::{Epoch, ExitCode, Problem, Sequence, StreamKey};
use scylla::statement::batch::{Batch, BatchType};

use crate::fail::{self, CassandraError};
use crate::names::{LEDGER, quoted};
use crate::session::Connected;
use crate::spec::CassandraSpec;

/// Positions in a batch: some ten kilobytes of them.
const POSITIONS_AT_A_TIME: usize = 100;
/// How often the owner may change under our hands while we take over. Whoever else takes over does so once, as it starts.
const TRIES: usize = 5;

/// The ledger of a sink.
#[derive(Debug)]
pub(crate) struct Ledger<'a> {
    pub(crate) connected: &'a Connected,
    pub(crate) spec: &'a CassandraSpec,
    pub(crate) uid: &'a str,
}

/// The statement that makes it.
pub(crate) fn definition(spec: &CassandraSpec) -> String {
    format!(
        "CREATE TABLE {} (uid text, owner bigint static, node text, epoch bigint, stream text, through bigint, \
         PRIMARY KEY ((uid), node, epoch, stream))",
        name(spec)
    )
}

fn name(spec: &CassandraSpec) -> String {
    format!("{}.{}", quoted(&spec.keyspace), quoted(LEDGER))
}

impl Ledger<'_> {
    /// Makes us the owner: what we write under from now on.
    pub(crate) async fn take_over(&self) -> Result<i64, Failure> {
        let set = format!("UPDATE {} SET owner = ? WHERE uid = ? IF owner = ?", name(self.spec));
        for _ in 0..TRIES {
            let former = self.owner().await.map_err(|error| self.failed(&error))?;
            let ours = former.unwrap_or(0) + 1;
            let applied = self.connected.applies(&set, (ours, self.uid, former)).await;
            if applied.map_err(|error| self.failed(&error))? {
                return Ok(ours);
            }
        }
        let message = format!("others take the place in keyspace `{}` over all the time", self.spec.keyspace);
        let problem = Problem::new("sink.unreachable", ExitCode::Unavailable, message);
        Err(Failure::new(FailureKind::Retry, problem))
    }

    /// Who it is now.
    pub(crate) async fn owner(&self) -> Result<Option<i64>, CassandraError> {
        let get = format!("SELECT owner FROM {} WHERE uid = ? LIMIT 1", name(self.spec));
        let rows: Vec<(Option<i64>,)> = self.connected.rows(&get, (self.uid,)).await?;
        Ok(rows.first().and_then(|(owner,)| *owner))
    }

    /// Everything that it knows.
    pub(crate) async fn positions(&self) -> Result<Positions, CassandraError> {
        type Row = (Option<String>, Option<i64>, Option<String>, Option<i64>);
        let get = format!("SELECT node, epoch, stream, through FROM {} WHERE uid = ?", name(self.spec));
        let rows: Vec<Row> = self.connected.rows(&get, (self.uid,)).await?;
        // A partition that has nothing but its owner is a row without a key.
        let positions = rows.into_iter().filter_map(|(node, epoch, stream, through)| {
            let key = StreamKey {
                node: node?.parse().ok()?,
                epoch: Epoch(u64::try_from(epoch?).ok()?),
                stream: stream?.parse().ok()?,
            };
            Some((key, Sequence(u64::try_from(through?).ok()?)))
        });
        Ok(positions.collect())
    }

    /// Writes the positions of a group, all of whose rows are acknowledged.
    pub(crate) async fn advance(&self, group: &Group) -> Result<(), CassandraError> {
        let put = format!(
            "INSERT INTO {} (uid, node, epoch, stream, through) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
            name(self.spec)
        );
        let prepared = self.connected.prepared(&put).await?;
        for slices in group.slices.chunks(POSITIONS_AT_A_TIME) {
            let values: Vec<_> = slices
                .iter()
                .map(|slice| {
                    let key = &slice.key;
                    let (epoch, through) = (signed(key.epoch.0), signed(slice.through.0));
                    (self.uid, key.node.as_str(), epoch, key.stream.as_str(), through, through)
                })
                .collect();
            let mut batch = Batch::new(BatchType::Unlogged);
            values.iter().for_each(|_| batch.append_statement(prepared.clone()));
            batch.set_is_idempotent(true);
            self.connected.batch(&batch, &values).await?;
        }
        Ok(())
    }

    fn failed(&self, error: &CassandraError) -> Failure {
        fail::failure(self.spec, error)
    }
}

/// Epochs last until the year 2248 so, and the sink looks before it writes anything.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
