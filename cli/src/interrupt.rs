//! Ctrl-C and SIGTERM, for commands that have something to finish first.

use aap_types::{ExitCode, Problem};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Takes the signals over from now on.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where whoever started us wants it ignored, as `nohup` does.
    hangup: Option<Signal>,
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
            hangup: if hangup_is_ignored() { None } else { Some(listen(SignalKind::hangup())?) },
        })
    }

    /// The next request to stop, as the exit code it stands for. Cancel-safe.
    pub(crate) async fn next(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.interrupt.recv() => ExitCode::Interrupted,
            _ = self.terminate.recv() => ExitCode::Terminated,
            () = hung_up(&mut self.hangup) => ExitCode::Terminated,
        }
    }
}

async fn hung_up(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether SIGHUP was ignored when this program started.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
