//! Reading frames back, in order, over whatever is missing.

use std::sync::Arc;

use aap_types::{BatchId, Digest, NodeId, Sequence, StreamKey};
use arrow_schema::Schema;
use bytes::Bytes;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::format::{Hole, Kind, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, Seed, aligned};
use crate::frame::{parse_skip, skip_payload};
use crate::fs::Open;
use crate::index::{DAMAGED, Index, RECLAIMED};
use crate::log::Shared;
use crate::walk::{Item, Walker};
use crate::{Error, Frame, FrameKind, FrameSchema};

/// Where the next frame of a key is looked for.
enum Next {
    /// There is none.
    End,
    /// Sequences without data, up to and including this one.
    Skip { to: Sequence, rows: u64, reason: String },
    /// In this part of this segment.
    In(Place),
}

struct Place {
    path: Utf8PathBuf,
    seed: Seed,
    start: u64,
    end: u64,
    /// The last sequence of the key in this segment.
    last: Sequence,
    /// The next sequence that was given up although its frame is here.
    hole: Option<Sequence>,
    channel: u32,
    _pin: Arc<()>,
}

struct Reader<'a> {
    shared: &'a Shared,
    key: &'a StreamKey,
    own_node: NodeId,
    want: Sequence,
    /// Bytes still to be read.
    room: usize,
    /// The last frame's: mostly the next one's too.
    schema: Option<Arc<FrameSchema>>,
    frames: Vec<Frame>,
}

/// Frames of `key` after `after`, about `bytes_max` of them and at least one.
pub(crate) fn read(
    shared: &Shared,
    key: &StreamKey,
    after: Sequence,
    bytes_max: usize,
) -> Result<Vec<Frame>, Error> {
    let mut reader = Reader {
        shared,
        key,
        own_node: shared.index().identity.node.clone(),
        want: after.next(),
        room: bytes_max.max(1),
        schema: None,
        frames: Vec::new(),
    };
    while reader.room > 0 {
        match reader.locate() {
            Next::End => break,
            Next::Skip { to, rows, reason } => reader.skip(to, rows, &reason),
            Next::In(place) => reader.read_segment(&place)?,
        }
    }
    Ok(reader.frames)
}

/// The digest of a stored batch whose frame must be looked for.
pub(crate) fn digest_of(shared: &Shared, id: &BatchId) -> Option<Digest> {
    let after = Sequence(id.sequence.0.checked_sub(1)?);
    let frames = read(shared, &id.key, after, 1).ok()?;
    let frame = frames.into_iter().next()?;
    // A skip stands for what this side does not have: no digest to compare with.
    (frame.id == *id && frame.kind == FrameKind::Data).then_some(frame.digest)
}

fn locate(index: &Index, key: &StreamKey, want: Sequence) -> Next {
    let Some((number, channel)) = index.channel(key) else { return Next::End };
    if want > channel.tail {
        return Next::End;
    }
    if let Some(hole) = channel.hole_at(want) {
        // A hole that is read from its middle keeps its end and reason; its rows were told with its beginning.
        let rows = if hole.from == want { hole.rows } else { 0 };
        return Next::Skip { to: hole.to, rows, reason: hole.reason.clone() };
    }
    let hinted =
        channel.hints.iter().rev().find(|(next, ..)| *next == want).and_then(|(_, segment, offset)| {
            let found = index.segments.get(segment)?;
            let span = found.index.spans.get(&number)?;
            (span.last >= want && *offset < found.index.end).then_some((found, span, *offset))
        });
    let found = hinted.or_else(|| {
        index.segments.values().find_map(|segment| {
            let span = segment.index.spans.get(&number)?;
            (span.last >= want).then_some((segment, span, span.first_offset))
        })
    });
    let Some((segment, span, start)) = found else {
        return Next::Skip { to: channel.tail, rows: 0, reason: RECLAIMED.into() };
    };
    if span.first > want {
        let is_before_all =
            !index.segments.values().any(|s| s.index.spans.get(&number).is_some_and(|s| s.last < want));
        let reason = if is_before_all { RECLAIMED } else { DAMAGED };
        return Next::Skip { to: Sequence(span.first.0 - 1), rows: 0, reason: reason.into() };
    }
    Next::In(Place {
        path: segment.path.clone(),
        seed: segment.seed,
        start,
        end: segment.index.end,
        last: span.last,
        hole: channel.holes.iter().map(|hole| hole.from).filter(|from| *from > want).min(),
        channel: number,
        _pin: segment.pin.clone(),
    })
}

