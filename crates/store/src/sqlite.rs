//! Metadata in one SQLite file.
//!
//! WAL with `synchronous=FULL`: a commit that returned survives a power cut. That matters, because the landing buffer
//! reclaims frames as soon as the lake's cut has moved past them.
//!
//! | file | owns |
//! |---|---|
//! | `access.rs` | users, sessions, tokens, node identities |

mod access;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_types::{ByteCount, Epoch, NodeId, Sequence, StreamKey, StreamName, unite_columns};
use camino::{Utf8Path, Utf8PathBuf};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::schema::migrate;
use crate::{
    Catalogue, CursorMove, Deleted, Error, LakeCommit, LakeFile, MetadataStore, NodeRecord, ResourceRecord,
    ResourceStore, Retention, RowCounts, SinkDeadLetter, SinkState, StreamRecord, resources,
};

/// Longer than any transaction of ours, shorter than a person's patience.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Metadata in one SQLite file, with one connection that writes and one that reads beside it.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

impl SqliteStore {
    /// Opens or creates the file at `path`.
    ///
    /// # Errors
    /// [`Error::Newer`] for a file of a later version, [`Error::Damaged`] for one that cannot be relied on.
    pub fn open(path: &Utf8Path) -> Result<Self, Error> {
        let mut writer = connect(path)?;
        check(&writer, path)?;
        migrate(&mut writer, path)?;
        let reader = connect(path)?;
        Ok(Self { writer: Mutex::new(writer), reader: Mutex::new(reader) })
    }

    /// As [`Self::open`], but a damaged file is put aside and a new one takes its place: what it held can be rebuilt.
    /// Returns where the damaged one is.
    ///
    /// # Errors
    /// [`Error::Newer`], [`Error::PutAside`] and whatever else keeps a file from being opened.
    pub fn open_or_replace(path: &Utf8Path) -> Result<(Self, Option<Utf8PathBuf>), Error> {
        match Self::open(path) {
            Err(error) if error.is_damage() => {
                let aside = put_aside(path)?;
                tracing::warn!(%path, %aside, %error, "the metadata is damaged; it is put aside and begins anew");
                Ok((Self::open(path)?, Some(aside)))
            }
            opened => Ok((opened?, None)),
        }
    }

    fn write<T>(
        &self,
        doing: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let mut connection = lock(&self.writer);
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|source| Error::Sqlite { doing, source })?;
        let value = change(&transaction).map_err(|failure| failure.during(doing))?;
        transaction.commit().map_err(|source| Error::Sqlite { doing, source })?;
        Ok(value)
    }

    fn read<T>(
        &self,
        doing: &'static str,
        look: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let mut connection = lock(&self.reader);
        let transaction = connection.transaction().map_err(|source| Error::Sqlite { doing, source })?;
        look(&transaction).map_err(|failure| failure.during(doing))
    }
}

impl MetadataStore for SqliteStore {
    fn record_node(&self, node: &NodeRecord) -> Result<(), Error> {
        self.write("record node", |t| {
            t.execute(
                "INSERT INTO nodes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (node) DO UPDATE SET
                 last_seen_us = ?3, store_id = ?4, generation = ?5, epoch = ?6, agent_version = ?7",
                params![
                    node.node.as_str(),
                    node.first_seen_us,
                    node.last_seen_us,
                    node.store_id,
                    signed(node.generation),
                    signed(node.epoch.0),
                    node.agent_version
                ],
            )?;
            Ok(())
        })
    }

    fn nodes(&self) -> Result<Vec<NodeRecord>, Error> {
        self.read("list nodes", |t| {
            let mut statement = t.prepare_cached("SELECT * FROM nodes ORDER BY node")?;
            let rows = statement.query_map([], |row| Ok(node_of(row)))?;
            rows.map(|row| row?).collect()
        })
    }

    fn node(&self, node: &NodeId) -> Result<Option<NodeRecord>, Error> {
        self.read("look up node", |t| {
            t.query_row("SELECT * FROM nodes WHERE node = ?1", [node.as_str()], |row| Ok(node_of(row)))
                .optional()?
                .transpose()
        })
    }

    fn catalogue(&self) -> Result<Catalogue, Error> {
        self.read("read the catalogue", |t| {
            let version: i64 = t.query_row("SELECT version FROM lake", [], |row| row.get(0))?;
            Ok(Catalogue {
                streams: streams(t)?,
                files: files(t)?,
                cursors: keyed(t, "SELECT node, epoch, stream, through FROM cursors", [])?,
                deleted: keyed(t, "SELECT node, epoch, stream, through FROM deleted", [])?,
                version: unsigned(version),
            })
        })
    }

