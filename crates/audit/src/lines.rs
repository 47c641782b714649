//! The lines of a file, from its start or from its end, one in memory at a time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crate::line::LINE_BYTES_MAX;

/// How much is read at once; some hundred lines.
const BLOCK_BYTES: usize = 64 << 10;

/// A line as it is found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where it begins.
    pub(crate) offset: u64,
    /// Where the next begins.
    pub(crate) end: u64,
    /// Without its end; no more than [`LINE_BYTES_MAX`] and some, so a line that is longer reads as damaged.
    pub(crate) bytes: Vec<u8>,
    /// Whether it has an end.
    pub(crate) is_ended: bool,
}

/// Lines in the order of the file.
#[derive(Debug)]
pub(crate) struct Forward {
    reader: BufReader<io::Take<File>>,
    offset: u64,
}

impl Forward {
    /// The lines between two offsets.
    pub(crate) fn new(mut file: File, from: u64, to: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(from))?;
        let reader = BufReader::with_capacity(BLOCK_BYTES, file.take(to.saturating_sub(from)));
        Ok(Self { reader, offset: from })
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<Found>> {
        let mut bytes = Vec::new();
        let mut read = self.reader.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        let mut is_ended = bytes.last() == Some(&b'\n');
        if is_ended {
            bytes.pop();
        } else if read > LINE_BYTES_MAX {
            let skipped = self.reader.skip_until(b'\n')?;
            // What was skipped is not kept; the line is none of ours in any case.
            is_ended = skipped > 0;
            read += skipped;
        }
        let offset = self.offset;
        self.offset += read as u64;
        Ok(Some(Found { offset, end: self.offset, bytes, is_ended }))
    }
}

/// Lines from the end of the file.
#[derive(Debug)]
pub(crate) struct Backward {
    file: File,
    /// Bytes from `start` on that were read and not given yet.
    held: Vec<u8>,
    start: u64,
}

impl Backward {
    /// The lines before an offset.
    pub(crate) fn new(file: File, to: u64) -> Self {
        Self { file, held: Vec::new(), start: to }
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<Found>> {
        let mut end = self.start + self.held.len() as u64;
        let to = end;
        loop {
            // The last byte is the end of the line that is looked for, not of the one before it.
            let text = &self.held[..self.held.len().saturating_sub(usize::from(to == end))];
            if let Some(at) = text.iter().rposition(|byte| *byte == b'\n') {
                return Ok(Some(self.give(at + 1, to)));
            }
            if self.start == 0 {
                return Ok(if to == 0 { None } else { Some(self.give(0, to)) });
            }
            if self.held.len() > LINE_BYTES_MAX + BLOCK_BYTES {
                // Too long to be one of ours: its end is forgotten, its beginning still looked for.
                self.held.truncate(LINE_BYTES_MAX + 1);
                end = self.start + self.held.len() as u64;
            }
            self.read_block()?;
        }
    }

    /// What is held from `at` on, as the line that ends at `to`.
    fn give(&mut self, at: usize, to: u64) -> Found {
        let mut bytes = self.held.split_off(at);
        let is_ended = bytes.last() == Some(&b'\n');
        if is_ended {
            bytes.pop();
        }
        Found { offset: self.start + at as u64, end: to, bytes, is_ended }
    }

    fn read_block(&mut self) -> io::Result<()> {
        let length = self.start.min(BLOCK_BYTES as u64);
        let mut block = vec![0; usize::try_from(length).unwrap_or(BLOCK_BYTES)];
        self.file.read_exact_at(&mut block, self.start - length)?;
        block.append(&mut self.held);
        self.held = block;
        self.start -= length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(text: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn check(text: &[u8]) {
        let (_folder, path) = file_of(text);
        let mut lines = Forward::new(File::open(&path).unwrap(), 0, text.len() as u64).unwrap();
        let mut forward = Vec::new();
        while let Some(found) = lines.next().unwrap() {
            forward.push(found);
        }
        let mut lines = Backward::new(File::open(&path).unwrap(), text.len() as u64);
        let mut backward = Vec::new();
        while let Some(found) = lines.next().unwrap() {
            backward.insert(0, found);
        }
        let places = |all: &[Found]| all.iter().map(|found| (found.offset, found.end)).collect::<Vec<_>>();
        assert_eq!(places(&forward), places(&backward));
        let short = |all: &[Found]| {
            let fits = |found: &&Found| found.bytes.len() <= LINE_BYTES_MAX;
            all.iter().filter(fits).map(|found| (found.bytes.clone(), found.is_ended)).collect::<Vec<_>>()
        };
        assert_eq!(short(&forward), short(&backward));
        assert_eq!(forward.last().map_or(0, |found| found.end), text.len() as u64);
        assert!(forward.iter().all(|found| found.bytes.len() <= 2 * LINE_BYTES_MAX + BLOCK_BYTES));
    }

    #[test]
    fn lines_are_the_same_in_either_direction() {
        for text in ["", "\n", "a", "a\n", "a\nb", "\n\na\n\nb\n"] {
            check(text.as_bytes());
        }
        let many: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
        check(many.as_bytes());
        check(&many.as_bytes()[..many.len() - 3]);
    }

    #[test]
    fn lines_that_are_far_too_long_are_passed_over() {
        let long = "x".repeat(3 * LINE_BYTES_MAX + 2 * BLOCK_BYTES + 5);
        check(format!("a\n{long}\nb\n").as_bytes());
        check(format!("{long}\nb").as_bytes());
        check(format!("a\n{long}").as_bytes());
    }
}
