//! The operators' port: gRPC behind the bearer token, and what monitoring asks without one.

use std::convert::Infallible;
use std::time::Duration;

use aap_access::{Kind, Object, Verb};
use aap_proto::v1::access_server::AccessServer;
use aap_proto::v1::audit_server::AuditServer;
use aap_proto::v1::enrolment_server::EnrolmentServer;
use aap_proto::v1::operator_server::OperatorServer;
use aap_proto::v1::resources_server::ResourcesServer;
use aap_proto::v1::secrets_server::SecretsServer;
use aap_proto::{MESSAGE_BYTES_MAX, status_of_problem};
use aap_runtime::Shutdown;
use aap_transport::{ALPN_ENROL, Client, HttpListener, Protection, serve_http};
use aap_types::{ExitCode, Problem};
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tonic::service::Routes;
use tower::ServiceExt;

use crate::access::{AccessService, Gate, Guard, address_of, bearer, pass_gate};
use crate::audit::{AuditService, AuditTrail};
use crate::enrolment::{EnrolmentService, REQUEST_BYTES_MAX, Refused};
use crate::gateway::{self, Hops, Limits, Quota, name_client};
use crate::metrics;
use crate::operator::OperatorService;
use crate::resources::ResourceService;
use crate::secrets::SecretsService;

/// What clients may speak, the preferred one first.
pub(crate) const PROTOCOLS: [&[u8]; 3] = [b"h2", b"http/1.1", ALPN_ENROL];

/// The largest secret with its name, and room for the words around them.
const SECRET_MESSAGE_BYTES_MAX: usize = 128 << 10;

/// A user with the names of their roles, or a log-in: strangers send it, too, and it is in memory before it is looked at.
const ACCESS_MESSAGE_BYTES_MAX: usize = 128 << 10;

/// How long an enrolment may take. Nobody knows who asks, so its request must be here soon; it has 4 KiB, and one signature is made.
const ENROLMENT_DEADLINE: Duration = Duration::from_secs(30);

/// What is served.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) operator: OperatorService,
    pub(crate) resources: ResourceService,
    pub(crate) access: AccessService,
    pub(crate) audit: AuditService,
    pub(crate) enrolment: EnrolmentService,
    pub(crate) secrets: SecretsService,
}

/// Serves until `shutdown`.
pub(crate) async fn serve(
    listener: HttpListener,
    services: Services,
    (gate, routes, hops): (Gate, gateway::Routes, Hops),
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let Services { operator: service, resources, access, audit, enrolment, secrets } = services;
    let operator = OperatorServer::new(service.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let resources = ResourcesServer::new(resources)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let refused = enrolment.refused().clone();
    let enrolment = EnrolmentServer::new(enrolment).max_decoding_message_size(REQUEST_BYTES_MAX);
    let access = AccessServer::new(access).max_decoding_message_size(ACCESS_MESSAGE_BYTES_MAX);
    let secrets = SecretsServer::new(secrets).max_decoding_message_size(SECRET_MESSAGE_BYTES_MAX);
    let audit = AuditServer::new(audit).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let monitoring = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(show_readiness))
        .with_state(Monitored {
            service,
            audit: gate.trail().clone(),
            guard: gate.guard().clone(),
            limits: gate.limits().clone(),
            refused,
            routes,
        })
        .layer(from_fn_with_state(gate.limits().clone(), limit_address));
    let operators = Routes::new(operator).add_service(resources).add_service(access);
    let operators = operators.add_service(audit).add_service(secrets);
    let operators = operators.into_axum_router().layer(from_fn_with_state(gate, pass_gate));
    let enrolment = Routes::new(enrolment).into_axum_router();
    let router = dispatch(operators, enrolment, monitoring).layer(from_fn_with_state(hops, name_client));
    serve_http(listener, router, shutdown).await;
    Ok(())
}

