//! The section `spec` of kind Role, and what its rules match.
//!
//! ```yaml
//! kind: Role
//! metadata: { name: berlin-operators }
//! spec:
//!   allow:
//!   - { resources: [node], verbs: [read, query, operate], labels: { site: [berlin] } }
//!   - { resources: [stream], verbs: [read, query], names: [logs, 'web.*'] }
//!   deny:
//!   - { resources: ['*'], verbs: [delete] }
//! ```
//! A condition that is left out holds for everything; one that is there and empty is an error, because it holds for nothing.

use std::collections::BTreeMap;

use aap_runtime::documents::{Document, DocumentError};
use aap_types::{NodeId, SiteName};
use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{BUILT_IN, Kind, Pattern, Verb};

/// Most rules of a role, and most entries of a list in one: every decision may look at all of them.
const ENTRIES_MAX: usize = 100;
/// The label that a node has from its site, whatever it says of itself.
const SITE: &str = "site";

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// What its bearers may do, and what they may not, whatever else allows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Rules that allow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Rule>,
    /// Rules that deny, which win over all that allow, also in other roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Rule>,
}

/// One rule. It holds where all its conditions do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Kinds of objects.
    pub resources: Vec<OneOrAll<Kind>>,
    /// What is done to them.
    pub verbs: Vec<OneOrAll<Verb>>,
    /// Their names. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub names: Option<Vec<Pattern>>,
    /// For each of these labels one of these values. A node has also the label `site`. Default: whatever labels.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub labels: Option<BTreeMap<String, Vec<String>>>,
}

/// A key that is there has a value: `names:` with nothing behind it must not be all names.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// One of the words of a list, or `*` for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneOrAll<T> {
    /// `*`.
    All,
    /// This one.
    One(T),
}

impl<T: PartialEq> OneOrAll<T> {
    fn has(&self, word: &T) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == word,
        }
    }
}

impl<T: Serialize> Serialize for OneOrAll<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => to.serialize_str("*"),
            Self::One(one) => one.serialize(to),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrAll<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text == "*" { Ok(Self::All) } else { T::deserialize(text.into_deserializer()).map(Self::One) }
    }
}

/// What an action is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: &'a str,
    /// Where it is, of a node.
    pub site: Option<&'a str>,
    /// Its labels.
    pub labels: &'a Labels,
}

/// What decides about a node: its name, its site, its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFacts<'a> {
    /// Which.
    pub node: &'a NodeId,
    /// The site that it was enrolled for.
    pub site: Option<&'a SiteName>,
    /// Labels that it was given, not those that it gives itself.
    pub labels: &'a Labels,
}

static NO_LABELS: Labels = Labels::new();

impl<'a> Object<'a> {
    /// An object without labels.
    pub fn named(kind: Kind, name: &'a str) -> Self {
        Self { kind, name, site: None, labels: &NO_LABELS }
    }

    fn label(&self, key: &str) -> Option<&'a str> {
        match self.site {
            Some(site) if key == SITE => Some(site),
            _ => self.labels.get(key).map(String::as_str),
        }
    }
}

impl<'a> From<NodeFacts<'a>> for Object<'a> {
    fn from(facts: NodeFacts<'a>) -> Self {
        let site = Some(facts.site.map_or("", SiteName::as_str));
        Self { kind: Kind::Node, name: facts.node.as_str(), site, labels: facts.labels }
    }
}

impl Rule {
    /// Whether it is about a verb on a kind at all.
    pub(crate) fn is_about(&self, kind: Kind, verb: Verb) -> bool {
        self.resources.iter().any(|of| of.has(&kind)) && self.verbs.iter().any(|of| of.has(&verb))
    }

    /// Whether it holds for every object of its kinds.
    pub(crate) fn is_unconditional(&self) -> bool {
        self.names.is_none() && self.labels.is_none()
    }

    /// Whether name and labels are as it says.
    pub(crate) fn selects(&self, object: &Object<'_>) -> bool {
        let is_named =
            self.names.as_ref().is_none_or(|names| names.iter().any(|name| name.matches(object.name)));
        let has = |(key, values): (&String, &Vec<String>)| {
            object.label(key).is_some_and(|found| values.iter().any(|value| value == found))
        };
        is_named && self.labels.as_ref().is_none_or(|labels| labels.iter().all(has))
    }

    /// The key of what makes no sense in it, and why.
    fn fault(&self) -> Option<(&'static str, String)> {
        let labels = self.labels.as_ref();
        let sizes = [
            ("resources", self.resources.len()),
            ("verbs", self.verbs.len()),
            ("names", self.names.as_ref().map_or(1, Vec::len)),
            ("labels", labels.map_or(1, BTreeMap::len)),
        ];
        let values = labels.into_iter().flatten().map(|(_, values)| ("labels", values.len()));
        sizes.into_iter().chain(values).find_map(|(key, size)| match size {
            0 => Some((key, format!("`{key}` is empty, so the rule would hold for nothing"))),
            1..=ENTRIES_MAX => None,
            _ => Some((key, format!("`{key}` has more than {ENTRIES_MAX} entries"))),
        })
    }
}

impl Role {
    /// The role that a document declares.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(document: &Document, name: &str) -> Result<Self, DocumentError> {
        if BUILT_IN.contains(&name) {
            let message = format!("the role `{name}` is built in and cannot be changed");
            let hint = format!("give it another name than {}", BUILT_IN.join(", "));
            return Err(document.error("name", message, Some(hint)));
        }
        let role: Self = document.spec()?;
        role.check().map_err(|(key, message)| document.error(key, message, None))?;
        Ok(role)
    }

    /// Whether it makes sense: the key of what does not, and why.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let rules = self.allow.len() + self.deny.len();
        if rules == 0 {
            return Err(("spec", "the role has no rule: write `allow` or `deny`".to_owned()));
        }
        if rules > ENTRIES_MAX {
            return Err(("spec", format!("the role has more than {ENTRIES_MAX} rules")));
        }
        self.allow.iter().chain(&self.deny).find_map(Rule::fault).map_or(Ok(()), Err)
    }
}
