//! Which file is which: through renames, truncation, copies and compression, and across restarts.
//!
//! A file's key is minted when its first bytes are read and never changes:
//! `source/inode.birth.length.hash.generation`, where length and hash are of the first bytes seen (at most 1 KiB),
//! birth is the inode's time of creation where the file system knows it, and the generation counts truncations.
//! The position's detail carries the hash of the last 1 KiB before the offset.
//!
//! A file is *the same* if inode and birth agree and both hashes still fit. A file is a *copy or a compressed form* of one
//! that was read, and is continued where that one stood, if both hashes fit and the original was truncated or is gone.

use std::fs::File;
use std::io;

use aap_types::{SourceKind, SourcePosition};
use rustix::fs::{AtFlags, StatxFlags, statx};
use serde::{Deserialize, Serialize};

/// Bytes of the head and of the tail that are hashed.
pub(super) const PRINT_BYTES: usize = 1024;

/// Shortest text that can be recognised in another file.
const COPY_BYTES_MIN: u64 = 64;

/// First 8 bytes of BLAKE3.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    hash.as_bytes().first_chunk::<8>().map_or(0, |head| u64::from_le_bytes(*head))
}

/// What the file system says of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Device and inode.
    pub(super) id: (u64, u64),
    /// Creation of the inode in nanoseconds; 0 where unknown.
    pub(super) birth: u64,
    /// Size now.
    pub(super) size: u64,
    /// Whether it is a regular file.
    pub(super) regular: bool,
    /// Names that lead to it.
    pub(super) links: u32,
}

/// Asks the file system.
pub(super) fn stat(file: &File) -> io::Result<Stat> {
    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    let birth =
        u64::try_from(stat.stx_btime.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::from(stat.stx_btime.tv_nsec);
    Ok(Stat {
        id: (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
        birth: if known { birth } else { 0 },
        size: stat.stx_size,
        regular: u32::from(stat.stx_mode) & 0o170_000 == 0o100_000,
        links: stat.stx_nlink,
    })
}

/// The key of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    /// Inode.
    pub(super) inode: u64,
    /// Its creation.
    pub(super) birth: u64,
    /// How many bytes the head had when it was first seen.
    pub(super) head_length: u16,
    /// Their hash.
    pub(super) head_hash: u64,
    /// Truncations so far.
    pub(super) generation: u32,
}

impl FileKey {
    /// Mints the key of a file whose first bytes are `head`.
    pub(super) fn mint(stat: &Stat, head: &[u8], generation: u32) -> Self {
        let head = &head[..head.len().min(PRINT_BYTES)];
        let head_length = u16::try_from(head.len()).unwrap_or(u16::MAX);
        Self { inode: stat.id.1, birth: stat.birth, head_length, head_hash: hash(head), generation }
    }

    /// The key as it stands in positions of `source`.
    pub(super) fn text(&self, source: &str) -> String {
        let Self { inode, birth, head_length, head_hash, generation } = self;
        format!("{source}/{inode:x}.{birth:x}.{head_length}.{head_hash:016x}.{generation}")
    }

    /// The inverse, for the part after the source's name.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let key = Self {
            inode: u64::from_str_radix(parts.next()?, 16).ok()?,
            birth: u64::from_str_radix(parts.next()?, 16).ok()?,
            head_length: parts.next()?.parse().ok()?,
            head_hash: u64::from_str_radix(parts.next()?, 16).ok()?,
            generation: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(key)
    }

    fn head_fits(&self, head: &[u8]) -> bool {
        let length = usize::from(self.head_length);
        length > 0 && head.len() >= length && hash(&head[..length]) == self.head_hash
    }

    fn same_inode(&self, stat: &Stat) -> bool {
        self.inode == stat.id.1 && (self.birth == stat.birth || self.birth == 0 || stat.birth == 0)
    }
}

/// What a position of a file carries beside the offset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Detail {
    /// Where the file was, for people.
    #[serde(default)]
    pub(super) path: String,
    /// Bytes hashed before the offset.
    #[serde(default)]
    pub(super) tail_length: u16,
    /// Their hash, as hex: JSON numbers end at 53 bits.
    #[serde(default)]
    pub(super) tail_hash: String,
    /// The offset lies in a line that was too long; the rest up to its end is to be skipped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) skipping: bool,
    /// The last record was taken without its line end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) partial: bool,
}

/// A position that is known of a file of this source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// Whose.
    pub(super) key: FileKey,
    /// Bytes taken (of a compressed file: of its content).
    pub(super) offset: u64,
    /// The rest.
    pub(super) detail: Detail,
}

impl Known {
    /// The known positions of `source` among all positions.
    pub(super) fn of_source(source: &str, positions: Vec<SourcePosition>) -> Vec<Self> {
        positions.into_iter().filter_map(|position| Self::parse(source, &position)).collect()
    }

    fn parse(source: &str, position: &SourcePosition) -> Option<Self> {
        let key = position.key.strip_prefix(source)?.strip_prefix('/')?;
        if position.kind != SourceKind::File {
            return None;
        }
        let detail = serde_json::from_str(&position.detail).unwrap_or_default();
        Some(Self { key: FileKey::parse(key)?, offset: position.offset, detail })
    }

