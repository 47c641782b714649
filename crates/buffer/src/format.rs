//! The form of a segment on disk. Little-endian, fixed offsets, everything aligned to 8 bytes.
//!
//! ```text
//! segment   ┌──────────────┬───────┬───────┬─────┬─────────────┬───────────┬──────────┐
//!           │ header 64    │ state │ group │ …   │ footer body │ zeros     │ pointer  │
//!           │              │ group │       │     │ (if sealed) │ or stale  │ 64       │
//!           └──────────────┴───────┴───────┴─────┴─────────────┴───────────┴──────────┘
//! group     header 64 │ record │ record │ … │ trailer 32          kept or dropped whole
//! record    header 128 │ positions │ payload │ padding to 8
//!
//! segment   magic u64 · version u32 · header bytes u32 · store id [16] · segment u64 · previous segment u64 ·
//! header    previous end u64 · reserved u32 · crc u32
//! group     magic u32 · version u16 · flags u16 · segment u64 · offset u64 · number u64 · synced below u64 ·
//! header    length u32 · records u32 · committed µs i64 · reserved u32 · crc u32
//! trailer   magic u32 · length u32 · number u64 · reserved u64 · group crc u32 · crc u32
//! record    magic u32 · version u8 · kind u8 · flags u16 · header bytes u16 · reserved u16 · positions bytes u32 ·
//! header    payload bytes u32 · channel u32 · epoch u64 · sequence u64 · ts min i64 · ts max i64 · sealed i64 ·
//!           raw bytes u64 · schema u64 · rows u32 · body crc u32 · digest [32] · reserved u32 · crc u32
//! pointer   magic u64 · segment u64 · end of data u64 · footer offset u64 · footer bytes u32 · footer crc u32 ·
//!           reserved [20] · crc u32
//! ```
//!
//! Every checksum is a CRC32C seeded with store, segment and offset, so stale bytes of a recycled segment, bytes of
//! another store, and blocks that landed in the wrong place are never taken for data. The group checksum runs over the
//! whole group, header to last record.
//!
//! A header says how long it is: a later version may append fields that this one skips. A larger `version` in a segment
//! header is refused.

mod footer;
mod state;

pub(crate) use footer::{Footer, Span, footer_bytes, read_footer};
pub(crate) use state::{ChannelState, Counters, Hole, PositionState, State};

use aap_types::{Digest, Epoch, Sequence};

/// The format this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const SEGMENT_HEADER: usize = 64;
pub(crate) const GROUP_HEADER: usize = 64;
pub(crate) const RECORD_HEADER: usize = 128;
pub(crate) const TRAILER: usize = 32;
pub(crate) const POINTER: usize = 64;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"AAPSEG\r\n");
const GROUP_MAGIC: u32 = u32::from_le_bytes(*b"AGRP");
const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"AFRM");
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"AEND");
const POINTER_MAGIC: u64 = u64::from_le_bytes(*b"AAPINDEX");

/// The next multiple of 8.
pub(crate) const fn aligned(n: usize) -> usize {
    (n + 7) & !7
}

/// Where checksums of one segment start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed {
    pub(crate) segment: u64,
    base: u32,
}

impl Seed {
    pub(crate) fn new(store_id: &[u8; 16], segment: u64) -> Self {
        let base = crc32c::crc32c(store_id);
        Self { segment, base: crc32c::crc32c_append(base, &segment.to_le_bytes()) }
    }

    /// The checksum of `parts` at `offset`.
    pub(crate) fn checksum(self, offset: u64, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.base, &offset.to_le_bytes()), bytes)
    }
}

