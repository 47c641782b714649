//! Room: when the next segment may begin, what goes to make room for it, and what to do on a full disk.
//!
//! Delivered data makes room, and it is delivered only when the cursor that says so is durable, which takes room as well.
//! So a part of every segment is kept for cursors, a file is set aside that is given up on a full disk, and where room is
//! short a cursor is written only if some segment can go thereby: every such write gives back more than it takes.

use std::collections::HashMap;

use aap_types::Sequence;
use camino::Utf8PathBuf;

use super::prepare::fill_with_zeros;
use super::{Active, Log, NotNow};
use crate::config::{Durability, WhenFull};
use crate::format::{Hole, Kind, POINTER, RecordHeader, SEGMENT_HEADER};
use crate::frame::skip_payload;
use crate::group::{Plan, Planned};
use crate::index::{DROPPED, Index, Segment};
use crate::{Error, mutant};

/// Room left in a segment for cursor moves when the budget keeps data out.
const CONTROL_ROOM: u64 = 4096;
/// And for each cursor that there is: a consumer's name, a number and a sequence.
const CURSOR_ROOM: u64 = 48;
/// Kept aside for a checkpoint on a full disk.
const RESERVE_BYTES: u64 = 1 << 20;
/// Delivered segments kept beyond what `retain` makes of full ones: every start leaves a small one.
const RETAINED_SMALL_MAX: u64 = 64;
/// What a file system gives at least.
const BLOCK: u64 = 4096;

impl Log {
    /// Whether the active segment takes this much more.
    pub(super) fn has_room(&self, needed: u64, carries_data: bool) -> bool {
        let kept_back = if carries_data { self.kept_back() } else { 0 };
        self.active.as_ref().is_some_and(|active| {
            (active.for_data || !carries_data)
                && active.end + needed + kept_back + POINTER as u64 <= active.capacity
        })
    }

    fn kept_back(&self) -> u64 {
        CONTROL_ROOM + CURSOR_ROOM * self.shared.index().cursors.len() as u64
    }

    /// Begins the next segment, then ends the active one.
    pub(super) fn roll(&mut self, needed: u64, carries_data: bool) -> Result<(), NotNow> {
        let created = self.begin_segment(needed, carries_data)?;
        if let Some(old) = self.active.replace(created) {
            self.seal(&old);
        }
        self.reclaim(0);
        Ok(())
    }

    fn begin_segment(&mut self, needed: u64, carries_data: bool) -> Result<Active, NotNow> {
        let capacity = self.capacity_for(needed);
        if carries_data {
            self.make_room(capacity)?;
        }
        if self.config().durability == Durability::Os
            && let Err(error) = self.sync()
        {
            tracing::warn!(%error, "sync before the next segment failed");
        }
        if carries_data || self.admits(capacity) || mutant::is("overbudget") {
            match self.create_segment(capacity, true) {
                Err(error) if error.is_no_space() => {
                    if let Some(created) = self.create_in_place_of_others(capacity, carries_data)? {
                        return Ok(created);
                    }
                    if carries_data {
                        return Err(NotNow::NoRoom(error));
                    }
                }
                other => return other.map_err(NotNow::of),
            }
        }
        self.create_small(needed)
    }

    /// On a full disk: delivered data goes first, whatever was to be retained; then, if that is wanted, the oldest.
    fn create_in_place_of_others(
        &mut self,
        capacity: u64,
        carries_data: bool,
    ) -> Result<Option<Active>, NotNow> {
        let drops = carries_data && self.config().when_full == WhenFull::DropOldest;
        while self.reclaim(u64::MAX) > 0 || (drops && self.drop_oldest()?) {
            match self.create_segment(capacity, true) {
                Err(error) if error.is_no_space() => {}
                other => return other.map(Some).map_err(NotNow::of),
            }
        }
        Ok(None)
    }

    /// A segment for a checkpoint and cursors alone, for when there is no room for a whole one.
    fn create_small(&mut self, needed: u64) -> Result<Active, NotNow> {
        let capacity = self.small_capacity(needed);
        let first = self.create_segment(capacity, false);
        match first {
            Err(error) if error.is_no_space() && self.release_reserve() => {
                self.create_segment(capacity, false).map_err(NotNow::of)
            }
            other => other.map_err(NotNow::of),
        }
    }

