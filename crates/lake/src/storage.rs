//! The objects of the lake: on local disk, with file and directories synced before a write returns, or in an object store, with
//! copies on local disk.
//!
//! Everything here blocks, and must be called on the blocking pool of a runtime: a change of the lake runs to its end
//! there even if whoever asked for it has gone.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

use aap_store::LakeFile;
use camino::{Utf8Path, Utf8PathBuf};
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;
use tracing::warn;

use crate::Error;
use crate::cache::Cache;
use crate::lake::chain;
use crate::objects::LakeObjects;
use crate::pins::Pins;
use crate::writer::ObjectWriter;

/// Requests under way when many files are removed, or asked for.
const REQUESTS: usize = 8;
/// How the folder of a day begins: nothing else below a lake's prefix looks like a file of the lake.
const DAY: &str = "date=";

/// The objects, by names relative to a root.
#[derive(Debug)]
pub(crate) struct Storage {
    root: Utf8PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Disk(Arc<dyn ObjectStore>),
    Objects { objects: LakeObjects, cache: Arc<Cache> },
}

impl Storage {
    /// Files below `root`; or, with `objects`, these and their copies below `root`.
    pub(crate) fn open(root: &Utf8Path, objects: Option<LakeObjects>, pins: &Pins) -> Result<Self, Error> {
        std::fs::create_dir_all(root).map_err(Error::file("create", root))?;
        let root = root.canonicalize_utf8().map_err(Error::file("find", root))?;
        let place = match objects {
            Some(objects) => {
                let objects = objects.until_stop();
                let cache = Arc::new(Cache::open(&root, objects.cache_bytes(), pins.clone())?);
                Place::Objects { objects, cache }
            }
            None if Cache::is_in(&root) => {
                return Err(Error::OtherUse { root, found: "copies of files that lie in an object store" });
            }
            None => {
                let objects = LocalFileSystem::new_with_prefix(&root)
                    .map_err(|source| Error::Object { doing: "open", path: root.to_string(), source })?
                    .with_fsync(true);
                Place::Disk(Arc::new(objects))
            }
        };
        Ok(Self { root, place })
    }

    /// Where an object lies, or its copy if it has one, for programs that open it by name.
    pub(crate) fn locate(&self, path: &str) -> Utf8PathBuf {
        self.root.join(path)
    }

    /// What others call an object.
    pub(crate) fn address(&self, path: &str) -> String {
        match &self.place {
            Place::Disk(_) => self.locate(path).into_string(),
            Place::Objects { objects, .. } => objects.url(path),
        }
    }

    /// Ends all requests of an object store that are under way; later ones are refused.
    pub(crate) fn stop(&self) {
        if let Place::Objects { objects, .. } = &self.place {
            objects.stop();
        }
    }

