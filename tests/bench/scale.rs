//! How large the measurements are: full, or with `AAP_BENCH_QUICK` small enough for a quarter of an hour on two cores.

use std::time::Duration;

/// Sizes of all measurements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Input of one throughput run.
    pub(crate) bytes: u64,
    /// Runs of which the median counts.
    pub(crate) runs: usize,
    /// How long a paced load lasts.
    pub(crate) load: Duration,
    /// How long the coordinator stays away.
    pub(crate) outage: Duration,
    /// Bytes stored before the kill that recovery follows.
    pub(crate) stored: u64,
    /// Rows of the node's history.
    pub(crate) history_rows: u64,
    /// How long a lossy link is watched, each time.
    pub(crate) lossy: Duration,
}

impl Scale {
    /// As the environment wants it.
    pub(crate) fn wanted() -> Self {
        if std::env::var_os("AAP_BENCH_QUICK").is_some() { Self::quick() } else { Self::full() }
    }

    fn full() -> Self {
        Self {
            bytes: 1 << 30,
            runs: 5,
            load: Duration::from_secs(30),
            outage: Duration::from_secs(180),
            stored: 1_000_000_000,
            history_rows: 10_000_000,
            lossy: Duration::from_secs(25),
        }
    }

    fn quick() -> Self {
        Self {
            bytes: 384 << 20,
            runs: 3,
            load: Duration::from_secs(10),
            outage: Duration::from_secs(60),
            stored: 300_000_000,
            history_rows: 10_000_000,
            lossy: Duration::from_secs(15),
        }
    }
}
