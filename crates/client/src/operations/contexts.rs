//! Operations on contexts: the ways to platforms that this user of this machine knows.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Field, FieldType, Format, Operation, Output, Value};
use crate::protection::Protection;

const LISTING: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson, Format::Csv];
const ITEM: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson];
const ONE: &[ExitCode] = &[ExitCode::Ok, ExitCode::Failed, ExitCode::Usage, ExitCode::NotFound];
const MAKE: &[ExitCode] =
    &[ExitCode::Ok, ExitCode::Failed, ExitCode::Usage, ExitCode::NotFound, ExitCode::Conflict];

const NAME: Argument = Argument::position("name", Value::Context, "Which");

const FIELDS: &[Field] = &[
    Field::shown("context", "context", FieldType::Text),
    Field::shown("current", "current", FieldType::Boolean),
    Field::shown("endpoint", "endpoint", FieldType::Text),
    Field::shown("home", "home", FieldType::Text),
    Field::shown("user", "user", FieldType::Text),
    Field::shown("protection", "protection", FieldType::Text),
    Field::shown("unlocked_until", "unlocked until", FieldType::Time),
    Field::json("unlock_reason", FieldType::Text),
    Field::json("ca", FieldType::Text),
];
/// With what `ca` is.
const WHOLE: &[Field] = &[
    Field::shown("context", "context", FieldType::Text),
    Field::shown("current", "current", FieldType::Boolean),
    Field::shown("endpoint", "endpoint", FieldType::Text),
    Field::shown("home", "home", FieldType::Text),
    Field::shown("user", "user", FieldType::Text),
    Field::shown("protection", "protection", FieldType::Text),
    Field::shown("unlocked_until", "unlocked until", FieldType::Time),
    Field::shown("ca", "authority", FieldType::Text),
    Field::shown("fingerprint", "fingerprint", FieldType::Text),
    Field::json("unlock_reason", FieldType::Text),
];

/// An operation on one context that says what it is afterwards.
const fn on_one(
    id: Id,
    verb: &'static str,
    summary: &'static str,
    details: &'static str,
    arguments: &'static [Argument],
    examples: &'static [Example],
) -> Operation {
    Operation {
        id,
        noun: "context",
        verb,
        is_default: false,
        summary,
        details,
        arguments,
        effect: Effect::Mutate,
        permission: "",
        output: Output::Item { kind: "context", fields: WHOLE },
        formats: ITEM,
        exits: MAKE,
        examples,
        hints: &["aap context ls"],
    }
}

