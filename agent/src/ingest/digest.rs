//! BLAKE3 of a prefix that can be put aside and taken up again.
//!
//! BLAKE3 is a tree over chunks of 1 KiB. Its state after a whole number of *units* of 64 KiB is the list of chaining
//! values of the complete subtrees: at most a few dozen, 32 bytes each. That list goes into the position of an
//! ingest run, so that after a kill the run continues at the last unit without hashing what lies before it again.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};

/// A power of two of BLAKE3 chunks, large enough for the widest vector units.
pub const UNIT: usize = 64 << 10;

/// A running BLAKE3.
#[derive(Debug, Clone, Default)]
pub struct PrefixDigest {
    /// Chaining values of complete subtrees, largest first. As in BLAKE3 itself, the last two of equal size are
    /// only merged when more comes, because the root is merged differently.
    stack: Vec<ChainingValue>,
    units: u64,
    /// The digest of the first unit as a whole input: a single subtree's chaining value cannot become a root.
    first: Option<[u8; 32]>,
    partial: Vec<u8>,
}

/// What is kept of it between two lives: everything up to the last whole unit, and a check of the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDigest {
    /// Whole units.
    pub units: u64,
    /// Chaining values, as hex.
    pub stack: String,
    /// Digest of the first unit, as hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub first: String,
    /// Bytes after the last whole unit, and their digest as hex.
    pub rest_bytes: u64,
    /// See `rest_bytes`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rest: String,
}

impl SavedDigest {
    /// Where the last whole unit ends.
    pub fn unit_end(&self) -> u64 {
        self.units * UNIT as u64
    }
}

impl PrefixDigest {
    /// Continues.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.partial.is_empty() && bytes.len() >= UNIT {
                let (unit, rest) = bytes.split_at(UNIT);
                self.unit(unit);
                bytes = rest;
                continue;
            }
            let room = UNIT - self.partial.len();
            let (head, rest) = bytes.split_at(bytes.len().min(room));
            self.partial.extend_from_slice(head);
            bytes = rest;
            if self.partial.len() == UNIT {
                let unit = std::mem::take(&mut self.partial);
                self.unit(&unit);
                self.partial = unit;
                self.partial.clear();
            }
        }
    }

    fn unit(&mut self, unit: &[u8]) {
        if self.units == 0 {
            self.first = Some(*blake3::hash(unit).as_bytes());
        }
        merge_complete(&mut self.stack, self.units);
        self.stack.push(subtree(unit, self.units));
        self.units += 1;
    }

    /// Bytes hashed so far.
    pub fn length(&self) -> u64 {
        self.units * UNIT as u64 + self.partial.len() as u64
    }

    /// The digest of everything so far.
    pub fn finish(&self) -> [u8; 32] {
        let mut stack = self.stack.clone();
        if !self.partial.is_empty() {
            if self.units == 0 {
                return *blake3::hash(&self.partial).as_bytes();
            }
            merge_complete(&mut stack, self.units);
            stack.push(subtree(&self.partial, self.units));
        }
        let Some(mut right) = stack.pop() else { return *blake3::hash(b"").as_bytes() };
        while stack.len() > 1 {
            let Some(left) = stack.pop() else { break };
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        match stack.pop() {
            Some(left) => *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes(),
            None => self.first.unwrap_or_default(),
        }
    }

    /// What must be kept to continue.
    pub fn save(&self) -> SavedDigest {
        SavedDigest {
            units: self.units,
            stack: hex(self.stack.as_flattened()),
            first: self.first.map(|first| hex(&first)).unwrap_or_default(),
            rest_bytes: self.partial.len() as u64,
            rest: if self.partial.is_empty() {
                String::new()
            } else {
                hex(blake3::hash(&self.partial).as_bytes())
            },
        }
    }

    /// Continues from the last whole unit of what was kept. `None` if it is damaged.
    pub fn restore(saved: &SavedDigest) -> Option<Self> {
        let bytes = unhex(&saved.stack)?;
        let (stack, rest) = bytes.as_chunks::<32>();
        let first = match saved.first.as_str() {
            "" => None,
            text => Some(<[u8; 32]>::try_from(unhex(text)?).ok()?),
        };
        let whole = rest.is_empty()
            && (saved.units == 0) == stack.is_empty()
            && (saved.units == 0) == first.is_none();
        whole.then(|| Self { stack: stack.to_vec(), units: saved.units, first, partial: vec![] })
    }

    /// Whether the bytes after the last whole unit are those that were kept.
    pub fn rest_fits(&self, saved: &SavedDigest) -> bool {
        self.partial.is_empty() == saved.rest.is_empty()
            && (self.partial.is_empty() || hex(blake3::hash(&self.partial).as_bytes()) == saved.rest)
    }
}

fn subtree(bytes: &[u8], units_before: u64) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(units_before * UNIT as u64).update(bytes).finalize_non_root()
}

/// Merges subtrees of equal size, knowing that more follows: one is left for each bit of the count.
fn merge_complete(stack: &mut Vec<ChainingValue>, units: u64) {
    while stack.len() > units.count_ones() as usize {
        let (Some(right), Some(left)) = (stack.pop(), stack.pop()) else { return };
        stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The inverse of [`hex`].
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    bytes.len().is_multiple_of(2).then_some(())?;
    bytes.chunks(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_blake3_at_every_length_and_across_every_restart() {
        let input: Vec<u8> = (0..UNIT * 9 + 777).map(|n| (n * 31 % 251) as u8).collect();
        for units in 0..=9 {
            for extra in [0, 1, 500, 777] {
                let length = units * UNIT + extra;
                let mut digest = PrefixDigest::default();
                for piece in input[..length].chunks(70_001) {
                    digest.update(piece);
                }
                assert_eq!(digest.finish(), *blake3::hash(&input[..length]).as_bytes(), "{length}");
                let saved = digest.save();
                let text = serde_json::to_string(&saved).unwrap();
                let saved: SavedDigest = serde_json::from_str(&text).unwrap();
                let mut restored = PrefixDigest::restore(&saved).unwrap();
                let from = usize::try_from(saved.unit_end()).unwrap();
                assert_eq!(restored.finish(), *blake3::hash(&input[..from]).as_bytes(), "{length}");
                restored.update(&input[from..length]);
                assert!(restored.rest_fits(&saved), "{length}");
                restored.update(&input[length..]);
                assert_eq!(restored.finish(), *blake3::hash(&input).as_bytes(), "{length}");
            }
        }
    }
}
