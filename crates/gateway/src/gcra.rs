//! The decision: may one more be taken now, and what is left.

use std::time::Duration;

use crate::Rate;

/// What became of taking one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// What may be taken at once after a pause.
    pub limit: u32,
    /// What may be taken now.
    pub remaining: u32,
    /// After how long all of it may be taken again.
    pub reset: Duration,
    /// After how long one may be taken, where none was.
    pub retry_after: Option<Duration>,
}

impl Taken {
    /// Whether it was taken.
    pub fn is_allowed(&self) -> bool {
        self.retry_after.is_none()
    }

    /// From what an implementation that counts in nanoseconds of its own clock has found: how far ahead of now a key is paid for, with
    /// what was taken, or without it where nothing was.
    pub fn of(rate: Rate, ahead_ns: u64, is_allowed: bool) -> Self {
        let (interval, window) = (rate.interval_ns(), rate.window_ns());
        let reset = Duration::from_nanos(ahead_ns);
        if is_allowed {
            let remaining = u32::try_from(window.saturating_sub(ahead_ns) / interval).unwrap_or(u32::MAX);
            return Self { limit: rate.burst(), remaining, reset, retry_after: None };
        }
        let wait = (ahead_ns + interval).saturating_sub(window).max(1);
        Self { limit: rate.burst(), remaining: 0, reset, retry_after: Some(Duration::from_nanos(wait)) }
    }
}

/// Takes one at `now_ns` of a key that is paid for until `paid_ns`; says until when it is paid for afterwards.
pub(crate) fn take(rate: Rate, paid_ns: u64, now_ns: u64) -> (Taken, u64) {
    let paid = paid_ns.max(now_ns);
    let next = paid + rate.interval_ns();
    match next - now_ns <= rate.window_ns() {
        true => (Taken::of(rate, next - now_ns, true), next),
        false => (Taken::of(rate, paid - now_ns, false), paid),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{TestError, TestRunner};

    use super::*;

    type Take = fn(Rate, u64, u64) -> (Taken, u64);

    /// A bucket of time: a full one holds the window, each that is taken costs the interval, and it fills by itself.
    struct Bucket {
        rate: Rate,
        level: u64,
        at: u64,
    }

    impl Bucket {
        fn full(rate: Rate) -> Self {
            Self { rate, level: rate.window_ns(), at: 0 }
        }

        fn take(&mut self, now: u64) -> Taken {
            let (interval, window) = (self.rate.interval_ns(), self.rate.window_ns());
            self.level = window.min(self.level + (now - self.at));
            self.at = now;
            let lacks = interval.saturating_sub(self.level);
            if lacks == 0 {
                self.level -= interval;
            }
            Taken {
                limit: self.rate.burst(),
                remaining: u32::try_from(self.level / interval).unwrap(),
                reset: Duration::from_nanos(window - self.level),
                retry_after: (lacks > 0).then(|| Duration::from_nanos(lacks)),
            }
        }
    }

    /// Pauses between attempts: some of them none, some about an interval, some longer than a window.
    fn attempts() -> impl Strategy<Value = (Rate, Vec<u64>)> {
        let rate = (1_u32..=20, 1_u32..=6).prop_map(|(times, burst)| Rate::per_second(times, burst));
        rate.prop_flat_map(|rate| {
            let interval = rate.interval_ns();
            let pause = prop_oneof![
                3 => Just(0),
                3 => 0..=2 * interval,
                1 => Just(interval),
                1 => 0..=3 * rate.window_ns(),
            ];
            (Just(rate), prop::collection::vec(pause, 1..80))
        })
    }

    fn agrees(take: Take) -> Result<(), TestError<(Rate, Vec<u64>)>> {
        // Mutants must fail, and nobody needs to see with what.
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
        TestRunner::new(config).run(&attempts(), |(rate, pauses)| {
            let (mut bucket, mut paid, mut now) = (Bucket::full(rate), 0, 0);
            for pause in pauses {
                now += pause;
                let (taken, next) = take(rate, paid, now);
                prop_assert_eq!(taken, bucket.take(now));
                paid = next;
            }
            Ok(())
        })
    }

    #[test]
    fn it_decides_and_says_what_a_bucket_would() {
        agrees(take).unwrap();
    }

    #[test]
    fn the_comparison_notices_a_limiter_that_saves_up_or_lets_one_too_many_through() {
        let saves_up: Take = |rate, paid, now| {
            let (taken, _) = take(rate, paid, now);
            (taken, if taken.is_allowed() { paid + rate.interval_ns() } else { paid })
        };
        let one_more: Take = |rate, paid, now| {
            let larger = Rate::per_second(
                u32::try_from(1_000_000_000 / rate.interval_ns()).unwrap(),
                rate.burst() + 1,
            );
            let (taken, next) = take(larger, paid, now);
            (Taken { limit: rate.burst(), ..taken }, next)
        };
        let charges_refusals: Take = |rate, paid, now| {
            let (taken, next) = take(rate, paid, now);
            (taken, if taken.is_allowed() { next } else { next + rate.interval_ns() })
        };
        for mutant in [saves_up, one_more, charges_refusals] {
            assert!(matches!(agrees(mutant), Err(TestError::Fail(..))));
        }
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_has_more_than_the_burst_and_what_the_rate_adds((rate, pauses) in attempts()) {
            let (mut paid, mut now, mut granted) = (0, 0, vec![]);
            for pause in pauses {
                now += pause;
                let (taken, next) = take(rate, paid, now);
                paid = next;
                if taken.is_allowed() {
                    granted.push(now);
                }
            }
            for (first, since) in granted.iter().enumerate() {
                for (last, until) in granted.iter().enumerate().skip(first) {
                    let count = (last - first + 1) as u64;
                    prop_assert!(count <= u64::from(rate.burst()) + (until - since) / rate.interval_ns());
                }
            }
        }

        #[test]
        fn whoever_waits_as_long_as_they_are_told_is_served_and_a_nanosecond_earlier_is_not((rate, pauses) in attempts()) {
            let (mut paid, mut now) = (0, 0);
            for pause in pauses {
                now += pause;
                let (taken, next) = take(rate, paid, now);
                paid = next;
                if let Some(wait) = taken.retry_after {
                    let wait = u64::try_from(wait.as_nanos()).unwrap();
                    prop_assert!(take(rate, paid, now + wait).0.is_allowed());
                    prop_assert!(!take(rate, paid, now + wait - 1).0.is_allowed());
                }
            }
        }
    }
}
