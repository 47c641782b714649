//! Opening a store: from files to the index.
//!
//! 1. Every `.seg` file is named by its header (or, if that is damaged, by its name).
//! 2. The newest segment whose checkpoint is intact is the *base*: everything before it is known from the checkpoint,
//!    and of older segments only the footer is read. A segment without footer is walked header by header.
//! 3. The base and what follows are replayed. Where the end of a segment is not known from its successor, it is found:
//!    damage at or above the largest synced mark is a torn tail and is cut; damage below is corruption: its bytes go to
//!    `lost+found/`, what it held becomes a skip, health is degraded, and reading goes on behind it.
//!
//! Nothing here continues an old segment: the first append begins a new one, whose header and checkpoint say where the
//! old one ends.

mod files;
mod replay;
mod tail;

use std::collections::BTreeMap;
use std::sync::Arc;

use aap_runtime::{Clock, RESTORED};
use aap_types::{Epoch, NodeId, Sequence};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use self::files::SegmentFile;
use crate::format::{FORMAT_VERSION, Kind, SEGMENT_HEADER, Seed, State};
use crate::fs::{FileHandle, FileSystem, Open};
use crate::identity::{self, Found as StoreFound, Identity};
use crate::index::Index;
use crate::log::{Log, Shared};
use crate::walk::{Item, Walker};
use crate::{BufferConfig, Durability, Error};

/// What recovery found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// The store was made just now.
    pub created: bool,
    /// Segment files found.
    pub segments: u64,
    /// Bytes read to find out.
    pub bytes_read: u64,
    /// Bytes of an unfinished group that were cut off.
    pub torn_bytes: u64,
    /// Damaged regions below the synced mark, copied to `lost+found/`.
    pub damaged_regions: u64,
    /// Their bytes.
    pub damaged_bytes: u64,
    /// A new epoch was minted, and why.
    pub new_epoch: Option<String>,
    /// What an operator must know. Empty where all is well.
    pub problems: Vec<String>,
}

/// Opens or creates the store.
pub(crate) fn open(
    fs: Arc<dyn FileSystem>,
    clock: Arc<dyn Clock>,
    config: BufferConfig,
) -> Result<(Log, RecoveryReport), Error> {
    config.check()?;
    let directory = config.directory.clone();
    let segments = directory.join("segments");
    for made in [&directory, &segments] {
        fs.create_directory(made).map_err(|error| Error::io("create directory", made, error))?;
    }
    let lock_path = directory.join("LOCK");
    let lock = fs
        .lock(&lock_path)
        .map_err(|error| Error::io("lock", &lock_path, error))?
        .ok_or_else(|| Error::Locked { path: directory.clone() })?;

    let store = identity::read(fs.as_ref(), &directory)?;
    if let StoreFound::Newer(found) = store {
        return Err(Error::NewerFormat { path: directory, found, supported: FORMAT_VERSION });
    }
    let mut recovery = Recovery::new(fs.clone(), &config);
    let files = recovery.list_segments(&store)?;
    recovery.identify(store, &files, clock.as_ref(), &config)?;
    recovery.read_all(&files)?;
    recovery.check_delivery(&config.landing_consumer);
    // A segment that a killed process named, and whose name only the cache knows, is about to count.
    fs.sync_directory(&segments).map_err(|error| Error::io("sync", &segments, error))?;
    let is_restored = is_restored(fs.as_ref(), &directory)?;
    if is_restored {
        recovery.doubt.get_or_insert_with(|| "it was restored from a backup".to_owned());
    }
    let is_durable = recovery.settle_identity(clock.as_ref(), &config)?;
    if is_restored && is_durable {
        let mark = directory.join(RESTORED);
        let removed = fs.remove(&mark).and_then(|()| fs.sync_directory(&directory));
        removed.map_err(|error| Error::io("remove", &mark, error))?;
    }

    let Recovery { index, report, next_segment, next_group, previous, base, .. } = recovery;
    let shared = Arc::new(Shared::new(fs.clone(), config, index));
    let mut log = Log::new(shared, clock, lock, (next_segment, next_group), previous, base);
    let present = |path: &Utf8Path, bytes: u64| {
        fs.open(path, Open::Read).and_then(|file| file.length()).is_ok_and(|length| length == bytes)
    };
    let segment_bytes = log.shared.config.segment_bytes.0;
    let spare = segments.join("spare.tmp");
    let reserve = fs.open(&directory.join("reserve"), Open::Read).and_then(|file| file.length());
    log.found(reserve.unwrap_or(0), present(&spare, segment_bytes));
    Ok((log, report))
}

