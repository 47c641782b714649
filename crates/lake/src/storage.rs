//! The objects of the lake. Local disk through `object_store`, with file and directories synced before a write returns.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tracing::warn;

use crate::Error;

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

    /// Writes a new object; durable when it returns. An object of that name is never overwritten.
    pub(crate) async fn create(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let written = self.objects.put_opts(&Path::from(path), bytes.into(), options).await;
        written.map(drop).map_err(|source| Error::Object { doing: "write", path: path.to_owned(), source })
    }

    pub(crate) async fn read(&self, path: &str) -> Result<Bytes, Error> {
        let fail = |source| Error::Object { doing: "read", path: path.to_owned(), source };
        self.objects.get(&Path::from(path)).await.map_err(fail)?.bytes().await.map_err(fail)
    }

    /// Removes objects that nobody needs. What cannot be removed is swept at the next start.
    pub(crate) async fn remove(&self, paths: Vec<String>) {
        for path in paths {
            match self.objects.delete(&Path::from(path.as_str())).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => warn!(%path, %error, "cannot remove a file of the lake"),
            }
        }
    }

    /// Every Parquet file below the root, half-written ones too, relative to it. Blocking.
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

    /// Whether a whole Parquet file lies here, rather than what a crash left of one. Blocking.
    pub(crate) fn has_published_files(&self) -> Result<bool, Error> {
        Ok(self.parquet_files()?.iter().any(|path| path.ends_with(".parquet")))
    }

    /// Removes Parquet files that are not in `visible`. Blocking; nobody may write meanwhile.
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
