//! Nodes, streams, files and cuts.

use aap_store::{
    Catalogue, CursorMove, Deleted, Error, LakeCommit, LakeFile, NodeRecord, Retention, RowCounts,
    StreamRecord,
};
use aap_types::{ByteCount, Epoch, NodeId, Sequence, StreamKey, StreamName, unite_columns};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::line::Failure;
use crate::connection::Session;

/// PostgreSQL has no unsigned 64-bit integer; the bits are kept.
pub(super) fn signed(number: u64) -> i64 {
    number.cast_signed()
}

pub(super) fn unsigned(row: &Row, at: usize) -> u64 {
    row.get::<_, i64>(at).cast_unsigned()
}

pub(super) fn name<T: std::str::FromStr>(row: &Row, at: usize) -> Result<T, Failure> {
    let text: &str = row.get(at);
    text.parse().map_err(|_| Failure::Refused(Error::Unreadable(text.to_owned())))
}

/// The key in three columns from `at` on.
pub(super) fn key(row: &Row, at: usize) -> Result<StreamKey, Failure> {
    Ok(StreamKey { node: name(row, at)?, epoch: Epoch(unsigned(row, at + 1)), stream: name(row, at + 2)? })
}

pub(super) async fn record_node(s: &Session, node: &NodeRecord) -> Result<(), Failure> {
    let sql = "INSERT INTO nodes VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (node) DO UPDATE SET \
               last_seen_us = $3, store_id = $4, generation = $5, epoch = $6, agent_version = $7";
    s.execute(
        "record node",
        sql,
        &[
            (&node.node.as_str(), Type::TEXT),
            (&node.first_seen_us, Type::INT8),
            (&node.last_seen_us, Type::INT8),
            (&node.store_id, Type::BYTEA),
            (&signed(node.generation), Type::INT8),
            (&signed(node.epoch.0), Type::INT8),
            (&node.agent_version, Type::TEXT),
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn nodes(s: &Session, only: Option<&NodeId>) -> Result<Vec<NodeRecord>, Failure> {
    let sql = "SELECT * FROM nodes WHERE $1::text IS NULL OR node = $1 ORDER BY node";
    let rows = s.query("read nodes", sql, &[(&only.map(NodeId::as_str), Type::TEXT)]).await?;
    let node = |row: &Row| {
        Ok(NodeRecord {
            node: name(row, 0)?,
            first_seen_us: row.get(1),
            last_seen_us: row.get(2),
            store_id: row.get(3),
            generation: unsigned(row, 4),
            epoch: Epoch(unsigned(row, 5)),
            agent_version: row.get(6),
        })
    };
    rows.iter().map(node).collect()
}

pub(super) async fn catalogue(s: &Session) -> Result<Catalogue, Failure> {
    Ok(Catalogue {
        version: version(s).await?,
        streams: streams(s).await?,
        files: files(s, None).await?,
        cursors: keyed(s, "SELECT node, epoch, stream, through FROM cursors ORDER BY 1, 2, 3").await?,
        deleted: deletions(s, None).await?,
    })
}

pub(super) async fn version(s: &Session) -> Result<u64, Failure> {
    let version = s.query("read the version", "SELECT version FROM lake", &[]).await?;
    Ok(version.first().map_or(0, |row| unsigned(row, 0)))
}

async fn streams(s: &Session) -> Result<Vec<StreamRecord>, Failure> {
    let sql = "SELECT stream, name, type FROM columns ORDER BY stream, place";
    let columns = s.query("read columns", sql, &[]).await?;
    let sql = "SELECT s.stream, rows, batches, s.bytes, raw_bytes, rows_skipped, newest_us, landed_us, r.hours, r.bytes \
               FROM streams s LEFT JOIN retention r ON r.stream = s.stream ORDER BY s.stream";
    let rows = s.query("read streams", sql, &[]).await?;
    let stream = |row: &Row| {
        let stream: StreamName = name(row, 0)?;
        let of_it = columns.iter().filter(|column| column.get::<_, &str>(0) == stream.as_str());
        let (hours, bytes): (Option<i64>, Option<i64>) = (row.get(8), row.get(9));
        Ok(StreamRecord {
            columns: of_it.map(|column| (column.get(1), column.get(2))).collect(),
            stream,
            counts: RowCounts {
                rows: unsigned(row, 1),
                batches: unsigned(row, 2),
                bytes: unsigned(row, 3),
                raw_bytes: unsigned(row, 4),
                rows_skipped: unsigned(row, 5),
                newest_us: row.get(6),
                landed_us: row.get(7),
            },
            retention: hours.zip(bytes).map(|(hours, bytes)| Retention {
                hours: hours.cast_unsigned(),
                bytes: ByteCount(bytes.cast_unsigned()),
            }),
        })
    };
    rows.iter().map(stream).collect()
}

async fn files(s: &Session, only: Option<&StreamName>) -> Result<Vec<LakeFile>, Failure> {
    let sql = "SELECT stream, path, rows, bytes, memory_bytes, ts_min_us, ts_max_us, ranges, created_us FROM files \
               WHERE $1::text IS NULL OR stream = $1 ORDER BY stream, id";
    let rows = s.query("read files", sql, &[(&only.map(StreamName::as_str), Type::TEXT)]).await?;
    let file = |row: &Row| {
        let ranges: &str = row.get(7);
        Ok(LakeFile {
            stream: name(row, 0)?,
            path: row.get(1),
            rows: unsigned(row, 2),
            bytes: unsigned(row, 3),
            memory_bytes: unsigned(row, 4),
            ts_min_us: row.get(5),
            ts_max_us: row.get(6),
            ranges: serde_json::from_str(ranges)
                .map_err(|_| Failure::Refused(Error::Unreadable(ranges.to_owned())))?,
            created_us: row.get(8),
        })
    };
    rows.iter().map(file).collect()
}

async fn keyed(s: &Session, sql: &str) -> Result<Vec<(StreamKey, Sequence)>, Failure> {
    let rows = s.query("read sequences", sql, &[]).await?;
    rows.iter().map(|row| Ok((key(row, 0)?, Sequence(unsigned(row, 3))))).collect()
}

pub(super) async fn deletions(
    s: &Session,
    only: Option<&NodeId>,
) -> Result<Vec<(StreamKey, Sequence)>, Failure> {
    let sql = "SELECT node, epoch, stream, through FROM deleted WHERE $1::text IS NULL OR node = $1 ORDER BY 1, 2, 3";
    let rows = s.query("read deletions", sql, &[(&only.map(NodeId::as_str), Type::TEXT)]).await?;
    rows.iter().map(|row| Ok((key(row, 0)?, Sequence(unsigned(row, 3))))).collect()
}

pub(super) async fn commit(s: &Session, commit: &LakeCommit) -> Result<(), Failure> {
    for change in &commit.cursors {
        move_cursor(s, change).await?;
    }
    for path in &commit.remove {
        let removed =
            s.execute("hide a file", "DELETE FROM files WHERE path = $1", &[(path, Type::TEXT)]).await?;
        if removed == 0 {
            return Err(Failure::Refused(Error::FileGone(path.clone())));
        }
    }
    for file in &commit.add {
        insert_file(s, file).await?;
    }
    add_counts(s, &commit.stream, &commit.counts).await?;
    merge_columns(s, &commit.stream, &commit.columns).await?;
    next_version(s).await
}

async fn next_version(s: &Session) -> Result<(), Failure> {
    s.execute("count the change", "UPDATE lake SET version = version + 1", &[]).await?;
    Ok(())
}

pub(super) async fn declare(
    s: &Session,
    stream: &StreamName,
    columns: &[(String, String)],
) -> Result<(), Failure> {
    add_counts(s, stream, &RowCounts::default()).await?;
    merge_columns(s, stream, columns).await
}

pub(super) async fn delete_stream(
    s: &Session,
    stream: &StreamName,
    floors: &[(StreamKey, Sequence)],
    now_us: i64,
) -> Result<Deleted, Failure> {
    let files = files(s, Some(stream)).await?;
    for (key, floor) in floors {
        if cursor(s, key).await? < *floor {
            put(s, "cursors", key, *floor).await?;
        }
        if key.stream == *stream {
            put(s, "deleted", key, *floor).await?;
        }
    }
    for table in ["files", "columns", "streams"] {
        let sql = format!("DELETE FROM {table} WHERE stream = $1");
        s.execute("forget the stream", &sql, &[(&stream.as_str(), Type::TEXT)]).await?;
    }
    let count = i64::try_from(files.len()).unwrap_or(i64::MAX);
    let sql = "INSERT INTO deletions VALUES ($1, $2, $3)";
    let values = [(&stream.as_str() as _, Type::TEXT), (&now_us as _, Type::INT8), (&count as _, Type::INT8)];
    s.execute("note the deletion", sql, &values).await?;
    next_version(s).await?;
    Ok(Deleted { files })
}

pub(super) async fn restore(s: &Session, catalogue: &Catalogue) -> Result<(), Failure> {
    s.batch("empty the catalogue", "TRUNCATE files, cursors, deleted, streams, columns").await?;
    for file in &catalogue.files {
        insert_file(s, file).await?;
    }
    for (key, through) in &catalogue.cursors {
        put(s, "cursors", key, *through).await?;
    }
    for (key, through) in &catalogue.deleted {
        put(s, "deleted", key, *through).await?;
    }
    for stream in &catalogue.streams {
        add_counts(s, &stream.stream, &stream.counts).await?;
        merge_columns(s, &stream.stream, &stream.columns).await?;
        if let Some(keep) = &stream.retention {
            put_retention(s, &stream.stream, keep, "DO NOTHING").await?;
        }
    }
    let version = signed(catalogue.version);
    s.execute("set the version", "UPDATE lake SET version = $1", &[(&version, Type::INT8)]).await?;
    Ok(())
}

pub(super) async fn set_retention(
    s: &Session,
    stream: &StreamName,
    retention: Option<&Retention>,
) -> Result<(), Failure> {
    match retention {
        Some(keep) => put_retention(s, stream, keep, "(stream) DO UPDATE SET hours = $2, bytes = $3").await,
        None => {
            let sql = "DELETE FROM retention WHERE stream = $1";
            s.execute("withdraw a retention", sql, &[(&stream.as_str(), Type::TEXT)]).await?;
            Ok(())
        }
    }
}

async fn put_retention(
    s: &Session,
    stream: &StreamName,
    keep: &Retention,
    on_conflict: &str,
) -> Result<(), Failure> {
    let sql = format!("INSERT INTO retention VALUES ($1, $2, $3) ON CONFLICT {on_conflict}");
    let (hours, bytes) = (signed(keep.hours), signed(keep.bytes.0));
    let values = [(&stream.as_str() as _, Type::TEXT), (&hours as _, Type::INT8), (&bytes as _, Type::INT8)];
    s.execute("write a retention", &sql, &values).await?;
    Ok(())
}

async fn cursor(s: &Session, key: &StreamKey) -> Result<Sequence, Failure> {
    let sql = "SELECT through FROM cursors WHERE node = $1 AND epoch = $2 AND stream = $3";
    let epoch = signed(key.epoch.0);
    let values = [
        (&key.node.as_str() as _, Type::TEXT),
        (&epoch as _, Type::INT8),
        (&key.stream.as_str() as _, Type::TEXT),
    ];
    let rows = s.query("read a cut", sql, &values).await?;
    Ok(Sequence(rows.first().map_or(0, |row| unsigned(row, 0))))
}

/// Sets the sequence of a key in one of the tables that have one.
async fn put(s: &Session, table: &str, key: &StreamKey, through: Sequence) -> Result<(), Failure> {
    let sql = format!(
        "INSERT INTO {table} VALUES ($1, $2, $3, $4) ON CONFLICT (node, epoch, stream) DO UPDATE SET through = $4"
    );
    let (epoch, through) = (signed(key.epoch.0), signed(through.0));
    let values = [
        (&key.node.as_str() as _, Type::TEXT),
        (&epoch as _, Type::INT8),
        (&key.stream.as_str() as _, Type::TEXT),
        (&through as _, Type::INT8),
    ];
    s.execute("write a sequence", &sql, &values).await?;
    Ok(())
}

async fn move_cursor(s: &Session, change: &CursorMove) -> Result<(), Failure> {
    let found = cursor(s, &change.key).await?;
    if found != change.from {
        let key = change.key.clone();
        return Err(Failure::Refused(Error::CutMoved { key, expected: change.from, found }));
    }
    put(s, "cursors", &change.key, change.to).await
}

async fn insert_file(s: &Session, file: &LakeFile) -> Result<(), Failure> {
    let ranges = serde_json::to_string(&file.ranges).unwrap_or_else(|_| "[]".to_owned());
    let sql = "INSERT INTO files (stream, path, rows, bytes, memory_bytes, ts_min_us, ts_max_us, ranges, created_us) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    s.execute(
        "add a file",
        sql,
        &[
            (&file.stream.as_str(), Type::TEXT),
            (&file.path, Type::TEXT),
            (&signed(file.rows), Type::INT8),
            (&signed(file.bytes), Type::INT8),
            (&signed(file.memory_bytes), Type::INT8),
            (&file.ts_min_us, Type::INT8),
            (&file.ts_max_us, Type::INT8),
            (&ranges, Type::TEXT),
            (&file.created_us, Type::INT8),
        ],
    )
    .await?;
    Ok(())
}

async fn add_counts(s: &Session, stream: &StreamName, counts: &RowCounts) -> Result<(), Failure> {
    let sql = "INSERT INTO streams VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (stream) DO UPDATE SET \
               rows = streams.rows + $2, batches = streams.batches + $3, bytes = streams.bytes + $4, \
               raw_bytes = streams.raw_bytes + $5, rows_skipped = streams.rows_skipped + $6, \
               newest_us = greatest(streams.newest_us, $7), landed_us = greatest(streams.landed_us, $8)";
    s.execute(
        "count rows",
        sql,
        &[
            (&stream.as_str(), Type::TEXT),
            (&signed(counts.rows), Type::INT8),
            (&signed(counts.batches), Type::INT8),
            (&signed(counts.bytes), Type::INT8),
            (&signed(counts.raw_bytes), Type::INT8),
            (&signed(counts.rows_skipped), Type::INT8),
            (&counts.newest_us, Type::INT8),
            (&counts.landed_us, Type::INT8),
        ],
    )
    .await?;
    Ok(())
}

async fn merge_columns(
    s: &Session,
    stream: &StreamName,
    columns: &[(String, String)],
) -> Result<(), Failure> {
    let sql = "SELECT name, type FROM columns WHERE stream = $1 ORDER BY place";
    let rows = s.query("read columns", sql, &[(&stream.as_str(), Type::TEXT)]).await?;
    let before: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut known = before.clone();
    unite_columns(&mut known, columns);
    let changed = known.iter().enumerate().filter(|(place, now)| before.get(*place) != Some(now));
    for (place, (name, kind)) in changed {
        let sql =
            "INSERT INTO columns VALUES ($1, $2, $3, $4) ON CONFLICT (stream, name) DO UPDATE SET type = $4";
        let place = i64::try_from(place).unwrap_or(i64::MAX);
        let values = [
            (&stream.as_str() as _, Type::TEXT),
            (&place as _, Type::INT8),
            (name as _, Type::TEXT),
            (kind as _, Type::TEXT),
        ];
        s.execute("write a column", sql, &values).await?;
    }
    Ok(())
}