/// Calls of gRPC go to `operators`, those of machines that enrol to `enrolment` and nowhere else, everything else to `monitoring`: what is
/// not there is 404 or 405 to whoever asks in plain HTTP, where tonic alone would answer 200 with nothing in it.
fn dispatch(operators: Router, enrolment: Router, monitoring: Router) -> Router {
    let monitoring = monitoring
        .method_not_allowed_fallback(wrong_method)
        .fallback(async |request: Request| no_such_path(request.uri().path()));
    Router::new().fallback(async move |request: Request| {
        let refused = |problem| status_of_problem(&problem).into_http::<Body>();
        match (caller(&request), is_grpc(request.headers())) {
            (Caller::Machine, _) => {
                let answered = tokio::time::timeout(ENROLMENT_DEADLINE, enrolment.oneshot(request)).await;
                answered
                    .map_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response(), IntoResponse::into_response)
            }
            (_, false) => monitoring.oneshot(request).await.into_response(),
            (Caller::Operator, true) => operators.oneshot(request).await.into_response(),
            // Whoever is on the way could read the token that comes with the call.
            (Caller::Anybody, true) => refused(not_protected()),
        }
    })
}

/// Who a connection is for.
enum Caller {
    /// A machine that wants to become a node.
    Machine,
    /// With TLS.
    Operator,
    /// Without.
    Anybody,
}

