//! How far each key was written, and who may write: a table beside the rows, changed in the transactions that write them.
//!
//! ```text
//!  uid text | node text | epoch numeric(20,0) | stream text | through numeric(20,0) | updated timestamptz
//!  …        | ''        | 0                   | ''          | generation of the owner          one row for each sink
//!  …        | edge-1    | …                   | events      | last batch that was written      one row for each key
//! ```
//! No node and no stream has an empty name, so the row of the owner is nobody else's. `numeric(20,0)` holds every u64.
//!
//! Every transaction of a sink begins by locking the row of its owner. So there is one at a time for each sink, no two of them
//! can wait for each other's keys, and whoever takes the place over waits until a commit whose answer was lost is decided.

use std::collections::BTreeMap;

use aap_sinks::{Failure, Group, Positions};
use aap_types::{Epoch, Sequence, StreamKey};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::connection::{Error, Session};
use crate::names::TableName;

/// The ledger of a sink.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    /// Where it lies. Many sinks may share one.
    pub(crate) table: TableName,
    /// Whose rows.
    pub(crate) uid: String,
}

/// The keys of a group as parameters.
struct Keys {
    nodes: Vec<String>,
    epochs: Vec<String>,
    streams: Vec<String>,
    afters: Vec<String>,
    throughs: Vec<String>,
}

impl Keys {
    /// In the order of the keys, which is that of their rows.
    fn of(group: &Group) -> Self {
        let mut slices: Vec<_> = group.slices.iter().collect();
        slices.sort_by_key(|slice| (&slice.key.node, slice.key.epoch, &slice.key.stream));
        let texts =
            |text: &dyn Fn(&aap_sinks::Slice) -> String| slices.iter().map(|slice| text(slice)).collect();
        Self {
            nodes: texts(&|slice| slice.key.node.to_string()),
            epochs: texts(&|slice| slice.key.epoch.to_string()),
            streams: texts(&|slice| slice.key.stream.to_string()),
            afters: texts(&|slice| slice.after.to_string()),
            throughs: texts(&|slice| slice.through.to_string()),
        }
    }
}

impl Ledger {
    /// The statement that makes it.
    pub(crate) fn definition(&self) -> String {
        format!(
            "CREATE TABLE {} (uid text NOT NULL, node text NOT NULL, epoch numeric(20,0) NOT NULL, stream text NOT NULL, \
             through numeric(20,0) NOT NULL, updated timestamptz NOT NULL DEFAULT now(), \
             PRIMARY KEY (uid, node, epoch, stream))",
            self.table
        )
    }

    /// Makes it where it is missing.
    pub(crate) async fn ensure(&self, session: &Session) -> Result<(), Error> {
        let table = self.table.to_string();
        let found = session
            .query("look for the ledger", "SELECT to_regclass($1)::text", &[(&table, Type::TEXT)])
            .await?;
        match found.first().and_then(|row| row.get::<_, Option<String>>(0)) {
            Some(_) => Ok(()),
            None => session.batch("make the ledger", &self.definition()).await,
        }
    }

    /// Becomes the owner. The generation that it writes under from now on.
    pub(crate) async fn take_over(&self, session: &Session) -> Result<String, Error> {
        let sql = format!(
            "INSERT INTO {} AS owner (uid, node, epoch, stream, through) VALUES ($1, '', 0, '', 1) \
             ON CONFLICT (uid, node, epoch, stream) DO UPDATE SET through = owner.through + 1, updated = now() \
             RETURNING through::text",
            self.table
        );
        let rows = session.query("take the ledger over", &sql, &[(&self.uid, Type::TEXT)]).await?;
        Ok(rows[0].get(0))
    }

    /// Everything that it knows.
    pub(crate) async fn positions(&self, session: &Session) -> Result<Positions, Error> {
        let sql = format!(
            "SELECT node, epoch::text, stream, through::text FROM {} WHERE uid = $1 AND node <> '' AND through > 0",
            self.table
        );
        let rows = session.query("read the ledger", &sql, &[(&self.uid, Type::TEXT)]).await?;
        Ok(rows.iter().filter_map(position).collect())
    }