/// What a record is. The number is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A batch of rows.
    Data = 1,
    /// Sequences without data; body as in `frame::skip_payload`.
    Skip = 2,
    /// A schema message; `schema` names it.
    Schema = 3,
    /// The identity behind a channel number: node and stream in the body, epoch in the header.
    Channel = 4,
    /// Cursor moves: `(consumer length u8 | consumer | channel u32 | sequence u64)*`.
    Cursors = 5,
    /// Positions outside of frames, of this node: `SourcePosition::encode_all`.
    Positions = 6,
    /// A checkpoint of everything but frames.
    State = 7,
    /// Sequences below the tail that are given up; body as of a skip.
    Hole = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::*;
        [Data, Skip, Schema, Channel, Cursors, Positions, State, Hole].into_iter().find(|k| *k as u8 == byte)
    }
}

/// Reads fixed-size fields one after the other.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|b| b[0])
    }
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
}

/// First bytes of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) version: u32,
    pub(crate) store_id: [u8; 16],
    pub(crate) segment: u64,
    /// The segment that was written before this one, and where its data ends. `(0, 0)` for the first.
    pub(crate) previous: (u64, u64),
}

impl SegmentHeader {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&(SEGMENT_HEADER as u32).to_le_bytes());
        out.extend_from_slice(&self.store_id);
        out.extend_from_slice(&self.segment.to_le_bytes());
        out.extend_from_slice(&self.previous.0.to_le_bytes());
        out.extend_from_slice(&self.previous.1.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let crc = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }

    /// `None` if the bytes are not an intact header.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.get(..SEGMENT_HEADER)?.split_at(SEGMENT_HEADER - 4);
        if crc32c::crc32c(body) != Fields(crc).u32()? {
            return None;
        }
        let mut fields = Fields(body);
        if fields.u64()? != SEGMENT_MAGIC {
            return None;
        }
        let version = fields.u32()?;
        fields.u32()?;
        Some(Self {
            version,
            store_id: fields.array()?,
            segment: fields.u64()?,
            previous: (fields.u64()?, fields.u64()?),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) offset: u64,
    pub(crate) number: u64,
    /// Everything before this offset of the segment was synced when the group was written.
    pub(crate) synced_below: u64,
    /// Header, records and trailer.
    pub(crate) length: u32,
    pub(crate) records: u32,
    pub(crate) committed_us: i64,
}

impl GroupHeader {
    pub(crate) fn encode(&self, seed: Seed, out: &mut [u8]) {
        let mut bytes = Vec::with_capacity(GROUP_HEADER);
        bytes.extend_from_slice(&GROUP_MAGIC.to_le_bytes());
        bytes.extend_from_slice(&1u16.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&seed.segment.to_le_bytes());
        bytes.extend_from_slice(&self.offset.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.synced_below.to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&self.records.to_le_bytes());
        bytes.extend_from_slice(&self.committed_us.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let crc = seed.checksum(self.offset, &bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        out[..GROUP_HEADER].copy_from_slice(&bytes);
    }

    /// The header at `offset`, if there is an intact one of this segment.
    pub(crate) fn parse(seed: Seed, offset: u64, bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.get(..GROUP_HEADER)?.split_at(GROUP_HEADER - 4);
        let mut fields = Fields(body);
        if fields.u32()? != GROUP_MAGIC || seed.checksum(offset, body) != Fields(crc).u32()? {
            return None;
        }
        fields.u32()?;
        if fields.u64()? != seed.segment {
            return None;
        }
        let header = Self {
            offset: fields.u64()?,
            number: fields.u64()?,
            synced_below: fields.u64()?,
            length: fields.u32()?,
            records: fields.u32()?,
            committed_us: fields.i64()?,
        };
        let plausible = header.offset == offset
            && header.synced_below <= offset
            && header.length as usize >= GROUP_HEADER + TRAILER
            && header.length.is_multiple_of(8);
        plausible.then_some(header)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) number: u64,
    pub(crate) length: u32,
    pub(crate) group_crc: u32,
}

impl Trailer {
    pub(crate) fn encode(&self, seed: Seed, offset: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&TRAILER_MAGIC.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.group_crc.to_le_bytes());
        let crc = seed.checksum(offset, &out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }

    pub(crate) fn parse(seed: Seed, offset: u64, bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.get(..TRAILER)?.split_at(TRAILER - 4);
        let mut fields = Fields(body);
        if fields.u32()? != TRAILER_MAGIC || seed.checksum(offset, body) != Fields(crc).u32()? {
            return None;
        }
        let length = fields.u32()?;
        let number = fields.u64()?;
        fields.u64()?;
        Some(Self { number, length, group_crc: fields.u32()? })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) positions_bytes: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) channel: u32,
    pub(crate) epoch: Epoch,
    pub(crate) sequence: Sequence,
    pub(crate) ts_min_us: i64,
    pub(crate) ts_max_us: i64,
    pub(crate) sealed_us: i64,
    pub(crate) raw_bytes: u64,
    pub(crate) schema: u64,
    pub(crate) rows: u32,
    pub(crate) body_crc: u32,
    pub(crate) digest: Digest,
}

impl RecordHeader {
    /// A header that says nothing but its kind.
    pub(crate) fn of(kind: Kind) -> Self {
        Self {
            kind,
            positions_bytes: 0,
            payload_bytes: 0,
            channel: 0,
            epoch: Epoch(0),
            sequence: Sequence::ZERO,
            ts_min_us: 0,
            ts_max_us: 0,
            sealed_us: 0,
            raw_bytes: 0,
            schema: 0,
            rows: 0,
            body_crc: 0,
            digest: Digest([0; 32]),
        }
    }

