//! Operations on secrets that the platform keeps. None prints a value.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Field, FieldType, Format, Operation, Output, Value};

const LISTING: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson, Format::Csv];
const ITEM: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson];

const FIELDS: &[Field] = &[
    Field::shown("name", "name", FieldType::Text),
    Field::shown("state", "state", FieldType::Text),
    Field::shown("updated", "set", FieldType::Time),
    Field::shown("author", "by", FieldType::Text),
    Field::shown("used_by", "used by", FieldType::Texts),
    Field::json("reference", FieldType::Text),
    Field::json("revision", FieldType::Count),
    Field::json("created", FieldType::Time),
    Field::json("key", FieldType::Text),
];

const NAME: Argument =
    Argument::position("name", Value::Text, "What documents refer to it by, as `secret:NAME`");

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: Id::SecretSet,
        noun: "secret",
        verb: "set",
        is_default: false,
        summary: "Keep a value, encrypted, in the place of the one that was kept",
        details: "The value comes from stdin, or is asked for without being shown; it is never an argument, which others on the machine \
could read. One line end at its end is not part of it. Sinks that refer to it and wait look again at once; what is connected goes on \
with what it has until it connects again. No command prints it: what is kept is for the platform, and whoever set it has it.",
        arguments: &[
            NAME,
            Argument::option("value-file", Value::File, "Read it from this file; `-`: from stdin"),
        ],
        effect: Effect::Mutate,
        permission: "secret:write",
        output: Output::Item { kind: "secret", fields: FIELDS },
        formats: ITEM,
        exits: &[
            ExitCode::Ok,
            ExitCode::Failed,
            ExitCode::Usage,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Unavailable,
        ],
        examples: &[
            Example { command: "aap secret set warehouse-password", purpose: "it is asked for" },
            Example {
                command: "aap secret set warehouse-password --value-file /run/new-password",
                purpose: "from a file",
            },
        ],
        hints: &["aap apply -f FILE with `password: secret:NAME`", "aap secret ls"],
    },
    Operation {
        id: Id::SecretLs,
        noun: "secret",
        verb: "ls",
        is_default: true,
        summary: "List what is kept: names, when and by whom it was set, what refers to it",
        details: "States: kept, locked (the key that it is sealed under is not on this coordinator). What refers to it is shown as far as you \
may see it.",
        arguments: &[],
        effect: Effect::Read,
        permission: "secret:read",
        output: Output::List { kind: "secret.list", fields: FIELDS },
        formats: LISTING,
        exits: &[ExitCode::Ok, ExitCode::LoginNeeded, ExitCode::Denied, ExitCode::Unavailable],
        examples: &[Example { command: "aap secret ls", purpose: "all of them" }],
        hints: &["aap secret set NAME"],
    },
    Operation {
        id: Id::SecretRm,
        noun: "secret",
        verb: "rm",
        is_default: false,
        summary: "Forget a secret",
        details: "Refused while something that is declared refers to it; with --force that cannot connect any more, and says so.",
        arguments: &[NAME, Argument::flag("force", "Also while something refers to it")],
        effect: Effect::Destructive,
        permission: "secret:delete",
        output: Output::Item { kind: "secret.removed", fields: FIELDS },
        formats: ITEM,
        exits: &[
            ExitCode::Ok,
            ExitCode::Usage,
            ExitCode::NotFound,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Conflict,
            ExitCode::Unavailable,
        ],
        examples: &[Example {
            command: "aap secret rm warehouse-password",
            purpose: "nothing uses it any more",
        }],
        hints: &["aap secret ls"],
    },
];
