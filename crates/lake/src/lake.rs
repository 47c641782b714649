//! The lake itself: opening, pinning, deleting. Everything that changes it takes turns.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aap_buffer::{Buffer, FrameKind, mutant};
use aap_runtime::{Clock, failpoint};
use aap_store::{Catalogue, LakeCommit, LakeFile, MetadataStore, RowCounts};
use aap_types::{Sequence, StreamKey, StreamName};
use camino::{Utf8Path, Utf8PathBuf};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use crate::lead::{AGAIN, Lead};
use crate::pins::Pins;
use crate::storage::Storage;
use crate::tell::Told;
use crate::{Error, FrameInfo, LakeConfig, LakeObjects, Pin, Waiting, manifest};

/// The name under which the lake consumes the landing buffer.
pub const CONSUMER: &str = "lake";

/// One read of the landing buffer: what a load reads too much of is read again.
pub(crate) const READ_BYTES: usize = 1 << 20;

/// What the lake stands on.
#[derive(Debug)]
pub struct LakeDependencies {
    /// The landing buffer, which must be opened with [`CONSUMER`] as its landing consumer.
    pub buffer: Buffer,
    /// The catalogue.
    pub store: Arc<dyn MetadataStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where the files lie; with `objects`, where their copies lie.
    pub root: Utf8PathBuf,
    /// The object store that the files lie in. `None`: they lie below `root`.
    pub objects: Option<LakeObjects>,
    /// Whether this coordinator leads, where several have the lake. `None`: it is alone. Whoever tells gives the store its fence
    /// before it says yes, says no before it takes it away, says nothing twice, and keeps the channel.
    pub lead: Option<watch::Receiver<bool>>,
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
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What buffer, readers and the manifest were told last.
    pub(crate) told: Mutex<Told>,
    /// Whether the catalogue may say more than they were told.
    pub(crate) untold: AtomicBool,
    pub(crate) lead: Lead,
    /// Files that were begun and are not known to be visible.
    orphans: Mutex<Vec<String>>,
    /// Files that cannot be merged, and why.
    pub(crate) unmergeable: Mutex<BTreeMap<String, String>>,
    /// Why there is no progress now; and what stays to be said until the next start.
    problem: Mutex<Option<String>>,
    notes: Mutex<Vec<String>>,
    /// Makes names unique within a microsecond.
    files_named: AtomicU64,
    /// Loads so far: each begins at another node, so that one cannot keep the others waiting.
    pub(crate) loads: AtomicUsize,
}

impl Inner {
    pub(crate) fn next_file(&self) -> u64 {
        self.files_named.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn orphans(&self) -> MutexGuard<'_, Vec<String>> {
        lock(&self.orphans)
    }
}

