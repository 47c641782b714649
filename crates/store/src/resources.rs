//! Declared objects, the state of sinks and their dead letters, in SQLite.

use std::collections::BTreeMap;

use aap_types::{BatchId, Epoch, Sequence, StreamKey};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::sqlite::{Failure, name, signed, unsigned};
use crate::{Error, ResourceRecord, SinkDeadLetter, SinkState};

pub(crate) fn all(t: &Transaction<'_>) -> Result<Vec<ResourceRecord>, Failure> {
    let mut statement = t.prepare_cached(
        "SELECT kind, name, uid, revision, document, author, created_us, updated_us FROM resources ORDER BY kind, name",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(ResourceRecord {
            kind: row.get(0)?,
            name: row.get(1)?,
            uid: row.get(2)?,
            revision: unsigned(row.get(3)?),
            document: row.get(4)?,
            author: row.get(5)?,
            created_us: row.get(6)?,
            updated_us: row.get(7)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn put(t: &Transaction<'_>, resource: &ResourceRecord) -> Result<(), Failure> {
    let ResourceRecord { kind, name, revision, .. } = resource;
    let found: Option<i64> = t
        .query_row("SELECT revision FROM resources WHERE kind = ?1 AND name = ?2", [kind, name], |row| {
            row.get(0)
        })
        .optional()?;
    let (found, expected) = (found.map_or(0, unsigned), revision.saturating_sub(1));
    if found != expected {
        let (kind, name) = (kind.clone(), name.clone());
        return Err(Failure::Refused(Error::Revision { kind, name, expected, found }));
    }
    insert(t, resource)
}

/// Whatever stands there.
fn insert(t: &Transaction<'_>, resource: &ResourceRecord) -> Result<(), Failure> {
    let ResourceRecord { kind, name, uid, revision, document, author, created_us, updated_us } = resource;
    t.execute(
        "INSERT INTO resources VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (kind, name) DO UPDATE SET
         uid = ?3, revision = ?4, document = ?5, author = ?6, updated_us = ?8",
        params![kind, name, uid, signed(*revision), document, author, created_us, updated_us],
    )?;
    t.execute(
        "INSERT OR REPLACE INTO resource_revisions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![uid, signed(*revision), kind, name, document, author, updated_us],
    )?;
    Ok(())
}

pub(crate) fn restore(t: &Transaction<'_>, resources: &[(ResourceRecord, SinkState)]) -> Result<(), Failure> {
    for (resource, state) in resources {
        insert(t, resource)?;
        set_state(t, &resource.uid, state)?;
    }
    Ok(())
}

pub(crate) fn delete(t: &Transaction<'_>, kind: &str, name: &str) -> Result<bool, Failure> {
    let uid: Option<String> = t
        .query_row("SELECT uid FROM resources WHERE kind = ?1 AND name = ?2", [kind, name], |row| row.get(0))
        .optional()?;
    let Some(uid) = uid else { return Ok(false) };
    t.execute("DELETE FROM resources WHERE uid = ?1", [&uid])?;
    t.execute("DELETE FROM sink_states WHERE uid = ?1", [&uid])?;
    t.execute("DELETE FROM sink_ledgers WHERE uid = ?1", [&uid])?;
    t.execute("DELETE FROM sink_dead_letters WHERE sink = ?1", [&uid])?;
    Ok(true)
}

pub(crate) fn state(t: &Transaction<'_>, uid: &str) -> Result<SinkState, Failure> {
    let text: Option<String> =
        t.query_row("SELECT state FROM sink_states WHERE uid = ?1", [uid], |row| row.get(0)).optional()?;
    let Some(text) = text else { return Ok(SinkState::default()) };
    serde_json::from_str(&text).map_err(|_| Failure::Refused(Error::Unreadable(text)))
}

pub(crate) fn set_state(t: &Transaction<'_>, uid: &str, state: &SinkState) -> Result<(), Failure> {
    let text = serde_json::to_string(state).expect("names and numbers are JSON");
    t.execute("INSERT OR REPLACE INTO sink_states VALUES (?1, ?2)", [uid, &text])?;
    Ok(())
}

pub(crate) fn ledger(t: &Transaction<'_>, uid: &str) -> Result<Option<(u64, String)>, Failure> {
    let mut statement = t.prepare_cached("SELECT version, ledger FROM sink_ledgers WHERE uid = ?1")?;
    let found = statement.query_row([uid], |row| Ok((unsigned(row.get(0)?), row.get(1)?)));
    Ok(found.optional()?)
}

pub(crate) fn replace_ledger(
    t: &Transaction<'_>,
    uid: &str,
    version: u64,
    ledger: &str,
) -> Result<(), Failure> {
    let found: Option<i64> = t
        .prepare_cached("SELECT version FROM sink_ledgers WHERE uid = ?1")?
        .query_row([uid], |row| row.get(0))
        .optional()?;
    let (found, expected) = (found.map_or(0, unsigned), version.saturating_sub(1));
    if found != expected {
        return Err(Failure::Refused(Error::Revision {
            kind: "Ledger".to_owned(),
            name: uid.to_owned(),
            expected,
            found,
        }));
    }
    t.prepare_cached("INSERT OR REPLACE INTO sink_ledgers VALUES (?1, ?2, ?3)")?.execute(params![
        uid,
        signed(version),
        ledger
    ])?;
    Ok(())
}

pub(crate) fn add_dead_letters(
    t: &Transaction<'_>,
    uid: &str,
    letters: &[SinkDeadLetter],
) -> Result<(), Failure> {
    let mut statement = t.prepare_cached(
        "INSERT OR IGNORE INTO sink_dead_letters VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    for letter in letters {
        let key = &letter.batch.key;
        statement.execute(params![
            uid,
            key.node.as_str(),
            signed(key.epoch.0),
            key.stream.as_str(),
            signed(letter.batch.sequence.0),
            signed(letter.row),
            letter.reason,
            letter.at_us,
            letter.arrow,
            signed(letter.replay)
        ])?;
    }
    Ok(())
}

pub(crate) fn drop_beyond(
    t: &Transaction<'_>,
    uid: &str,
    written: &BTreeMap<StreamKey, Sequence>,
) -> Result<(), Failure> {
    let mut statement =
        t.prepare_cached("SELECT DISTINCT node, epoch, stream FROM sink_dead_letters WHERE sink = ?1")?;
    let mut rows = statement.query([uid])?;
    while let Some(row) = rows.next()? {
        let key = StreamKey {
            node: name(row.get(0)?)?,
            epoch: Epoch(unsigned(row.get(1)?)),
            stream: name(row.get(2)?)?,
        };
        let through = written.get(&key).copied().unwrap_or_default();
        t.execute(
            "DELETE FROM sink_dead_letters
             WHERE sink = ?1 AND node = ?2 AND epoch = ?3 AND stream = ?4 AND sequence > ?5",
            params![uid, key.node.as_str(), signed(key.epoch.0), key.stream.as_str(), signed(through.0)],
        )?;
    }
    Ok(())
}

pub(crate) fn dead_letters(
    t: &Transaction<'_>,
    uid: &str,
    replay: Option<u64>,
    limit: usize,
) -> Result<Vec<SinkDeadLetter>, Failure> {
    let mut statement = t.prepare_cached(
        "SELECT node, epoch, stream, sequence, row, reason, at_us, arrow, replay FROM sink_dead_letters
         WHERE sink = ?1 AND (?2 IS NULL OR replay = ?2) ORDER BY node, epoch, stream, sequence, row LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![uid, replay.map(signed), limit])?;
    let mut out = vec![];
    while let Some(row) = rows.next()? {
        let key = StreamKey {
            node: name(row.get(0)?)?,
            epoch: Epoch(unsigned(row.get(1)?)),
            stream: name(row.get(2)?)?,
        };
        out.push(SinkDeadLetter {
            batch: BatchId { key, sequence: Sequence(unsigned(row.get(3)?)) },
            row: unsigned(row.get(4)?),
            reason: row.get(5)?,
            at_us: row.get(6)?,
            arrow: row.get(7)?,
            replay: unsigned(row.get(8)?),
        });
    }
    Ok(out)
}

pub(crate) fn dead_letter_count(t: &Transaction<'_>, uid: &str) -> Result<u64, Failure> {
    let count: i64 =
        t.query_row("SELECT count(*) FROM sink_dead_letters WHERE sink = ?1", [uid], |row| row.get(0))?;
    Ok(unsigned(count))
}

pub(crate) fn begin_replay(t: &Transaction<'_>, uid: &str, now_us: i64) -> Result<(u64, u64), Failure> {
    let mut known = state(t, uid)?;
    let number = (known.replays + 1).max(u64::try_from(now_us).unwrap_or(0));
    let rows = t.execute(
        "UPDATE sink_dead_letters SET replay = ?2 WHERE sink = ?1 AND replay = 0",
        params![uid, signed(number)],
    )?;
    if rows == 0 {
        return Ok((0, 0));
    }
    known.replays = number;
    set_state(t, uid, &known)?;
    Ok((number, rows as u64))
}

pub(crate) fn pending_replay(
    t: &Transaction<'_>,
    uid: &str,
) -> Result<Option<(u64, Vec<SinkDeadLetter>)>, Failure> {
    let first: Option<i64> = t.query_row(
        "SELECT min(replay) FROM sink_dead_letters WHERE sink = ?1 AND replay > 0",
        [uid],
        |row| row.get(0),
    )?;
    let Some(number) = first.map(unsigned) else { return Ok(None) };
    Ok(Some((number, dead_letters(t, uid, Some(number), usize::MAX)?)))
}

pub(crate) fn requeue(t: &Transaction<'_>, uid: &str, letters: &[SinkDeadLetter]) -> Result<(), Failure> {
    let mut statement = t.prepare_cached(
        "UPDATE sink_dead_letters SET replay = 0, reason = ?7, at_us = ?8
         WHERE sink = ?1 AND node = ?2 AND epoch = ?3 AND stream = ?4 AND sequence = ?5 AND row = ?6",
    )?;
    for letter in letters {
        let key = &letter.batch.key;
        statement.execute(params![
            uid,
            key.node.as_str(),
            signed(key.epoch.0),
            key.stream.as_str(),
            signed(letter.batch.sequence.0),
            signed(letter.row),
            letter.reason,
            letter.at_us
        ])?;
    }
    Ok(())
}

pub(crate) fn end_replay(t: &Transaction<'_>, uid: &str, replay: u64) -> Result<(), Failure> {
    t.execute("DELETE FROM sink_dead_letters WHERE sink = ?1 AND replay = ?2", params![uid, signed(replay)])?;
    Ok(())
}

pub(crate) fn purge(t: &Transaction<'_>, uid: &str) -> Result<u64, Failure> {
    Ok(t.execute("DELETE FROM sink_dead_letters WHERE sink = ?1 AND replay = 0", [uid])? as u64)
}
