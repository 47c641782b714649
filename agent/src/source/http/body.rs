//! The body of a request: read with a limit, and decompressed with the same limit.

use std::io::Read;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;

use super::Refused;

/// zstd frames that ask for a larger window are refused: 8 MiB (reliability-security 4.6).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// A body that does not move for this long is given up.
const STALL: std::time::Duration = std::time::Duration::from_secs(30);

/// Of a body that is refused for its size, this much more is read and dropped: several times the largest that is taken.
const PASSED_OVER_MAX: usize = 128 << 20;
/// And for this long.
const PASS_OVER: std::time::Duration = std::time::Duration::from_secs(5);

/// How the body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Plain,
    Gzip,
    Zstd,
}

impl Codec {
    /// What `Content-Encoding` says.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
            None | Some(b"" | b"identity") => Ok(Self::Plain),
            Some(b"gzip" | b"x-gzip") => Ok(Self::Gzip),
            Some(b"zstd") => Ok(Self::Zstd),
            Some(other) => {
                let message = format!(
                    "content encoding `{}` is not known: gzip or zstd",
                    String::from_utf8_lossy(other)
                );
                Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "http.encoding_unknown", message))
            }
        }
    }

    /// The content of a body, at most `limit` bytes of it. Blocks: it belongs on the blocking pool.
    pub(super) fn decode(self, raw: Bytes, limit: usize) -> Result<Bytes, Refused> {
        let reader: Box<dyn Read> = match self {
            Self::Plain => return Ok(raw),
            Self::Gzip => Box::new(MultiGzDecoder::new(&raw[..])),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::new(&raw[..]).map_err(|error| broken(&error))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| broken(&error))?;
                Box::new(decoder)
            }
        };
        let mut content = Vec::with_capacity(raw.len().saturating_mul(4).min(limit));
        reader.take(limit as u64 + 1).read_to_end(&mut content).map_err(|error| broken(&error))?;
        if content.len() > limit { Err(too_large(limit)) } else { Ok(content.into()) }
    }
}

fn broken(error: &std::io::Error) -> Refused {
    Refused::new(
        StatusCode::BAD_REQUEST,
        "http.bad_compression",
        format!("the body cannot be decompressed: {error}"),
    )
}

pub(super) fn too_large(limit: usize) -> Refused {
    let message = format!("the body has more than {limit} bytes after decompression; send it in parts");
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "http.too_large", message)
}

/// Reads what a client goes on sending, for a while: most look for the answer only when all is sent, and would meet a
/// closed connection instead.
async fn pass_over(mut body: Body) {
    let mut left = PASSED_OVER_MAX;
    let rest = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    if tokio::time::timeout(PASS_OVER, rest).await.is_err() {
        tracing::debug!("a client goes on sending a body that is refused");
    }
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read(mut body: Body, limit: usize) -> Result<Bytes, Refused> {
    let cut = |reason: &str| {
        Refused::new(StatusCode::BAD_REQUEST, "http.body_cut", format!("the body is not whole: {reason}"))
    };
    let mut whole = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(STALL, body.frame()).await {
            Ok(Some(frame)) => frame.map_err(|error| cut(&error.to_string()))?,
            Ok(None) => return Ok(whole.freeze()),
            Err(_) => {
                return Err(Refused::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "http.body_stalled",
                    "the body stood still for 30 s",
                ));
            }
        };
        if let Some(data) = frame.data_ref() {
            if whole.len() + data.len() > limit {
                drop(whole);
                pass_over(body).await;
                return Err(too_large(limit));
            }
            whole.extend_from_slice(data);
        }
    }
}
