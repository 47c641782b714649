//! Reading frames back, in order, over whatever is missing.

use std::io;
use std::sync::Arc;

use aap_types::{BatchId, Digest, NodeId, Sequence, StreamKey};
use arrow_schema::Schema;
use bytes::Bytes;
use camino::Utf8PathBuf;

use crate::format::{Hole, Kind, RECORD_HEADER, RecordHeader, Seed, aligned};
use crate::frame::{parse_skip, skip_payload};
use crate::fs::{FileHandle, Open};
use crate::index::{DAMAGED, Index, RECLAIMED};
use crate::log::Shared;
use crate::places::{Place, Places, run_bytes};
use crate::walk::{Item, Walker};
use crate::{Error, Frame, FrameKind, FrameSchema};

/// Where the next frame of a key is looked for.
enum Next {
    /// There is none.
    End,
    /// Sequences without data, up to and including this one.
    Skip { to: Sequence, rows: u64, reason: String },
    /// In this segment, where the frames wanted stand at places that are not known yet.
    Somewhere(Part),
    /// In this part of this segment, at these places; further ones may follow if they are [`PLACES_AT_ONCE`].
    In(Part, Vec<Place>),
}

/// What one turn of reading takes out of the index.
const PLACES_AT_ONCE: usize = 256;

struct Part {
    path: Utf8PathBuf,
    seed: Seed,
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
            Next::Somewhere(part) => find_places(shared, &part)?,
            Next::In(part, places) => reader.read_segment(&part, &places)?,
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

fn locate(index: &mut Index, key: &StreamKey, want: Sequence) -> Next {
    let Some((number, channel)) = index.channel(key) else { return Next::End };
    if want > channel.tail {
        return Next::End;
    }
    if let Some(hole) = channel.hole_at(want) {
        // A hole that is read from its middle keeps its end and reason; its rows were told with its beginning.
        let rows = if hole.from == want { hole.rows } else { 0 };
        return Next::Skip { to: hole.to, rows, reason: hole.reason.clone() };
    }
    let found = index.segments.iter().find_map(|(id, segment)| {
        let span = segment.index.spans.get(&number)?;
        (span.last >= want).then_some((*id, segment, span))
    });
    let Some((id, segment, span)) = found else {
        return Next::Skip { to: channel.tail, rows: 0, reason: RECLAIMED.into() };
    };
    if span.first > want {
        let is_before_all =
            !index.segments.values().any(|s| s.index.spans.get(&number).is_some_and(|s| s.last < want));
        let reason = if is_before_all { RECLAIMED } else { DAMAGED };
        return Next::Skip { to: Sequence(span.first.0 - 1), rows: 0, reason: reason.into() };
    }
    let part = Part {
        path: segment.path.clone(),
        seed: segment.seed,
        end: segment.index.end,
        last: span.last,
        hole: channel.holes.iter().map(|hole| hole.from).filter(|from| *from > want).min(),
        channel: number,
        _pin: segment.pin.clone(),
    };
    let places = segment.places.as_ref().map(|places| places.from(number, want, PLACES_AT_ONCE).to_vec());
    index.use_places(id);
    match places {
        Some(places) => Next::In(part, places),
        None => Next::Somewhere(part),
    }
}

/// Walks over the headers of a segment and keeps where its frames stand.
fn find_places(shared: &Shared, part: &Part) -> Result<(), Error> {
    let failed = |error| Error::io("read", &part.path, error);
    let file = shared.fs.open(&part.path, Open::Read).map_err(failed)?;
    let places = Places::find(file.as_ref(), part.seed, part.end).map_err(failed)?;
    shared.index().keep_places(part.seed.segment, places);
    Ok(())
}

impl Reader<'_> {
    fn locate(&self) -> Next {
        locate(&mut self.shared.index(), self.key, self.want)
    }

    /// A skip from the wanted sequence, or to the next hole if that comes first.
    fn skip(&mut self, to: Sequence, rows: u64, reason: &str) {
        let id = BatchId { key: self.key.clone(), sequence: self.want };
        let payload = skip_payload(to, rows, reason);
        let digest = Digest::of(&id, &[], &payload);
        self.push_skip(id, digest, 0, payload);
    }