/// Reads a store without taking or changing anything: for tools, also beside a running daemon.
pub(crate) fn examine(
    fs: Arc<dyn FileSystem>,
    clock: &dyn Clock,
    directory: &Utf8Path,
) -> Result<(Shared, RecoveryReport), Error> {
    let store = identity::read(fs.as_ref(), directory)?;
    let unknown: NodeId = "unknown".parse().expect("a valid name");
    let node = match &store {
        StoreFound::Newer(found) => {
            let path = directory.to_owned();
            return Err(Error::NewerFormat { path, found: *found, supported: FORMAT_VERSION });
        }
        StoreFound::Known(identity) => identity.node.clone(),
        StoreFound::Nothing | StoreFound::Damaged => unknown.clone(),
    };
    let attempt = |node: NodeId, store: StoreFound| {
        let config = BufferConfig::new(directory, node);
        let mut recovery = Recovery::new(fs.clone(), &config);
        recovery.read_only = true;
        let files = recovery.list_segments(&store)?;
        if files.is_empty() && store == StoreFound::Nothing {
            return Err(Error::NoStore { path: directory.to_owned() });
        }
        recovery.identify(store, &files, clock, &config)?;
        recovery.read_all(&files)?;
        recovery.check_delivery(&config.landing_consumer);
        Ok((Shared::new(fs.clone(), config, recovery.index), recovery.report))
    };
    match attempt(node.clone(), store) {
        // `STORE` is lost; its checkpoints know whose it is.
        Err(Error::ForeignNode { found, .. }) if node == unknown => attempt(found, StoreFound::Damaged),
        other => other,
    }
}

/// Whether this store was put back from a backup and not opened since.
fn is_restored(fs: &dyn FileSystem, directory: &Utf8Path) -> Result<bool, Error> {
    let mark = directory.join(RESTORED);
    match fs.open(&mark, Open::Read) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("open", &mark, error)),
    }
}

struct Recovery {
    fs: Arc<dyn FileSystem>,
    directory: Utf8PathBuf,
    durability: Durability,
    index: Index,
    report: RecoveryReport,
    /// Ends of segments as their successors tell.
    ends: BTreeMap<u64, u64>,
    base: u64,
    next_segment: u64,
    next_group: u64,
    previous: (u64, u64),
    /// Why the tails in memory may be older than what was acknowledged.
    doubt: Option<String>,
    clean: bool,
    /// Only look: move, keep and remove nothing.
    read_only: bool,
}

impl Recovery {
    fn new(fs: Arc<dyn FileSystem>, config: &BufferConfig) -> Self {
        let nobody =
            Identity { store_id: [0; 16], generation: 0, epoch: Epoch(0), node: config.node.clone() };
        Self {
            fs,
            directory: config.directory.clone(),
            durability: config.durability,
            index: Index::new(nobody),
            report: RecoveryReport::default(),
            ends: BTreeMap::new(),
            base: u64::MAX,
            next_segment: 1,
            next_group: 1,
            previous: (0, 0),
            doubt: None,
            clean: false,
            read_only: false,
        }
    }

    fn problem(&mut self, text: String) {
        self.report.problems.push(text.clone());
        self.index.add_problem(text);
    }

    /// Who this store is: by `STORE`, or, if that is lost, by its segments.
    fn identify(
        &mut self,
        store: StoreFound,
        files: &[SegmentFile],
        clock: &dyn Clock,
        config: &BufferConfig,
    ) -> Result<(), Error> {
        let was_damaged = store == StoreFound::Damaged;
        match store {
            StoreFound::Known(identity) if identity.node != config.node => {
                return Err(Error::ForeignNode {
                    path: self.directory.clone(),
                    found: identity.node,
                    expected: config.node.clone(),
                });
            }
            StoreFound::Known(identity) => self.index.identity = identity,
            _ => {
                let of_segments = files.iter().rev().find_map(|file| file.header.map(|h| h.store_id));
                self.index.identity = Identity {
                    store_id: of_segments.unwrap_or_else(identity::new_store_id),
                    generation: 0,
                    epoch: Epoch::mint(clock.unix_ms(), identity::random()),
                    node: config.node.clone(),
                };
                if was_damaged || !files.is_empty() {
                    self.problem("the file `STORE` was lost or damaged and was made anew".into());
                    self.doubt = Some("the file `STORE` was lost or damaged".into());
                } else {
                    self.report.created = true;
                }
            }
        }
        Ok(())
    }

    fn read_all(&mut self, files: &[SegmentFile]) -> Result<(), Error> {
        let store_id = self.index.identity.store_id;
        let (files, foreign): (Vec<_>, Vec<_>) =
            files.iter().partition(|file| file.header.is_none_or(|header| header.store_id == store_id));
        for file in foreign {
            self.problem(format!("`{}` belongs to another store and is not read", file.path));
        }
        for file in &files {
            if let Some(header) = file.header {
                self.ends.insert(header.previous.0, header.previous.1);
            }
        }
        if let Some((base, state)) = self.find_base(&files)? {
            if state.node != self.index.identity.node {
                return Err(Error::ForeignNode {
                    path: self.directory.clone(),
                    found: state.node,
                    expected: self.index.identity.node.clone(),
                });
            }
            self.start_from(base, state);
        } else if !files.is_empty() {
            self.problem("no segment has an intact checkpoint; everything is read".into());
            self.doubt = Some("no checkpoint is intact".into());
            self.base = files[0].id;
        }
        for (position, file) in files.iter().enumerate() {
            let seed = Seed::new(&store_id, file.id);
            let is_newest = position + 1 == files.len();
            if file.id < self.base {
                self.read_old(file, seed)?;
            } else {
                self.replay(file, seed, is_newest)?;
            }
        }
        if files.is_empty() {
            self.base = 0;
        }
        Ok(())
    }

