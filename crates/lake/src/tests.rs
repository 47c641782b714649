//! What the lake promises, seen through the seam as a query sees it.

#![expect(clippy::disallowed_methods, reason = "tests own the tasks they spawn")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use aap_buffer::scan::Scanner;
use aap_buffer::{Buffer, BufferConfig, EncodedBatch, Encoder, Entry, FrameSchema, RealFileSystem};
use aap_runtime::{Clock, ManualClock, Shutdown};
use aap_store::{
    Catalogue, Deleted, LakeCommit, MetadataStore, NodeRecord, Retention, RowCounts, SqliteStore,
};
use aap_types::{BatchId, ByteCount, Digest, Epoch, NodeId, Sequence, StreamKey, StreamName};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, DictionaryArray, Float64Array, Int32Array, Int64Array,
    RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use bytes::Bytes;
use camino::Utf8PathBuf;

use crate::service::Passes;
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

    async fn land_encoded(&self, key: &StreamKey, sequence: u64, batch: EncodedBatch) {
        land_encoded(&self.buffer, &self.lake, key, sequence, batch).await;
    }

    /// One pass of the service.
    async fn pass(&self, passes: &mut Passes) -> bool {
        self.lake.pass(passes, &Shutdown::default()).await
    }

    /// A column of all files of a stream, as text, in order of time.
    fn values(&self, stream: &str, column: &str) -> Vec<Option<String>> {
        let mut values = vec![];
        for file in self.files().iter().filter(|file| file.stream.as_str() == stream) {
            let file = std::fs::File::open(self.lake.locate(&file.path)).unwrap();
            for batch in parquet_file::decode(&file) {
                let text = aap_columns::text(batch.column_by_name(column).unwrap()).unwrap();
                let text = text.as_string::<i32>().iter();
                values.extend(text.map(|value| value.map(str::to_owned)));
            }
        }
        values
    }

    /// The SQL type of a column, as the catalogue has it.
    fn kind(&self, stream: &str, column: &str) -> Option<String> {
        let catalogue = self.lake.catalogue().unwrap();
        let known = catalogue.streams.iter().find(|known| known.stream.as_str() == stream)?;
        known.columns.iter().find(|(name, _)| name == column).map(|(_, kind)| kind.clone())
    }

    fn on_disk(&self) -> Vec<String> {
        let mut files = self.lake.inner.storage.parquet_files().unwrap();
        files.sort();
        files
    }

    fn visible_files(&self) -> Vec<String> {
        let mut files: Vec<String> = self.files().into_iter().map(|file| file.path).collect();
        files.sort();
        files
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
/// Commits of the stream `bad` fail.
const BAD_STREAM: u8 = 3;

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
            BAD_STREAM if commit.stream.as_str() == "bad" => Err(crash()),
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
    fn deletions_of(&self, node: &NodeId) -> Result<Vec<(StreamKey, Sequence)>, aap_store::Error> {
        self.store.deletions_of(node)
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
    land_encoded(buffer, lake, key, sequence, encoded(&rows)).await;
}

async fn land_encoded(buffer: &Buffer, lake: &Lake, key: &StreamKey, sequence: u64, batch: EncodedBatch) {
    let id = BatchId { key: key.clone(), sequence: Sequence(sequence) };
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
        let file = std::fs::File::open(lake.locate(&file.path)).expect("a pinned file is there");
        for batch in parquet_file::decode(&file) {
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
    rig.lake.unlink().await.unwrap();
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
    let file = std::fs::File::open(rig.lake.locate(&files[0].path)).unwrap();
    let batch = parquet_file::decode(&file).remove(0);
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
        let batch =
            parquet_file::decode(&std::fs::File::open(rig.lake.locate(&file.path)).unwrap()).remove(0);
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

#[tokio::test(flavor = "multi_thread")]
async fn what_parquet_has_no_type_for_goes_into_the_lake_as_text() {
    use arrow_array::types::IntervalMonthDayNano;
    let rig = Rig::new(LakeConfig::default()).await;
    let interval = IntervalMonthDayNano::new(14, 3, 0);
    let column = Arc::new(arrow_array::IntervalMonthDayNanoArray::from(vec![interval]));
    rig.land(&key("n1", "logs"), 1, with_column(5, "c", column)).await;
    rig.lake.load_all().await.unwrap();
    assert_eq!(rig.values("logs", "c"), [Some("14 mons 3 days".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_cannot_be_loaded_keeps_no_other_waiting() {
    let keep = Retention { hours: 1, bytes: ByteCount(0) };
    let rig = Rig::new(LakeConfig { retention: keep, ..LakeConfig::default() }).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    rig.clock.advance(Duration::from_secs(2 * 3600));
    rig.store.fault.store(BAD_STREAM, Ordering::SeqCst);
    rig.land(&key("n1", "bad"), 1, rows(2)).await;
    rig.land(&key("n1", "logs"), 2, rows(2)).await;
    let mut passes = Passes::default();
    rig.pass(&mut passes).await;
    check_once(&rig.visible("logs"), &expected(&["n1"], 2..=2));
    assert_eq!(rig.files().len(), 1, "what retention does not keep is gone, and `logs` is loaded");
    let problem = rig.lake.problem().unwrap();
    assert!(problem.contains("stream `bad`"), "{problem}");

    rig.store.fault.store(NONE, Ordering::SeqCst);
    rig.clock.advance(Duration::from_secs(10));
    rig.pass(&mut passes).await;
    check_once(&rig.visible("bad"), &expected(&["n1"], 1..=1));
    assert_eq!(rig.files().len(), 2);
    assert_eq!(rig.lake.problem(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_is_left_alone_and_the_others_are_merged() {
    let rig = Rig::new(LakeConfig { compact_files: 2, ..LakeConfig::default() }).await;
    let logs = key("n1", "logs");
    for sequence in 1..=3 {
        rig.land(&logs, sequence, rows(0)).await;
        rig.lake.load_all().await.unwrap();
    }
    let broken = rig.files()[0].path.clone();
    std::fs::write(rig.lake.locate(&broken), b"no Parquet").unwrap();
    assert!(rig.lake.compact_once().await.is_err());
    assert!(rig.lake.compact_once().await.unwrap());
    assert!(!rig.lake.compact_once().await.unwrap());
    assert_eq!(rig.files().len(), 2);
    let problem = rig.lake.problem().unwrap();
    assert!(problem.contains(&broken), "{problem}");
    assert_eq!(rig.on_disk(), rig.visible_files());

    rig.lake.delete(&logs.stream).await.unwrap();
    rig.lake.compact_once().await.unwrap();
    assert_eq!(rig.lake.problem(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_no_batch_goes_to_dead_letters_and_stops_nothing() {
    let mut rig = Rig::new(LakeConfig::default()).await;
    let logs = key("n1", "logs");
    rig.land(&logs, 1, rows(0)).await;
    let broken = EncodedBatch { payload: Bytes::from_static(b"nothing"), ..encoded(&rows(0)) };
    rig.land_encoded(&logs, 2, broken).await;
    // A few kilobytes that would become 100 GB.
    let long = StringArray::from(vec!["x".repeat(1 << 20)]);
    let bomb = DictionaryArray::new(Int32Array::from(vec![0; 100_000]), Arc::new(long));
    rig.land(&logs, 3, with_column(5, "c", Arc::new(bomb))).await;
    rig.land(&logs, 4, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    let seen: BTreeSet<u64> = rig.visible("logs").into_keys().map(|(_, sequence, _)| sequence).collect();
    assert_eq!(seen, BTreeSet::from([1, 4]));
    let sequences = rig.values("logs.dead", "sequence");
    assert_eq!(sequences, [Some("2".to_owned()), Some("3".to_owned())]);
    assert_eq!(rig.values("logs.dead", "payload")[0].as_deref(), Some("nothing"));
    let counts = |stream: &str| {
        let catalogue = rig.lake.catalogue().unwrap();
        catalogue.streams.iter().find(|known| known.stream.as_str() == stream).unwrap().counts
    };
    assert_eq!((counts("logs").rows, counts("logs").rows_skipped), (6, 100_003));
    assert_eq!(counts("logs.dead").rows, 2);
    rig.restart(LakeConfig::default()).await;
    assert!(!rig.lake.load(&logs.stream).await.unwrap(), "nothing is left of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_ends_where_memory_is_used_up_however_little_the_frames_take() {
    let rig = Rig::new(LakeConfig::default()).await;
    let logs = key("n1", "logs");
    // 8 MiB that compress to a few hundred bytes: all of them are in one read of the buffer.
    for sequence in 1..=12 {
        let text = StringArray::from_iter_values(std::iter::repeat_n("x".repeat(1 << 10), 8 << 10));
        rig.land(&logs, sequence, with_column(5, "c", Arc::new(text))).await;
    }
    assert!(rig.lake.load(&logs.stream).await.unwrap());
    let loaded: u64 = rig.files().iter().map(|file| file.rows).sum();
    assert!((5 * 8192..=7 * 8192).contains(&loaded), "{loaded}");
    rig.lake.load_all().await.unwrap();
    assert_eq!(rig.files().iter().map(|file| file.rows).sum::<u64>(), 12 * 8192);
}

/// Lands the columns one after the other and looks at every value: loaded together, loaded apart, merged.
async fn check_values(columns: Vec<ArrayRef>, kind: &str, values: &[&str]) {
    for together in [true, false] {
        let rig = Rig::new(LakeConfig { compact_files: 2, ..LakeConfig::default() }).await;
        for (sequence, column) in (1..).zip(&columns) {
            let at = i64::try_from(sequence).unwrap();
            rig.land(&key("n1", "logs"), sequence, with_column(at, "c", column.clone())).await;
            if !together {
                rig.lake.load_all().await.unwrap();
            }
        }
        rig.lake.load_all().await.unwrap();
        while rig.lake.compact_once().await.unwrap() {}
        assert_eq!(rig.files().len(), 1);
        let found = rig.values("logs", "c");
        assert_eq!(found.iter().flatten().collect::<Vec<_>>(), values, "together: {together}");
        assert_eq!(rig.kind("logs", "c").as_deref(), Some(kind), "together: {together}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_changes_when_batches_differ_in_type() {
    let odd = (1i64 << 53) + 1;
    let unsigned = || Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef;
    let signed = || Arc::new(Int64Array::from(vec![-1])) as ArrayRef;
    let large = || Arc::new(Int64Array::from(vec![odd])) as ArrayRef;
    let float = || Arc::new(Float64Array::from(vec![0.5])) as ArrayRef;
    let flag = || Arc::new(BooleanArray::from(vec![true])) as ArrayRef;
    let text = || Arc::new(StringArray::from(vec!["\u{e9}"])) as ArrayRef;
    let bytes = || Arc::new(BinaryArray::from(vec![b"a\xff".as_slice()])) as ArrayRef;
    check_values(vec![unsigned(), signed()], "DECIMAL(20,0)", &["18446744073709551615", "-1"]).await;
    check_values(vec![signed(), float()], "DOUBLE", &["-1.0", "0.5"]).await;
    check_values(vec![large(), float()], "VARCHAR", &["9007199254740993", "0.5"]).await;
    check_values(vec![float(), large()], "VARCHAR", &["0.5", "9007199254740993"]).await;
    check_values(vec![flag(), signed()], "VARCHAR", &["true", "-1"]).await;
    check_values(vec![text(), bytes()], "VARCHAR", &["\u{e9}", "a\\xFF"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_differ_by_case_are_one_column() {
    let rig = Rig::new(LakeConfig::default()).await;
    for (sequence, name) in [(1, "Level"), (2, "level")] {
        let column = Arc::new(StringArray::from(vec![name]));
        rig.land(&key("n1", "logs"), sequence, with_column(5, name, column)).await;
    }
    rig.lake.load_all().await.unwrap();
    rig.land(&key("n1", "logs"), 3, with_column(5, "LEVEL", Arc::new(StringArray::from(vec!["LEVEL"]))))
        .await;
    rig.lake.load_all().await.unwrap();
    let expected = ["Level", "level", "LEVEL"].map(|name| Some(name.to_owned()));
    assert_eq!(rig.values("logs", "Level"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_keeps_its_wider_type_in_every_later_file() {
    let rig = Rig::new(LakeConfig::default()).await;
    let texts = Arc::new(StringArray::from(vec!["x"]));
    rig.land(&key("n1", "logs"), 1, with_column(5, "c", texts)).await;
    rig.lake.load_all().await.unwrap();
    rig.land(&key("n1", "logs"), 2, with_column(5, "c", Arc::new(Int64Array::from(vec![7])))).await;
    rig.lake.load_all().await.unwrap();
    let file = std::fs::File::open(rig.lake.locate(&rig.files()[1].path)).unwrap();
    let batch = parquet_file::decode(&file).remove(0);
    assert_eq!(batch.column_by_name("c").unwrap().as_ref(), &StringArray::from(vec!["7"]) as &dyn Array);
    assert_eq!(rig.kind("logs", "c").as_deref(), Some("VARCHAR"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_load_leaves_no_file_behind() {
    let rig = Rig::new(LakeConfig::default()).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.store.fault.store(BEFORE_COMMIT, Ordering::SeqCst);
    for _ in 0..3 {
        assert!(rig.lake.load_all().await.is_err());
        assert!(rig.on_disk().is_empty());
    }
    // A commit that stands although it failed must keep its file.
    rig.store.fault.store(AFTER_COMMIT, Ordering::SeqCst);
    assert!(rig.lake.load_all().await.is_err());
    rig.store.fault.store(NONE, Ordering::SeqCst);
    rig.lake.load_all().await.unwrap();
    assert_eq!((rig.on_disk().len(), rig.on_disk()), (1, rig.visible_files()));
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_cannot_be_written_only_delays_what_follows_a_commit() {
    let rig = Rig::new(LakeConfig::default()).await;
    let (logs, other) = (key("n1", "logs"), key("n1", "other"));
    rig.land(&logs, 1, rows(0)).await;
    rig.land(&other, 1, rows(0)).await;
    rig.lake.load(&other.stream).await.unwrap();
    let (folder, moved) = (rig.lake.locate("_manifest"), rig.lake.locate("elsewhere"));
    std::fs::rename(&folder, &moved).unwrap();
    std::fs::write(&folder, b"").unwrap();

    assert!(rig.lake.load(&logs.stream).await.is_err());
    assert_eq!(rig.buffer.cursor(CONSUMER, &logs), Sequence::ZERO, "nothing may be reclaimed yet");
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=1));
    assert!(rig.lake.delete(&other.stream).await.is_err(), "the books are not in order, so nothing is begun");

    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&moved, &folder).unwrap();
    rig.pass(&mut Passes::default()).await;
    assert_eq!(rig.buffer.cursor(CONSUMER, &logs), Sequence(1));
    assert!(rig.lake.waiting().frames().beyond(&[]).is_empty());

    std::fs::rename(&folder, &moved).unwrap();
    std::fs::write(&folder, b"").unwrap();
    assert_eq!(rig.lake.delete(&logs.stream).await.unwrap(), (3, 1), "it is deleted all the same");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&moved, &folder).unwrap();
    rig.pass(&mut Passes::default()).await;
    assert_eq!(rig.on_disk(), rig.visible_files());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_runs_to_its_end_when_its_client_leaves() {
    let rig = Rig::new(LakeConfig::default()).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    let stream = "logs".parse().unwrap();
    let left = tokio::time::timeout(Duration::ZERO, rig.lake.delete(&stream)).await;
    // Whatever was begun is over when it is somebody else's turn.
    rig.lake.in_turn(|_| Ok(())).await.unwrap();
    assert!(rig.on_disk().is_empty() || left.is_err() && !rig.visible_files().is_empty());
    assert_eq!(rig.on_disk(), rig.visible_files(), "hidden and unlinked, or not begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_known_before_the_first_file() {
    let rig = Rig::new(LakeConfig { age_seconds: 1 << 40, ..LakeConfig::default() }).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.pass(&mut Passes::default()).await;
    assert!(rig.files().is_empty());
    assert_eq!(rig.kind("logs", "n").as_deref(), Some("BIGINT"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_stream_and_a_busy_node_keep_no_other_waiting() {
    let rig = Rig::new(LakeConfig { file_bytes: ByteCount(1000), ..LakeConfig::default() }).await;
    for sequence in 1..=6 {
        rig.land(&key("n1", "busy"), sequence, rows(0)).await;
    }
    rig.land(&key("n2", "busy"), 1, rows(0)).await;
    rig.land(&key("n1", "calm"), 1, rows(0)).await;
    let mut passes = Passes::default();
    assert!(rig.pass(&mut passes).await, "there is more to do");
    let files = |stream: &str| rig.files().iter().filter(|file| file.stream.as_str() == stream).count();
    assert_eq!((files("busy"), files("calm")), (1, 1));
    rig.pass(&mut passes).await;
    rig.pass(&mut passes).await;
    let nodes: BTreeSet<Option<String>> = rig.values("busy", "_node").into_iter().collect();
    assert_eq!(nodes.len(), 2, "{nodes:?}");
}
