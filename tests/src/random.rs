//! A seeded generator (SplitMix64): the seed is printed, and `AAP_TEST_SEED` replays it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Random numbers of one test.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From `AAP_TEST_SEED`, else from the time; says which.
    pub fn of_test(name: &str) -> Self {
        let seed =
            std::env::var("AAP_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
                SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
            });
        eprintln!("{name}: AAP_TEST_SEED={seed}");
        Self(seed)
    }

    /// With a given seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    /// A duration in milliseconds between the two.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}