    pub(crate) fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// Whether others can have the same objects.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.place, Place::Objects { .. })
    }

    /// What an operator calls the place.
    pub(crate) fn name(&self) -> &str {
        match &self.place {
            Place::Disk(_) => self.root.as_str(),
            Place::Objects { objects, .. } => objects.place(),
        }
    }

    /// Begins a new object. Nobody sees it under its name until it is finished. The name must never have been used.
    pub(crate) fn create(&self, path: &str) -> Result<ObjectWriter, Error> {
        match &self.place {
            Place::Disk(objects) => ObjectWriter::on_disk(objects.as_ref(), path),
            Place::Objects { objects, cache } => ObjectWriter::copied(objects, cache, path),
        }
    }

    /// Makes sure that files can be opened where [`Self::locate`] says, for as long as a pin is held that was taken before.
    pub(crate) fn fetch<'a>(&self, files: impl IntoIterator<Item = &'a LakeFile>) -> Result<(), Error> {
        let Place::Objects { objects, cache } = &self.place else { return Ok(()) };
        let fetching = futures::stream::iter(files).map(|file| cache.fetch(objects, file));
        Handle::current().block_on(fetching.buffer_unordered(REQUESTS).try_collect())
    }

    /// Opens an object to read parts of it. In an object store it must have been fetched under a pin.
    pub(crate) fn open_object(&self, path: &str) -> Result<File, Error> {
        let path = self.locate(path);
        File::open(&path).map_err(Error::file("open", &path))
    }

    /// Removes objects that nobody needs, and their copies. Returns those that could not be: the next sweep finds them too.
    pub(crate) fn remove(&self, paths: Vec<String>) -> Vec<String> {
        self.forget(&paths);
        let mut failed = vec![];
        for some in paths.chunks(REQUESTS) {
            // A store that does not answer is not asked for each of them.
            if !failed.is_empty() {
                failed.extend_from_slice(some);
                continue;
            }
            for (path, error) in self.remove_some(some) {
                warn!(%path, error = %chain(&error), "cannot remove a file of the lake");
                failed.push(path);
            }
        }
        failed
    }

    fn remove_some(&self, paths: &[String]) -> Vec<(String, Error)> {
        let removing = futures::stream::iter(paths).map(|path| async move {
            let removed = match &self.place {
                Place::Objects { objects, .. } => objects.delete(path).await,
                Place::Disk(objects) => match objects.delete(&Path::from(path.as_str())).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(source) => Err(Error::Object { doing: "remove", path: path.clone(), source }),
                },
            };
            Some((path.clone(), removed.err()?))
        });
        let removed = removing.buffer_unordered(REQUESTS).collect::<Vec<_>>();
        Handle::current().block_on(removed).into_iter().flatten().collect()
    }

    /// Removes local copies of objects.
    pub(crate) fn forget(&self, paths: &[String]) {
        if let Place::Objects { cache, .. } = &self.place {
            cache.forget(paths);
        }
    }

    /// Removes local copies of all objects but these.
    pub(crate) fn forget_others(&self, visible: &HashSet<&str>) {
        if let Place::Objects { cache, .. } = &self.place {
            cache.forget_others(visible);
        }
    }

    /// Removes local copies beyond the limit.
    pub(crate) fn evict(&self) {
        if let Place::Objects { cache, .. } = &self.place {
            cache.evict();
        }
    }

    /// Every Parquet file of the lake, visible or not; on disk half-written ones too.
    pub(crate) fn parquet_files(&self) -> Result<Vec<String>, Error> {
        match &self.place {
            Place::Disk(_) => parquet_files_below(&self.root),
            Place::Objects { objects, .. } => {
                let mut found = Handle::current().block_on(objects.list(None))?;
                // What others put there is theirs: a sink that was given the same prefix, say.
                found.retain(|path| is_lake_file(path));
                Ok(found)
            }
        }
    }

    /// Whether a whole Parquet file lies here, rather than what a crash left of one.
    pub(crate) fn has_published_files(&self) -> Result<bool, Error> {
        Ok(self.parquet_files()?.iter().any(|path| path.ends_with(".parquet")))
    }

    /// Removes Parquet files that are not in `visible`. Nobody may write meanwhile, or read what is not in it.
    pub(crate) fn sweep(&self, visible: &HashSet<&str>) -> Result<usize, Error> {
        let mut found = self.parquet_files()?;
        found.retain(|path| !visible.contains(path.as_str()));
        if self.is_shared() {
            return Ok(found.len() - self.remove(found.clone()).len());
        }
        for path in &found {
            let file = self.locate(path);
            std::fs::remove_file(&file).map_err(Error::file("remove", &file))?;
        }
        Ok(found.len())
    }

    /// Writes a small object, in the place of one of that name. Durable when it returns.
    pub(crate) fn write(&self, path: &str, bytes: Vec<u8>) -> Result<(), Error> {
        if let Place::Objects { objects, .. } = &self.place {
            return Handle::current().block_on(objects.put(path, bytes.into()));
        }
        let path = self.locate(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        }
        aap_runtime::write_durably(&path, &bytes, 0o640).map_err(Error::file("write", &path))
    }

    /// Reads a small object.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        if let Place::Objects { objects, .. } = &self.place {
            return Handle::current().block_on(objects.get(path));
        }
        let path = self.locate(path);
        std::fs::read(&path).map_err(Error::file("read", &path))
    }

    /// The names of the objects in a folder.
    pub(crate) fn names(&self, folder: &str) -> Result<Vec<String>, Error> {
        if let Place::Objects { objects, .. } = &self.place {
            let found = Handle::current().block_on(objects.list(Some(folder)))?.into_iter();
            let name = |path: String| path.rsplit('/').next().map(str::to_owned);
            return Ok(found.filter_map(name).collect());
        }
        let folder = self.locate(folder);
        match folder.read_dir_utf8() {
            Ok(entries) => Ok(entries.flatten().map(|entry| entry.file_name().to_owned()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
            Err(error) => Err(Error::file("list", &folder)(error)),
        }
    }

    /// Copies under their names, and their bytes.
    #[cfg(test)]
    pub(crate) fn held(&self) -> (usize, u64) {
        match &self.place {
            Place::Objects { cache, .. } => cache.held(),
            Place::Disk(_) => (0, 0),
        }
    }
}

/// `<stream>/date=YYYY-MM-DD/<unique>.parquet`.
fn is_lake_file(path: &str) -> bool {
    let mut parts = path.split('/');
    let is_of_day = parts.nth(1).is_some_and(|folder| folder.starts_with(DAY));
    let is_parquet = parts.next().is_some_and(|name| name.ends_with(".parquet"));
    is_of_day && is_parquet && parts.next().is_none()
}

/// Every Parquet file below a folder, half-written ones too, relative to it.
pub(crate) fn parquet_files_below(root: &Utf8Path) -> Result<Vec<String>, Error> {
    let mut found = vec![];
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir_utf8().map_err(Error::file("list", &folder))? {
            let entry = entry.map_err(Error::file("list", &folder))?;
            let kind = entry.file_type().map_err(Error::file("look at", entry.path()))?;
            let is_ours = entry.file_name().contains(".parquet");
            match entry.path().strip_prefix(root) {
                _ if kind.is_dir() => folders.push(entry.path().to_owned()),
                Ok(path) if kind.is_file() && is_ours => found.push(path.to_string()),
                _ => {}
            }
        }
    }
    Ok(found)
}
