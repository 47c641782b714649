//! How what is decided here reaches an operator.

use std::time::Duration;

use aap_types::{ExitCode, Problem};

use crate::{Decision, Object, PasswordFault, Principal, TicketError, Verb};

impl Decision {
    /// What whoever may not is told.
    pub fn problem(&self, principal: &Principal, verb: Verb, object: &Object<'_>) -> Problem {
        let message = format!("{principal} may not {verb} the {} `{}`", object.kind, object.name);
        Problem::new("auth.denied", ExitCode::Denied, message)
            .cause(self.because.to_string())
            .hint("ask whoever manages roles for one that allows it")
    }
}

impl PasswordFault {
    /// What whoever chose the password is told.
    pub fn problem(self) -> Problem {
        Problem::new("auth.password_refused", ExitCode::Usage, self.to_string())
            .hint("take some words that nobody else would put together")
    }
}

impl TicketError {
    /// What whoever carried the ticket is told.
    pub fn problem(&self) -> Problem {
        Problem::new("auth.enrolment_token_invalid", ExitCode::Usage, "the enrolment token cannot be read")
            .caused_by(self)
            .hint("copy the whole of it, from `aape_` to its last letter")
    }
}

/// What somebody is told who has to wait before they may try another password.
pub fn locked_out(wait: Duration) -> Problem {
    let seconds = wait.as_secs().max(1);
    let message = format!("too many failed log-ins: wait {seconds} s before the next");
    let retry_after_ms = u64::try_from(wait.as_millis()).ok();
    let problem = Problem::new("auth.locked_out", ExitCode::Unavailable, message);
    Problem { retry_after_ms, ..problem.hint("the wait doubles with each failure, up to 15 minutes") }
}
