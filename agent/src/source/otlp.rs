//! OTLP: log records, data points and spans, over gRPC and HTTP, answered after their rows are durable.
//!
//! Both protocols are spoken at every address, so that it does not matter which port a client took. A gRPC call is one message
//! behind five bytes, over HTTP/2, and its status comes in trailers: `otlp/grpc.rs`.
//!
//! | answer (HTTP, gRPC) | when |
//! |---|---|
//! | 200, `OK` | durable; records that cannot be kept are counted in it, with the reason of the first |
//! | 400, `INVALID_ARGUMENT` | not an OTLP request: nothing was taken, and nothing would be the next time |
//! | 401, `UNAUTHENTICATED` | wrong token |
//! | 413, `RESOURCE_EXHAUSTED` without `RetryInfo` | larger than the limit |
//! | 415, `UNIMPLEMENTED` | a content type or compression that is not known |
//! | 429, `RESOURCE_EXHAUSTED` with `RetryInfo` | the buffer is full, or too many requests at once: to be sent again |
//! | 503, `UNAVAILABLE` | not stored, or not soon enough to say so: to be sent again |
//!
//! OTLP gives requests no id. A client that had no answer sends the same again, and its rows may then stand there twice.
//!
//! | file | owns |
//! |---|---|
//! | `otlp/http.rs` | `POST /v1/logs`, `/v1/metrics`, `/v1/traces` |
//! | `otlp/grpc.rs` | the calls `Export` of the three services |

mod grpc;
mod http;
#[cfg(test)]
mod tests;

use aap_decode::otlp::{self, OtlpError, Signal, Taken};
use aap_runtime::Shutdown;
use aap_types::StreamName;
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;

use super::requests::body::Codec;
use super::requests::{Bearer, Intake, Listener, Refused, not_stored, security};
use super::{SourceDeps, SourceError};
use crate::config::OtlpSpec;
use crate::ingress::{IngressError, Parcel, Sealer, Tally};

/// The three signals, each with its path over HTTP and its service over gRPC.
const SIGNALS: [(Signal, &str, &str); 3] = [
    (Signal::Logs, "/v1/logs", "/opentelemetry.proto.collector.logs.v1.LogsService/Export"),
    (Signal::Metrics, "/v1/metrics", "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"),
    (Signal::Traces, "/v1/traces", "/opentelemetry.proto.collector.trace.v1.TraceService/Export"),
];

/// What requests work with. Cheap to clone.
#[derive(Debug, Clone)]
struct Api {
    intake: Intake,
    logs: StreamName,
    metrics: StreamName,
    traces: StreamName,
}

/// How the message of a request is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Protobuf,
    Json,
}

/// Listens until it is asked to stop.
pub(super) async fn run(
    name: String,
    spec: OtlpSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let bearer = Bearer::of_spec(spec.token_file.as_deref(), &deps).await?;
    let tls = security(spec.tls.as_ref(), &deps)?;
    let mut listeners = Vec::new();
    for address in spec.addresses() {
        listeners.push(Listener::bind(address, tls.clone(), spec.connections_per_address).await?);
    }
    let addresses = listeners.iter().map(|listener| listener.address().map(|address| address.to_string()));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?.join(" and ");
    deps.board.source(&name, |entry| entry.detail = format!("listens on {addresses}"));
    tracing::info!(addresses, "OTLP source listens");
    let body_bytes_max = usize::try_from(spec.body_bytes_max.0).unwrap_or(usize::MAX);
    let OtlpSpec { logs, metrics, traces, .. } = spec;
    let api = Api { intake: Intake::new(deps, bearer, body_bytes_max), logs, metrics, traces };
    let serving = listeners.into_iter().map(|listener| listener.serve(router(&api), shutdown.clone()));
    futures::future::try_join_all(serving).await.map(drop)
}

fn router(api: &Api) -> Router {
    SIGNALS.into_iter().fold(Router::new(), |router, (signal, path, service)| {
        let (by_http, by_grpc) = (api.clone(), api.clone());
        router
            .route(path, post(move |headers: HeaderMap, body| http::export(by_http, signal, headers, body)))
            .route(
                service,
                post(move |headers: HeaderMap, body| grpc::export(by_grpc, signal, headers, body)),
            )
    })
}

impl Api {
    fn stream(&self, signal: Signal) -> &StreamName {
        match signal {
            Signal::Logs => &self.logs,
            Signal::Metrics => &self.metrics,
            Signal::Traces => &self.traces,
        }
    }
}

/// Decompresses, decodes and seals a message. Blocks: it belongs on the blocking pool.
fn pack(
    signal: Signal,
    stream: &StreamName,
    (form, codec, limit): (Form, Codec, usize),
    message: Bytes,
    observed_us: i64,
) -> Result<(Parcel, Taken), Refused> {
    let mut content = codec.decode(message, limit)?;
    if form == Form::Json {
        content = otlp::json_to_protobuf(signal, &content).map_err(Failure::Request)?.into();
    }
    let (mut parcel, mut sealer) = (Parcel::default(), Sealer::default());
    let taken = otlp::decode(signal, &content, observed_us, &mut |batch, input_bytes| {
        parcel.add(stream, &mut sealer, &batch, input_bytes).map_err(Failure::Ingress)
    })?;
    if taken.rejected > 0 {
        tracing::debug!(%stream, rejected = taken.rejected, reason = taken.reason, "records were refused");
        parcel.tallies.push(Tally { rejected: taken.rejected, ..Tally::new(stream) });
    }
    Ok((parcel, taken))
}

/// Why a message did not become rows.
#[derive(Debug)]
enum Failure {
    Request(OtlpError),
    Ingress(IngressError),
}

impl From<OtlpError> for Failure {
    fn from(error: OtlpError) -> Self {
        Self::Request(error)
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Ingress(error) => not_stored(&error),
            Failure::Request(error) => {
                let message = match std::error::Error::source(&error) {
                    Some(cause) => format!("{error}: {cause}; nothing was taken"),
                    None => format!("{error}; nothing was taken"),
                };
                Refused::new(StatusCode::BAD_REQUEST, "http.bad_message", message)
            }
        }
    }
}
