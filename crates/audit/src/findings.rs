//! What verification finds.

use std::fmt;

/// Most findings that are kept; more are counted. A log that was written over has one in each line.
pub const FINDINGS_MAX: usize = 100;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A line is not what was written: its hash is not that of its bytes, or it has another form.
    Damaged,
    /// A line is whole, and does not follow the one before it.
    Unchained,
    /// Records that must be there are not.
    Missing,
    /// A signature is not by the key, or stands where none may.
    Signature,
    /// Too many lines without a checkpoint.
    Unsigned,
    /// A line is not the one that a checkpoint names.
    Rewritten,
    /// A file is damaged, is missing, or has the wrong name.
    File,
    /// The end of the last segment is no whole line. The next opening cuts it.
    Unfinished,
    /// The log itself says that it found its chain broken.
    Broken,
    /// A checkpoint is of another log.
    OtherLog,
}

impl Fault {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Unchained => "unchained",
            Self::Missing => "missing",
            Self::Signature => "signature",
            Self::Unsigned => "unsigned",
            Self::Rewritten => "rewritten",
            Self::File => "file",
            Self::Unfinished => "unfinished",
            Self::Broken => "broken",
            Self::OtherLog => "other-log",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One place where the log is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub fault: Fault,
    /// In which file of the directory.
    pub file: String,
    /// In which line of it, from 1.
    pub line: Option<u64>,
    /// At which sequence.
    pub seq: Option<u64>,
    /// What exactly.
    pub detail: String,
}

/// What verification came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// The random id of the log, if it could be learnt.
    pub log: Option<String>,
    /// First and last sequence that were read; 0 if there is none.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Lines that were read.
    pub lines: u64,
    /// Files that they stand in.
    pub segments: u64,
    /// Checkpoints whose signature is good.
    pub checkpoints: u64,
    /// Lines behind the last of them: whoever can write the files can change these unseen.
    pub unsigned: u64,
    /// Checkpoints kept elsewhere that are about records which retention has removed: they say nothing any more.
    pub outdated: u64,
    /// What is wrong, in the order of the log; at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many findings there are.
    pub found: u64,
}

impl Verification {
    /// Whether the log is what was written.
    pub fn is_good(&self) -> bool {
        self.found == 0
    }

    pub(crate) fn find(&mut self, finding: Finding) {
        self.found += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// Finds something about a file as a whole.
    pub(crate) fn find_in(&mut self, fault: Fault, file: &str, detail: impl Into<String>) {
        let (file, detail) = (file.to_owned(), detail.into());
        self.find(Finding { fault, file, line: None, seq: None, detail });
    }
}
