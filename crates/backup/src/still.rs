//! The locks that keep a home still.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use camino::Utf8Path;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::Error;

/// Locks of a home, each taken by whoever works on it: the supervisor, the agent, the coordinator.
const LOCKS: [&str; 3] = ["run/up.lock", "agent/buffer/LOCK", "coordinator/landing/LOCK"];

/// Held while a home is packed. The kernel lets go of them when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Still {
    _locks: Vec<File>,
}

impl Still {
    /// Takes every lock of the home at `root`.
    ///
    /// # Errors
    /// [`Error::Running`] if somebody else has one.
    pub(crate) fn take(root: &Utf8Path) -> Result<Self, Error> {
        let mut locks = vec![];
        for path in LOCKS.map(|lock| root.join(lock)) {
            if !path.parent().is_some_and(Utf8Path::is_dir) {
                // Nothing that could be opened.
                continue;
            }
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = file.map_err(|error| Error::read(&path, error))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => locks.push(file),
                Err(Errno::WOULDBLOCK) => return Err(Error::Running { home: root.to_owned(), lock: path }),
                Err(error) => return Err(Error::read(&path, error.into())),
            }
        }
        Ok(Self { _locks: locks })
    }
}
