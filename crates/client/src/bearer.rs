//! What goes with every call: the token, and the reason that was given for what is done.

use std::fmt;

use aap_runtime::Secret;
use aap_types::{ExitCode, Problem};
use tonic::metadata::{Ascii, Binary, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Why something is done, as `aap context unlock` was told: the coordinator records it. Bytes, because people write in their own language.
pub(crate) const REASON: &str = "x-aap-reason-bin";

/// Puts a token on every call; none on a socket, whose mode is the permission, and before a log-in. Never prints it.
#[derive(Clone)]
pub struct Bearer {
    header: Option<MetadataValue<Ascii>>,
    reason: Option<MetadataValue<Binary>>,
}

impl Bearer {
    /// No token.
    pub(crate) fn none() -> Self {
        Self { header: None, reason: None }
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
        Ok(Self { header: Some(header), reason: None })
    }

    /// The same, and says why.
    pub(crate) fn because(self, reason: Option<&str>) -> Self {
        Self { reason: reason.map(|reason| MetadataValue::from_bytes(reason.as_bytes())), ..self }
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
        if let Some(reason) = &self.reason {
            request.metadata_mut().insert_bin(REASON, reason.clone());
        }
        Ok(request)
    }
}