impl Reader<'_> {
    fn locate(&self) -> Next {
        locate(&self.shared.index(), self.key, self.want)
    }

    /// A skip from the wanted sequence, or to the next hole if that comes first.
    fn skip(&mut self, to: Sequence, rows: u64, reason: &str) {
        let id = BatchId { key: self.key.clone(), sequence: self.want };
        let payload = skip_payload(to, rows, reason);
        let digest = Digest::of(&id, &[], &payload);
        self.push_skip(id, digest, 0, payload);
    }

    /// Sequences that cannot be read: counted once, and a skip from now on.
    fn give_up(&mut self, place: &Place, to: Sequence, rows: u64) {
        let hole = Hole { from: self.want, to, rows, reason: DAMAGED.into() };
        let mut index = self.shared.index();
        if let Some(channel) = index.channels.get_mut(place.channel as usize)
            && channel.hole_at(hole.from).is_none()
        {
            channel.add_hole(hole);
        }
        drop(index);
        self.skip(to, rows, DAMAGED);
    }

    fn push_skip(&mut self, id: BatchId, digest: Digest, sealed_us: i64, payload: Bytes) {
        let Some((to, rows, reason)) = parse_skip(&payload) else { return };
        let to = to.max(id.sequence);
        self.want = to.next();
        self.room = self.room.saturating_sub(RECORD_HEADER + payload.len());
        self.frames.push(Frame {
            id,
            kind: FrameKind::Skip { to, rows, reason },
            digest,
            rows: 0,
            ts_min_us: 0,
            ts_max_us: 0,
            sealed_us,
            raw_bytes: 0,
            positions: Bytes::new(),
            schema: FrameSchema::of(Arc::new(Schema::empty())),
            payload,
        });
    }

    fn read_segment(&mut self, place: &Place) -> Result<(), Error> {
        let failed = |error| Error::io("read", &place.path, error);
        let file = self.shared.fs.open(&place.path, Open::Read).map_err(failed)?;
        let mut walker = Walker::new(file.as_ref(), place.seed, place.start, place.end);
        let mut reached = place.start;
        while self.room > 0 && self.want <= place.last {
            let Some(found) = walker.next().map_err(failed)? else {
                let before = place.hole.filter(|hole| *hole <= place.last);
                self.give_up(place, before.map_or(place.last, |hole| Sequence(hole.0 - 1)), 0);
                break;
            };
            if matches!(found.item, Item::Damage) {
                self.note_damage(place, found.start);
            }
            let Item::Record(header) = found.item else { continue };
            let is_frame = matches!(header.kind, Kind::Data | Kind::Skip);
            let is_ours = header.channel == place.channel && header.epoch == self.key.epoch;
            if !is_frame || !is_ours || header.sequence < self.want {
                continue;
            }
            if place.hole.is_some_and(|hole| hole <= header.sequence) {
                // Given up: the outer loop answers with the skip.
                if place.hole.is_some_and(|hole| hole > self.want) {
                    let before = place.hole.map_or(self.want, |hole| Sequence(hole.0 - 1));
                    self.give_up(place, before, 0);
                }
                break;
            }
            if header.sequence > self.want {
                self.give_up(place, Sequence(header.sequence.0 - 1), 0);
            }
            let body = walker.body(&header, found.start).map_err(failed)?.map(Bytes::copy_from_slice);
            match body {
                Some(body) => self.push(place, &header, &body)?,
                None => {
                    self.note_damage(place, found.start);
                    self.give_up(place, header.sequence, header.rows.into());
                }
            }
            reached = found.end;
        }
        if reached > place.start {
            self.leave_hint(place, reached);
        }
        Ok(())
    }

    fn push(&mut self, place: &Place, header: &RecordHeader, body: &Bytes) -> Result<(), Error> {
        let id = BatchId { key: self.key.clone(), sequence: header.sequence };
        let positions = body.slice(..header.positions_bytes as usize);
        let start = aligned(header.positions_bytes as usize);
        let payload = body.slice(start..start + header.payload_bytes as usize);
        if header.kind == Kind::Skip {
            self.push_skip(id, header.digest, header.sealed_us, payload);
            return Ok(());
        }
        if self.key.node != self.own_node && Digest::of(&id, &positions, &payload) != header.digest {
            // A landed frame is read to be written to the lake: nobody behind us checks whose it is.
            self.shared.index().add_problem(format!("`{id}` does not match its digest"));
            self.give_up(place, header.sequence, header.rows.into());
            return Ok(());
        }
        let known = self.schema.take().filter(|schema| schema.fingerprint() == header.schema);
        let found = known.map_or_else(|| schema(self.shared, header.schema), |schema| Ok(Some(schema)))?;
        let Some(schema) = found else {
            self.shared.index().add_problem(format!("the schema of `{id}` is lost"));
            self.give_up(place, header.sequence, header.rows.into());
            return Ok(());
        };
        self.schema = Some(schema.clone());
        self.want = header.sequence.next();
        self.room = self.room.saturating_sub(header.total_bytes());
        self.frames.push(Frame {
            id,
            kind: FrameKind::Data,
            digest: header.digest,
            rows: header.rows,
            ts_min_us: header.ts_min_us,
            ts_max_us: header.ts_max_us,
            sealed_us: header.sealed_us,
            raw_bytes: header.raw_bytes,
            positions,
            schema,
            payload,
        });
        Ok(())
    }

    fn leave_hint(&self, place: &Place, offset: u64) {
        let mut index = self.shared.index();
        if let Some(channel) = index.channels.get_mut(place.channel as usize) {
            channel.leave_hint((self.want, place.seed.segment, offset));
        }
    }

    fn note_damage(&self, place: &Place, offset: u64) {
        self.shared
            .index()
            .add_problem(format!("segment {:016x} is damaged at offset {offset}", place.seed.segment));
    }
}

