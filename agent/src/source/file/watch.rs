//! inotify: who changed. Files are watched by their inode, so that a watch follows a rename; directories for what appears.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use futures::FutureExt;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

use super::identity::FileId;

/// What a watch is on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Watched {
    File(FileId),
    Directory(PathBuf),
    /// A file that is not followed yet: it is looked at anew when it gets more.
    Unread,
}

/// What happened since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Files that were written or truncated.
    pub(super) files: Vec<FileId>,
    /// Names appeared or went: scan again.
    pub(super) names: bool,
    /// Events were lost: look at everything.
    pub(super) lost: bool,
}

/// The kernel's notifications.
#[derive(Debug)]
pub(super) struct Watcher {
    fd: AsyncFd<OwnedFd>,
    watches: HashMap<i32, Watched>,
    directories: HashMap<PathBuf, i32>,
    /// What links lead to, as the last scan found it.
    linked: HashSet<PathBuf>,
    /// The kernel refused a watch because there are too many.
    exhausted: bool,
}

impl Watcher {
    /// Opens the notifications. Inside a runtime.
    pub(super) fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; the descriptor is owned and never replaced, as that asks"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Self {
            fd,
            watches: HashMap::new(),
            directories: HashMap::new(),
            linked: HashSet::new(),
            exhausted: false,
        })
    }

    /// Whether some files or directories could not be watched, because the kernel's limit is reached.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Watches an open file, whatever its name will be.
    pub(super) fn file(&mut self, file: &File, id: FileId) -> io::Result<i32> {
        // The link in /proc leads to the inode, even after a rename.
        self.file_at(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), id)
    }

    /// The same for a file that is not open.
    pub(super) fn file_at(&mut self, path: &Path, id: FileId) -> io::Result<i32> {
        let watch = self.add(path, WatchFlags::MODIFY)?;
        self.watches.insert(watch, Watched::File(id));
        Ok(watch)
    }

    /// Watches a file that is not followed for its next bytes, once. Again is harmless.
    pub(super) fn unread_file(&mut self, path: &Path) -> io::Result<()> {
        let watch = self.add(path, WatchFlags::MODIFY | WatchFlags::ONESHOT)?;
        self.watches.insert(watch, Watched::Unread);
        Ok(())
    }

    /// Forgets a file.
    pub(super) fn forget(&mut self, watch: i32) {
        if self.watches.remove(&watch).is_some()
            && let Err(error) = inotify::remove_watch(self.fd.get_ref(), watch)
        {
            tracing::debug!(%error, "the watch had ended already");
        }
    }

    /// Notes what links lead to.
    pub(super) fn links(&mut self, linked: HashSet<PathBuf>) {
        self.linked = linked;
    }

    /// Watches a directory for names that appear and go. Again is harmless.
    pub(super) fn directory(&mut self, path: &Path) -> io::Result<()> {
        if self.directories.contains_key(path) {
            return Ok(());
        }
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let watch = self.add(path, flags)?;
        self.watches.insert(watch, Watched::Directory(path.to_owned()));
        self.directories.insert(path.to_owned(), watch);
        Ok(())
    }

    fn add(&mut self, path: &Path, flags: WatchFlags) -> io::Result<i32> {
        let added = inotify::add_watch(self.fd.get_ref(), path, flags);
        self.exhausted |= added == Err(rustix::io::Errno::NOSPC);
        Ok(added?)
    }

    /// Waits until something happened. Cancel-safe.
    pub(super) async fn changed(&self) {
        if self.fd.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes what happened. Never waits. `is_meant` tells the names that matter.
    pub(super) fn take(&mut self, is_meant: impl Fn(&Path) -> bool) -> Changes {
        let mut changes = Changes::default();
        // Readiness is taken before reading and cleared after: an event in between sets it again.
        let guard = self.fd.readable().now_or_never();
        let mut space = [MaybeUninit::uninit(); 16 << 10];
        let (mut ended, mut moved) = (Vec::new(), Vec::new());
        {
            let mut reader = Reader::new(self.fd.get_ref(), &mut space);
            while let Ok(event) = reader.next() {
                let flags = event.events();
                changes.lost |= flags.contains(ReadFlags::QUEUE_OVERFLOW);
                if flags.contains(ReadFlags::IGNORED) {
                    ended.push(event.wd());
                }
                if flags.contains(ReadFlags::MOVE_SELF) {
                    moved.push(event.wd());
                }
                match self.watches.get(&event.wd()) {
                    Some(Watched::File(id)) if changes.files.last() != Some(id) => changes.files.push(*id),
                    Some(Watched::File(_)) | None => {}
                    Some(Watched::Unread) => changes.names = true,
                    Some(Watched::Directory(directory)) if !changes.names => {
                        let name = event.file_name().map(|name| std::ffi::OsStr::from_bytes(name.to_bytes()));
                        changes.names = flags.contains(ReadFlags::ISDIR)
                            || name.is_none_or(|name| {
                                let path = directory.join(name);
                                is_meant(&path) || self.linked.contains(&path)
                            });
                    }
                    Some(Watched::Directory(_)) => {}
                }
            }
        }
        if let Some(Ok(mut guard)) = guard {
            guard.clear_ready();
        }
        for watch in moved {
            // It is somewhere else now, with all below it; what stands at these paths is watched anew by the next scan.
            let Some(Watched::Directory(path)) = self.watches.get(&watch) else { continue };
            let below = self.directories.iter().filter(|(other, _)| other.starts_with(path));
            ended.extend(below.map(|(_, watch)| *watch));
        }
        for watch in ended {
            if let Some(Watched::Directory(path)) = self.watches.remove(&watch) {
                if self.directories.get(&path) == Some(&watch) {
                    self.directories.remove(&path);
                }
                if let Err(error) = inotify::remove_watch(self.fd.get_ref(), watch) {
                    tracing::debug!(%error, "the watch had ended already");
                }
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_names_that_are_meant_ask_for_a_scan() {
        let dir = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::new().unwrap();
        watcher.directory(dir.path()).unwrap();
        let is_meant = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
        std::fs::write(dir.path().join("a.tmp"), "x").unwrap();
        watcher.changed().await;
        assert_eq!(watcher.take(is_meant), Changes::default());
        std::fs::write(dir.path().join("a.log"), "x").unwrap();
        watcher.changed().await;
        assert!(watcher.take(is_meant).names);
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        watcher.changed().await;
        assert!(watcher.take(is_meant).names);
        watcher.links(HashSet::from([dir.path().join("a.tmp")]));
        std::fs::remove_file(dir.path().join("a.tmp")).unwrap();
        watcher.changed().await;
        assert!(watcher.take(is_meant).names);
    }
}
