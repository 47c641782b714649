//! What can go wrong in the lake.

use std::time::Duration;

use camino::Utf8PathBuf;

/// A failure of the lake. Nothing became visible unless the operation says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The local copy of what landed has lost frames that the cluster still has.
    #[error(
        "the view of what landed is damaged at `{key}`: stop this coordinator, remove `coordinator/view` of its home, and start it"
    )]
    ViewDamaged {
        /// Where.
        key: aap_types::StreamKey,
    },
    /// A file or directory of the lake.
    #[error("{doing} `{path}`")]
    File {
        /// What was being attempted.
        doing: &'static str,
        /// On what.
        path: Utf8PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The object store refused.
    #[error("{doing} `{path}` in the lake")]
    Object {
        /// What was being attempted.
        doing: &'static str,
        /// Relative to the lake's root.
        path: String,
        /// Why it failed.
        #[source]
        source: object_store::Error,
    },
    /// The object store did not answer in time.
    #[error("{doing} `{path}` in the lake: no answer within {s} s", s = deadline.as_secs())]
    Late {
        /// What was being attempted.
        doing: &'static str,
        /// Relative to the lake's root.
        path: String,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The object store does not have a file that the catalogue named: it was deleted or merged with others meanwhile.
    #[error("`{path}` is not in the lake any more")]
    Gone {
        /// Relative to the lake's root.
        path: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
    /// What the object store has under the name of a file is not that file.
    #[error("`{path}` has {found} bytes in the lake, but {expected} in the catalogue")]
    SizeDiffers {
        /// Relative to the lake's root.
        path: String,
        /// As the catalogue says.
        expected: u64,
        /// As they came.
        found: u64,
    },
    /// The daemon stops.
    #[error("{doing} `{path}` in the lake: the coordinator stops")]
    Stopping {
        /// What was being attempted.
        doing: &'static str,
        /// Relative to the lake's root.
        path: String,
    },
    /// A document about the object store says what cannot be, or names what cannot be read.
    #[error("open the object store `{place}` of the lake")]
    Open {
        /// Which one.
        place: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The folder of the lake is in use in another way.
    #[error("`{root}` holds {found}: give the lake another folder")]
    OtherUse {
        /// The folder.
        root: Utf8PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// Several coordinators, and files that only one of them can read.
    #[error("the coordinators of a cluster need a lake in an object store")]
    NotShared,
    /// This coordinator stopped leading while it changed the lake.
    #[error("another coordinator leads the lake now")]
    LeadLost,
    /// Rows could not be brought into one form.
    #[error("{doing}")]
    Arrow {
        /// What was being attempted.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: arrow_schema::ArrowError,
    },
    /// A Parquet file could not be made or read.
    #[error("{doing}")]
    Parquet {
        /// What was being attempted.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// The landing buffer.
    #[error("read the landing buffer")]
    Buffer(#[from] aap_buffer::Error),
    /// The catalogue.
    #[error("change the catalogue")]
    Store(#[from] aap_store::Error),
    /// A worker thread panicked: a bug of ours.
    #[error("a worker of the lake panicked")]
    Worker(#[from] tokio::task::JoinError),
    /// Arrow or Parquet gave up on data: a bug of theirs, or of ours.
    #[error("rows cannot be read or written")]
    Refused,
    /// Files have more columns together than a file may have.
    #[error("{columns} columns are more than a file may have")]
    TooManyColumns {
        /// Of all files together.
        columns: usize,
    },
    /// A merged file has not the rows of those it was made of.
    #[error("merging {expected} rows gave {found}")]
    RowsDiffer {
        /// In the files, as the catalogue says.
        expected: u64,
        /// In the merged file.
        found: u64,
    },
    /// The catalogue is empty, the lake is not, and no manifest says what belongs to it.
    #[error("`{root}` holds Parquet files, but the catalogue is new and there is no manifest")]
    ForeignFiles {
        /// The lake's root.
        root: Utf8PathBuf,
    },
}

impl Error {
    /// Whether the same rows would fail again, rather than the disk or the catalogue.
    pub(crate) fn is_about_data(&self) -> bool {
        matches!(self, Self::Arrow { .. } | Self::Parquet { .. } | Self::Refused)
    }

    /// Whether a file was missing that the catalogue named a moment ago: whoever reads the catalogue again finds others.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }

    /// Whether another coordinator may lead now. Nothing is wrong then, and nothing became visible.
    pub(crate) fn is_lost_lead(&self) -> bool {
        matches!(self, Self::LeadLost | Self::Store(aap_store::Error::Fenced { .. }))
    }

    /// The file that cannot be had, where it alone is what is wrong.
    pub(crate) fn broken_file(&self) -> Option<&str> {
        match self {
            Self::Gone { path, .. } | Self::SizeDiffers { path, .. } => Some(path),
            _ => None,
        }
    }

    /// Rows could not be handled by whoever was fed them.
    pub fn about_rows(doing: &'static str, source: arrow_schema::ArrowError) -> Self {
        Self::Arrow { doing, source }
    }

    pub(crate) fn arrow(doing: &'static str) -> impl FnOnce(arrow_schema::ArrowError) -> Self {
        move |source| Self::Arrow { doing, source }
    }

    pub(crate) fn parquet(doing: &'static str) -> impl FnOnce(parquet::errors::ParquetError) -> Self {
        move |source| Self::Parquet { doing, source }
    }

    pub(crate) fn file(doing: &'static str, path: &camino::Utf8Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }
}
