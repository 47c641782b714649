//! The checkpoint that every segment begins with: everything that cannot be read from the frames that follow. Because
//! the newest segment carries the whole of it, any older one may go at any time.

use std::collections::BTreeMap;

use aap_types::{Digest, Epoch, NodeId, Sequence, SourcePosition, StreamKey, StreamName};

use super::Fields;
use crate::positions::ReadAt;

/// What was ever stored of a stream key, in this store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) rows: u64,
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) dropped_rows: u64,
    pub(crate) dropped_batches: u64,
}

/// Sequences without data although they lie below the tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) from: Sequence,
    pub(crate) to: Sequence,
    pub(crate) rows: u64,
    pub(crate) reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChannelState {
    pub(crate) key: StreamKey,
    pub(crate) tail: Sequence,
    /// Of the last sequences, the tail's last.
    pub(crate) digests: Vec<Digest>,
    pub(crate) counters: Counters,
    pub(crate) holes: Vec<Hole>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PositionState {
    pub(crate) node: NodeId,
    pub(crate) updated_us: i64,
    pub(crate) read_at: ReadAt,
    pub(crate) position: SourcePosition,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) node: NodeId,
    pub(crate) epoch: Epoch,
    pub(crate) generation: u64,
    pub(crate) next_group: u64,
    /// Indexed by channel number.
    pub(crate) channels: Vec<ChannelState>,
    pub(crate) cursors: BTreeMap<(String, u32), Sequence>,
    pub(crate) positions: Vec<PositionState>,
    /// Where the data of each older segment ends.
    pub(crate) segment_ends: Vec<(u64, u64)>,
}

/// Of positions in checkpoints that do not tell: whatever comes is newer.
const LONG_AGO: ReadAt = ReadAt { epoch: Epoch(0), sealed_us: i64::MIN };

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&(end as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

fn text(fields: &mut Fields<'_>) -> Option<String> {
    let length = fields.u16()?.into();
    String::from_utf8(fields.bytes(length)?.to_vec()).ok()
}

fn put_all(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        out.extend_from_slice(&1u32.to_le_bytes());
        put_text(&mut out, self.node.as_str());
        put_all(&mut out, &[self.epoch.0, self.generation, self.next_group]);
        put_all(&mut out, &[self.channels.len() as u64]);
        for channel in &self.channels {
            put_text(&mut out, channel.key.node.as_str());
            put_text(&mut out, channel.key.stream.as_str());
            let c = &channel.counters;
            put_all(
                &mut out,
                &[channel.key.epoch.0, channel.tail.0, c.rows, c.batches, c.bytes, c.raw_bytes],
            );
            put_all(&mut out, &[c.dropped_rows, c.dropped_batches, channel.digests.len() as u64]);
            channel.digests.iter().for_each(|digest| out.extend_from_slice(&digest.0));
            put_all(&mut out, &[channel.holes.len() as u64]);
            for hole in &channel.holes {
                put_all(&mut out, &[hole.from.0, hole.to.0, hole.rows]);
                put_text(&mut out, &hole.reason);
            }
        }
        put_all(&mut out, &[self.cursors.len() as u64]);
        for ((consumer, channel), sequence) in &self.cursors {
            put_text(&mut out, consumer);
            put_all(&mut out, &[u64::from(*channel), sequence.0]);
        }
        put_all(&mut out, &[self.positions.len() as u64]);
        for position in &self.positions {
            put_text(&mut out, position.node.as_str());
            out.extend_from_slice(&position.updated_us.to_le_bytes());
            let encoded = SourcePosition::encode_all(std::slice::from_ref(&position.position));
            put_all(&mut out, &[encoded.len() as u64]);
            out.extend_from_slice(&encoded);
        }
        put_all(&mut out, &[self.segment_ends.len() as u64]);
        for (segment, end) in &self.segment_ends {
            put_all(&mut out, &[*segment, *end]);
        }
        // Appended later, in the order of the positions: a reader that does not know it stops before.
        for PositionState { read_at, .. } in &self.positions {
            put_all(&mut out, &[read_at.epoch.0, read_at.sealed_us.cast_unsigned()]);
        }
        out
    }

    /// `None` for bytes of another form.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let fields = &mut Fields(bytes);
        if fields.u32()? != 1 {
            return None;
        }
        let node: NodeId = text(fields)?.parse().ok()?;
        let (epoch, generation, next_group) = (Epoch(fields.u64()?), fields.u64()?, fields.u64()?);
        let mut channels = Vec::new();
        for _ in 0..fields.u64()? {
            channels.push(channel(fields)?);
        }
        let mut cursors = BTreeMap::new();
        for _ in 0..fields.u64()? {
            let consumer = text(fields)?;
            let channel = u32::try_from(fields.u64()?).ok()?;
            cursors.insert((consumer, channel), Sequence(fields.u64()?));
        }
        let mut positions = Vec::new();
        for _ in 0..fields.u64()? {
            let node: NodeId = text(fields)?.parse().ok()?;
            let updated_us = fields.i64()?;
            let length = usize::try_from(fields.u64()?).ok()?;
            let position = SourcePosition::decode_all(fields.bytes(length)?)?.pop()?;
            positions.push(PositionState { node, updated_us, read_at: LONG_AGO, position });
        }
        let mut segment_ends = Vec::new();
        for _ in 0..fields.u64()? {
            segment_ends.push((fields.u64()?, fields.u64()?));
        }
        for position in &mut positions {
            // A checkpoint of an earlier version ends here.
            let Some(epoch) = fields.u64() else { break };
            position.read_at = ReadAt { epoch: Epoch(epoch), sealed_us: fields.i64()? };
        }
        Some(Self { node, epoch, generation, next_group, channels, cursors, positions, segment_ends })
    }
}

