//! inotify: who changed. Files are watched by their inode, so that a watch follows a rename; directories for what appears.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use futures::FutureExt;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

/// What a watch is on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Watched {
    File((u64, u64)),
    Directory(PathBuf),
    /// A file without content: it is looked at anew when it gets some.
    Empty,
}

/// What happened since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Files that were written or truncated.
    pub(super) files: Vec<(u64, u64)>,
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
        Ok(Self { fd, watches: HashMap::new(), directories: HashMap::new() })
    }

    /// Watches an open file, whatever its name will be.
    pub(super) fn file(&mut self, file: &File, id: (u64, u64)) -> io::Result<i32> {
        // The link in /proc leads to the inode, even after a rename.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let watch = inotify::add_watch(self.fd.get_ref(), path, WatchFlags::MODIFY)?;
        self.watches.insert(watch, Watched::File(id));
        Ok(watch)
    }

    /// Watches a file without content for its first bytes, once. Again is harmless.
    pub(super) fn empty_file(&mut self, file: &File) -> io::Result<()> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let watch = inotify::add_watch(self.fd.get_ref(), path, WatchFlags::MODIFY | WatchFlags::ONESHOT)?;
        self.watches.insert(watch, Watched::Empty);
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
        let watch = inotify::add_watch(self.fd.get_ref(), path, flags)?;
        self.watches.insert(watch, Watched::Directory(path.to_owned()));
        self.directories.insert(path.to_owned(), watch);
        Ok(())
    }

    /// Waits until something happened. Cancel-safe.
    pub(super) async fn changed(&self) {
        if self.fd.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes what happened. Never waits.
    pub(super) fn take(&mut self) -> Changes {
        let mut changes = Changes::default();
        // Readiness is taken before reading and cleared after: an event in between sets it again.
        let guard = self.fd.readable().now_or_never();
        let mut space = [MaybeUninit::uninit(); 16 << 10];
        let mut ended = Vec::new();
        {
            let mut reader = Reader::new(self.fd.get_ref(), &mut space);
            while let Ok(event) = reader.next() {
                if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                    changes.lost = true;
                }
                if event.events().contains(ReadFlags::IGNORED) {
                    ended.push(event.wd());
                }
                match self.watches.get(&event.wd()) {
                    Some(Watched::File(id)) if changes.files.last() != Some(id) => changes.files.push(*id),
                    Some(Watched::File(_)) => {}
                    Some(Watched::Directory(_) | Watched::Empty) => changes.names = true,
                    None => {}
                }
            }
        }
        if let Some(Ok(mut guard)) = guard {
            guard.clear_ready();
        }
        for watch in ended {
            if let Some(Watched::Directory(path)) = self.watches.remove(&watch) {
                self.directories.remove(&path);
            }
        }
        changes
    }
}
