//! Operations on declared objects: apply, diff, get, delete.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Field, FieldType, Format, Operation, Output, Value};

const LISTING: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson, Format::Csv];
const CHANGE: &[ExitCode] = &[
    ExitCode::Ok,
    ExitCode::Failed,
    ExitCode::Usage,
    ExitCode::LoginNeeded,
    ExitCode::Denied,
    ExitCode::Conflict,
    ExitCode::Unavailable,
];

const FILES: Argument = Argument::option(
    "file",
    Value::File,
    "Documents, YAML or JSON; `-` is stdin, a directory its *.yaml, *.yml and *.json",
)
.short('f')
.many();

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: Id::Apply,
        noun: "",
        verb: "apply",
        is_default: false,
        summary: "Make what documents say so: sinks, and whatever else is declared",
        details: "All documents of all files together or, on an error, none. An object that is there already with the \
same content stays as it is. What no file names is left alone: `aap delete` removes it. `-f` may be given several times.",
        arguments: &[
            FILES,
            Argument::flag("dry-run", "Check everything and say what would change; change nothing"),
        ],
        effect: Effect::Mutate,
        permission: "resource:write",
        output: Output::List {
            kind: "resource.changes",
            fields: &[
                Field::shown("kind", "kind", FieldType::Text),
                Field::shown("name", "name", FieldType::Text),
                Field::shown("action", "action", FieldType::Text),
                Field::shown("revision", "revision", FieldType::Count),
                Field::json("warnings", FieldType::Texts),
            ],
        },
        formats: LISTING,
        exits: CHANGE,
        examples: &[
            Example { command: "aap apply -f sinks.yaml", purpose: "one file" },
            Example { command: "aap apply -f sinks/ --dry-run", purpose: "check every file of a directory" },
            Example { command: "aap apply -f - -o json", purpose: "what is piped in, for scripts" },
        ],
        hints: &["aap diff -f FILE", "aap get", "aap sink ls"],
    },
    Operation {
        id: Id::Diff,
        noun: "",
        verb: "diff",
        is_default: false,
        summary: "Show what `aap apply` would change, line by line",
        details: "Changes nothing. Exit code 10 when something would change, 0 when nothing would, others for errors.",
        arguments: &[FILES],
        effect: Effect::Read,
        permission: "resource:read",
        output: Output::List {
            kind: "resource.diff",
            fields: &[
                Field::shown("kind", "kind", FieldType::Text),
                Field::shown("name", "name", FieldType::Text),
                Field::shown("action", "action", FieldType::Text),
                Field::shown("revision", "revision", FieldType::Count),
                Field::json("before", FieldType::Text),
                Field::json("after", FieldType::Text),
                Field::json("warnings", FieldType::Texts),
            ],
        },
        formats: &[Format::Table, Format::Plain, Format::Json, Format::Ndjson],
        exits: &[
            ExitCode::Ok,
            ExitCode::Usage,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Unavailable,
            ExitCode::Changes,
        ],
        examples: &[
            Example { command: "aap diff -f sinks.yaml", purpose: "before applying it" },
            Example { command: "aap diff -f sinks/ -o json", purpose: "in a pipeline that fails on drift" },
        ],
        hints: &["aap apply -f FILE"],
    },
    Operation {
        id: Id::Get,
        noun: "",
        verb: "get",
        is_default: false,
        summary: "List declared objects, or print the document of one",
        details: "KIND in any case, singular or plural. With NAME, `table` and `plain` print the document as it was \
applied, comments and all; JSON has document, revision, author and times.",
        arguments: &[
            Argument::optional("kind", Value::Declared, "Which kind, such as sink; by default all"),
            Argument::optional("name", Value::DeclaredName, "Which object"),
        ],
        effect: Effect::Read,
        permission: "resource:read",
        output: Output::List {
            kind: "resource.list",
            fields: &[
                Field::shown("kind", "kind", FieldType::Text),
                Field::shown("name", "name", FieldType::Text),
                Field::shown("revision", "revision", FieldType::Count),
                Field::shown("author", "author", FieldType::Text),
                Field::json("created", FieldType::Time),
                Field::shown("updated", "updated", FieldType::Time),
                Field::json("document", FieldType::Text),
            ],
        },
        formats: LISTING,
        exits: &[
            ExitCode::Ok,
            ExitCode::Usage,
            ExitCode::NotFound,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Unavailable,
        ],
        examples: &[
            Example { command: "aap get", purpose: "everything that is declared" },
            Example { command: "aap get sinks", purpose: "one kind" },
            Example {
                command: "aap get sink orders",
                purpose: "the document; redirect it to a file, edit, apply",
            },
        ],
        hints: &["aap get KIND NAME", "aap apply -f FILE", "aap delete KIND NAME"],
    },
    Operation {
        id: Id::Delete,
        noun: "",
        verb: "delete",
        is_default: false,
        summary: "Delete declared objects: one by name, or those that files name",
        details: "Asks first on a terminal; elsewhere it needs --yes. A sink's dead letters go with it, what it wrote stays \
where it is, and a sink made again under its name begins anew. Of documents only kind and metadata.name are read; those that \
are not there are named on stderr, and the exit code is 9.",
        arguments: &[
            Argument::optional("kind", Value::Declared, "Which kind, such as sink"),
            Argument::optional("name", Value::DeclaredName, "Which object"),
            FILES,
        ],
        effect: Effect::Destructive,
        permission: "resource:delete",
        output: Output::List {
            kind: "resource.deleted",
            fields: &[
                Field::shown("kind", "kind", FieldType::Text),
                Field::shown("name", "deleted", FieldType::Text),
            ],
        },
        formats: LISTING,
        exits: &[
            ExitCode::Ok,
            ExitCode::Usage,
            ExitCode::NotFound,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Conflict,
            ExitCode::Unavailable,
            ExitCode::Partial,
        ],
        examples: &[
            Example { command: "aap delete sink orders --yes", purpose: "without being asked" },
            Example { command: "aap delete -f sinks.yaml", purpose: "what a file names" },
        ],
        hints: &["aap get"],
    },
];
