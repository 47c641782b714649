//! Names of files, and what is read of them whole.

use std::fs::File;
use std::io::{self, Read};

use camino::{Utf8Path, Utf8PathBuf};

use crate::checkpoint::Statement;
use crate::line::SEQ_MAX;
use crate::{Checkpoint, Error, PublicKey};

/// The last checkpoint, beside the segments.
pub const HEAD: &str = "head";
/// Where the log begins since retention removed something.
pub(crate) const START: &str = "start";
/// Held by the one writer.
pub(crate) const LOCK: &str = "LOCK";

const ENDING: &str = ".ndjson";
/// As many as the largest sequence has, so that names sort as numbers do.
const DIGITS: usize = 20;
/// Longest checkpoint that is read; one has some 400 bytes.
const CHECKPOINT_BYTES_MAX: u64 = 4 << 10;

/// A segment, by the sequence of its first line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    pub(crate) path: Utf8PathBuf,
}

impl Segment {
    pub(crate) fn at(directory: &Utf8Path, first: u64) -> Self {
        Self { first, path: directory.join(format!("{first:0DIGITS$}{ENDING}")) }
    }

    pub(crate) fn name(&self) -> &str {
        self.path.file_name().unwrap_or_default()
    }

    pub(crate) fn open(&self) -> Result<File, Error> {
        File::open(&self.path).map_err(Error::io("open the segment", &self.path))
    }
}

/// The segments of a directory, oldest first. None if there is no such directory.
pub(crate) fn segments(directory: &Utf8Path) -> Result<Vec<Segment>, Error> {
    let failed = || Error::io("list", directory);
    let entries = match directory.read_dir_utf8() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(failed())?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed())?;
        if let Some(first) = first_of(entry.file_name()) {
            segments.push(Segment { first, path: entry.into_path() });
        }
    }
    segments.sort();
    Ok(segments)
}

fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(ENDING)?;
    let is_number = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|first| is_number && (1..=SEQ_MAX).contains(first))
}

/// What stands in the place of a signed statement.
#[derive(Debug)]
pub(crate) enum Signed {
    Absent,
    /// Not what was written, or not signed by our key.
    Bad(&'static str),
    Good(Checkpoint),
}

impl Signed {
    pub(crate) fn good(&self) -> Option<&Checkpoint> {
        match self {
            Self::Good(checkpoint) => Some(checkpoint),
            Self::Absent | Self::Bad(_) => None,
        }
    }
}

/// Reads the file `name`, which must make `statement`.
pub(crate) fn signed(
    directory: &Utf8Path,
    name: &str,
    statement: Statement,
    key: &PublicKey,
) -> Result<Signed, Error> {
    let path = directory.join(name);
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(CHECKPOINT_BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Signed::Absent),
        other => other.map_err(Error::io("read", &path))?,
    };
    let parsed =
        std::str::from_utf8(&bytes).ok().filter(|text| text.ends_with('\n')).map(str::parse::<Checkpoint>);
    Ok(match parsed {
        Some(Ok(checkpoint)) if checkpoint.states(statement, key) => Signed::Good(checkpoint),
        Some(Ok(_)) => Signed::Bad("it is not signed by the key"),
        _ => Signed::Bad("it is not what was written"),
    })
}