    fn commit(&self, commit: &LakeCommit) -> Result<(), Error> {
        self.write("commit a change of the lake", |t| {
            for change in &commit.cursors {
                move_cursor(t, change)?;
            }
            for path in &commit.remove {
                if t.execute("DELETE FROM files WHERE path = ?1", [path])? == 0 {
                    return Err(Failure::Refused(Error::FileGone(path.clone())));
                }
            }
            for file in &commit.add {
                insert_file(t, file)?;
            }
            add_counts(t, &commit.stream, &commit.counts)?;
            merge_columns(t, &commit.stream, &commit.columns)?;
            t.execute("UPDATE lake SET version = version + 1", [])?;
            Ok(())
        })
    }

    fn declare_columns(&self, stream: &StreamName, columns: &[(String, String)]) -> Result<(), Error> {
        self.write("declare columns", |t| {
            add_counts(t, stream, &RowCounts::default())?;
            merge_columns(t, stream, columns)
        })
    }

    fn delete_stream(
        &self,
        stream: &StreamName,
        floors: &[(StreamKey, Sequence)],
        now_us: i64,
    ) -> Result<Deleted, Error> {
        self.write("delete stream", |t| {
            let files: Vec<LakeFile> = files(t)?.into_iter().filter(|file| file.stream == *stream).collect();
            for (key, floor) in floors {
                raise_cursor(t, key, *floor)?;
                if key.stream == *stream {
                    put_deleted(t, key, *floor)?;
                }
            }
            for table in ["files", "columns", "streams"] {
                t.execute(&format!("DELETE FROM {table} WHERE stream = ?1"), [stream.as_str()])?;
            }
            let count = i64::try_from(files.len()).unwrap_or(i64::MAX);
            t.execute("INSERT INTO deletions VALUES (?1, ?2, ?3)", params![stream.as_str(), now_us, count])?;
            t.execute("UPDATE lake SET version = version + 1", [])?;
            Ok(Deleted { files })
        })
    }

    fn deletions_of(&self, node: &NodeId) -> Result<Vec<(StreamKey, Sequence)>, Error> {
        self.read("look up deletions", |t| {
            keyed(t, "SELECT node, epoch, stream, through FROM deleted WHERE node = ?1", [node.as_str()])
        })
    }

    fn restore(&self, catalogue: &Catalogue) -> Result<(), Error> {
        self.write("restore the catalogue", |t| {
            t.execute_batch(
                "DELETE FROM files; DELETE FROM cursors; DELETE FROM deleted; DELETE FROM streams;
                 DELETE FROM columns;",
            )?;
            for file in &catalogue.files {
                insert_file(t, file)?;
            }
            for (key, through) in &catalogue.cursors {
                put_cursor(t, key, *through)?;
            }
            for (key, through) in &catalogue.deleted {
                put_deleted(t, key, *through)?;
            }
            for stream in &catalogue.streams {
                add_counts(t, &stream.stream, &stream.counts)?;
                merge_columns(t, &stream.stream, &stream.columns)?;
                if let Some(keep) = stream.retention {
                    t.execute(
                        "INSERT OR IGNORE INTO retention VALUES (?1, ?2, ?3)",
                        params![stream.stream.as_str(), signed(keep.hours), signed(keep.bytes.0)],
                    )?;
                }
            }
            t.execute("UPDATE lake SET version = ?1", [signed(catalogue.version)])?;
            Ok(())
        })
    }

    fn set_retention(&self, stream: &StreamName, retention: Option<&Retention>) -> Result<(), Error> {
        self.write("set retention", |t| {
            match retention {
                Some(keep) => t.execute(
                    "INSERT OR REPLACE INTO retention VALUES (?1, ?2, ?3)",
                    params![stream.as_str(), signed(keep.hours), signed(keep.bytes.0)],
                )?,
                None => t.execute("DELETE FROM retention WHERE stream = ?1", [stream.as_str()])?,
            };
            Ok(())
        })
    }
}

impl ResourceStore for SqliteStore {
    fn resources(&self) -> Result<Vec<ResourceRecord>, Error> {
        self.read("list resources", resources::all)
    }

    fn put_resource(&self, resource: &ResourceRecord) -> Result<(), Error> {
        self.write("write a resource", |t| resources::put(t, resource))
    }

