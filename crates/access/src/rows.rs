//! Whose rows of a stream somebody may see: what row-level security comes down to in every query.
//!
//! Each role speaks for itself. One that may query the stream and says nothing of querying nodes lets the rows of all nodes through; one
//! that does, those of its nodes. A second role never takes away what the first gave; a rule that denies takes it away from all.

use crate::{Kind, NodeFacts, Object, Role, Rule, Verb};

/// The rows of one stream that somebody may see, by the nodes that they came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Every one of these must let a row through.
    limits: Vec<Limit>,
}

/// What some roles let through together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    /// The nodes of each role that may query the stream; `None`: all.
    of_roles: Vec<Option<Vec<Rule>>>,
    deny: Vec<Rule>,
}

impl Limit {
    fn of(roles: &[&Role], stream: &str) -> Self {
        let object = Object::named(Kind::Stream, stream);
        let is_about_stream =
            |rule: &&Rule| rule.is_about(Kind::Stream, Verb::Query) && rule.selects(&object);
        let is_about_nodes = |rule: &&Rule| rule.is_about(Kind::Node, Verb::Query);
        if roles.iter().any(|role| role.deny.iter().any(|rule| is_about_stream(&rule))) {
            return Self { of_roles: vec![], deny: vec![] };
        }
        let that_may = roles.iter().filter(|role| role.allow.iter().any(|rule| is_about_stream(&rule)));
        let of_roles = that_may.map(|role| {
            let nodes: Vec<Rule> = role.allow.iter().filter(is_about_nodes).cloned().collect();
            let is_all = nodes.is_empty() || nodes.iter().any(Rule::is_unconditional);
            (!is_all).then_some(nodes)
        });
        let deny = roles.iter().flat_map(|role| role.deny.iter().filter(is_about_nodes).cloned());
        Self { of_roles: of_roles.collect(), deny: deny.collect() }
    }

    fn is_all(&self) -> bool {
        self.deny.is_empty() && self.of_roles.iter().any(Option::is_none)
    }

    fn is_none(&self) -> bool {
        self.of_roles.is_empty() || self.deny.iter().any(Rule::is_unconditional)
    }

    fn admits(&self, node: &Object<'_>) -> bool {
        let holds = |rule: &Rule| rule.selects(node);
        let is_of = |nodes: &Option<Vec<Rule>>| nodes.as_ref().is_none_or(|nodes| nodes.iter().any(holds));
        !self.deny.iter().any(holds) && self.of_roles.iter().any(is_of)
    }
}

impl Rows {
    /// None at all.
    pub(crate) fn none() -> Self {
        Self { limits: vec![Limit { of_roles: vec![], deny: vec![] }] }
    }

    /// Those that these roles let through, and each scope beside them.
    pub(crate) fn of(roles: &[&Role], scope: Option<&Role>, stream: &str) -> Self {
        let own = Limit::of(roles, stream);
        let scope = scope.map(|scope| Limit::of(&[scope], stream));
        Self { limits: [Some(own), scope].into_iter().flatten().collect() }
    }

    /// Whether these roles let every row of every stream through.
    pub(crate) fn are_all(roles: &[&Role]) -> bool {
        let is_about = |rule: &&Rule, kind| rule.is_about(kind, Verb::Query);
        let is_open = |role: &&&Role| {
            let mut streams = role.allow.iter().filter(|rule| is_about(rule, Kind::Stream));
            let nodes: Vec<&Rule> = role.allow.iter().filter(|rule| is_about(rule, Kind::Node)).collect();
            streams.any(Rule::is_unconditional)
                && (nodes.is_empty() || nodes.into_iter().any(Rule::is_unconditional))
        };
        let mut denied = roles.iter().flat_map(|role| &role.deny);
        roles.iter().any(|role| is_open(&role))
            && !denied.any(|rule| is_about(&rule, Kind::Stream) || is_about(&rule, Kind::Node))
    }

    /// Whether they are all rows there are and will be.
    pub fn is_all(&self) -> bool {
        self.limits.iter().all(Limit::is_all)
    }

    /// Whether they are none, whatever node they came from: whoever asks need not know that there is such a stream.
    pub fn is_none(&self) -> bool {
        self.limits.iter().any(Limit::is_none)
    }

    /// Whether rows of a node are among them.
    pub fn admits(&self, node: NodeFacts<'_>) -> bool {
        let object = Object::from(node);
        self.limits.iter().all(|limit| limit.admits(&object))
    }
}
