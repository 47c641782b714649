//! Records of access: users, sessions, tokens, nodes.

use aap_store::{AccessKind, AccessRow, AccessStore, Error, RowsAfter};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::PostgresStore;
use crate::connection::Session;

impl AccessStore for PostgresStore {
    fn access_row(&self, kind: AccessKind, key: &str) -> Result<Option<AccessRow>, Error> {
        self.read("read a record of access", async |s: &Session| {
            let sql = "SELECT key, owner, expires_us, record FROM access WHERE kind = $1 AND key = $2";
            let values = [(&kind.as_str() as _, Type::TEXT), (&key as _, Type::TEXT)];
            Ok(s.query("read a record of access", sql, &values).await?.first().map(row_of))
        })
    }

    fn access_rows(&self, kind: AccessKind, which: RowsAfter<'_>) -> Result<Vec<AccessRow>, Error> {
        let RowsAfter { owner, after, .. } = which;
        let limit = i64::try_from(which.limit()).unwrap_or(i64::MAX);
        self.read("list records of access", async |s: &Session| {
            let sql = "SELECT key, owner, expires_us, record FROM access \
                       WHERE kind = $1 AND key > $2 AND ($3::text IS NULL OR owner = $3) ORDER BY key LIMIT $4";
            let values = [
                (&kind.as_str() as _, Type::TEXT),
                (&after as _, Type::TEXT),
                (&owner as _, Type::TEXT),
                (&limit as _, Type::INT8),
            ];
            Ok(s.query("list records of access", sql, &values).await?.iter().map(row_of).collect())
        })
    }

    fn swap_access_row(
        &self,
        kind: AccessKind,
        before: Option<&str>,
        row: &AccessRow,
    ) -> Result<bool, Error> {
        let AccessRow { key, owner, expires_us, record } = row;
        let sql = match before {
            None => {
                "INSERT INTO access SELECT $1, $2, $3, $4, $5 WHERE $6::text IS NULL ON CONFLICT DO NOTHING"
            }
            Some(_) => {
                "UPDATE access SET owner = $3, expires_us = $4, record = $5 \
                 WHERE kind = $1 AND key = $2 AND record = $6"
            }
        };
        self.write("write a record of access", async |s: &Session| {
            let values = [
                (&kind.as_str() as _, Type::TEXT),
                (key as _, Type::TEXT),
                (owner as _, Type::TEXT),
                (expires_us as _, Type::INT8),
                (record as _, Type::TEXT),
                (&before as _, Type::TEXT),
            ];
            Ok(s.execute("write a record of access", sql, &values).await? == 1)
        })
    }

    fn delete_access_row(&self, kind: AccessKind, key: &str) -> Result<bool, Error> {
        self.write("delete a record of access", async |s: &Session| {
            let sql = "DELETE FROM access WHERE kind = $1 AND key = $2";
            let values = [(&kind.as_str() as _, Type::TEXT), (&key as _, Type::TEXT)];
            Ok(s.execute("delete a record of access", sql, &values).await? == 1)
        })
    }

    fn delete_access_rows(&self, kind: AccessKind, owner: &str) -> Result<u64, Error> {
        self.write("delete records of access", async |s: &Session| {
            let sql = "DELETE FROM access WHERE kind = $1 AND owner = $2";
            let values = [(&kind.as_str() as _, Type::TEXT), (&owner as _, Type::TEXT)];
            Ok(s.execute("delete records of access", sql, &values).await?)
        })
    }

    fn forget_access_rows(&self, now_us: i64) -> Result<u64, Error> {
        self.write("forget records of access", async |s: &Session| {
            let sql = "DELETE FROM access WHERE expires_us <= $1";
            Ok(s.execute("forget records of access", sql, &[(&now_us, Type::INT8)]).await?)
        })
    }
}

fn row_of(row: &Row) -> AccessRow {
    AccessRow { key: row.get(0), owner: row.get(1), expires_us: row.get(2), record: row.get(3) }
}
