//! Declared objects, the state of sinks and their dead letters.

use std::collections::BTreeMap;

use aap_store::{Error, ResourceRecord, SinkDeadLetter, SinkState};
use aap_types::{BatchId, Sequence, StreamKey};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::lake::{key, signed, unsigned};
use super::line::Failure;
use crate::connection::Session;

pub(super) async fn all(s: &Session) -> Result<Vec<ResourceRecord>, Failure> {
    let sql = "SELECT kind, name, uid, revision, document, author, created_us, updated_us FROM resources \
               ORDER BY kind, name";
    let rows = s.query("read resources", sql, &[]).await?;
    let record = |row: &Row| ResourceRecord {
        kind: row.get(0),
        name: row.get(1),
        uid: row.get(2),
        revision: unsigned(row, 3),
        document: row.get(4),
        author: row.get(5),
        created_us: row.get(6),
        updated_us: row.get(7),
    };
    Ok(rows.iter().map(record).collect())
}

pub(super) async fn put(s: &Session, resource: &ResourceRecord) -> Result<(), Failure> {
    let ResourceRecord { kind, name, revision, .. } = resource;
    let sql = "SELECT revision FROM resources WHERE kind = $1 AND name = $2";
    let rows = s.query("read a revision", sql, &[(kind, Type::TEXT), (name, Type::TEXT)]).await?;
    let (found, expected) = (rows.first().map_or(0, |row| unsigned(row, 0)), revision.saturating_sub(1));
    if found != expected {
        let (kind, name) = (kind.clone(), name.clone());
        return Err(Failure::Refused(Error::Revision { kind, name, expected, found }));
    }
    insert(s, resource).await
}

