//! The writing half: one owner, no thread of its own, so that tests drive it call by call.
//!
//! A group is written with one positioned write and one fdatasync into the active segment. Everything in memory changes
//! only after that. If either fails, the file is never written or synced again: it ends, by the header and the
//! checkpoint of the next segment, where it was last synced, and the group is encoded anew for that next segment.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aap_runtime::Clock;
use aap_types::{BatchId, Epoch, SourcePosition};
use camino::{Utf8Path, Utf8PathBuf};

use crate::config::{BufferConfig, Durability, WhenFull};
use crate::format::{
    FORMAT_VERSION, Hole, Kind, POINTER, RecordHeader, SEGMENT_HEADER, Seed, SegmentHeader, footer_bytes,
};
use crate::frame::skip_payload;
use crate::fs::{FileHandle, FileSystem, Lock, Open, write_all_at};
use crate::group::{Declared, GroupWriter, Plan, Planned, encode};
use crate::index::{DROPPED, Index, Segment};
use crate::{Entry, Error, identity, mutant};

/// Largest group: bounds memory, and leaves room for a whole 16 MiB request in one append.
pub(crate) const GROUP_BYTES_MAX: u64 = 64 << 20;
/// Zeros are written in pieces of this size.
const ZERO_PIECE: usize = 1 << 20;
/// Room left in a segment for cursor moves when the budget keeps data out.
const CONTROL_ROOM: u64 = 4096;
/// Kept aside for a checkpoint on a full disk.
const RESERVE_BYTES: u64 = 1 << 20;
/// A group buffer that grew beyond this is given back.
const GROUP_BUFFER_KEPT: usize = 4 << 20;

/// What readers and the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) config: BufferConfig,
    index: Mutex<Index>,
}

impl Shared {
    pub(crate) fn new(fs: Arc<dyn FileSystem>, config: BufferConfig, index: Index) -> Self {
        Self { fs, config, index: Mutex::new(index) }
    }

    /// The index. A panic of another holder cannot leave it half changed in a way that matters more than stopping.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a group is not durable.
#[derive(Debug)]
pub(crate) enum NotNow {
    /// No room under the budget or on the disk: the same group may be tried again later.
    NoRoom(Error),
    /// The storage failed.
    Failed(Error),
}

impl NotNow {
    pub(crate) fn error(&self) -> &Error {
        match self {
            Self::NoRoom(error) | Self::Failed(error) => error,
        }
    }

    fn of(error: Error) -> Self {
        if error.is_no_space() { Self::NoRoom(error) } else { Self::Failed(error) }
    }
}

#[derive(Debug)]
struct Active {
    id: u64,
    seed: Seed,
    file: Box<dyn FileHandle>,
    /// End of the last group written.
    end: u64,
    /// End of the last group synced.
    synced: u64,
    capacity: u64,
    declared: Declared,
}

/// The writer of one store.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    active: Option<Active>,
    next_segment: u64,
    next_group: u64,
    /// The segment written last and where it ends.
    previous: (u64, u64),
    /// The segment whose checkpoint a recovery would start from: it and all after it stay.
    checkpoint: u64,
    group: Vec<u8>,
    /// A zero-filled, synced file that waits to become a segment.
    spare: bool,
    preparer: Option<Preparer>,
    reserve: bool,
    _lock: Lock,
}

impl Log {
    pub(crate) fn new(
        shared: Arc<Shared>,
        clock: Arc<dyn Clock>,
        lock: Lock,
        next: (u64, u64),
        previous: (u64, u64),
        checkpoint: u64,
    ) -> Self {
        Self {
            shared,
            clock,
            active: None,
            next_segment: next.0,
            next_group: next.1,
            previous,
            checkpoint,
            group: Vec::new(),
            spare: false,
            preparer: None,
            reserve: false,
            _lock: lock,
        }
    }

    fn config(&self) -> &BufferConfig {
        &self.shared.config
    }

    /// Monotonic time.
    pub(crate) fn now(&self) -> std::time::Duration {
        self.clock.monotonic()
    }

