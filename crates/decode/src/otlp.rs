//! OTLP requests of the OpenTelemetry protocol to Arrow: one row a log record, a data point, or a span.
//!
//! Requests are read from the wire into columns, without messages between; JSON requests are first written as protobuf
//! ([`json_to_protobuf`]), so that there is one way only. Times are in microseconds as everywhere here; the exact
//! nanoseconds stand beside them. What belongs to a resource or a scope is a dictionary column: each text is there once a batch.
//!
//! A record that cannot be kept is left out and counted, with the reason, for the partial success of the answer. Bytes that are
//! not the message at all are an error, and nothing of them is taken.
//!
//! | file | owns |
//! |---|---|
//! | `otlp/any.rs` | attributes and bodies as JSON text |
//! | `otlp/request.rs` | what all requests share: resources, scopes, batches |
//! | `otlp/logs.rs`, `otlp/metrics.rs`, `otlp/traces.rs` | the records of each signal |
//! | `otlp/json.rs` | JSON requests as protobuf |

mod any;
mod json;
mod logs;
mod metrics;
mod request;
#[cfg(test)]
pub(crate) mod tests;
mod traces;

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;

pub use json::json_to_protobuf;

use crate::wire::{WireError, put_bytes, put_tag, put_varint};

/// Largest record, as it stands in the request. Text grows at most sixfold as JSON, and a row must fit into a batch.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Largest resource or scope: it stands beside every one of its records.
pub const RESOURCE_BYTES_MAX: usize = 64 << 10;
/// Most rows of a batch: their dictionaries then never have more words than 16 bits number.
pub const ROWS_MAX: usize = i16::MAX as usize;
/// Text that one request may become, with what is shared counted beside every row: beyond it records are refused, or a few
/// bytes could stand for terabytes.
pub const TEXT_BYTES_MAX: usize = 512 << 20;

/// What a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Log records.
    Logs,
    /// Data points of metrics.
    Metrics,
    /// Spans.
    Traces,
}

/// What became of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Records that are rows.
    pub rows: u64,
    /// Records that cannot be kept.
    pub rejected: u64,
    /// Why the first of them cannot; empty if there are none.
    pub reason: String,
}

/// Why a request cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// Not the protobuf message.
    #[error("not an OTLP request: {0}")]
    Wire(#[from] WireError),
    /// Not the JSON form of the message.
    #[error("not an OTLP request in JSON")]
    Json(#[source] serde_json::Error),
    /// A bug of ours: the columns do not form a batch.
    #[error("build the batch")]
    Build(#[from] ArrowError),
}

/// Decodes a whole request in protobuf. Gives each full batch, and the bytes it was made of, to `emit`.
pub fn decode<E: From<OtlpError>>(
    signal: Signal,
    request: &[u8],
    observed_us: i64,
    emit: &mut dyn FnMut(RecordBatch, u64) -> Result<(), E>,
) -> Result<Taken, E> {
    match signal {
        Signal::Logs => request::decode::<logs::Logs, E>(request, observed_us, emit),
        Signal::Metrics => request::decode::<metrics::Metrics, E>(request, observed_us, emit),
        Signal::Traces => request::decode::<traces::Traces, E>(request, observed_us, emit),
    }
}

impl Signal {
    /// The field of a partial success that counts, in JSON.
    fn rejected_name(self) -> &'static str {
        match self {
            Self::Logs => "rejectedLogRecords",
            Self::Metrics => "rejectedDataPoints",
            Self::Traces => "rejectedSpans",
        }
    }

    /// The answer to a request that was taken, as protobuf.
    pub fn answer(self, taken: &Taken) -> Vec<u8> {
        let mut partial = Vec::new();
        if taken.rejected > 0 {
            put_tag(&mut partial, 1, 0);
            put_varint(&mut partial, taken.rejected);
            put_bytes(&mut partial, 2, taken.reason.as_bytes());
        }
        let mut answer = Vec::new();
        if !partial.is_empty() {
            put_bytes(&mut answer, 1, &partial);
        }
        answer
    }

    /// The same as JSON.
    pub fn answer_json(self, taken: &Taken) -> String {
        if taken.rejected == 0 {
            return "{}".to_owned();
        }
        let partial = serde_json::json!({
            self.rejected_name(): taken.rejected.to_string(),
            "errorMessage": taken.reason,
        });
        serde_json::json!({ "partialSuccess": partial }).to_string()
    }
}

/// A `google.rpc.Status`, and within it, if it says when to come again, a `google.rpc.RetryInfo`.
pub fn status(code: i32, message: &str, retry_after_s: Option<u64>) -> Vec<u8> {
    let mut out = Vec::new();
    put_tag(&mut out, 1, 0);
    put_varint(&mut out, u64::from(code.unsigned_abs()));
    put_bytes(&mut out, 2, message.as_bytes());
    if let Some(seconds) = retry_after_s {
        let (mut duration, mut info, mut any) = (Vec::new(), Vec::new(), Vec::new());
        put_tag(&mut duration, 1, 0);
        put_varint(&mut duration, seconds);
        put_bytes(&mut info, 1, &duration);
        put_bytes(&mut any, 1, b"type.googleapis.com/google.rpc.RetryInfo");
        put_bytes(&mut any, 2, &info);
        put_bytes(&mut out, 3, &any);
    }
    out
}
