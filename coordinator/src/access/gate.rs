//! The gate of the operators' port: every call gets a request id, is let on or refused, and leaves a record if it changes something or
//! was refused.
//!
//! ```text
//! call ──► request id ──► who calls, and whether they may ──► record `begun` ──► service ──► record `done`, `failed` or `denied`
//!                                │ no                           │ cannot be written: `audit.unavailable`, nothing is done
//!                                └──► record `denied`           └ only where something is changed
//! ```

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aap_audit::{Actor, Outcome, Record};
use aap_proto::{Call, problem_of_status, status_of_problem};
use aap_runtime::Clock;
use aap_transport::Client;
use aap_types::{ExitCode, Problem};
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::guard::{Caller, Guard, Touched};
use super::rules::{action, call_of, permission, statement};
use super::statements::Statement;
use crate::audit::{AuditTrail, actor};

/// By which a call is found again in the log, the audit record and at whoever made it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Why something is done, as whoever does it says: UTF-8.
const REASON: &str = "x-aap-reason-bin";
/// Letters of a request id that is taken from whoever calls.
const REQUEST_ID_LETTERS_MAX: usize = 64;
/// Whoever is not known could fill the disk with refusals: of theirs so many are recorded in [`WINDOW`], with how many there were beside them.
const TOKENS_MAX: u32 = 1;
/// The same of wrong passwords, of which whoever looks for a guesser wants to see more.
const PASSWORDS_MAX: u32 = 10;
/// For both.
const WINDOW: Duration = Duration::from_secs(1);

/// What calls come through. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    guard: Guard,
    trail: AuditTrail,
    clock: Arc<dyn Clock>,
    strangers: Arc<Mutex<Strangers>>,
}

/// Refusals of whoever is not known.
#[derive(Debug, Default)]
struct Strangers {
    tokens: Counted,
    passwords: Counted,
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

/// One call on its way.
#[derive(Debug, Clone)]
pub(super) struct Passing {
    call: Call,
    request: String,
    from: IpAddr,
    /// Why it is made, if whoever makes it says so.
    reason: Option<String>,
    touched: Touched,
}

impl Gate {
    pub(crate) fn new(guard: Guard, trail: AuditTrail, clock: Arc<dyn Clock>) -> Self {
        Self { guard, trail, clock, strangers: Arc::default() }
    }

    /// For whoever asks for figures.
    pub(crate) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// What is recorded.
    pub(crate) fn trail(&self) -> &AuditTrail {
        &self.trail
    }

    async fn pass(&self, passing: &Passing, mut request: Request, next: Next) -> Result<Response, Problem> {
        let shown = bearer(request.headers()).map(str::to_owned);
        let admitted = self.guard.admit(passing.call, shown.as_deref(), passing.from, &passing.touched).await;
        let caller = match admitted {
            Ok(caller) => caller,
            Err(refused) => {
                self.record_denial(passing, refused.caller.as_ref(), &refused.problem).await;
                return Err(refused.problem);
            }
        };
        let is_recorded = action(passing.call).is_some();
        // Somebody unknown has begun nothing: what comes of their log-in is recorded before they have it.
        if let Some(caller) = caller.as_ref().filter(|_| is_recorded) {
            self.trail.record(passing.record(Some(caller), Outcome::Begun, None)).await?;
        }
        request.extensions_mut().insert(passing.touched.clone());
        if let Some(caller) = &caller {
            request.extensions_mut().insert(caller.clone());
            if statement(passing.call).is_some() {
                let begun = Statement::new(self.trail.clone(), passing.clone(), caller.clone());
                request.extensions_mut().insert(begun);
            }
        }
        let response = next.run(request).await;
        let problem = problem_in(&response);
        let is_denied = |problem: &Problem| problem.exit == ExitCode::Denied || is_login_refused(problem);
        match &problem {
            Some(problem) if is_denied(problem) || passing.touched.was_denied() => {
                self.record_denial(passing, caller.as_ref(), problem).await;
            }
            _ if !is_recorded => {}
            None if caller.is_none() => self.trail.record(passing.record(None, Outcome::Done, None)).await?,
            None => self.record_end(passing.record(caller.as_ref(), Outcome::Done, None)).await,
            failed => {
                self.record_end(passing.record(caller.as_ref(), Outcome::Failed, failed.as_ref())).await;
            }
        }
        Ok(response)
    }

