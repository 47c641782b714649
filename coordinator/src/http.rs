//! The operators' port: gRPC behind the bearer token, and what monitoring asks without one.

use std::convert::Infallible;
use std::sync::Arc;

use aap_proto::v1::operator_server::OperatorServer;
use aap_proto::{MESSAGE_BYTES_MAX, status_of_problem};
use aap_runtime::Shutdown;
use aap_types::{ExitCode, Problem};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use crate::metrics;
use crate::operator::OperatorService;

/// Serves until `shutdown`.
pub(crate) async fn serve(
    listener: TcpListener,
    service: OperatorService,
    token: String,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let operator = OperatorServer::new(service.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let token: Arc<str> = token.into();
    let guarded = InterceptedService::new(operator, move |request| authorise(&token, request));
    let monitoring = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(show_readiness))
        .with_state(service);
    let router = Routes::new(guarded).into_axum_router().merge(monitoring);
    axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.requested().await }).await
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
    use super::*;

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
