//! Copies on the local disk of files that lie in an object store: what the SQL engine and merging read.
//!
//! ```text
//! <root>/_copies                              says what the folder is for
//! <root>/_coming/<number>                     copies in the making: downloads, and files on their way to the store
//! <root>/<stream>/date=YYYY-MM-DD/<name>      copies, under the names of the objects
//! ```
//! Whatever stands under its name is whole, after a power cut too: a copy is synced before it is renamed to its place. The folders
//! are not: a copy that is lost is fetched again.
//!
//! **What may go.** A copy that was used when a pin was held stays until that pin is gone; of the others, the least recently used go
//! as soon as all copies together are larger than the limit. So whoever holds a pin, fetches and then opens, or has another process
//! open, finds what was fetched, however long that takes. The price is that queries that are running may together take more
//! than the limit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use aap_store::LakeFile;
use camino::{Utf8Path, Utf8PathBuf};
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

use crate::Error;
use crate::lake::lock;
use crate::objects::LakeObjects;
use crate::pins::Pins;
use crate::storage::parquet_files_below;

/// Downloads at once, of all readers together: enough to fill a line, few enough for the smallest store.
const DOWNLOADS: usize = 8;
/// What is collected of a copy before it goes to the disk: chunks of a download are smaller.
const BUFFER_BYTES: usize = 256 << 10;

const MARKER: &str = "_copies";
const MARKER_TEXT: &str = "Copies of files of a lake that lies in an object store. They may be deleted while the coordinator is stopped.\n";
const COMING: &str = "_coming";

/// The copies.
#[derive(Debug)]
pub(crate) struct Cache {
    root: Utf8PathBuf,
    limit: u64,
    pins: Pins,
    state: Mutex<State>,
    downloads: Semaphore,
    /// Makes the names of copies in the making.
    begun: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    copies: HashMap<String, Held>,
    /// Paths by their last use.
    by_use: BTreeMap<u64, String>,
    bytes: u64,
    /// What is being downloaded; ends with the download.
    coming: HashMap<String, watch::Receiver<()>>,
}

/// A copy that stands under its name.
#[derive(Debug)]
struct Held {
    bytes: u64,
    used: u64,
}

/// A copy in the making. Dropping it leaves nothing.
#[derive(Debug)]
pub(crate) struct NewCopy {
    path: Utf8PathBuf,
    to: BufWriter<File>,
}

/// What became of the wish for a copy.
enum Claim<'a> {
    Here,
    /// Somebody else downloads it.
    Coming(watch::Receiver<()>),
    Ours(Coming<'a>),
}

/// The right to download a file.
struct Coming<'a> {
    cache: &'a Cache,
    path: &'a str,
    _ends: watch::Sender<()>,
}

