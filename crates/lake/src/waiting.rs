//! What has landed and is not in the lake yet, by frame header: for listings, rates and deciding when to load.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aap_store::RowCounts;
use aap_types::{BatchId, Sequence, StreamKey, StreamName};

/// The header of a landed frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameInfo {
    /// Its identity; of a skip, the first sequence.
    pub id: BatchId,
    /// Counts of this frame alone.
    pub counts: RowCounts,
}

/// The headers of all frames beyond the cuts. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Arc<Mutex<HashMap<StreamKey, OfKey>>>);

#[derive(Debug, Clone, Default)]
struct OfKey {
    /// Everything up to here is in the lake, or deleted.
    passed: Sequence,
    frames: BTreeMap<Sequence, RowCounts>,
}

impl Waiting {
    /// Notes frames that are durable in the landing buffer. Those that are in the lake already, because another coordinator
    /// was faster, or a load was, do not wait.
    pub fn landed(&self, frames: impl IntoIterator<Item = FrameInfo>) {
        let mut state = self.state();
        for frame in frames {
            let of_key = state.entry(frame.id.key).or_default();
            if frame.id.sequence > of_key.passed {
                of_key.frames.insert(frame.id.sequence, frame.counts);
            }
        }
    }

    /// Forgets what is in the lake, or deleted.
    pub fn passed(&self, key: &StreamKey, through: Sequence) {
        let mut state = self.state();
        let of_key = state.entry(key.clone()).or_default();
        of_key.passed = of_key.passed.max(through);
        of_key.frames = of_key.frames.split_off(&of_key.passed.next());
    }

    /// Counts of everything that waits, by key and sequence. Take it **before** the catalogue: frames that go to the
    /// lake in between are then at or below a cut of that catalogue, and `WaitingFrames::beyond` leaves them out.
    pub fn frames(&self) -> WaitingFrames {
        let state = self.state();
        WaitingFrames(state.iter().map(|(key, of_key)| (key.clone(), of_key.frames.clone())).collect())
    }

    /// For each stream: bytes as read that wait, and when the oldest of them was sealed.
    pub(crate) fn by_stream(&self) -> BTreeMap<StreamName, (u64, i64)> {
        let mut out: BTreeMap<StreamName, (u64, i64)> = BTreeMap::new();
        for (key, OfKey { frames, .. }) in self.state().iter().filter(|(_, of_key)| !of_key.frames.is_empty())
        {
            let (bytes, oldest) = out.entry(key.stream.clone()).or_insert((0, i64::MAX));
            *bytes += frames.values().map(|counts| counts.raw_bytes).sum::<u64>();
            *oldest = frames.values().map(|counts| counts.landed_us).min().unwrap_or(i64::MAX).min(*oldest);
        }
        out
    }

    fn state(&self) -> MutexGuard<'_, HashMap<StreamKey, OfKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waited at one moment.
#[derive(Debug)]
pub struct WaitingFrames(HashMap<StreamKey, BTreeMap<Sequence, RowCounts>>);

impl WaitingFrames {
    /// Counts by stream key of the frames beyond `cuts`.
    pub fn beyond(&self, cuts: &[(StreamKey, Sequence)]) -> Vec<(StreamKey, RowCounts)> {
        let cuts: HashMap<&StreamKey, Sequence> = cuts.iter().map(|(key, cut)| (key, *cut)).collect();
        let counted = self.0.iter().map(|(key, frames)| {
            let cut = cuts.get(key).copied().unwrap_or_default();
            let mut counts = RowCounts::default();
            frames.range(cut.next()..).for_each(|(_, frame)| counts.add(frame));
            (key.clone(), counts)
        });
        counted.filter(|(_, counts)| *counts != RowCounts::default()).collect()
    }
}
