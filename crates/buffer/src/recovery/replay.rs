//! What segments hold, into the index.

use aap_types::Sequence;

use super::Recovery;
use super::files::SegmentFile;
use crate::format::{Kind, RecordHeader, SEGMENT_HEADER, Seed, aligned, read_footer};
use crate::frame::parse_skip;
use crate::group::{parse_channel, parse_cursors};
use crate::index::{Channel, Segment};
use crate::walk::{Item, Walker};
use crate::{Error, FrameSchema};

/// More channels than any store has; a number beyond is nonsense that a checksum let through.
const RESERVED_CHANNELS_MAX: usize = 1 << 20;

impl Recovery {
    /// A segment from before the base: its footer, or its headers.
    pub(super) fn read_old(&mut self, file: &SegmentFile, seed: Seed) -> Result<(), Error> {
        let end = self.ends.get(&file.id).copied();
        let mut segment = Segment::new(file.path.clone(), seed, file.length);
        segment.sealed = true;
        let handle = file.open(self.fs.as_ref())?;
        match read_footer(seed, handle.as_ref()).filter(|footer| end.is_none_or(|end| footer.end == end)) {
            Some(footer) => {
                segment.index = footer;
                segment.places = None;
            }
            None => {
                let end = end.unwrap_or(file.length).min(file.length);
                segment.index.end = end;
                let mut walker = Walker::new(handle.as_ref(), seed, SEGMENT_HEADER as u64, end);
                let failed = |error| Error::io("read", &file.path, error);
                while let Some(found) = walker.next().map_err(failed)? {
                    if let Item::Record(header) = found.item
                        && self.index.is_of_its_channel(&header)
                    {
                        let last = match header.kind {
                            Kind::Skip => {
                                let body = walker.body(&header, found.start).map_err(failed)?;
                                body.and_then(parse_skip).map_or(header.sequence, |(to, ..)| to)
                            }
                            _ => header.sequence,
                        };
                        note(&mut segment, &header, last, found.start);
                    }
                }
                self.report.bytes_read += walker.bytes_read;
            }
        }
        self.index.segments.insert(file.id, segment);
        Ok(())
    }

    /// The base or a later segment: everything in it counts.
    pub(super) fn replay(&mut self, file: &SegmentFile, seed: Seed, is_newest: bool) -> Result<(), Error> {
        let start = SEGMENT_HEADER as u64;
        let end = match self.ends.get(&file.id) {
            Some(end) => *end,
            None => self.find_end(file, seed)?,
        };
        if end > file.length {
            self.problem(format!("segment {:016x} is shorter than it was", file.id));
            self.doubt = Some(format!("segment {:016x} is shorter than it was", file.id));
        }
        let end = end.min(file.length).max(start.min(file.length));
        let mut segment = Segment::new(file.path.clone(), seed, file.length);
        segment.sealed = true;
        segment.index.end = end;
        let handle = file.open(self.fs.as_ref())?;
        let mut walker = Walker::new(handle.as_ref(), seed, start, end);
        let failed = |error| Error::io("read", &file.path, error);
        let (mut committed_us, mut synced_mark) = (0, false);
        while let Some(found) = walker.next().map_err(failed)? {
            match found.item {
                Item::Group(header) => {
                    self.next_group = self.next_group.max(header.number + 1);
                    segment.index.last_group = header.number;
                    committed_us = header.committed_us;
                    synced_mark = header.synced_below == header.offset;
                }
                Item::Trailer => {}
                Item::Record(header) => {
                    let body = walker.body(&header, found.start).map_err(failed)?.map(<[u8]>::to_vec);
                    match body {
                        Some(body) => {
                            synced_mark &= !matches!(header.kind, Kind::Data | Kind::Skip);
                            if self.is_known(seed.segment, &header) {
                                self.apply(&mut segment, &header, &body, found.start, committed_us);
                            } else {
                                self.quarantine(file, found.start, found.end);
                            }
                        }
                        None => self.damaged(file, seed.segment, found.start, found.end),
                    }
                }
                Item::Damage => self.damaged(file, seed.segment, found.start, found.end),
            }
        }
        self.report.bytes_read += walker.bytes_read;
        if is_newest {
            self.previous = (file.id, end);
            // A close ends with a group that has no frames and says that all before it was synced.
            self.clean = synced_mark;
            self.trim(&mut segment, file);
        }
        self.index.segments.insert(file.id, segment);
        Ok(())
    }

