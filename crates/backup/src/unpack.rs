//! A file into a home.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};

use aap_runtime::{Home, RESTORED};
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use tar::{Archive, Entries, Entry};
use zstd::stream::read::Decoder;

use crate::form::{
    FORMAT, FileEntry, HEADER, HEADER_BYTES_MAX, HOME, MANIFEST, MANIFEST_BYTES_MAX, Manifest, PATH_BYTES_MAX,
};
use crate::progress::Hashing;
use crate::{Error, Progress, Summary};

/// Folders are their owner's alone, as `aap up` makes them.
const FOLDER_MODE: u32 = 0o700;
/// The stores, which shall not go on with numbers that others may have given meanwhile.
const STORES: [&str; 2] = ["agent/buffer", "coordinator/landing"];
/// What follows the last entry: two blocks of zeros, and what fills them up.
const TRAILER_BYTES_MAX: u64 = 64 << 10;
/// How a file compressed with zstd begins.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

type Source = Decoder<'static, BufReader<File>>;

/// Restores what [`crate::pack`] wrote into `file`, as `home`, which must be absent or an empty folder. Blocking.
///
/// # Errors
/// Any of [`Error`]; then the home is as it was.
pub fn unpack(home: &Home, file: &Utf8Path, progress: &Progress) -> Result<Summary, Error> {
    let root = camino::absolute_utf8(home.root()).map_err(|error| Error::restore(home.root(), error))?;
    // Without a slash at its end: a name beside it is made of it.
    let root: Utf8PathBuf = root.components().collect();
    let mut archive = open(file)?;
    check_empty(&root)?;
    let staging = Staging::beside(&root)?;
    let summary = Unpacking { file, folder: &staging.folder, progress }.run(&mut archive)?;
    check_end(file, archive.into_inner())?;
    for store in STORES.map(|store| staging.folder.join(store)).iter().filter(|store| store.is_dir()) {
        let mark = store.join(RESTORED);
        File::create(&mark).map_err(|error| Error::restore(&mark, error))?;
    }
    staging.become_home(&root)?;
    Ok(summary)
}

fn open(file: &Utf8Path) -> Result<Archive<Source>, Error> {
    let opened = File::open(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoFile { file: file.to_owned() },
        _ => Error::read(file, error),
    });
    let mut opened = opened?;
    let mut magic = [0; ZSTD_MAGIC.len()];
    match opened.read_exact(&mut magic) {
        Ok(()) if magic == ZSTD_MAGIC => {}
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(Error::read(file, error)),
        _ => return Err(Error::NotABackup { file: file.to_owned() }),
    }
    let decoder = opened.rewind().and_then(|()| Decoder::new(opened));
    Ok(Archive::new(decoder.map_err(|error| Error::read(file, error))?))
}