    /// As a position of `source`.
    pub(super) fn position(&self, source: &str) -> SourcePosition {
        SourcePosition {
            kind: SourceKind::File,
            key: self.key.text(source),
            offset: self.offset,
            detail: serde_json::to_string(&self.detail).unwrap_or_default(),
        }
    }

    fn tail_fits(&self, content: &dyn Content) -> bool {
        let length = usize::from(self.detail.tail_length);
        let Some(from) = self.offset.checked_sub(length as u64) else { return false };
        let tail = content.bytes(from, length);
        tail.is_some_and(|tail| format!("{:016x}", hash(&tail)) == self.detail.tail_hash)
    }
}

/// The readable content of a file: of a compressed one, what it holds.
pub(super) trait Content {
    /// `length` bytes from `from` on; `None` if it does not have them.
    fn bytes(&self, from: u64, length: usize) -> Option<Vec<u8>>;
}

/// What a file turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Never seen: read it all, under this generation.
    New {
        /// For its key.
        generation: u32,
    },
    /// Seen before: continue.
    Same(Known),
    /// The moved content of a file that was read: continue there under an own key.
    Moved(Known),
    /// It may be a copy of a file that is still there: look again when that is clear.
    MaybeCopy,
}

/// Decides what a file is. `present` says whether the file of a known key is still there with that content.
pub(super) fn judge(
    known: &[Known],
    stat: &Stat,
    head: &[u8],
    content: &dyn Content,
    present: &dyn Fn(&FileKey) -> bool,
) -> Verdict {
    let of_inode = || known.iter().filter(|known| known.key.same_inode(stat));
    let newest = of_inode().max_by_key(|known| (known.key.generation, known.key.head_length));
    if let Some(newest) = newest {
        if newest.key.head_fits(head) && newest.tail_fits(content) {
            return Verdict::Same(newest.clone());
        }
        return Verdict::New { generation: newest.key.generation + 1 };
    }
    let alike = |known: &&Known| known.offset >= COPY_BYTES_MIN && known.key.head_fits(head);
    let moved = known.iter().filter(alike).filter(|known| !present(&known.key));
    if let Some(moved) = moved.filter(|known| known.tail_fits(content)).max_by_key(|known| known.offset) {
        return Verdict::Moved(moved.clone());
    }
    if known.iter().filter(alike).any(|known| present(&known.key)) {
        return Verdict::MaybeCopy;
    }
    Verdict::New { generation: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Content for Vec<u8> {
        fn bytes(&self, from: u64, length: usize) -> Option<Vec<u8>> {
            let from = usize::try_from(from).ok()?;
            self.get(from..from.checked_add(length)?).map(<[u8]>::to_vec)
        }
    }

    fn stat(inode: u64, birth: u64, size: usize) -> Stat {
        Stat { id: (1, inode), birth, size: size as u64, regular: true, links: 1 }
    }

    fn read(stat: &Stat, content: &[u8], offset: usize) -> Known {
        let tail = &content[offset.saturating_sub(PRINT_BYTES)..offset];
        let tail_length = u16::try_from(tail.len()).unwrap();
        let detail = Detail { tail_length, tail_hash: format!("{:016x}", hash(tail)), ..Detail::default() };
        Known { key: FileKey::mint(stat, content, 0), offset: offset as u64, detail }
    }

    #[test]
    fn a_file_is_recognised_through_everything_that_happens_to_logs() {
        let original: Vec<u8> = (0..500).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let other: Vec<u8> = (500..900).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let known = vec![read(&stat(7, 70, 0), &original, 3000)];
        let check = |stat: Stat, content: &Vec<u8>, present: bool| {
            judge(&known, &stat, content, content, &|_| present)
        };
        // It grew; it was renamed (same inode).
        assert_eq!(check(stat(7, 70, 4000), &original, true), Verdict::Same(known[0].clone()));
        // Truncated and written again; truncated and empty.
        assert_eq!(check(stat(7, 70, 4000), &other, true), Verdict::New { generation: 1 });
        assert_eq!(check(stat(7, 70, 10), &original[..10].to_vec(), true), Verdict::New { generation: 1 });
        // The inode was given to another file.
        assert_eq!(check(stat(7, 99, 4000), &other, false), Verdict::New { generation: 0 });
        // A copy: of a file that is gone or truncated; of one that is still there; unfinished.
        assert_eq!(check(stat(8, 80, 4000), &original, false), Verdict::Moved(known[0].clone()));
        assert_eq!(check(stat(8, 80, 4000), &original, true), Verdict::MaybeCopy);
        assert_eq!(
            check(stat(8, 80, 2000), &original[..2000].to_vec(), false),
            Verdict::New { generation: 0 }
        );
        // Something else.
        assert_eq!(check(stat(9, 90, 4000), &other, false), Verdict::New { generation: 0 });
    }

    #[test]
    fn positions_survive_their_text_form() {
        let known = read(&stat(7, u64::MAX, 0), b"hello world", 5);
        let position = known.position("tail");
        assert_eq!(Known::of_source("tail", vec![position.clone()]), [known]);
        assert!(Known::of_source("tai", vec![position]).is_empty());
    }
}