    fn directory(&self) -> Utf8PathBuf {
        self.config().directory.join("segments")
    }

    /// Commits the calls in one group. `Ok` holds one answer per call.
    pub(crate) fn commit(
        &mut self,
        calls: &[Vec<Entry>],
    ) -> Result<Vec<Result<Vec<BatchId>, Error>>, NotNow> {
        let mut plan = Plan::of(&self.shared.index(), calls, self.clock.unix_us());
        plan.seal();
        if plan.bytes_max() > GROUP_BYTES_MAX {
            return Err(NotNow::Failed(Error::Oversize { bytes: plan.bytes_max(), limit: GROUP_BYTES_MAX }));
        }
        let carries_data = !plan.records.is_empty();
        self.commit_plan(&mut plan, carries_data)?;
        Ok(plan.answers)
    }

    /// Makes cursor moves durable, if there are any.
    pub(crate) fn flush_cursors(&mut self) -> Result<(), NotNow> {
        self.commit_plan(&mut Plan::default(), false)
    }

    /// Takes positions of this node, durably, where they are newer than what is known.
    pub(crate) fn adopt_positions(&mut self, positions: Vec<SourcePosition>) -> Result<(), NotNow> {
        let mut plan = Plan::default();
        {
            let index = self.shared.index();
            let node = index.identity.node.clone();
            plan.positions = positions;
            plan.positions.retain(|new| {
                let known = index.positions.get(&(node.clone(), new.kind, new.key.clone()));
                known.is_none_or(|(_, known)| known.offset < new.offset)
            });
        }
        self.commit_plan(&mut plan, true)
    }

    /// Begins a new epoch, durably.
    pub(crate) fn new_epoch(&mut self, reason: &str) -> Result<Epoch, NotNow> {
        let mut identity = self.shared.index().identity.clone();
        let minted = Epoch::mint(self.clock.unix_ms(), identity::random());
        identity.epoch = minted.max(Epoch(identity.epoch.0 + 1));
        identity::write(self.shared.fs.as_ref(), &self.config().directory, &identity).map_err(NotNow::of)?;
        tracing::info!(epoch = %identity.epoch, reason, "new epoch");
        let epoch = identity.epoch;
        self.shared.index().identity = identity;
        Ok(epoch)
    }

    fn commit_plan(&mut self, plan: &mut Plan, carries_data: bool) -> Result<(), NotNow> {
        plan.cursors = {
            let mut index = self.shared.index();
            let moved = std::mem::take(&mut index.moved_cursors);
            moved.into_iter().filter_map(|key| index.cursors.get(&key).map(|s| (key.clone(), *s))).collect()
        };
        if plan.is_empty() {
            return Ok(());
        }
        let outcome = self.write_plan(plan, carries_data);
        if outcome.is_err() {
            self.shared.index().moved_cursors.extend(plan.cursors.keys().cloned());
        }
        outcome
    }

    fn write_plan(&mut self, plan: &mut Plan, carries_data: bool) -> Result<(), NotNow> {
        let needed = plan.bytes_max();
        if !self.has_room(needed, carries_data) {
            self.roll(needed, carries_data)?;
        }
        if let Err(error) = self.write_group(plan) {
            self.abandon(&error);
            self.roll(needed, carries_data)?;
            if let Err(error) = self.write_group(plan) {
                self.abandon(&error);
                return Err(NotNow::of(error));
            }
        }
        Ok(())
    }

    fn has_room(&self, needed: u64, carries_data: bool) -> bool {
        let kept_back = if carries_data { CONTROL_ROOM } else { 0 };
        self.active.as_ref().is_some_and(|a| a.end + needed + kept_back + POINTER as u64 <= a.capacity)
    }

