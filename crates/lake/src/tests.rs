//! What the lake promises, seen through the seam as a query sees it.

#![expect(clippy::disallowed_methods, reason = "tests own the tasks they spawn")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use aap_buffer::scan::Scanner;
use aap_buffer::{Buffer, BufferConfig, EncodedBatch, Encoder, Entry, FrameSchema, RealFileSystem};
use aap_runtime::{Clock, ManualClock};
use aap_store::{
    Catalogue, Deleted, LakeCommit, MetadataStore, NodeRecord, Retention, RowCounts, SqliteStore,
};
use aap_types::{BatchId, ByteCount, Digest, Epoch, NodeId, Sequence, StreamKey, StreamName};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{
    Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use bytes::Bytes;
use camino::Utf8PathBuf;

use crate::{CONSUMER, Error, FrameInfo, Lake, LakeConfig, LakeDependencies, parquet_file};

const START_MS: u64 = 1_700_000_000_000;

/// A landing buffer and a lake over it, on a real disk.
struct Rig {
    home: Utf8PathBuf,
    _directory: tempfile::TempDir,
    clock: Arc<ManualClock>,
    buffer: Buffer,
    store: Arc<Faulty>,
    lake: Lake,
}

impl Rig {
    async fn new(config: LakeConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
        let clock = Arc::new(ManualClock::at(START_MS));
        let (buffer, store) = (open_buffer(&home, &clock).await, open_store(&home));
        let lake = open_lake(&home, &clock, &buffer, &store, config).await.unwrap();
        Self { home, _directory: directory, clock, buffer, store, lake }
    }

    /// As after the death of the process: nothing in memory survives.
    async fn restart(&mut self, config: LakeConfig) {
        let buffer = self.buffer.clone();
        tokio::task::spawn_blocking(move || buffer.close()).await.unwrap();
        self.buffer = open_buffer(&self.home, &self.clock).await;
        self.store = open_store(&self.home);
        self.lake = open_lake(&self.home, &self.clock, &self.buffer, &self.store, config).await.unwrap();
    }

    async fn land(&self, key: &StreamKey, sequence: u64, rows: RecordBatch) {
        land(&self.buffer, &self.lake, key, sequence, rows).await;
    }

    /// Every row a query would see, by identity, and how often.
    fn visible(&self, stream: &str) -> BTreeMap<(String, u64, u64), u64> {
        visible(&self.buffer, &self.lake, &stream.parse().unwrap())
    }

    fn files(&self) -> Vec<aap_store::LakeFile> {
        self.lake.catalogue().unwrap().files
    }
}

async fn open_buffer(home: &Utf8PathBuf, clock: &Arc<ManualClock>) -> Buffer {
    let config = BufferConfig {
        segment_bytes: ByteCount::kib(64),
        retain: ByteCount(0),
        landing_consumer: CONSUMER.to_owned(),
        ..BufferConfig::new(home.join("landing"), "coordinator".parse().unwrap())
    };
    let clock = clock.clone();
    let opened = tokio::task::spawn_blocking(move || Buffer::open(Arc::new(RealFileSystem), clock, config));
    opened.await.unwrap().unwrap().buffer
}

fn open_store(home: &Utf8PathBuf) -> Arc<Faulty> {
    let store = SqliteStore::open(&home.join("meta.db")).unwrap();
    Arc::new(Faulty { store, fault: AtomicU8::new(NONE) })
}

async fn open_lake(
    home: &Utf8PathBuf,
    clock: &Arc<ManualClock>,
    buffer: &Buffer,
    store: &Arc<Faulty>,
    config: LakeConfig,
) -> Result<Lake, Error> {
    let (store, clock): (Arc<dyn MetadataStore>, Arc<dyn Clock>) = (store.clone(), clock.clone());
    let dependencies = LakeDependencies { buffer: buffer.clone(), store, clock, root: home.join("lake") };
    Lake::open(dependencies, config).await
}

const NONE: u8 = 0;
const BEFORE_COMMIT: u8 = 1;
const AFTER_COMMIT: u8 = 2;

/// A store whose commit fails before or after it took effect: what a crash there leaves.
#[derive(Debug)]
struct Faulty {
    store: SqliteStore,
    fault: AtomicU8,
}

impl MetadataStore for Faulty {
    fn record_node(&self, node: &NodeRecord) -> Result<(), aap_store::Error> {
        self.store.record_node(node)
    }
    fn nodes(&self) -> Result<Vec<NodeRecord>, aap_store::Error> {
        self.store.nodes()
    }
    fn node(&self, node: &NodeId) -> Result<Option<NodeRecord>, aap_store::Error> {
        self.store.node(node)
    }
    fn catalogue(&self) -> Result<Catalogue, aap_store::Error> {
        self.store.catalogue()
    }
    fn commit(&self, commit: &LakeCommit) -> Result<(), aap_store::Error> {
        let crash = || aap_store::Error::Unreadable("crash".to_owned());
        match self.fault.load(Ordering::SeqCst) {
            BEFORE_COMMIT => Err(crash()),
            AFTER_COMMIT => self.store.commit(commit).and_then(|()| Err(crash())),
            _ => self.store.commit(commit),
        }
    }
    fn declare_columns(
        &self,
        stream: &StreamName,
        columns: &[(String, String)],
    ) -> Result<(), aap_store::Error> {
        self.store.declare_columns(stream, columns)
    }
    fn delete_stream(
        &self,
        stream: &StreamName,
        floors: &[(StreamKey, Sequence)],
        now_us: i64,
    ) -> Result<Deleted, aap_store::Error> {
        self.store.delete_stream(stream, floors, now_us)
    }
    fn restore(&self, catalogue: &Catalogue) -> Result<(), aap_store::Error> {
        self.store.restore(catalogue)
    }
    fn set_retention(&self, stream: &StreamName, keep: Option<&Retention>) -> Result<(), aap_store::Error> {
        self.store.set_retention(stream, keep)
    }
}

fn key(node: &str, stream: &str) -> StreamKey {
    StreamKey { node: node.parse().unwrap(), epoch: Epoch(7), stream: stream.parse().unwrap() }
}

/// Three rows, the newest first, `hours` after the start.
fn rows(hours: i64) -> RecordBatch {
    let at = i64::try_from(START_MS).unwrap() * 1000 + hours * 3_600_000_000;
    with_column(at, "n", Arc::new(Int64Array::from(vec![1, 2, 3])))
}

fn with_column(at: i64, name: &str, column: ArrayRef) -> RecordBatch {
    let times = (0..column.len()).map(|row| at - i64::try_from(row).unwrap());
    let ts: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"));
    RecordBatch::try_from_iter([("ts", ts), (name, column)]).unwrap()
}

fn encoded(rows: &RecordBatch) -> EncodedBatch {
    Encoder::new().encode(rows, &FrameSchema::of(rows.schema()), 1000).unwrap()
}

async fn land(buffer: &Buffer, lake: &Lake, key: &StreamKey, sequence: u64, rows: RecordBatch) {
    let id = BatchId { key: key.clone(), sequence: Sequence(sequence) };
    let batch = encoded(&rows);
    let digest = Digest::of(&id, &[], &batch.payload);
    let counts =
        RowCounts { rows: u64::from(batch.rows), batches: 1, raw_bytes: 1000, ..RowCounts::default() };
    let entry = Entry::Landed { id: id.clone(), digest, positions: Bytes::new(), sealed_us: 1, batch };
    buffer.append(vec![entry]).await.unwrap();
    lake.waiting().landed([FrameInfo { id, counts }]);
}

/// Reads files and frames as the documentation of the seam says: pin, snapshot, catalogue.
fn visible(buffer: &Buffer, lake: &Lake, stream: &StreamName) -> BTreeMap<(String, u64, u64), u64> {
    let _pin = lake.pin();
    let snapshot = buffer.snapshot(Some(std::slice::from_ref(stream)));
    let catalogue = lake.catalogue().unwrap();
    let mut seen = BTreeMap::new();
    for file in catalogue.files.iter().filter(|file| file.stream == *stream) {
        let bytes = Bytes::from(std::fs::read(lake.locate(&file.path)).expect("a pinned file is there"));
        for batch in parquet_file::decode(bytes).unwrap() {
            let node = batch.column_by_name("_node").unwrap().as_string::<i32>();
            let sequence = batch.column_by_name("_seq").unwrap().as_primitive::<UInt64Type>();
            let row = batch.column_by_name("_row").unwrap().as_primitive::<UInt64Type>();
            for at in 0..batch.num_rows() {
                *seen.entry((node.value(at).to_owned(), sequence.value(at), row.value(at))).or_default() += 1;
            }
        }
    }
    for segment in &snapshot.segments {
        for frame in Scanner::open(segment).expect("a pinned segment is there") {
            let frame = frame.unwrap();
            let cut = catalogue.cursors.iter().find(|(key, _)| *key == frame.id.key);
            let cut = cut.map_or(Sequence::ZERO, |(_, cut)| *cut);
            if frame.id.key.stream == *stream && !frame.is_skip && frame.id.sequence > cut {
                for row in 0..u64::from(frame.rows) {
                    *seen.entry((frame.id.key.node.to_string(), frame.id.sequence.0, row)).or_default() += 1;
                }
            }
        }
    }
    seen
}

fn expected(nodes: &[&str], batches: std::ops::RangeInclusive<u64>) -> BTreeSet<(String, u64, u64)> {
    let of_node = |node: &str| {
        let node = node.to_owned();
        batches.clone().flat_map(move |batch| {
            let node = node.clone();
            (0..3).map(move |row| (node.clone(), batch, row))
        })
    };
    nodes.iter().flat_map(|node| of_node(node).collect::<Vec<_>>()).collect()
}

fn check_once(seen: &BTreeMap<(String, u64, u64), u64>, expected: &BTreeSet<(String, u64, u64)>) {
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "not once: {twice:?}");
    assert_eq!(&seen.keys().cloned().collect::<BTreeSet<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_query_sees_every_landed_row_once_while_files_are_made_and_merged() {
    const BATCHES: u64 = 120;
    let config = LakeConfig { file_bytes: ByteCount(3000), compact_files: 3, ..LakeConfig::default() };
    let rig = Rig::new(config).await;
    let done = Arc::new(AtomicBool::new(false));
    let (buffer, lake) = (rig.buffer.clone(), rig.lake.clone());
    let landing = tokio::spawn(async move {
        for batch in 1..=BATCHES {
            for node in ["n1", "n2"] {
                land(&buffer, &lake, &key(node, "logs"), batch, rows(i64::try_from(batch / 50).unwrap()))
                    .await;
            }
        }
    });
    let (lake, stop) = (rig.lake.clone(), done.clone());
    let maintaining = tokio::spawn(async move {
        let mut merged = 0;
        while !stop.load(Ordering::SeqCst) {
            lake.load(&"logs".parse().unwrap()).await.unwrap();
            merged += u64::from(lake.compact_once().await.unwrap());
        }
        merged
    });
    let mut queries = 0;
    while !landing.is_finished() {
        let before: BTreeMap<StreamKey, Sequence> = rig.buffer.tails().into_iter().collect();
        let (buffer, lake) = (rig.buffer.clone(), rig.lake.clone());
        let seen = tokio::task::spawn_blocking(move || visible(&buffer, &lake, &"logs".parse().unwrap()))
            .await
            .unwrap();
        queries += 1;
        assert!(seen.values().all(|count| *count == 1), "a row came twice");
        for (key, tail) in before {
            for batch in 1..=tail.0 {
                for row in 0..3 {
                    let id = (key.node.to_string(), batch, row);
                    assert!(seen.contains_key(&id), "{id:?} had landed before the query and is missing");
                }
            }
        }
    }
    landing.await.unwrap();
    rig.lake.load_all().await.unwrap();
    done.store(true, Ordering::SeqCst);
    let merged = maintaining.await.unwrap();
    assert!(queries > 3 && merged > 0, "{queries} queries, {merged} merges: nothing was tried");
    check_once(&rig.visible("logs"), &expected(&["n1", "n2"], 1..=BATCHES));
}

async fn check_crash(fault: u8) {
    let mut rig = Rig::new(LakeConfig::default()).await;
    let key = key("n1", "logs");
    rig.land(&key, 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    rig.land(&key, 2, rows(1)).await;
    rig.store.fault.store(fault, Ordering::SeqCst);
    assert!(rig.lake.load_all().await.is_err());
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=2));

    rig.restart(LakeConfig::default()).await;
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=2));
    rig.lake.load_all().await.unwrap();
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=2));
    let on_disk = rig.lake.inner.storage.parquet_files().unwrap();
    assert_eq!(on_disk.len(), rig.files().len(), "a file that is not visible was left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_the_commit_leaves_the_rows_in_the_buffer_and_no_file() {
    check_crash(BEFORE_COMMIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_commit_leaves_the_rows_in_the_lake() {
    check_crash(AFTER_COMMIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything_and_counts_what_waits() {
    let mut rig = Rig::new(LakeConfig::default()).await;
    let key = key("n1", "logs");
    rig.land(&key, 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    rig.land(&key, 2, rows(1)).await;
    rig.restart(LakeConfig::default()).await;
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=2));
    let waiting = rig.lake.waiting().frames().beyond(&rig.lake.catalogue().unwrap().cursors);
    assert_eq!(waiting.iter().map(|(_, counts)| counts.rows).sum::<u64>(), 3);
    assert_eq!(rig.lake.catalogue().unwrap().streams[0].counts.rows, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_is_empty_and_what_lands_later_makes_it_anew() {
    let mut rig = Rig::new(LakeConfig::default()).await;
    let (logs, other) = (key("n1", "logs"), key("n1", "other"));
    for sequence in 1..=2 {
        rig.land(&logs, sequence, rows(0)).await;
        rig.land(&other, sequence, rows(0)).await;
        if sequence == 1 {
            rig.lake.load_all().await.unwrap();
        }
    }
    // One batch in the lake, one in the buffer: both go.
    assert_eq!(rig.lake.delete(&logs.stream).await.unwrap(), (6, 1));
    assert!(rig.visible("logs").is_empty());
    check_once(&rig.visible("other"), &expected(&["n1"], 1..=2));
    rig.land(&logs, 3, rows(0)).await;
    for _ in 0..2 {
        check_once(&rig.visible("logs"), &expected(&["n1"], 3..=3));
        rig.lake.load_all().await.unwrap();
        rig.restart(LakeConfig::default()).await;
    }
    let on_disk = rig.lake.inner.storage.parquet_files().unwrap();
    assert_eq!(on_disk.iter().filter(|path| path.starts_with("logs/")).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_stays_while_a_reader_may_know_it() {
    let rig = Rig::new(LakeConfig::default()).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    let pin = rig.lake.pin();
    let file = rig.lake.locate(&rig.files()[0].path);
    rig.lake.delete(&"logs".parse().unwrap()).await.unwrap();
    assert!(file.exists());
    drop(pin);
    rig.lake.unlink_unread().await;
    assert!(!file.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_takes_old_files_and_then_the_oldest_that_are_too_much() {
    let keep = |retention: Retention| LakeConfig { retention, ..LakeConfig::default() };
    let mut rig = Rig::new(keep(Retention { hours: 48, bytes: ByteCount(0) })).await;
    let key = key("n1", "logs");
    for (sequence, hours) in [(1, 0), (2, 24), (3, 72)] {
        rig.land(&key, sequence, rows(hours)).await;
        rig.lake.load_all().await.unwrap();
    }
    rig.clock.advance(Duration::from_secs(3600 * 73));
    assert_eq!(rig.lake.expire().await.unwrap(), 2, "49 and 73 hours old");
    check_once(&rig.visible("logs"), &expected(&["n1"], 3..=3));
    assert_eq!(rig.lake.expire().await.unwrap(), 0);

    rig.land(&key, 4, rows(73)).await;
    rig.lake.load_all().await.unwrap();
    rig.restart(keep(Retention { hours: 0, bytes: ByteCount(rig.files()[1].bytes) })).await;
    assert_eq!(rig.lake.expire().await.unwrap(), 1);
    check_once(&rig.visible("logs"), &expected(&["n1"], 4..=4));
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_united_by_name_when_a_stream_changes_its_form() {
    let rig = Rig::new(LakeConfig { compact_files: 2, ..LakeConfig::default() }).await;
    let key = key("n1", "logs");
    let at = i64::try_from(START_MS).unwrap() * 1000;
    let forms: [(&str, ArrayRef); 3] = [
        ("n", Arc::new(Int64Array::from(vec![1]))),
        ("n", Arc::new(Float64Array::from(vec![0.5]))),
        ("extra", Arc::new(StringArray::from(vec!["x"]))),
    ];
    for (sequence, (name, column)) in (1..).zip(forms) {
        rig.land(&key, sequence, with_column(at, name, column)).await;
        rig.lake.load_all().await.unwrap();
    }
    assert!(rig.lake.compact_once().await.unwrap());
    let files = rig.files();
    assert_eq!((files.len(), files[0].rows), (1, 3));
    let bytes = Bytes::from(std::fs::read(rig.lake.locate(&files[0].path)).unwrap());
    let batch = parquet_file::decode(bytes).unwrap().remove(0);
    let numbers = batch.column_by_name("n").unwrap();
    let numbers = numbers.as_primitive::<arrow_array::types::Float64Type>();
    let mut numbers: Vec<Option<f64>> = numbers.iter().collect();
    numbers.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!(numbers, [None, Some(0.5), Some(1.0)]);
    let columns = &rig.lake.catalogue().unwrap().streams[0].columns;
    assert!(columns.contains(&("n".into(), "DOUBLE".into())), "{columns:?}");
    assert!(columns.contains(&("extra".into(), "VARCHAR".into())), "{columns:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_to_the_file_of_their_day_sorted_by_time() {
    let rig = Rig::new(LakeConfig::default()).await;
    // 2023-11-14 22:13:20 UTC, and two hours later.
    for (sequence, hours) in [(1, 2), (2, 0)] {
        rig.land(&key("n1", "logs"), sequence, rows(hours)).await;
    }
    rig.lake.load_all().await.unwrap();
    let files = rig.files();
    let days: Vec<&str> = files.iter().map(|file| file.path.split('/').nth(1).unwrap()).collect();
    assert_eq!(days, ["date=2023-11-14", "date=2023-11-15"]);
    for file in &files {
        let bytes = Bytes::from(std::fs::read(rig.lake.locate(&file.path)).unwrap());
        let batch = parquet_file::decode(bytes).unwrap().remove(0);
        let times = batch.column_by_name("ts").unwrap();
        let times = times.as_primitive::<arrow_array::types::TimestampMicrosecondType>();
        let times: Vec<i64> = times.values().to_vec();
        assert!(times.is_sorted());
        assert_eq!((file.ts_min_us, file.ts_max_us), (times[0], times[2]));
        assert_eq!((file.rows, file.ranges.len()), (3, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_catalogue_comes_back_from_the_manifest_and_files_without_one_are_not_swept() {
    let mut rig = Rig::new(LakeConfig::default()).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    let before = rig.lake.catalogue().unwrap();
    let lose = |home: &Utf8PathBuf| {
        for name in ["meta.db", "meta.db-wal", "meta.db-shm"] {
            let _absent = std::fs::remove_file(home.join(name));
        }
    };
    rig.store = Arc::new(Faulty {
        store: SqliteStore::open(&rig.home.join("other.db")).unwrap(),
        fault: AtomicU8::new(NONE),
    });
    lose(&rig.home);
    rig.restart(LakeConfig::default()).await;
    assert_eq!(rig.lake.catalogue().unwrap(), before);
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=1));

    lose(&rig.home);
    std::fs::remove_dir_all(rig.lake.locate("_manifest")).unwrap();
    let store = Arc::new(Faulty {
        store: SqliteStore::open(&rig.home.join("third.db")).unwrap(),
        fault: AtomicU8::new(NONE),
    });
    let opened = open_lake(&rig.home, &rig.clock, &rig.buffer, &store, LakeConfig::default()).await;
    assert!(matches!(opened, Err(Error::ForeignFiles { .. })));
    assert_eq!(rig.lake.inner.storage.parquet_files().unwrap().len(), 1);
}
