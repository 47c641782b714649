//! From frames to visible files: read, decode, unite, sort, write, commit.
//!
//! Memory is bounded for any input: a load takes frames until it holds [`HELD_BYTES`] of them, and what they expand to
//! exists only chunk by chunk.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use aap_buffer::{Frame, FrameKind};
use aap_runtime::memory::release_freed;
use aap_store::{CursorMove, LakeCommit, LakeFile, RowCounts};
use aap_types::{Sequence, StreamKey, StreamName};
use tracing::warn;

use crate::dead_letters::DeadLetter;
use crate::file::{NewFile, Ranges};
use crate::lake::{READ_BYTES, chain, cut_map, frame_info};
use crate::partition::by_day;
use crate::rows::Part;
use crate::unite::{Columns, United};
use crate::{Error, Lake};

/// Decoded frames of one load, as they are in memory. Together with what sorting and writing need it stays well below
/// 256 MiB.
const HELD_BYTES: u64 = 48 << 20;
/// What they may expand to on their way through: dictionaries stand for long texts.
const EXPANDED_BYTES: u64 = 256 << 20;
/// Rows of one load: each takes 32 bytes while it is sorted.
const ROWS_MAX: u64 = 1 << 20;
/// Most columns of a file, so that one with a name for each value does not make a file of nothing but columns.
pub(crate) const COLUMNS_MAX: usize = 8192;
/// A frame beyond these is no batch that an agent makes, and would take a load for itself.
const FRAME_ROWS_MAX: u32 = 4 << 20;
const FRAME_EXPANDED_BYTES_MAX: u64 = 1 << 30;

impl Lake {
    /// Brings what waits of a stream into the lake, about `file_bytes` of it. Returns whether more waits.
    pub async fn load(&self, stream: &StreamName) -> Result<bool, Error> {
        let stream = stream.clone();
        self.as_leader(move |lake| {
            let more = lake.load_now(&stream);
            // It took and freed tens of MiB in pieces of all sizes, which the allocator would keep.
            release_freed();
            more
        })
        .await
    }

    /// Brings everything that waits into the lake.
    pub async fn load_all(&self) -> Result<(), Error> {
        let streams: BTreeSet<StreamName> =
            self.inner.buffer.tails().into_iter().map(|(key, _)| key.stream).collect();
        for stream in streams {
            while self.load(&stream).await? {}
        }
        Ok(())
    }

    /// Takes fewer and fewer frames where they cannot be written together; one that cannot be written even alone goes
    /// to dead letters, so that nothing stops a stream.
    fn load_now(&self, stream: &StreamName) -> Result<bool, Error> {
        let mut frames_max = usize::MAX;
        loop {
            let mut taken = self.take(stream, frames_max)?;
            if taken.cursors.is_empty() {
                return Ok(false);
            }
            let mut written = guarded(|| self.write(stream, &mut taken));
            if let Err(error) = &written
                && error.is_about_data()
            {
                self.remove_orphans();
                if frames_max > 1 {
                    frames_max = (taken.frames / 4).max(1);
                    continue;
                }
                taken.bury(&chain(error), self.inner.clock.unix_us());
                written = self.write(stream, &mut taken);
            }
            if written.is_err() {
                self.remove_orphans();
            }
            let more = taken.more;
            self.make_visible(stream, taken, written?)?;
            return Ok(more);
        }
    }

