//! Whether an upstream is asked: closed, open, half open.

use std::time::Duration;

/// Counts failures in a row. Time is monotonic, and given.
#[derive(Debug)]
pub struct Breaker {
    failures_max: u32,
    rest: Duration,
    /// Whether a trial is left to a probe.
    is_probed: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is asked; so many failures in a row.
    Closed { failures: u32 },
    /// It is left alone until then.
    Open { until: Duration },
    /// One request tries it, and until then no other: its answer may never be told.
    HalfOpen { until: Duration },
}

impl Breaker {
    /// Opens after `failures_max` failures in a row, for `rest`.
    pub fn new(failures_max: u32, rest: Duration, is_probed: bool) -> Self {
        Self { failures_max, rest, is_probed, state: State::Closed { failures: 0 } }
    }

    /// Whether a request may be made. One that may after a rest is the trial.
    pub fn admit(&mut self, now: Duration) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } | State::HalfOpen { until } if now >= until && !self.is_probed => {
                self.state = State::HalfOpen { until: now + self.rest };
                true
            }
            State::Open { .. } | State::HalfOpen { .. } => false,
        }
    }

    /// It did what it was asked for. Says whether that closed it.
    pub fn succeed(&mut self) -> bool {
        let was_open = self.is_open();
        self.state = State::Closed { failures: 0 };
        was_open
    }

    /// It did not. Says whether that opened it.
    pub fn fail(&mut self, now: Duration) -> bool {
        let failures = match self.state {
            State::Closed { failures } => failures + 1,
            // What was under way when it opened does not make it rest for longer.
            State::Open { .. } => return false,
            State::HalfOpen { .. } => self.failures_max,
        };
        if failures < self.failures_max {
            self.state = State::Closed { failures };
            return false;
        }
        let opened = !self.is_open();
        self.state = State::Open { until: now + self.rest };
        opened
    }

    /// Whether it is left alone, a trial apart.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// After how long a trial is due.
    pub fn rests_for(&self, now: Duration) -> Duration {
        match self.state {
            State::Closed { .. } => Duration::ZERO,
            State::Open { until } | State::HalfOpen { until } => until.saturating_sub(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn open() -> Breaker {
        let mut breaker = Breaker::new(3, REST, false);
        assert_eq!([1, 2, 3].map(|second| breaker.fail(at(second))), [false, false, true]);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_others_do_not() {
        let mut breaker = Breaker::new(3, REST, false);
        for second in 0..20 {
            assert!(breaker.admit(at(second)));
            breaker.fail(at(second));
            breaker.fail(at(second));
            assert!(!breaker.succeed());
        }
        let mut breaker = open();
        assert!(!breaker.admit(at(12)));
        assert_eq!(breaker.rests_for(at(12)), at(1));
    }

    #[test]
    fn after_a_rest_one_request_tries_and_decides() {
        let mut breaker = open();
        assert!(breaker.admit(at(13)));
        assert!(!breaker.admit(at(13)), "one at a time");
        assert!(!breaker.fail(at(14)), "it was open already");
        assert!(!breaker.admit(at(23)), "and rests anew");
        assert!(breaker.admit(at(24)));
        assert!(breaker.succeed());
        assert!(breaker.admit(at(24)) && breaker.admit(at(24)));
    }

    #[test]
    fn a_trial_that_nobody_heard_of_does_not_keep_it_open_for_ever() {
        let mut breaker = open();
        assert!(breaker.admit(at(13)));
        assert!(!breaker.admit(at(22)));
        assert!(breaker.admit(at(23)));
    }

    #[test]
    fn what_was_under_way_when_it_opened_neither_prolongs_the_rest_nor_needs_to() {
        let mut breaker = open();
        assert!(!breaker.fail(at(12)));
        assert!(breaker.admit(at(13)));
    }

    #[test]
    fn with_a_probe_no_request_tries() {
        let mut breaker = Breaker::new(1, REST, true);
        breaker.fail(at(0));
        assert!(!breaker.admit(at(100)));
        assert!(breaker.succeed());
        assert!(breaker.admit(at(100)));
    }
}
