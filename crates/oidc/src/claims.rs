//! What a verified ID token says of somebody.

use serde_json::{Map, Value};

/// The claims of a token whose signature, issuer, audience, times and nonce were checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    pub(crate) subject: String,
    pub(crate) all: Map<String, Value>,
}

impl Claims {
    /// What the provider calls them, for ever.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// A claim that is a text.
    pub fn text(&self, claim: &str) -> Option<&str> {
        self.at(claim)?.as_str()
    }

    /// A claim that is a list of texts, or one; what else is in a list is left out. `realm_access.roles` looks within `realm_access`,
    /// unless a claim has that name itself.
    pub fn texts(&self, claim: &str) -> Vec<&str> {
        match self.at(claim) {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => vec![],
        }
    }

    fn at(&self, claim: &str) -> Option<&Value> {
        if let Some(found) = self.all.get(claim) {
            return Some(found);
        }
        let mut words = claim.split('.');
        let first = self.all.get(words.next()?)?;
        words.try_fold(first, |within, word| within.get(word))
    }
}
