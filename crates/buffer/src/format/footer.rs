//! The index at the end of a sealed segment: recovery reads it instead of the data.

use std::collections::BTreeMap;

use aap_types::Sequence;

use super::{Fields, POINTER, POINTER_MAGIC, Seed, aligned};
use crate::fs::{FileHandle, read_full_at};

/// Footers are a few kilobytes; this bounds what a damaged pointer can ask for.
const FOOTER_BYTES_MAX: u32 = 16 << 20;

/// What a segment holds of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    /// Where the group with the first frame begins.
    pub(crate) first_offset: u64,
    pub(crate) rows: u64,
    pub(crate) batches: u64,
    /// Frames with headers.
    pub(crate) bytes: u64,
    pub(crate) raw_bytes: u64,
}

/// The index of one segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Where the data ends.
    pub(crate) end: u64,
    pub(crate) last_group: u64,
    pub(crate) spans: BTreeMap<u32, Span>,
    /// Fingerprint of each schema declared here, and the offset of its record.
    pub(crate) schemas: Vec<(u64, u64)>,
    pub(crate) ts_min_us: i64,
    pub(crate) ts_max_us: i64,
}

/// The footer body, and the pointer that stands in the last bytes of the file.
pub(crate) fn footer_bytes(seed: Seed, footer: &Footer) -> (Vec<u8>, Vec<u8>) {
    let mut body = Vec::new();
    let mut put = |numbers: &[u64]| numbers.iter().for_each(|n| body.extend_from_slice(&n.to_le_bytes()));
    put(&[footer.last_group, footer.ts_min_us.cast_unsigned(), footer.ts_max_us.cast_unsigned()]);
    put(&[footer.spans.len() as u64]);
    for (channel, s) in &footer.spans {
        put(&[
            u64::from(*channel),
            s.first.0,
            s.last.0,
            s.first_offset,
            s.rows,
            s.batches,
            s.bytes,
            s.raw_bytes,
        ]);
    }
    put(&[footer.schemas.len() as u64]);
    footer.schemas.iter().for_each(|(fingerprint, offset)| put(&[*fingerprint, *offset]));
    body.resize(aligned(body.len()), 0);

    let offset = footer.end;
    let mut pointer = Vec::with_capacity(POINTER);
    for number in [POINTER_MAGIC, seed.segment, footer.end, offset] {
        pointer.extend_from_slice(&number.to_le_bytes());
    }
    pointer.extend_from_slice(&(body.len() as u32).to_le_bytes());
    pointer.extend_from_slice(&seed.checksum(offset, &body).to_le_bytes());
    pointer.resize(POINTER - 4, 0);
    let crc = seed.checksum(u64::MAX, &pointer);
    pointer.extend_from_slice(&crc.to_le_bytes());
    (body, pointer)
}

/// The footer of a segment file; `None` if there is no intact one.
pub(crate) fn read_footer(seed: Seed, file: &dyn FileHandle) -> Option<Footer> {
    let length = file.length().ok()?;
    let mut pointer = [0; POINTER];
    let at = length.checked_sub(POINTER as u64)?;
    if read_full_at(file, &mut pointer, at).ok()? != POINTER {
        return None;
    }
    let (fields, crc) = pointer.split_at(POINTER - 4);
    if seed.checksum(u64::MAX, fields) != Fields(crc).u32()? {
        return None;
    }
    let mut fields = Fields(fields);
    if fields.u64()? != POINTER_MAGIC || fields.u64()? != seed.segment {
        return None;
    }
    let (end, offset, bytes, crc) = (fields.u64()?, fields.u64()?, fields.u32()?, fields.u32()?);
    if bytes > FOOTER_BYTES_MAX {
        return None;
    }
    let mut body = vec![0; bytes as usize];
    if read_full_at(file, &mut body, offset).ok()? != body.len() || seed.checksum(offset, &body) != crc {
        return None;
    }
    parse(end, &body)
}

fn parse(end: u64, body: &[u8]) -> Option<Footer> {
    let mut fields = Fields(body);
    let mut footer = Footer { end, last_group: fields.u64()?, ..Footer::default() };
    footer.ts_min_us = fields.i64()?;
    footer.ts_max_us = fields.i64()?;
    for _ in 0..fields.u64()? {
        let channel = u32::try_from(fields.u64()?).ok()?;
        let span = Span {
            first: Sequence(fields.u64()?),
            last: Sequence(fields.u64()?),
            first_offset: fields.u64()?,
            rows: fields.u64()?,
            batches: fields.u64()?,
            bytes: fields.u64()?,
            raw_bytes: fields.u64()?,
        };
        footer.spans.insert(channel, span);
    }
    for _ in 0..fields.u64()? {
        footer.schemas.push((fields.u64()?, fields.u64()?));
    }
    Some(footer)
}
