//! The gate of the operators' port: every call gets a request id, is let on or refused, and leaves a record if it changes something or
//! was refused.
//!
//! ```text
//! call ──► request id ──► limit of ──► who calls, and ──► limit of ──► record `begun` ──► service ──► record `done`, `failed`
//!                         the address  whether they may   the caller    │                             or `denied`
//!                             │ too often    │ no           │ too often  └ cannot be written: `audit.unavailable`, nothing is done
//!                             └──────────────┴──────────────┴──► record `denied`
//! ```
//! What began is recorded only where something is changed.

use std::net::IpAddr;

use aap_audit::{Actor, Outcome, Record};
use aap_proto::{Call, problem_of_status, status_of_problem};
use aap_transport::{Asker, Client};
use aap_types::{ExitCode, Problem};
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::denials::Denials;
use super::guard::{Caller, Guard, Refused, Touched};
use super::rules::{action, call_of, permission, statement};
use super::statements::Statement;
use crate::audit::{AuditTrail, actor};
use crate::gateway::{Limits, Quota};

/// By which a call is found again in the log, the audit record and at whoever made it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Why something is done, as whoever does it says: UTF-8.
const REASON: &str = "x-aap-reason-bin";
/// Letters of a request id that is taken from whoever calls.
const REQUEST_ID_LETTERS_MAX: usize = 64;

/// What calls come through. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    guard: Guard,
    trail: AuditTrail,
    limits: Limits,
    denials: Denials,
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
    pub(crate) fn new(guard: Guard, trail: AuditTrail, limits: Limits, denials: Denials) -> Self {
        Self { guard, trail, limits, denials }
    }

    /// For whoever asks for figures.
    pub(crate) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// What is recorded.
    pub(crate) fn trail(&self) -> &AuditTrail {
        &self.trail
    }

    /// For whoever asks for figures.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Who makes a call, if it may be made now.
    async fn admit(
        &self,
        passing: &Passing,
        quota: &mut Quota,
        shown: Option<&str>,
    ) -> Result<Option<Caller>, Refused> {
        self.limits.admit_address(passing.from, quota).await?;
        if matches!(passing.call, Call::AccessLogIn | Call::AccessFinishLogin) {
            self.limits.admit_log_in(passing.from, quota).await?;
        }
        let admitted = self.guard.admit(passing.call, shown, passing.from, &passing.touched).await;
        // Also of what they may not do: a denial is work, too.
        let caller = match &admitted {
            Ok(caller) => caller.clone(),
            Err(refused) => refused.caller.clone(),
        };
        if let Some(caller) = caller {
            let limited = self.limits.admit_principal(&caller.principal, quota).await;
            limited.map_err(|problem| Refused { problem, caller: Some(caller) })?;
        }
        admitted
    }

    async fn pass(
        &self,
        passing: &Passing,
        quota: &mut Quota,
        mut request: Request,
        next: Next,
    ) -> Result<Response, Problem> {
        let shown = bearer(request.headers()).map(str::to_owned);
        let caller = match self.admit(passing, quota, shown.as_deref()).await {
            Ok(caller) => caller,
            Err(refused) => {
                self.record_refusal(passing, refused.caller.as_ref(), Outcome::Denied, &refused.problem)
                    .await;
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
            if let Some(asker) = request.extensions().get::<Asker>() {
                asker.mark_known();
            }
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
                self.record_refusal(passing, caller.as_ref(), Outcome::Denied, problem).await;
            }
            _ if !is_recorded => {}
            None if caller.is_none() => self.trail.record(passing.record(None, Outcome::Done, None)).await?,
            None => self.denials.record_end(passing.record(caller.as_ref(), Outcome::Done, None)).await,
            Some(failed) => self.record_refusal(passing, caller.as_ref(), Outcome::Failed, failed).await,
        }
        Ok(response)
    }

    /// Records that a call came to nothing: always of whoever is known, and of strangers as often as there is room for.
    async fn record_refusal(
        &self,
        passing: &Passing,
        caller: Option<&Caller>,
        outcome: Outcome,
        problem: &Problem,
    ) {
        let record = passing.record(caller, outcome, Some(problem));
        self.denials.record(record, problem, caller.is_some()).await;
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
        let told =
            self.touched.told().into_iter().fold(record, |record, (what, text)| record.with(what, text));
        match &self.reason {
            Some(reason) => told.with("reason", reason),
            None => told,
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
    let mut quota = Quota::default();
    let mut response = match gate.pass(&passing, &mut quota, request, next).await {
        Ok(response) => response,
        Err(problem) => status_of_problem(&problem).into_http::<Body>(),
    };
    quota.write(response.headers_mut());
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
    ["auth.login_refused", "auth.locked_out", "auth.login_over"].contains(&problem.code.as_str())
}

/// What whoever calls has named it, or a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> Result<String, Problem> {
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
