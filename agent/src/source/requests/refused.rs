//! Why a request was not taken, whatever protocol it came by.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::ingress::IngressError;

/// When to ask a node again that is being drained: somebody works on it.
const DRAINING_SECONDS: u64 = 30;

/// Why a request was not taken.
#[derive(Debug)]
pub(in crate::source) struct Refused {
    pub(in crate::source) status: StatusCode,
    pub(in crate::source) code: &'static str,
    pub(in crate::source) message: String,
    /// In seconds.
    pub(in crate::source) retry_after: Option<u64>,
    pub(in crate::source) row: Option<u64>,
}

impl Refused {
    pub(in crate::source) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, row: None }
    }

    pub(in crate::source) fn later(self) -> Self {
        self.after(1)
    }

    pub(in crate::source) fn after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut error = serde_json::json!({ "code": self.code, "message": self.message });
        if let Some(row) = self.row {
            error["row"] = row.into();
        }
        let body = format!("{}\n", serde_json::json!({ "error": error }));
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// Why rows did not become durable.
pub(in crate::source) fn not_stored(error: &IngressError) -> Refused {
    let chain = match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    match error {
        IngressError::Draining => {
            let message =
                "this node is being drained; nothing of this request was taken, send it to another one";
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, "http.draining", message).after(DRAINING_SECONDS)
        }
        IngressError::Append(aap_buffer::Error::Full) => {
            let message =
                "the buffer is full until the coordinator takes data; nothing of this request was taken";
            Refused::new(StatusCode::TOO_MANY_REQUESTS, "http.buffer_full", message).later()
        }
        IngressError::Append(aap_buffer::Error::Oversize { .. })
        | IngressError::Seal { source: aap_buffer::Error::Oversize { .. }, .. } => {
            Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "http.too_large", chain)
        }
        _ => Refused::new(StatusCode::SERVICE_UNAVAILABLE, "http.not_stored", chain).later(),
    }
}