fn check_empty(root: &Utf8Path) -> Result<(), Error> {
    let not_empty = || Error::NotEmpty { home: root.to_owned() };
    match fs::read_dir(root) {
        Ok(mut entries) => entries.next().map_or(Ok(()), |_| Err(not_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(not_empty()),
        Err(error) => Err(Error::restore(root, error)),
    }
}

/// Whether nothing but zeros follows the last entry, up to the checksum of the whole.
fn check_end(file: &Utf8Path, source: Source) -> Result<(), Error> {
    let mut rest = vec![];
    let mut source = source.take(TRAILER_BYTES_MAX + 1);
    source.read_to_end(&mut rest).map_err(|error| damaged(file, "its end cannot be read", Some(error)))?;
    if rest.len() as u64 > TRAILER_BYTES_MAX || rest.iter().any(|byte| *byte != 0) {
        return Err(damaged(file, "something follows its last entry", None));
    }
    Ok(())
}

fn damaged(file: &Utf8Path, reason: impl Into<String>, source: Option<io::Error>) -> Error {
    Error::Damaged { file: file.to_owned(), reason: reason.into(), source }
}

/// One archive on its way into a folder.
struct Unpacking<'a> {
    file: &'a Utf8Path,
    folder: &'a Utf8Path,
    progress: &'a Progress,
}

impl Unpacking<'_> {
    fn run(&self, archive: &mut Archive<Source>) -> Result<Summary, Error> {
        let mut entries =
            archive.entries().map_err(|error| self.damaged("it cannot be read", Some(error)))?;
        let summary = self.summary(&mut entries)?;
        self.progress.expect(summary.bytes);
        let mut files = vec![];
        let mut bytes = 0;
        loop {
            let mut entry = self.next(&mut entries)?.ok_or_else(|| self.damaged("it is cut off", None))?;
            let name = self.name(&entry)?;
            if name == MANIFEST {
                let manifest: Manifest = self.json(&mut entry, MANIFEST_BYTES_MAX)?;
                self.compare(&summary, &files, &manifest)?;
                break;
            }
            bytes += entry.size();
            if files.len() as u64 == summary.files || bytes > summary.bytes {
                return Err(self.damaged("it holds more than it says", None));
            }
            files.push(self.file(&mut entry, &name)?);
        }
        match self.next(&mut entries)? {
            Some(_) => Err(self.damaged("something follows its last entry", None)),
            None => Ok(summary),
        }
    }

    /// The first entry, whose version says whether the rest can be understood.
    fn summary(&self, entries: &mut Entries<'_, Source>) -> Result<Summary, Error> {
        let not_a_backup = || Error::NotABackup { file: self.file.to_owned() };
        let mut entry = self.next(entries)?.ok_or_else(not_a_backup)?;
        if self.name(&entry)? != HEADER {
            return Err(not_a_backup());
        }
        let header: serde_json::Value = self.json(&mut entry, HEADER_BYTES_MAX)?;
        let found = header.get("format").and_then(serde_json::Value::as_u64).ok_or_else(not_a_backup)?;
        if found > u64::from(FORMAT) {
            return Err(Error::Newer { file: self.file.to_owned(), found, supported: FORMAT });
        }
        serde_json::from_value(header).map_err(|error| self.damaged("its first entry", Some(error.into())))
    }

    fn next<'e>(&self, entries: &mut Entries<'e, Source>) -> Result<Option<Entry<'e, Source>>, Error> {
        let entry =
            entries.next().transpose().map_err(|error| self.damaged("it cannot be read", Some(error)))?;
        match entry {
            Some(entry) if !entry.header().entry_type().is_file() => {
                Err(self.damaged("it holds something that is no file", None))
            }
            entry => Ok(entry),
        }
    }

    fn name(&self, entry: &Entry<'_, Source>) -> Result<String, Error> {
        let name = String::from_utf8(entry.path_bytes().into_owned());
        name.map_err(|_| self.damaged("a name in it is not UTF-8", None))
    }

    fn json<T: serde::de::DeserializeOwned>(
        &self,
        entry: &mut Entry<'_, Source>,
        limit: u64,
    ) -> Result<T, Error> {
        let mut text = vec![];
        let read = entry.take(limit).read_to_end(&mut text);
        read.map_err(|error| self.damaged("it cannot be read", Some(error)))?;
        serde_json::from_slice(&text)
            .map_err(|error| self.damaged("what it says of itself", Some(error.into())))
    }

    /// Writes one file of the home.
    fn file(&self, entry: &mut Entry<'_, Source>, name: &str) -> Result<FileEntry, Error> {
        let path = path_in_home(name)
            .ok_or_else(|| self.damaged(format!("`{name}` leads out of the home"), None))?;
        let mode = entry.header().mode().map_err(|error| self.damaged("a mode", Some(error)))? & 0o777;
        let place = self.folder.join(&path);
        let failed = |error| Error::restore(&place, error);
        if let Some(parent) = place.parent() {
            make_folder(parent, true).map_err(failed)?;
        }
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&place);
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(self.damaged(format!("`{path}` stands in it twice"), None));
            }
            opened => opened.map_err(failed)?,
        };
        let expected = entry.size();
        let mut source = Hashing::new(entry, self.progress);
        let copied = io::copy(&mut source, &mut file);
        if self.progress.is_cancelled() {
            return Err(Error::Cancelled);
        }
        copied.map_err(|error| match source.has_failed {
            true => self.damaged("it cannot be read", Some(error)),
            false => failed(error),
        })?;
        if source.bytes != expected {
            return Err(self.damaged("it is cut off", None));
        }
        // The mask of this process does not count.
        file.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
        Ok(FileEntry { path: path.into_string(), bytes: source.bytes, mode, sha256: source.sha256() })
    }

    fn compare(&self, summary: &Summary, files: &[FileEntry], manifest: &Manifest) -> Result<(), Error> {
        if manifest.files.len() != files.len() || files.len() as u64 != summary.files {
            let reason = format!("it holds {} of {} files", files.len(), summary.files);
            return Err(self.damaged(reason, None));
        }
        match files.iter().zip(&manifest.files).find(|(found, written)| found != written) {
            Some((found, _)) => Err(self.damaged(format!("`{}` is not what was written", found.path), None)),
            None => Ok(()),
        }
    }

    fn damaged(&self, reason: impl Into<String>, source: Option<io::Error>) -> Error {
        damaged(self.file, reason, source)
    }
}

/// The path in the home that an entry names, if it stays there.
fn path_in_home(name: &str) -> Option<Utf8PathBuf> {
    let path = Utf8Path::new(name.strip_prefix(HOME)?);
    let stays = path.components().all(|part| matches!(part, Utf8Component::Normal(_)));
    let path: Utf8PathBuf = path.components().collect();
    (stays && !path.as_str().is_empty() && path.as_str().len() <= PATH_BYTES_MAX).then_some(path)
}

fn make_folder(folder: &Utf8Path, with_parents: bool) -> io::Result<()> {
    DirBuilder::new().recursive(with_parents).mode(FOLDER_MODE).create(folder)
}

/// The home under a name of its own until it is whole; removed if it never is.
struct Staging {
    folder: Utf8PathBuf,
    is_whole: bool,
}

impl Staging {
    fn beside(root: &Utf8Path) -> Result<Self, Error> {
        let folder = Utf8PathBuf::from(format!("{root}.restoring"));
        if let Some(parent) = root.parent() {
            make_folder(parent, true).map_err(|error| Error::restore(parent, error))?;
        }
        match make_folder(&folder, false) {
            Ok(()) => Ok(Self { folder, is_whole: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::UnderWay { folder }),
            Err(error) => Err(Error::restore(&folder, error)),
        }
    }

    /// Takes the place of the home, durably. An empty folder there is replaced; one that is no longer empty is not.
    fn become_home(mut self, root: &Utf8Path) -> Result<(), Error> {
        let failed = |error| Error::restore(root, error);
        // One call for all files: thousands of small ones would each wait for the disk.
        let folder = File::open(&self.folder).map_err(failed)?;
        rustix::fs::syncfs(&folder).map_err(|error| failed(error.into()))?;
        match fs::rename(&self.folder, root) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                return Err(Error::NotEmpty { home: root.to_owned() });
            }
            renamed => renamed.map_err(failed)?,
        }
        self.is_whole = true;
        let parent = root.parent().unwrap_or(Utf8Path::new("/"));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_whole {
            // The next restore says that it is there.
            let _ignored = fs::remove_dir_all(&self.folder);
        }
    }
}