    /// Positions, padding, payload, padding.
    pub(crate) fn body_bytes(&self) -> usize {
        aligned(self.positions_bytes as usize) + aligned(self.payload_bytes as usize)
    }

    /// Header and body.
    pub(crate) fn total_bytes(&self) -> usize {
        RECORD_HEADER + self.body_bytes()
    }

    pub(crate) fn encode(&self, seed: Seed, offset: u64, out: &mut [u8]) {
        let mut bytes = Vec::with_capacity(RECORD_HEADER);
        bytes.extend_from_slice(&RECORD_MAGIC.to_le_bytes());
        bytes.extend_from_slice(&[1, self.kind as u8, 0, 0]);
        bytes.extend_from_slice(&(RECORD_HEADER as u16).to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.positions_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.payload_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.channel.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.0.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.0.to_le_bytes());
        bytes.extend_from_slice(&self.ts_min_us.to_le_bytes());
        bytes.extend_from_slice(&self.ts_max_us.to_le_bytes());
        bytes.extend_from_slice(&self.sealed_us.to_le_bytes());
        bytes.extend_from_slice(&self.raw_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.schema.to_le_bytes());
        bytes.extend_from_slice(&self.rows.to_le_bytes());
        bytes.extend_from_slice(&self.body_crc.to_le_bytes());
        bytes.extend_from_slice(&self.digest.0);
        bytes.extend_from_slice(&[0; 4]);
        let crc = seed.checksum(offset, &bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        out[..RECORD_HEADER].copy_from_slice(&bytes);
    }

    /// The header at `offset`, if there is an intact one of this segment.
    pub(crate) fn parse(seed: Seed, offset: u64, bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.get(..RECORD_HEADER)?.split_at(RECORD_HEADER - 4);
        let mut fields = Fields(body);
        if fields.u32()? != RECORD_MAGIC || seed.checksum(offset, body) != Fields(crc).u32()? {
            return None;
        }
        fields.u8()?;
        let kind = Kind::from_byte(fields.u8()?)?;
        fields.u16()?;
        fields.u32()?;
        Some(Self {
            kind,
            positions_bytes: fields.u32()?,
            payload_bytes: fields.u32()?,
            channel: fields.u32()?,
            epoch: Epoch(fields.u64()?),
            sequence: Sequence(fields.u64()?),
            ts_min_us: fields.i64()?,
            ts_max_us: fields.i64()?,
            sealed_us: fields.i64()?,
            raw_bytes: fields.u64()?,
            schema: fields.u64()?,
            rows: fields.u32()?,
            body_crc: fields.u32()?,
            digest: Digest(fields.array()?),
        })
    }
}
