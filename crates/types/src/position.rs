//! How far a source was read. A position is committed in the same group as the rows it covers, travels with them,
//! and comes back from the coordinator's ledger when a store is lost.
//!
//! Encoded form (little-endian), any number one after the other:
//! `kind u8 | key length u16 | key | offset u64 | detail length u32 | detail`.

use serde::{Deserialize, Serialize};

/// What kind of source a position belongs to. The number is on disk and on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum SourceKind {
    /// A followed file; key = source name and fingerprint, offset = bytes consumed.
    File = 1,
    /// An `aap ingest` run; key = stream and name, offset = bytes of decoded input consumed.
    Ingest = 2,
    /// An HTTP request with `Idempotency-Key`; key = stream and key, detail = the answer that was given.
    HttpKey = 3,
    /// A Kafka partition; key = source, topic and partition, offset = next offset.
    Kafka = 4,
    /// A table that is read by a growing column; key = source, detail = the column's last value.
    /// Changes of tables: key = source, offset = groups of them, detail = place in the log.
    Table = 5,
}

impl SourceKind {
    /// The kind of this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::File,
            2 => Self::Ingest,
            3 => Self::HttpKey,
            4 => Self::Kafka,
            5 => Self::Table,
            _ => return None,
        })
    }
}

/// How far one source was read. A later position of the same (kind, key) replaces an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourcePosition {
    /// The kind of source.
    pub kind: SourceKind,
    /// Which source of that kind. At most 65,535 bytes.
    pub key: String,
    /// Everything before this was taken. Unit depends on the kind.
    pub offset: u64,
    /// What the source needs beside the offset, as JSON. Empty where it needs nothing.
    pub detail: String,
}

impl SourcePosition {
    /// Encodes positions one after the other.
    pub fn encode_all(positions: &[Self]) -> Vec<u8> {
        let mut out = Vec::with_capacity(positions.iter().map(|p| 15 + p.key.len() + p.detail.len()).sum());
        for position in positions {
            let key_length =
                u16::try_from(position.key.len()).expect("source keys are made by us and are short");
            out.push(position.kind as u8);
            out.extend_from_slice(&key_length.to_le_bytes());
            out.extend_from_slice(position.key.as_bytes());
            out.extend_from_slice(&position.offset.to_le_bytes());
            let detail_length =
                u32::try_from(position.detail.len()).expect("details are made by us and are short");
            out.extend_from_slice(&detail_length.to_le_bytes());
            out.extend_from_slice(position.detail.as_bytes());
        }
        out
    }

    /// Decodes what [`Self::encode_all`] made. `None` if the bytes are anything else.
    pub fn decode_all(mut bytes: &[u8]) -> Option<Vec<Self>> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let kind = SourceKind::from_byte(take::<1>(&mut bytes)?[0])?;
            let key_length = u16::from_le_bytes(take(&mut bytes)?).into();
            let key = take_text(&mut bytes, key_length)?;
            let offset = u64::from_le_bytes(take(&mut bytes)?);
            let detail_length = u32::from_le_bytes(take(&mut bytes)?) as usize;
            let detail = take_text(&mut bytes, detail_length)?;
            out.push(Self { kind, key, offset, detail });
        }
        Some(out)
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn take_text(bytes: &mut &[u8], length: usize) -> Option<String> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    String::from_utf8(head.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_encoding_and_no_truncation_panics() {
        let positions = vec![
            SourcePosition { kind: SourceKind::File, key: "a/ü".into(), offset: 7, detail: "{}".into() },
            SourcePosition {
                kind: SourceKind::HttpKey,
                key: String::new(),
                offset: u64::MAX,
                detail: String::new(),
            },
        ];
        let bytes = SourcePosition::encode_all(&positions);
        assert_eq!(SourcePosition::decode_all(&bytes).as_deref(), Some(&positions[..]));
        for end in 1..bytes.len() {
            assert_ne!(SourcePosition::decode_all(&bytes[..end]).as_deref(), Some(&positions[..]));
        }
    }
}
