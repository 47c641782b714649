//! The first welcome after a start: until it came, or for a while, nothing is read that may have been read before.
//!
//! A store that was lost or rolled back does not know how far its sources were read; the coordinator does, and says so in
//! its welcome. A node must work without a coordinator, too, so nobody waits for long.

use std::time::Duration;

use tokio::sync::watch;

/// A new store may stand in the place of a lost one: worth waiting for a coordinator that starts beside it.
const PATIENCE_NEW: Duration = Duration::from_secs(5);
/// A store that was there before may have been rolled back. A coordinator that runs answers in some ten milliseconds.
const PATIENCE_KNOWN: Duration = Duration::from_secs(1);

/// What the uplink tells the sources. Both halves share one.
#[derive(Debug)]
pub struct FirstWelcome {
    /// Whether sources may read.
    settled: watch::Sender<bool>,
    /// How often positions came back while sources were reading.
    adopted: watch::Sender<u64>,
}

impl Default for FirstWelcome {
    fn default() -> Self {
        Self { settled: watch::Sender::new(false), adopted: watch::Sender::new(0) }
    }
}

impl FirstWelcome {
    /// A session begins, and what its welcome says is done.
    pub fn came(&self) {
        self.settled.send_replace(true);
    }

    /// Positions came back from the ledger: who reads already must look at them.
    pub fn adopted(&self) {
        if *self.settled.borrow() {
            self.adopted.send_modify(|count| *count += 1);
        }
    }

    /// Changes when positions came back while sources were reading.
    pub fn adoptions(&self) -> watch::Receiver<u64> {
        self.adopted.subscribe()
    }

    /// Waits for the first welcome, for a while. Afterwards sources read, whether it came or not.
    pub async fn wait(&self, store_is_new: bool) {
        let patience = if store_is_new { PATIENCE_NEW } else { PATIENCE_KNOWN };
        if tokio::time::timeout(patience, self.settled()).await.is_err() {
            tracing::info!(?patience, "no word from the coordinator; sources begin without it");
        }
        self.came();
    }

    /// Returns when sources may read. Cancel-safe.
    pub async fn settled(&self) {
        // The sender is `self`: it cannot be gone.
        drop(self.settled.subscribe().wait_for(|settled| *settled).await);
    }
}
