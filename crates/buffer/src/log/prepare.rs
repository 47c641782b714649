//! Files for segments: filled with zeros once, so that a write into them changes no metadata.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use camino::{Utf8Path, Utf8PathBuf};

use crate::fs::{FileHandle, FileSystem, Open, write_all_at};

/// Zeros are written in pieces of this size.
const ZERO_PIECE: usize = 1 << 20;

/// Fills the next segment's file with zeros while the writer goes on.
#[derive(Debug)]
pub(super) struct Preparer {
    jobs: SyncSender<u64>,
    made: Receiver<bool>,
    asked: bool,
}

impl Preparer {
    /// `None` if the system gives no thread: then rolling does it.
    pub(super) fn start(fs: Arc<dyn FileSystem>, path: Utf8PathBuf) -> Option<Self> {
        // One job and one answer at a time.
        let (jobs, todo) = sync_channel::<u64>(1);
        let (done, made) = sync_channel(1);
        let work = move || {
            while let Ok(bytes) = todo.recv() {
                let outcome = fill_with_zeros(fs.as_ref(), &path, bytes);
                if done.send(outcome.is_ok()).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("buffer-prepare".into()).spawn(work).ok()?;
        Some(Self { jobs, made, asked: false })
    }

    pub(super) fn ask(&mut self, bytes: u64) {
        if !self.asked {
            self.asked = self.jobs.try_send(bytes).is_ok();
        }
    }

    /// Whether a file was made since it was asked for.
    pub(super) fn take(&mut self) -> bool {
        std::mem::take(&mut self.asked) && self.made.recv().unwrap_or(false)
    }
}

/// Makes a file of zeros, synced. One that cannot be finished is removed again, so that it does not keep the space.
pub(super) fn fill_with_zeros(
    fs: &dyn FileSystem,
    path: &Utf8Path,
    bytes: u64,
) -> io::Result<Box<dyn FileHandle>> {
    let made = try_to_fill(fs, path, bytes);
    if made.is_err() {
        drop(fs.remove(path));
    }
    made
}

fn try_to_fill(fs: &dyn FileSystem, path: &Utf8Path, bytes: u64) -> io::Result<Box<dyn FileHandle>> {
    let file = fs.open(path, Open::Create)?;
    // Asked first: a full disk is tried again and again, and must not be filled to the brim each time.
    let free = path.parent().and_then(|parent| fs.free_bytes(parent).ok());
    if free.is_some_and(|free| free < bytes) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let zeros = vec![0; ZERO_PIECE.min(usize::try_from(bytes).unwrap_or(ZERO_PIECE))];
    let mut at = 0;
    while at < bytes {
        let piece = usize::try_from(bytes - at).unwrap_or(ZERO_PIECE).min(zeros.len());
        write_all_at(file.as_ref(), &zeros[..piece], at)?;
        at += piece as u64;
    }
    file.sync_data()?;
    Ok(file)
}
