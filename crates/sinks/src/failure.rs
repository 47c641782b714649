//! What went wrong, and what the runner should do about it.

use aap_types::{ExitCode, Problem};

/// A row that the server will never take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Which slice of the group.
    pub slice: usize,
    /// Which row of it.
    pub row: usize,
    /// Why, as the operator reads it.
    pub reason: String,
}

/// What to do after a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureKind {
    /// Ask for the resume point again after a while: the server is away, busy, or did not answer in time.
    Retry,
    /// The same, and somebody has to act before it helps: a wrong password, a table of another shape, a missing topic.
    Refused,
    /// Another writer owns the place now, or the ledger is not where it was believed.
    Moved,
    /// These rows cannot be written; the rest of the group can. Nothing was written.
    Rows(Vec<BadRow>),
    /// Something in the group cannot be written and the server does not say what. Nothing was written.
    Group,
}

/// Why a sink could not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Failure {
    /// What to do.
    pub kind: FailureKind,
    /// What the operator sees.
    pub problem: Box<Problem>,
}

impl Failure {
    /// A failure with the problem that describes it.
    pub fn new(kind: FailureKind, problem: Problem) -> Self {
        Self { kind, problem: Box::new(problem) }
    }

    /// The server does not answer, or broke off.
    pub fn unreachable(message: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        let problem = Problem::new("sink.unreachable", ExitCode::Unavailable, message).caused_by(error);
        Self::new(FailureKind::Retry, problem)
    }

    /// Another writer was here.
    pub fn moved(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Moved, Problem::new("sink.moved", ExitCode::Conflict, message))
    }

    /// Rows that can never be written.
    pub fn rows(rows: Vec<BadRow>) -> Self {
        let first = rows.first().map(|row| row.reason.clone()).unwrap_or_default();
        let message = match rows.len() {
            1 => "a row cannot be written".to_owned(),
            count => format!("{count} rows cannot be written"),
        };
        let problem = Problem::new("sink.bad_rows", ExitCode::Failed, message).cause(first);
        Self::new(FailureKind::Rows(rows), problem)
    }
}
