//! Small files of whoever types: folders that nobody else may enter, files that may be gone already.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;

use camino::Utf8Path;

/// Makes a folder, and those above that are missing, for its owner alone.
pub(crate) fn make_private(folder: &Utf8Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Removes a file; whether it was there.
pub(crate) fn remove(path: &Utf8Path) -> io::Result<bool> {
    found(std::fs::remove_file(path)).map(|removed| removed.is_some())
}

/// What is not there is no error.
pub(crate) fn found<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
