//! The request to stop.

use tokio_util::sync::CancellationToken;

/// Cheap to clone; all clones see the same request. A child stops with its parent, not the other way round.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A request that SIGTERM or SIGINT makes. Call once, in `main`, inside the runtime.
    pub fn on_signals() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let shutdown = Self::default();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let requested = shutdown.clone();
        #[expect(clippy::disallowed_methods, reason = "lives as long as the process; nobody waits for it")]
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            requested.request();
        });
        Ok(shutdown)
    }

    /// Asks everyone to stop.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Whether it was asked.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits for the request. Cancel-safe.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// A request of its own that this one also triggers.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token() }
    }
}
