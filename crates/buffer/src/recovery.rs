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

use std::collections::BTreeMap;
use std::sync::Arc;

use aap_runtime::Clock;
use aap_types::{Epoch, NodeId, Sequence};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::format::{
    FORMAT_VERSION, GROUP_HEADER, GroupHeader, Kind, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, Seed,
    SegmentHeader, State, TRAILER, Trailer, aligned, footer_bytes, read_footer,
};
use crate::frame::parse_skip;
use crate::fs::{FileHandle, FileSystem, Open, read_full_at, write_all_at};
use crate::group::{parse_channel, parse_cursors};
use crate::identity::{self, Found as StoreFound, Identity};
use crate::index::{Channel, Index, Segment};
use crate::log::{Log, Shared, segment_path};
use crate::walk::{Item, Walker};
use crate::{BufferConfig, Durability, Error, FrameSchema, mutant};

/// Damaged bytes are kept for inspection up to this much.
const LOST_BYTES_MAX: u64 = 64 << 20;

/// More channels than any store has; a number beyond is nonsense that a checksum let through.
const RESERVED_CHANNELS_MAX: usize = 1 << 20;

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
    recovery.settle_identity(clock.as_ref(), &config)?;

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

/// One segment file on disk.
struct SegmentFile {
    id: u64,
    path: Utf8PathBuf,
    file: Box<dyn FileHandle>,
    length: u64,
    header: Option<SegmentHeader>,
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

    /// The segment files, oldest first. Leftovers of unfinished work are removed.
    fn list_segments(&mut self, store: &StoreFound) -> Result<Vec<SegmentFile>, Error> {
        let directory = self.directory.join("segments");
        let mut names = self.fs.list(&directory).map_err(|error| Error::io("list", &directory, error))?;
        names.sort();
        let mut files: BTreeMap<u64, SegmentFile> = BTreeMap::new();
        for name in names {
            let path = directory.join(&name);
            let Some(named) = name.strip_suffix(".seg").and_then(|id| u64::from_str_radix(id, 16).ok())
            else {
                if !self.read_only && name.ends_with(".tmp") && name != "spare.tmp" {
                    drop(self.fs.remove(&path));
                }
                continue;
            };
            let file = match self.fs.open(&path, Open::Read) {
                Ok(file) => file,
                Err(error) => {
                    self.problem(format!("segment `{path}` cannot be opened: {error}"));
                    self.next_segment = self.next_segment.max(named + 1);
                    continue;
                }
            };
            let mut bytes = [0; SEGMENT_HEADER];
            let read = read_full_at(file.as_ref(), &mut bytes, 0).unwrap_or(0);
            let header = SegmentHeader::parse(&bytes[..read]);
            if let Some(found) = header.map(|h| h.version).filter(|version| *version > FORMAT_VERSION) {
                return Err(Error::NewerFormat {
                    path: self.directory.clone(),
                    found,
                    supported: FORMAT_VERSION,
                });
            }
            if let (Some(header), StoreFound::Known(identity)) = (header, store)
                && header.store_id != identity.store_id
            {
                self.next_segment = self.next_segment.max(named + 1);
                self.problem(format!("`{path}` belongs to another store and is not read"));
                continue;
            }
            let id = header.map_or(named, |header| header.segment);
            if header.is_none() {
                self.problem(format!("segment `{name}` has a damaged header"));
            }
            self.next_segment = self.next_segment.max(id.max(named) + 1);
            let length = file.length().map_err(|error| Error::io("measure", &path, error))?;
            let found = SegmentFile { id, path, file, length, header };
            match files.get(&id) {
                // Two files claim a number: the one that is called so wins.
                Some(other) if other.path == segment_path(&self.directory, id) => self.set_aside(&found),
                Some(_) => {
                    if let Some(other) = files.insert(id, found) {
                        self.set_aside(&other);
                    }
                }
                None => drop(files.insert(id, found)),
            }
        }
        self.report.segments = files.len() as u64;
        Ok(files.into_values().collect())
    }