fn channel(fields: &mut Fields<'_>) -> Option<ChannelState> {
    let node: NodeId = text(fields)?.parse().ok()?;
    let stream: StreamName = text(fields)?.parse().ok()?;
    let key = StreamKey { node, epoch: Epoch(fields.u64()?), stream };
    let tail = Sequence(fields.u64()?);
    let counters = Counters {
        rows: fields.u64()?,
        batches: fields.u64()?,
        bytes: fields.u64()?,
        raw_bytes: fields.u64()?,
        dropped_rows: fields.u64()?,
        dropped_batches: fields.u64()?,
    };
    let mut digests = Vec::new();
    for _ in 0..fields.u64()? {
        digests.push(Digest(fields.array()?));
    }
    let mut holes = Vec::new();
    for _ in 0..fields.u64()? {
        let (from, to) = (Sequence(fields.u64()?), Sequence(fields.u64()?));
        holes.push(Hole { from, to, rows: fields.u64()?, reason: text(fields)? });
    }
    Some(ChannelState { key, tail, digests, counters, holes })
}

#[cfg(test)]
mod tests {
    use aap_types::SourceKind;

    use super::*;

    #[test]
    fn a_checkpoint_of_the_version_before_is_read() {
        let position =
            SourcePosition { kind: SourceKind::File, key: "f".into(), offset: 7, detail: String::new() };
        let known = PositionState {
            node: "far".parse().unwrap(),
            updated_us: 3,
            read_at: ReadAt { epoch: Epoch(8), sealed_us: 9 },
            position,
        };
        let state = State {
            node: "node-1".parse().unwrap(),
            epoch: Epoch(1),
            generation: 2,
            next_group: 3,
            channels: vec![],
            cursors: BTreeMap::new(),
            positions: vec![known.clone()],
            segment_ends: vec![(1, 2)],
        };
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes).as_ref(), Some(&state));
        let before = State::decode(&bytes[..bytes.len() - 16]).unwrap();
        assert_eq!(before.positions, [PositionState { read_at: LONG_AGO, ..known }]);
        assert_eq!(before.segment_ends, state.segment_ends);
    }
}
