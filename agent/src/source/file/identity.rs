//! Which file is which: through renames, truncation, copies and compression, and across restarts.
//!
//! A file's key is minted when its first bytes are read and never changes:
//! `source/inode.birth.length.hash.generation.device`, where length and hash are of the first bytes seen (at most
//! 1 KiB), birth is the inode's time of creation where the file system knows it, and the generation counts
//! truncations. Keys that were minted before the device was part of them end with the generation. The position's
//! detail carries the hash of the last 1 KiB before the offset.
//!
//! The device is a name, not a condition: it may have another number after a reboot. `history.rs` finds the file's
//! own line by it first and any position that fits after that.

use std::fs::File;
use std::io;

use aap_types::{SourceKind, SourcePosition};
use rustix::fs::{AtFlags, StatxFlags, statx};
use serde::{Deserialize, Serialize};

/// Bytes of the head and of the tail that are hashed.
pub(super) const PRINT_BYTES: usize = 1024;

/// Device and inode.
pub(super) type FileId = (u64, u64);

/// First 8 bytes of BLAKE3.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    short_hash(&blake3::hash(bytes))
}

/// First 8 bytes of a hash.
pub(super) fn short_hash(hash: &blake3::Hash) -> u64 {
    hash.as_bytes().first_chunk::<8>().map_or(0, |head| u64::from_le_bytes(*head))
}

/// Size and time of last change: an archive of which both stay is not looked into again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Size in bytes, as stored.
    pub(super) size: u64,
    /// Last change of the content, microseconds since 1970.
    pub(super) modified_us: i64,
}

/// What the file system says of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Device and inode.
    pub(super) id: FileId,
    /// Creation of the inode in nanoseconds; 0 where unknown.
    pub(super) birth: u64,
    /// Last change of the inode itself, its names included, in nanoseconds.
    pub(super) changed: u64,
    /// Size and last change of the content now.
    pub(super) stamp: Stamp,
    /// Whether it is a regular file.
    pub(super) regular: bool,
    /// Names that lead to it.
    pub(super) links: u32,
}

