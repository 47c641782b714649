//! Where the frames of a segment stand: so that reading one stream does not walk over the bytes of all others.
//!
//! The writer notes the frames of the segment that it writes. Of an older one they are found by a walk over its headers,
//! once, when somebody reads it, and kept for those who read it next, as far as [`PLACES_KEPT`] allows.

use std::collections::HashMap;
use std::io;

use aap_types::Sequence;

use crate::format::{Kind, RecordHeader, SEGMENT_HEADER, Seed};
use crate::fs::FileHandle;
use crate::index::Index;
use crate::walk::{Found, HEADERS, Item, WINDOW, Walker};

/// Frames whose place is remembered, of all segments together, 16 bytes each. Segments of batches as large as they should
/// be have a hundred or so; this is for thousands of them, or a few of tiny batches.
const PLACES_KEPT: usize = 256 << 10;

/// Where a frame stands in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: Sequence,
    offset: u32,
    bytes: u32,
}

impl Place {
    pub(crate) fn start(self) -> u64 {
        u64::from(self.offset)
    }
    pub(crate) fn end(self) -> u64 {
        u64::from(self.offset) + u64::from(self.bytes)
    }
}

/// The frames of one segment by channel, in order.
#[derive(Debug, Default)]
pub(crate) struct Places {
    by_channel: HashMap<u32, Vec<Place>>,
    count: usize,
}

impl Places {
    pub(crate) fn note(&mut self, header: &RecordHeader, offset: u64) {
        let (Ok(offset), Ok(bytes)) = (u32::try_from(offset), u32::try_from(header.total_bytes())) else {
            return;
        };
        let places = self.by_channel.entry(header.channel).or_default();
        // What does not follow cannot be the next frame of anything.
        if places.last().is_none_or(|last| last.sequence < header.sequence) {
            places.push(Place { sequence: header.sequence, offset, bytes });
            self.count += 1;
        }
    }

    /// The next frames of a channel from `want` on, at most `count`.
    pub(crate) fn from(&self, channel: u32, want: Sequence, count: usize) -> &[Place] {
        let places = self.by_channel.get(&channel).map_or(&[][..], Vec::as_slice);
        let start = places.partition_point(|place| place.sequence < want);
        &places[start..places.len().min(start.saturating_add(count))]
    }

    /// Walks over the headers of a segment.
    pub(crate) fn find(file: &(dyn FileHandle + 'static), seed: Seed, end: u64) -> io::Result<Self> {
        let mut places = Self::default();
        walk_headers(file, seed, end, |_, header, found| {
            places.note(header, found.start);
            Ok(())
        })?;
        Ok(places)
    }
}

/// Shows every data and skip header of a segment, reading little else.
pub(crate) fn walk_headers<'a>(
    file: &'a (dyn FileHandle + 'static),
    seed: Seed,
    end: u64,
    mut see: impl FnMut(&mut Walker<&'a (dyn FileHandle + 'static)>, &RecordHeader, &Found) -> io::Result<()>,
) -> io::Result<()> {
    let mut walker = Walker::new(file, seed, SEGMENT_HEADER as u64, end);
    walker.read_ahead(HEADERS);
    while let Some(found) = walker.next()? {
        if let Item::Record(header) = found.item
            && matches!(header.kind, Kind::Data | Kind::Skip)
        {
            see(&mut walker, &header, &found)?;
        }
    }
    Ok(())
}

impl Index {
    /// Keeps the places of a segment, and forgets those that were not used for longest where they are too many.
    pub(crate) fn keep_places(&mut self, segment: u64, places: Places) {
        if let Some(segment) = self.segments.get_mut(&segment)
            && segment.places.is_none()
        {
            segment.places = Some(places);
        }
        self.use_places(segment);
        self.forget_places(segment);
    }

    pub(crate) fn use_places(&mut self, segment: u64) {
        self.reads += 1;
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.read_at = self.reads;
        }
    }

    /// All but those of `kept` and of a segment that is still written.
    pub(crate) fn forget_places(&mut self, kept: u64) {
        let count = |segment: &crate::index::Segment| segment.places.as_ref().map_or(0, |p| p.count);
        let mut all: usize = self.segments.values().map(count).sum();
        while all > PLACES_KEPT {
            let may_go =
                |(id, s): &(&u64, &mut crate::index::Segment)| **id != kept && s.sealed && s.places.is_some();
            let oldest = self.segments.iter_mut().filter(may_go).min_by_key(|(_, segment)| segment.read_at);
            let Some((_, segment)) = oldest else { return };
            all -= count(segment);
            segment.places = None;
        }
    }
}

/// How much to read at once for the first of these places, so that those that follow closely come along.
pub(crate) fn run_bytes(places: &[Place], room: usize) -> usize {
    /// Headers and trailers of groups lie between frames that were written one after the other.
    const GAP_MAX: u64 = 4096;
    let Some(first) = places.first() else { return 0 };
    let mut end = first.end();
    for (one, next) in places.iter().zip(&places[1..]) {
        let bytes = next.end() - first.start();
        if next.start().saturating_sub(one.end()) > GAP_MAX || bytes > WINDOW as u64 || bytes > room as u64 {
            break;
        }
        end = next.end();
    }
    usize::try_from(end - first.start()).unwrap_or(usize::MAX)
}
