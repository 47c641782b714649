//! What somebody is told whose request is not passed on.

use std::time::Duration;

use aap_types::{ExitCode, Problem};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::ProxyBody;
use super::connect::OutOfReach;

/// After how long it makes sense to try again where nobody knows better.
const RETRY: Duration = Duration::from_secs(1);

/// A status, and the problem behind it.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// For the first line of the answer.
    pub status: StatusCode,
    /// For its body.
    pub problem: Box<Problem>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &str, exit: ExitCode, message: impl Into<String>) -> Self {
        Self { status, problem: Box::new(Problem::new(code, exit, message)) }
    }

    pub(crate) fn hint(mut self, text: impl Into<String>) -> Self {
        self.problem = Box::new(self.problem.as_ref().clone().hint(text));
        self
    }

    pub(crate) fn cause(mut self, text: impl Into<String>) -> Self {
        self.problem = Box::new(self.problem.as_ref().clone().cause(text));
        self
    }

    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        self.problem = Box::new(self.problem.as_ref().clone().retry_after_ms(ms));
        self
    }

    /// The answer.
    pub fn into_response(self) -> Response<ProxyBody> {
        let text = format!("{}\n", self.problem.to_json());
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(ms) = self.problem.retry_after_ms {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
        }
        response
    }
}

/// `gateway.bad_path`.
pub(crate) fn bad_path() -> Refusal {
    let message = "the path has `.`, `..`, or an encoded slash between its slashes";
    Refusal::new(StatusCode::BAD_REQUEST, "gateway.bad_path", ExitCode::Usage, message)
        .hint("ask for the path as the server would write it")
}

/// `gateway.no_route`.
pub(crate) fn no_route() -> Refusal {
    let message = "no route is for this host, path and method";
    Refusal::new(StatusCode::NOT_FOUND, "gateway.no_route", ExitCode::NotFound, message)
        .hint("see what is declared: `aap get route`")
}

/// `gateway.too_large`.
pub(crate) fn too_large(what: &str, limit: &str) -> Refusal {
    let message = format!("the body is larger {what} than {limit}, the limit of this route");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "gateway.too_large", ExitCode::Usage, message)
        .hint("send less at once; whoever declared the route sets the limit: `body` of it")
}

/// `gateway.bad_body`.
pub(crate) fn bad_body(why: impl Into<String>) -> Refusal {
    let message = "the body is not what its headers say";
    Refusal::new(StatusCode::BAD_REQUEST, "gateway.bad_body", ExitCode::Usage, message).cause(why)
}

/// `gateway.encoding_unknown`.
pub(crate) fn encoding_unknown(encoding: &str) -> Refusal {
    let message = format!("the encoding `{}` of the body is not known here", encoding.escape_default());
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Refusal::new(status, "gateway.encoding_unknown", ExitCode::Usage, message)
        .hint("send it as it is, or with gzip, deflate or zstd")
}

/// `gateway.secret`.
pub(crate) fn no_secret(route: &str, header: &str, why: &str) -> Refusal {
    tracing::error!(route, header, why, "a secret of a route cannot be used");
    let message = format!("a secret of the route `{route}` cannot be used");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "gateway.secret", ExitCode::Failed, message)
        .hint("whoever runs the coordinator finds the reason in its log")
}

/// `gateway.no_upstream`.
pub(crate) fn no_upstream(route: &str, wait: Duration) -> Refusal {
    let message = format!("no upstream of the route `{route}` is well");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "gateway.no_upstream", ExitCode::Unavailable, message)
        .hint("see the coordinator's log, which says why they are left alone")
        .retry_after(wait.max(RETRY))
}

/// `gateway.upstream_failed`.
pub(crate) fn upstream_failed(why: &str) -> Refusal {
    let message = "the server behind this route did not answer";
    Refusal::new(StatusCode::BAD_GATEWAY, "gateway.upstream_failed", ExitCode::Unavailable, message)
        .cause(why)
        .retry_after(RETRY)
}

/// `gateway.upstream_late`.
pub(crate) fn upstream_late(timeout: Duration) -> Refusal {
    let message = format!("the server behind this route did not answer within {} s", timeout.as_secs());
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, "gateway.upstream_late", ExitCode::Unavailable, message)
        .cause("it is late")
        .retry_after(RETRY)
}

/// `gateway.out_of_reach`.
pub(crate) fn out_of_reach(found: &OutOfReach) -> Refusal {
    tracing::warn!(%found, "a route leads to an address that it may not reach");
    let message = "this route leads to an address that it may not reach";
    Refusal::new(StatusCode::BAD_GATEWAY, "gateway.out_of_reach", ExitCode::Denied, message)
        .hint("whoever declared the route may allow it: `upstreams.allow`")
}
