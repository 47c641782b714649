//! The entries of an archive that are no files of the home.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Version of the form. A reader refuses a later one.
pub(crate) const FORMAT: u32 = 1;
/// Name of the first entry.
pub(crate) const HEADER: &str = "backup.json";
/// Name of the last entry.
pub(crate) const MANIFEST: &str = "manifest.json";
/// What stands before the path of a file in the home.
pub(crate) const HOME: &str = "home/";

/// The first entry is a few hundred bytes.
pub(crate) const HEADER_BYTES_MAX: u64 = 64 << 10;
/// Files of one home: a hundred streams with a file an hour are that many after a year.
pub(crate) const FILES_MAX: u64 = 1_000_000;
/// The last entry: [`FILES_MAX`] lines of this length.
pub(crate) const MANIFEST_BYTES_MAX: u64 = FILES_MAX * 512;
/// Longest path of a file in the home, as Linux has it.
pub(crate) const PATH_BYTES_MAX: usize = 4096;

/// What `backup.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of the form.
    pub format: u32,
    /// Version of the program that made it.
    pub aap_version: String,
    /// When it was made.
    pub created: Timestamp,
    /// Files of the home.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What `manifest.json` holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) files: Vec<FileEntry>,
}

/// One file of the home.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    /// Within the home.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) mode: u32,
    /// In hexadecimal, as `sha256sum` writes it.
    pub(crate) sha256: String,
}