    fn find_base(&mut self, files: &[&SegmentFile]) -> Result<Option<(u64, State)>, Error> {
        for file in files.iter().rev() {
            let seed = Seed::new(&self.index.identity.store_id, file.id);
            let handle = file.open(self.fs.as_ref())?;
            if let Some(state) = read_checkpoint(handle.as_ref(), seed, file.length) {
                return Ok(Some((file.id, state)));
            }
            self.problem(format!("segment {:016x} has a damaged checkpoint", file.id));
        }
        Ok(None)
    }

    fn start_from(&mut self, base: u64, state: State) {
        self.base = base;
        self.next_group = state.next_group;
        for (segment, end) in &state.segment_ends {
            self.ends.insert(*segment, *end);
            self.next_segment = self.next_segment.max(segment + 1);
        }
        let identity = &mut self.index.identity;
        if state.generation > identity.generation {
            if identity.generation > 0 {
                self.doubt = Some("the file `STORE` is older than the segments".into());
            }
            identity.generation = state.generation;
        }
        identity.epoch = identity.epoch.max(state.epoch);
        self.index.load(state);
    }

    /// Undelivered sequences that no file holds any more must be seen.
    fn check_delivery(&mut self, landing: &str) {
        let mut lost = Vec::new();
        for (number, channel) in self.index.channels.iter_mut().enumerate() {
            if channel.is_reserved() {
                continue;
            }
            let number = number as u32;
            let cursor = self.index.cursors.get(&(landing.to_owned(), number)).copied().unwrap_or_default();
            let head = self.index.segments.values().find_map(|s| s.index.spans.get(&number)).map(|s| s.first);
            let end = head.unwrap_or(channel.tail.next());
            let mut from = cursor.next();
            while from < end {
                if let Some(hole) = channel.hole_at(from) {
                    from = hole.to.next();
                    continue;
                }
                let next = channel.holes.iter().map(|hole| hole.from).filter(|next| *next > from).min();
                let to = Sequence(next.map_or(end, |next| next.min(end)).0 - 1);
                lost.push(format!("{}: sequences {from} to {to} are lost", channel.key));
                let reason = crate::index::DAMAGED.into();
                channel.add_hole(crate::format::Hole { from, to, rows: 0, reason });
                from = to.next();
            }
        }
        lost.into_iter().for_each(|text| self.problem(text));
    }

    /// Counts this opening, and mints an epoch where sequences could be given twice. Returns whether that is durable now.
    fn settle_identity(&mut self, clock: &dyn Clock, config: &BufferConfig) -> Result<bool, Error> {
        let has_data = !self.index.segments.is_empty();
        if self.durability != Durability::Fsync && has_data && !self.clean {
            self.doubt.get_or_insert_with(|| "not closed, and not synced at every group".to_owned());
        }
        let identity = &mut self.index.identity;
        let found = identity.generation;
        identity.generation += 1;
        if let Some(reason) = self.doubt.take() {
            let minted = Epoch::mint(clock.unix_ms(), identity::random());
            identity.epoch = minted.max(Epoch(identity.epoch.0 + 1));
            self.report.new_epoch = Some(reason);
        }
        let identity = self.index.identity.clone();
        let write = || identity::write(self.fs.as_ref(), &config.directory, &identity);
        let written = match write() {
            Err(error) if error.is_no_space() => {
                // What was set aside for this; it is made again when there is room.
                drop(self.fs.remove(&config.directory.join("reserve")));
                write()
            }
            other => other,
        };
        match written {
            Err(error) if error.is_no_space() && !self.report.created => {
                // A full disk is left by delivering, so it must not prevent a start. The file stays as it was; an epoch
                // minted now is durable by the first checkpoint, before anything is given a number in it.
                self.index.identity.generation = found;
                self.problem(format!("{error}: no space"));
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }
}

/// The checkpoint at the start of a segment.
pub(crate) fn read_checkpoint(file: &(dyn FileHandle + 'static), seed: Seed, length: u64) -> Option<State> {
    let start = SEGMENT_HEADER as u64;
    // A damaged group header in front of it does not matter.
    const ITEMS: usize = 3;
    let mut walker = Walker::new(file, seed, start, length);
    for _ in 0..ITEMS {
        let found = walker.next().ok()??;
        if let Item::Record(header) = found.item {
            let body = walker.body(&header, found.start).ok()??;
            return State::decode(&body[..header.payload_bytes as usize])
                .filter(|_| header.kind == Kind::State);
        }
    }
    None
}
