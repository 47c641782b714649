//! The segment files of a store, and where damaged ones go.

use std::collections::BTreeMap;
use std::io;

use camino::Utf8PathBuf;

use super::Recovery;
use crate::Error;
use crate::format::{FORMAT_VERSION, SEGMENT_HEADER, SegmentHeader};
use crate::fs::{FileHandle, FileSystem, Open, read_full_at, write_all_at};
use crate::identity::Found as StoreFound;
use crate::log::segment_path;

/// Damaged bytes are kept for inspection up to this much.
const LOST_BYTES_MAX: u64 = 64 << 20;

/// One segment file on disk.
pub(super) struct SegmentFile {
    pub(super) id: u64,
    pub(super) path: Utf8PathBuf,
    pub(super) length: u64,
    pub(super) header: Option<SegmentHeader>,
}

impl SegmentFile {
    /// Opened when it is read, and closed again: there may be more segments than a process may hold open.
    pub(super) fn open(&self, fs: &dyn FileSystem) -> Result<Box<dyn FileHandle>, Error> {
        fs.open(&self.path, Open::Read).map_err(|error| Error::io("open", &self.path, error))
    }
}

/// What an operator can put right, after which nothing is lost: such a start is refused.
fn is_remediable(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let known = [Errno::ACCESS, Errno::PERM, Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    error.raw_os_error().is_some_and(|number| known.iter().any(|errno| errno.raw_os_error() == number))
}

impl Recovery {
    /// The segment files, oldest first. Leftovers of unfinished work are removed.
    pub(super) fn list_segments(&mut self, store: &StoreFound) -> Result<Vec<SegmentFile>, Error> {
        let directory = self.directory.join("segments");
        let mut names = self.fs.list(&directory).map_err(|error| Error::io("list", &directory, error))?;
        names.sort();
        let mut files: BTreeMap<u64, SegmentFile> = BTreeMap::new();
        for name in names {
            let path = directory.join(&name);
            let Some(named) = name.strip_suffix(".seg").and_then(|id| u64::from_str_radix(id, 16).ok())
            else {
                if !self.read_only && name.ends_with(".tmp") && name != "spare.tmp" {
                    drop(self.fs.remove(&path));
                }
                continue;
            };
            let file = match self.fs.open(&path, Open::Read) {
                Ok(file) => file,
                Err(error) if is_remediable(&error) => return Err(Error::io("open", &path, error)),
                Err(error) => {
                    let text = format!("segment `{path}` cannot be opened: {error}");
                    // It may be the one that holds the newest sequences.
                    self.doubt.get_or_insert_with(|| text.clone());
                    self.problem(text);
                    self.next_segment = self.next_segment.max(named + 1);
                    continue;
                }
            };
            let mut bytes = [0; SEGMENT_HEADER];
            let read = read_full_at(file.as_ref(), &mut bytes, 0).unwrap_or(0);
            let header = SegmentHeader::parse(&bytes[..read]);
            if let Some(found) = header.map(|h| h.version).filter(|version| *version > FORMAT_VERSION) {
                return Err(Error::NewerFormat {
                    path: self.directory.clone(),
                    found,
                    supported: FORMAT_VERSION,
                });
            }
            if let (Some(header), StoreFound::Known(identity)) = (header, store)
                && header.store_id != identity.store_id
            {
                self.next_segment = self.next_segment.max(named + 1);
                self.problem(format!("`{path}` belongs to another store and is not read"));
                continue;
            }
            let id = header.map_or(named, |header| header.segment);
            if header.is_none() {
                self.problem(format!("segment `{name}` has a damaged header"));
            }
            self.next_segment = self.next_segment.max(id.max(named) + 1);
            let length = file.length().map_err(|error| Error::io("measure", &path, error))?;
            let found = SegmentFile { id, path, length, header };
            match files.get(&id) {
                // Two files claim a number: the one that is called so wins.
                Some(other) if other.path == segment_path(&self.directory, id) => self.set_aside(&found),
                Some(_) => {
                    if let Some(other) = files.insert(id, found) {
                        self.set_aside(&other);
                    }
                }
                None => drop(files.insert(id, found)),
            }
        }
        self.report.segments = files.len() as u64;
        Ok(files.into_values().collect())
    }

    fn set_aside(&mut self, file: &SegmentFile) {
        self.problem(format!("`{}` is a copy of segment {:016x} and is not read", file.path, file.id));
        if self.read_only {
            return;
        }
        let target = self.lost_and_found().join(file.path.file_name().unwrap_or("copy"));
        if let Err(error) = self.fs.rename(&file.path, &target) {
            tracing::warn!(%error, path = %file.path, "cannot set a copied segment aside");
        }
    }

    pub(super) fn lost_and_found(&self) -> Utf8PathBuf {
        let path = self.directory.join("lost+found");
        if let Err(error) = self.fs.create_directory(&path) {
            tracing::warn!(%error, %path, "cannot make the directory for damaged bytes");
        }
        path
    }

    pub(super) fn damaged(&mut self, file: &SegmentFile, segment: u64, start: u64, end: u64) {
        self.report.damaged_regions += 1;
        self.report.damaged_bytes += end - start;
        self.quarantine(file, start, end);
        let text = format!("segment {segment:016x} is damaged at offset {start} ({} bytes)", end - start);
        self.doubt.get_or_insert_with(|| text.clone());
        self.problem(text);
    }

    pub(super) fn quarantine(&mut self, file: &SegmentFile, start: u64, end: u64) {
        if self.read_only || end <= start || self.report.damaged_bytes > LOST_BYTES_MAX {
            return;
        }
        let path = self.lost_and_found().join(format!("{:016x}-{start}.bin", file.id));
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
        let source = self.fs.open(&file.path, Open::Read);
        let kept =
            source.and_then(|source| read_full_at(source.as_ref(), &mut bytes, start)).and_then(|read| {
                let target = self.fs.open(&path, Open::Create)?;
                write_all_at(target.as_ref(), &bytes[..read], 0)
            });
        if let Err(error) = kept {
            tracing::warn!(%error, %path, "damaged bytes cannot be kept");
        }
    }
}
