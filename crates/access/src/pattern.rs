//! Names in rules: a name as it is, or with `*` for any letters and `?` for one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest pattern: the longest name there is, a user's, twice.
const PATTERN_BYTES_MAX: usize = 256;

/// A name, or a glob of names. `*` stands for any letters, dots included; everything but `*` and `?` for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl Pattern {
    /// Whether a name is one of those that it stands for.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut of) = (0, 0);
        // Where the last `*` stands, and up to where it reaches in the name.
        let mut star: Option<(usize, usize)> = None;
        while of < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, of));
                    at += 1;
                }
                Some(byte) if *byte == b'?' || *byte == name[of] => (at, of) = (at + 1, of + 1),
                _ => match &mut star {
                    Some((place, reach)) => {
                        *reach += 1;
                        (at, of) = (*place + 1, *reach);
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.len() {
            1..=PATTERN_BYTES_MAX => Ok(Self(text)),
            _ => Err(format!("a name or glob has 1 to {PATTERN_BYTES_MAX} bytes")),
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