fn caller(request: &Request) -> Caller {
    match request.extensions().get::<ConnectInfo<Client>>() {
        Some(ConnectInfo(Client { protection: Protection::Tls(protocol), .. })) => {
            match protocol.as_deref() {
                Some(ALPN_ENROL) => Caller::Machine,
                _ => Caller::Operator,
            }
        }
        _ => Caller::Anybody,
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

fn not_protected() -> Problem {
    Problem::new("auth.tls_needed", ExitCode::Usage, "operators are answered over TLS only").hint(
        "use an `aap` of this version: it takes the authority from `tls/root.pem` of the platform's home",
    )
}

fn no_such_path(path: &str) -> Response {
    let problem =
        Problem::new("http.no_such_path", ExitCode::NotFound, format!("there is nothing at `{path}`"))
            .hint("GET /metrics, /healthz or /readyz; everything else is for `aap`");
    typed(StatusCode::NOT_FOUND, &problem)
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let message = format!("`{}` does not take {method}", uri.path());
    let problem = Problem::new("http.wrong_method", ExitCode::Usage, message).hint("use GET");
    typed(StatusCode::METHOD_NOT_ALLOWED, &problem)
}

/// Lets on whoever does not ask too often; what is asked in plain HTTP is asked by address.
async fn limit_address(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let mut quota = Quota::default();
    let admitted = limits.admit_address(address_of(&request), &mut quota).await;
    let mut response = match admitted {
        Ok(()) => next.run(request).await,
        Err(problem) => typed(StatusCode::TOO_MANY_REQUESTS, &problem),
    };
    quota.write(response.headers_mut());
    response
}

fn typed(status: StatusCode, problem: &Problem) -> Response {
    let body = format!("{}\n", problem.to_json());
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// What monitoring asks.
#[derive(Debug, Clone)]
struct Monitored {
    service: OperatorService,
    audit: AuditTrail,
    guard: Guard,
    limits: Limits,
    refused: Refused,
    routes: gateway::Routes,
}

async fn show_metrics(
    State(monitored): State<Monitored>,
    ConnectInfo(client): ConnectInfo<Client>,
    headers: HeaderMap,
) -> Response {
    if let Err(problem) = require_monitoring(&client, &headers, &monitored.guard).await {
        let problem = problem.hint("beyond this machine, show a token as `Authorization: Bearer TOKEN`");
        let status =
            if problem.exit == ExitCode::Denied { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
        return typed(status, &problem);
    }
    let Monitored { service, audit, limits, refused, routes, .. } = monitored;
    let render = move || {
        metrics::render(&service, &audit) + &limits.figures() + &refused.figures() + &routes.figures()
    };
    let text = tokio::task::spawn_blocking(render);
    let text = text.await.unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Names of streams and nodes stand in the figures: whoever asks from elsewhere shows a token. On this machine everybody may.
async fn require_monitoring(client: &Client, headers: &HeaderMap, guard: &Guard) -> Result<(), Problem> {
    if client.address.ip().is_loopback() {
        return Ok(());
    }
    let caller = guard.caller(bearer(headers), client.address.ip()).await?;
    caller.require(Verb::Read, Object::named(Kind::Platform, "metrics"))
}

async fn show_readiness(State(monitored): State<Monitored>) -> Result<impl IntoResponse, Infallible> {
    let blocked = monitored.service.queries.inner.landing.buffer().stats().blocked;
    Ok(match blocked {
        false => (StatusCode::OK, "ok\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "the landing buffer is full\n"),
    })
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    /// What is answered to a request of a client that came with TLS, or without.
    async fn answered(protection: Protection, method: Method, path: &str, kind: &str) -> Response {
        let operators =
            Router::new().route("/aap.v1.Operator/{*rest}", axum::routing::any(|| async { "\"called\"" }));
        let monitoring = Router::new().route("/healthz", get(|| async { "\"ok\"" }));
        let client = Client { address: ([127, 0, 0, 1], 1).into(), protection };
        let request = axum::http::Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.extension(ConnectInfo(client)).body(Body::empty()).unwrap();
        let enrolment =
            Router::new().route("/aap.v1.Enrolment/{*rest}", axum::routing::any(|| async { "\"enrolled\"" }));
        dispatch(operators, enrolment, monitoring).oneshot(request).await.unwrap()
    }

    /// Status and JSON of it, with TLS.
    async fn asked(method: Method, path: &str, kind: &str) -> (u16, serde_json::Value) {
        let response = answered(Protection::Tls(None), method, path, kind).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn plain_http_gets_404_for_unknown_paths_and_405_for_wrong_methods() {
        let code = |answer: (u16, serde_json::Value)| {
            (answer.0, answer.1["error"]["code"].as_str().unwrap_or_default().to_owned())
        };
        for path in ["/", "/nope", "/v1/streams/logs", "/aap.v1.Operator/Status"] {
            let answer = asked(Method::GET, path, "text/plain").await;
            assert!(answer.1["error"]["message"].as_str().unwrap().contains(path), "{answer:?}");
            assert_eq!(code(answer), (404, "http.no_such_path".to_owned()));
        }
        let answer = asked(Method::POST, "/healthz", "text/plain").await;
        assert_eq!(code(answer), (405, "http.wrong_method".to_owned()));
        assert_eq!(asked(Method::GET, "/healthz", "text/plain").await, (200, "ok".into()));
        let call = asked(Method::POST, "/aap.v1.Operator/Status", "application/grpc+proto").await;
        assert_eq!(call, (200, "called".into()));
    }

    #[tokio::test]
    async fn without_tls_no_call_is_answered_and_no_token_is_looked_at() {
        let kind = "application/grpc+proto";
        let response = answered(Protection::Plain, Method::POST, "/aap.v1.Operator/Status", kind).await;
        let status = response.headers().get("grpc-status").unwrap().to_str().unwrap();
        assert_ne!(status, "0");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(!body.windows(6).any(|window| window == b"called"));
        let monitoring = answered(Protection::Plain, Method::GET, "/healthz", "text/plain").await;
        assert_eq!(monitoring.status().as_u16(), 200);
    }

    #[tokio::test]
    async fn a_machine_that_enrols_calls_nothing_else_and_nobody_else_enrols() {
        let kind = "application/grpc+proto";
        let machine = || Protection::Tls(Some(ALPN_ENROL.to_vec()));
        let body = async |response: Response| response.into_body().collect().await.unwrap().to_bytes();
        let enrolled = answered(machine(), Method::POST, "/aap.v1.Enrolment/Enrol", kind).await;
        assert_eq!(body(enrolled).await, "\"enrolled\"");
        for path in ["/aap.v1.Operator/Status", "/healthz", "/metrics"] {
            let refused = answered(machine(), Method::POST, path, kind).await;
            assert_eq!(refused.status().as_u16(), 404, "{path}");
        }
        let operator = Protection::Tls(Some(b"h2".to_vec()));
        let refused = answered(operator, Method::POST, "/aap.v1.Enrolment/Enrol", kind).await;
        assert_ne!(body(refused).await, "\"enrolled\"");
    }
}
