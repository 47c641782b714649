//! Records of access, in SQLite.

use rusqlite::{OptionalExtension, Row, params};

use super::SqliteStore;
use crate::{AccessKind, AccessRow, AccessStore, Error, RowsAfter};

impl AccessStore for SqliteStore {
    fn access_row(&self, kind: AccessKind, key: &str) -> Result<Option<AccessRow>, Error> {
        self.read("read a record of access", |t| {
            let mut statement = t.prepare_cached(
                "SELECT key, owner, expires_us, record FROM access WHERE kind = ?1 AND key = ?2",
            )?;
            Ok(statement.query_row([kind.as_str(), key], row_of).optional()?)
        })
    }

    fn access_rows(&self, kind: AccessKind, which: RowsAfter<'_>) -> Result<Vec<AccessRow>, Error> {
        self.read("list records of access", |t| {
            let mut statement = t.prepare_cached(
                "SELECT key, owner, expires_us, record FROM access
                 WHERE kind = ?1 AND key > ?2 AND (?3 IS NULL OR owner = ?3) ORDER BY key LIMIT ?4",
            )?;
            let limit = i64::try_from(which.limit()).unwrap_or(i64::MAX);
            let rows =
                statement.query_map(params![kind.as_str(), which.after, which.owner, limit], row_of)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    fn swap_access_row(
        &self,
        kind: AccessKind,
        before: Option<&str>,
        row: &AccessRow,
    ) -> Result<bool, Error> {
        let AccessRow { key, owner, expires_us, record } = row;
        self.write("write a record of access", |t| {
            let changed = match before {
                None => t.execute(
                    "INSERT OR IGNORE INTO access VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![kind.as_str(), key, owner, expires_us, record],
                )?,
                Some(before) => t.execute(
                    "UPDATE access SET owner = ?3, expires_us = ?4, record = ?5
                     WHERE kind = ?1 AND key = ?2 AND record = ?6",
                    params![kind.as_str(), key, owner, expires_us, record, before],
                )?,
            };
            Ok(changed == 1)
        })
    }

    fn delete_access_row(&self, kind: AccessKind, key: &str) -> Result<bool, Error> {
        self.write("delete a record of access", |t| {
            Ok(t.execute("DELETE FROM access WHERE kind = ?1 AND key = ?2", [kind.as_str(), key])? == 1)
        })
    }

    fn delete_access_rows(&self, kind: AccessKind, owner: &str) -> Result<u64, Error> {
        self.write("delete records of access", |t| {
            Ok(t.execute("DELETE FROM access WHERE kind = ?1 AND owner = ?2", [kind.as_str(), owner])? as u64)
        })
    }

    fn forget_access_rows(&self, now_us: i64) -> Result<u64, Error> {
        self.write("forget records of access", |t| {
            Ok(t.execute("DELETE FROM access WHERE expires_us <= ?1", [now_us])? as u64)
        })
    }
}

fn row_of(row: &Row<'_>) -> rusqlite::Result<AccessRow> {
    Ok(AccessRow { key: row.get(0)?, owner: row.get(1)?, expires_us: row.get(2)?, record: row.get(3)? })
}
