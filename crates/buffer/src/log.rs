//! The writing half: one owner, no thread of its own, so that tests drive it call by call.
//!
//! A group is written with one positioned write and one fdatasync into the active segment. Everything in memory changes
//! only after that. If either fails, the file is never written or synced again: it ends, by the header and the
//! checkpoint of the next segment, where it was last synced, and the group is encoded anew for that next segment.

mod prepare;
mod segment;
mod space;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aap_runtime::Clock;
use aap_types::{BatchId, Epoch, Sequence, SourcePosition};
use camino::{Utf8Path, Utf8PathBuf};

use self::prepare::Preparer;
use crate::config::{BufferConfig, Durability};
use crate::format::{Kind, POINTER, Seed, footer_bytes};
use crate::fs::{FileHandle, FileSystem, Lock, write_all_at};
use crate::group::{Declared, GroupWriter, Plan, Planned, encode};
use crate::index::Index;
use crate::{Entry, Error, identity, mutant};

/// Largest group: bounds memory, and leaves room for a whole 16 MiB request in one append.
pub(crate) const GROUP_BYTES_MAX: u64 = 64 << 20;
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
    /// Else it was made without room for it, for cursors alone.
    for_data: bool,
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
    /// Bytes set aside for a checkpoint on a full disk.
    reserve: u64,
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
            reserve: 0,
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

    /// Checks the calls and gives sequences and digests. The plan holds one answer per call, good once it is committed.
    pub(crate) fn plan(&self, calls: &[impl AsRef<[Entry]>]) -> Result<Plan, Error> {
        let mut plan = Plan::of(&self.shared.index(), calls, self.clock.unix_us());
        let bytes = plan.bytes_max();
        if bytes > GROUP_BYTES_MAX {
            return Err(Error::Oversize { bytes, limit: GROUP_BYTES_MAX });
        }
        self.check_fits_budget(bytes)?;
        plan.seal();
        Ok(plan)
    }

    /// Makes a plan durable, with the cursors that moved since.
    pub(crate) fn commit_planned(&mut self, plan: &mut Plan) -> Result<(), NotNow> {
        let carries_data = !plan.records.is_empty();
        self.commit_plan(plan, carries_data)
    }

    /// Commits the calls in one group. `Ok` holds one answer per call.
    pub(crate) fn commit(
        &mut self,
        calls: &[Vec<Entry>],
    ) -> Result<Vec<Result<Vec<BatchId>, Error>>, NotNow> {
        let mut plan = self.plan(calls).map_err(NotNow::Failed)?;
        self.commit_planned(&mut plan)?;
        Ok(plan.answers)
    }

    /// Makes cursor moves durable, if there are any. Where room is short that waits until it makes room.
    pub(crate) fn flush_cursors(&mut self) -> Result<(), NotNow> {
        let needed = {
            let index = self.shared.index();
            let moved = index.moved_cursors.iter().map(|key| (key.clone(), Sequence::ZERO));
            Plan { cursors: moved.collect(), ..Plan::default() }.bytes_max()
        };
        if self.shared.index().moved_cursors.is_empty() || self.has_room(needed, true) {
            return self.commit_plan(&mut Plan::default(), false);
        }
        if self.free_delivered()? && self.shared.index().moved_cursors.is_empty() {
            return Ok(());
        }
        // A whole segment, as for data, but nothing is dropped for it.
        self.roll_if_admitted(needed)?;
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
                let known = index.positions.get(&node, new.kind, &new.key);
                known.is_none_or(|known| known.offset < new.offset)
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

    /// Encodes, writes, syncs, and only then lets everybody see.
    fn write_group(&mut self, plan: &mut Plan) -> Result<(), Error> {
        let durability = self.config().durability;
        let (number, now_us) = (self.next_group, self.clock.unix_us());
        let active = self.active.as_mut().ok_or(Error::Closed)?;
        let mut group = GroupWriter::new(active.seed, active.end, &mut self.group);
        let (news, schemas_at) = encode(plan, &self.shared.index(), &active.declared, &mut group);
        group.finish(number, active.synced, now_us);
        let path = segment_path(&self.shared.config.directory, active.id);
        let written = write_all_at(active.file.as_ref(), &self.group, active.end);
        if !mutant::is("nowriteerror") {
            written.map_err(|error| Error::io("write group to", &path, error))?;
        }
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
        index.set_own_positions(now_us, std::mem::take(&mut plan.positions));
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
                index.forget_places(old.id);
                if let Some(segment) = index.segments.get_mut(&old.id) {
                    segment.file_bytes = segment.file_bytes.max(pointer_at + POINTER as u64);
                }
            }
            Err(error) => tracing::debug!(%error, segment = old.id, "no footer; recovery will read the data"),
        }
    }

    /// Recovery found a reserve or a spare of an earlier life.
    pub(crate) fn found(&mut self, reserve: u64, spare: bool) {
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
        let mut plan = Plan { cursors: self.shared.index().cursors.clone(), ..Plan::default() };
        if !self.has_room(plan.bytes_max(), false) {
            self.flush_cursors()?;
        } else {
            self.shared.index().moved_cursors.clear();
            self.write_plan(&mut plan, false)?;
        }
        self.sync().map_err(NotNow::of)
    }

    /// Whether a cursor or data waits to be made durable.
    pub(crate) fn has_unsynced(&self) -> bool {
        let waits_for_sync = self.config().durability == Durability::Os
            && self.active.as_ref().is_some_and(|active| active.synced < active.end);
        waits_for_sync || !self.shared.index().moved_cursors.is_empty()
    }
}

pub(crate) fn segment_path(directory: &Utf8Path, id: u64) -> Utf8PathBuf {
    directory.join("segments").join(format!("{id:016x}.seg"))
}
