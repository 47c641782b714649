//! The next segment: its file, its header, its checkpoint.

use std::collections::BTreeMap;

use aap_types::Sequence;
use camino::{Utf8Path, Utf8PathBuf};

use super::prepare::{Preparer, fill_with_zeros};
use super::{Active, Log, segment_path};
use crate::format::{FORMAT_VERSION, Kind, RecordHeader, SEGMENT_HEADER, Seed, SegmentHeader};
use crate::fs::{FileHandle, Open, write_all_at};
use crate::group::{Declared, GroupWriter};
use crate::index::{CursorKey, Segment};
use crate::{Error, mutant};

/// What a fresh checkpoint wrote: how far it goes, and the cursors that are durable by it.
struct Checkpoint {
    seed: Seed,
    end: u64,
    cursors: BTreeMap<CursorKey, Sequence>,
}

impl Log {
    /// Makes the next segment's file and gives it its name. `for_data` says whether data may go into it.
    pub(super) fn create_segment(&mut self, capacity: u64, for_data: bool) -> Result<Active, Error> {
        if let Some(active) = &self.active {
            self.previous = (active.id, active.end);
        }
        let usable = capacity == self.config().segment_bytes.0;
        if usable && !self.spare {
            self.take_prepared();
        }
        let id = self.next_segment;
        // A number is never used twice, whatever becomes of the file.
        self.next_segment += 1;
        let fs = self.shared.fs.clone();
        let temporary = if usable { self.spare_path() } else { self.directory().join("large.tmp") };
        let path = segment_path(&self.config().directory, id);
        let file = if usable && std::mem::take(&mut self.spare) {
            fs.open(&temporary, Open::Write).map_err(|error| Error::io("open", &temporary, error))?
        } else {
            fill_with_zeros(fs.as_ref(), &temporary, capacity)
                .map_err(|error| Error::io("make", &temporary, error))?
        };
        let Checkpoint { seed, end, cursors } = self.write_checkpoint(id, file.as_ref(), &path)?;
        self.name_segment(&temporary, &path)?;
        let mut segment = Segment::new(path, seed, capacity);
        segment.index.end = end;
        segment.index.last_group = self.next_group - 1;
        let mut guard = self.shared.index();
        let index = &mut *guard;
        index.segments.insert(id, segment);
        index.moved_cursors.retain(|key| index.cursors.get(key) != cursors.get(key));
        // Not those of now: one that moved during the sync is in no file yet.
        index.durable_cursors = cursors;
        drop(guard);
        self.checkpoint = id;
        self.keep_reserve();
        Ok(Active { id, seed, file, end, synced: end, capacity, for_data, declared: Declared::default() })
    }

    /// Gives a finished segment its name. If that fails, the name may or may not be on the disk, and its header says
    /// where the segment before it ends: so nothing may be appended to that one any more.
    fn name_segment(&mut self, temporary: &Utf8Path, path: &Utf8Path) -> Result<(), Error> {
        let (fs, directory) = (self.shared.fs.clone(), self.directory());
        let mut named = fs.rename(temporary, path).map_err(|error| Error::io("name", path, error));
        if named.is_ok() && !mutant::is("nodirsync") {
            named = fs.sync_directory(&directory).map_err(|error| Error::io("sync", &directory, error));
        }
        if let Err(error) = &named {
            // It counts for nothing, so it should not stay either; its number is not used again.
            drop(fs.remove(path));
            if !mutant::is("keepactive") {
                self.abandon(error);
            }
        }
        named
    }

    /// Segment header and state group, synced.
    fn write_checkpoint(
        &mut self,
        id: u64,
        file: &dyn FileHandle,
        path: &Utf8Path,
    ) -> Result<Checkpoint, Error> {
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
        Ok(Checkpoint { seed, end: bytes.len() as u64, cursors: state.cursors })
    }

    pub(super) fn spare_path(&self) -> Utf8PathBuf {
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
}