/// A panic while one of these was held left nothing half done: each is changed in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lake {
    /// Opens the lake, tells the buffer how far it is, and counts what waits. A coordinator that is alone repairs the catalogue
    /// from the manifest if that is newer, and sweeps what a crash left; one of a cluster does what there is to do when it
    /// leads, and asks nothing of the object store here.
    pub async fn open(dependencies: LakeDependencies, config: LakeConfig) -> Result<Self, Error> {
        spawn_blocking(move || Self::open_blocking(dependencies, config)).await?
    }

    fn open_blocking(dependencies: LakeDependencies, config: LakeConfig) -> Result<Self, Error> {
        let LakeDependencies { buffer, store, clock, root, objects, lead } = dependencies;
        let (pins, lead) = (Pins::default(), Lead::new(lead));
        let storage = Storage::open(&root, objects, &pins)?;
        if !lead.is_alone() && !storage.is_shared() {
            return Err(Error::NotShared);
        }
        let catalogue = match lead.is_alone() {
            true => settle_catalogue(store.as_ref(), &storage)?,
            false => store.catalogue()?,
        };
        let visible: HashSet<&str> = catalogue.files.iter().map(|file| file.path.as_str()).collect();
        let swept = if lead.is_alone() { storage.sweep(&visible)? } else { 0 };
        if swept > 0 {
            info!(files = swept, "swept lake files that never became visible");
        }
        storage.forget_others(&visible);
        let waiting = Waiting::default();
        count_waiting(&buffer, &catalogue, &waiting, clock.unix_us())?;
        let (turn, told, untold, orphans, unmergeable) = Default::default();
        let (problem, notes, files_named, loads) = Default::default();
        let inner = Inner {
            buffer,
            store,
            clock,
            storage,
            config,
            pins,
            waiting,
            turn,
            told,
            untold,
            lead,
            orphans,
            unmergeable,
            problem,
            notes,
            files_named,
            loads,
        };
        let lake = Self { inner: Arc::new(inner) };
        lake.tell_of(&catalogue);
        Ok(lake)
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

    /// Where a file of the catalogue lies, or its copy, once it was fetched.
    pub fn locate(&self, path: &str) -> Utf8PathBuf {
        self.inner.storage.locate(path)
    }

    /// What others call a file of the catalogue: its path on this disk, or its url.
    pub fn address(&self, path: &str) -> String {
        self.inner.storage.address(path)
    }

    /// Makes sure that files of the catalogue can be opened where [`Self::locate`] says, until the pin is dropped that was taken
    /// before the catalogue was read. Blocking, for as long as it takes to download what is not on the local disk yet.
    ///
    /// # Errors
    /// The object store does not give them. If [`Error::is_gone`], another catalogue may name others.
    pub fn fetch<'a>(&self, files: impl IntoIterator<Item = &'a LakeFile>) -> Result<(), Error> {
        self.inner.storage.fetch(files)
    }

    /// The root of the files, or of their copies.
    pub fn root(&self) -> &Utf8Path {
        self.inner.storage.root()
    }

    /// What is wrong with the lake, if anything is: why it makes no progress, files it cannot read, and notes.
    pub fn problem(&self) -> Option<String> {
        let unmergeable = lock(&self.inner.unmergeable);
        let first = unmergeable.iter().next();
        let files = first.map(|(path, reason)| match unmergeable.len() {
            1 => format!("lake: file `{path}` cannot be merged: {reason}"),
            files => format!("lake: {files} files cannot be merged, among them `{path}`: {reason}"),
        });
        let problem = lock(&self.inner.problem).clone();
        let all: Vec<String> =
            problem.into_iter().chain(files).chain(lock(&self.inner.notes).iter().cloned()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Tells the landing buffer again how far a key is in the lake: for frames that came to it after they were there.
    pub fn tell_cut(&self, key: &StreamKey) {
        let told = lock(&self.inner.told);
        if let Some(cut) = told.cuts.get(key) {
            self.inner.buffer.advance(CONSUMER, key, *cut);
            self.inner.waiting.passed(key, *cut);
        }
    }

    /// Adds to the problems until the next start.
    pub fn note(&self, problem: String) {
        let mut notes = lock(&self.inner.notes);
        if !notes.contains(&problem) {
            notes.push(problem);
        }
    }

    /// Says why there is no progress. Returns whether that is new.
    pub(crate) fn set_problem(&self, problem: Option<String>) -> bool {
        let mut known = lock(&self.inner.problem);
        let is_new = problem.is_some() && *known != problem;
        *known = problem;
        is_new
    }

    /// Deletes everything a stream holds now. First it is hidden, in one transaction; then the files go, as soon as
    /// nobody reads them. Returns the rows and files that were visible. What lands later makes the stream anew.
    ///
    /// In a cluster any coordinator may be asked, but a store with a fence refuses where it does not lead. What has landed and is
    /// not in this coordinator's buffer yet stays.
    pub async fn delete(&self, stream: &StreamName) -> Result<(u64, u64), Error> {
        let stream = stream.clone();
        self.in_turn(move |lake| lake.delete_now(&stream)).await
    }

    /// Runs a change when it is its turn. Once begun it runs to its end, even if the caller goes.
    pub(crate) async fn in_turn<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.inner.turn.clone().lock_owned().await;
        let lake = self.clone();
        let changed = spawn_blocking(move || {
            let changed = lake.tell().and_then(|()| change(&lake));
            drop(turn);
            changed
        });
        changed.await?
    }

    fn delete_now(&self, stream: &StreamName) -> Result<(u64, u64), Error> {
        let inner = &self.inner;
        let waiting = inner.waiting.frames();
        let cuts = inner.store.catalogue()?.cursors;
        let waiting = waiting.beyond(&cuts);
        let waiting_rows: u64 =
            waiting.iter().filter(|(key, _)| key.stream == *stream).map(|(_, counts)| counts.rows).sum();
        // The lake may be further than this buffer, and may have keys that it does not know.
        let mut floors: BTreeMap<StreamKey, Sequence> = BTreeMap::new();
        for (key, end) in inner.buffer.tails().into_iter().chain(cuts) {
            if key.stream == *stream {
                let floor = floors.entry(key).or_default();
                *floor = (*floor).max(end);
            }
        }
        let floors: Vec<(StreamKey, Sequence)> = floors.into_iter().collect();
        inner.untold.store(true, Ordering::SeqCst);
        let deleted = inner.store.delete_stream(stream, &floors, inner.clock.unix_us())?;
        let rows = waiting_rows + deleted.files.iter().map(|file| file.rows).sum::<u64>();
        let files = deleted.files.len() as u64;
        info!(%stream, rows, files, "stream deleted");
        if let Err(error) = self.tell() {
            // It is deleted all the same; the next turn tries again.
            warn!(%stream, error = %chain(&error), "the buffer was not told of the deletion");
        }
        self.unlink_unread();
        Ok((rows, files))
    }

    /// Unlinks what can be, and tells what is not told yet.
    pub(crate) async fn unlink(&self) -> Result<(), Error> {
        self.in_turn(|lake| {
            lake.tell_buffer();
            lake.unlink_unread();
            lake.inner.storage.evict();
            if lake.inner.lead.goes_on() { lake.unlink_condemned() } else { Ok(()) }
        })
        .await
    }

    /// One change of the catalogue, and what follows from it.
    pub(crate) fn commit(&self, change: &LakeCommit) -> Result<(), Error> {
        let counts = RowCounts::default();
        let cuts_alone =
            || LakeCommit { add: vec![], remove: vec![], columns: vec![], counts, ..change.clone() };
        let files_alone = || LakeCommit { cursors: vec![], ..change.clone() };
        if mutant::is("cutfirst") {
            return self.commit_now(&cuts_alone()).and_then(|()| self.commit_now(&files_alone()));
        }
        if mutant::is("cutlast") {
            return self.commit_now(&files_alone()).and_then(|()| self.commit_now(&cuts_alone()));
        }
        self.commit_now(change)
    }

    fn commit_now(&self, change: &LakeCommit) -> Result<(), Error> {
        let inner = &self.inner;
        failpoint::hit("lake.after_files_before_commit");
        if !inner.lead.goes_on() {
            self.remove_orphans();
            return Err(Error::LeadLost);
        }
        inner.untold.store(true, Ordering::SeqCst);
        if let Err(error) = inner.store.commit(change) {
            self.remove_orphans();
            return Err(error.into());
        }
        inner.orphans().retain(|path| !change.add.iter().any(|file| file.path == *path));
        debug!(stream = %change.stream, files = change.add.len(), rows = change.counts.rows, "lake changed");
        failpoint::hit("lake.after_commit_before_manifest");
        self.tell()?;
        self.unlink_unread();
        Ok(())
    }

    /// Removes files that were begun and did not become visible. A commit that failed may stand nevertheless: only the
    /// catalogue knows, and while it cannot be read they stay.
    pub(crate) fn remove_orphans(&self) {
        let mut orphans = std::mem::take(&mut *self.inner.orphans());
        if orphans.is_empty() {
            return;
        }
        match self.inner.store.catalogue() {
            Ok(catalogue) => {
                let visible: HashSet<String> =
                    catalogue.files.into_iter().map(|file: LakeFile| file.path).collect();
                orphans.retain(|path| !visible.contains(path));
                let failed = self.inner.storage.remove(orphans);
                self.condemn(failed, AGAIN);
            }
            Err(_unknown) => self.inner.orphans().append(&mut orphans),
        }
    }
}

