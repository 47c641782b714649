//! The objects of the lake. Local disk through `object_store`, with file and directories synced before a write returns.
//!
//! Everything here blocks, and must be called on the blocking pool of a runtime: a change of the lake runs to its end
//! there even if whoever asked for it has gone.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use tokio::runtime::Handle;
use tracing::warn;

use crate::Error;

/// What is held in memory of an object in the making, twice: one part fills while the other is written.
const PART_BYTES: usize = 2 << 20;
/// Parts under way.
const PARTS: usize = 2;

/// Objects under a root on local disk.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    root: Utf8PathBuf,
    objects: Arc<dyn ObjectStore>,
}

impl Storage {
    pub(crate) fn open(root: &Utf8Path) -> Result<Self, Error> {
        std::fs::create_dir_all(root).map_err(Error::file("create", root))?;
        let root = root.canonicalize_utf8().map_err(Error::file("find", root))?;
        let objects = LocalFileSystem::new_with_prefix(&root)
            .map_err(|source| Error::Object { doing: "open", path: root.to_string(), source })?
            .with_fsync(true);
        Ok(Self { root, objects: Arc::new(objects) })
    }

    /// Where an object lies, for programs that open it by name.
    pub(crate) fn locate(&self, path: &str) -> Utf8PathBuf {
        self.root.join(path)
    }

    pub(crate) fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// Begins a new object. Nobody sees it under its name until it is finished. The name must never have been used.
    pub(crate) fn create(&self, path: &str) -> Result<ObjectWriter, Error> {
        let runtime = Handle::current();
        let upload = runtime.block_on(self.objects.put_multipart(&Path::from(path)));
        let upload =
            upload.map_err(|source| Error::Object { doing: "write", path: path.to_owned(), source })?;
        let upload = Some(WriteMultipart::new_with_chunk_size(upload, PART_BYTES));
        Ok(ObjectWriter { path: path.to_owned(), runtime, upload, written: 0, failure: None })
    }

    /// Opens an object to read parts of it.
    pub(crate) fn open_object(&self, path: &str) -> Result<std::fs::File, Error> {
        let path = self.locate(path);
        std::fs::File::open(&path).map_err(Error::file("open", &path))
    }

    /// Removes objects that nobody needs. What cannot be removed is swept at the next start.
    pub(crate) fn remove(&self, paths: Vec<String>) {
        let runtime = Handle::current();
        for path in paths {
            match runtime.block_on(self.objects.delete(&Path::from(path.as_str()))) {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => warn!(%path, %error, "cannot remove a file of the lake"),
            }
        }
    }

    /// Every Parquet file below the root, half-written ones too, relative to it.
    pub(crate) fn parquet_files(&self) -> Result<Vec<String>, Error> {
        let mut found = vec![];
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir_utf8().map_err(Error::file("list", &folder))? {
                let entry = entry.map_err(Error::file("list", &folder))?;
                let kind = entry.file_type().map_err(Error::file("look at", entry.path()))?;
                let is_ours = entry.file_name().contains(".parquet");
                match entry.path().strip_prefix(&self.root) {
                    _ if kind.is_dir() => folders.push(entry.path().to_owned()),
                    Ok(path) if kind.is_file() && is_ours => found.push(path.to_string()),
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// Whether a whole Parquet file lies here, rather than what a crash left of one.
    pub(crate) fn has_published_files(&self) -> Result<bool, Error> {
        Ok(self.parquet_files()?.iter().any(|path| path.ends_with(".parquet")))
    }

    /// Removes Parquet files that are not in `visible`. Nobody may write meanwhile.
    pub(crate) fn sweep(&self, visible: &HashSet<&str>) -> Result<usize, Error> {
        let mut swept = 0;
        for path in self.parquet_files()?.iter().filter(|path| !visible.contains(path.as_str())) {
            let file = self.locate(path);
            std::fs::remove_file(&file).map_err(Error::file("remove", &file))?;
            swept += 1;
        }
        Ok(swept)
    }
}

/// An object in the making. Dropping it leaves nothing under its name.
#[derive(Debug)]
pub(crate) struct ObjectWriter {
    path: String,
    runtime: Handle,
    upload: Option<WriteMultipart>,
    written: u64,
    failure: Option<object_store::Error>,
}

impl ObjectWriter {
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Why writing failed, if it did: what writes through [`Write`] hides it among reasons of its own.
    pub(crate) fn failure(&mut self) -> Option<Error> {
        let source = self.failure.take()?;
        Some(Error::Object { doing: "write", path: self.path.clone(), source })
    }

    /// Syncs, and puts the object under its name. Durable when it returns. Returns its size.
    pub(crate) fn finish(mut self) -> Result<u64, Error> {
        if let Some(upload) = self.upload.take() {
            let _in_runtime = self.runtime.enter();
            self.failure = self.runtime.block_on(upload.finish()).err();
        }
        match self.failure() {
            Some(failure) => Err(failure),
            None => Ok(self.written),
        }
    }
}

impl Write for ObjectWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let gone = || std::io::Error::other("an earlier write failed");
        let upload = self.upload.as_mut().ok_or_else(gone)?;
        let _in_runtime = self.runtime.enter();
        if let Err(error) = self.runtime.block_on(upload.wait_for_capacity(PARTS)) {
            self.failure = Some(error);
            self.upload = None;
            return Err(gone());
        }
        // A part at a time, so that the wait above bounds what is under way.
        let taken = bytes.len().min(PART_BYTES);
        upload.write(&bytes[..taken]);
        self.written += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
