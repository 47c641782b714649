//! The operators' port: gRPC behind the bearer token, and what monitoring asks without one.

use std::convert::Infallible;
use std::sync::Arc;

use aap_proto::v1::operator_server::OperatorServer;
use aap_proto::v1::resources_server::ResourcesServer;
use aap_proto::{MESSAGE_BYTES_MAX, status_of_problem};
use aap_runtime::Shutdown;
use aap_types::{ExitCode, Problem};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};
use tower::ServiceExt;

use crate::metrics;
use crate::operator::OperatorService;
use crate::resources::ResourceService;

/// Serves until `shutdown`.
pub(crate) async fn serve(
    listener: TcpListener,
    service: OperatorService,
    resources: ResourceService,
    token: String,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let operator = OperatorServer::new(service.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let resources = ResourcesServer::new(resources)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let token: Arc<str> = token.into();
    let guard = move |request| authorise(&token, request);
    let operator = InterceptedService::new(operator, guard.clone());
    let resources = InterceptedService::new(resources, guard);
    let monitoring = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(show_readiness))
        .with_state(service);
    let router = dispatch(Routes::new(operator).add_service(resources).into_axum_router(), monitoring);
    axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.requested().await }).await
}

/// Calls of gRPC go to `operators`, everything else to `monitoring`: what is not there is 404 or 405 to whoever asks in
/// plain HTTP, where tonic alone would answer 200 with nothing in it.
fn dispatch(operators: Router, monitoring: Router) -> Router {
    let elsewhere = async move |request: axum::extract::Request| {
        if is_grpc(request.headers()) {
            return operators.oneshot(request).await.into_response();
        }
        no_such_path(request.uri().path())
    };
    monitoring.method_not_allowed_fallback(wrong_method).fallback(elsewhere)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
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

fn typed(status: StatusCode, problem: &Problem) -> Response {
    let body = format!("{}\n", problem.to_json());
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn authorise(token: &str, request: Request<()>) -> Result<Request<()>, Status> {
    let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    match shown.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(shown) if is_same(shown.trim().as_bytes(), token.as_bytes()) => Ok(request),
        Some(_) => Err(refused("auth.token_refused", "the operator's token is not the one of this platform")),
        None => Err(refused("auth.token_missing", "no operator's token was shown")),
    }
}

fn refused(code: &str, message: &str) -> Status {
    let problem = Problem::new(code, ExitCode::LoginNeeded, message);
    status_of_problem(
        &problem.hint("the token lies in `run/operator.token` of the platform's home; check AAP_HOME"),
    )
}

/// Compares in a time that does not depend on where they differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

async fn show_metrics(State(service): State<OperatorService>) -> impl IntoResponse {
    let text = tokio::task::spawn_blocking(move || metrics::render(&service)).await.unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn show_readiness(State(service): State<OperatorService>) -> Result<impl IntoResponse, Infallible> {
    let blocked = service.queries.inner.landing.buffer().stats().blocked;
    Ok(match blocked {
        false => (StatusCode::OK, "ok\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "the landing buffer is full\n"),
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;

    use super::*;

    /// Status and code of what is answered to a request.
    async fn asked(method: Method, path: &str, kind: &str) -> (u16, serde_json::Value) {
        let operators =
            Router::new().route("/aap.v1.Operator/{*rest}", axum::routing::any(|| async { "\"called\"" }));
        let monitoring = Router::new().route("/healthz", get(|| async { "\"ok\"" }));
        let request = axum::http::Request::builder().method(method).uri(path).header("content-type", kind);
        let response =
            dispatch(operators, monitoring).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
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

    #[test]
    fn only_the_right_token_opens() {
        let check = |shown: Option<&str>| {
            let mut request = Request::new(());
            if let Some(shown) = shown {
                request.metadata_mut().insert("authorization", shown.parse().unwrap());
            }
            authorise("secret", request).is_ok()
        };
        assert!(check(Some("Bearer secret")));
        for wrong in [None, Some("Bearer secre"), Some("Bearer secret2"), Some("secret"), Some("Bearer ")] {
            assert!(!check(wrong), "{wrong:?}");
        }
    }
}
