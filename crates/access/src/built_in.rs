//! The roles that are always there and cannot be changed. They only allow, so that each can be joined with any other.

use std::collections::BTreeMap;

use crate::role::OneOrAll;
use crate::{Kind, Role, Rule, Verb};

/// Their names.
pub const BUILT_IN: [&str; 5] = ["admin", "analyst", "ingester", "operator", "viewer"];

/// What the platform does, without who may make it do so: users, roles, tokens and the record of what they did.
const PLATFORM: &[Kind] = &[
    Kind::Alert,
    Kind::Catalog,
    Kind::Cluster,
    Kind::Model,
    Kind::Node,
    Kind::Pipeline,
    Kind::Platform,
    Kind::Query,
    Kind::Route,
    Kind::Sink,
    Kind::Site,
    Kind::Source,
    Kind::Stream,
];

pub(crate) fn built_in() -> BTreeMap<String, Role> {
    let with = |kinds: &[Kind], verbs: &[Verb]| {
        rule(kinds.iter().map(one).collect(), verbs.iter().map(one).collect())
    };
    let everything = rule(vec![OneOrAll::All], vec![OneOrAll::All]);
    let run = rule(PLATFORM.iter().chain(&[Kind::Secret]).map(one).collect(), vec![OneOrAll::All]);
    let read = with(PLATFORM, &[Verb::Read]);
    let query = with(&[Kind::Node, Kind::Stream, Kind::Catalog], &[Verb::Query]);
    let ingest = with(&[Kind::Stream], &[Verb::Ingest]);
    [
        ("admin", vec![everything]),
        ("analyst", vec![read.clone(), query]),
        ("ingester", vec![ingest]),
        ("operator", vec![run]),
        ("viewer", vec![read]),
    ]
    .into_iter()
    .map(|(name, allow)| (name.to_owned(), Role { allow, deny: vec![] }))
    .collect()
}

fn one<T: Copy>(word: &T) -> OneOrAll<T> {
    OneOrAll::One(*word)
}

fn rule(resources: Vec<OneOrAll<Kind>>, verbs: Vec<OneOrAll<Verb>>) -> Rule {
    Rule { resources, verbs, names: None, labels: None }
}
