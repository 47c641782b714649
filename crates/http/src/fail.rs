//! What the runner is told of trouble with a server.

use std::io;
use std::time::Duration;

use aap_runtime::SecretError;
use aap_sinks::{Failure, FailureKind};
use aap_types::{ExitCode, Problem};
use reqwest::StatusCode;

/// Why there is no answer, or none that helps.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The line, or the other side of it.
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    /// Nobody answered.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    /// The server says no.
    #[error("HTTP {status}: {reason}")]
    Status {
        /// With which number.
        status: StatusCode,
        /// In which words.
        reason: String,
    },
    /// The answer has another form than the question asks for.
    #[error("the server's answer is not understood: {0}")]
    Answer(String),
    /// Nobody knows the password.
    #[error(transparent)]
    Secret(SecretError),
    /// The authorities cannot be read.
    #[error(transparent)]
    Tls(io::Error),
}

impl HttpError {
    /// Without the URL: the message has it.
    pub(crate) fn of(error: reqwest::Error) -> Self {
        Self::Request(error.without_url())
    }

    /// Whether a request on its way to `server` may still have arrived, or may be tried elsewhere.
    pub(crate) fn is_connect(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_connect())
    }

    /// Whether the certificate of the other side is why.
    fn is_certificate(&self) -> bool {
        let Self::Request(error) = self else { return false };
        let mut source = std::error::Error::source(error);
        while let Some(error) = source {
            let io = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if error.is::<rustls::Error>() || io.is_some_and(|inner| inner.is::<rustls::Error>()) {
                return true;
            }
            source = error.source();
        }
        false
    }
}

/// The words for one kind of server.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    /// `OpenSearch`, `the HTTP server`.
    pub(crate) server: &'static str,
    /// Where rows go.
    pub(crate) place: String,
}

impl Words {
    /// An error as a failure: what can be done about it follows from its status.
    pub(crate) fn failure(&self, error: &HttpError) -> Failure {
        let Self { server, place } = self;
        match error {
            HttpError::Secret(_) | HttpError::Tls(_) => self.setting(error),
            HttpError::Status { status, .. } => match *status {
                StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                    let message = format!("{server} does not let the sink write to {place}");
                    refused("sink.denied", ExitCode::Denied, message, error)
                }
                status if is_passing(status) => self.away(error),
                _ => {
                    let message = format!("{server} does not do at {place} what the sink needs");
                    refused("sink.server_refused", ExitCode::Failed, message, error)
                }
            },
            HttpError::Answer(_) => {
                let message = format!("{server} at {place} answers what the sink does not understand");
                refused("sink.server_refused", ExitCode::Failed, message, error)
            }
            _ if error.is_certificate() => {
                let message = format!("the certificate of {server} at {place} is not trusted");
                refused("sink.tls", ExitCode::Failed, message, error)
            }
            _ => self.away(error),
        }
    }

    fn away(&self, error: &HttpError) -> Failure {
        Failure::unreachable(format!("{} does not do its work for {} now", self.server, self.place), error)
    }

    fn setting(&self, error: &HttpError) -> Failure {
        let message = format!("a setting of the sink to {} is not usable", self.place);
        refused("sink.setting", ExitCode::Usage, message, error)
    }
}

/// Whether a server that answers so may answer otherwise by itself.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::CONFLICT
            | StatusCode::TOO_EARLY
            | StatusCode::TOO_MANY_REQUESTS
    ) || status.is_server_error()
}

/// Somebody has to act.
pub(crate) fn refused(
    code: &str,
    exit: ExitCode,
    message: String,
    error: &(dyn std::error::Error + 'static),
) -> Failure {
    Failure::new(FailureKind::Refused, Problem::new(code, exit, message).caused_by(error))
}

/// A setting that cannot be used.
pub(crate) fn setting(what: &'static str, why: String) -> Failure {
    let problem = Problem::new("sink.setting", ExitCode::Usage, format!("a setting of {what} is not usable"));
    Failure::new(FailureKind::Refused, problem.cause(why))
}

/// The beginning of an answer, on one line.
pub(crate) fn excerpt(body: &[u8]) -> String {
    /// Letters that are shown.
    const SHOWN: usize = 300;
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN)]);
    let line: Vec<&str> = text.split_whitespace().collect();
    let line: String = line.join(" ").chars().take(SHOWN).collect();
    if line.is_empty() { "(no text)".to_owned() } else { line }
}
