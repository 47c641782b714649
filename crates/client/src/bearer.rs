//! The token that goes with every call.

use std::fmt;

use aap_runtime::Secret;
use aap_types::{ExitCode, Problem};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Puts a token on every call; none on a socket, whose mode is the permission, and before a log-in. Never prints it.
#[derive(Clone)]
pub struct Bearer {
    header: Option<MetadataValue<Ascii>>,
}

impl Bearer {
    /// No token.
    pub(crate) fn none() -> Self {
        Self { header: None }
    }

    /// A token; `place` is where it stands.
    ///
    /// # Errors
    /// `auth.token_unreadable` (4): it is empty, or no text that a header can have.
    pub fn of(token: &Secret, place: &str) -> Result<Self, Problem> {
        let text = token.reveal().trim();
        let header: Option<MetadataValue<Ascii>> = format!("Bearer {text}").parse().ok();
        let Some(mut header) = header.filter(|_| !text.is_empty()) else {
            let message = format!("{place} does not hold a token");
            return Err(Problem::new("auth.token_unreadable", ExitCode::LoginNeeded, message)
                .hint("it holds the token alone, in one line"));
        };
        header.set_sensitive(true);
        Ok(Self { header: Some(header) })
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.header {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}
