//! Operations on the audit log: reading it, checking it, and keeping elsewhere what it is checked against.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Field, FieldType, Format, Operation, Output, Value};

const LISTING: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson, Format::Csv];
const ITEM: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson];
const READ: &[ExitCode] = &[ExitCode::Ok, ExitCode::LoginNeeded, ExitCode::Denied, ExitCode::Unavailable];

const RECORD: &[Field] = &[
    Field::shown("seq", "seq", FieldType::Count),
    Field::shown("time", "when", FieldType::Time),
    Field::shown("outcome", "outcome", FieldType::Text),
    Field::shown("actor", "who", FieldType::Text),
    Field::shown("action", "what", FieldType::Text),
    Field::shown("object", "on", FieldType::Text),
    Field::shown("from", "from", FieldType::Text),
    Field::shown("problem", "problem", FieldType::Text),
    Field::json("actor_kind", FieldType::Text),
    Field::json("credential", FieldType::Text),
    Field::json("permission", FieldType::Text),
    Field::json("request", FieldType::Text),
    Field::json("details", FieldType::Object),
];

const ACTOR: Argument = Argument::option("actor", Value::User, "Only what this user, node or operator did");
const ACTION: Argument =
    Argument::option("action", Value::Text, "Only this operation, such as `node ban`, or all of a noun");
const OUTCOME: Argument = Argument::option(
    "outcome",
    Value::Choice(&["begun", "done", "denied", "failed"]),
    "Only what ended like this",
);
const OBJECT: Argument = Argument::option("object", Value::Text, "Only what was done to KIND or KIND/NAME");

const KEPT: &[Argument] = &[
    Argument::option("dir", Value::Directory, "A copy of the files, checked here and without a coordinator"),
    Argument::option("key", Value::File, "The public key that was kept; --dir needs it"),
    Argument::option("checkpoint", Value::File, "Checkpoints that were kept, one a line").many(),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: Id::AuditTail,
        noun: "audit",
        verb: "tail",
        is_default: true,
        summary: "Show the newest records of what was done with privilege, and what was denied",
        details: "The oldest of them comes first. With --follow each further record is shown as soon as it is durable.",
        arguments: &[
            Argument::flag("follow", "Go on with each further record").short('f'),
            Argument::option("rows", Value::Number, "How many of the newest; at most 10000")
                .short('n')
                .default("20"),
            ACTOR,
            ACTION,
            OUTCOME,
            OBJECT,
        ],
        effect: Effect::Read,
        permission: "audit:read",
        output: Output::List { kind: "audit.records", fields: RECORD },
        formats: LISTING,
        exits: READ,
        examples: &[
            Example { command: "aap audit tail", purpose: "the last twenty" },
            Example { command: "aap audit tail --follow --outcome denied", purpose: "watch who is refused" },
        ],
        hints: &["aap audit search --since 168h", "aap audit verify"],
    },
    Operation {
        id: Id::AuditSearch,
        noun: "audit",
        verb: "search",
        is_default: false,
        summary: "Find records by who, what, how it ended, on what, and when; the newest first",
        details: "Every condition must hold. `--limit` says how many are shown at most.",
        arguments: &[
            Argument::option("since", Value::Duration, "Not older than this"),
            Argument::option("until", Value::Duration, "Older than this"),
            ACTOR,
            ACTION,
            OUTCOME,
            OBJECT,
        ],
        effect: Effect::Read,
        permission: "audit:read",
        output: Output::List { kind: "audit.records", fields: RECORD },
        formats: LISTING,
        exits: READ,
        examples: &[
            Example {
                command: "aap audit search --actor ana --since 168h",
                purpose: "what somebody did within a week",
            },
            Example {
                command: "aap audit search --object stream/logs --action stream",
                purpose: "who changed a stream",
            },
        ],
        hints: &["aap audit tail --follow"],
    },
    Operation {
        id: Id::AuditVerify,
        noun: "audit",
        verb: "verify",
        is_default: false,
        summary: "Check that nobody has changed the audit log: every hash, every signature",
        details: "Names file, line and sequence of whatever is not what was written. What was put back to an older state as a whole is found \
only by a checkpoint that was kept elsewhere. With --dir it needs no coordinator.",
        arguments: KEPT,
        effect: Effect::Read,
        permission: "audit:read",
        output: Output::Item {
            kind: "audit.verification",
            fields: &[
                Field::shown("log", "log", FieldType::Text),
                Field::shown("first", "first", FieldType::Count),
                Field::shown("last", "last", FieldType::Count),
                Field::shown("lines", "lines", FieldType::Count),
                Field::shown("segments", "segments", FieldType::Count),
                Field::shown("checkpoints", "checkpoints", FieldType::Count),
                Field::shown("unsigned_lines", "not signed yet", FieldType::Count),
                Field::shown("outdated_checkpoints", "outdated checkpoints", FieldType::Count),
                Field::shown("found", "findings", FieldType::Count),
                Field::json("findings", FieldType::Objects),
            ],
        },
        formats: ITEM,
        exits: &[
            ExitCode::Ok,
            ExitCode::NotFound,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Unavailable,
            ExitCode::CheckFailed,
        ],
        examples: &[
            Example { command: "aap audit verify", purpose: "by the coordinator itself" },
            Example {
                command: "aap audit verify --dir /mnt/copy/audit --key kept/audit-key.pub --checkpoint kept/checkpoints",
                purpose: "by whoever does not trust it",
            },
        ],
        hints: &["aap audit export --to DIR"],
    },
    Operation {
        id: Id::AuditExport,
        noun: "audit",
        verb: "export",
        is_default: false,
        summary: "Give the public key and a checkpoint of the audit log, to be kept where nobody here can change them",
        details: "With --to they are written to `audit-key.pub` and, one line more each time, to `checkpoints` in that directory. A key that is \
there already must be the same.",
        arguments: &[Argument::option("to", Value::Directory, "Where to keep them; it must exist")],
        effect: Effect::Read,
        permission: "audit:read",
        output: Output::Item {
            kind: "audit.kept",
            fields: &[
                Field::shown("public_key", "public key", FieldType::Text),
                Field::shown("checkpoint", "checkpoint", FieldType::Text),
            ],
        },
        formats: ITEM,
        exits: &[
            ExitCode::Ok,
            ExitCode::Failed,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Conflict,
            ExitCode::Unavailable,
        ],
        examples: &[Example {
            command: "aap audit export --to /mnt/archive",
            purpose: "once a day, to another machine",
        }],
        hints: &["aap audit verify --checkpoint FILE"],
    },
];
