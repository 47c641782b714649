//! What can go wrong, as the caller meets it.

use std::io;
use std::sync::Arc;

use aap_types::{Epoch, ExitCode, NodeId, Problem, Sequence};
use arrow_schema::ArrowError;
use camino::{Utf8Path, Utf8PathBuf};

/// A failure of the buffer. Cheap to clone, because one failed group fails every append in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// `try_append` found no room now; it will be there when the landing consumer has moved on.
    #[error("the buffer has no room now")]
    Full,
    /// The buffer was closed.
    #[error("the buffer is closed")]
    Closed,
    /// An operation on the storage failed.
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
    /// A landed batch or a skip is not the next of its stream.
    #[error("the next sequence of `{key}` is {expected}")]
    OutOfOrder {
        /// Which stream.
        key: String,
        /// What must come next.
        expected: Sequence,
    },
    /// One append is larger than a group may be.
    #[error("an append of {bytes} bytes is over the limit of {limit} bytes")]
    Oversize {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Another process has the store open.
    #[error("the store `{path}` is in use by another process")]
    Locked {
        /// The directory.
        path: Utf8PathBuf,
    },
    /// The store belongs to another node.
    #[error("the store `{path}` belongs to node `{found}`, not to `{expected}`")]
    ForeignNode {
        /// The directory.
        path: Utf8PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who tried to open it.
        expected: NodeId,
    },
    /// There is no store in a directory that a tool was pointed at.
    #[error("`{path}` holds no store")]
    NoStore {
        /// The directory.
        path: Utf8PathBuf,
    },
    /// The store was written by a newer version of this program.
    #[error("the store `{path}` has format version {found}; this program knows versions up to {supported}")]
    NewerFormat {
        /// The directory.
        path: Utf8PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known here.
        supported: u32,
    },
    /// A setting makes no sense.
    #[error("buffer setting `{setting}`: {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// Why.
        reason: String,
    },
    /// A batch could not be encoded, or bytes are not a batch.
    #[error("{attempt}")]
    Arrow {
        /// What was being attempted.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        source: Arc<ArrowError>,
    },
    /// Bytes are not what they claim to be.
    #[error("invalid batch: {0}")]
    Invalid(String),
    /// Stored bytes do not match their checksum.
    #[error("damaged bytes in `{path}` at offset {offset}")]
    Damaged {
        /// The segment file.
        path: Utf8PathBuf,
        /// Where.
        offset: u64,
    },
    /// An epoch was asked for that is not newer than the present one.
    #[error("epoch {0} is not newer than the present one")]
    StaleEpoch(Epoch),
}

/// Whether trying the same again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Yes, after a while.
    Later,
    /// No; something must be changed first.
    No,
}

impl Error {
    pub(crate) fn io(attempt: &'static str, path: &Utf8Path, source: io::Error) -> Self {
        Self::Io { attempt, path: path.to_owned(), source: Arc::new(source) }
    }

    pub(crate) fn arrow(attempt: &'static str) -> impl FnOnce(ArrowError) -> Self {
        move |source| Self::Arrow { attempt, source: Arc::new(source) }
    }

    /// Whether the storage is out of space (`ENOSPC`, `EDQUOT`, `EFBIG`).
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }

    /// The stable code; each has a page in `docs/errors/`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Full => "buffer.full",
            Self::Closed => "buffer.closed",
            Self::Io { .. } if self.is_no_space() => "buffer.no_space",
            Self::Io { .. } => "buffer.io",
            Self::OutOfOrder { .. } => "buffer.out_of_order",
            Self::Oversize { .. } => "buffer.oversize",
            Self::Locked { .. } => "buffer.locked",
            Self::ForeignNode { .. } => "buffer.foreign_node",
            Self::NoStore { .. } => "buffer.no_store",
            Self::NewerFormat { .. } => "buffer.newer_format",
            Self::Setting { .. } => "buffer.setting",
            Self::Arrow { .. } | Self::Invalid(_) => "buffer.invalid_batch",
            Self::Damaged { .. } => "buffer.damaged",
            Self::StaleEpoch(_) => "buffer.stale_epoch",
        }
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Full | Self::Io { .. } | Self::Locked { .. } => Retry::Later,
            _ => Retry::No,
        }
    }

    /// The failure as an operator meets it, with the remedy.
    pub fn problem(&self) -> Problem {
        let exit = match self {
            Self::Full | Self::Closed => ExitCode::Unavailable,
            Self::Locked { .. } | Self::ForeignNode { .. } | Self::OutOfOrder { .. } => ExitCode::Conflict,
            Self::Setting { .. } => ExitCode::Usage,
            Self::NoStore { .. } => ExitCode::NotFound,
            Self::Damaged { .. } => ExitCode::CheckFailed,
            _ => ExitCode::Failed,
        };
        let mut problem = Problem::new(self.code(), exit, self.to_string());
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            problem = problem.cause(cause.to_string());
            next = cause.source();
        }
        match self.remedy() {
            Some(text) => problem.hint(text),
            None => problem,
        }
    }

    /// What to do about it, in words.
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::Full => "try again when waiting data has been delivered, or raise `budget`",
            Self::Io { .. } if self.is_no_space() => {
                "free space on that filesystem; the buffer goes on by itself"
            }
            Self::Io { .. } => "check the disk and the directory's owner and mode",
            Self::Oversize { .. } => "send the data in smaller parts",
            Self::Locked { .. } => {
                "stop the other process, or give this one a directory of its own (`lsof` names the holder)"
            }
            Self::ForeignNode { .. } => {
                "point this node at its own directory, or move the foreign store away; its data can be read with `aap buffer export`"
            }
            Self::NewerFormat { .. } => "start the newer version again, or move the directory away",
            Self::Damaged { .. } => "run `aap buffer verify DIR`, then `aap buffer salvage DIR`",
            _ => return None,
        })
    }
}

pub(crate) fn is_no_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
