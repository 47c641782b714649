//! Whether this node takes new rows. An operator says so at the coordinator; the node writes it down, so that it stays drained over
//! restarts, with or without a coordinator.
//!
//! ```text
//! draining   sources that are asked refuse, for now; those that read stop, and what they have read still gets into the buffer
//! quiet      nothing is on its way into the buffer any more
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aap_runtime::{Home, write_durably};
use camino::Utf8PathBuf;
use tokio::sync::watch;

/// The one word of it. Its clones are made by [`Arc`].
#[derive(Debug)]
pub struct Drain {
    /// Is there while the node drains.
    marker: Option<Utf8PathBuf>,
    draining: watch::Sender<bool>,
    /// What may still put rows into the buffer: running sources, and appends under way.
    taking: AtomicUsize,
}

/// Something that may put rows into the buffer, until it is dropped.
#[derive(Debug)]
pub struct Taking(Arc<Drain>);

impl Drop for Taking {
    fn drop(&mut self) {
        self.0.taking.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Default for Drain {
    /// Remembered nowhere.
    fn default() -> Self {
        Self { marker: None, draining: watch::Sender::new(false), taking: AtomicUsize::new(0) }
    }
}

impl Drain {
    /// As the node of this home remembers it.
    pub fn of(home: &Home) -> Self {
        let marker = home.agent().join("draining");
        let draining = watch::Sender::new(marker.exists());
        Self { marker: Some(marker), draining, taking: AtomicUsize::new(0) }
    }

    /// Whether new rows are refused.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Whether new rows are refused, and none are on their way into the buffer.
    pub fn is_quiet(&self) -> bool {
        self.is_draining() && self.taking.load(Ordering::Acquire) == 0
    }

    /// Changes whenever an operator says something else.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Counts something that may put rows into the buffer.
    pub fn taking(self: &Arc<Self>) -> Taking {
        self.taking.fetch_add(1, Ordering::AcqRel);
        Taking(self.clone())
    }

    /// Remembers what an operator says, and follows it: some milliseconds of a disk, where it is something new.
    pub async fn follow(self: &Arc<Self>, draining: bool) {
        if self.is_draining() == draining {
            return;
        }
        let drain = self.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || drain.set(draining)).await {
            tracing::warn!(%error, draining, "what an operator decided is forgotten at the next start");
        }
    }

    /// The same, blocking.
    ///
    /// # Errors
    /// It cannot be written down; then it counts until the next start.
    fn set(&self, draining: bool) -> std::io::Result<()> {
        if self.is_draining() == draining {
            return Ok(());
        }
        let written = match &self.marker {
            Some(marker) if draining => write_durably(marker, b"", 0o600),
            Some(marker) => std::fs::remove_file(marker),
            None => Ok(()),
        };
        tracing::info!(draining, "an operator decided whether this node takes new rows");
        self.draining.send_replace(draining);
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_remembered_and_quiet_only_when_nothing_is_on_its_way() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().to_str().unwrap());
        std::fs::create_dir_all(home.agent()).unwrap();
        let drain = Arc::new(Drain::of(&home));
        assert!(!drain.is_draining());
        let under_way = drain.taking();
        drain.set(true).unwrap();
        assert!(drain.is_draining() && !drain.is_quiet());
        drop(under_way);
        assert!(drain.is_quiet());
        assert!(Drain::of(&home).is_draining(), "after a restart");
        drain.set(false).unwrap();
        drain.set(false).unwrap();
        assert!(!Drain::of(&home).is_draining());
    }
}
