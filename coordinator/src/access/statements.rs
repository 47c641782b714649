//! Who was answered which rows: one record for each statement, at the end of its answer.
//!
//! ```text
//!  rows … rows ──► the last event ──► record: who, which streams, the statement, how many rows ──► durable ──► the last event goes on
//!        │                                                                               └── cannot be written: `audit.unavailable` instead
//!        └── whoever asked is gone ──► record `failed`, queued
//! ```

use aap_audit::{Outcome, Record};
use aap_proto::v1::{self, query_event::Kind as Event};
use aap_proto::{problem_of_status, status_of_problem};
use aap_types::{ExitCode, Problem};
use futures::{Stream, StreamExt};
use tonic::{Request, Status};

use super::gate::Passing;
use super::guard::Caller;
use crate::audit::AuditTrail;

/// A statement that is being answered. Cheap to clone; what is recorded is [`Statement::recorded`]'s.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    trail: AuditTrail,
    passing: Passing,
    caller: Caller,
    details: Vec<(&'static str, String)>,
}

impl Statement {
    pub(super) fn new(trail: AuditTrail, passing: Passing, caller: Caller) -> Self {
        Self { trail, passing, caller, details: vec![] }
    }

    /// The one of a request.
    ///
    /// # Errors
    /// `platform.bug`, where the call did not come through the gate.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Problem> {
        let found = request.extensions().get::<Self>().cloned();
        found.ok_or_else(|| Problem::new("platform.bug", ExitCode::Bug, "a statement came past the gate"))
    }

    /// The statement itself: its beginning to be read, and a digest of all of it, because the log cuts long texts.
    #[must_use]
    pub(crate) fn with_sql(mut self, sql: &str) -> Self {
        self.details.push(("sql", sql.to_owned()));
        self.details.push(("sql_blake3", blake3::hash(sql.as_bytes()).to_hex()[..32].to_owned()));
        self
    }

    fn record(&self, outcome: Outcome, problem: Option<&Problem>) -> Record {
        let record = self.passing.record(Some(&self.caller), outcome, problem);
        self.details.iter().fold(record, |record, (name, value)| record.with(name, value))
    }

    /// The answer, the end of which is recorded.
    pub(crate) fn recorded(
        self,
        answer: impl Stream<Item = Result<v1::QueryEvent, Status>> + Send + 'static,
    ) -> impl Stream<Item = Result<v1::QueryEvent, Status>> + Send + 'static {
        let open = Open(Some(self));
        futures::stream::unfold((Box::pin(answer), open), |(mut answer, mut open)| async move {
            let event = answer.next().await?;
            let event = match end_of(&event) {
                Some(end) => open.close(end).await.map_err(|problem| status_of_problem(&problem)).and(event),
                None => event,
            };
            Some((event, (answer, open)))
        })
    }
}

/// How an answer ended.
struct End {
    outcome: Outcome,
    problem: Option<Problem>,
    rows: Option<u64>,
}

/// Whether an event is the last.
fn end_of(event: &Result<v1::QueryEvent, Status>) -> Option<End> {
    match event {
        Ok(v1::QueryEvent { kind: Some(Event::Done(done)) }) => {
            Some(End { outcome: Outcome::Done, problem: None, rows: Some(done.rows) })
        }
        Ok(_) => None,
        Err(status) => {
            let problem = problem_of_status(status);
            let is_denied = problem.exit == ExitCode::Denied;
            let outcome = if is_denied { Outcome::Denied } else { Outcome::Failed };
            Some(End { outcome, problem: Some(problem), rows: None })
        }
    }
}

/// A statement without its record.
struct Open(Option<Statement>);

impl Open {
    async fn close(&mut self, end: End) -> Result<(), Problem> {
        let Some(statement) = self.0.take() else { return Ok(()) };
        let record = statement.record(end.outcome, end.problem.as_ref());
        let record = match end.rows {
            Some(rows) => record.with("rows", rows.to_string()),
            None => record,
        };
        statement.trail.record(record).await
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(statement) = self.0.take() {
            let record = statement.record(Outcome::Failed, None).with("answer", "left before its end");
            statement.trail.note(record);
        }
    }
}
