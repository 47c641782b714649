//! Going through the bytes of a segment, record by record, over whatever is damaged.

use std::io;
use std::ops::Deref;

use crate::format::{GROUP_HEADER, GroupHeader, RECORD_HEADER, RecordHeader, Seed, TRAILER, Trailer};
use crate::fs::{FileHandle, read_full_at};

/// Read at once: a group is at most about a megabyte, and a walk over headers skips bodies.
pub(crate) const WINDOW: usize = 256 << 10;
/// What is read at once where reading fails: a bad sector costs this much, not the window.
const SMALL_READ: usize = 4096;

/// Read at once where only headers are wanted: a block.
pub(crate) const HEADERS: usize = 4096;

/// What stands at a place of a segment.
#[derive(Debug)]
pub(crate) enum Item {
    Group(GroupHeader),
    Record(RecordHeader),
    Trailer,
    /// Bytes that are none of these.
    Damage,
}

/// Where an item stands.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) item: Item,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Walks from an item's start to an end.
#[derive(Debug)]
pub(crate) struct Walker<F> {
    file: F,
    seed: Seed,
    at: u64,
    end: u64,
    window: Vec<u8>,
    window_start: u64,
    ahead: usize,
    pub(crate) bytes_read: u64,
}

impl<F: Deref<Target = dyn FileHandle>> Walker<F> {
    pub(crate) fn new(file: F, seed: Seed, start: u64, end: u64) -> Self {
        let window_start = start;
        Self { file, seed, at: start, end, window: Vec::new(), window_start, ahead: WINDOW, bytes_read: 0 }
    }

    /// How much to read at once from now on.
    pub(crate) fn read_ahead(&mut self, bytes: usize) {
        self.ahead = bytes;
    }

    /// The next item. A record's body is passed over; ask [`Self::body`] for it.
    pub(crate) fn next(&mut self) -> io::Result<Option<Found>> {
        let start = self.at;
        if start >= self.end {
            return Ok(None);
        }
        if let Some((item, length)) = self.item_at(start)? {
            self.at = start + length;
            return Ok(Some(Found { item, start, end: self.at }));
        }
        let mut probe = (start + 8) & !7;
        while probe < self.end {
            probe = self.pass_over(probe);
            if self.item_at(probe)?.is_some() {
                break;
            }
            probe += 8;
        }
        self.at = probe.min(self.end);
        Ok(Some(Found { item: Item::Damage, start, end: self.at }))
    }

    /// Passes over what cannot begin an item, as far as it is in memory.
    fn pass_over(&self, at: u64) -> u64 {
        let inside = at.checked_sub(self.window_start).and_then(|start| usize::try_from(start).ok());
        let Some(rest) = inside.and_then(|start| self.window.get(start..)) else { return at };
        let dull = rest.chunks_exact(8).take_while(|word| word[0] != b'A').count();
        at + 8 * dull as u64
    }

    /// Goes on at another place.
    pub(crate) fn seek(&mut self, at: u64) {
        self.at = at;
    }

    /// The file it walks through.
    pub(crate) fn file(&self) -> &dyn FileHandle {
        &*self.file
    }

    fn item_at(&mut self, at: u64) -> io::Result<Option<(Item, u64)>> {
        let (seed, end) = (self.seed, self.end);
        let bytes = self.bytes(at, RECORD_HEADER)?;
        // One of three first letters, or it is nothing: saves checksums while searching.
        if bytes.first() != Some(&b'A') {
            return Ok(None);
        }
        let found = if let Some(header) = RecordHeader::parse(seed, at, bytes) {
            let length = header.total_bytes() as u64;
            (Item::Record(header), length)
        } else if let Some(header) = GroupHeader::parse(seed, at, bytes) {
            if at + u64::from(header.length) > end {
                return Ok(None);
            }
            (Item::Group(header), GROUP_HEADER as u64)
        } else if Trailer::parse(seed, at, bytes).is_some() {
            (Item::Trailer, TRAILER as u64)
        } else {
            return Ok(None);
        };
        Ok((at + found.1 <= end).then_some(found))
    }

    /// Positions and payload with their padding, if they match their checksum.
    pub(crate) fn body(&mut self, header: &RecordHeader, start: u64) -> io::Result<Option<&[u8]>> {
        let seed = self.seed;
        let length = header.body_bytes();
        let body = self.bytes(start + RECORD_HEADER as u64, length)?;
        let intact = body.len() == length
            && (seed.checksum(start, body) == header.body_crc || crate::mutant::is("nocrc"));
        Ok(intact.then_some(body))
    }

    /// Raw bytes, fewer at the end.
    pub(crate) fn bytes(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let length = length.min(usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX));
        let inside =
            at >= self.window_start && at + length as u64 <= self.window_start + self.window.len() as u64;
        if !inside {
            self.fill(at, length)?;
        }
        let start = usize::try_from(at - self.window_start).unwrap_or(usize::MAX).min(self.window.len());
        Ok(&self.window[start..(start + length).min(self.window.len())])
    }

    fn fill(&mut self, at: u64, length: usize) -> io::Result<()> {
        let left = usize::try_from(self.end - at).unwrap_or(usize::MAX);
        self.window.resize(length.max(self.ahead).min(left), 0);
        self.window_start = at;
        let read = match read_full_at(&*self.file, &mut self.window, at) {
            Ok(read) => read,
            Err(error) if is_bad_sector(&error) => self.fill_around(at),
            Err(error) => return Err(error),
        };
        self.bytes_read += read as u64;
        self.window.truncate(read);
        Ok(())
    }

    /// Where the disk cannot read, zeros stand: no checksum matches them.
    fn fill_around(&mut self, at: u64) -> usize {
        self.window.fill(0);
        let mut filled = 0;
        for part in self.window.chunks_mut(SMALL_READ) {
            match read_full_at(&*self.file, part, at + filled as u64) {
                Ok(read) if read < part.len() => return filled + read,
                _ => filled += part.len(),
            }
        }
        filled
    }
}

/// Whether an error of reading speaks of the medium, and stays: then the bytes are damaged, and what follows them is not.
/// What speaks of this process or passes by is none of that, nor is an error that no system gave.
fn is_bad_sector(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const OURS: [Errno; 10] = [
        Errno::AGAIN,
        Errno::ACCESS,
        Errno::BADF,
        Errno::FAULT,
        Errno::INTR,
        Errno::INVAL,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::PERM,
    ];
    error.raw_os_error().is_some_and(|number| OURS.iter().all(|ours| ours.raw_os_error() != number))
}
