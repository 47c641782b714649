//! The lake itself: opening, pinning, deleting. Everything that changes it takes turns.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aap_buffer::{Buffer, FrameKind};
use aap_runtime::Clock;
use aap_store::{Catalogue, Deleted, MetadataStore, RowCounts};
use aap_types::{Sequence, StreamKey, StreamName};
use camino::{Utf8Path, Utf8PathBuf};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::pins::Pins;
use crate::storage::Storage;
use crate::{Error, FrameInfo, LakeConfig, Pin, Waiting, manifest};

/// The name under which the lake consumes the landing buffer.
pub const CONSUMER: &str = "lake";

/// One read of the landing buffer.
pub(crate) const READ_BYTES: usize = 8 << 20;

/// What the lake stands on.
#[derive(Debug)]
pub struct LakeDependencies {
    /// The landing buffer, which must be opened with [`CONSUMER`] as its landing consumer.
    pub buffer: Buffer,
    /// The catalogue.
    pub store: Arc<dyn MetadataStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where the files lie.
    pub root: Utf8PathBuf,
}

/// The lake. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lake {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) buffer: Buffer,
    pub(crate) store: Arc<dyn MetadataStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) storage: Storage,
    pub(crate) config: LakeConfig,
    pub(crate) pins: Pins,
    pub(crate) waiting: Waiting,
    /// Held by whoever changes the lake: loads, compaction, retention and deletion never meet.
    pub(crate) turn: tokio::sync::Mutex<()>,
    pub(crate) problem: Mutex<Option<String>>,
    /// Makes names unique within a microsecond.
    files_named: AtomicU64,
}

impl Inner {
    pub(crate) fn next_file(&self) -> u64 {
        self.files_named.fetch_add(1, Ordering::Relaxed)
    }
}

impl Lake {
    /// Opens the lake: repairs the catalogue from the manifest if that is newer, sweeps what a crash left, tells the
    /// buffer how far the lake is, and counts what waits.
    pub async fn open(dependencies: LakeDependencies, config: LakeConfig) -> Result<Self, Error> {
        spawn_blocking(move || Self::open_blocking(dependencies, config)).await?
    }

