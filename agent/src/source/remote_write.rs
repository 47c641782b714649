//! What Prometheus writes to remote storage: `POST /api/v1/write`, remote write 1.0, answered after the rows are durable.
//!
//! | answer | when |
//! |---|---|
//! | 204 | durable |
//! | 400 | not a request of remote write: nothing was taken; or some series cannot be kept: the others were taken |
//! | 401 | wrong token |
//! | 413 | larger than the limit |
//! | 415 | another compression than snappy, another protocol than 1.0 |
//! | 503 with `Retry-After` | the buffer is full, there are too many requests, or the rows were not stored |
//!
//! Prometheus sends again what got 5xx and gives up what got 4xx, 429 included unless it is told otherwise: so a full buffer
//! is 503 here. It gives requests no id. A sample that is sent again may stand there twice, with the same labels and time.

use aap_decode::prometheus::{PrometheusError, Taken, decode_write};
use aap_runtime::Shutdown;
use aap_types::StreamName;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use super::requests::body::too_large;
use super::requests::{Bearer, Intake, Listener, Refused, not_stored, security};
use super::{SourceDeps, SourceError};
use crate::config::RemoteWriteSpec;
use crate::ingress::{IngressError, Parcel, Sealer, Tally};

/// What requests work with.
#[derive(Debug, Clone)]
struct Api {
    intake: Intake,
    stream: StreamName,
}

/// Listens until it is asked to stop.
pub(super) async fn run(
    name: String,
    spec: RemoteWriteSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let bearer = Bearer::of_spec(spec.token_file.as_deref(), &deps).await?;
    let security = security(spec.tls.as_ref(), &deps)?;
    let listener = Listener::bind(spec.listen, security, spec.connections_per_address).await?;
    let address = listener.address()?;
    deps.board.source(&name, |entry| entry.detail = format!("listens on {address}"));
    tracing::info!(%address, "remote-write source listens");
    let body_bytes_max = usize::try_from(spec.body_bytes_max.0).unwrap_or(usize::MAX);
    let api = Api { intake: Intake::new(deps, bearer, body_bytes_max), stream: spec.stream };
    listener.serve(router(api), shutdown).await
}

fn router(api: Api) -> Router {
    Router::new().route("/api/v1/write", post(write)).with_state(api)
}

async fn write(State(api): State<Api>, headers: HeaderMap, body: Body) -> Response {
    match take(&api, &headers, body).await {
        Ok(Taken { rejected: 0, .. }) => StatusCode::NO_CONTENT.into_response(),
        // After the others were taken, as the protocol demands.
        Ok(Taken { rejected, reason, .. }) => {
            let message = format!("{rejected} samples cannot be kept: {reason}; the others were taken");
            Refused::new(StatusCode::BAD_REQUEST, "http.bad_series", message).into_response()
        }
        Err(refused) => worth_sending_again(refused).into_response(),
    }
}

/// Prometheus sends again what got a status of 500 or above.
fn worth_sending_again(mut refused: Refused) -> Refused {
    if matches!(refused.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT) {
        refused.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    refused
}

async fn take(api: &Api, headers: &HeaderMap, body: Body) -> Result<Taken, Refused> {
    check_headers(headers)?;
    let raw = api.intake.read(headers, body).await?;
    let (stream, limit) = (api.stream.clone(), api.intake.body_bytes_max());
    let taken = api.intake.take(raw, move |raw, observed_us| {
        let content = decompress(&raw.bytes, limit)?;
        pack(&stream, &content, observed_us).map_err(Refused::from)
    });
    taken.await
}

fn check_headers(headers: &HeaderMap) -> Result<(), Refused> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = text(header::CONTENT_TYPE);
    let is_known = kind.starts_with("application/x-protobuf") && !kind.contains("io.prometheus.write.v2");
    if !is_known {
        let message = format!("content type `{kind}` is not known: application/x-protobuf, remote write 1.0");
        return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "http.type_unknown", message));
    }
    let encoding = text(header::CONTENT_ENCODING);
    if encoding != "snappy" {
        let message = format!("content encoding `{encoding}` is not known: snappy");
        return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "http.encoding_unknown", message));
    }
    Ok(())
}

