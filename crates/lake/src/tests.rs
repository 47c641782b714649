//! What the lake promises, seen through the seam as a query sees it.
//!
//! | file | owns |
//! |---|---|
//! | `tests/seam.rs` | every row in an answer once |
//! | `tests/columns.rs` | columns and their types |
//! | `tests/upkeep.rs` | which rows stand in which file; retention |
//! | `tests/feed.rs` | what sinks are given |
//! | `tests/faults.rs` | what cannot be read or written |
//! | `tests/store.rs` | a lake in an object store: what its trouble costs, and its copies on disk |
//! | `tests/cluster.rs` | several coordinators, of which one leads |
//!
//! Most promises are kept wherever the files lie, and are tried in both places: [`Place`].

#![expect(clippy::disallowed_methods, reason = "tests own the tasks they spawn")]

mod cluster;
mod columns;
mod faults;
mod feed;
#[path = "../tests/support/s3.rs"]
mod s3;
mod seam;
mod store;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
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
use crate::{CONSUMER, Error, FrameInfo, Lake, LakeConfig, LakeDependencies, LakeObjects, parquet_file};

const START_MS: u64 = 1_700_000_000_000;
/// Copies go as soon as no reader needs them.
const TINY_CACHE: u64 = 1;

/// Where the files of a rig lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Disk,
    /// With a cache that keeps nothing.
    Objects,
}

impl Place {
    fn objects(self) -> Option<LakeObjects> {
        let memory = || LakeObjects::over(Arc::new(object_store::memory::InMemory::new()), TINY_CACHE);
        (self == Self::Objects).then(memory)
    }
}

/// Tests of promises that take a [`Place`].
macro_rules! in_both_places {
    ($($promise:ident;)*) => {
        $(mod $promise {
            use super::Place;

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn on_disk() {
                super::$promise(Place::Disk).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn in_objects() {
                super::$promise(Place::Objects).await;
            }
        })*
    };
}
use in_both_places;

/// A landing buffer and a lake over it, on a real disk.
struct Rig {
    home: Utf8PathBuf,
    _directory: tempfile::TempDir,
    clock: Arc<ManualClock>,
    objects: Option<LakeObjects>,
    buffer: Buffer,
    store: Arc<Faulty>,
    lake: Lake,
}

impl Rig {
    async fn new(config: LakeConfig) -> Self {
        Self::on(Place::Disk, config).await
    }

    async fn on(place: Place, config: LakeConfig) -> Self {
        Self::over(place.objects(), config).await
    }

    async fn over(objects: Option<LakeObjects>, config: LakeConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
        let clock = Arc::new(ManualClock::at(START_MS));
        let (buffer, store) = (open_buffer(&home, &clock).await, open_store(&home));
        let lake = open_lake(&home, &clock, &buffer, &store, objects.clone(), config).await.unwrap();
        Self { home, _directory: directory, clock, objects, buffer, store, lake }
    }

    /// As after the death of the process: nothing in memory survives.
    async fn restart(&mut self, config: LakeConfig) {
        let buffer = self.buffer.clone();
        tokio::task::spawn_blocking(move || buffer.close()).await.unwrap();
        self.buffer = open_buffer(&self.home, &self.clock).await;
        self.store = open_store(&self.home);
        let objects = self.objects.clone();
        let opened = open_lake(&self.home, &self.clock, &self.buffer, &self.store, objects, config);
        self.lake = opened.await.unwrap();
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
            for batch in self.batches(file) {
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

    /// The batches of a file.
    fn batches(&self, file: &aap_store::LakeFile) -> Vec<RecordBatch> {
        let _pin = self.lake.pin();
        fetch(&self.lake, [file]).unwrap();
        parquet_file::decode(&std::fs::File::open(self.lake.locate(&file.path)).unwrap())
    }

    /// Puts something else in the place of a file, or of anything.
    fn overwrite(&self, path: &str, bytes: &[u8]) {
        let storage = &self.lake.inner.storage;
        tokio::task::block_in_place(|| storage.write(path, bytes.to_vec())).unwrap();
    }

    /// The files that there are, visible or not.
    fn on_disk(&self) -> Vec<String> {
        stored(&self.lake)
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

/// The files that there are, visible or not.
fn stored(lake: &Lake) -> Vec<String> {
    let mut files = tokio::task::block_in_place(|| lake.inner.storage.parquet_files()).unwrap();
    files.sort();
    files
}

fn fetch<'a>(lake: &Lake, files: impl IntoIterator<Item = &'a aap_store::LakeFile>) -> Result<(), Error> {
    tokio::task::block_in_place(|| lake.fetch(files))
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
    open_store_at(&home.join("meta.db"))
}

fn open_store_at(path: &camino::Utf8Path) -> Arc<Faulty> {
    Arc::new(Faulty::over(Arc::new(SqliteStore::open(path).unwrap())))
}

async fn open_lake(
    home: &Utf8PathBuf,
    clock: &Arc<ManualClock>,
    buffer: &Buffer,
    store: &Arc<Faulty>,
    objects: Option<LakeObjects>,
    config: LakeConfig,
) -> Result<Lake, Error> {
    let (store, clock): (Arc<dyn MetadataStore>, Arc<dyn Clock>) = (store.clone(), clock.clone());
    let (buffer, root) = (buffer.clone(), home.join("lake"));
    let dependencies = LakeDependencies { buffer, store, clock, root, objects, lead: None };
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
    store: Arc<dyn MetadataStore>,
    fault: AtomicU8,
    /// Who may commit, and who this is.
    lease: Option<(Arc<Mutex<usize>>, usize)>,
}

impl Faulty {
    fn over(store: Arc<dyn MetadataStore>) -> Self {
        Self { store, fault: AtomicU8::new(NONE), lease: None }
    }
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
        // Held until the commit is made, so that whoever takes over waits for it.
        let holder = self.lease.as_ref().map(|(holder, _)| holder.lock().unwrap());
        if let (Some(holder), Some((_, me))) = (holder.as_deref(), &self.lease)
            && holder != me
        {
            return Err(aap_store::Error::Fenced { lease: "leader".to_owned() });
        }
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
    let files = || catalogue.files.iter().filter(|file| file.stream == *stream);
    fetch(lake, files()).unwrap();
    for file in files() {
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
