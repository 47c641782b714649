//! What can go wrong in the lake.

use camino::Utf8PathBuf;

/// A failure of the lake. Nothing became visible unless the operation says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
