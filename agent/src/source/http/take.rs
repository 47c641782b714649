//! The rows of one request: decompress, decode, refuse or keep bad ones, append, answer.

use aap_buffer::Entry;
use aap_decode::{Context, DecodeError};
use aap_types::StreamName;
use arrow_ipc::reader::StreamReader;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;

use super::keys::Claim;
use super::ledger::Answer;
use crate::config::FormatSpec;
use crate::formats::Recipe;
use crate::ingest::columnar::normalise;
use crate::ingest::{Allowance, ClaimError, check_stream};
use crate::ingress::{IngressError, Packer, Parcel, Sealer, Tally, positions_only};
use crate::source::SourceDeps;
use crate::source::requests::body::{Codec, Raw, too_large};
use crate::source::requests::{Refused, not_stored};

/// The form of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ndjson,
    Json,
    Csv,
    Text,
    Arrow,
}

impl Kind {
    /// What `Content-Type` says.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        let value =
            headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        Ok(match essence.as_str() {
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines" => Self::Ndjson,
            "application/json" => Self::Json,
            "text/csv" => Self::Csv,
            "text/plain" => Self::Text,
            "application/vnd.apache.arrow.stream" => Self::Arrow,
            _ => {
                let message = format!(
                    "content type `{essence}` is not known: application/x-ndjson, application/json, text/csv, \
                     text/plain or application/vnd.apache.arrow.stream"
                );
                return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "http.type_unknown", message));
            }
        })
    }
}

/// What happens to bad rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnError {
    /// Nothing is taken.
    Reject,
    /// They go to the dead-letter stream.
    DeadLetter,
}

/// One request.
pub(super) struct Request {
    pub(super) stream: StreamName,
    pub(super) source: String,
    pub(super) kind: Kind,
    pub(super) codec: Codec,
    pub(super) on_error: OnError,
    pub(super) raw: Raw,
    pub(super) limit: usize,
}

/// Takes a request and gives its answer.
pub(super) async fn take(request: Request, deps: &SourceDeps, claim: Claim) -> Result<String, Refused> {
    let observed_us = deps.ingress.clock.unix_us();
    let stream = request.stream.clone();
    let permit = deps.decoding.clone().acquire_owned().await;
    let packing = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        pack(request, observed_us)
    });
    let mut parcel = packing.await.unwrap_or_else(|_| {
        Err(Refused::new(StatusCode::BAD_REQUEST, "http.unreadable", "the body made its reader give up"))
    })?;
    deps.ingress.failpoints.reach("agent.after_read");
    let batches = parcel.tallies.iter().filter(|tally| tally.rows > 0).count();
    let answer = Answer { rows: parcel.rows(), batches: batches as u64, bad_rows: parcel.bad() }.text();
    let positions = claim.positions(observed_us, &answer);
    match parcel.entries.last_mut() {
        Some(Entry::Own { positions: own, .. }) => own.extend(positions),
        _ if positions.is_empty() => return Ok(answer),
        _ => parcel = positions_only(&stream, positions).map_err(|error| not_stored(&error))?,
    }
    deps.ingress.try_append(parcel).await.map_err(|error| not_stored(&error))?;
    claim.answered(observed_us, &answer);
    Ok(answer)
}

/// Decompresses and seals. Blocks: it belongs on the blocking pool.
fn pack(request: Request, observed_us: i64) -> Result<Parcel, Refused> {
    let Request { stream, source, kind, codec, on_error, raw, limit } = request;
    // `raw` keeps its room until the rows are made of it.
    let content = codec.decode(raw.bytes.clone(), limit)?;
    if kind == Kind::Arrow {
        return pack_arrow(stream, content, observed_us, limit);
    }
    if content.is_empty() {
        return Ok(Parcel::default());
    }
    let format = match kind {
        Kind::Ndjson => FormatSpec::Ndjson,
        Kind::Csv => FormatSpec::Csv,
        Kind::Text => FormatSpec::Text,
        Kind::Json | Kind::Arrow => FormatSpec::JsonDocument,
    };
    let failed = |message: String| Refused::new(StatusCode::BAD_REQUEST, "http.bad_rows", message);
    let (decoder, _) =
        Recipe::new(format, None, None, false).build(&content).map_err(|error| failed(error.to_string()))?;
    let mut packer = Packer::new(stream, source, decoder);
    let context = Context { observed_us, resource: None, path: None };
    let packed = packer.pack(&content, &context, vec![]).map_err(|error| match error {
        // Where the records of a broken document are is not known: it has no bad rows that could be kept apart.
        IngressError::Decode { source: DecodeError::Document { element, reason }, .. } => {
            let message =
                format!("row {element}: {reason}; the document cannot be read on; nothing was taken");
            Refused { row: Some(element), ..failed(message) }
        }
        IngressError::Decode { source, .. } => failed(source.to_string()),
        IngressError::Seal { source, .. } if is_oversize(&source) => row_too_large(&source),
        other => Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "http.failed", other.to_string()),
    })?;
    if let (OnError::Reject, Some(bad)) = (on_error, &packed.first_bad) {
        let count = packed.parcel.bad();
        let message = format!("row {}: {}; {count} bad rows; nothing was taken", bad.line, bad.reason);
        return Err(Refused { row: Some(bad.line), ..failed(message) });
    }
    Ok(packed.parcel)
}

/// Checks an Arrow stream and seals each of its batches.
fn pack_arrow(stream: StreamName, content: Bytes, observed_us: i64, limit: usize) -> Result<Parcel, Refused> {
    let failed = |error: &dyn std::error::Error| {
        Refused::new(
            StatusCode::BAD_REQUEST,
            "http.bad_rows",
            format!("not an Arrow stream: {error}; nothing was taken"),
        )
    };
    let allowance = Allowance { message: limit as u64, total: limit as u64 };
    match check_stream(&mut std::io::Cursor::new(&content), allowance) {
        Err(ClaimError::TooLarge(_)) => return Err(too_large(limit)),
        checked => checked.map_err(|error| failed(&error))?,
    }
    let mut parcel = Parcel::default();
    let mut sealer = Sealer::default();
    let reader = StreamReader::try_new(&content[..], None).map_err(|error| failed(&error))?;
    for batch in reader {
        let batch = normalise(&batch.map_err(|error| failed(&error))?, observed_us)
            .map_err(|error| failed(&error))?;
        if batch.num_rows() == 0 {
            continue;
        }
        let bytes = batch.get_array_memory_size() as u64;
        let sealed = sealer.seal_parts(&batch, bytes).map_err(|error| match is_oversize(&error) {
            true => row_too_large(&error),
            false => failed(&error),
        })?;
        for batch in sealed {
            let (rows, bytes) = (u64::from(batch.rows), batch.raw_bytes);
            parcel.entries.push(Entry::Own { stream: stream.clone(), batch, positions: vec![] });
            parcel.tallies.push(Tally { rows, bytes, ..Tally::new(&stream) });
        }
    }
    Ok(parcel)
}

fn is_oversize(error: &aap_buffer::Error) -> bool {
    matches!(error, aap_buffer::Error::Oversize { .. })
}

fn row_too_large(error: &aap_buffer::Error) -> Refused {
    let message = format!("one row is too large: {error}; nothing was taken");
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "http.too_large", message)
}
