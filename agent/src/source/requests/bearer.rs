//! The bearer token that requests must show.

use axum::http::{HeaderMap, StatusCode, header};
use camino::{Utf8Path, Utf8PathBuf};

use super::Refused;
use crate::source::{SourceDeps, SourceError};

/// A token in a file, read anew at every request so that it can be changed.
#[derive(Debug, Clone)]
pub(in crate::source) struct Bearer {
    file: Utf8PathBuf,
}

impl Bearer {
    /// The token in `file`, which others on this machine must not be able to read: it would protect nothing. While the file is
    /// missing, every request is refused.
    pub(in crate::source) async fn open(file: Utf8PathBuf) -> Result<Self, SourceError> {
        let own = file.clone();
        let exposed = tokio::task::spawn_blocking(move || aap_runtime::exposed_mode(&own)).await;
        if let Ok(Ok(Some(mode))) = exposed {
            let message = format!(
                "the token in `{file}` can be read by others (mode {mode:o}); run `chmod 600 {file}`"
            );
            return Err(SourceError::Config(message));
        }
        Ok(Self::of(file))
    }

    /// The token that a configuration asks for, if it does.
    pub(in crate::source) async fn of_spec(
        file: Option<&Utf8Path>,
        deps: &SourceDeps,
    ) -> Result<Option<Self>, SourceError> {
        match file {
            Some(file) => Self::open(deps.home.root().join(file)).await.map(Some),
            None => Ok(None),
        }
    }

    /// The token in `file`, whoever can read it.
    pub(in crate::source) fn of(file: Utf8PathBuf) -> Self {
        Self { file }
    }

    /// Compares the token of a request with the file's.
    pub(in crate::source) async fn authorise(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let denied = || {
            let message = format!("send `Authorization: Bearer` with the token in `{}`", self.file);
            Refused::new(StatusCode::UNAUTHORIZED, "auth.token_refused", message)
        };
        let path = self.file.clone();
        let reading = tokio::task::spawn_blocking(move || std::fs::read_to_string(path).unwrap_or_default());
        let expected = reading.await.unwrap_or_default();
        let expected = expected.trim();
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim).unwrap_or_default();
        // Comparing digests takes the same time wherever the texts differ.
        let same = blake3::hash(expected.as_bytes()) == blake3::hash(given.as_bytes());
        if same && !expected.is_empty() { Ok(()) } else { Err(denied()) }
    }
}