    fn set_aside(&mut self, file: &SegmentFile) {
        self.problem(format!("`{}` is a copy of segment {:016x} and is not read", file.path, file.id));
        if self.read_only {
            return;
        }
        let target = self.lost_and_found().join(file.path.file_name().unwrap_or("copy"));
        if let Err(error) = self.fs.rename(&file.path, &target) {
            tracing::warn!(%error, path = %file.path, "cannot set a copied segment aside");
        }
    }

    fn lost_and_found(&self) -> Utf8PathBuf {
        let path = self.directory.join("lost+found");
        if let Err(error) = self.fs.create_directory(&path) {
            tracing::warn!(%error, %path, "cannot make the directory for damaged bytes");
        }
        path
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
        if let Some((base, state)) = self.find_base(&files) {
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

    fn find_base(&mut self, files: &[&SegmentFile]) -> Option<(u64, State)> {
        for file in files.iter().rev() {
            let seed = Seed::new(&self.index.identity.store_id, file.id);
            if let Some(state) = read_checkpoint(file.file.as_ref(), seed, file.length) {
                return Some((file.id, state));
            }
            self.problem(format!("segment {:016x} has a damaged checkpoint", file.id));
        }
        None
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

    /// A segment from before the base: its footer, or its headers.
    fn read_old(&mut self, file: &SegmentFile, seed: Seed) -> Result<(), Error> {
        let end = self.ends.get(&file.id).copied();
        let mut segment = Segment::new(file.path.clone(), seed, file.length);
        segment.sealed = true;
        match read_footer(seed, file.file.as_ref()).filter(|footer| end.is_none_or(|end| footer.end == end)) {
            Some(footer) => segment.index = footer,
            None => {
                let end = end.unwrap_or(file.length).min(file.length);
                segment.index.end = end;
                let mut walker = Walker::new(file.file.as_ref(), seed, SEGMENT_HEADER as u64, end);
                let failed = |error| Error::io("read", &file.path, error);
                while let Some(found) = walker.next().map_err(failed)? {
                    if let Item::Record(header) = found.item
                        && self.index.is_of_its_channel(&header)
                    {
                        let last = match header.kind {
                            Kind::Skip => {
                                let body = walker.body(&header, found.start).map_err(failed)?;
                                body.and_then(parse_skip).map_or(header.sequence, |(to, ..)| to)
                            }
                            _ => header.sequence,
                        };
                        note(&mut segment, &header, last, found.start);
                    }
                }
                self.report.bytes_read += walker.bytes_read;
            }
        }
        self.index.segments.insert(file.id, segment);
        Ok(())
    }

    /// The base or a later segment: everything in it counts.
    fn replay(&mut self, file: &SegmentFile, seed: Seed, is_newest: bool) -> Result<(), Error> {
        let start = SEGMENT_HEADER as u64;
        let end = match self.ends.get(&file.id) {
            Some(end) => *end,
            None => self.find_end(file, seed)?,
        };
        if end > file.length {
            self.problem(format!("segment {:016x} is shorter than it was", file.id));
            self.doubt = Some(format!("segment {:016x} is shorter than it was", file.id));
        }
        let end = end.min(file.length).max(start.min(file.length));
        let mut segment = Segment::new(file.path.clone(), seed, file.length);
        segment.sealed = true;
        segment.index.end = end;
        let mut walker = Walker::new(file.file.as_ref(), seed, start, end);
        let failed = |error| Error::io("read", &file.path, error);
        let (mut committed_us, mut synced_mark) = (0, false);
        while let Some(found) = walker.next().map_err(failed)? {
            match found.item {
                Item::Group(header) => {
                    self.next_group = self.next_group.max(header.number + 1);
                    segment.index.last_group = header.number;
                    committed_us = header.committed_us;
                    synced_mark = header.synced_below == header.offset;
                }
                Item::Trailer => {}
                Item::Record(header) => {
                    let body = walker.body(&header, found.start).map_err(failed)?.map(<[u8]>::to_vec);
                    match body {
                        Some(body) => {
                            synced_mark &= !matches!(header.kind, Kind::Data | Kind::Skip);
                            if self.is_known(seed.segment, &header) {
                                self.apply(&mut segment, &header, &body, found.start, committed_us);
                            } else {
                                self.quarantine(file, found.start, found.end);
                            }
                        }
                        None => self.damaged(file, seed.segment, found.start, found.end),
                    }
                }
                Item::Damage => self.damaged(file, seed.segment, found.start, found.end),
            }
        }
        self.report.bytes_read += walker.bytes_read;
        if is_newest {
            self.previous = (file.id, end);
            // A close ends with a group that has no frames and says that all before it was synced.
            self.clean = synced_mark;
            self.trim(&mut segment, file);
        }
        self.index.segments.insert(file.id, segment);
        Ok(())
    }

    fn apply(&mut self, segment: &mut Segment, header: &RecordHeader, body: &[u8], offset: u64, at_us: i64) {
        let (positions, rest) = body.split_at(aligned(header.positions_bytes as usize).min(body.len()));
        let positions = &positions[..header.positions_bytes as usize];
        let payload = &rest[..header.payload_bytes as usize];
        match header.kind {
            Kind::Data | Kind::Skip | Kind::Hole => {
                let last = match header.kind {
                    Kind::Skip => parse_skip(payload).map_or(header.sequence, |(to, ..)| to),
                    _ => header.sequence,
                };
                note(segment, header, last, offset);
                self.index.apply_frame(header, positions, payload, at_us);
            }
            Kind::Schema => {
                note(segment, header, Sequence::ZERO, offset);
                if let Ok(schema) = FrameSchema::from_ipc(bytes::Bytes::copy_from_slice(payload)) {
                    self.index.keep_schema(schema);
                }
            }
            Kind::Channel => {
                if let Some(key) = parse_channel(header, payload) {
                    self.add_channel(header.channel, key);
                }
            }
            Kind::Cursors => {
                let moves = parse_cursors(payload);
                let end = moves.iter().map(|((_, number), _)| number.saturating_add(1)).max().unwrap_or(0);
                self.reserve_channels_below(end);
                self.index.apply_cursors(moves);
            }
            Kind::Positions => {
                let node = self.index.identity.node.clone();
                self.index.apply_positions(&node, at_us, payload);
            }
            Kind::State => {}
        }
    }

    /// Whether the channel of a frame is the one that its number names. A number whose declaration was damaged is
    /// taken all the same: a stream that is new later must not get it, or it would read these frames as its own.
    fn is_known(&mut self, segment: u64, header: &RecordHeader) -> bool {
        if !matches!(header.kind, Kind::Data | Kind::Skip | Kind::Hole) {
            return true;
        }
        self.reserve_channels_below(header.channel.saturating_add(1));
        let Some(channel) = self.index.channels.get_mut(header.channel as usize) else { return false };
        if channel.is_reserved() {
            channel.counters.dropped_batches += 1;
            channel.counters.dropped_rows += u64::from(header.rows);
        } else if channel.key.epoch == header.epoch {
            return true;
        }
        let text = format!("segment {segment:016x} holds batches whose stream is no longer known");
        self.doubt.get_or_insert_with(|| text.clone());
        self.problem(text);
        false
    }

    /// Channel numbers are given in order, so a missing one was lost with a damaged record: a place is kept for it,
    /// until another segment declares it.
    fn add_channel(&mut self, number: u32, key: aap_types::StreamKey) {
        self.reserve_channels_below(number);
        self.index.add_channel(number, key);
    }

    fn reserve_channels_below(&mut self, number: u32) {
        let known = self.index.channels.len();
        if (number as usize).saturating_sub(known) > RESERVED_CHANNELS_MAX {
            self.problem(format!("channel number {number} makes no sense"));
            return;
        }
        for missing in known as u32..number {
            self.index.channels.push(Channel::reserved(missing, &self.index.identity.node));
        }
    }

    /// Where a segment ends that nothing speaks for: behind its last whole group, or before what is damaged at or above
    /// the largest synced mark.
    fn find_end(&mut self, file: &SegmentFile, seed: Seed) -> Result<u64, Error> {
        let start = SEGMENT_HEADER as u64;
        let mut tail = Tail { walker: Walker::new(file.file.as_ref(), seed, start, file.length), seed };
        let failed = |error| Error::io("read", &file.path, error);
        let mut groups: Vec<(u64, u64)> = Vec::new();
        let mut synced = 0;
        while let Some((header, end)) = tail.next_group().map_err(failed)? {
            synced = synced.max(header.synced_below);
            groups.push((header.offset, end));
        }
        let mut end = start;
        for (group_start, group_end) in groups {
            let torn = group_start > end && end >= synced;
            if torn && !mutant::is("notail") {
                break;
            }
            end = group_end;
        }
        self.harden(file, synced.max(start), end);
        let rest = tail.describe_rest(end).map_err(failed)?;
        self.report.bytes_read += tail.walker.bytes_read;
        self.report.torn_bytes += rest.torn_bytes;
        if rest.looks_committed {
            let text = format!("the last group of segment {:016x} is damaged and was cut", file.id);
            self.doubt = Some(text.clone());
            self.quarantine(file, end, (end + rest.torn_bytes).min(file.length));
            self.problem(text);
        }
        Ok(end)
    }

    /// Nothing is appended to the newest segment any more: most of a segment that was only begun is given back.
    fn trim(&mut self, segment: &mut Segment, file: &SegmentFile) {
        let end = segment.index.end;
        if self.read_only || end > file.length / 2 {
            return;
        }
        let (body, pointer) = footer_bytes(segment.seed, &segment.index);
        let trimmed = self.fs.open(&file.path, Open::Write).and_then(|target| {
            target.set_length(end)?;
            segment.file_bytes = end;
            write_all_at(target.as_ref(), &body, end)?;
            write_all_at(target.as_ref(), &pointer, end + body.len() as u64)
        });
        match trimmed {
            Ok(()) => segment.file_bytes = end + (body.len() + pointer.len()) as u64,
            Err(error) => tracing::debug!(%error, segment = file.id, "not trimmed"),
        }
    }

    /// The last groups may stand in the page cache only: their process died before the sync, or the sync failed and the
    /// kernel calls the pages clean. They are about to be shown to readers, so they are written and synced again.
    fn harden(&mut self, file: &SegmentFile, start: u64, end: u64) {
        if self.read_only || end <= start || mutant::is("noharden") {
            return;
        }
        let again = || {
            let mut bytes = vec![0; usize::try_from(end - start).map_err(std::io::Error::other)?];
            let read = read_full_at(file.file.as_ref(), &mut bytes, start)?;
            let target = self.fs.open(&file.path, Open::Write)?;
            write_all_at(target.as_ref(), &bytes[..read], start)?;
            target.sync_data()
        };
        if let Err(error) = again() {
            let text = format!("the end of segment {:016x} cannot be synced: {error}", file.id);
            self.doubt = Some(text.clone());
            self.problem(text);
        }
    }

    fn damaged(&mut self, file: &SegmentFile, segment: u64, start: u64, end: u64) {
        self.report.damaged_regions += 1;
        self.report.damaged_bytes += end - start;
        self.quarantine(file, start, end);
        let text = format!("segment {segment:016x} is damaged at offset {start} ({} bytes)", end - start);
        self.doubt.get_or_insert_with(|| text.clone());
        self.problem(text);
    }

    fn quarantine(&mut self, file: &SegmentFile, start: u64, end: u64) {
        if self.read_only || end <= start || self.report.damaged_bytes > LOST_BYTES_MAX {
            return;
        }
        let path = self.lost_and_found().join(format!("{:016x}-{start}.bin", file.id));
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
        let kept = read_full_at(file.file.as_ref(), &mut bytes, start).and_then(|read| {
            let target = self.fs.open(&path, Open::Create)?;
            write_all_at(target.as_ref(), &bytes[..read], 0)
        });
        if let Err(error) = kept {
            tracing::warn!(%error, %path, "damaged bytes cannot be kept");
        }
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
            let (from, to) = (cursor.next(), head.map_or(channel.tail, |head| Sequence(head.0 - 1)));
            if from > to || channel.hole_at(from).is_some_and(|hole| hole.to >= to) {
                continue;
            }
            lost.push(format!("{}: sequences {from} to {to} are lost", channel.key));
            channel.add_hole(crate::format::Hole { from, to, rows: 0, reason: crate::index::DAMAGED.into() });
        }
        lost.into_iter().for_each(|text| self.problem(text));
    }

    /// Counts this opening, and mints an epoch where sequences could be given twice.
    fn settle_identity(&mut self, clock: &dyn Clock, config: &BufferConfig) -> Result<(), Error> {
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
                Ok(())
            }
            other => other,
        }
    }
}

