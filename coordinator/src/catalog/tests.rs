//! Files of tables that lie in an object store, as the engine will find them.

use std::sync::Mutex;

use aap_buffer::{BufferConfig, EncodedBatch, Encoder, Entry, FrameSchema, RealFileSystem};
use aap_lake::{CONSUMER, LakeConfig, LakeDependencies, LakeStoreSpec};
use aap_runtime::{Clock, SystemClock};
use aap_store::{Deleted, Error, LakeCommit, MemoryStore, MetadataStore, NodeRecord, Retention};
use aap_types::{BatchId, Digest, Epoch, NodeId};
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use bytes::Bytes;

use super::*;

/// A store that can answer with a catalogue from before.
#[derive(Debug, Default)]
struct Late {
    store: MemoryStore,
    /// What is answered next.
    before: Mutex<Vec<Catalogue>>,
}

impl MetadataStore for Late {
    fn record_node(&self, node: &NodeRecord) -> Result<(), Error> {
        self.store.record_node(node)
    }
    fn nodes(&self) -> Result<Vec<NodeRecord>, Error> {
        self.store.nodes()
    }
    fn node(&self, node: &NodeId) -> Result<Option<NodeRecord>, Error> {
        self.store.node(node)
    }
    fn catalogue(&self) -> Result<Catalogue, Error> {
        let before = self.before.lock().unwrap().pop();
        before.map_or_else(|| self.store.catalogue(), Ok)
    }
    fn commit(&self, commit: &LakeCommit) -> Result<(), Error> {
        self.store.commit(commit)
    }
    fn declare_columns(&self, stream: &StreamName, columns: &[(String, String)]) -> Result<(), Error> {
        self.store.declare_columns(stream, columns)
    }
    fn delete_stream(
        &self,
        stream: &StreamName,
        floors: &[(StreamKey, Sequence)],
        now_us: i64,
    ) -> Result<Deleted, Error> {
        self.store.delete_stream(stream, floors, now_us)
    }
    fn deletions_of(&self, node: &NodeId) -> Result<Vec<(StreamKey, Sequence)>, Error> {
        self.store.deletions_of(node)
    }
    fn restore(&self, catalogue: &Catalogue) -> Result<(), Error> {
        self.store.restore(catalogue)
    }
    fn set_retention(&self, stream: &StreamName, keep: Option<&Retention>) -> Result<(), Error> {
        self.store.set_retention(stream, keep)
    }
}

/// A lake whose files lie in a directory that stands for an object store, without a single copy.
struct Rig {
    _directory: tempfile::TempDir,
    store: Arc<Late>,
    tables: LakeAndLanding,
}

impl Rig {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
        std::fs::create_dir(home.join("objects")).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let config = BufferConfig {
            landing_consumer: CONSUMER.to_owned(),
            ..BufferConfig::new(home.join("landing"), "aap-coordinator".parse().unwrap())
        };
        let time = clock.clone();
        let opened =
            tokio::task::spawn_blocking(move || Buffer::open(Arc::new(RealFileSystem), time, config));
        let buffer = opened.await.unwrap().unwrap().buffer;
        let spec = serde_json::json!({ "url": format!("file://{home}/objects"), "cache": 0 });
        let spec: LakeStoreSpec = serde_json::from_value(spec).unwrap();
        let store = Arc::new(Late::default());
        let dependencies = LakeDependencies {
            buffer: buffer.clone(),
            store: store.clone(),
            clock,
            root: home.join("copies"),
            objects: Some(spec.open().unwrap()),
            lead: None,
        };
        let config = LakeConfig { compact_files: 2, ..LakeConfig::default() };
        let lake = Lake::open(dependencies, config).await.unwrap();
        Self { _directory: directory, store, tables: LakeAndLanding { lake, buffer } }
    }

    /// A batch becomes a file.
    async fn load(&self, sequence: u64) {
        let key = StreamKey { node: "n1".parse().unwrap(), epoch: Epoch(1), stream: "logs".parse().unwrap() };
        let n: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let rows = RecordBatch::try_from_iter([("n", n)]).unwrap();
        let batch: EncodedBatch = Encoder::new().encode(&rows, &FrameSchema::of(rows.schema()), 10).unwrap();
        let id = BatchId { key, sequence: Sequence(sequence) };
        let digest = Digest::of(&id, &[], &batch.payload);
        let entry = Entry::Landed { id, digest, positions: Bytes::new(), sealed_us: 1, batch };
        self.tables.buffer.append(vec![entry]).await.unwrap();
        self.tables.lake.load_all().await.unwrap();
    }

    fn look(&self, outline: bool) -> Result<ResolvedTables, Problem> {
        let need = [TableNeed { name: "logs".to_owned(), ..TableNeed::default() }];
        tokio::task::block_in_place(|| match outline {
            true => self.tables.outline(&need),
            false => self.tables.resolve(&need),
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_that_a_query_reads_are_fetched_and_stay_until_it_ends() {
    let rig = Rig::new().await;
    rig.load(1).await;
    let outlined = rig.look(true).unwrap();
    let file = outlined.manifest.tables[0].parquet[0].clone();
    assert!(!file.exists(), "whoever splits a statement opens no file");
    let resolved = rig.look(false).unwrap();
    rig.load(2).await;
    assert!(file.exists(), "a copy is evicted although a query reads it");
    drop((resolved, outlined));
    rig.load(3).await;
    assert!(!file.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_is_looked_up_again_and_is_told_when_it_stays_so() {
    let rig = Rig::new().await;
    rig.load(1).await;
    let before = rig.store.catalogue().unwrap();
    rig.tables.lake.delete(&"logs".parse().unwrap()).await.unwrap();
    rig.load(2).await;
    rig.store.before.lock().unwrap().extend([before.clone(), before.clone()]);
    let resolved = rig.look(false).unwrap();
    let now = rig.store.catalogue().unwrap();
    assert_eq!(resolved.manifest.tables[0].parquet, [rig.tables.lake.locate(&now.files[0].path)]);
    drop(resolved);

    rig.store.before.lock().unwrap().extend(vec![before; LOOKS]);
    let gone = rig.look(false).unwrap_err();
    assert_eq!((gone.code.as_str(), gone.exit), ("lake.unreachable", ExitCode::Unavailable), "{gone:?}");
}
