//! What is refused of a run, and what may go on later.

use aap_types::{ExitCode, Problem, StreamName};

/// When to ask a node again that is being drained: somebody works on it.
const DRAINING_RETRY_MS: u64 = 30_000;

pub(super) fn protocol(what: &str) -> Problem {
    Problem::new("ingest.protocol", ExitCode::Bug, what)
}

pub(super) fn bug(error: &dyn std::error::Error) -> Problem {
    Problem::new("ingest.failed", ExitCode::Bug, "taking the input failed unexpectedly")
        .cause(error.to_string())
}

/// What is durable stays; the same command goes on behind it.
pub(super) fn draining() -> Problem {
    Problem::new("ingest.draining", ExitCode::Unavailable, "this node is being drained and takes no new rows")
        .hint("give them to another node; or wait, and the same command goes on where it stopped")
        .hint_command("let it take rows again, where the coordinator is", "aap node resume NODE")
        .retry_after_ms(DRAINING_RETRY_MS)
}

pub(super) fn not_stored(error: &crate::ingress::IngressError) -> Problem {
    use crate::ingress::IngressError::Append;
    let helps = match error {
        Append(aap_buffer::Error::Closed) => true,
        Append(error) => error.retry() == aap_buffer::Retry::Later,
        _ => false,
    };
    if helps {
        return Problem::new("ingest.not_stored", ExitCode::Unavailable, "the rows could not be stored")
            .caused_by(error)
            .hint("the same command continues where it stopped")
            .retry_after_ms(1000);
    }
    // The same rows would be refused again: a client that comes back with them would never end.
    Problem::new("ingest.not_stored", ExitCode::Failed, "the rows cannot be stored")
        .caused_by(error)
        .hint("what is durable stays; the input must be changed before it can be taken further")
}

/// What is being taken already. `waits_for`: what a full buffer waits for, where a former call may still wait for room.
pub(super) fn under_way(stream: &StreamName, name: &str, waits_for: Option<String>) -> Problem {
    // Unavailable: after a reconnection the former call may need a moment to end.
    let under_way = |message| Problem::new("ingest.under_way", ExitCode::Unavailable, message);
    let problem = match waits_for {
        None => under_way(format!("`{name}` is being taken into stream `{stream}` by another command"))
            .hint("wait for it"),
        Some(waits_for) => {
            under_way(format!("an earlier call for `{name}` into stream `{stream}` still waits for room"))
                .cause(waits_for)
                .hint("make room; the same command goes on then where it stopped")
        }
    };
    problem.retry_after_ms(500)
}
