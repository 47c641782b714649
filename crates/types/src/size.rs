//! Sizes in bytes, and how people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes. Text form: `512`, `64KiB`, `16MiB`, `10GiB` (also `KB`, `MB`, `GB`: powers of 1000).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "NumberOrText", into = "u64")]
pub struct ByteCount(pub u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size: write a number with an optional unit, such as 512, 64KiB, 16MiB or 10GiB")]
pub struct ByteCountError(String);

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl ByteCount {
    /// `n` KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }
    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    /// `n` GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
}

impl FromStr for ByteCount {
    type Err = ByteCountError;
    fn from_str(text: &str) -> Result<Self, ByteCountError> {
        let trimmed = text.trim();
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, size)| trimmed.strip_suffix(name).map(|rest| (rest.trim(), *size)))
            .unwrap_or((trimmed, 1));
        let count = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
        count.map(Self).ok_or_else(|| ByteCountError(text.chars().take(40).collect()))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl TryFrom<NumberOrText> for ByteCount {
    type Error = ByteCountError;
    fn try_from(value: NumberOrText) -> Result<Self, ByteCountError> {
        match value {
            NumberOrText::Number(n) => Ok(Self(n)),
            NumberOrText::Text(text) => text.parse(),
        }
    }
}

impl From<ByteCount> for u64 {
    fn from(count: ByteCount) -> u64 {
        count.0
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = match self.0 {
            n if n >= 1 << 40 => ("TiB", 1u64 << 40),
            n if n >= 1 << 30 => ("GiB", 1 << 30),
            n if n >= 1 << 20 => ("MiB", 1 << 20),
            n if n >= 1 << 10 => ("KiB", 1 << 10),
            n => return f.pad(&format!("{n} B")),
        };
        f.pad(&format!("{:.1} {unit}", self.0 as f64 / size as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_as_people_write_them() {
        for (text, bytes) in
            [("512", 512), ("64KiB", 65_536), ("1 GB", 1_000_000_000), ("10GiB", 10 << 30), ("7B", 7)]
        {
            assert_eq!(text.parse::<ByteCount>().unwrap().0, bytes);
        }
        for bad in ["", "x", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(bad.parse::<ByteCount>().is_err(), "{bad}");
        }
    }
}
