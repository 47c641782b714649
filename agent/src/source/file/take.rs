//! Between cutting and decoding: the records of one batch put together.

use std::ops::Range;

/// The records of one batch. As long as they stand side by side in the input, they are not copied.
#[derive(Debug)]
pub(super) struct Gathered<'a> {
    input: &'a [u8],
    piece: Range<usize>,
    copied: Option<Vec<u8>>,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { input, piece: 0..0, copied: None }
    }

    /// Adds records as they stand in the input.
    pub(super) fn piece(&mut self, piece: Range<usize>) {
        match &mut self.copied {
            Some(copied) => copied.extend_from_slice(&self.input[piece]),
            None if self.piece.is_empty() => self.piece = piece,
            None if self.piece.end == piece.start => self.piece.end = piece.end,
            None => {
                let piece = &self.input[piece];
                self.copy().extend_from_slice(piece);
            }
        }
    }

    /// Adds records that stand in for others.
    pub(super) fn rewritten(&mut self, records: &[u8]) {
        self.copy().extend_from_slice(records);
    }

    fn copy(&mut self) -> &mut Vec<u8> {
        let piece = &self.input[self.piece.clone()];
        self.copied.get_or_insert_with(|| piece.to_vec())
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.records().len()
    }

    /// All of them.
    pub(super) fn records(&self) -> &[u8] {
        self.copied.as_deref().unwrap_or(&self.input[self.piece.clone()])
    }
}
