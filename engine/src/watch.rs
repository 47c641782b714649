//! The two threads that end a query which does not end by itself.
//!
//! The daemon's death is seen by the end of stdin. `PR_SET_PDEATHSIG` would not do: it fires when the *thread* that
//! spawned us ends, and the daemon's threads come and go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use duckdb::InterruptHandle;

use crate::input::Input;

/// What DuckDB gets to stop by itself after an interrupt. The daemon kills us at about the same time.
const GRACE: Duration = Duration::from_millis(400);
/// Interrupts are repeated, because one that falls between two queries is lost.
const REPEAT: Duration = Duration::from_millis(50);

/// Tells whether the deadline has passed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deadline {
    passed: Arc<AtomicBool>,
}

impl Deadline {
    pub(crate) fn has_passed(&self) -> bool {
        self.passed.load(Ordering::SeqCst)
    }
}

/// Starts both. Call after the sandbox is in place, so that they are inside it.
pub(crate) fn start(
    input: Input,
    deadline_ms: u64,
    interrupt: Arc<InterruptHandle>,
) -> std::io::Result<Deadline> {
    thread::Builder::new().name("stdin".into()).stack_size(256 << 10).spawn(move || {
        input.wait_for_close();
        end_now();
    })?;
    let deadline = Deadline::default();
    let passed = deadline.passed.clone();
    thread::Builder::new().name("deadline".into()).stack_size(256 << 10).spawn(move || {
        wait(Duration::from_millis(deadline_ms));
        passed.store(true, Ordering::SeqCst);
        let repeats = GRACE.as_millis() / REPEAT.as_millis();
        for _ in 0..repeats {
            interrupt.interrupt();
            wait(REPEAT);
        }
        end_now();
    })?;
    Ok(deadline)
}

/// Ends the process without running destructors: other threads may be deep inside DuckDB.
pub(crate) fn end_now() -> ! {
    // SAFETY: `_exit` takes any status and does not return.
    #[expect(unsafe_code, reason = "std has no exit without destructors")]
    unsafe {
        libc::_exit(3)
    }
}

/// Waits on a condition that nobody signals.
fn wait(time: Duration) {
    let (lock, never) = (Mutex::new(()), Condvar::new());
    let Ok(guard) = lock.lock() else { return };
    let waited = never.wait_timeout_while(guard, time, |()| true);
    drop(waited);
}
