//! What can go wrong, as the caller meets it.

use std::io;
use std::sync::Arc;

use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};

use crate::KeyError;

/// A failure of the audit log. Cheap to clone, because one failed group fails every append in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The log was closed.
    #[error("the audit log is closed")]
    Closed,
    /// A sync failed earlier: nothing is known of what the disk took, so nothing is recorded until the log is opened again.
    #[error("the audit log is broken since a sync failed")]
    Broken,
    /// Another process has the log open.
    #[error("the audit log `{path}` is in use by another process")]
    Locked {
        /// The directory.
        path: Utf8PathBuf,
    },
    /// There is no audit log where one was looked for.
    #[error("there is no audit log in `{path}`")]
    NoLog {
        /// The directory.
        path: Utf8PathBuf,
    },
    /// The signing key cannot be had.
    #[error("the signing key of the audit log cannot be used")]
    Key(#[from] Arc<KeyError>),
    /// An operation on the storage failed; nothing of what was asked for was taken.
    #[error("{attempt} `{path}`")]
    Io {
        /// What was being attempted.
        attempt: &'static str,
        /// On which file or directory.
        path: Utf8PathBuf,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
}

impl Error {
    pub(crate) fn io(attempt: &'static str, path: &Utf8Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { attempt, path, source: Arc::new(source) }
    }

    /// What an operator is told whose action was refused because it cannot be recorded, or who asked for what was recorded.
    pub fn problem(&self) -> Problem {
        match self {
            Self::NoLog { .. } => {
                Problem::new("audit.no_log", ExitCode::NotFound, "there is no audit log").caused_by(self)
            }
            Self::Key(_) => {
                Problem::new("audit.key", ExitCode::Usage, "the audit log cannot be signed").caused_by(self)
            }
            Self::Closed | Self::Broken | Self::Locked { .. } | Self::Io { .. } => {
                Problem::new("audit.unavailable", ExitCode::Unavailable, "the audit log cannot be used")
                    .caused_by(self)
                    .hint("look at the disk of the coordinator, then start it again")
            }
        }
    }
}
