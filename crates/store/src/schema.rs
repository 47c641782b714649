//! The tables, and how a file of an earlier version becomes one of this version.

use camino::Utf8Path;
use rusqlite::Connection;

use crate::Error;

/// One step per version, never changed once released.
const MIGRATIONS: [&str; 5] = ["
    CREATE TABLE nodes (
        node TEXT PRIMARY KEY, first_seen_us INTEGER NOT NULL, last_seen_us INTEGER NOT NULL,
        store_id BLOB NOT NULL, generation INTEGER NOT NULL, epoch INTEGER NOT NULL, agent_version TEXT NOT NULL
    ) STRICT;
    CREATE TABLE streams (
        stream TEXT PRIMARY KEY, rows INTEGER NOT NULL DEFAULT 0, batches INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0, raw_bytes INTEGER NOT NULL DEFAULT 0,
        rows_skipped INTEGER NOT NULL DEFAULT 0, newest_us INTEGER NOT NULL DEFAULT 0,
        landed_us INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE columns (
        stream TEXT NOT NULL, place INTEGER NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL,
        PRIMARY KEY (stream, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE files (
        id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, path TEXT NOT NULL UNIQUE,
        rows INTEGER NOT NULL, bytes INTEGER NOT NULL, memory_bytes INTEGER NOT NULL,
        ts_min_us INTEGER NOT NULL, ts_max_us INTEGER NOT NULL, ranges TEXT NOT NULL, created_us INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX files_by_stream ON files (stream);
    CREATE TABLE cursors (
        node TEXT NOT NULL, epoch INTEGER NOT NULL, stream TEXT NOT NULL, through INTEGER NOT NULL,
        PRIMARY KEY (node, epoch, stream)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE retention (stream TEXT PRIMARY KEY, hours INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
    CREATE TABLE deletions (stream TEXT NOT NULL, at_us INTEGER NOT NULL, files INTEGER NOT NULL) STRICT;
    CREATE TABLE lake (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), version INTEGER NOT NULL) STRICT;
    INSERT INTO lake VALUES (1, 0);
", "
    CREATE TABLE deleted (
        node TEXT NOT NULL, epoch INTEGER NOT NULL, stream TEXT NOT NULL, through INTEGER NOT NULL,
        PRIMARY KEY (node, epoch, stream)
    ) STRICT, WITHOUT ROWID;
", "
    CREATE TABLE resources (
        kind TEXT NOT NULL, name TEXT NOT NULL, uid TEXT NOT NULL UNIQUE, revision INTEGER NOT NULL,
        document TEXT NOT NULL, author TEXT NOT NULL, created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL,
        PRIMARY KEY (kind, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE resource_revisions (
        uid TEXT NOT NULL, revision INTEGER NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
        document TEXT NOT NULL, author TEXT NOT NULL, at_us INTEGER NOT NULL,
        PRIMARY KEY (uid, revision)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE sink_states (uid TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE sink_dead_letters (
        sink TEXT NOT NULL, node TEXT NOT NULL, epoch INTEGER NOT NULL, stream TEXT NOT NULL,
        sequence INTEGER NOT NULL, row INTEGER NOT NULL, reason TEXT NOT NULL, at_us INTEGER NOT NULL,
        arrow BLOB NOT NULL, replay INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (sink, node, epoch, stream, sequence, row)
    ) STRICT;
", "
    CREATE TABLE sink_ledgers (uid TEXT PRIMARY KEY, version INTEGER NOT NULL, ledger TEXT NOT NULL) STRICT;
", "
    CREATE TABLE access (
        kind TEXT NOT NULL, key TEXT NOT NULL, owner TEXT NOT NULL, expires_us INTEGER, record TEXT NOT NULL,
        PRIMARY KEY (kind, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX access_by_owner ON access (kind, owner);
    CREATE INDEX access_by_expiry ON access (expires_us) WHERE expires_us IS NOT NULL;
"];

/// Brings `connection` to the newest version, or refuses one that is newer than this build.
pub(crate) fn migrate(connection: &mut Connection, path: &Utf8Path) -> Result<(), Error> {
    let sqlite = |source| Error::Sqlite { doing: "bring metadata to the newest version", source };
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sqlite)?;
    if found > known || found < 0 {
        return Err(Error::Newer { path: path.to_owned(), found, known });
    }
    let done = usize::try_from(found).unwrap_or_default();
    for (index, step) in MIGRATIONS.iter().enumerate().skip(done) {
        let transaction = connection.transaction().map_err(sqlite)?;
        transaction.execute_batch(step).map_err(sqlite)?;
        let version = i64::try_from(index + 1).unwrap_or(i64::MAX);
        transaction.pragma_update(None, "user_version", version).map_err(sqlite)?;
        transaction.commit().map_err(sqlite)?;
    }
    Ok(())
}
