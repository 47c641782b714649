//! The seam to storage. The buffer touches files only through [`FileSystem`]: plain positioned reads and writes,
//! fdatasync, rename, directory sync. No mmap and no io_uring: both hide errors from tests and from us.
//!
//! | implementation | what for |
//! |---|---|
//! | [`RealFileSystem`] | the system's files |
//! | [`SimFileSystem`] | in memory, with power cuts: unsynced sectors and names survive or vanish by a seed |
//! | [`FaultyFileSystem`] | fails the N-th call of another one, or all calls from there on |

mod faulty;
mod real;
mod sim;

use std::any::Any;
use std::fmt::Debug;
use std::io;

use camino::Utf8Path;

pub use faulty::{Fault, FaultKind, FaultyFileSystem};
pub use real::RealFileSystem;
#[cfg(test)]
pub(crate) use sim::next_random;
pub use sim::{CrashPlan, SimFileSystem};

/// A lock that is held as long as it lives.
pub type Lock = Box<dyn Any + Send + Sync>;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// It must exist; for reading.
    Read,
    /// It must exist; for reading and writing.
    Write,
    /// Made if absent, emptied if present; for reading and writing.
    Create,
}

/// A place for files.
///
/// # Contract
/// Names made, renamed or removed survive a crash only after [`FileSystem::sync_directory`]; bytes only after
/// [`FileHandle::sync_data`] returned `Ok`. After an error of `sync_data` nothing is known of the bytes written since the
/// sync before, and a later `Ok` on the same file does not speak for them.
pub trait FileSystem: Debug + Send + Sync + 'static {
    /// Makes the directory and its parents, durably.
    fn create_directory(&self, path: &Utf8Path) -> io::Result<()>;
    /// The names in a directory, unsorted. Empty if the directory does not exist.
    fn list(&self, path: &Utf8Path) -> io::Result<Vec<String>>;
    /// Opens a file.
    fn open(&self, path: &Utf8Path, how: Open) -> io::Result<Box<dyn FileHandle>>;
    /// Renames; replaces the target.
    fn rename(&self, from: &Utf8Path, to: &Utf8Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Utf8Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Utf8Path) -> io::Result<()>;
    /// Bytes that are free for files in a directory, as far as is known.
    fn free_bytes(&self, _path: &Utf8Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
    /// Takes the lock `path` for as long as the value lives. `None` if somebody else holds it.
    fn lock(&self, path: &Utf8Path) -> io::Result<Option<Lock>>;
}

/// An open file.
pub trait FileHandle: Debug + Send + Sync {
    /// Reads into `bytes` from `offset`; fewer than asked only at the end of the file or by a signal.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; may write fewer.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes all bytes written so far durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Sets the length; new bytes are zero.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// The length.
    fn length(&self) -> io::Result<u64>;
}

/// Writes all of `bytes`.
pub(crate) fn write_all_at(file: &dyn FileHandle, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written.min(bytes.len())..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `bytes` is full or the file ends. Returns how many were read.
pub(crate) fn read_full_at(file: &dyn FileHandle, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads a small file whole, at most `limit` bytes.
pub(crate) fn read_file(fs: &dyn FileSystem, path: &Utf8Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = fs.open(path, Open::Read)?;
    let length = usize::try_from(file.length()?).unwrap_or(usize::MAX).min(limit);
    let mut bytes = vec![0; length];
    let read = read_full_at(file.as_ref(), &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a small file: temporary, fsync, rename, fsync of the directory.
pub(crate) fn replace_file(fs: &dyn FileSystem, path: &Utf8Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::other("path has no parent directory"))?;
    let temporary = path.with_extension("tmp");
    let file = fs.open(&temporary, Open::Create)?;
    write_all_at(file.as_ref(), bytes, 0)?;
    file.sync_data()?;
    drop(file);
    fs.rename(&temporary, path)?;
    fs.sync_directory(parent)
}