/// Books what a footer would know.
fn note(segment: &mut Segment, header: &RecordHeader, last: Sequence, offset: u64) {
    match header.kind {
        Kind::Data | Kind::Skip => segment.note_frame(header, last, offset),
        Kind::Schema => segment.index.schemas.push((header.schema, offset)),
        _ => {}
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

/// Finds whole groups in a segment whose end nobody knows.
struct Tail<'a> {
    walker: Walker<&'a (dyn FileHandle + 'static)>,
    seed: Seed,
}

struct Rest {
    torn_bytes: u64,
    looks_committed: bool,
}

impl Tail<'_> {
    /// The next whole group, and where it ends.
    fn next_group(&mut self) -> std::io::Result<Option<(GroupHeader, u64)>> {
        while let Some(found) = self.walker.next()? {
            if let Item::Group(header) = found.item {
                let end = header.offset + u64::from(header.length);
                if self.is_whole(&header)? {
                    self.walker.seek(end);
                    return Ok(Some((header, end)));
                }
                // What follows the header of a group that is not whole may hold the next one.
            }
        }
        Ok(None)
    }

    /// By its trailer and checksum, or, if only the trailer is damaged, by its records.
    fn is_whole(&mut self, header: &GroupHeader) -> std::io::Result<bool> {
        if mutant::is("nocrc") {
            return Ok(true);
        }
        let seed = self.seed;
        let bytes = self.walker.bytes(header.offset, header.length as usize)?;
        if bytes.len() != header.length as usize {
            return Ok(false);
        }
        let (records, trailer) = bytes.split_at(bytes.len() - TRAILER);
        let trailer_at = header.offset + records.len() as u64;
        if let Some(trailer) = Trailer::parse(seed, trailer_at, trailer) {
            return Ok(trailer.length == header.length
                && trailer.number == header.number
                && seed.checksum(header.offset, records) == trailer.group_crc);
        }
        let mut at = GROUP_HEADER;
        for _ in 0..header.records {
            let offset = header.offset + at as u64;
            let Some(record) = RecordHeader::parse(seed, offset, &records[at..]) else { return Ok(false) };
            let Some(body) = records.get(at + RECORD_HEADER..at + record.total_bytes()) else {
                return Ok(false);
            };
            if seed.checksum(offset, body) != record.body_crc {
                return Ok(false);
            }
            at += record.total_bytes();
        }
        Ok(at == records.len() && header.records > 0)
    }

    /// What stands behind the end: how much of an unfinished group, and whether it may have been a finished one.
    fn describe_rest(&mut self, end: u64) -> std::io::Result<Rest> {
        self.walker.seek(end);
        let mut rest = Rest { torn_bytes: 0, looks_committed: false };
        while let Some(found) = self.walker.next()? {
            if !matches!(found.item, Item::Damage) {
                rest.torn_bytes = found.end - end;
                rest.looks_committed |= matches!(found.item, Item::Trailer);
            }
        }
        Ok(rest)
    }
}