    fn make_visible(
        &self,
        stream: &StreamName,
        taken: Taken,
        (add, columns): (Vec<LakeFile>, Columns),
    ) -> Result<(), Error> {
        if !taken.dead.is_empty() {
            self.write_dead_letters(stream, &taken.dead)?;
        }
        let Taken { cursors, counts, .. } = taken;
        let commit = LakeCommit { stream: stream.clone(), add, remove: vec![], cursors, counts, columns };
        self.commit(&commit)?;
        self.inner.loads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes frames of a stream after its cuts, until there is enough.
    fn take(&self, stream: &StreamName, frames_max: usize) -> Result<Taken, Error> {
        let inner = &self.inner;
        let catalogue = inner.store.catalogue()?;
        let known = catalogue.streams.iter().find(|known| known.stream == *stream);
        let cuts = cut_map(&catalogue);
        let mut taken = Taken {
            united: United::over(known.map_or(&[], |known| &known.columns)),
            room: inner.config.file_bytes.0.max(1),
            frames_max: frames_max.max(1),
            ..Taken::default()
        };
        let mut keys: Vec<(StreamKey, Sequence)> =
            inner.buffer.tails().into_iter().filter(|(key, _)| key.stream == *stream).collect();
        if !keys.is_empty() {
            let first = inner.loads.load(Ordering::Relaxed) % keys.len();
            keys.rotate_left(first);
        }
        for (key, tail) in keys {
            let cut = cuts.get(&key).copied().unwrap_or_default();
            // A frame can be loaded between becoming durable and being noted; what was noted late is dropped here.
            inner.waiting.passed(&key, cut);
            if cut < tail {
                self.take_key(&mut taken, key, cut, tail)?;
            }
        }
        Ok(taken)
    }

    fn take_key(
        &self,
        taken: &mut Taken,
        key: StreamKey,
        cut: Sequence,
        tail: Sequence,
    ) -> Result<(), Error> {
        let mut to = cut;
        while to < tail && !taken.is_full() {
            let frames = self.inner.buffer.read(&key, to, READ_BYTES)?;
            if frames.is_empty() {
                break;
            }
            for frame in frames {
                if taken.is_full() {
                    break;
                }
                // What this copy has lost, others have: it must not go from the lake for that.
                if !self.inner.lead.is_alone() && is_damaged(&frame) {
                    return Err(Error::ViewDamaged { key });
                }
                to = frame.last_sequence();
                taken.add(frame, self.inner.clock.unix_us());
            }
        }
        taken.more |= to < tail && taken.is_full();
        if to > cut {
            taken.cursors.push(CursorMove { key, from: cut, to });
        }
        Ok(())
    }

    /// One file for each day of what was taken, and the columns of all.
    fn write(&self, stream: &StreamName, taken: &mut Taken) -> Result<(Vec<LakeFile>, Columns), Error> {
        let Taken { parts, united, .. } = taken;
        if parts.is_empty() {
            return Ok((vec![], vec![]));
        }
        parts.iter().for_each(|part| united.try_batch(&part.batch));
        parts.iter_mut().for_each(|part| part.place(united));
        let days = by_day(parts, united)?;
        let files = days.iter().map(|day| {
            let mut file = NewFile::create(self, stream, &format!("{stream}/date={}", day.date), united)?;
            let mut seen = vec![false; parts.len()];
            for (part, row) in day.picks() {
                seen[part] = true;
                file.row(parts, part, row)?;
            }
            file.flush(parts)?;
            let mut ranges = Ranges::default();
            let ids =
                parts.iter().zip(seen).filter(|(_, seen)| *seen).filter_map(|(part, _)| part.id.as_ref());
            ids.for_each(|id| ranges.add(&id.key.node, id.key.epoch, id.sequence, id.sequence));
            file.finish(day.time_range(), ranges.list())
        });
        Ok((files.collect::<Result<_, _>>()?, united.described()))
    }
}

fn is_damaged(frame: &Frame) -> bool {
    matches!(&frame.kind, FrameKind::Skip { reason, .. } if reason == aap_buffer::DAMAGED)
}

/// Runs what reads data of others. A panic is that data's error, not the end of the lake.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Error::Refused))
}

/// What a load has taken so far.
#[derive(Debug, Default)]
struct Taken {
    parts: Vec<Part>,
    united: United,
    dead: Vec<DeadLetter>,
    cursors: Vec<CursorMove>,
    counts: RowCounts,
    frames: usize,
    held_bytes: u64,
    expanded_bytes: u64,
    /// The frame taken last, kept where there is only one.
    only: Option<Frame>,
    room: u64,
    frames_max: usize,
    more: bool,
}

impl Taken {
    fn is_full(&self) -> bool {
        self.frames >= self.frames_max
            || self.counts.raw_bytes >= self.room
            || self.counts.rows >= ROWS_MAX
            || self.held_bytes >= HELD_BYTES
            || self.expanded_bytes >= EXPANDED_BYTES
            || self.united.len() >= COLUMNS_MAX
    }

    fn add(&mut self, frame: Frame, now_us: i64) {
        let counts = frame_info(&frame, now_us).counts;
        self.frames += 1;
        if !matches!(frame.kind, FrameKind::Data) {
            self.counts.add(&counts);
            return;
        }
        match part_of(&frame) {
            Ok(part) => {
                self.counts.add(&counts);
                self.united.add(&part.batch.schema());
                self.held_bytes += part.held_bytes();
                self.expanded_bytes = self.expanded_bytes.saturating_add(part.expanded_bytes);
                self.parts.push(part);
                self.only = (self.frames_max == 1).then_some(frame);
            }
            Err(reason) => self.dead(frame, reason, now_us),
        }
    }

    /// The frame will never be rows of its stream.
    fn dead(&mut self, frame: Frame, reason: String, now_us: i64) {
        warn!(batch = %frame.id, %reason, "a batch cannot go into the lake and goes to dead letters");
        let RowCounts { rows, landed_us, .. } = frame_info(&frame, now_us).counts;
        self.counts.add(&RowCounts { rows_skipped: rows, landed_us, ..RowCounts::default() });
        self.held_bytes += frame.payload.len() as u64;
        self.dead.push(DeadLetter { frame, reason, now_us });
    }

    /// Makes a dead letter of the only frame.
    fn bury(&mut self, reason: &str, now_us: i64) {
        self.parts.clear();
        self.counts = RowCounts::default();
        if let Some(frame) = self.only.take() {
            self.dead(frame, reason.to_owned(), now_us);
        }
    }
}

pub(crate) fn part_of(frame: &Frame) -> Result<Part, String> {
    if frame.rows > FRAME_ROWS_MAX {
        return Err(format!("it has more than {FRAME_ROWS_MAX} rows"));
    }
    let batch = aap_buffer::decode(&frame.schema, &frame.payload, None).map_err(|error| chain(&error))?;
    let part = Part::new(Some(frame.id.clone()), batch);
    match part.expanded_bytes {
        ..=FRAME_EXPANDED_BYTES_MAX => Ok(part),
        bytes => Err(format!("its dictionaries expand to {bytes} bytes")),
    }
}
