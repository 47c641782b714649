//! Looks into files that were found: what they are by their inode, and which known files they begin like. Blocking.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aap_buffer::Buffer;
use aap_types::SourcePosition;

use super::discover::Found;
use super::history::History;
use super::identity::{FileId, FileKey, Known, PRINT_BYTES, Standing, Stat, compare};
use super::input::{self, Codec, Peek};

/// What one look gave.
pub(super) struct Looked {
    /// Positions that the store has and the source did not know: a coordinator gave them back.
    pub(super) adopted: Vec<SourcePosition>,
    /// The files that were asked for.
    pub(super) files: Vec<(Found, io::Result<Option<Opened>>)>,
}

/// A file that was opened and looked at.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    /// Kept open while it has something unread.
    pub(super) file: Option<File>,
    pub(super) stat: Stat,
    pub(super) codec: Codec,
    pub(super) head: Vec<u8>,
    /// What it is, if it was read before.
    pub(super) same: Option<Known>,
    /// If not: the truncations of its inode so far.
    pub(super) generation: u32,
}

/// Looks at `found`.
pub(super) fn look(source: &str, found: Vec<Found>, mut history: Arc<History>, buffer: &Buffer) -> Looked {
    let adopted = history.news(source, buffer.positions());
    if !adopted.is_empty() {
        Arc::make_mut(&mut history).adopt(source, &adopted);
    }
    let files = found.into_iter().map(|found| {
        let opened = open(&found, &history);
        (found, opened)
    });
    Looked { files: files.collect(), adopted }
}

/// `None` while there is too little to tell what it is.
fn open(found: &Found, history: &History) -> io::Result<Option<Opened>> {
    let (file, stat) = input::open(&found.path)?;
    if stat.id != found.id {
        return Ok(None);
    }
    let Some(codec) = input::codec(&file)? else { return Ok(None) };
    let peek = Peek { file: &file, codec };
    let head = peek.head(PRINT_BYTES)?;
    if head.is_empty() {
        return Ok(None);
    }
    let (may, generation) = history.lineage(&stat);
    let mut same = None;
    for known in may {
        // What an archive holds before its offset is checked when it is read there.
        let is_complete = known.detail.complete == Some(stat.stamp);
        let fits = is_complete
            || known.key.head_fits(&head)
                && (codec != Codec::Plain
                    || compare(std::slice::from_ref(&known), &peek, &|_, _, _| false)? == [Standing::Fits]);
        if fits {
            same = Some(known);
            break;
        }
    }
    let is_read = same.as_ref().is_some_and(|known| is_read(known, &stat, codec));
    let file = (!is_read).then_some(file);
    Ok(Some(Opened { path: found.path.clone(), file, stat, codec, head, same, generation }))
}

/// Whether nothing of the file is left to read.
pub(super) fn is_read(known: &Known, stat: &Stat, codec: Codec) -> bool {
    match codec {
        Codec::Plain => known.offset == stat.stamp.size,
        Codec::Gzip | Codec::Zstd => known.detail.complete == Some(stat.stamp),
    }
}

/// A file to compare with what it may be a copy of.
pub(super) struct Comparison {
    pub(super) id: FileId,
    pub(super) path: PathBuf,
    pub(super) codec: Codec,
    pub(super) size: u64,
    /// The positions, and where the file of each stands if it is a plain one that is there.
    pub(super) with: Vec<(Known, Option<(PathBuf, FileId)>)>,
}

/// What came out: `None` where the file could not be read.
pub(super) struct Compared {
    pub(super) id: FileId,
    pub(super) codec: Codec,
    /// Size of the file as it was asked for.
    pub(super) size: u64,
    pub(super) standings: Option<Vec<(FileKey, u64, Standing)>>,
}

/// Compares each file, as far as the positions go.
pub(super) fn compare_all(comparisons: Vec<Comparison>) -> Vec<Compared> {
    comparisons
        .into_iter()
        .map(|one| Compared {
            id: one.id,
            codec: one.codec,
            size: one.size,
            standings: compare_one(&one).ok(),
        })
        .collect()
}

fn compare_one(one: &Comparison) -> io::Result<Vec<(FileKey, u64, Standing)>> {
    let (file, stat) = input::open(&one.path)?;
    if stat.id != one.id {
        return Err(io::Error::other("another file stands there now"));
    }
    let known: Vec<Known> = one.with.iter().map(|(known, _)| known.clone()).collect();
    let same_there = |index: usize, at: u64, bytes: &[u8]| {
        let Some((path, id)) = &one.with[index].1 else { return true };
        has_bytes(path, *id, &one.with[index].0, at, bytes).unwrap_or(true)
    };
    let standings = compare(&known, &Peek { file: &file, codec: one.codec }, &same_there)?;
    Ok(known
        .into_iter()
        .zip(standings)
        .map(|(known, standing)| (known.key, known.offset, standing))
        .collect())
}

/// Whether a file of which `known` was read has `bytes` before `at`. Yes, if it is not what was read any more.
fn has_bytes(path: &Path, id: FileId, known: &Known, at: u64, bytes: &[u8]) -> io::Result<bool> {
    let (file, stat) = input::open(path)?;
    let Some(from) = at.checked_sub(bytes.len() as u64) else { return Ok(false) };
    let mut there = vec![0; bytes.len()];
    let read = input::read_up_to(&file, &mut there, from)?;
    // Looked at after that: it may have been truncated and written again, which says nothing of what was read.
    let whole = Peek { file: &file, codec: Codec::Plain };
    let is_intact = compare(std::slice::from_ref(known), &whole, &|_, _, _| false)? == [Standing::Fits];
    Ok(stat.id != id || !is_intact || read < bytes.len() || there == bytes)
}
