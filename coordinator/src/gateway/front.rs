//! The listener of routes: who asks, whether they may, how often; then the route.
//!
//! ```text
//! request ─► limit of the address ─► route ─► who asks, and whether they may ─► limits of the caller, of the route ─► upstream
//!                                      └ public: nobody is looked up
//! ```

use std::convert::Infallible;
use std::net::IpAddr;

use aap_access::{Object, Permission};
use aap_audit::{Actor, Outcome, Record};
use aap_gateway::route::{Asked, ProxyBody, Refusal};
use aap_runtime::Shutdown;
use aap_transport::{Client, HttpListener, Protection, serve_http};
use aap_types::{ExitCode, Problem};
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use futures::FutureExt;
use http_body_util::BodyExt;

use super::hops::{Hops, name_client};
use super::limits::{Limits, Quota, is_limited};
use super::routes::{KIND, Needs, Route, Routes};
use crate::access::{Caller, Denials, Guard, REQUEST_ID, address_of, bearer, request_id};
use crate::audit::actor;

/// What requests of routes come through. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Front {
    pub(crate) routes: Routes,
    pub(crate) guard: Guard,
    pub(crate) limits: Limits,
    pub(crate) denials: Denials,
}

/// Serves until `shutdown`.
pub(crate) async fn serve(
    listener: HttpListener,
    front: Front,
    hops: Hops,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let router = Router::new().fallback(pass).with_state(front).layer(from_fn_with_state(hops, name_client));
    serve_http(listener, router, shutdown).await;
    Ok(())
}

async fn pass(State(front): State<Front>, request: Request) -> Response {
    let id = match request_id(request.headers()) {
        Ok(id) => id,
        Err(problem) => return refusal_of(problem).into_response().map(Body::new),
    };
    let mut quota = Quota::default();
    let answered = front.answer(&id, &mut quota, request).await;
    let mut response = answered.unwrap_or_else(Refusal::into_response).map(Body::new);
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().entry(header::WWW_AUTHENTICATE).or_insert(HeaderValue::from_static("Bearer"));
    }
    quota.write(response.headers_mut());
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// A problem as plain HTTP says it.
fn refusal_of(problem: Problem) -> Refusal {
    let status = match problem.exit {
        _ if is_limited(&problem) => StatusCode::TOO_MANY_REQUESTS,
        ExitCode::LoginNeeded => StatusCode::UNAUTHORIZED,
        ExitCode::Denied => StatusCode::FORBIDDEN,
        ExitCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal { status, problem: Box::new(problem) }
}

/// A request on its way.
struct Passing<'a> {
    id: &'a str,
    from: IpAddr,
    route: &'a Route,
}

impl Front {
    async fn answer(
        &self,
        id: &str,
        quota: &mut Quota,
        request: Request,
    ) -> Result<axum::http::Response<ProxyBody>, Refusal> {
        let from = address_of(&request);
        let limited = self.limits.admit_address(from, quota).await;
        if let Err(problem) = limited {
            let nobody = Record::new(nobody(), "route", Outcome::Denied);
            let record = Record { request: Some(id.to_owned()), from: Some(from.to_string()), ..nobody };
            let record = Record { problem: Some(problem.code.clone()), ..record };
            self.denials.record(record, &problem, false).await;
            return Err(refusal_of(problem));
        }
        let route = self.routes.find(request.method(), request.uri(), request.headers())?;
        let passing = Passing { id, from, route: &route };
        let caller = self.admit(&passing, bearer(request.headers()), quota).await.map_err(refusal_of)?;
        let connected = request.extensions().get::<ConnectInfo<Client>>();
        let is_tls = connected.is_some_and(|ConnectInfo(client)| client.protection != Protection::Plain);
        let fresh = crate::resources::mint_uid().map_err(refusal_of)?;
        let fresh = u128::from_str_radix(&fresh, 16).unwrap_or(1);
        // What goes on for long ends when its caller may no more.
        let until = caller.zip(route.needs.clone()).map(|(caller, needs)| {
            let may = move |caller: &Caller| caller.may(needs.verb, Object::named(needs.kind, &needs.name));
            caller.until_refused(may).map(drop).boxed()
        });
        let asked = Asked { client: from, is_tls, request_id: id.to_owned(), fresh };
        let request = request.map(|body| -> ProxyBody { body.map_err(Into::into).boxed_unsync() });
        route.proxy.forward(&asked, until, request).await
    }

    /// Who asks, if they may now. Nobody for a public route.
    async fn admit(
        &self,
        passing: &Passing<'_>,
        shown: Option<&str>,
        quota: &mut Quota,
    ) -> Result<Option<Caller>, Problem> {
        let mut caller = None;
        let admitted = self.admit_caller(passing, shown, quota, &mut caller).await;
        if let Err(problem) = &admitted {
            let record = passing.denied(caller.as_ref(), problem);
            self.denials.record(record, problem, caller.is_some()).await;
        }
        admitted.map(|()| caller)
    }

    async fn admit_caller(
        &self,
        passing: &Passing<'_>,
        shown: Option<&str>,
        quota: &mut Quota,
        caller: &mut Option<Caller>,
    ) -> Result<(), Problem> {
        if let Some(Needs { kind, verb, name }) = &passing.route.needs {
            let known = caller.insert(self.guard.caller(shown, passing.from).await?);
            self.limits.admit_principal(&known.principal, quota).await?;
            known.require(*verb, Object::named(*kind, name))?;
        }
        let proxy = &passing.route.proxy;
        let Some(rate) = proxy.spec().limit else { return Ok(()) };
        let principal = caller.as_ref().map(|caller| caller.principal.as_ref());
        self.limits.admit_route((proxy.name(), rate), principal, passing.from, quota).await
    }
}

impl Passing<'_> {
    fn denied(&self, caller: Option<&Caller>, problem: &Problem) -> Record {
        let actor = caller.map_or_else(nobody, |caller| actor(&caller.principal));
        let needs = self.route.needs.as_ref();
        let object =
            aap_audit::Object { kind: KIND.to_lowercase(), name: self.route.proxy.name().to_owned() };
        Record {
            request: Some(self.id.to_owned()),
            from: Some(self.from.to_string()),
            permission: needs.map(|needs| Permission::on(needs.kind, needs.verb).to_string()),
            object: Some(object),
            problem: Some(problem.code.clone()),
            ..Record::new(actor, "route", Outcome::Denied)
        }
    }
}

/// Whoever asks without being known.
fn nobody() -> Actor {
    Actor { kind: "unknown".to_owned(), ..Actor::default() }
}
