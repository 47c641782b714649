//! The frames an engine writes: `length: u32 little-endian | kind: u8 | length bytes`.

use std::io::{self, Write};

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;

/// Larger frames are refused: a sane engine cuts its output into smaller ones.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// Length and kind.
const HEADER_BYTES: usize = 5;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`crate::Needs`] as JSON.
    Needs = 1,
    /// A list of [`crate::Column`] as JSON.
    Columns = 2,
    /// Bytes of the answer.
    Data = 3,
    /// [`crate::QueryEnd`] as JSON. Nothing follows.
    End = 4,
    /// [`aap_types::Problem`] as JSON. Nothing follows.
    Problem = 5,
    /// [`crate::Planned`] as JSON. Nothing follows.
    Planned = 6,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::*;
        [Needs, Columns, Data, End, Problem, Planned].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A kind that nobody defined.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// Over [`FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes, more than {FRAME_BYTES_MAX}")]
    Length(usize),
}

/// Writes one frame.
pub fn write(out: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind as u8;
    out.write_all(&header)?;
    out.write_all(payload)
}

/// Writes one frame of JSON.
pub fn write_json(out: &mut impl Write, kind: Kind, message: &impl Serialize) -> io::Result<()> {
    write(out, kind, &serde_json::to_vec(message)?)
}

/// Takes the next whole frame out of `buffer`, if it is there.
pub fn take(buffer: &mut BytesMut) -> Result<Option<(Kind, Bytes)>, FrameError> {
    if buffer.len() < HEADER_BYTES {
        return Ok(None);
    }
    let length = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::Length(length));
    }
    let kind = Kind::of(buffer[4]).ok_or(FrameError::Kind(buffer[4]))?;
    if buffer.len() < HEADER_BYTES + length {
        buffer.reserve(HEADER_BYTES + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    Ok(Some((kind, buffer.split_to(length).freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut bytes = vec![];
        write(&mut bytes, Kind::Data, b"hello").unwrap();
        write(&mut bytes, Kind::End, b"").unwrap();
        for cut in 0..=bytes.len() {
            let (mut buffer, mut seen) = (BytesMut::new(), vec![]);
            for part in [&bytes[..cut], &bytes[cut..]] {
                buffer.extend_from_slice(part);
                while let Some(frame) = take(&mut buffer).unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, [(Kind::Data, Bytes::from("hello")), (Kind::End, Bytes::new())]);
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert!(take(&mut BytesMut::from(&b"\xff\xff\xff\xff\x03"[..])).is_err());
        assert!(take(&mut BytesMut::from(&b"\x00\x00\x00\x00\x09"[..])).is_err());
    }
}
