//! The only way to the time, so that tests can own it.

#![expect(clippy::disallowed_methods, reason = "this is the one place that asks the system for the time")]

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall and monotonic time. The wall clock never orders, expires or deduplicates data.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Wall clock, microseconds since 1970-01-01 UTC.
    fn unix_us(&self) -> i64;
    /// Time since an arbitrary fixed moment; never goes back.
    fn monotonic(&self) -> Duration;

    /// Wall clock, milliseconds since 1970-01-01 UTC.
    fn unix_ms(&self) -> u64 {
        u64::try_from(self.unix_us() / 1000).unwrap_or(0)
    }
}

/// The system's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn unix_us(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    us: AtomicU64,
}

impl ManualClock {
    /// Starts at `unix_ms`.
    pub fn at(unix_ms: u64) -> Self {
        Self { us: AtomicU64::new(unix_ms * 1000) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.us.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn unix_us(&self) -> i64 {
        i64::try_from(self.us.load(Ordering::SeqCst)).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.us.load(Ordering::SeqCst))
    }
}
