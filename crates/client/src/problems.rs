//! Any failed call as a problem with an exit code and a remedy.

use aap_types::{ExitCode, Problem};
use tonic::{Code, Status};

/// The problem that a failed call carries, or the one that its transport failure means.
pub fn problem_of(status: &Status) -> Problem {
    let problem = aap_proto::problem_of_status(status);
    if status.metadata().get_bin(aap_proto::PROBLEM_METADATA).is_some() {
        return problem;
    }
    match status.code() {
        Code::Unauthenticated => {
            // Where the token stood is known to whoever showed it, who adds the remedy.
            Problem::new("auth.token_refused", ExitCode::LoginNeeded, "the token was refused")
                .cause(status.message())
        }
        Code::NotFound => Problem::new("platform.not_found", ExitCode::NotFound, status.message()),
        Code::Unimplemented => {
            Problem::new("platform.unsupported", ExitCode::Failed, "the daemon does not know this operation")
                .cause(status.message())
                .hint_command(
                    "daemon and `aap` are of different versions; restart the platform",
                    "aap down && aap up",
                )
        }
        _ if is_lost_connection(status) => connection_lost(status),
        _ => problem,
    }
}

/// Nothing answers where the platform should be.
pub fn not_running(what: &str) -> Problem {
    Problem::new("platform.not_running", ExitCode::Unavailable, format!("{what} is not running"))
        .hint_command("start the platform", "aap up --detach")
        .retry_after_ms(1000)
}

fn is_lost_connection(status: &Status) -> bool {
    let by_transport = std::error::Error::source(status).is_some();
    by_transport || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

fn connection_lost(status: &Status) -> Problem {
    let mut problem =
        Problem::new("platform.unreachable", ExitCode::Unavailable, "the platform stopped answering")
            .cause(status.message());
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !problem.causes.contains(&text) {
            problem.causes.push(text);
        }
        source = cause.source();
    }
    problem.hint_command("see whether it is running", "aap status").retry_after_ms(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_carried_problem_arrives_whole_and_a_bare_status_gets_an_exit_code() {
        let sent = Problem::new("query.unknown_table", ExitCode::NotFound, "no stream `x`")
            .hint("did you mean `y`?");
        assert_eq!(problem_of(&aap_proto::status_of_problem(&sent)), sent);
        let lost = problem_of(&Status::unavailable("gone"));
        assert_eq!((lost.exit, lost.hints.is_empty()), (ExitCode::Unavailable, false));
        assert_eq!(problem_of(&Status::unauthenticated("no")).exit, ExitCode::LoginNeeded);
    }
}
