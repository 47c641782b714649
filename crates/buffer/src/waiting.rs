//! What waits for a consumer, by headers alone.

use std::collections::{BTreeMap, HashMap};

use aap_types::{Sequence, StreamKey};

use crate::Error;
use crate::format::{Hole, Kind};
use crate::frame::parse_skip;
use crate::fs::Open;
use crate::log::Shared;
use crate::places::{Places, walk_headers};

/// A batch or a skip that waits for a consumer, as far as its header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingFrame {
    /// Its number; of a skip, the first.
    pub sequence: Sequence,
    /// Of a skip, the last; of a batch, its number.
    pub last: Sequence,
    /// Whether it stands for sequences without data.
    pub is_skip: bool,
    /// Rows; of a skip, the rows lost.
    pub rows: u64,
    /// Size of the rows as the source gave them.
    pub raw_bytes: u64,
    /// Bytes of payload; 0 of a skip.
    pub payload_bytes: u64,
    /// When it was sealed.
    pub sealed_us: i64,
    /// Largest `ts`, microseconds.
    pub ts_max_us: i64,
}

/// One channel: whose, from where on, and what of it was given up.
struct Wanted {
    key: StreamKey,
    cut: Sequence,
    holes: Vec<Hole>,
}

/// Everything behind `cut`, every key, in order: one pass over the headers. What is damaged is left out.
pub(crate) fn after(
    shared: &Shared,
    cut: impl Fn(&StreamKey) -> Sequence,
) -> Result<BTreeMap<StreamKey, Vec<WaitingFrame>>, Error> {
    let (wanted, segments) = {
        let index = shared.index();
        let wanted: HashMap<u32, Wanted> = index
            .named_channels()
            .map(|(number, channel)| {
                let cut = cut(&channel.key);
                let holes = channel.holes.iter().filter(|hole| hole.to > cut).cloned().collect();
                (number, Wanted { key: channel.key.clone(), cut, holes })
            })
            .collect();
        let waits = |segment: &&crate::index::Segment| {
            let mut spans = segment.index.spans.iter();
            spans.any(|(number, span)| wanted.get(number).is_some_and(|wanted| span.last > wanted.cut))
        };
        let part = |s: &crate::index::Segment| {
            (s.seed, s.path.clone(), s.index.end, s.places.is_none(), s.pin.clone())
        };
        let segments: Vec<_> = index.segments.values().filter(waits).map(part).collect();
        (wanted, segments)
    };
    let mut found: BTreeMap<StreamKey, Vec<WaitingFrame>> = BTreeMap::new();
    for Wanted { key, cut, holes } in wanted.values() {
        let skip = |hole: &Hole| WaitingFrame {
            sequence: hole.from.max(cut.next()),
            last: hole.to,
            is_skip: true,
            // A hole that is read from its middle was told with its beginning.
            rows: if hole.from > *cut { hole.rows } else { 0 },
            raw_bytes: 0,
            payload_bytes: 0,
            sealed_us: 0,
            ts_max_us: 0,
        };
        if !holes.is_empty() {
            found.entry(key.clone()).or_default().extend(holes.iter().map(skip));
        }
    }
    for (seed, path, end, is_new, _pin) in segments {
        let failed = |error| Error::io("read", &path, error);
        let file = shared.fs.open(&path, Open::Read).map_err(failed)?;
        let mut places = Places::default();
        let walked = walk_headers(file.as_ref(), seed, end, |walker, header, at| {
            places.note(header, at.start);
            let Some(Wanted { key, cut, holes }) = wanted.get(&header.channel) else { return Ok(()) };
            let is_given_up = holes.iter().any(|hole| (hole.from..=hole.to).contains(&header.sequence));
            if header.epoch != key.epoch || header.sequence <= *cut || is_given_up {
                return Ok(());
            }
            let is_skip = header.kind == Kind::Skip;
            let (last, rows) = match is_skip {
                true => {
                    let body = walker.body(header, at.start)?;
                    let skip = body.and_then(|body| parse_skip(&body[..header.payload_bytes as usize]));
                    skip.map_or((header.sequence, 0), |(to, rows, _)| (to, rows))
                }
                false => (header.sequence, u64::from(header.rows)),
            };
            found.entry(key.clone()).or_default().push(WaitingFrame {
                sequence: header.sequence,
                last,
                is_skip,
                rows,
                raw_bytes: header.raw_bytes,
                payload_bytes: if is_skip { 0 } else { u64::from(header.payload_bytes) },
                sealed_us: header.sealed_us,
                ts_max_us: header.ts_max_us,
            });
            Ok(())
        });
        walked.map_err(failed)?;
        if is_new {
            shared.index().keep_places(seed.segment, places);
        }
    }
    found.values_mut().for_each(put_in_order);
    Ok(found)
}

/// A hole may begin inside of a skip: what was told before is not told again.
fn put_in_order(frames: &mut Vec<WaitingFrame>) {
    frames.sort_by_key(|frame| frame.sequence);
    let mut reached = Sequence::ZERO;
    frames.retain_mut(|frame| {
        if frame.sequence <= reached {
            (frame.sequence, frame.rows) = (reached.next(), 0);
        }
        reached = reached.max(frame.last);
        frame.sequence <= frame.last
    });
}