    /// Encodes, writes, syncs, and only then lets everybody see.
    fn write_group(&mut self, plan: &mut Plan) -> Result<(), Error> {
        let durability = self.config().durability;
        let (number, now_us) = (self.next_group, self.clock.unix_us());
        let active = self.active.as_mut().ok_or(Error::Closed)?;
        let mut group = GroupWriter::new(active.seed, active.end, &mut self.group);
        let (news, schemas_at) = encode(plan, &self.shared.index(), &active.declared, &mut group);
        group.finish(number, active.synced, now_us);
        let path = segment_path(&self.shared.config.directory, active.id);
        write_all_at(active.file.as_ref(), &self.group, active.end)
            .map_err(|error| Error::io("write group to", &path, error))?;
        let end = active.end + self.group.len() as u64;
        if durability == Durability::Fsync && !mutant::is("nofsync") {
            let synced = active.file.sync_data();
            if !mutant::is("fsyncretry") {
                synced.map_err(|error| Error::io("sync", &path, error))?;
            } else if synced.is_err() {
                active.file.sync_data().map_err(|error| Error::io("sync", &path, error))?;
            }
            active.synced = end;
        }
        active.end = end;
        active.declared.channels.extend(news.channels);
        active.declared.schemas.extend(news.schemas);
        self.next_group += 1;
        self.publish(plan, number, &schemas_at, now_us);
        if self.group.capacity() > GROUP_BUFFER_KEPT {
            self.group = Vec::new();
        }
        Ok(())
    }

    fn publish(&mut self, plan: &mut Plan, number: u64, schemas_at: &[(u64, u64)], now_us: i64) {
        let Some(active) = &self.active else { return };
        let mut guard = self.shared.index();
        let index = &mut *guard;
        for key in plan.new_channels.drain(..) {
            index.add_channel(index.channels.len() as u32, key);
        }
        for record in &plan.records {
            index.apply_frame(&record.header, &record.positions, &record.payload, now_us);
            if let Some(schema) = &record.schema
                && !index.schemas.contains_key(&schema.fingerprint())
            {
                index.keep_schema(schema.clone());
            }
        }
        if let Some(segment) = index.segments.get_mut(&active.id) {
            for Planned { header, last, offset, .. } in &plan.records {
                if header.kind != Kind::Hole {
                    segment.note_frame(header, *last, *offset);
                }
            }
            segment.index.end = active.end;
            segment.index.last_group = number;
            segment.index.schemas.extend_from_slice(schemas_at);
        }
        let node = index.identity.node.clone();
        for position in std::mem::take(&mut plan.positions) {
            index.set_position(&node, now_us, position);
        }
        for (key, sequence) in &plan.cursors {
            index.durable_cursors.insert(key.clone(), *sequence);
        }
    }

