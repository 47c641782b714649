//! Operations on the certificate authority.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Field, FieldType, Format, Operation, Output, Value};

const ITEM: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson];
const READ: &[ExitCode] = &[ExitCode::Ok, ExitCode::LoginNeeded, ExitCode::Denied, ExitCode::Unavailable];

const AUTHORITY: &[Field] = &[
    Field::shown("root", "root", FieldType::Text),
    Field::shown("root_expires", "root expires", FieldType::Time),
    Field::shown("root_key", "root key", FieldType::Text),
    Field::shown("intermediate_expires", "intermediate expires", FieldType::Time),
    Field::shown("rotating", "rotating", FieldType::Boolean),
    Field::shown("nodes", "nodes", FieldType::Count),
    Field::shown("confirmed", "confirmed", FieldType::Count),
    Field::shown("waiting", "waiting", FieldType::Texts),
    Field::shown("by_hand", "by hand", FieldType::Texts),
    Field::json("certificates", FieldType::Objects),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: Id::CaShow,
        noun: "ca",
        verb: "show",
        is_default: true,
        summary: "Show roots and intermediate, when they end, and which nodes believe the newest root",
        details: "A node is counted as confirmed once it has shown a certificate below the newest root: it keeps the roots before the \
certificate. Root key: `here` or `away`. By hand: nodes whose certificates were issued in the coordinator's home and taken elsewhere; nobody \
but you knows what they believe.",
        arguments: &[],
        effect: Effect::Read,
        permission: "platform:read",
        output: Output::Item { kind: "ca", fields: AUTHORITY },
        formats: ITEM,
        exits: READ,
        examples: &[Example { command: "aap ca show", purpose: "before and during a rotation" }],
        hints: &["aap ca rotate"],
    },
    Operation {
        id: Id::CaRotate,
        noun: "ca",
        verb: "rotate",
        is_default: false,
        summary: "Put another root in the place of the former one, while everything goes on",
        details: "It makes a second root, which the former one signs, too: whoever believes either is served, and nodes renew their \
certificates at once and get both roots. --finish takes the former root away; it is refused, with their names, while nodes have not \
confirmed the new one, unless --force says that these will be enrolled again. In a cluster, copy `tls/` to the other coordinators after \
each of the two; they take it up within a minute.",
        arguments: &[
            Argument::flag("finish", "Take the former root away"),
            Argument::flag("force", "With --finish: although nodes have not confirmed the new root"),
        ],
        effect: Effect::Mutate,
        permission: "platform:write",
        output: Output::Item { kind: "ca", fields: AUTHORITY },
        formats: ITEM,
        exits: &[
            ExitCode::Ok,
            ExitCode::Usage,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Conflict,
            ExitCode::Unavailable,
        ],
        examples: &[
            Example { command: "aap ca rotate", purpose: "begin" },
            Example { command: "aap ca rotate --finish", purpose: "once every node has confirmed" },
        ],
        hints: &["aap ca show"],
    },
    Operation {
        id: Id::CaExport,
        noun: "ca",
        verb: "export",
        is_default: false,
        summary: "Print the roots, or take the root's key into a file",
        details: "The roots are what `aap context add --ca` and other clients need; no secret is in them. --root-key copies the key of the \
root from the coordinator's home into a new file that only you can read, and says how to take it offline: it is needed again for a \
rotation, and once in half a year for a new intermediate.",
        arguments: &[Argument::option("root-key", Value::File, "Copy the root's key into this new file")],
        effect: Effect::Read,
        permission: "platform:read",
        output: Output::Text,
        formats: &[Format::Plain],
        exits: &[
            ExitCode::Ok,
            ExitCode::Failed,
            ExitCode::Usage,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Conflict,
            ExitCode::Unavailable,
        ],
        examples: &[
            Example { command: "aap ca export", purpose: "into a file for a client" },
            Example {
                command: "aap ca export --root-key /media/safe/aap-root.key",
                purpose: "before it is removed from the coordinator",
            },
        ],
        hints: &["aap ca show"],
    },
];
