//! The section of the systemd journal.

use aap_types::StreamName;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::Start;
use super::load::Complaint;

/// The journal of systemd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournaldSpec {
    /// Always `journald`.
    pub r#type: String,
    /// The stream that the entries feed. Default: `journal`.
    #[serde(default = "stream")]
    pub stream: StreamName,
    /// Where journal files are, and in folders of it. Default: `/var/log/journal` and `/run/log/journal`.
    #[serde(default)]
    pub directory: Option<Utf8PathBuf>,
    /// Where to begin in files that are there when the source first runs.
    #[serde(default)]
    pub start: Start,
}

impl JournaldSpec {
    /// Where journald keeps its files, on the disk or in memory.
    const PLACES: [&str; 2] = ["/var/log/journal", "/run/log/journal"];

    /// Where files are looked for.
    pub fn places(&self) -> Vec<Utf8PathBuf> {
        match &self.directory {
            Some(directory) => vec![directory.clone()],
            None => Self::PLACES.map(Utf8PathBuf::from).to_vec(),
        }
    }

    pub(super) fn check(&self) -> Result<(), Complaint> {
        match &self.directory {
            Some(directory) if !directory.is_absolute() => {
                Err(("directory", format!("`{directory}` is not an absolute path")))
            }
            _ => Ok(()),
        }
    }
}

fn stream() -> StreamName {
    "journal".parse().expect("a literal name")
}
