//! Refusals as they are recorded: all of those who are known, and of the others so many that nobody can fill the disk with them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aap_audit::Record;
use aap_runtime::Clock;
use aap_types::Problem;

use crate::audit::AuditTrail;
use crate::gateway::is_limited;

/// Whoever is not known could fill the disk with refusals: of theirs so many are recorded in [`WINDOW`], with how many there were beside them.
const TOKENS_MAX: u32 = 1;
/// The same of wrong passwords and of people without a role, of whom whoever looks for a guesser wants to see more.
const PASSWORDS_MAX: u32 = 10;
/// The same of calls that came too often, whoever made them.
const LIMITED_MAX: u32 = 1;
/// For all of them.
const WINDOW: Duration = Duration::from_secs(1);

/// Records refusals. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Denials {
    trail: AuditTrail,
    clock: Arc<dyn Clock>,
    bounded: Arc<Mutex<Bounded>>,
}

/// Those of which only some are recorded.
#[derive(Debug, Default)]
struct Bounded {
    tokens: Counted,
    passwords: Counted,
    limited: Counted,
}

/// Refusals of one kind.
#[derive(Debug, Default)]
struct Counted {
    /// When the window began.
    since: Option<Duration>,
    /// How many were recorded in it.
    recorded: u32,
    /// How many were not since one was recorded.
    beside: u64,
}

impl Counted {
    /// Whether one more is recorded, and how many were not before it.
    fn turn(&mut self, now: Duration, most: u32) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_sub(since) >= WINDOW) {
            (self.since, self.recorded) = (Some(now), 0);
        }
        if self.recorded >= most {
            self.beside += 1;
            return None;
        }
        self.recorded += 1;
        Some(std::mem::take(&mut self.beside))
    }
}

impl Denials {
    pub(crate) fn new(trail: AuditTrail, clock: Arc<dyn Clock>) -> Self {
        Self { trail, clock, bounded: Arc::default() }
    }

    /// Records that something was refused with a problem, to somebody who is known or not.
    pub(crate) async fn record(&self, record: Record, problem: &Problem, is_known: bool) {
        let turn = match is_known && !is_limited(problem) {
            true => Some(0),
            false => self.turn_of(problem),
        };
        match turn {
            None => {}
            Some(0) => self.record_end(record).await,
            Some(beside) => self.record_end(record.with("refused beside it", beside.to_string())).await,
        }
    }

    fn turn_of(&self, problem: &Problem) -> Option<u64> {
        let now = self.clock.monotonic();
        let mut bounded = self.bounded.lock().unwrap_or_else(PoisonError::into_inner);
        match problem.code.as_str() {
            _ if is_limited(problem) => bounded.limited.turn(now, LIMITED_MAX),
            "auth.login_refused" | "auth.no_role" => bounded.passwords.turn(now, PASSWORDS_MAX),
            _ => bounded.tokens.turn(now, TOKENS_MAX),
        }
    }

    /// Records what has come to its end. That it began is recorded, and it cannot be undone: where this cannot be written, the log says so.
    pub(crate) async fn record_end(&self, record: Record) {
        let (action, outcome) = (record.action.clone(), record.outcome);
        if let Err(problem) = self.trail.record(record).await {
            tracing::error!(%problem, action, %outcome, "the end of an action could not be recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_refusals_some_are_recorded_and_all_are_counted() {
        let mut counted = Counted::default();
        let at = Duration::from_millis;
        let turns: Vec<_> = (0..5).map(|ms| counted.turn(at(ms), 2)).collect();
        assert_eq!(turns, [Some(0), Some(0), None, None, None]);
        assert_eq!(counted.turn(at(999), 2), None);
        assert_eq!((counted.turn(at(1_000), 2), counted.turn(at(1_001), 2)), (Some(4), Some(0)));
    }
}