    fn open_blocking(dependencies: LakeDependencies, config: LakeConfig) -> Result<Self, Error> {
        let LakeDependencies { buffer, store, clock, root } = dependencies;
        let storage = Storage::open(&root)?;
        let catalogue = settle_catalogue(store.as_ref(), &storage)?;
        let visible: HashSet<&str> = catalogue.files.iter().map(|file| file.path.as_str()).collect();
        let swept = storage.sweep(&visible)?;
        if swept > 0 {
            info!(files = swept, "swept lake files that never became visible");
        }
        for (key, cut) in &catalogue.cursors {
            buffer.advance(CONSUMER, key, *cut);
        }
        let waiting = Waiting::default();
        count_waiting(&buffer, &catalogue, &waiting, clock.unix_us())?;
        let pins = Pins::default();
        let (turn, problem, files_named) = Default::default();
        let inner =
            Inner { buffer, store, clock, storage, config, pins, waiting, turn, problem, files_named };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Keeps every file that is visible from now on until the pin is dropped. Take it before reading the catalogue.
    pub fn pin(&self) -> Pin {
        self.inner.pins.pin()
    }

    /// What has landed and is not in the lake yet. Whoever lands frames must note them here.
    pub fn waiting(&self) -> &Waiting {
        &self.inner.waiting
    }

    /// The catalogue. Blocking.
    pub fn catalogue(&self) -> Result<Catalogue, Error> {
        Ok(self.inner.store.catalogue()?)
    }

    /// Where a file of the catalogue lies.
    pub fn locate(&self, path: &str) -> Utf8PathBuf {
        self.inner.storage.locate(path)
    }

    /// The root of the files.
    pub fn root(&self) -> &Utf8Path {
        self.inner.storage.root()
    }

    /// Why the lake makes no progress, if it does not.
    pub fn problem(&self) -> Option<String> {
        self.inner.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Deletes everything a stream holds now. First it is hidden, in one transaction; then the files go, as soon as
    /// nobody reads them. Returns the rows and files that were visible. What lands later makes the stream anew.
    pub async fn delete(&self, stream: &StreamName) -> Result<(u64, u64), Error> {
        let _turn = self.inner.turn.lock().await;
        let (lake, stream) = (self.clone(), stream.clone());
        let (rows, deleted) = spawn_blocking(move || lake.hide_stream(&stream)).await??;
        let files = deleted.files.len() as u64;
        self.inner.pins.hide(deleted.files.into_iter().map(|file| file.path));
        self.unlink_unread().await;
        Ok((rows, files))
    }

    fn hide_stream(&self, stream: &StreamName) -> Result<(u64, Deleted), Error> {
        let inner = &self.inner;
        let waiting = inner.waiting.frames();
        let cuts = inner.store.catalogue()?.cursors;
        let waiting = waiting.beyond(&cuts);
        let waiting_rows: u64 =
            waiting.iter().filter(|(key, _)| key.stream == *stream).map(|(_, counts)| counts.rows).sum();
        let floors: Vec<(StreamKey, Sequence)> =
            inner.buffer.tails().into_iter().filter(|(key, _)| key.stream == *stream).collect();
        let deleted = inner.store.delete_stream(stream, &floors, inner.clock.unix_us())?;
        manifest::write(&inner.storage, &inner.store.catalogue()?)?;
        for (key, floor) in &floors {
            inner.buffer.advance(CONSUMER, key, *floor);
            inner.waiting.passed(key, *floor);
        }
        let rows = waiting_rows + deleted.files.iter().map(|file| file.rows).sum::<u64>();
        info!(%stream, rows, files = deleted.files.len(), "stream deleted");
        Ok((rows, deleted))
    }

    /// Unlinks hidden files that no reader can know.
    pub(crate) async fn unlink_unread(&self) {
        self.inner.storage.remove(self.inner.pins.unread()).await;
    }
}

/// Decides between the catalogue and the newest manifest: the one that knows more changes wins.
fn settle_catalogue(store: &dyn MetadataStore, storage: &Storage) -> Result<Catalogue, Error> {
    let catalogue = store.catalogue()?;
    let told = manifest::newest(storage)?;
    let told_version = told.as_ref().map_or(0, |told| told.version);
    if let Some(told) = told.filter(|told| told.version > catalogue.version) {
        warn!(
            catalogue = catalogue.version,
            manifest = told.version,
            "the catalogue is older than the lake's manifest and is restored from it"
        );
        store.restore(&told)?;
        return Ok(store.catalogue()?);
    }
    if catalogue.version == 0 && storage.has_published_files()? {
        return Err(Error::ForeignFiles { root: storage.root().to_owned() });
    }
    if told_version < catalogue.version {
        // A crash came between the commit and its manifest; the buffer may reclaim only after both.
        manifest::write(storage, &catalogue)?;
    }
    Ok(catalogue)
}

fn count_waiting(
    buffer: &Buffer,
    catalogue: &Catalogue,
    waiting: &Waiting,
    now_us: i64,
) -> Result<(), Error> {
    for (key, tail) in buffer.tails() {
        let cut = catalogue.cursors.iter().find(|(known, _)| *known == key).map(|(_, cut)| *cut);
        let mut after = cut.unwrap_or_default();
        while after < tail {
            let frames = buffer.read(&key, after, READ_BYTES)?;
            let Some(last) = frames.last() else { break };
            after = last.last_sequence();
            waiting.landed(frames.iter().map(|frame| frame_info(frame, now_us)));
        }
    }
    Ok(())
}

/// The counts of one frame. A sealing time in the future is a wrong clock, and counts as now.
pub(crate) fn frame_info(frame: &aap_buffer::Frame, now_us: i64) -> FrameInfo {
    let landed_us = frame.sealed_us.min(now_us);
    let counts = match &frame.kind {
        FrameKind::Data => RowCounts {
            rows: u64::from(frame.rows),
            batches: 1,
            bytes: frame.payload.len() as u64,
            raw_bytes: frame.raw_bytes,
            rows_skipped: 0,
            newest_us: frame.ts_max_us,
            landed_us,
        },
        FrameKind::Skip { rows, .. } => RowCounts { rows_skipped: *rows, landed_us, ..RowCounts::default() },
    };
    FrameInfo { id: frame.id.clone(), counts }
}