    /// Syncs what `os` durability left to the kernel.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if active.synced == active.end || self.shared.config.durability == Durability::Memory {
            return Ok(());
        }
        let path = segment_path(&self.shared.config.directory, active.id);
        let outcome = active.file.sync_data().map_err(|error| Error::io("sync", &path, error));
        match &outcome {
            Ok(()) => active.synced = active.end,
            // What was written under `os` is in doubt now, and no later sync would tell: go on elsewhere.
            Err(error) => {
                let error = error.clone();
                self.abandon(&error);
            }
        }
        outcome
    }

    /// The active segment failed: it ends where it was last known good.
    fn abandon(&mut self, error: &Error) {
        let Some(active) = self.active.take() else { return };
        self.previous = (active.id, active.end);
        let mut index = self.shared.index();
        if let Some(segment) = index.segments.get_mut(&active.id) {
            segment.sealed = true;
        }
        let cause = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
        index.add_problem(format!("{error}{cause}; the group goes to a new segment"));
    }

    /// Ends a segment with its footer. The footer only saves time, so its failure is nobody's.
    fn seal(&mut self, old: &Active) {
        let mut index = self.shared.index();
        let Some(segment) = index.segments.get_mut(&old.id) else { return };
        segment.sealed = true;
        let (body, pointer) = footer_bytes(old.seed, &segment.index);
        drop(index);
        let pointer_at = (old.end + body.len() as u64).max(old.capacity - POINTER as u64);
        let written = write_all_at(old.file.as_ref(), &body, old.end)
            .and_then(|()| write_all_at(old.file.as_ref(), &pointer, pointer_at));
        match written {
            Ok(()) => {
                let mut index = self.shared.index();
                if let Some(segment) = index.segments.get_mut(&old.id) {
                    segment.file_bytes = segment.file_bytes.max(pointer_at + POINTER as u64);
                }
            }
            Err(error) => tracing::debug!(%error, segment = old.id, "no footer; recovery will read the data"),
        }
    }

    /// Begins the next segment, then ends the active one.
    fn roll(&mut self, needed: u64, carries_data: bool) -> Result<(), NotNow> {
        let capacity = self.capacity_for(needed);
        if carries_data {
            self.make_room(capacity)?;
        }
        if self.config().durability == Durability::Os
            && let Err(error) = self.sync()
        {
            tracing::warn!(%error, "sync before the next segment failed");
        }
        if let Some(active) = &self.active {
            self.previous = (active.id, active.end);
        }
        let created = match self.create_segment(capacity) {
            Err(error) if error.is_no_space() => {
                self.create_without_space(capacity, needed, carries_data, error)?
            }
            other => other.map_err(NotNow::of)?,
        };
        if let Some(old) = self.active.replace(created) {
            self.seal(&old);
        }
        self.reclaim(0);
        Ok(())
    }

    /// On a full disk, delivered data goes first, whatever was to be retained; then what was set aside.
    fn create_without_space(
        &mut self,
        capacity: u64,
        needed: u64,
        carries_data: bool,
        error: Error,
    ) -> Result<Active, NotNow> {
        if self.reclaim(u64::MAX) > 0
            && let Ok(created) = self.create_segment(capacity)
        {
            return Ok(created);
        }
        if !carries_data && self.release_reserve() {
            let small = self.state_bytes() + needed + CONTROL_ROOM + POINTER as u64;
            return self.create_segment(small.next_multiple_of(8)).map_err(NotNow::of);
        }
        Err(NotNow::NoRoom(error))
    }

    fn state_bytes(&self) -> u64 {
        let state = self.shared.index().state(0).encode();
        (SEGMENT_HEADER + state.len() + 512) as u64
    }

    fn capacity_for(&self, needed: u64) -> u64 {
        let state = self.state_bytes();
        // A checkpoint that fills a segment would leave no room for what it is written for.
        let state = if state > self.config().segment_bytes.0 / 4 { 4 * state } else { state };
        let wanted = state + needed + CONTROL_ROOM + POINTER as u64;
        if wanted <= self.config().segment_bytes.0 {
            return self.config().segment_bytes.0;
        }
        wanted.next_multiple_of(4096)
    }

    /// Makes sure that the budget admits a new segment.
    fn make_room(&mut self, capacity: u64) -> Result<(), NotNow> {
        loop {
            let used = self.shared.index().file_bytes();
            let budget = self.config().budget.0;
            if used + capacity <= budget || self.reclaim(used + capacity - budget) > 0 {
                if self.shared.index().file_bytes() + capacity <= budget {
                    return Ok(());
                }
                continue;
            }
            if self.config().when_full != WhenFull::DropOldest || !self.drop_oldest()? {
                return Err(NotNow::NoRoom(Error::Full));
            }
        }
    }

    /// Gives up the oldest segment that is neither active nor in use: its undelivered sequences become holes,
    /// durably, before the file goes.
    fn drop_oldest(&mut self) -> Result<bool, NotNow> {
        let (id, plan) = {
            let index = self.shared.index();
            let oldest = index.segments.range(..self.checkpoint).find(|(_, s)| !s.is_pinned());
            let Some((id, segment)) = oldest else { return Ok(false) };
            (*id, self.plan_drop(&index, segment))
        };
        if !plan.is_empty() {
            let mut plan = plan;
            self.write_plan(&mut plan, false)?;
        }
        self.remove_segment(id);
        Ok(true)
    }

    fn plan_drop(&self, index: &Index, segment: &Segment) -> Plan {
        let landing = &self.config().landing_consumer;
        let mut plan = Plan::default();
        for (number, span) in &segment.index.spans {
            let Some(channel) = index.named_channel(*number) else { continue };
            let cursor = index.cursors.get(&(landing.clone(), *number)).copied().unwrap_or_default();
            let from = span.first.max(cursor.next());
            if from > span.last {
                continue;
            }
            let share = (span.last.0 - from.0 + 1) as f64 / (span.last.0 - span.first.0 + 1) as f64;
            let rows = if from == span.first { span.rows } else { (span.rows as f64 * share) as u64 };
            let hole = Hole { from, to: span.last, rows, reason: DROPPED.into() };
            let payload = skip_payload(hole.to, hole.rows, &hole.reason);
            let header = RecordHeader {
                payload_bytes: payload.len() as u32,
                channel: *number,
                epoch: channel.key.epoch,
                sequence: hole.from,
                sealed_us: self.clock.unix_us(),
                ..RecordHeader::of(Kind::Hole)
            };
            plan.records.push(Planned {
                header,
                last: hole.to,
                positions: bytes::Bytes::new(),
                payload,
                schema: None,
                unsealed: None,
                offset: 0,
            });
        }
        plan
    }

    /// Removes delivered segments, oldest first, beyond what is to be retained, and then until `at_least` bytes are
    /// free. Returns the bytes freed.
    pub(crate) fn reclaim(&mut self, at_least: u64) -> u64 {
        let mut candidates: Vec<(u64, u64)> = {
            let index = self.shared.index();
            let landing = &self.config().landing_consumer;
            let gone = |(_, s): &(&u64, &Segment)| !s.is_pinned() && index.is_delivered(s, landing);
            index.segments.range(..self.checkpoint).filter(gone).map(|(id, s)| (*id, s.file_bytes)).collect()
        };
        let mut delivered: u64 = candidates.iter().map(|(_, bytes)| bytes).sum();
        let mut freed = 0;
        candidates.reverse();
        while let Some((id, bytes)) = candidates.pop() {
            if delivered <= self.config().retain.0 && freed >= at_least {
                break;
            }
            if self.remove_segment(id) {
                freed += bytes;
            }
            delivered -= bytes;
        }
        freed
    }

    /// Takes a segment out of the index, and its file away: as the next spare, if it fits.
    fn remove_segment(&mut self, id: u64) -> bool {
        let (path, file_bytes) = {
            let mut index = self.shared.index();
            match index.segments.get(&id) {
                Some(segment) if !segment.is_pinned() => {}
                _ => return false,
            }
            let Some(segment) = index.segments.remove(&id) else { return false };
            (segment.path, segment.file_bytes)
        };
        let fs = self.shared.fs.clone();
        if !self.spare && file_bytes == self.config().segment_bytes.0 {
            let spare = self.spare_path();
            // The name must be gone for good before the bytes are used again.
            if fs.rename(&path, &spare).and_then(|()| fs.sync_directory(&self.directory())).is_ok() {
                self.spare = true;
                return true;
            }
        }
        if let Err(error) = fs.remove(&path) {
            tracing::warn!(%error, %path, "a segment that is no longer needed cannot be removed");
        }
        true
    }

    fn spare_path(&self) -> Utf8PathBuf {
        self.directory().join("spare.tmp")
    }

    /// Lets a thread of its own make the next segment's file ready from now on.
    pub(crate) fn prepare_ahead(&mut self) {
        self.preparer = Preparer::start(self.shared.fs.clone(), self.directory().join("next.tmp"));
    }

    /// Makes ready the file of the next segment, so that rolling costs no zero-filling.
    pub(crate) fn prepare_spare(&mut self) -> Result<(), Error> {
        let capacity = self.config().segment_bytes.0;
        if self.spare || self.shared.index().file_bytes() + capacity > self.config().budget.0 {
            return Ok(());
        }
        if let Some(preparer) = &mut self.preparer {
            preparer.ask(capacity);
            return Ok(());
        }
        let path = self.spare_path();
        fill_with_zeros(self.shared.fs.as_ref(), &path, capacity)
            .map_err(|error| Error::io("prepare", &path, error))?;
        self.spare = true;
        Ok(())
    }

    /// Takes over what the preparing thread made, waiting for it if it is at it.
    fn take_prepared(&mut self) {
        let made = self.preparer.as_mut().is_some_and(Preparer::take);
        if made && !self.spare {
            let from = self.directory().join("next.tmp");
            self.spare = self.shared.fs.rename(&from, &self.spare_path()).is_ok();
        }
    }

    /// Whether the active segment is so far gone that the next should be made ready.
    pub(crate) fn wants_spare(&self) -> bool {
        !self.spare && self.active.as_ref().is_some_and(|a| a.end > a.capacity / 2)
    }

    fn create_segment(&mut self, capacity: u64) -> Result<Active, Error> {
        if capacity == self.config().segment_bytes.0 && !self.spare {
            self.take_prepared();
        }
        let id = self.next_segment;
        // A number is never used twice, whatever becomes of the file.
        self.next_segment += 1;
        let fs = self.shared.fs.clone();
        let directory = self.directory();
        let usable = capacity == self.config().segment_bytes.0;
        let temporary = if usable { self.spare_path() } else { directory.join("large.tmp") };
        let recycled = usable && std::mem::take(&mut self.spare);
        let path = segment_path(&self.config().directory, id);
        let file = if recycled {
            fs.open(&temporary, Open::Write).map_err(|error| Error::io("open", &temporary, error))?
        } else {
            let made = fill_with_zeros(fs.as_ref(), &temporary, capacity);
            if made.is_err() {
                // Half a file must not keep the space it got.
                drop(fs.remove(&temporary));
            }
            made.map_err(|error| Error::io("make", &temporary, error))?
        };
        let (seed, end) = self.write_checkpoint(id, file.as_ref(), &path)?;
        fs.rename(&temporary, &path).map_err(|error| Error::io("name", &path, error))?;
        if !mutant::is("nodirsync")
            && let Err(error) = fs.sync_directory(&directory)
        {
            // It counts for nothing, so it must not stay either; its number is not used again.
            drop(fs.remove(&path));
            return Err(Error::io("sync", &directory, error));
        }
        let mut segment = Segment::new(path, seed, capacity);
        segment.index.end = end;
        segment.index.last_group = self.next_group - 1;
        let mut index = self.shared.index();
        index.segments.insert(id, segment);
        index.durable_cursors = index.cursors.clone();
        drop(index);
        self.checkpoint = id;
        self.keep_reserve();
        Ok(Active { id, seed, file, end, synced: end, capacity, declared: Declared::default() })
    }

    /// Segment header and state group, synced.
    fn write_checkpoint(
        &mut self,
        id: u64,
        file: &dyn FileHandle,
        path: &Utf8Path,
    ) -> Result<(Seed, u64), Error> {
        let (store_id, state) = {
            let mut index = self.shared.index();
            index.prune_positions(self.clock.unix_us());
            (index.identity.store_id, index.state(self.next_group + 1))
        };
        let seed = Seed::new(&store_id, id);
        let start = SEGMENT_HEADER as u64;
        let mut group = GroupWriter::new(seed, start, &mut self.group);
        group.push(RecordHeader::of(Kind::State), &[], &state.encode());
        group.finish(self.next_group, start, self.clock.unix_us());
        self.next_group += 1;
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER + self.group.len());
        SegmentHeader { version: FORMAT_VERSION, store_id, segment: id, previous: self.previous }
            .encode(&mut bytes);
        bytes.extend_from_slice(&self.group);
        write_all_at(file, &bytes, 0).map_err(|error| Error::io("write checkpoint to", path, error))?;
        if !mutant::is("nofsync") {
            file.sync_data().map_err(|error| Error::io("sync", path, error))?;
        }
        Ok((seed, bytes.len() as u64))
    }

    fn reserve_path(&self) -> Utf8PathBuf {
        self.config().directory.join("reserve")
    }

    fn keep_reserve(&mut self) {
        if self.reserve {
            return;
        }
        let (fs, path) = (self.shared.fs.clone(), self.reserve_path());
        let bytes = RESERVE_BYTES.min(self.config().segment_bytes.0);
        match fill_with_zeros(fs.as_ref(), &path, bytes) {
            Ok(_) => self.reserve = true,
            Err(_) => drop(fs.remove(&path)),
        }
    }

    fn release_reserve(&mut self) -> bool {
        std::mem::take(&mut self.reserve) && self.shared.fs.remove(&self.reserve_path()).is_ok()
    }

    /// Recovery found a reserve or a spare of an earlier life.
    pub(crate) fn found(&mut self, reserve: bool, spare: bool) {
        self.reserve = reserve;
        self.spare = spare;
    }

    /// Makes cursors durable and marks everything before as synced, so that later damage is not taken for a torn tail.
    pub(crate) fn close(&mut self) -> Result<(), NotNow> {
        if self.active.is_none() && self.shared.index().moved_cursors.is_empty() {
            return Ok(());
        }
        if self.active.is_some() {
            self.sync().map_err(NotNow::of)?;
        }
        let mut plan = Plan::default();
        {
            let mut index = self.shared.index();
            plan.cursors = index.cursors.clone();
            index.moved_cursors.clear();
        }
        self.write_plan(&mut plan, false)?;
        self.sync().map_err(NotNow::of)
    }

    /// Whether a cursor or data waits to be made durable.
    pub(crate) fn has_unsynced(&self) -> bool {
        let waits_for_sync = self.config().durability == Durability::Os
            && self.active.as_ref().is_some_and(|active| active.synced < active.end);
        waits_for_sync || !self.shared.index().moved_cursors.is_empty()
    }
}

