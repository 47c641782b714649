//! What the runner is told of trouble with the server.

use aap_sinks::{Failure, FailureKind};
use aap_types::{ExitCode, Problem};

use crate::connection::{Access, Error, Trouble};

/// Whether a statement carries rows: only then is something wrong with those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carries {
    /// COPY, INSERT, and the COMMIT that checks what was deferred.
    Rows,
    /// Anything else.
    Nothing,
}

/// Turns an error into a failure, with the words for this server.
pub(crate) fn failure(access: &Access, error: &Error, carries: Carries) -> Failure {
    let database = access.url.database();
    let refused = |code: &str, exit, message: String| {
        Failure::new(FailureKind::Refused, Problem::new(code, exit, message).caused_by(error))
    };
    match error.trouble() {
        Trouble::Data if carries == Carries::Rows => {
            let message = format!("PostgreSQL does not take the rows for database `{database}`");
            let problem = Problem::new("sink.group_refused", ExitCode::Failed, message).caused_by(error);
            Failure::new(FailureKind::Group, problem)
        }
        // Two who make the same thing at the same moment meet in the server's own unique indexes.
        Trouble::Data if error.state().is_some_and(|state| state.code().starts_with("23")) => {
            away(database, error)
        }
        Trouble::Away => away(database, error),
        Trouble::ReadOnly => {
            let message = format!("the PostgreSQL server of database `{database}` takes no writes");
            let problem = Problem::new("sink.read_only", ExitCode::Unavailable, message).caused_by(error);
            Failure::new(
                FailureKind::Retry,
                problem.hint("name all servers in the url, as in `postgres://user@one,two/database`: the one that writes is used"),
            )
        }
        Trouble::Denied => {
            let message =
                format!("PostgreSQL does not let `{}` write to database `{database}`", access.url.user());
            let mut failure = refused("sink.denied", ExitCode::Denied, message);
            if access.password.is_none() {
                let problem = failure.problem.as_ref().clone();
                *failure.problem = problem
                    .hint("the sink has no `password`: name where it stands, as `env:NAME` or `file:PATH`");
            }
            failure
        }
        Trouble::Tls => {
            let message = format!("TLS with the PostgreSQL server of database `{database}` fails");
            refused("sink.tls", ExitCode::Failed, message)
        }
        Trouble::Setting => refused(
            "sink.setting",
            ExitCode::Usage,
            format!("the password or the authorities for database `{database}` cannot be read"),
        ),
        Trouble::NoDatabase => {
            let mut failure = refused(
                "sink.database_missing",
                ExitCode::NotFound,
                format!("there is no database `{database}`"),
            );
            let problem = failure.problem.as_ref().clone();
            *failure.problem = problem.hint_command("make it", format!("createdb {database}"));
            failure
        }
        Trouble::Statement | Trouble::Data => {
            let message = format!("PostgreSQL does not do for database `{database}` what the sink needs");
            refused("sink.server_refused", ExitCode::Failed, message)
        }
    }
}

fn away(database: &str, error: &Error) -> Failure {
    Failure::unreachable(format!("the PostgreSQL server of database `{database}` is away or busy"), error)
}