fn decompress(body: &[u8], limit: usize) -> Result<Vec<u8>, Refused> {
    let broken = |error: snap::Error| {
        let message = format!("the body cannot be decompressed: {error}");
        Refused::new(StatusCode::BAD_REQUEST, "http.bad_compression", message)
    };
    // It is stated at the beginning.
    if snap::raw::decompress_len(body).map_err(broken)? > limit {
        return Err(too_large(limit));
    }
    snap::raw::Decoder::new().decompress_vec(body).map_err(broken)
}

/// Decodes and seals. Blocks: it belongs on the blocking pool.
fn pack(stream: &StreamName, request: &[u8], observed_us: i64) -> Result<(Parcel, Taken), Failure> {
    let (mut parcel, mut sealer) = (Parcel::default(), Sealer::default());
    let taken = decode_write(request, observed_us, &mut |batch, input_bytes| {
        parcel.add(stream, &mut sealer, &batch, input_bytes).map_err(Failure::Ingress)
    })?;
    if taken.rejected > 0 {
        parcel.tallies.push(Tally { rejected: taken.rejected, ..Tally::new(stream) });
    }
    Ok((parcel, taken))
}

/// Why a request did not become rows.
#[derive(Debug)]
enum Failure {
    Request(PrometheusError),
    Ingress(IngressError),
}

impl From<PrometheusError> for Failure {
    fn from(error: PrometheusError) -> Self {
        Self::Request(error)
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Ingress(error) => not_stored(&error),
            Failure::Request(error) => {
                let message = format!("{error}; nothing was taken");
                Refused::new(StatusCode::BAD_REQUEST, "http.bad_message", message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::testing::Rig;

    /// `up{job="j"} 1` at 1000 ms.
    const SERIES: &[u8] = b"\x0a\x28\x0a\x0e\x0a\x08__name__\x12\x02up\x0a\x08\x0a\x03job\x12\x01j\
        \x12\x0c\x09\x00\x00\x00\x00\x00\x00\xf0\x3f\x10\xe8\x07";

    async fn post(api: &Api, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, String) {
        let mut request = Request::post("/api/v1/write");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = router(api.clone()).oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    fn snappy(bytes: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(bytes).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn samples_are_rows_when_the_answer_comes_and_what_is_wrong_is_named() {
        let rig = Rig::new();
        let intake = Intake::new(rig.deps.clone(), None, 1 << 20);
        let api = Api { intake, stream: "prometheus".parse().unwrap() };
        let protobuf = ("content-type", "application/x-protobuf");
        let v2 = ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request");
        let encoded = ("content-encoding", "snappy");
        assert_eq!(post(&api, &[protobuf, encoded], snappy(SERIES)).await, (204, String::new()));
        assert_eq!(rig.texts("prometheus", "metric"), ["up"]);
        assert_eq!(rig.texts("prometheus", "attributes"), [r#"{"job":"j"}"#]);
        assert_eq!(rig.texts("prometheus", "ts"), ["1970-01-01T00:00:01"]);
        let bad: Vec<u8> = SERIES.iter().map(|byte| if *byte == b'j' { 0xff } else { *byte }).collect();
        let mixed = [SERIES, &bad[..]].concat();
        for (headers, body, status, code) in [
            (vec![protobuf, encoded], snappy(b"\x0a\xff"), 400, "http.bad_message"),
            (vec![protobuf, encoded], snappy(&mixed), 400, "http.bad_series"),
            (vec![protobuf, encoded], b"\xff\xff".to_vec(), 400, "http.bad_compression"),
            (vec![protobuf, encoded], snappy(&vec![0; 2 << 20]), 413, "http.too_large"),
            (vec![protobuf], SERIES.to_vec(), 415, "http.encoding_unknown"),
            (vec![v2, encoded], snappy(SERIES), 415, "http.type_unknown"),
        ] {
            let answer = post(&api, &headers, body).await;
            assert_eq!(answer.0, status, "{answer:?}");
            assert!(answer.1.contains(code), "{answer:?}");
        }
        assert_eq!(
            rig.texts("prometheus", "metric"),
            ["up", "up"],
            "the good ones of a mixed request are taken"
        );
    }
}
