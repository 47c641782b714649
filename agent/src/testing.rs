//! What the tests share: an agent's inside in a temporary directory, with a real buffer on a real disk.

use std::sync::Arc;
use std::time::Duration;

use aap_buffer::{Buffer, BufferConfig, FrameKind, RealFileSystem, decode};
use aap_runtime::{Clock, Home, SystemClock};
use aap_types::{Sequence, StreamName};
use arrow_array::RecordBatch;
use arrow_schema::DataType;
use camino::Utf8PathBuf;
use tokio::sync::Semaphore;

use crate::board::Board;
use crate::counters::Counters;
use crate::deletions::Deletions;
use crate::failpoint::Failpoints;
use crate::ingress::Ingress;
use crate::source::{Listening, SourceDeps};
use crate::welcome::FirstWelcome;

/// Longest wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Rig {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) deps: SourceDeps,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let deps = open(&directory, "{}");
        Self { directory, deps }
    }

    /// With settings of the buffer.
    pub(crate) fn with_buffer(settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let deps = open(&directory, settings);
        Self { directory, deps }
    }

    /// Ends this life and begins the next on the same state.
    pub(crate) fn restart(&mut self) {
        self.deps.ingress.buffer.close();
        self.deps = open(&self.directory, "{}");
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn batches(&self, stream: &str) -> Vec<RecordBatch> {
        batches(&self.deps.ingress.buffer, stream)
    }

    /// The values of a text column, in order.
    pub(crate) fn texts(&self, stream: &str, column: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for batch in self.batches(stream) {
            let Some(values) = batch.column_by_name(column) else { continue };
            let options = arrow_cast::display::FormatOptions::default();
            // Times as they are printed without a database of zones.
            let values = match values.data_type() {
                DataType::Timestamp(unit, Some(_)) => {
                    arrow_cast::cast(values, &DataType::Timestamp(*unit, None)).unwrap()
                }
                _ => values.clone(),
            };
            let formatter = arrow_cast::display::ArrayFormatter::try_new(&values, &options).unwrap();
            texts.extend((0..batch.num_rows()).map(|row| formatter.value(row).to_string()));
        }
        texts
    }

    /// Waits until the column has these values.
    pub(crate) async fn expect(&self, stream: &str, column: &str, expected: &[&str]) {
        let arrived = async {
            while self.texts(stream, column) != expected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(DEADLINE, arrived).await.is_err() {
            panic!("{:?} instead of {expected:?}", self.texts(stream, column));
        }
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(
            tokio::time::timeout(DEADLINE, waiting).await.is_ok(),
            "{what}: {:?}",
            self.deps.board.problems()
        );
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.deps.ingress.buffer.close();
    }
}

pub(crate) fn batches(buffer: &Buffer, stream: &str) -> Vec<RecordBatch> {
    let stream: StreamName = stream.parse().unwrap();
    let mut tails = buffer.tails();
    tails.sort();
    let mut out = Vec::new();
    for (key, tail) in tails.into_iter().filter(|(key, _)| key.stream == stream) {
        let mut after = Sequence::ZERO;
        while after < tail {
            let frames = buffer.read(&key, after, 1 << 20).unwrap();
            assert!(!frames.is_empty());
            for frame in frames {
                after = frame.last_sequence();
                if frame.kind == FrameKind::Data {
                    out.push(decode(&frame.schema, &frame.payload, None).unwrap());
                }
            }
        }
    }
    out
}

fn open(directory: &tempfile::TempDir, settings: &str) -> SourceDeps {
    let root = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let mut config: serde_json::Value = serde_json::from_str(settings).unwrap();
    config["directory"] = root.join("agent").join("buffer").as_str().into();
    config["node"] = "n1".into();
    config["landing_consumer"] = "uplink".into();
    let config: BufferConfig = serde_json::from_value(config).unwrap();
    std::fs::create_dir_all(root.join("tmp").join("agent")).unwrap();
    std::fs::create_dir_all(root.join("run")).unwrap();
    std::fs::create_dir_all(config.directory.clone()).unwrap();
    let opened = Buffer::open(Arc::new(RealFileSystem), clock.clone(), config).unwrap();
    let ingress = Ingress {
        buffer: opened.buffer,
        clock,
        counters: Arc::new(Counters::default()),
        failpoints: Failpoints::default(),
        drain: Arc::default(),
    };
    let first_welcome = Arc::new(FirstWelcome::default());
    first_welcome.came();
    SourceDeps {
        ingress,
        board: Arc::new(Board::default()),
        decoding: Arc::new(Semaphore::new(2)),
        first_welcome,
        deletions: Arc::new(Deletions::default()),
        home: Home::at(root),
        listening: Arc::new(Listening::default()),
    }
}

/// A source as it stands on the board before it runs.
pub(crate) fn entry() -> crate::board::SourceEntry {
    crate::board::SourceEntry {
        kind: "test",
        stream: String::new(),
        guarantee: "",
        state: crate::board::SourceState::Running,
        detail: String::new(),
        problems: std::collections::BTreeMap::new(),
    }
}