    fn state_bytes(&self) -> u64 {
        let state = self.shared.index().state(0).encode();
        (SEGMENT_HEADER + state.len() + 512) as u64
    }

    fn small_capacity(&self, needed: u64) -> u64 {
        (self.state_bytes() + needed + self.kept_back() + POINTER as u64).next_multiple_of(BLOCK)
    }

    fn capacity_for(&self, needed: u64) -> u64 {
        let state = self.state_bytes();
        // A checkpoint that fills a segment would leave no room for what it is written for.
        let state = if state > self.config().segment_bytes.0 / 4 { 4 * state } else { state };
        let wanted = state + needed + self.kept_back() + POINTER as u64;
        if wanted <= self.config().segment_bytes.0 {
            return self.config().segment_bytes.0;
        }
        wanted.next_multiple_of(BLOCK)
    }

    /// Whether a group of this size finds room when everything before it is delivered. One that never does must be
    /// refused, not waited for.
    pub(super) fn check_fits_budget(&self, needed: u64) -> Result<(), Error> {
        // Most groups are small beside the budget; for these the state need not be looked at.
        let budget = self.config().budget.0;
        if needed < self.config().segment_bytes.0 / 4 {
            return Ok(());
        }
        let others = self.small_capacity(0);
        if self.capacity_for(needed) + others <= budget {
            return Ok(());
        }
        let limit = budget.saturating_sub(others + self.capacity_for(0).min(others));
        Err(Error::Oversize { bytes: needed, limit })
    }

    fn admits(&self, capacity: u64) -> bool {
        self.shared.index().file_bytes() + capacity <= self.config().budget.0
    }

    /// Makes sure that the budget admits a new segment.
    fn make_room(&mut self, capacity: u64) -> Result<(), NotNow> {
        while !self.admits(capacity) {
            let excess = (self.shared.index().file_bytes() + capacity).saturating_sub(self.config().budget.0);
            if self.reclaim(excess) > 0 {
                continue;
            }
            if self.config().when_full != WhenFull::DropOldest || !self.drop_oldest()? {
                return Err(NotNow::NoRoom(Error::Full));
            }
        }
        Ok(())
    }

    /// Begins a whole segment if there is room for one now.
    pub(super) fn roll_if_admitted(&mut self, needed: u64) -> Result<(), NotNow> {
        let capacity = self.capacity_for(needed);
        if !self.admits(capacity) {
            let excess = (self.shared.index().file_bytes() + capacity).saturating_sub(self.config().budget.0);
            self.reclaim(excess);
        }
        if !self.admits(capacity) {
            return Err(NotNow::NoRoom(Error::Full));
        }
        let created = self.create_segment(capacity, true).map_err(NotNow::of)?;
        if let Some(old) = self.active.replace(created) {
            self.seal(&old);
        }
        Ok(())
    }

    /// Where room is short: makes cursors durable, if a segment can go thereby, and lets it go. Whether room was made.
    pub(crate) fn free_delivered(&mut self) -> Result<bool, NotNow> {
        let (an_old_one, the_active_one) = self.newly_delivered();
        if an_old_one || mutant::is("eagerflush") || mutant::is("overbudget") {
            self.commit_plan(&mut Plan::default(), false)?;
        } else if the_active_one {
            // The checkpoint of the next segment makes them durable.
            self.roll_small()?;
        } else {
            return Ok(self.reclaim(0) > 0);
        }
        Ok(true)
    }

