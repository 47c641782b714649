//! Waiting for a condition with a deadline.

use std::time::{Duration, Instant};

/// How long a test waits for what should come soon, on a machine that does other things beside.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Whether `condition` came true within `deadline`.
pub fn wait_until(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if began.elapsed() > deadline {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The first answer of `look` that is something, within [`PATIENCE`].
///
/// # Panics
/// If none came: `what` says what was waited for.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    let came = wait_until(PATIENCE, || {
        found = look();
        found.is_some()
    });
    assert!(came, "waited {PATIENCE:?} in vain: {what}");
    found.unwrap()
}
