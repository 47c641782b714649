//! Operations on the cluster: the coordinators, and what is behind them.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Field, FieldType, Format, Operation, Output, Value};

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
    Operation {
        id: Id::ClusterMigrate,
        noun: "cluster",
        verb: "migrate",
        is_default: false,
        summary: "Take the platform of this home, which must be stopped, into the cluster that its configuration names",
        details: "Copies the lake's files to the object store, what waits for the lake into the landing topic, and the metadata into \
PostgreSQL. Agents keep meanwhile what they have. It deletes nothing, puts the old places aside, and can be repeated after a failure; \
no coordinator of the cluster starts until it has ended. Exit 6: a coordinator of that cluster runs, or it has the data of another platform.",
        arguments: &[Argument::option(
            "config",
            Value::File,
            "Configuration of the coordinator; config/coordinator.yaml of the home without it",
        )],
        effect: Effect::Mutate,
        permission: "",
        output: Output::Program,
        formats: &[Format::Table, Format::Plain, Format::Json],
        exits: &[ExitCode::Ok, ExitCode::Failed, ExitCode::Usage, ExitCode::Conflict, ExitCode::Unavailable],
        examples: &[Example {
            command: "aap cluster migrate",
            purpose: "after `aap down` and the sections `cluster` and `metadata` of the configuration; then `aap up --detach`",
        }],
        hints: &["aap up --detach", "aap cluster status"],
    },
];