    /// Sequences that cannot be read: counted once, and a skip from now on.
    fn give_up(&mut self, part: &Part, to: Sequence, rows: u64) {
        let hole = Hole { from: self.want, to, rows, reason: DAMAGED.into() };
        let mut index = self.shared.index();
        if let Some(channel) = index.channels.get_mut(part.channel as usize)
            && channel.hole_at(hole.from).is_none()
        {
            channel.add_hole(hole);
        }
        drop(index);
        self.skip(to, rows, DAMAGED);
    }

    /// Sequences that no header in the segment tells of, though they were stored in it.
    fn give_up_missing(&mut self, part: &Part, to: Sequence) {
        let (segment, from) = (part.seed.segment, self.want);
        let text = format!("segment {segment:016x} is damaged: `{}` from {from} to {to} is lost", self.key);
        self.shared.index().add_problem(text);
        self.give_up(part, to, 0);
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

    fn read_segment(&mut self, part: &Part, places: &[Place]) -> Result<(), Error> {
        let failed = |error| Error::io("read", &part.path, error);
        let file = self.shared.fs.open(&part.path, Open::Read).map_err(failed)?;
        let mut walker = Walker::new(file.as_ref(), part.seed, 0, part.end);
        for (number, place) in places.iter().enumerate() {
            if self.room == 0 {
                return Ok(());
            }
            if let Some(hole) = part.hole.filter(|hole| *hole <= place.sequence) {
                // Given up: the outer loop answers with the skip.
                if hole > self.want {
                    self.give_up_missing(part, Sequence(hole.0 - 1));
                }
                return Ok(());
            }
            if place.sequence > self.want {
                self.give_up_missing(part, Sequence(place.sequence.0 - 1));
            }
            if place.sequence < self.want {
                // A skip before it reached further.
                continue;
            }
            walker.read_ahead(run_bytes(&places[number..], self.room));
            walker.seek(place.start());
            self.read_frame(part, *place, &mut walker).map_err(failed)??;
        }
        if places.len() < PLACES_AT_ONCE && self.want <= part.last {
            let before = part.hole.filter(|hole| *hole <= part.last);
            self.give_up_missing(part, before.map_or(part.last, |hole| Sequence(hole.0 - 1)));
        }
        Ok(())
    }

    /// The frame at a place, or, if something else stands there now, its loss.
    fn read_frame(
        &mut self,
        part: &Part,
        place: Place,
        walker: &mut Walker<&(dyn FileHandle + 'static)>,
    ) -> io::Result<Result<(), Error>> {
        let found = walker.next()?;
        let header = found.and_then(|found| match found.item {
            Item::Record(header) if found.start == place.start() => Some(header),
            _ => None,
        });
        let is_ours = |header: &RecordHeader| {
            (header.channel, header.epoch, header.sequence) == (part.channel, self.key.epoch, place.sequence)
        };
        let Some(header) = header.filter(is_ours) else {
            self.note_damage(part, place.start());
            self.give_up(part, place.sequence, 0);
            return Ok(Ok(()));
        };
        match walker.body(&header, place.start())?.map(Bytes::copy_from_slice) {
            Some(body) => Ok(self.push(part, &header, &body)),
            None => {
                self.note_damage(part, place.start());
                self.give_up(part, header.sequence, header.rows.into());
                Ok(Ok(()))
            }
        }
    }

    fn push(&mut self, part: &Part, header: &RecordHeader, body: &Bytes) -> Result<(), Error> {
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
            self.give_up(part, header.sequence, header.rows.into());
            return Ok(());
        }
        let known = self.schema.take().filter(|schema| schema.fingerprint() == header.schema);
        let found = known.map_or_else(|| schema(self.shared, header.schema), |schema| Ok(Some(schema)))?;
        let Some(schema) = found else {
            self.shared.index().add_problem(format!("the schema of `{id}` is lost"));
            self.give_up(part, header.sequence, header.rows.into());
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

    fn note_damage(&self, part: &Part, offset: u64) {
        self.shared
            .index()
            .add_problem(format!("segment {:016x} is damaged at offset {offset}", part.seed.segment));
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
