//! Whose the metadata is, and how far sources were read, for all coordinators of a cluster.

use std::collections::BTreeMap;

use aap_store::{Claim, ClusterStore, Error, LandedPosition};
use aap_types::{Epoch, SourceKind, SourcePosition};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::PostgresStore;
use super::lake::name;
use super::line::Failure;
use crate::connection::Session;

/// Positions that one statement writes: their answers and keys are up to some kilobytes each, and a message is held in memory.
const POSITIONS_A_STATEMENT: usize = 5_000;

impl ClusterStore for PostgresStore {
    fn claim_cluster(&self, cluster: &str, authority: &str) -> Result<(), Error> {
        self.write("take the metadata for the cluster", async |s: &Session| {
            claim(s, |found| found.by_cluster(None, cluster, authority)).await
        })
    }

    fn convert_claim(&self, owner: &str, cluster: &str, authority: &str) -> Result<(), Error> {
        self.write("hand the metadata to the cluster", async |s: &Session| {
            claim(s, |found| found.by_cluster(Some(owner), cluster, authority)).await
        })
    }

    fn save_positions(&self, positions: &[LandedPosition]) -> Result<(), Error> {
        let newest = newest(positions);
        if newest.is_empty() {
            return Ok(());
        }
        self.write("keep positions of sources", async |s: &Session| {
            for some in newest.chunks(POSITIONS_A_STATEMENT) {
                save(s, some).await?;
            }
            Ok(())
        })
    }

    fn positions(&self) -> Result<Vec<LandedPosition>, Error> {
        self.read("read positions of sources", async |s: &Session| {
            let sql = "SELECT node, kind, key, epoch::text, sealed_us, updated_us, position_offset::text, detail \
                       FROM landing_positions ORDER BY node, kind, key";
            s.query("read positions", sql, &[]).await?.iter().map(position).collect()
        })
    }

    fn forget_positions(&self, kind: SourceKind, before_us: i64) -> Result<u64, Error> {
        self.write("forget positions of sources", async |s: &Session| {
            let sql = "DELETE FROM landing_positions WHERE kind = $1 AND updated_us < $2";
            let values = [(&(kind as i16) as _, Type::INT2), (&before_us as _, Type::INT8)];
            Ok(s.execute("forget positions", sql, &values).await?)
        })
    }
}

/// Reads whose the metadata is, and writes down what becomes of that. Whoever calls it has the lock of writers.
pub(super) async fn claim(
    s: &Session,
    becomes: impl FnOnce(Claim) -> Result<Claim, Error>,
) -> Result<(), Failure> {
    let rows =
        s.query("read whose the metadata is", "SELECT owner, cluster, authority FROM lake", &[]).await?;
    let text = |at| rows.first().and_then(|row| row.get::<_, Option<String>>(at));
    let found = match (text(0), text(1), text(2)) {
        (_, Some(name), authority) => Claim::Cluster { name, authority: authority.unwrap_or_default() },
        (Some(owner), None, _) => Claim::Embedded(owner),
        (None, None, _) => Claim::Nobody,
    };
    let claim = becomes(found.clone()).map_err(Failure::Refused)?;
    if claim == found {
        return Ok(());
    }
    let (owner, cluster, authority) = match claim {
        Claim::Nobody => (None, None, None),
        Claim::Embedded(owner) => (Some(owner), None, None),
        Claim::Cluster { name, authority } => (None, Some(name), Some(authority)),
    };
    let sql = "UPDATE lake SET owner = $1, cluster = $2, authority = $3";
    let values = [(&owner as _, Type::TEXT), (&cluster as _, Type::TEXT), (&authority as _, Type::TEXT)];
    s.execute("take the metadata", sql, &values).await?;
    Ok(())
}

/// Of each source the position that stays when they come one after the other: a statement changes no row twice.
fn newest(positions: &[LandedPosition]) -> Vec<&LandedPosition> {
    let mut newest: BTreeMap<_, &LandedPosition> = BTreeMap::new();
    for position in positions {
        let known = newest.entry(position.source()).or_insert(position);
        if !known.is_newer_than(position) {
            *known = position;
        }
    }
    newest.into_values().collect()
}

/// Keys and details as bytes, because text cannot hold every character here; numbers without a sign as text.
async fn save(s: &Session, positions: &[&LandedPosition]) -> Result<(), Failure> {
    // The rule of `LandedPosition::is_newer_than`.
    let sql = "INSERT INTO landing_positions AS known \
               SELECT node, kind, key, epoch::numeric, sealed_us, updated_us, position_offset::numeric, detail \
               FROM unnest($1::text[], $2::smallint[], $3::bytea[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], \
               $8::bytea[]) AS landed (node, kind, key, epoch, sealed_us, updated_us, position_offset, detail) \
               ON CONFLICT (node, kind, sha256(key)) DO UPDATE SET epoch = excluded.epoch, \
               sealed_us = excluded.sealed_us, updated_us = excluded.updated_us, \
               position_offset = excluded.position_offset, detail = excluded.detail \
               WHERE NOT (known.epoch > excluded.epoch OR (known.epoch = excluded.epoch \
               AND known.position_offset > excluded.position_offset AND known.sealed_us > excluded.sealed_us))";
    let of = |column: fn(&LandedPosition) -> String| -> Vec<String> {
        positions.iter().map(|position| column(position)).collect()
    };
    let bytes = |column: fn(&LandedPosition) -> &[u8]| -> Vec<&[u8]> {
        positions.iter().map(|position| column(position)).collect()
    };
    let times = |column: fn(&LandedPosition) -> i64| -> Vec<i64> {
        positions.iter().map(|position| column(position)).collect()
    };
    let kinds: Vec<i16> = positions.iter().map(|landed| landed.position.kind as i16).collect();
    s.execute(
        "write positions",
        sql,
        &[
            (&of(|landed| landed.node.to_string()), Type::TEXT_ARRAY),
            (&kinds, Type::INT2_ARRAY),
            (&bytes(|landed| landed.position.key.as_bytes()), Type::BYTEA_ARRAY),
            (&of(|landed| landed.epoch.0.to_string()), Type::TEXT_ARRAY),
            (&times(|landed| landed.sealed_us), Type::INT8_ARRAY),
            (&times(|landed| landed.updated_us), Type::INT8_ARRAY),
            (&of(|landed| landed.position.offset.to_string()), Type::TEXT_ARRAY),
            (&bytes(|landed| landed.position.detail.as_bytes()), Type::BYTEA_ARRAY),
        ],
    )
    .await?;
    Ok(())
}

fn position(row: &Row) -> Result<LandedPosition, Failure> {
    let unreadable = |what: &dyn ToString| Failure::Refused(Error::Unreadable(what.to_string()));
    let text = |at| {
        let bytes: Vec<u8> = row.get(at);
        String::from_utf8(bytes).map_err(|error| unreadable(&error))
    };
    let number: i16 = row.get(1);
    let kind =
        u8::try_from(number).ok().and_then(SourceKind::from_byte).ok_or_else(|| unreadable(&number))?;
    Ok(LandedPosition {
        node: name(row, 0)?,
        epoch: Epoch(name(row, 3)?),
        sealed_us: row.get(4),
        updated_us: row.get(5),
        position: SourcePosition { kind, key: text(2)?, offset: name(row, 6)?, detail: text(7)? },
    })
}
