//! OTLP over HTTP: protobuf and JSON, each answered in its own form.

use aap_decode::otlp::{Signal, status};
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Api, Form, pack};
use crate::source::requests::Refused;
use crate::source::requests::body::Codec;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

impl Form {
    /// What `Content-Type` says.
    fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        let value =
            headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            PROTOBUF => Ok(Self::Protobuf),
            JSON => Ok(Self::Json),
            other => {
                let message = format!("content type `{other}` is not known: {PROTOBUF} or {JSON}");
                Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "http.type_unknown", message))
            }
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => PROTOBUF,
            Self::Json => JSON,
        }
    }
}

/// One request.
pub(super) async fn export(api: Api, signal: Signal, headers: HeaderMap, body: Body) -> Response {
    let form = match Form::of(&headers) {
        Ok(form) => form,
        Err(refused) => return refusal(Form::Json, refused),
    };
    match take(&api, signal, form, &headers, body).await {
        Ok(answer) => ([(header::CONTENT_TYPE, form.content_type())], answer).into_response(),
        Err(refused) => refusal(form, refused),
    }
}

async fn take(
    api: &Api,
    signal: Signal,
    form: Form,
    headers: &HeaderMap,
    body: Body,
) -> Result<Vec<u8>, Refused> {
    let codec = Codec::of(headers)?;
    let raw = api.intake.read(headers, body).await?;
    let (stream, limit) = (api.stream(signal).clone(), api.intake.body_bytes_max());
    let taken = api.intake.take(raw, move |raw, observed_us| {
        pack(signal, &stream, (form, codec, limit), raw.bytes.clone(), observed_us)
    });
    let taken = taken.await?;
    Ok(match form {
        Form::Protobuf => signal.answer(&taken),
        Form::Json => signal.answer_json(&taken).into_bytes(),
    })
}

/// The refusal as clients of OTLP read it: they send again what got 429, 502, 503 or 504, and nothing else.
fn refusal(form: Form, refused: Refused) -> Response {
    let Refused { status: http_status, code, message, retry_after, .. } = refused;
    let http_status = match http_status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::INTERNAL_SERVER_ERROR => StatusCode::SERVICE_UNAVAILABLE,
        other => other,
    };
    let number = super::grpc::code_of(http_status) as i32;
    let message = format!("{code}: {message}");
    let body = match form {
        Form::Protobuf => status(number, &message, retry_after),
        Form::Json => serde_json::json!({ "code": number, "message": message }).to_string().into_bytes(),
    };
    let mut response = (http_status, [(header::CONTENT_TYPE, form.content_type())], body).into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