/// Asks the file system.
pub(super) fn stat(file: &File) -> io::Result<Stat> {
    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    let nanoseconds = |seconds: i64, rest: u32| {
        u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(rest.into())
    };
    let birth = nanoseconds(stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
    let modified_us = stat
        .stx_mtime
        .tv_sec
        .saturating_mul(1_000_000)
        .saturating_add(i64::from(stat.stx_mtime.tv_nsec / 1000));
    Ok(Stat {
        id: (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
        birth: if known { birth } else { 0 },
        changed: nanoseconds(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        stamp: Stamp { size: stat.stx_size, modified_us },
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
    /// The device it was on when the key was minted.
    pub(super) device: Option<u64>,
}

impl FileKey {
    /// Mints the key of a file whose first bytes are `head`.
    pub(super) fn mint(stat: &Stat, head: &[u8], generation: u32) -> Self {
        let head = &head[..head.len().min(PRINT_BYTES)];
        let head_length = u16::try_from(head.len()).unwrap_or(u16::MAX);
        let (device, inode) = stat.id;
        Self {
            inode,
            birth: stat.birth,
            head_length,
            head_hash: hash(head),
            generation,
            device: Some(device),
        }
    }

    /// The part of its text after the name of the source.
    pub(super) fn short(&self) -> String {
        let Self { inode, birth, head_length, head_hash, generation, device } = self;
        let device = device.map(|device| format!(".{device:x}")).unwrap_or_default();
        format!("{inode:x}.{birth:x}.{head_length}.{head_hash:016x}.{generation}{device}")
    }

    /// The key as it stands in positions of `source`.
    pub(super) fn text(&self, source: &str) -> String {
        format!("{source}/{}", self.short())
    }

    /// The inverse of [`Self::short`].
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let key = Self {
            inode: u64::from_str_radix(parts.next()?, 16).ok()?,
            birth: u64::from_str_radix(parts.next()?, 16).ok()?,
            head_length: parts.next()?.parse().ok()?,
            head_hash: u64::from_str_radix(parts.next()?, 16).ok()?,
            generation: parts.next()?.parse().ok()?,
            device: parts.next().map(|device| u64::from_str_radix(device, 16)).transpose().ok()?,
        };
        parts.next().is_none().then_some(key)
    }

    /// Whether a file that begins with `head` can be this one.
    pub(super) fn head_fits(&self, head: &[u8]) -> bool {
        let length = usize::from(self.head_length);
        length > 0 && head.len() >= length && hash(&head[..length]) == self.head_hash
    }

    /// Whether this inode can be the one the key was minted for, on whatever device.
    pub(super) fn same_inode(&self, stat: &Stat) -> bool {
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
    /// An archive that was read to its end, when it looked like this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) complete: Option<Stamp>,
    /// The key (without source) of the file that this one is the copy or the compressed form of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) copy_of: Option<String>,
}

impl Detail {
    /// Whether `tail`, the last bytes before the offset, is what was read there.
    pub(super) fn tail_fits(&self, tail: &[u8]) -> bool {
        tail.len() == usize::from(self.tail_length)
            && (tail.is_empty() || format!("{:016x}", hash(tail)) == self.tail_hash)
    }

    /// Sets the tail.
    pub(super) fn with_tail(mut self, tail: &[u8]) -> Self {
        self.tail_length = u16::try_from(tail.len()).unwrap_or(0);
        self.tail_hash = format!("{:016x}", hash(tail));
        self
    }
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
    /// The inverse of [`Self::position`]. `None` if it is of another source, or no file's.
    pub(super) fn parse(source: &str, position: &SourcePosition) -> Option<Self> {
        let key = FileKey::of_position(source, position)?;
        let detail = serde_json::from_str(&position.detail).unwrap_or_default();
        Some(Self { key, offset: position.offset, detail })
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
}

impl FileKey {
    /// Whose position it is. `None` if it is of another source, or no file's.
    pub(super) fn of_position(source: &str, position: &SourcePosition) -> Option<Self> {
        let key = position.key.strip_prefix(source)?.strip_prefix('/')?;
        if position.kind != SourceKind::File {
            return None;
        }
        Self::parse(key)
    }
}

/// Of which kind the position is that says that a source has started, whatever files it found.
pub(super) fn started(source: &str) -> SourcePosition {
    SourcePosition {
        kind: SourceKind::File,
        key: format!("{source}/started"),
        offset: 0,
        detail: String::new(),
    }
}

/// A stretch of content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// All of it.
    Whole(Vec<u8>),
    /// The content ends before that, here and with these bytes (at most [`PRINT_BYTES`]).
    EndsAt(u64, Vec<u8>),
}

/// The readable content of a file: of a compressed one, what it holds.
pub(super) trait Content {
    /// What stands in each of `ranges` (from, length), which are sorted by their ends and at most [`PRINT_BYTES`] long.
    fn ranges(&self, ranges: &[(u64, usize)]) -> io::Result<Vec<Piece>>;
}

/// How a file stands to a position of another file whose head it shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody looked yet.
    Unknown,
    /// All that was read of the other stands in it too.
    Fits,
    /// It ends before that, and may become longer.
    Short,
    /// It has other content.
    Differs,
}

/// Compares `content` with what is known of other files. `same_there` looks into the other file, by its index, while it
/// is there: whether it has these bytes before that offset.
pub(super) fn compare(
    known: &[Known],
    content: &dyn Content,
    same_there: &dyn Fn(usize, u64, &[u8]) -> bool,
) -> io::Result<Vec<Standing>> {
    let mut order: Vec<usize> = (0..known.len()).collect();
    order.sort_by_key(|index| known[*index].offset);
    let range = |index: &usize| {
        let Known { offset, detail, .. } = &known[*index];
        let length = u64::from(detail.tail_length).min(*offset);
        (offset - length, usize::try_from(length).unwrap_or(0))
    };
    let ranges: Vec<(u64, usize)> = order.iter().map(range).collect();
    let mut standings = vec![Standing::Unknown; known.len()];
    for (index, piece) in order.into_iter().zip(content.ranges(&ranges)?) {
        standings[index] = match piece {
            Piece::Whole(tail) if known[index].detail.tail_fits(&tail) => Standing::Fits,
            Piece::EndsAt(at, last) if same_there(index, at, &last) => Standing::Short,
            Piece::Whole(_) | Piece::EndsAt(..) => Standing::Differs,
        };
    }
    Ok(standings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_their_text_form_and_old_ones_are_understood() {
        let stamp = Stamp { size: 5, modified_us: 0 };
        let stat = Stat { id: (0x801, 7), birth: u64::MAX, changed: 0, stamp, regular: true, links: 1 };
        let detail = Detail { path: "/x".into(), complete: Some(stamp), ..Detail::default() };
        let known = Known {
            key: FileKey::mint(&stat, b"hello world", 0),
            offset: 5,
            detail: detail.with_tail(b"hello"),
        };
        let position = known.position("tail");
        assert_eq!(Known::parse("tail", &position), Some(known.clone()));
        assert_eq!(Known::parse("tai", &position), None);
        assert_eq!(Known::parse("tail", &started("tail")), None);
        let old = SourcePosition { key: position.key.rsplit_once('.').unwrap().0.into(), ..position };
        assert_eq!(Known::parse("tail", &old).unwrap().key, FileKey { device: None, ..known.key });
    }
}
