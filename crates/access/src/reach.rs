//! Which objects of a kind somebody may act on, for whoever lists them or plans a query over them.

use crate::{Kind, Object, Role, Rule, Verb};

/// The objects of one kind that somebody may do one thing to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// All there are and will be.
    All,
    /// None at all.
    None,
    /// Those that every one of these admits.
    Where(Vec<Rules>),
}

/// The rules about one verb on one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

impl Rules {
    pub(crate) fn about<'a>(roles: impl IntoIterator<Item = &'a Role>, kind: Kind, verb: Verb) -> Self {
        let (mut allow, mut deny) = (vec![], vec![]);
        for role in roles {
            allow.extend(role.allow.iter().filter(|rule| rule.is_about(kind, verb)).cloned());
            deny.extend(role.deny.iter().filter(|rule| rule.is_about(kind, verb)).cloned());
        }
        Self { allow, deny }
    }

    fn admits_all(&self) -> bool {
        self.deny.is_empty() && self.allow.iter().any(Rule::is_unconditional)
    }

    fn admits_none(&self) -> bool {
        self.allow.is_empty() || self.deny.iter().any(Rule::is_unconditional)
    }

    fn admits(&self, object: &Object<'_>) -> bool {
        let holds = |rule: &Rule| rule.selects(object);
        !self.deny.iter().any(holds) && self.allow.iter().any(holds)
    }
}

impl Reach {
    /// What all of these reach.
    pub(crate) fn of(all: impl IntoIterator<Item = Rules>) -> Self {
        let limits: Vec<Rules> = all.into_iter().filter(|rules| !rules.admits_all()).collect();
        match limits {
            limits if limits.iter().any(Rules::admits_none) => Self::None,
            limits if limits.is_empty() => Self::All,
            limits => Self::Where(limits),
        }
    }

    /// Whether an object is one of them. It must be of the kind that this was asked for.
    pub fn admits<'a>(&self, object: impl Into<Object<'a>>) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Where(limits) => {
                let object = object.into();
                limits.iter().all(|rules| rules.admits(&object))
            }
        }
    }
}