    fn restore_resources(&self, resources: &[(ResourceRecord, SinkState)]) -> Result<(), Error> {
        self.write("restore resources", |t| resources::restore(t, resources))
    }

    fn delete_resource(&self, kind: &str, name: &str) -> Result<bool, Error> {
        self.write("delete a resource", |t| resources::delete(t, kind, name))
    }

    fn sink_state(&self, uid: &str) -> Result<SinkState, Error> {
        self.read("read the state of a sink", |t| resources::state(t, uid))
    }

    fn set_sink_state(&self, uid: &str, state: &SinkState) -> Result<(), Error> {
        self.write("write the state of a sink", |t| resources::set_state(t, uid, state))
    }

    fn add_dead_letters(&self, uid: &str, letters: &[SinkDeadLetter]) -> Result<(), Error> {
        self.write("keep dead letters", |t| resources::add_dead_letters(t, uid, letters))
    }

    fn drop_dead_letters_beyond(
        &self,
        uid: &str,
        written: &BTreeMap<StreamKey, Sequence>,
    ) -> Result<(), Error> {
        self.write("drop dead letters", |t| resources::drop_beyond(t, uid, written))
    }

    fn dead_letters(&self, uid: &str, limit: usize) -> Result<Vec<SinkDeadLetter>, Error> {
        self.read("list dead letters", |t| resources::dead_letters(t, uid, None, limit))
    }

    fn dead_letter_count(&self, uid: &str) -> Result<u64, Error> {
        self.read("count dead letters", |t| resources::dead_letter_count(t, uid))
    }

    fn set_sink_paused(&self, uid: &str, paused: bool) -> Result<(), Error> {
        self.write("pause a sink", |t| {
            let state = resources::state(t, uid)?;
            resources::set_state(t, uid, &SinkState { paused, ..state })
        })
    }

    fn begin_replay(&self, uid: &str, now_us: i64) -> Result<(u64, u64), Error> {
        self.write("begin a replay", |t| resources::begin_replay(t, uid, now_us))
    }

    fn sink_ledger(&self, uid: &str) -> Result<Option<(u64, String)>, Error> {
        self.read("read the ledger of a sink", |t| resources::ledger(t, uid))
    }

    fn replace_sink_ledger(&self, uid: &str, version: u64, ledger: &str) -> Result<(), Error> {
        self.write("write the ledger of a sink", |t| resources::replace_ledger(t, uid, version, ledger))
    }

    fn pending_replay(&self, uid: &str) -> Result<Option<(u64, Vec<SinkDeadLetter>)>, Error> {
        self.read("look for a replay", |t| resources::pending_replay(t, uid))
    }

    fn requeue_dead_letters(&self, uid: &str, letters: &[SinkDeadLetter]) -> Result<(), Error> {
        self.write("take letters out of a replay", |t| resources::requeue(t, uid, letters))
    }

    fn end_replay(&self, uid: &str, replay: u64) -> Result<(), Error> {
        self.write("end a replay", |t| resources::end_replay(t, uid, replay))
    }

    fn purge_dead_letters(&self, uid: &str) -> Result<u64, Error> {
        self.write("purge dead letters", |t| resources::purge(t, uid))
    }
}

/// Either SQLite failed, or the change was refused for a reason of ours.
pub(crate) enum Failure {
    Sqlite(rusqlite::Error),
    Refused(Error),
}

impl Failure {
    fn during(self, doing: &'static str) -> Error {
        match self {
            Self::Sqlite(source) => Error::Sqlite { doing, source },
            Self::Refused(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn connect(path: &Utf8Path) -> Result<Connection, Error> {
    let sqlite = |source| Error::Sqlite { doing: "open the metadata store", source };
    let connection = Connection::open(path.as_std_path()).map_err(sqlite)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(sqlite)?;
    connection.pragma_update(None, "synchronous", "full").map_err(sqlite)?;
    Ok(connection)
}

/// Reads every page once. The file is a catalogue, not data: megabytes at most.
fn check(connection: &Connection, path: &Utf8Path) -> Result<(), Error> {
    let sqlite = |source| Error::Sqlite { doing: "check the metadata store", source };
    let found: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sqlite)?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(Error::Damaged { path: path.to_owned(), found }),
    }
}

/// Gives the database and its log another name. Its shared memory holds nothing of its own.
fn put_aside(path: &Utf8Path) -> Result<Utf8PathBuf, Error> {
    let aside = (1u32..).map(|number| Utf8PathBuf::from(format!("{path}.damaged-{number}")));
    let aside =
        aside.into_iter().find(|aside| !aside.exists()).unwrap_or_else(|| format!("{path}.damaged").into());
    let moved = |from: &str, to: &str| match std::fs::rename(from, to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::PutAside { path: from.into(), source: error })
        }
        _ => Ok(()),
    };
    // The log first: a new database must never meet the log of the old one.
    moved(&format!("{path}-wal"), &format!("{aside}-wal"))?;
    moved(&format!("{path}-shm"), &format!("{aside}-shm"))?;
    moved(path.as_str(), aside.as_str())?;
    Ok(aside)
}