/// Whatever stands there.
async fn insert(s: &Session, resource: &ResourceRecord) -> Result<(), Failure> {
    let ResourceRecord { kind, name, uid, revision, document, author, created_us, updated_us } = resource;
    let revision = signed(*revision);
    let sql = "INSERT INTO resources VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (kind, name) DO UPDATE SET \
               uid = $3, revision = $4, document = $5, author = $6, updated_us = $8";
    s.execute(
        "write a resource",
        sql,
        &[
            (kind, Type::TEXT),
            (name, Type::TEXT),
            (uid, Type::TEXT),
            (&revision, Type::INT8),
            (document, Type::TEXT),
            (author, Type::TEXT),
            (created_us, Type::INT8),
            (updated_us, Type::INT8),
        ],
    )
    .await?;
    let sql = "INSERT INTO resource_revisions VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (uid, revision) DO UPDATE \
               SET kind = $3, name = $4, document = $5, author = $6, at_us = $7";
    s.execute(
        "keep a revision",
        sql,
        &[
            (uid, Type::TEXT),
            (&revision, Type::INT8),
            (kind, Type::TEXT),
            (name, Type::TEXT),
            (document, Type::TEXT),
            (author, Type::TEXT),
            (updated_us, Type::INT8),
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn restore(s: &Session, resources: &[(ResourceRecord, SinkState)]) -> Result<(), Failure> {
    for (resource, state) in resources {
        insert(s, resource).await?;
        set_state(s, &resource.uid, state).await?;
    }
    Ok(())
}

pub(super) async fn delete(s: &Session, kind: &str, name: &str) -> Result<bool, Failure> {
    let sql = "DELETE FROM resources WHERE kind = $1 AND name = $2 RETURNING uid";
    let rows = s.query("delete a resource", sql, &[(&kind, Type::TEXT), (&name, Type::TEXT)]).await?;
    let Some(uid) = rows.first().map(|row| row.get::<_, String>(0)) else { return Ok(false) };
    let sql = "DELETE FROM sink_states WHERE uid = $1";
    s.execute("forget the state of a sink", sql, &[(&uid, Type::TEXT)]).await?;
    let sql = "DELETE FROM sink_ledgers WHERE uid = $1";
    s.execute("forget the ledger of a sink", sql, &[(&uid, Type::TEXT)]).await?;
    let sql = "DELETE FROM sink_dead_letters WHERE sink = $1";
    s.execute("forget dead letters", sql, &[(&uid, Type::TEXT)]).await?;
    Ok(true)
}

pub(super) async fn state(s: &Session, uid: &str) -> Result<SinkState, Failure> {
    let sql = "SELECT state FROM sink_states WHERE uid = $1";
    let rows = s.query("read the state of a sink", sql, &[(&uid, Type::TEXT)]).await?;
    let Some(text) = rows.first().map(|row| row.get::<_, String>(0)) else { return Ok(SinkState::default()) };
    serde_json::from_str(&text).map_err(|_| Failure::Refused(Error::Unreadable(text)))
}

pub(super) async fn set_state(s: &Session, uid: &str, state: &SinkState) -> Result<(), Failure> {
    let text = serde_json::to_string(state).unwrap_or_default();
    let sql = "INSERT INTO sink_states VALUES ($1, $2) ON CONFLICT (uid) DO UPDATE SET state = $2";
    s.execute("write the state of a sink", sql, &[(&uid, Type::TEXT), (&text, Type::TEXT)]).await?;
    Ok(())
}

pub(super) async fn ledger(s: &Session, uid: &str) -> Result<Option<(u64, String)>, Failure> {
    let sql = "SELECT version, ledger FROM sink_ledgers WHERE uid = $1";
    let rows = s.query("read the ledger of a sink", sql, &[(&uid, Type::TEXT)]).await?;
    Ok(rows.first().map(|row| (unsigned(row, 0), row.get(1))))
}

pub(super) async fn replace_ledger(
    s: &Session,
    uid: &str,
    version: u64,
    ledger: &str,
) -> Result<(), Failure> {
    let sql = "SELECT version FROM sink_ledgers WHERE uid = $1";
    let rows = s.query("read the version of a ledger", sql, &[(&uid, Type::TEXT)]).await?;
    let (found, expected) = (rows.first().map_or(0, |row| unsigned(row, 0)), version.saturating_sub(1));
    if found != expected {
        let (kind, name) = ("Ledger".to_owned(), uid.to_owned());
        return Err(Failure::Refused(Error::Revision { kind, name, expected, found }));
    }
    let version = signed(version);
    let sql = "INSERT INTO sink_ledgers VALUES ($1, $2, $3) ON CONFLICT (uid) DO UPDATE SET version = $2, ledger = $3";
    let values = [(&uid as _, Type::TEXT), (&version as _, Type::INT8), (&ledger as _, Type::TEXT)];
    s.execute("write the ledger of a sink", sql, &values).await?;
    Ok(())
}

pub(super) async fn add_letters(s: &Session, uid: &str, letters: &[SinkDeadLetter]) -> Result<(), Failure> {
    let sql = "INSERT INTO sink_dead_letters VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";
    for letter in letters {
        let key = &letter.batch.key;
        s.execute(
            "keep a dead letter",
            sql,
            &[
                (&uid, Type::TEXT),
                (&key.node.as_str(), Type::TEXT),
                (&signed(key.epoch.0), Type::INT8),
                (&key.stream.as_str(), Type::TEXT),
                (&signed(letter.batch.sequence.0), Type::INT8),
                (&signed(letter.row), Type::INT8),
                // A reason may hold what a server said, with bytes that this one does not take.
                (&letter.reason.replace('\0', "\u{fffd}"), Type::TEXT),
                (&letter.at_us, Type::INT8),
                (&letter.arrow, Type::BYTEA),
                (&signed(letter.replay), Type::INT8),
            ],
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn drop_beyond(
    s: &Session,
    uid: &str,
    written: &BTreeMap<StreamKey, Sequence>,
) -> Result<(), Failure> {
    let sql = "SELECT DISTINCT node, epoch, stream FROM sink_dead_letters WHERE sink = $1";
    for row in s.query("read keys of dead letters", sql, &[(&uid, Type::TEXT)]).await? {
        let key = key(&row, 0)?;
        let through = written.get(&key).copied().unwrap_or_default();
        // As SQLite compares them: by their bits as signed numbers.
        let sql = "DELETE FROM sink_dead_letters \
                   WHERE sink = $1 AND node = $2 AND epoch = $3 AND stream = $4 AND sequence > $5";
        s.execute(
            "drop dead letters",
            sql,
            &[
                (&uid, Type::TEXT),
                (&key.node.as_str(), Type::TEXT),
                (&signed(key.epoch.0), Type::INT8),
                (&key.stream.as_str(), Type::TEXT),
                (&signed(through.0), Type::INT8),
            ],
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn letters(
    s: &Session,
    uid: &str,
    replay: Option<u64>,
    limit: usize,
) -> Result<Vec<SinkDeadLetter>, Failure> {
    let sql = "SELECT node, epoch, stream, sequence, row, reason, at_us, arrow, replay FROM sink_dead_letters \
               WHERE sink = $1 AND ($2::bigint IS NULL OR replay = $2) ORDER BY node, epoch, stream, sequence, row LIMIT $3";
    let (replay, limit) = (replay.map(signed), i64::try_from(limit).unwrap_or(i64::MAX));
    let values = [(&uid as _, Type::TEXT), (&replay as _, Type::INT8), (&limit as _, Type::INT8)];
    let letter = |row: &Row| {
        Ok(SinkDeadLetter {
            batch: BatchId { key: key(row, 0)?, sequence: Sequence(unsigned(row, 3)) },
            row: unsigned(row, 4),
            reason: row.get(5),
            at_us: row.get(6),
            arrow: row.get(7),
            replay: unsigned(row, 8),
        })
    };
    s.query("read dead letters", sql, &values).await?.iter().map(letter).collect()
}

pub(super) async fn letter_count(s: &Session, uid: &str) -> Result<u64, Failure> {
    let sql = "SELECT count(*) FROM sink_dead_letters WHERE sink = $1";
    let rows = s.query("count dead letters", sql, &[(&uid, Type::TEXT)]).await?;
    Ok(rows.first().map_or(0, |row| unsigned(row, 0)))
}

pub(super) async fn begin_replay(s: &Session, uid: &str, now_us: i64) -> Result<(u64, u64), Failure> {
    let mut known = state(s, uid).await?;
    let number = (known.replays + 1).max(u64::try_from(now_us).unwrap_or(0));
    let sql = "UPDATE sink_dead_letters SET replay = $2 WHERE sink = $1 AND replay = 0";
    let rows = s.execute("begin a replay", sql, &[(&uid, Type::TEXT), (&signed(number), Type::INT8)]).await?;
    if rows == 0 {
        return Ok((0, 0));
    }
    known.replays = number;
    set_state(s, uid, &known).await?;
    Ok((number, rows))
}

pub(super) async fn pending_replay(
    s: &Session,
    uid: &str,
) -> Result<Option<(u64, Vec<SinkDeadLetter>)>, Failure> {
    let sql = "SELECT min(replay) FROM sink_dead_letters WHERE sink = $1 AND replay > 0";
    let rows = s.query("look for a replay", sql, &[(&uid, Type::TEXT)]).await?;
    let first: Option<i64> = rows.first().and_then(|row| row.get(0));
    let Some(number) = first.map(i64::cast_unsigned) else { return Ok(None) };
    Ok(Some((number, letters(s, uid, Some(number), usize::MAX).await?)))
}

pub(super) async fn requeue(s: &Session, uid: &str, letters: &[SinkDeadLetter]) -> Result<(), Failure> {
    let sql = "UPDATE sink_dead_letters SET replay = 0, reason = $7, at_us = $8 \
               WHERE sink = $1 AND node = $2 AND epoch = $3 AND stream = $4 AND sequence = $5 AND row = $6";
    for letter in letters {
        let key = &letter.batch.key;
        s.execute(
            "take a letter out of its replay",
            sql,
            &[
                (&uid, Type::TEXT),
                (&key.node.as_str(), Type::TEXT),
                (&signed(key.epoch.0), Type::INT8),
                (&key.stream.as_str(), Type::TEXT),
                (&signed(letter.batch.sequence.0), Type::INT8),
                (&signed(letter.row), Type::INT8),
                (&letter.reason.replace('\0', "\u{fffd}"), Type::TEXT),
                (&letter.at_us, Type::INT8),
            ],
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn end_replay(s: &Session, uid: &str, replay: u64) -> Result<(), Failure> {
    let sql = "DELETE FROM sink_dead_letters WHERE sink = $1 AND replay = $2";
    s.execute("end a replay", sql, &[(&uid, Type::TEXT), (&signed(replay), Type::INT8)]).await?;
    Ok(())
}

pub(super) async fn purge(s: &Session, uid: &str) -> Result<u64, Failure> {
    let sql = "DELETE FROM sink_dead_letters WHERE sink = $1 AND replay = 0";
    Ok(s.execute("purge dead letters", sql, &[(&uid, Type::TEXT)]).await?)
}
