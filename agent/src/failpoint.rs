//! Crash points of the write path, for the end-to-end harness.
//!
//! `AAP_FAIL=NAME:COUNT=ACTION[;…]` makes the COUNT-th passage of point NAME do ACTION (COUNT 1 if left out):
//! `abort` ends the process at once, as SIGKILL would; `error` makes the step fail where the step can fail (the
//! uplink cuts its connection). Unset, as in every real run, a point costs one comparison.
//!
//! | # | point | state of the world there |
//! |---|---|---|
//! | 1 | `agent.after_read` | bytes were read from a source; nothing is stored |
//! | 2 | `agent.before_append` | batches are sealed in memory |
//! | 3 | `agent.after_append_before_answer` | the group is durable; the source does not know |
//! | 4 | `agent.after_answer` | the source was answered, or the reader moved on |
//! | 5 | `agent.uplink_before_send` | a batch is about to leave |
//! | 6 | `agent.uplink_after_send` | it left; the coordinator may have it |
//! | 7 | `agent.uplink_before_advance` | the acknowledgement came; the cursor has not moved |
//! | 8 | `agent.uplink_after_advance` | the cursor moved in memory; it may not be durable |

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a point does when its time comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Abort,
    Error,
}

#[derive(Debug)]
struct Armed {
    name: String,
    action: Action,
    left: AtomicU64,
}

/// The armed points; none in a real run. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Failpoints {
    armed: Option<Arc<[Armed]>>,
}

/// A point asked its step to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failpoint asked for an error")]
pub struct Injected;

impl Failpoints {
    /// What `AAP_FAIL` says.
    pub fn from_environment() -> Self {
        Self::parse(&std::env::var("AAP_FAIL").unwrap_or_default())
    }

    /// Points from their text form; what is not understood is ignored with a warning.
    pub fn parse(text: &str) -> Self {
        let armed: Vec<Armed> = text
            .split(';')
            .filter(|part| !part.trim().is_empty())
            .filter_map(|part| {
                let armed = parse_one(part.trim());
                if armed.is_none() {
                    tracing::warn!(failpoint = part, "not a failpoint");
                }
                armed
            })
            .collect();
        Self { armed: (!armed.is_empty()).then(|| armed.into()) }
    }

    /// Passes point `name`.
    ///
    /// # Errors
    /// [`Injected`] if the point was armed with `error`; callers whose step cannot fail ignore it.
    #[inline]
    pub fn pass(&self, name: &str) -> Result<(), Injected> {
        match &self.armed {
            None => Ok(()),
            Some(armed) => armed.iter().filter(|point| point.name == name).try_for_each(Armed::pass),
        }
    }

    /// Passes a point whose step cannot fail.
    #[inline]
    pub fn reach(&self, name: &str) {
        if self.pass(name).is_err() {
            tracing::warn!(failpoint = name, "this point cannot fail; ignored");
        }
    }
}

fn parse_one(part: &str) -> Option<Armed> {
    let (point, action) = part.split_once('=')?;
    let (name, count) = match point.rsplit_once(':') {
        Some((name, count)) => (name, count.parse().ok()?),
        None => (point, 1),
    };
    let action = match action {
        "abort" => Action::Abort,
        "error" => Action::Error,
        _ => return None,
    };
    Some(Armed { name: name.to_owned(), action, left: AtomicU64::new(count) })
}

impl Armed {
    fn pass(&self) -> Result<(), Injected> {
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match (before, self.action) {
            (Ok(1), Action::Abort) => die(),
            (Ok(1), Action::Error) => Err(Injected),
            _ => Ok(()),
        }
    }
}

/// Ends the process as SIGKILL does: nothing is flushed, no destructor runs.
fn die() -> ! {
    let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    tracing::error!(?killed, "failpoint could not kill this process");
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_acts_at_its_count_and_only_then() {
        let points = Failpoints::parse("a.b:3=error; c=error;nonsense");
        let passed: Vec<bool> = (0..5).map(|_| points.pass("a.b").is_ok()).collect();
        assert_eq!(passed, [true, true, false, true, true]);
        assert!(points.pass("c").is_err());
        assert!(Failpoints::default().pass("a.b").is_ok());
    }
}
