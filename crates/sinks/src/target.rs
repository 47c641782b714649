//! Whose rows a server receives, and names made of the stream's.

use std::fmt;
use std::str::FromStr;

use aap_types::StreamName;
use serde::{Deserialize, Serialize};

/// Which sink of which platform writes: what its ledger in the server is filed under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// `metadata.name` of the resource.
    pub name: String,
    /// Given when the resource was created, so that one deleted and made again under its name begins anew: 32 hexadecimal
    /// digits.
    pub uid: String,
}

/// A name in the server, for a table or a topic, in which `{stream}` stands for the name of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template(String);

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Nothing.
    #[error("the name is empty")]
    Empty,
    /// Something else in braces.
    #[error("`{{{0}}}` is not known here: only `{{stream}}` is replaced")]
    Unknown(String),
}

impl Template {
    /// The name for a stream.
    pub fn of(&self, stream: &StreamName) -> String {
        self.0.replace("{stream}", stream.as_str())
    }

    /// Whether all streams go to one place.
    pub fn is_fixed(&self) -> bool {
        !self.0.contains("{stream}")
    }
}

impl FromStr for Template {
    type Err = TemplateError;
    fn from_str(text: &str) -> Result<Self, TemplateError> {
        if text.trim().is_empty() {
            return Err(TemplateError::Empty);
        }
        let rest = text.replace("{stream}", "");
        match rest.split_once('{').map(|(_, tail)| tail.split('}').next().unwrap_or_default()) {
            Some(unknown) => Err(TemplateError::Unknown(unknown.to_owned())),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;
    fn try_from(text: String) -> Result<Self, TemplateError> {
        text.parse()
    }
}

impl From<Template> for String {
    fn from(template: Template) -> String {
        template.0
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stream_is_replaced() {
        let stream: StreamName = "web.access".parse().unwrap();
        assert_eq!("events".parse::<Template>().unwrap().of(&stream), "events");
        assert_eq!("aap.{stream}.v1".parse::<Template>().unwrap().of(&stream), "aap.web.access.v1");
        assert_eq!("{node}".parse::<Template>(), Err(TemplateError::Unknown("node".to_owned())));
        assert_eq!(" ".parse::<Template>(), Err(TemplateError::Empty));
    }
}
