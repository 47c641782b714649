//! The seam to storage: everything that can fail while the log is written. What is read is read from the system's files.

use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};

use aap_runtime::write_durably;
use camino::Utf8Path;
use rustix::fs::{FlockOperation, flock};

/// What was done is nobody's business but the owner's.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// A place for a log.
///
/// # Contract
/// Names survive a crash only after [`Disk::sync_directory`], bytes only after [`SegmentFile::sync`] returned `Ok`. After an error of
/// either nothing is known of what was written since the sync before, and a later `Ok` does not speak for it.
pub(crate) trait Disk: Debug + Send + Sync + 'static {
    /// Makes a segment, which must not exist.
    fn create(&self, path: &Utf8Path) -> io::Result<Box<dyn SegmentFile>>;
    /// Opens a segment.
    fn open(&self, path: &Utf8Path) -> io::Result<Box<dyn SegmentFile>>;
    /// Replaces a file so that a crash leaves the old one or the new one.
    fn replace(&self, path: &Utf8Path, bytes: &[u8]) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Utf8Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Utf8Path) -> io::Result<()>;
}

/// A segment that is written.
pub(crate) trait SegmentFile: Debug + Send + Sync {
    /// Writes all of it at an offset.
    fn write_all(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything written so far durable.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&self, length: u64) -> io::Result<()>;
}

/// The system's files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Utf8Path) -> io::Result<Box<dyn SegmentFile>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
        Ok(Box::new(RealFile(file)))
    }
    fn open(&self, path: &Utf8Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().write(true).open(path)?)))
    }
    fn replace(&self, path: &Utf8Path, bytes: &[u8]) -> io::Result<()> {
        write_durably(path, bytes, FILE_MODE)
    }
    fn remove(&self, path: &Utf8Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
    fn sync_directory(&self, path: &Utf8Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

#[derive(Debug)]
struct RealFile(File);

impl SegmentFile for RealFile {
    fn write_all(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}

/// Makes the directory of a log, with its parents, durably.
pub(crate) fn create_directory(path: &Utf8Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_str().is_empty());
    parent.map_or(Ok(()), create_directory)?;
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    parent.map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Takes the lock `path` for as long as the file is open. `None` if somebody else holds it.
pub(crate) fn lock(path: &Utf8Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