/// Fills the next segment's file with zeros while the writer goes on.
#[derive(Debug)]
struct Preparer {
    jobs: SyncSender<u64>,
    made: Receiver<bool>,
    asked: bool,
}

impl Preparer {
    /// `None` if the system gives no thread: then rolling does it.
    fn start(fs: Arc<dyn FileSystem>, path: Utf8PathBuf) -> Option<Self> {
        // One job and one answer at a time.
        let (jobs, todo) = sync_channel::<u64>(1);
        let (done, made) = sync_channel(1);
        let work = move || {
            while let Ok(bytes) = todo.recv() {
                let outcome = fill_with_zeros(fs.as_ref(), &path, bytes);
                if outcome.is_err() {
                    drop(fs.remove(&path));
                }
                if done.send(outcome.is_ok()).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("buffer-prepare".into()).spawn(work).ok()?;
        Some(Self { jobs, made, asked: false })
    }

    fn ask(&mut self, bytes: u64) {
        if !self.asked {
            self.asked = self.jobs.try_send(bytes).is_ok();
        }
    }

    /// Whether a file was made since it was asked for.
    fn take(&mut self) -> bool {
        std::mem::take(&mut self.asked) && self.made.recv().unwrap_or(false)
    }
}

pub(crate) fn segment_path(directory: &Utf8Path, id: u64) -> Utf8PathBuf {
    directory.join("segments").join(format!("{id:016x}.seg"))
}

fn fill_with_zeros(fs: &dyn FileSystem, path: &Utf8Path, bytes: u64) -> std::io::Result<Box<dyn FileHandle>> {
    let file = fs.open(path, Open::Create)?;
    let zeros = vec![0; ZERO_PIECE.min(usize::try_from(bytes).unwrap_or(ZERO_PIECE))];
    let mut at = 0;
    while at < bytes {
        let piece = usize::try_from(bytes - at).unwrap_or(ZERO_PIECE).min(zeros.len());
        write_all_at(file.as_ref(), &zeros[..piece], at)?;
        at += piece as u64;
    }
    file.sync_data()?;
    Ok(file)
}
