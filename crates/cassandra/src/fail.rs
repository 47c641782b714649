//! What the runner is told of trouble with the servers.

use std::error::Error;
use std::time::Duration;

use aap_sinks::{Failure, FailureKind};
use aap_types::{ExitCode, Problem};
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError,
    MetadataError, NewSessionError, NextPageError, NextRowError, PagerExecutionError, PrepareError,
    RequestAttemptError, RequestError,
};

use crate::spec::CassandraSpec;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CassandraError {
    /// A request failed.
    #[error(transparent)]
    Execute(#[from] ExecutionError),
    /// A statement could not be prepared.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Rows could not be read.
    #[error(transparent)]
    Read(#[from] PagerExecutionError),
    /// A page of them could not.
    #[error(transparent)]
    Row(#[from] NextRowError),
    /// No session.
    #[error(transparent)]
    Session(#[from] NewSessionError),
    /// Nobody answered.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    /// The answer has another form than the question asks for: nobody we know answers so.
    #[error("the server's answer is not understood: {0}")]
    Answer(String),
}

/// What can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nobody answers, or not in time, or too few copies are there.
    Away,
    /// Who we are, or what we may do.
    Denied,
    /// The row is too large for this server.
    Oversized,
    /// The server does not take the statement.
    Statement,
}

impl CassandraError {
    pub(crate) fn trouble(&self) -> Trouble {
        match self {
            Self::Execute(error) => of_execution(error),
            Self::Prepare(error) => of_prepare(error),
            Self::Read(PagerExecutionError::PrepareError(error)) => of_prepare(error),
            Self::Read(PagerExecutionError::NextPageError(error)) => of_page(error),
            Self::Row(NextRowError::NextPageError(error)) => of_page(error),
            Self::Session(NewSessionError::MetadataError(MetadataError::ConnectionPoolError(error))) => {
                of_pool(error)
            }
            Self::Read(PagerExecutionError::SerializationError(_)) | Self::Answer(_) => Trouble::Statement,
            _ => Trouble::Away,
        }
    }
}

fn of_execution(error: &ExecutionError) -> Trouble {
    match error {
        ExecutionError::BadQuery(_) => Trouble::Statement,
        ExecutionError::PrepareError(error) => of_prepare(error),
        ExecutionError::ConnectionPoolError(error) => of_pool(error),
        ExecutionError::LastAttemptError(error) => of_attempt(error),
        _ => Trouble::Away,
    }
}

fn of_prepare(error: &PrepareError) -> Trouble {
    match error {
        PrepareError::ConnectionPoolError(error) => of_pool(error),
        PrepareError::AllAttemptsFailed { first_attempt } => of_attempt(first_attempt),
        _ => Trouble::Away,
    }
}

fn of_page(error: &NextPageError) -> Trouble {
    match error {
        NextPageError::RequestFailure(RequestError::LastAttemptError(error)) => of_attempt(error),
        NextPageError::RequestFailure(RequestError::ConnectionPoolError(error)) => of_pool(error),
        _ => Trouble::Away,
    }
}

fn of_pool(error: &ConnectionPoolError) -> Trouble {
    let ConnectionPoolError::Broken { last_connection_error } = error else { return Trouble::Away };
    let ConnectionError::ConnectionSetupRequestError(setup) = last_connection_error else {
        return Trouble::Away;
    };
    match &setup.error {
        ConnectionSetupRequestErrorKind::DbError(error, message) => of_server(error, message),
        ConnectionSetupRequestErrorKind::MissingAuthentication
        | ConnectionSetupRequestErrorKind::StartAuthSessionError(_)
        | ConnectionSetupRequestErrorKind::AuthChallengeEvaluationError(_)
        | ConnectionSetupRequestErrorKind::AuthFinishError(_) => Trouble::Denied,
        _ => Trouble::Away,
    }
}

fn of_attempt(error: &RequestAttemptError) -> Trouble {
    match error {
        RequestAttemptError::DbError(error, message) => of_server(error, message),
        RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_) => {
            Trouble::Statement
        }
        _ => Trouble::Away,
    }
}

fn of_server(error: &DbError, message: &str) -> Trouble {
    match error {
        DbError::AuthenticationError | DbError::Unauthorized => Trouble::Denied,
        // There is no code of its own for it. Cassandra 4.1 and later, then earlier ones, then frames.
        DbError::Invalid | DbError::ServerError | DbError::ProtocolError
            if ["oversized mutation", "too large", "too big"]
                .iter()
                .any(|words| message.to_lowercase().contains(words)) =>
        {
            Trouble::Oversized
        }
        DbError::SyntaxError
        | DbError::Invalid
        | DbError::ConfigError
        | DbError::AlreadyExists { .. }
        | DbError::FunctionFailure { .. } => Trouble::Statement,
        // Too few copies, too slow, too busy, starting, stopping: all of it passes. What a write that was not answered in time
        // has done is unknown, and doing it again changes nothing.
        _ => Trouble::Away,
    }
}

/// Turns an error into a failure, with the words for this cluster.
pub(crate) fn failure(spec: &CassandraSpec, error: &CassandraError) -> Failure {
    let keyspace = &spec.keyspace;
    match error.trouble() {
        Trouble::Away => Failure::unreachable(
            format!("Cassandra does not do its work for keyspace `{keyspace}` now"),
            error,
        ),
        Trouble::Denied => {
            let user = spec.username.as_deref().unwrap_or("nobody");
            let message = format!("Cassandra does not let `{user}` write to keyspace `{keyspace}`");
            let problem = Problem::new("sink.denied", ExitCode::Denied, message).caused_by(error);
            Failure::new(
                FailureKind::Refused,
                match spec.username {
                    Some(_) => problem,
                    None => problem.hint("the sink has no `username` and `password`: give both"),
                },
            )
        }
        Trouble::Oversized | Trouble::Statement => refused(
            "sink.server_refused",
            ExitCode::Failed,
            format!("Cassandra does not do for keyspace `{keyspace}` what the sink needs"),
            Some(error),
        ),
    }
}

/// Somebody has to act.
pub(crate) fn refused(
    code: &str,
    exit: ExitCode,
    message: String,
    error: Option<&(dyn Error + 'static)>,
) -> Failure {
    let problem = Problem::new(code, exit, message);
    Failure::new(
        FailureKind::Refused,
        match error {
            Some(error) => problem.caused_by(error),
            None => problem,
        },
    )
}

/// A setting that cannot be used.
pub(crate) fn setting(why: impl Into<String>) -> Failure {
    let problem =
        Problem::new("sink.setting", ExitCode::Usage, "a setting of the Cassandra sink is not usable");
    Failure::new(FailureKind::Refused, problem.cause(why))
}

/// Something is not there and may not be made.
pub(crate) fn missing(what: String, statement: String) -> Failure {
    let problem = Problem::new("sink.table_missing", ExitCode::NotFound, what)
        .hint("set `create: true`, and the sink makes it")
        .hint_command("or make it", statement);
    Failure::new(FailureKind::Refused, problem)
}

/// A table is not made for the rows.
pub(crate) fn misfit(what: String, remedy: &str, statement: Option<String>) -> Failure {
    let problem = Problem::new("sink.table_shape", ExitCode::Conflict, what);
    let problem = match statement {
        Some(statement) => problem.hint_command(remedy, statement),
        None => problem.hint(remedy),
    };
    Failure::new(FailureKind::Refused, problem)
}
