//! Operations on the cluster: the coordinators, and what is behind them.

use aap_types::ExitCode;

use super::vocabulary::{Effect, Example, Field, FieldType, Format, Id, Operation, Output};

const ITEM: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson];
const READ: &[ExitCode] = &[ExitCode::Ok, ExitCode::LoginNeeded, ExitCode::Denied, ExitCode::Unavailable];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: Id::ClusterStatus,
        noun: "cluster",
        verb: "status",
        is_default: true,
        summary: "Show the coordinators, which shards each owns, who leads, and the servers behind them",
        details: "Any coordinator answers. A coordinator without `lease` has not been heard of for 15 s; its shards go to whoever \
their nodes come to next. A shard that nobody owns has no node that is connected. Sinks and sources run at the one that leads.",
        arguments: &[],
        effect: Effect::Read,
        permission: "cluster:read",
        output: Output::Item {
            kind: "cluster.status",
            fields: &[
                Field::shown("cluster", "cluster", FieldType::Text),
                Field::shown("metadata", "metadata", FieldType::Text),
                Field::shown("landing", "landing", FieldType::Text),
                Field::shown("lake", "lake", FieldType::Text),
                Field::json("coordinators", FieldType::Objects),
                Field::shown("unowned_shards", "unowned shards", FieldType::Count),
                Field::json("problems", FieldType::Texts),
            ],
        },
        formats: ITEM,
        exits: READ,
        examples: &[
            Example { command: "aap cluster status", purpose: "one look" },
            Example { command: "aap cluster status -o json", purpose: "for scripts" },
        ],
        hints: &["aap cluster config", "aap status"],
    },
    Operation {
        id: Id::ClusterConfig,
        noun: "cluster",
        verb: "config",
        is_default: false,
        summary: "Show the cluster's settings that are in force at the coordinator that answers, as YAML",
        details: "Secrets are shown as the references that were written.",
        arguments: &[],
        effect: Effect::Read,
        permission: "cluster:read",
        output: Output::Text,
        formats: &[Format::Table, Format::Plain],
        exits: READ,
        examples: &[Example { command: "aap cluster config", purpose: "what this coordinator runs with" }],
        hints: &["aap cluster status"],
    },
];
