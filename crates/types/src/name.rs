//! One strict alphabet for names that become paths, topics, labels and table names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes: fits a DNS label, a file name beside a suffix, and a PostgreSQL identifier.
const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{name}` is not a {what} name: use 1 to {NAME_BYTES_MAX} of a-z, 0-9, `_`, `-`, `.`, beginning with a letter or digit"
)]
pub struct NameError {
    what: &'static str,
    name: String,
}

fn parse(what: &'static str, text: &str) -> Result<Arc<str>, NameError> {
    let starts_well = text.as_bytes().first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let all_allowed =
        text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.'));
    if starts_well && all_allowed && text.len() <= NAME_BYTES_MAX && !text.contains("..") {
        Ok(Arc::from(text))
    } else {
        let name = text.chars().take(NAME_BYTES_MAX + 1).collect::<String>().escape_default().to_string();
        Err(NameError { what, name })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                parse($what, text).map(Self)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

name_type!(
    /// The name of a node: the machine an agent runs on. It is the subject of its certificate.
    NodeId,
    "node"
);
name_type!(
    /// The name of a coordinator in its cluster. It is the subject of the certificate with which it calls others.
    CoordinatorName,
    "coordinator"
);
name_type!(
    /// The name of a stream: a table to whoever queries it.
    StreamName,
    "stream"
);
name_type!(
    /// The name of a site: where nodes are, and what a role can be limited to.
    SiteName,
    "site"
);
name_type!(
    /// The name of a secret that the platform keeps: what stands behind `secret:`.
    SecretName,
    "secret"
);

impl NodeId {
    /// The nearest valid name to a host name: lower-cased, foreign characters replaced by `-`.
    pub fn from_host_name(host: &str) -> Self {
        let mut text: String = host
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' })
            .collect();
        while text.contains("..") {
            text = text.replace("..", ".");
        }
        text.truncate(NAME_BYTES_MAX);
        let trimmed = text.trim_matches(['-', '.']);
        trimmed.parse().unwrap_or_else(|_| Self(Arc::from("node")))
    }
}

impl StreamName {
    /// The stream that keeps what could not be parsed for this one: `<name>.dead`, shortened if it must be.
    pub fn dead_letters(&self) -> Self {
        const SUFFIX: &str = ".dead";
        let head = &self.0[..self.0.len().min(NAME_BYTES_MAX - SUFFIX.len())];
        Self(Arc::from(format!("{}{SUFFIX}", head.trim_end_matches('.'))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for bad in ["", "..", ".x", "a..b", "a/b", "A", "a b", "a\n", "é", &"x".repeat(64), "-a", "_a"] {
            assert!(bad.parse::<StreamName>().is_err(), "{bad:?}");
        }
        for good in ["a", "0", "host_metrics", "logs.dead", "a-b.c_d", &"x".repeat(63)] {
            assert_eq!(good.parse::<StreamName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn any_host_name_becomes_a_node_name() {
        for (host, node) in
            [("Web-01.Example", "web-01.example"), ("", "node"), ("...", "node"), ("söd", "s-d")]
        {
            assert_eq!(NodeId::from_host_name(host).as_str(), node);
        }
    }

    #[test]
    fn dead_letter_stream_of_the_longest_name_is_valid() {
        let long: StreamName = "x".repeat(63).parse().unwrap();
        assert!(long.dead_letters().as_str().parse::<StreamName>().is_ok());
    }
}
