//! What of a home belongs into a backup: everything that outlives a run.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;

use aap_runtime::RESTORED;
use camino::{Utf8Path, Utf8PathBuf};

use crate::Error;
use crate::form::{FILES_MAX, PATH_BYTES_MAX};

/// Folders of the home that belong to one run: scratch, and what daemons said.
const FOLDERS_OF_A_RUN: [&str; 2] = ["tmp", "log"];
/// The folder with process ids, sockets and endpoints, and what in it is no such thing.
const RUN: &str = "run";
const TOKEN: &str = "run/operator.token";
/// Files that a store makes again when it is opened.
const MADE_AGAIN: [&str; 4] = ["LOCK", "reserve", "meta.db-shm", RESTORED];

/// One file of the home.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Within the home.
    pub(crate) path: Utf8PathBuf,
    pub(crate) bytes: u64,
    /// Permissions.
    pub(crate) mode: u32,
    /// Seconds since 1970, for whoever lists the archive.
    pub(crate) modified: u64,
}

/// The files of the home at `root`, sorted by path.
///
/// # Errors
/// Links are refused: what they lead to would be missing, or stand there twice.
pub(crate) fn of(root: &Utf8Path) -> Result<Vec<Item>, Error> {
    let mut items = vec![];
    let mut folders = vec![Utf8PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let full = root.join(&folder);
        let entries = full.read_dir_utf8().map_err(|error| Error::read(&full, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| Error::read(&full, error))?;
            let path = folder.join(entry.file_name());
            let metadata = entry.metadata().map_err(|error| Error::read(entry.path(), error))?;
            if metadata.is_symlink() {
                return Err(Error::Link { path: entry.path().to_owned() });
            }
            if metadata.is_dir() && !FOLDERS_OF_A_RUN.contains(&path.as_str()) {
                folders.push(path);
            } else if metadata.is_file() && !is_of_a_run(&path) {
                items.push(item(path, &metadata)?);
            }
        }
        if items.len() as u64 > FILES_MAX {
            return Err(Error::TooManyFiles { limit: FILES_MAX });
        }
    }
    items.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(items)
}

fn item(path: Utf8PathBuf, metadata: &Metadata) -> Result<Item, Error> {
    if path.as_str().len() > PATH_BYTES_MAX {
        return Err(Error::read(&path, std::io::Error::other("the path is too long")));
    }
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(Item {
        path,
        bytes: metadata.len(),
        mode: metadata.permissions().mode() & 0o777,
        modified: modified.unwrap_or_default().as_secs(),
    })
}

/// Whether the file belongs to one run, or is a draft that a crash left.
fn is_of_a_run(path: &Utf8Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    (path.starts_with(RUN) && path != TOKEN)
        || MADE_AGAIN.contains(&name)
        || name.ends_with(".tmp")
        || name.contains(".tmp.")
}
