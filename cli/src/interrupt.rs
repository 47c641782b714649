//! Ctrl-C and SIGTERM, for commands that have something to finish first.

use aap_types::{ExitCode, Problem};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Takes the signals over from now on.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interrupts {
    pub(crate) fn new() -> Result<Self, Problem> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Problem::new("cli.signals", ExitCode::Failed, "signals cannot be received").caused_by(&error)
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next request to stop, as the exit code it stands for. Cancel-safe.
    pub(crate) async fn next(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.interrupt.recv() => ExitCode::Interrupted,
            _ = self.terminate.recv() => ExitCode::Terminated,
            _ = self.hangup.recv() => ExitCode::Terminated,
        }
    }
}