    async fn record_denial(&self, passing: &Passing, caller: Option<&Caller>, problem: &Problem) {
        let record = passing.record(caller, Outcome::Denied, Some(problem));
        let turn = match caller {
            Some(_) => Some(0),
            None => self.strangers_turn(problem),
        };
        match turn {
            None => {}
            Some(0) => self.record_end(record).await,
            Some(beside) => self.record_end(record.with("refused beside it", beside.to_string())).await,
        }
    }

    fn strangers_turn(&self, problem: &Problem) -> Option<u64> {
        let now = self.clock.monotonic();
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        match problem.code.as_str() {
            "auth.login_refused" => strangers.passwords.turn(now, PASSWORDS_MAX),
            _ => strangers.tokens.turn(now, TOKENS_MAX),
        }
    }

    /// Records what has come to its end. That it began is recorded, and it cannot be undone: where this cannot be written, the log says so.
    async fn record_end(&self, record: Record) {
        let (action, outcome) = (record.action.clone(), record.outcome);
        if let Err(problem) = self.trail.record(record).await {
            tracing::error!(%problem, action, %outcome, "the end of an action could not be recorded");
        }
    }
}

impl Passing {
    pub(super) fn record(
        &self,
        caller: Option<&Caller>,
        outcome: Outcome,
        problem: Option<&Problem>,
    ) -> Record {
        let objects = self.touched.objects();
        let actor = match caller {
            Some(caller) => actor(&caller.principal),
            None => Actor { kind: "unknown".to_owned(), name: self.touched.user(), credential: None },
        };
        let action = action(self.call).or(statement(self.call));
        let action = action.map_or_else(|| self.call.path().to_owned(), str::to_owned);
        let record = Record {
            request: Some(self.request.clone()),
            from: Some(self.from.to_string()),
            permission: permission(self.call).map(|permission| permission.to_string()),
            object: objects
                .first()
                .map(|(kind, name)| aap_audit::Object { kind: kind.to_string(), name: name.clone() }),
            problem: problem.map(|problem| problem.code.clone()),
            ..Record::new(actor, action, outcome)
        };
        let others: Vec<String> =
            objects.iter().skip(1).map(|(kind, name)| format!("{kind}/{name}")).collect();
        let record = if others.is_empty() { record } else { record.with("also", others.join(", ")) };
        match &self.reason {
            Some(reason) => record.with("reason", reason),
            None => record,
        }
    }
}

/// The middleware. What no rule speaks of is not a call.
pub(crate) async fn pass_gate(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let Some(call) = call_of(request.uri().path()) else {
        return Status::unimplemented("there is no such call").into_http::<Body>();
    };
    let id = match request_id(request.headers()) {
        Ok(id) => id,
        Err(problem) => return status_of_problem(&problem).into_http::<Body>(),
    };
    let (from, touched) = (address_of(&request), Touched::default());
    let passing = Passing { call, request: id, from, reason: reason(request.headers()), touched };
    let mut response = match gate.pass(&passing, request, next).await {
        Ok(response) => response,
        Err(problem) => status_of_problem(&problem).into_http::<Body>(),
    };
    if let Ok(value) = HeaderValue::from_str(&passing.request) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Of a call that is answered at once with its failure; one that fails later has begun to answer.
fn problem_in(response: &Response) -> Option<Problem> {
    let status = Status::from_header_map(response.headers())?;
    (status.code() != tonic::Code::Ok).then(|| problem_of_status(&status))
}

fn is_login_refused(problem: &Problem) -> bool {
    ["auth.login_refused", "auth.locked_out"].contains(&problem.code.as_str())
}

/// What whoever calls has named it, or a new one.
fn request_id(headers: &HeaderMap) -> Result<String, Problem> {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_plain = |id: &&str| {
        (1..=REQUEST_ID_LETTERS_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    match given.filter(is_plain) {
        Some(id) => Ok(id.to_owned()),
        None => crate::resources::mint_uid(),
    }
}

/// Why the call is made. The log cuts what is too long.
fn reason(headers: &HeaderMap) -> Option<String> {
    let metadata = MetadataMap::from_headers(headers.clone());
    let bytes = metadata.get_bin(REASON)?.to_bytes().ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|reason| !reason.is_empty())
}

/// The token that is shown, if one is.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    shown.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim)
}

/// Where a request comes from.
pub(crate) fn address_of(request: &Request) -> IpAddr {
    let client = request.extensions().get::<ConnectInfo<Client>>();
    client.map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(client)| client.address.ip())
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