/// A schema by its fingerprint: from memory, or from a segment that declares it.
pub(crate) fn schema(shared: &Shared, fingerprint: u64) -> Result<Option<Arc<FrameSchema>>, Error> {
    let places: Vec<_> = {
        let index = shared.index();
        if let Some(schema) = index.schemas.get(&fingerprint) {
            return Ok(Some(schema.clone()));
        }
        let declares = |s: &&crate::index::Segment| s.index.schemas.iter().any(|(f, _)| *f == fingerprint);
        let place = |s: &crate::index::Segment| {
            let at = s.index.schemas.iter().find(|(f, _)| *f == fingerprint).map_or(0, |(_, at)| *at);
            (s.path.clone(), s.seed, at, s.index.end, s.pin.clone())
        };
        index.segments.values().filter(declares).map(place).collect()
    };
    for (path, seed, at, end, _pin) in places {
        let failed = |error| Error::io("read", &path, error);
        let file = shared.fs.open(&path, Open::Read).map_err(failed)?;
        let mut walker = Walker::new(file.as_ref(), seed, at, end);
        let Some(found) = walker.next().map_err(failed)? else { continue };
        let Item::Record(header) = found.item else { continue };
        if header.kind != Kind::Schema || header.schema != fingerprint {
            continue;
        }
        let Some(body) = walker.body(&header, found.start).map_err(failed)? else { continue };
        let ipc = Bytes::copy_from_slice(&body[..header.payload_bytes as usize]);
        if let Ok(schema) = FrameSchema::from_ipc(ipc) {
            shared.index().keep_schema(schema.clone());
            return Ok(Some(schema));
        }
    }
    Ok(None)
}

/// What checking one segment found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// The segment.
    pub segment: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Of these, damaged.
    pub damaged_bytes: u64,
}

/// Reads every byte of the first sealed segment after `after`. Damage becomes a problem of the store.
pub(crate) fn scrub(shared: &Shared, after: u64) -> Result<Option<Scrubbed>, Error> {
    let place = {
        let index = shared.index();
        let next = index.segments.range(after.saturating_add(1)..).find(|(_, segment)| segment.sealed);
        next.map(|(id, s)| (*id, s.path.clone(), s.seed, s.index.end, s.pin.clone()))
    };
    let Some((segment, path, seed, end, _pin)) = place else { return Ok(None) };
    let failed = |error| Error::io("read", &path, error);
    let file = shared.fs.open(&path, Open::Read).map_err(failed)?;
    let start = SEGMENT_HEADER as u64;
    let mut walker = Walker::new(file, seed, start, end);
    let mut scrubbed = Scrubbed { segment, bytes: end.saturating_sub(start), damaged_bytes: 0 };
    while let Some(found) = walker.next().map_err(failed)? {
        let is_intact = match &found.item {
            Item::Record(header) => walker.body(header, found.start).map_err(failed)?.is_some(),
            Item::Group(_) | Item::Trailer => true,
            Item::Damage => false,
        };
        if !is_intact {
            scrubbed.damaged_bytes += found.end - found.start;
        }
    }
    if scrubbed.damaged_bytes > 0 {
        let text = format!("segment {segment:016x} has {} damaged bytes", scrubbed.damaged_bytes);
        shared.index().add_problem(text);
    }
    Ok(Some(scrubbed))
}