pub(super) const OPERATIONS: &[Operation] = &[
    on_one(
        Id::ContextAdd,
        "add",
        "Name a platform: one elsewhere by endpoint and certificate authority, or one of this machine by --home",
        "The certificates in --ca are copied beside contexts.toml, and their fingerprint is shown: compare it with that of the coordinator. \
--from takes what `aap context export` wrote. The first context becomes the current one. Protection, before anything is changed through it: \
open asks nothing; confirm wants the name of the context typed, or --confirm NAME; read-only refuses; unlock refuses unless \
`aap context unlock` came before. It guards against mistakes; what somebody may do, roles say.",
        &[
            Argument::position(
                "name",
                Value::Text,
                "What it is called here: small letters, digits, `-`, `_` and `.`",
            ),
            Argument::option("endpoint", Value::Text, "Where the coordinator answers operators: HOST:PORT"),
            Argument::option(
                "ca",
                Value::File,
                "Its certificate authority, PEM: tls/root.pem of the coordinator's home",
            ),
            Argument::option("from", Value::File, "What `aap context export` wrote, `-`: stdin"),
            Argument::option("user", Value::Text, "Whom `aap auth login` takes"),
            Argument::option(
                "protection",
                Value::Choice(Protection::NAMES),
                "What it takes to change something [default: open]",
            ),
        ],
        &[
            Example {
                command: "aap context add prod-eu --endpoint coord.example:7401 --ca root.pem --user ana",
                purpose: "a platform elsewhere",
            },
            Example {
                command: "aap context add here --home /srv/aap --protection confirm",
                purpose: "one of this machine, where changes are confirmed",
            },
            Example {
                command: "aap context add prod-eu --from prod-eu.toml",
                purpose: "as a colleague exported it",
            },
        ],
    ),
    Operation {
        id: Id::ContextLs,
        noun: "context",
        verb: "ls",
        is_default: true,
        summary: "List contexts",
        details: "",
        arguments: &[],
        effect: Effect::Read,
        permission: "",
        output: Output::List { kind: "context.list", fields: FIELDS },
        formats: LISTING,
        exits: ONE,
        examples: &[Example { command: "aap context ls", purpose: "all of them" }],
        hints: &["aap context use NAME", "aap -c NAME status"],
    },
    Operation {
        effect: Effect::Read,
        ..on_one(
            Id::ContextShow,
            "show",
            "Show one context, by default the current one",
            "",
            &[Argument::optional("name", Value::Context, "Which")],
            &[Example {
                command: "aap context show prod-eu",
                purpose: "where it leads, and by which authority",
            }],
        )
    },
    on_one(
        Id::ContextUse,
        "use",
        "Make a context the current one, which is meant where none is named",
        "What --context, --home, AAP_CONTEXT or AAP_HOME name is meant before it.",
        &[
            Argument::optional("name", Value::Context, "Which"),
            Argument::flag("none", "None: back to the home of this machine"),
        ],
        &[
            Example { command: "aap context use prod-eu", purpose: "from now on" },
            Example { command: "aap context use --none", purpose: "back to the home" },
        ],
    ),
    on_one(
        Id::ContextRename,
        "rename",
        "Give a context another name; its login stays",
        "",
        &[NAME, Argument::position("new-name", Value::Text, "What it is called from now on")],
        &[Example { command: "aap context rename prod prod-eu", purpose: "now that there are two" }],
    ),
    Operation {
        id: Id::ContextRm,
        noun: "context",
        verb: "rm",
        is_default: false,
        summary: "Forget a context, with its login",
        details: "The platform does not notice: a session goes on until it is over; `aap auth logout` ends it before.",
        arguments: &[NAME],
        effect: Effect::Mutate,
        permission: "",
        output: Output::Item {
            kind: "context.removed",
            fields: &[
                Field::shown("context", "context", FieldType::Text),
                Field::shown("login_forgotten", "login forgotten", FieldType::Boolean),
            ],
        },
        formats: ITEM,
        exits: ONE,
        examples: &[Example { command: "aap context rm prod-eu", purpose: "it is no more" }],
        hints: &["aap context ls"],
    },
    Operation {
        id: Id::ContextExport,
        noun: "context",
        verb: "export",
        is_default: false,
        summary: "Print a context for others, with its certificate authority; no secret is in it",
        details: "Also for a platform of this machine, which is how others come to it.",
        arguments: &[NAME],
        effect: Effect::Read,
        permission: "",
        output: Output::Text,
        formats: &[Format::Plain],
        exits: ONE,
        examples: &[Example {
            command: "aap context export prod-eu",
            purpose: "into a file for a colleague",
        }],
        hints: &["aap context add NAME --from FILE"],
    },
    on_one(
        Id::ContextUnlock,
        "unlock",
        "Unlock a context for a time, with a reason",
        "Of a context whose protection is unlock. Twelve hours at most.",
        &[
            NAME,
            Argument::option("for", Value::Duration, "How long").default("15m"),
            Argument::option("reason", Value::Text, "Why"),
        ],
        &[Example {
            command: "aap context unlock prod-eu --for 15m --reason 'sink orders is stuck'",
            purpose: "for a repair",
        }],
    ),
    on_one(
        Id::ContextLock,
        "lock",
        "Lock a context again before its time is over",
        "",
        &[NAME],
        &[Example { command: "aap context lock prod-eu", purpose: "the repair is done" }],
    ),
];