/// Where the cut of each key stands.
pub(crate) fn cut_map(catalogue: &Catalogue) -> HashMap<StreamKey, Sequence> {
    catalogue.cursors.iter().cloned().collect()
}

/// An error with its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Decides between the catalogue and the newest manifest: the one that knows more changes wins.
fn settle_catalogue(store: &dyn MetadataStore, storage: &Storage) -> Result<Catalogue, Error> {
    let catalogue = store.catalogue()?;
    let told = manifest::newest(storage)?;
    let (is_told, told_version) = (told.is_some(), told.as_ref().map_or(0, |told| told.version));
    if let Some(told) = told.filter(|told| told.version > catalogue.version) {
        warn!(
            catalogue = catalogue.version,
            manifest = told.version,
            "the catalogue is older than the lake's manifest and is restored from it"
        );
        store.restore(&told)?;
        return Ok(store.catalogue()?);
    }
    // A lake of ours has a manifest before its first file, so that files of a load that was cut off are known for what
    // they are.
    if catalogue.version == 0 && !is_told && storage.has_published_files()? {
        return Err(Error::ForeignFiles { root: storage.root().to_owned() });
    }
    if told_version < catalogue.version || !is_told {
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
    let cuts = cut_map(catalogue);
    for (key, tail) in buffer.tails() {
        let mut after = cuts.get(&key).copied().unwrap_or_default();
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
