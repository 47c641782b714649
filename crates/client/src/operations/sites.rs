//! Operations on sites: where nodes belong. A site is there as soon as a node or a token names it.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Field, FieldType, Format, Operation, Output, Value};

const SITE: &[Field] = &[
    Field::shown("site", "site", FieldType::Text),
    Field::shown("nodes", "nodes", FieldType::Count),
    Field::shown("connected", "connected", FieldType::Count),
    Field::shown("waiting_batches", "waiting", FieldType::Count),
    Field::shown("waiting_bytes", "bytes", FieldType::Bytes),
    Field::shown("tokens", "tokens", FieldType::Count),
];

const SITE_WITH_NODES: &[Field] = &[
    Field::shown("site", "site", FieldType::Text),
    Field::shown("nodes", "nodes", FieldType::Count),
    Field::shown("connected", "connected", FieldType::Count),
    Field::shown("waiting_batches", "waiting", FieldType::Count),
    Field::shown("waiting_bytes", "bytes", FieldType::Bytes),
    Field::shown("tokens", "tokens", FieldType::Count),
    Field::json("members", FieldType::Objects),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: Id::SiteLs,
        noun: "site",
        verb: "ls",
        is_default: true,
        summary: "List sites: how many nodes each has, and what waits there",
        details: "Nodes that were never told theirs belong to the site `default`. Tokens: enrolment tokens that are still good.",
        arguments: &[],
        effect: Effect::Read,
        permission: "node:read",
        output: Output::List { kind: "site.list", fields: SITE },
        formats: &[Format::Table, Format::Plain, Format::Json, Format::Ndjson, Format::Csv],
        exits: &[ExitCode::Ok, ExitCode::LoginNeeded, ExitCode::Denied, ExitCode::Unavailable],
        examples: &[Example { command: "aap site ls", purpose: "all of them" }],
        hints: &["aap node ls --site SITE", "aap token create --site SITE"],
    },
    Operation {
        id: Id::SiteShow,
        noun: "site",
        verb: "show",
        is_default: false,
        summary: "Show one site with its nodes",
        details: "",
        arguments: &[Argument::position("site", Value::Text, "Which")],
        effect: Effect::Read,
        permission: "node:read",
        output: Output::Item { kind: "site", fields: SITE_WITH_NODES },
        formats: &[Format::Table, Format::Plain, Format::Json, Format::Ndjson],
        exits: &[
            ExitCode::Ok,
            ExitCode::NotFound,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Unavailable,
        ],
        examples: &[Example { command: "aap site show lyon", purpose: "one site" }],
        hints: &["aap node label NODE --site SITE"],
    },
];