    /// Whether the cursors in memory, once durable, free a segment that is over, or the active one if it were over.
    fn newly_delivered(&self) -> (bool, bool) {
        let index = self.shared.index();
        let landing = &self.config().landing_consumer;
        let cursors: HashMap<u32, Sequence> = index
            .cursors
            .iter()
            .filter(|((consumer, _), _)| consumer == landing)
            .map(|((_, number), sequence)| (*number, *sequence))
            .collect();
        let is_passed = |segment: &&Segment| {
            let mut named = segment.index.spans.iter().filter(|(n, _)| index.named_channel(**n).is_some());
            !segment.is_pinned() && named.all(|(n, span)| cursors.get(n).is_some_and(|c| *c >= span.last))
        };
        let old = index.segments.range(..self.checkpoint).map(|(_, segment)| segment);
        let an_old_one = old.filter(is_passed).any(|segment| !index.is_delivered(segment, landing));
        let active = self.active.as_ref().and_then(|active| index.segments.get(&active.id));
        let the_active_one = active.filter(|s| !s.index.spans.is_empty()).filter(is_passed).is_some();
        (an_old_one, the_active_one)
    }

    /// Ends the active segment, so that it can go.
    fn roll_small(&mut self) -> Result<(), NotNow> {
        let created = self.create_small(0)?;
        if let Some(old) = self.active.replace(created) {
            self.seal(&old);
        }
        Ok(())
    }

    /// Gives up the oldest segment that is not in use: its undelivered sequences become holes, durably, before the file
    /// goes.
    fn drop_oldest(&mut self) -> Result<bool, NotNow> {
        let oldest = |log: &Self| {
            let index = log.shared.index();
            let oldest = index.segments.range(..log.checkpoint).find(|(_, segment)| !segment.is_pinned());
            oldest.map(|(id, segment)| (*id, log.plan_drop(&index, segment)))
        };
        let mut found = oldest(self);
        let has_data = |log: &Self| {
            let index = log.shared.index();
            let active = log.active.as_ref().and_then(|active| index.segments.get(&active.id));
            active.is_some_and(|segment| !segment.is_pinned() && !segment.index.spans.is_empty())
        };
        if found.is_none() && has_data(self) {
            self.roll_small()?;
            found = oldest(self);
        }
        let Some((id, mut plan)) = found else { return Ok(false) };
        // With the cursors that the holes begin behind.
        self.commit_plan(&mut plan, false)?;
        Ok(self.remove_segment(id))
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

    /// Removes delivered segments, oldest first, beyond what is to be retained, in bytes or in number, and then until
    /// `at_least` bytes are free. Returns the bytes freed.
    pub(crate) fn reclaim(&mut self, at_least: u64) -> u64 {
        let mut candidates: Vec<(u64, u64)> = {
            let index = self.shared.index();
            let landing = &self.config().landing_consumer;
            let gone = |(_, s): &(&u64, &Segment)| !s.is_pinned() && index.is_delivered(s, landing);
            index.segments.range(..self.checkpoint).filter(gone).map(|(id, s)| (*id, s.file_bytes)).collect()
        };
        let mut delivered: u64 = candidates.iter().map(|(_, bytes)| bytes).sum();
        let mut freed = 0;
        let segments_max = self.config().retain.0 / self.config().segment_bytes.0 + RETAINED_SMALL_MAX;
        candidates.reverse();
        while let Some((id, bytes)) = candidates.pop() {
            let is_retained = delivered <= self.config().retain.0 && candidates.len() as u64 <= segments_max;
            if is_retained && freed >= at_least {
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

    fn reserve_path(&self) -> Utf8PathBuf {
        self.config().directory.join("reserve")
    }

    /// Sets room aside, enough for the checkpoint that will need it.
    pub(super) fn keep_reserve(&mut self) {
        let bytes = RESERVE_BYTES.min(self.config().segment_bytes.0).max(2 * self.small_capacity(0));
        if self.reserve >= bytes || mutant::is("noreserve") {
            return;
        }
        let (fs, path) = (self.shared.fs.clone(), self.reserve_path());
        // Room to grow, so that it is not made again for each new stream.
        let bytes = if self.reserve > 0 { 2 * bytes } else { bytes };
        self.reserve = fill_with_zeros(fs.as_ref(), &path, bytes).map_or(0, |_| bytes);
    }

    fn release_reserve(&mut self) -> bool {
        std::mem::take(&mut self.reserve) > 0 && self.shared.fs.remove(&self.reserve_path()).is_ok()
    }
}