    fn apply(&mut self, segment: &mut Segment, header: &RecordHeader, body: &[u8], offset: u64, at_us: i64) {
        let (positions, rest) = body.split_at(aligned(header.positions_bytes as usize).min(body.len()));
        let positions = &positions[..header.positions_bytes as usize];
        let payload = &rest[..header.payload_bytes as usize];
        match header.kind {
            Kind::Data | Kind::Skip | Kind::Hole => {
                let last = match header.kind {
                    Kind::Skip => parse_skip(payload).map_or(header.sequence, |(to, ..)| to),
                    _ => header.sequence,
                };
                note(segment, header, last, offset);
                self.index.apply_frame(header, positions, payload, at_us);
            }
            Kind::Schema => {
                note(segment, header, Sequence::ZERO, offset);
                if let Ok(schema) = FrameSchema::from_ipc(bytes::Bytes::copy_from_slice(payload)) {
                    self.index.keep_schema(schema);
                }
            }
            Kind::Channel => {
                if let Some(key) = parse_channel(header, payload) {
                    self.add_channel(header.channel, key);
                }
            }
            Kind::Cursors => {
                let moves = parse_cursors(payload);
                let end = moves.iter().map(|((_, number), _)| number.saturating_add(1)).max().unwrap_or(0);
                self.reserve_channels_below(end);
                self.index.apply_cursors(moves);
            }
            Kind::Positions => self.index.apply_own_positions(at_us, payload),
            Kind::State => {}
        }
    }

    /// Whether the channel of a frame is the one that its number names. A number whose declaration was damaged is
    /// taken all the same: a stream that is new later must not get it, or it would read these frames as its own.
    fn is_known(&mut self, segment: u64, header: &RecordHeader) -> bool {
        if !matches!(header.kind, Kind::Data | Kind::Skip | Kind::Hole) {
            return true;
        }
        self.reserve_channels_below(header.channel.saturating_add(1));
        let Some(channel) = self.index.channels.get_mut(header.channel as usize) else { return false };
        if channel.is_reserved() {
            channel.counters.dropped_batches += 1;
            channel.counters.dropped_rows += u64::from(header.rows);
        } else if channel.key.epoch == header.epoch {
            return true;
        }
        let text = format!("segment {segment:016x} holds batches whose stream is no longer known");
        self.doubt.get_or_insert_with(|| text.clone());
        self.problem(text);
        false
    }

    /// Channel numbers are given in order, so a missing one was lost with a damaged record: a place is kept for it,
    /// until another segment declares it.
    fn add_channel(&mut self, number: u32, key: aap_types::StreamKey) {
        self.reserve_channels_below(number);
        self.index.add_channel(number, key);
    }

    fn reserve_channels_below(&mut self, number: u32) {
        let known = self.index.channels.len();
        if (number as usize).saturating_sub(known) > RESERVED_CHANNELS_MAX {
            self.problem(format!("channel number {number} makes no sense"));
            return;
        }
        for missing in known as u32..number {
            self.index.channels.push(Channel::reserved(missing, &self.index.identity.node));
        }
    }
}

/// Books what a footer would know.
fn note(segment: &mut Segment, header: &RecordHeader, last: Sequence, offset: u64) {
    match header.kind {
        Kind::Data | Kind::Skip => segment.note_frame(header, last, offset),
        Kind::Schema => segment.index.schemas.push((header.schema, offset)),
        _ => {}
    }
}