/// A panic while the lock was held rolled its transaction back, so the connection is as good as before.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SQLite has no unsigned 64-bit integer; the bits are kept.
pub(crate) fn signed(number: u64) -> i64 {
    number.cast_signed()
}

pub(crate) fn unsigned(number: i64) -> u64 {
    number.cast_unsigned()
}

pub(crate) fn name<T: std::str::FromStr>(text: String) -> Result<T, Failure> {
    text.parse().map_err(|_| Failure::Refused(Error::Unreadable(text)))
}

fn node_of(row: &Row<'_>) -> Result<NodeRecord, Failure> {
    Ok(NodeRecord {
        node: name(row.get(0)?)?,
        first_seen_us: row.get(1)?,
        last_seen_us: row.get(2)?,
        store_id: row.get(3)?,
        generation: unsigned(row.get(4)?),
        epoch: Epoch(unsigned(row.get(5)?)),
        agent_version: row.get(6)?,
    })
}

fn streams(t: &Transaction<'_>) -> Result<Vec<StreamRecord>, Failure> {
    let mut statement = t.prepare_cached(
        "SELECT s.stream, rows, batches, s.bytes, raw_bytes, rows_skipped, newest_us, landed_us, r.hours, r.bytes
         FROM streams s LEFT JOIN retention r ON r.stream = s.stream ORDER BY s.stream",
    )?;
    let mut columns = t.prepare_cached("SELECT name, type FROM columns WHERE stream = ?1 ORDER BY place")?;
    let mut rows = statement.query([])?;
    let mut out = vec![];
    while let Some(row) = rows.next()? {
        let stream: String = row.get(0)?;
        let hours: Option<i64> = row.get(8)?;
        let bytes: Option<i64> = row.get(9)?;
        let named = columns.query_map([&stream], |row| Ok((row.get(0)?, row.get(1)?)))?;
        out.push(StreamRecord {
            columns: named.collect::<Result<_, _>>()?,
            stream: name(stream)?,
            counts: RowCounts {
                rows: unsigned(row.get(1)?),
                batches: unsigned(row.get(2)?),
                bytes: unsigned(row.get(3)?),
                raw_bytes: unsigned(row.get(4)?),
                rows_skipped: unsigned(row.get(5)?),
                newest_us: row.get(6)?,
                landed_us: row.get(7)?,
            },
            retention: hours
                .zip(bytes)
                .map(|(h, b)| Retention { hours: unsigned(h), bytes: ByteCount(unsigned(b)) }),
        });
    }
    Ok(out)
}

fn files(t: &Transaction<'_>) -> Result<Vec<LakeFile>, Failure> {
    let mut statement = t.prepare_cached(
        "SELECT stream, path, rows, bytes, memory_bytes, ts_min_us, ts_max_us, ranges, created_us
         FROM files ORDER BY stream, id",
    )?;
    let mut rows = statement.query([])?;
    let mut out = vec![];
    while let Some(row) = rows.next()? {
        let ranges: String = row.get(7)?;
        out.push(LakeFile {
            stream: name(row.get(0)?)?,
            path: row.get(1)?,
            rows: unsigned(row.get(2)?),
            bytes: unsigned(row.get(3)?),
            memory_bytes: unsigned(row.get(4)?),
            ts_min_us: row.get(5)?,
            ts_max_us: row.get(6)?,
            ranges: serde_json::from_str(&ranges).map_err(|_| Failure::Refused(Error::Unreadable(ranges)))?,
            created_us: row.get(8)?,
        });
    }
    Ok(out)
}

/// A table of sequences by stream key.
fn keyed(
    t: &Transaction<'_>,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<(StreamKey, Sequence)>, Failure> {
    let mut statement = t.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut out = vec![];
    while let Some(row) = rows.next()? {
        let key = StreamKey {
            node: name(row.get(0)?)?,
            epoch: Epoch(unsigned(row.get(1)?)),
            stream: name(row.get(2)?)?,
        };
        out.push((key, Sequence(unsigned(row.get(3)?))));
    }
    Ok(out)
}

