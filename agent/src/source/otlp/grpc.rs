//! OTLP over gRPC. A call has one message and one answer, which needs no stub: the body is read with the limits of all
//! bodies, and decompressed with them, before anything is made of it.

use aap_decode::otlp::{Signal, status};
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tonic::{Code, Status};

use super::{Api, Form, pack};
use crate::source::requests::Refused;
use crate::source::requests::body::Codec;

/// Whether it is compressed, and its length: before each message.
const PREFIX_BYTES: usize = 5;

/// One call.
pub(super) async fn export(api: Api, signal: Signal, headers: HeaderMap, body: Body) -> Response {
    match take(&api, signal, &headers, body).await {
        Ok(answer) => answered(&answer),
        Err(refused) => refusal(refused),
    }
}

async fn take(api: &Api, signal: Signal, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Refused> {
    let is_grpc = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| matches!(value.as_bytes(), b"application/grpc" | b"application/grpc+proto"));
    if !is_grpc {
        let message = "this path takes gRPC calls; over HTTP, send to /v1/logs, /v1/metrics or /v1/traces";
        return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "http.type_unknown", message));
    }
    let encoding = headers.get("grpc-encoding").map(|value| value.as_bytes().to_vec());
    let raw = api.intake.read(headers, body).await?;
    let (stream, limit) = (api.stream(signal).clone(), api.intake.body_bytes_max());
    let taken = api.intake.take(raw, move |raw, observed_us| {
        let (is_compressed, message) = message_of(&raw.bytes)?;
        let codec = Codec::named(encoding.as_deref().filter(|_| is_compressed))?;
        pack(signal, &stream, (Form::Protobuf, codec, limit), message, observed_us)
    });
    Ok(signal.answer(&taken.await?))
}

/// The one message of a call, and whether it is compressed.
fn message_of(body: &Bytes) -> Result<(bool, Bytes), Refused> {
    let broken = || {
        let message = "not a gRPC call of one message; nothing was taken";
        Refused::new(StatusCode::BAD_REQUEST, "http.bad_message", message)
    };
    let (prefix, message) = body.split_first_chunk::<PREFIX_BYTES>().ok_or_else(broken)?;
    let [compressed, length @ ..] = *prefix;
    if compressed > 1 || u32::from_be_bytes(length) as usize != message.len() {
        return Err(broken());
    }
    Ok((compressed == 1, body.slice(PREFIX_BYTES..)))
}

fn answered(message: &[u8]) -> Response {
    let mut body = Vec::with_capacity(PREFIX_BYTES + message.len());
    body.push(0);
    body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    body.extend_from_slice(message);
    let trailers = async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Some(Ok(trailers))
    };
    let body = Body::new(Full::new(Bytes::from(body)).with_trailers(trailers));
    ([(header::CONTENT_TYPE, "application/grpc")], body).into_response()
}

/// The refusal as a status, which says when to come again where that is worth it.
fn refusal(refused: Refused) -> Response {
    let Refused { status: http_status, code, message, retry_after, .. } = refused;
    let (code, message) = (code_of(http_status), format!("{code}: {message}"));
    let details = status(code as i32, &message, retry_after);
    Status::with_details(code, message, details.into()).into_http()
}

/// The code of a status of HTTP. What may be sent again must have one of those that clients send again for.
pub(super) fn code_of(status: StatusCode) -> Code {
    match status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::Unimplemented,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::REQUEST_TIMEOUT => Code::Unavailable,
        status if status.is_server_error() => Code::Unavailable,
        _ => Code::InvalidArgument,
    }
}
