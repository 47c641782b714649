//! Text columns of few distinct values: a byte a row instead of the text, found by a small table.
//!
//! Levels, hosts, methods: most text columns of real streams. Stored as keys they cost the compressor a byte a row, the wire
//! less, and a query groups them without comparing text. A column that turns out to hold many values is plain for
//! the rest of its decoder's life.

use std::sync::Arc;

use arrow_array::types::Int8Type;
use arrow_array::{ArrayRef, DictionaryArray, Int8Array};
use arrow_buffer::NullBuffer;

use crate::scan;

/// Most distinct values of a batch: what a signed byte numbers.
const WORDS_MAX: usize = 127;
/// Twice the words, so that a probe ends soon.
const SLOTS: usize = 256;
/// A slot without a word.
const EMPTY: u8 = u8::MAX;
/// A dictionary costs some 250 bytes of message: below this many rows it does not pay.
const ROWS_MIN: usize = 256;

/// The values of a batch as keys of its distinct words. Text is UTF-8: see [`scan::string_array`].
#[derive(Debug)]
pub(crate) struct Words {
    keys: Vec<i8>,
    slots: Box<[u8; SLOTS]>,
    /// Where each word begins and ends in `bytes`.
    ranges: Vec<(u32, u32)>,
    bytes: Vec<u8>,
}

/// The batch has more distinct words than keys.
pub(crate) struct TooMany;

impl Words {
    /// A column of `rows` nulls.
    pub(crate) fn new(rows: usize) -> Self {
        Self { keys: vec![0; rows], slots: Box::new([EMPTY; SLOTS]), ranges: Vec::new(), bytes: Vec::new() }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, text: &[u8]) -> Result<(), TooMany> {
        let mut slot = hash(text);
        loop {
            let key = self.slots[slot];
            let Some(&(start, end)) = self.ranges.get(usize::from(key)) else { break };
            if same(&self.bytes[start as usize..end as usize], text) {
                self.keys.push(key as i8);
                return Ok(());
            }
            slot = (slot + 1) % SLOTS;
        }
        self.add(slot, text)
    }

    #[cold]
    fn add(&mut self, slot: usize, text: &[u8]) -> Result<(), TooMany> {
        if self.ranges.len() == WORDS_MAX {
            return Err(TooMany);
        }
        let key = self.ranges.len() as u8;
        self.slots[slot] = key;
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(text);
        self.ranges.push((start, self.bytes.len() as u32));
        self.keys.push(key as i8);
        Ok(())
    }

    /// Makes the column `rows` long with nulls, or cuts it.
    pub(crate) fn resize(&mut self, rows: usize) {
        self.keys.resize(rows, 0);
    }

    /// Whether keys serve these rows better than text; `None` where they are too few to tell.
    pub(crate) fn pays(&self) -> Option<bool> {
        (self.keys.len() >= ROWS_MIN).then(|| self.ranges.len() * 8 <= self.keys.len())
    }

    /// The same values as offsets and text.
    pub(crate) fn to_text(&self, is_valid: impl Fn(usize) -> bool) -> (Vec<i32>, Vec<u8>) {
        let mut offsets = Vec::with_capacity(self.keys.len() + 1);
        let mut bytes = Vec::new();
        offsets.push(0);
        for (row, key) in self.keys.iter().enumerate() {
            if let Some(&(start, end)) = self.ranges.get(*key as usize).filter(|_| is_valid(row)) {
                bytes.extend_from_slice(&self.bytes[start as usize..end as usize]);
            }
            offsets.push(bytes.len() as i32);
        }
        (offsets, bytes)
    }

    /// The column as a dictionary array.
    pub(crate) fn into_array(self, nulls: Option<NullBuffer>) -> ArrayRef {
        let mut offsets = vec![0];
        offsets.extend(self.ranges.iter().map(|(_, end)| *end as i32));
        let values = scan::string_array(offsets, self.bytes, None);
        Arc::new(DictionaryArray::<Int8Type>::new(Int8Array::new(self.keys.into(), nulls), Arc::new(values)))
    }
}

/// Whether two texts are the same; short ones, which most words are, without a call.
#[inline(always)]
fn same(word: &[u8], text: &[u8]) -> bool {
    if word.len() != text.len() {
        return false;
    }
    match word.len() {
        8..=16 => {
            word.first_chunk::<8>() == text.first_chunk() && word.last_chunk::<8>() == text.last_chunk()
        }
        4..8 => word.first_chunk::<4>() == text.first_chunk() && word.last_chunk::<4>() == text.last_chunk(),
        0..4 => word.iter().eq(text),
        _ => word == text,
    }
}

/// The slot of a text: its length, beginning, middle and end, mixed.
#[inline(always)]
fn hash(text: &[u8]) -> usize {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let (first, last) = match (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => short(text),
    };
    let middle = match text.len() {
        17.. => {
            let at = text.len() / 2 - 4;
            text[at..].first_chunk::<8>().map_or(0, |middle| u64::from_le_bytes(*middle))
        }
        _ => 0,
    };
    let mixed =
        (first ^ text.len() as u64).wrapping_mul(MIX) ^ last.wrapping_mul(MIX).rotate_left(29) ^ middle;
    (mixed.wrapping_mul(MIX) >> 56) as usize
}

#[inline(always)]
fn short(text: &[u8]) -> (u64, u64) {
    match (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            (u64::from(u32::from_le_bytes(*first)), u64::from(u32::from_le_bytes(*last)))
        }
        _ => (text.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), 0),
    }
}