fn cursor(t: &Transaction<'_>, key: &StreamKey) -> Result<Sequence, Failure> {
    let through: Option<i64> = t
        .query_row(
            "SELECT through FROM cursors WHERE node = ?1 AND epoch = ?2 AND stream = ?3",
            params![key.node.as_str(), signed(key.epoch.0), key.stream.as_str()],
            |row| row.get(0),
        )
        .optional()?;
    Ok(Sequence(unsigned(through.unwrap_or(0))))
}

fn put_cursor(t: &Transaction<'_>, key: &StreamKey, to: Sequence) -> Result<(), Failure> {
    t.execute(
        "INSERT OR REPLACE INTO cursors VALUES (?1, ?2, ?3, ?4)",
        params![key.node.as_str(), signed(key.epoch.0), key.stream.as_str(), signed(to.0)],
    )?;
    Ok(())
}

fn put_deleted(t: &Transaction<'_>, key: &StreamKey, through: Sequence) -> Result<(), Failure> {
    t.execute(
        "INSERT OR REPLACE INTO deleted VALUES (?1, ?2, ?3, ?4)",
        params![key.node.as_str(), signed(key.epoch.0), key.stream.as_str(), signed(through.0)],
    )?;
    Ok(())
}

fn move_cursor(t: &Transaction<'_>, change: &CursorMove) -> Result<(), Failure> {
    let found = cursor(t, &change.key)?;
    if found != change.from {
        let key = change.key.clone();
        return Err(Failure::Refused(Error::CutMoved { key, expected: change.from, found }));
    }
    put_cursor(t, &change.key, change.to)
}

fn raise_cursor(t: &Transaction<'_>, key: &StreamKey, floor: Sequence) -> Result<(), Failure> {
    if cursor(t, key)? < floor { put_cursor(t, key, floor) } else { Ok(()) }
}

fn insert_file(t: &Transaction<'_>, file: &LakeFile) -> Result<(), Failure> {
    let ranges = serde_json::to_string(&file.ranges).unwrap_or_else(|_| "[]".to_owned());
    t.execute(
        "INSERT INTO files (stream, path, rows, bytes, memory_bytes, ts_min_us, ts_max_us, ranges, created_us)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            file.stream.as_str(),
            file.path,
            signed(file.rows),
            signed(file.bytes),
            signed(file.memory_bytes),
            file.ts_min_us,
            file.ts_max_us,
            ranges,
            file.created_us
        ],
    )?;
    Ok(())
}

fn add_counts(t: &Transaction<'_>, stream: &StreamName, counts: &RowCounts) -> Result<(), Failure> {
    t.execute("INSERT OR IGNORE INTO streams (stream) VALUES (?1)", [stream.as_str()])?;
    t.execute(
        "UPDATE streams SET rows = rows + ?2, batches = batches + ?3, bytes = bytes + ?4, raw_bytes = raw_bytes + ?5,
         rows_skipped = rows_skipped + ?6, newest_us = max(newest_us, ?7), landed_us = max(landed_us, ?8)
         WHERE stream = ?1",
        params![
            stream.as_str(),
            signed(counts.rows),
            signed(counts.batches),
            signed(counts.bytes),
            signed(counts.raw_bytes),
            signed(counts.rows_skipped),
            counts.newest_us,
            counts.landed_us
        ],
    )?;
    Ok(())
}

fn merge_columns(
    t: &Transaction<'_>,
    stream: &StreamName,
    columns: &[(String, String)],
) -> Result<(), Failure> {
    let mut statement =
        t.prepare_cached("SELECT name, type FROM columns WHERE stream = ?1 ORDER BY place")?;
    let named = statement.query_map([stream.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let before: Vec<(String, String)> = named.collect::<Result<_, _>>()?;
    let mut known = before.clone();
    unite_columns(&mut known, columns);
    for (place, (name, kind)) in
        known.iter().enumerate().filter(|(place, now)| before.get(*place) != Some(now))
    {
        t.execute(
            "INSERT INTO columns (stream, place, name, type) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (stream, name) DO UPDATE SET type = ?4",
            params![stream.as_str(), i64::try_from(place).unwrap_or(i64::MAX), name, kind],
        )?;
    }
    Ok(())
}