    /// Locks the place, and looks whether it is ours and stands where the group begins.
    pub(crate) async fn claim(
        &self,
        session: &Session,
        generation: &str,
        group: &Group,
    ) -> Result<Result<(), Failure>, Error> {
        let sql = format!(
            "SELECT through::text FROM {} WHERE uid = $1 AND node = '' AND epoch = 0 AND stream = '' FOR UPDATE",
            self.table
        );
        let rows = session.query("lock the ledger", &sql, &[(&self.uid, Type::TEXT)]).await?;
        if rows.first().is_none_or(|row| row.get::<_, &str>(0) != generation) {
            return Ok(Err(Failure::moved("another instance of the sink has taken the place over")));
        }
        let found = self.of_group(session, group).await?;
        for slice in &group.slices {
            let stands = found.get(&slice.key).copied().unwrap_or(Sequence::ZERO);
            if stands != slice.after {
                let message =
                    format!("the ledger stands at {stands} for {}, not at {}", slice.key, slice.after);
                return Ok(Err(Failure::moved(message)));
            }
        }
        Ok(Ok(()))
    }

    async fn of_group(
        &self,
        session: &Session,
        group: &Group,
    ) -> Result<BTreeMap<StreamKey, Sequence>, Error> {
        let keys = Keys::of(group);
        let sql = format!(
            "SELECT l.node, l.epoch::text, l.stream, l.through::text FROM {} l \
             JOIN unnest($2, $3, $4) AS k (node, epoch, stream) \
             ON l.node = k.node AND l.epoch = k.epoch::numeric AND l.stream = k.stream WHERE l.uid = $1",
            self.table
        );
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] = [
            (&self.uid, Type::TEXT),
            (&keys.nodes, Type::TEXT_ARRAY),
            (&keys.epochs, Type::TEXT_ARRAY),
            (&keys.streams, Type::TEXT_ARRAY),
        ];
        let rows = session.query("read the ledger", &sql, &parameters).await?;
        Ok(rows.iter().filter_map(position).collect())
    }

    /// Sets the positions of the group. False if one of them was not where it was a moment ago, which the lock forbids.
    pub(crate) async fn advance(&self, session: &Session, group: &Group) -> Result<bool, Error> {
        let keys = Keys::of(group);
        let sql = format!(
            "INSERT INTO {0} AS l (uid, node, epoch, stream, through) \
             SELECT $1, node, epoch::numeric, stream, through::numeric \
             FROM unnest($2, $3, $4, $6) AS k (node, epoch, stream, through) \
             ON CONFLICT (uid, node, epoch, stream) DO UPDATE SET through = excluded.through, updated = now() \
             WHERE l.through = (SELECT after::numeric FROM unnest($2, $3, $4, $5) AS k (node, epoch, stream, after) \
             WHERE k.node = l.node AND k.epoch::numeric = l.epoch AND k.stream = l.stream)",
            self.table
        );
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 6] = [
            (&self.uid, Type::TEXT),
            (&keys.nodes, Type::TEXT_ARRAY),
            (&keys.epochs, Type::TEXT_ARRAY),
            (&keys.streams, Type::TEXT_ARRAY),
            (&keys.afters, Type::TEXT_ARRAY),
            (&keys.throughs, Type::TEXT_ARRAY),
        ];
        let moved = session.execute("advance the ledger", &sql, &parameters).await?;
        Ok(moved == group.slices.len() as u64)
    }
}

/// A row of the ledger. `None` for what is no position: nobody but us writes here, and a later version may have other rows.
fn position(row: &Row) -> Option<(StreamKey, Sequence)> {
    let text = |place: usize| row.get::<_, &str>(place);
    let key = StreamKey {
        node: text(0).parse().ok()?,
        epoch: Epoch(text(1).parse().ok()?),
        stream: text(2).parse().ok()?,
    };
    Some((key, Sequence(text(3).parse().ok()?)))
}
