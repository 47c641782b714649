//! The tables, and how those of an earlier version become those of this one.

use tokio_postgres::types::Type;

use super::line::Failure;
use crate::connection::Session;
use crate::names::quoted;

/// Held by whoever writes, until its transaction ends. The number is "aap meta" as bytes.
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock(7017209110204937313)";

/// One step per version, never changed once released. Names are compared by their bytes, as SQLite does.
const MIGRATIONS: [&str; 4] = ["
    CREATE TABLE nodes (
        node text COLLATE \"C\" PRIMARY KEY, first_seen_us bigint NOT NULL, last_seen_us bigint NOT NULL,
        store_id bytea NOT NULL, generation bigint NOT NULL, epoch bigint NOT NULL, agent_version text NOT NULL
    );
    CREATE TABLE streams (
        stream text COLLATE \"C\" PRIMARY KEY, rows bigint NOT NULL DEFAULT 0, batches bigint NOT NULL DEFAULT 0,
        bytes bigint NOT NULL DEFAULT 0, raw_bytes bigint NOT NULL DEFAULT 0, rows_skipped bigint NOT NULL DEFAULT 0,
        newest_us bigint NOT NULL DEFAULT 0, landed_us bigint NOT NULL DEFAULT 0
    );
    CREATE TABLE columns (
        stream text COLLATE \"C\" NOT NULL, place bigint NOT NULL, name text COLLATE \"C\" NOT NULL, type text NOT NULL,
        PRIMARY KEY (stream, name)
    );
    CREATE TABLE files (
        id bigserial PRIMARY KEY, stream text COLLATE \"C\" NOT NULL, path text COLLATE \"C\" NOT NULL UNIQUE,
        rows bigint NOT NULL, bytes bigint NOT NULL, memory_bytes bigint NOT NULL,
        ts_min_us bigint NOT NULL, ts_max_us bigint NOT NULL, ranges text NOT NULL, created_us bigint NOT NULL
    );
    CREATE INDEX files_by_stream ON files (stream);
    CREATE TABLE cursors (
        node text COLLATE \"C\" NOT NULL, epoch bigint NOT NULL, stream text COLLATE \"C\" NOT NULL, through bigint NOT NULL,
        PRIMARY KEY (node, epoch, stream)
    );
    CREATE TABLE retention (stream text COLLATE \"C\" PRIMARY KEY, hours bigint NOT NULL, bytes bigint NOT NULL);
    CREATE TABLE deletions (stream text NOT NULL, at_us bigint NOT NULL, files bigint NOT NULL);
    CREATE TABLE deleted (
        node text COLLATE \"C\" NOT NULL, epoch bigint NOT NULL, stream text COLLATE \"C\" NOT NULL, through bigint NOT NULL,
        PRIMARY KEY (node, epoch, stream)
    );
    CREATE TABLE lake (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), version bigint NOT NULL, owner text);
    INSERT INTO lake (version) VALUES (0);
    CREATE TABLE resources (
        kind text COLLATE \"C\" NOT NULL, name text COLLATE \"C\" NOT NULL, uid text NOT NULL UNIQUE, revision bigint NOT NULL,
        document text NOT NULL, author text NOT NULL, created_us bigint NOT NULL, updated_us bigint NOT NULL,
        PRIMARY KEY (kind, name)
    );
    CREATE TABLE resource_revisions (
        uid text NOT NULL, revision bigint NOT NULL, kind text NOT NULL, name text NOT NULL,
        document text NOT NULL, author text NOT NULL, at_us bigint NOT NULL, PRIMARY KEY (uid, revision)
    );
    CREATE TABLE sink_states (uid text PRIMARY KEY, state text NOT NULL);
    CREATE TABLE sink_dead_letters (
        sink text NOT NULL, node text COLLATE \"C\" NOT NULL, epoch bigint NOT NULL, stream text COLLATE \"C\" NOT NULL,
        sequence bigint NOT NULL, row bigint NOT NULL, reason text NOT NULL, at_us bigint NOT NULL,
        arrow bytea NOT NULL, replay bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (sink, node, epoch, stream, sequence, row)
    );
", "
    CREATE TABLE sink_ledgers (uid text PRIMARY KEY, version bigint NOT NULL, ledger text NOT NULL);
", "
    ALTER TABLE lake ADD COLUMN cluster text, ADD COLUMN authority text;
    CREATE TABLE leases (
        name text COLLATE \"C\" PRIMARY KEY, holder text, detail text NOT NULL, token bigint NOT NULL,
        expires_at timestamptz NOT NULL
    );
    CREATE TABLE landing_positions (
        node text COLLATE \"C\" NOT NULL, kind smallint NOT NULL, key bytea NOT NULL, epoch numeric(20, 0) NOT NULL,
        sealed_us bigint NOT NULL, updated_us bigint NOT NULL, position_offset numeric(20, 0) NOT NULL, detail bytea NOT NULL
    );
    CREATE UNIQUE INDEX landing_positions_by_source ON landing_positions (node, kind, sha256(key));
", "
    CREATE TABLE access (
        kind text NOT NULL, key text COLLATE \"C\" NOT NULL, owner text COLLATE \"C\" NOT NULL, expires_us bigint,
        record text NOT NULL, PRIMARY KEY (kind, key)
    );
    CREATE INDEX access_by_owner ON access (kind, owner);
    CREATE INDEX access_by_expiry ON access (expires_us) WHERE expires_us IS NOT NULL;
"];

/// Brings the schema to the newest version, or refuses one that is newer than this build.
pub(super) async fn migrate(session: &Session, name: &str) -> Result<(), Failure> {
    let schema = quoted(name);
    let doing = "bring metadata to the newest version";
    // Only where it is missing: making what is there needs a right that whoever made it may have kept.
    let look = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1";
    let found = session.query(doing, look, &[(&name, Type::TEXT)]).await?;
    if found.is_empty() {
        session.batch(doing, &format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await?;
    }
    session.batch(doing, "CREATE TABLE IF NOT EXISTS version (version bigint NOT NULL)").await?;
    let rows = session.query(doing, "SELECT coalesce(max(version), 0) FROM version", &[]).await?;
    let found: i64 = rows.first().map_or(0, |row| row.get(0));
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        let path = format!("schema {schema}").into();
        return Err(Failure::Refused(aap_store::Error::Newer { path, found, known }));
    }
    let done = usize::try_from(found).unwrap_or_default();
    for step in MIGRATIONS.iter().skip(done) {
        session.batch(doing, step).await?;
    }
    if found < known {
        session.execute(doing, "DELETE FROM version", &[]).await?;
        session.execute(doing, "INSERT INTO version VALUES ($1)", &[(&known, Type::INT8)]).await?;
    }
    Ok(())
}