impl Cache {
    /// Takes a folder, and removes what was in the making there.
    pub(crate) fn open(root: &Utf8Path, limit: u64, pins: Pins) -> Result<Self, Error> {
        let (marker, coming) = (root.join(MARKER), root.join(COMING));
        let files = parquet_files_below(root)?;
        if !marker.exists() {
            if !files.is_empty() {
                let found = "the files of a lake on this disk, which are no copies";
                return Err(Error::OtherUse { root: root.to_owned(), found });
            }
            std::fs::write(&marker, MARKER_TEXT).map_err(Error::file("write", &marker))?;
        }
        match std::fs::remove_dir_all(&coming) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("clear", &coming)(error));
            }
            _ => std::fs::create_dir_all(&coming).map_err(Error::file("create", &coming))?,
        }
        let mut state = State::default();
        for path in files {
            let file = root.join(&path);
            let bytes = file.metadata().map_err(Error::file("look at", &file))?.len();
            state.hold(path, bytes, pins.mark());
        }
        let (state, downloads) = (Mutex::new(state), Semaphore::new(DOWNLOADS));
        Ok(Self { root: root.to_owned(), limit, pins, state, downloads, begun: AtomicU64::new(0) })
    }

    /// Whether a folder holds copies.
    pub(crate) fn is_in(root: &Utf8Path) -> bool {
        root.join(MARKER).exists()
    }

    /// Begins a copy.
    pub(crate) fn begin(&self) -> Result<NewCopy, Error> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(COMING).join(number.to_string());
        let options = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = options.map_err(Error::file("create", &path))?;
        Ok(NewCopy { path, to: BufWriter::with_capacity(BUFFER_BYTES, file) })
    }

    /// Puts a copy under its name.
    pub(crate) fn publish(&self, mut copy: NewCopy, path: &str) -> Result<(), Error> {
        let synced = copy.file().and_then(|file| file.sync_data());
        synced.map_err(Error::file("sync", &copy.path))?;
        let place = self.root.join(path);
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        }
        let bytes = copy.path.metadata().map_err(Error::file("look at", &copy.path))?.len();
        {
            let mut state = lock(&self.state);
            std::fs::rename(&copy.path, &place).map_err(Error::file("rename to", &place))?;
            state.hold(path.to_owned(), bytes, self.pins.mark());
        }
        self.evict();
        Ok(())
    }

    /// Makes sure that there is a copy. A file that several want comes once.
    pub(crate) async fn fetch(&self, objects: &LakeObjects, file: &LakeFile) -> Result<(), Error> {
        loop {
            match self.claim(file) {
                Claim::Here => return Ok(()),
                // It ends by an error, as nothing is ever sent. Then the copy is there, or it is our turn to try.
                Claim::Coming(mut coming) => {
                    let _ended = coming.changed().await;
                }
                Claim::Ours(_coming) => return self.download(objects, file).await,
            }
        }
    }

    fn claim<'a>(&'a self, file: &'a LakeFile) -> Claim<'a> {
        let (path, place) = (file.path.as_str(), self.root.join(&file.path));
        let mut state = lock(&self.state);
        if state.copies.contains_key(path) {
            // Whatever somebody did to it: it is here if it has its size.
            if place.metadata().is_ok_and(|found| found.len() == file.bytes) {
                state.hold(path.to_owned(), file.bytes, self.pins.mark());
                return Claim::Here;
            }
            warn!(%place, "a copy of a file of the lake was changed or removed, and is fetched again");
            self.remove(&mut state, path);
        }
        if let Some(coming) = state.coming.get(path) {
            return Claim::Coming(coming.clone());
        }
        let (ends, coming) = watch::channel(());
        state.coming.insert(path.to_owned(), coming);
        Claim::Ours(Coming { cache: self, path, _ends: ends })
    }

    async fn download(&self, objects: &LakeObjects, file: &LakeFile) -> Result<(), Error> {
        // It is never closed.
        let _turn = self.downloads.acquire().await;
        let mut copy = self.begin()?;
        let found = objects.get_into(&file.path, &mut copy).await?;
        if found != file.bytes {
            return Err(Error::SizeDiffers { path: file.path.clone(), expected: file.bytes, found });
        }
        self.publish(copy, &file.path)
    }

    /// Removes the copies of files that nobody needs any more.
    pub(crate) fn forget(&self, paths: &[String]) {
        let mut state = lock(&self.state);
        paths.iter().for_each(|path| self.remove(&mut state, path));
    }

    /// Removes the copies of all files that are not in `visible`.
    pub(crate) fn forget_others(&self, visible: &HashSet<&str>) {
        let mut state = lock(&self.state);
        let others: Vec<String> =
            state.copies.keys().filter(|path| !visible.contains(path.as_str())).cloned().collect();
        others.iter().for_each(|path| self.remove(&mut state, path));
    }

    /// Removes copies until they fit, as far as they may go.
    pub(crate) fn evict(&self) {
        let mut state = lock(&self.state);
        // Whoever takes a pin after this has used none of them under it.
        let oldest_reader = self.pins.oldest_reader().unwrap_or(u64::MAX);
        let mut evicted = 0;
        while state.bytes > self.limit {
            let Some((used, path)) = state.by_use.first_key_value() else { break };
            if *used > oldest_reader {
                break;
            }
            let path = path.clone();
            self.remove(&mut state, &path);
            evicted += 1;
        }
        if evicted > 0 {
            tracing::debug!(evicted, left = state.bytes, "copies of lake files removed");
        }
    }

    /// Under the lock, so that nobody is told of a copy that is about to go.
    fn remove(&self, state: &mut State, path: &str) {
        if !state.drop(path) {
            return;
        }
        let place = self.root.join(path);
        match std::fs::remove_file(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                warn!(%place, %error, "cannot remove the copy of a lake file");
            }
            _ => {}
        }
    }

    /// Copies under their names, and their bytes.
    #[cfg(test)]
    pub(crate) fn held(&self) -> (usize, u64) {
        let state = lock(&self.state);
        (state.copies.len(), state.bytes)
    }
}

impl State {
    /// Notes a copy, or its use.
    fn hold(&mut self, path: String, bytes: u64, used: u64) {
        self.drop(&path);
        self.bytes += bytes;
        self.by_use.insert(used, path.clone());
        self.copies.insert(path, Held { bytes, used });
    }

    /// Whether it was there.
    fn drop(&mut self, path: &str) -> bool {
        let Some(held) = self.copies.remove(path) else { return false };
        self.bytes -= held.bytes;
        self.by_use.remove(&held.used);
        true
    }
}

impl NewCopy {
    /// The file, with everything that was written.
    pub(crate) fn file(&mut self) -> std::io::Result<&mut File> {
        self.to.flush()?;
        Ok(self.to.get_mut())
    }

    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }
}

impl Write for NewCopy {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

impl Drop for NewCopy {
    fn drop(&mut self) {
        // One that has its name now is not here any more.
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                info!(path = %self.path, %error, "cannot remove the beginning of a copy");
            }
            _ => {}
        }
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        lock(&self.cache.state).coming.remove(self.path);
    }
}
