//! A home into a file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use aap_runtime::{Clock, Home};
use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use serde::Deserialize;
use tar::{Builder, EntryType};
use zstd::stream::write::Encoder;

use crate::contents::{self, Item};
use crate::form::{FORMAT, FileEntry, HEADER, HOME, MANIFEST, Manifest};
use crate::progress::Hashing;
use crate::still::Still;
use crate::{Error, Progress, Summary};

/// Most of a home is compressed already; a higher level only takes longer.
const LEVEL: i32 = 3;
/// What is written at a time.
const WRITE_BYTES: usize = 256 << 10;
/// Only the owner reads it: it holds private keys.
const FILE_MODE: u32 = 0o600;

type Archive = Builder<Encoder<'static, BufWriter<File>>>;

/// Packs the platform of `home`, which must stand still, into `file`, which must not be there. `aap_version` is the
/// program's own. Blocking.
///
/// # Errors
/// Any of [`Error`]; then there is no `file`, and nothing left of it.
pub fn pack(
    home: &Home,
    file: &Utf8Path,
    aap_version: &str,
    clock: &dyn Clock,
    progress: &Progress,
) -> Result<Summary, Error> {
    let no_platform = || Error::NoPlatform { home: home.root().to_owned() };
    let root = home.root().canonicalize_utf8().map_err(|_| no_platform())?;
    let file = place(file, &root)?;
    let _still = Still::take(&root)?;
    if has_metadata_elsewhere(home) {
        return Err(Error::MetadataElsewhere { home: root });
    }
    let items = contents::of(&root)?;
    if items.is_empty() {
        return Err(no_platform());
    }
    let summary = Summary {
        format: FORMAT,
        aap_version: aap_version.to_owned(),
        created: Timestamp::from_microsecond(clock.unix_us()).unwrap_or_default(),
        files: items.len() as u64,
        bytes: items.iter().map(|item| item.bytes).sum(),
    };
    progress.expect(summary.bytes);
    let draft = Draft::beside(&file)?;
    write(&draft, &root, &items, &summary, progress)?;
    draft.become_file(&file)?;
    Ok(summary)
}

/// Where the file will lie, as an absolute path whose folder is there.
fn place(file: &Utf8Path, root: &Utf8Path) -> Result<Utf8PathBuf, Error> {
    let name = file.file_name().ok_or_else(|| Error::write(file, io::ErrorKind::InvalidInput.into()))?;
    let parent = file.parent().filter(|parent| !parent.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let parent = parent.canonicalize_utf8().map_err(|error| Error::write(file, error))?;
    let file = parent.join(name);
    if file.starts_with(root) {
        return Err(Error::WithinHome { file, home: root.to_owned() });
    }
    match file.symlink_metadata() {
        Ok(_) => Err(Error::FileExists { file }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(file),
        Err(error) => Err(Error::write(&file, error)),
    }
}

/// Whether the configuration of the coordinator puts the metadata into a server: of another moment than the home would be.
fn has_metadata_elsewhere(home: &Home) -> bool {
    #[derive(Deserialize)]
    struct Document {
        spec: Option<Spec>,
    }
    #[derive(Deserialize)]
    struct Spec {
        metadata: Option<Metadata>,
    }
    #[derive(Deserialize)]
    struct Metadata {
        postgres: Option<serde::de::IgnoredAny>,
    }
    let text = std::fs::read_to_string(home.config().join("coordinator.yaml")).unwrap_or_default();
    let mut documents =
        serde_norway::Deserializer::from_str(&text).filter_map(|text| Document::deserialize(text).ok());
    documents.any(|document| {
        document.spec.and_then(|spec| spec.metadata).is_some_and(|metadata| metadata.postgres.is_some())
    })
}

fn write(
    draft: &Draft,
    root: &Utf8Path,
    items: &[Item],
    summary: &Summary,
    progress: &Progress,
) -> Result<(), Error> {
    let failed = |error| Error::write(&draft.path, error);
    let file = draft.file.try_clone().map_err(failed)?;
    let mut encoder = Encoder::new(BufWriter::with_capacity(WRITE_BYTES, file), LEVEL).map_err(failed)?;
    encoder.include_checksum(true).map_err(failed)?;
    let mut archive = Builder::new(encoder);
    append_json(&mut archive, HEADER, summary).map_err(failed)?;
    let mut files = Vec::with_capacity(items.len());
    for item in items {
        files.push(append(&mut archive, draft, root, item, progress)?);
    }
    append_json(&mut archive, MANIFEST, &Manifest { files }).map_err(failed)?;
    let mut written = archive.into_inner().and_then(Encoder::finish).map_err(failed)?;
    written.flush().map_err(failed)
}

fn append(
    archive: &mut Archive,
    draft: &Draft,
    root: &Utf8Path,
    item: &Item,
    progress: &Progress,
) -> Result<FileEntry, Error> {
    let path = root.join(&item.path);
    let file = File::open(&path).map_err(|error| Error::read(&path, error))?;
    // What it grew by meanwhile is not read; its length tells.
    let mut source = Hashing::new((&file).take(item.bytes), progress);
    let mut header = header(item.bytes, item.mode, item.modified);
    let appended = archive.append_data(&mut header, format!("{HOME}{}", item.path), &mut source);
    if progress.is_cancelled() {
        return Err(Error::Cancelled);
    }
    appended.map_err(|error| match source.has_failed {
        true => Error::read(&path, error),
        false => Error::write(&draft.path, error),
    })?;
    let length = file.metadata().map_err(|error| Error::read(&path, error))?.len();
    if source.bytes != item.bytes || length != item.bytes {
        return Err(Error::Changed { path });
    }
    Ok(FileEntry { path: item.path.to_string(), bytes: item.bytes, mode: item.mode, sha256: source.sha256() })
}

fn append_json(archive: &mut Archive, name: &str, content: &impl serde::Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(content)?;
    archive.append_data(&mut header(text.len() as u64, FILE_MODE, 0), name, text.as_slice())
}

fn header(bytes: u64, mode: u32, modified: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes);
    header.set_mode(mode);
    header.set_mtime(modified);
    header
}

/// The file under a name of its own until it is whole; removed if it never is.
struct Draft {
    path: Utf8PathBuf,
    file: File,
    is_whole: bool,
}

impl Draft {
    fn beside(file: &Utf8Path) -> Result<Self, Error> {
        let path = Utf8PathBuf::from(format!("{file}.tmp.{}", std::process::id()));
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&path);
        Ok(Self { file: file.map_err(|error| Error::write(&path, error))?, path, is_whole: false })
    }

    fn become_file(mut self, file: &Utf8Path) -> Result<(), Error> {
        let failed = |error| Error::write(file, error);
        self.file.sync_all().map_err(failed)?;
        std::fs::rename(&self.path, file).map_err(failed)?;
        self.is_whole = true;
        let parent = file.parent().unwrap_or(Utf8Path::new("/"));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_whole {
            // What is left has a name that says that it is a draft.
            let _ignored = std::fs::remove_file(&self.path);
        }
    }
}
