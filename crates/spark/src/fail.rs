//! What the operator is told of trouble with the cluster.

use std::error::Error;

use aap_types::{ExitCode, Problem};
use tonic::{Code, Status};

use crate::spec::SparkSpec;

/// Most characters of Spark's message that are shown: its longest begin with what matters.
const MESSAGE_MAX: usize = 1_000;
/// How long to wait before a cluster that is away is asked again.
const RETRY_MS: u64 = 5_000;

/// `spark.unreachable`.
pub(crate) fn unreachable(spec: &SparkSpec, error: &(dyn Error + 'static)) -> Problem {
    Problem::new(
        "spark.unreachable",
        ExitCode::Unavailable,
        format!("Spark does not answer at {}", spec.place()),
    )
    .caused_by(error)
    .hint("see whether its Spark Connect server runs, and whether this machine reaches it")
    .hint("or let the platform's own engine answer: leave `--engine` out")
    .retry_after_ms(RETRY_MS)
}

/// `spark.setting`.
pub(crate) fn setting(cause: impl Into<String>) -> Problem {
    Problem::new("spark.setting", ExitCode::Usage, "a setting of `spark` is not usable")
        .cause(cause)
        .hint("correct it in the coordinator's configuration")
}

/// What a status of a call means.
pub(crate) fn of_status(spec: &SparkSpec, status: &Status) -> Problem {
    match status.code() {
        Code::Unavailable => unreachable(spec, status),
        Code::Unauthenticated | Code::PermissionDenied => denied(spec, status),
        _ => failed(essence(status.message())),
    }
}

/// `spark.failed`.
pub(crate) fn failed(message: String) -> Problem {
    Problem::new("spark.failed", ExitCode::Failed, "Spark did not answer the statement")
        .cause(message)
        .hint("the dialect is Spark's, with names in double quotes; a query is one SELECT")
        .hint_command("list the streams", "aap stream ls")
}

fn denied(spec: &SparkSpec, status: &Status) -> Problem {
    let message = format!("Spark does not let the coordinator in at {}", spec.place());
    let problem = Problem::new("spark.denied", ExitCode::Denied, message).cause(essence(status.message()));
    match spec.token {
        Some(_) => problem.hint("see whether `spark.token` of the coordinator is the server's"),
        None => problem.hint("give the coordinator the server's token: `spark.token`"),
    }
}

/// The first line: plans and stack traces follow.
fn essence(message: &str) -> String {
    let first = message.trim().lines().next().unwrap_or("it gave no reason");
    first.trim_end_matches(';').chars().take(MESSAGE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_of_sparks_message_is_shown() {
        let message = "\n[TABLE_OR_VIEW_NOT_FOUND] The table `x` cannot be found. SQLSTATE: 42P01; line 1 pos 14;\n'Project [*]\n";
        assert_eq!(
            essence(message),
            "[TABLE_OR_VIEW_NOT_FOUND] The table `x` cannot be found. SQLSTATE: 42P01; line 1 pos 14"
        );
        assert_eq!(essence(" "), "it gave no reason");
    }

    #[test]
    fn a_status_has_its_problem() {
        let spec = SparkSpec { url: "sc://a".to_owned(), token: None, ca: None };
        let code = |status: Status| of_status(&spec, &status).code;
        assert_eq!(code(Status::unavailable("x")), "spark.unreachable");
        assert_eq!(code(Status::unauthenticated("x")), "spark.denied");
        assert_eq!(code(Status::internal("x")), "spark.failed");
    }
}
