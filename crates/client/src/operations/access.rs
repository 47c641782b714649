//! Operations on tokens, with which machines become nodes and programs act for users, and on the standing of nodes.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Field, FieldType, Format, Operation, Output, Value};

const LISTING: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson, Format::Csv];
const ITEM: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson];
const READ: &[ExitCode] = &[ExitCode::Ok, ExitCode::LoginNeeded, ExitCode::Denied, ExitCode::Unavailable];
const ONE: &[ExitCode] =
    &[ExitCode::Ok, ExitCode::NotFound, ExitCode::LoginNeeded, ExitCode::Denied, ExitCode::Unavailable];
const MAKE: &[ExitCode] = &[
    ExitCode::Ok,
    ExitCode::Usage,
    ExitCode::LoginNeeded,
    ExitCode::Denied,
    ExitCode::Conflict,
    ExitCode::Unavailable,
];

const TOKEN_FIELDS: &[Field] = &[
    Field::shown("id", "id", FieldType::Text),
    Field::shown("type", "type", FieldType::Text),
    Field::shown("state", "state", FieldType::Text),
    Field::shown("user", "user", FieldType::Text),
    Field::shown("for", "for", FieldType::Text),
    Field::shown("site", "site", FieldType::Text),
    Field::shown("node", "for node", FieldType::Text),
    Field::shown("uses_left", "uses left", FieldType::Count),
    Field::shown("expires", "expires", FieldType::Time),
    Field::shown("nodes", "nodes", FieldType::Texts),
    Field::json("requires_approval", FieldType::Boolean),
    Field::json("uses", FieldType::Count),
    Field::json("labels", FieldType::Object),
    Field::json("created", FieldType::Time),
    Field::json("revoked", FieldType::Time),
    Field::json("author", FieldType::Text),
    Field::json("used", FieldType::Time),
    Field::json("scope", FieldType::Texts),
];

/// What a node is to the platform.
const STANDING: &[Field] = &[
    Field::shown("node", "node", FieldType::Text),
    Field::shown("state", "state", FieldType::Text),
    Field::shown("site", "site", FieldType::Text),
    Field::shown("reason", "reason", FieldType::Text),
    Field::json("labels", FieldType::Object),
    Field::json("key", FieldType::Text),
    Field::json("generation", FieldType::Count),
    Field::json("certificate_expires", FieldType::Time),
    Field::json("created", FieldType::Time),
    Field::json("updated", FieldType::Time),
    Field::json("draining", FieldType::Boolean),
];

const NODE: Argument = Argument::position("node", Value::Node, "Which");
const REASON: Argument = Argument::option("reason", Value::Text, "Why, for whoever looks later");

/// An operation that puts a node into another state.
const fn standing(
    id: Id,
    verb: &'static str,
    summary: &'static str,
    details: &'static str,
    effect: Effect,
    examples: &'static [Example],
) -> Operation {
    Operation {
        id,
        noun: "node",
        verb,
        is_default: false,
        summary,
        details,
        arguments: &[NODE, REASON],
        effect,
        permission: "node:approve",
        output: Output::Item { kind: "node.standing", fields: STANDING },
        formats: ITEM,
        exits: ONE,
        examples,
        hints: &["aap node ls"],
    }
}

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: Id::TokenCreate,
        noun: "token",
        verb: "create",
        is_default: false,
        summary: "Make a token: one with which a machine becomes a node, or with --api one with which a program acts for you",
        details: "The text is printed once and stored nowhere. One for machines holds the fingerprint of the certificate authority and where \
the coordinator is, so that `aap-agent enroll` needs nothing else. It is good for one machine and 15 minutes unless you say otherwise; a \
token for several machines lives 24 hours at most. With --require-approval a node waits for `aap node approve`. One with --api may what its \
user may at the time, within the rules of --allow, for 30 days unless you say otherwise; RULE is KINDS:VERBS[:NAMES][@LABEL=VALUES], such as \
stream:query:logs. For others it is made by whoever may write tokens.",
        arguments: &[
            Argument::flag("api", "For a program, which shows it in AAP_TOKEN_FILE"),
            Argument::option("site", Value::Text, "The site that the nodes belong to").default("default"),
            Argument::option("node", Value::Node, "The only node that it is for"),
            Argument::option("ttl", Value::Duration, "How long it is good [default: 15m, with --api 30d]"),
            Argument::option("uses", Value::Number, "How many machines it is for").default("1"),
            Argument::option("label", Value::Text, "KEY=VALUE, which the nodes get").short('l').many(),
            Argument::flag("require-approval", "An operator has to approve each node"),
            Argument::option("user", Value::User, "With --api: for whom it acts; by default for you"),
            Argument::option("for", Value::Text, "With --api: what it is for, in words"),
            Argument::option("allow", Value::Text, "With --api: a rule that it is limited to").many(),
        ],
        effect: Effect::Mutate,
        permission: "node:approve",
        output: Output::Item {
            kind: "token.created",
            fields: &[
                Field::shown("token", "token", FieldType::Text),
                Field::shown("id", "id", FieldType::Text),
                Field::shown("type", "type", FieldType::Text),
                Field::shown("site", "site", FieldType::Text),
                Field::shown("user", "user", FieldType::Text),
                Field::shown("expires", "expires", FieldType::Time),
                Field::json("for", FieldType::Text),
                Field::json("scope", FieldType::Texts),
            ],
        },
        formats: ITEM,
        exits: MAKE,
        examples: &[
            Example { command: "aap token create --site lyon", purpose: "one machine, within 15 minutes" },
            Example {
                command: "aap token create --site lyon --uses 40 --ttl 8h --require-approval",
                purpose: "for an image that forty machines start from",
            },
            Example {
                command: "aap token create --api --for nightly-report --ttl 90d --allow stream:query:orders",
                purpose: "for a program that reads one stream",
            },
        ],
        hints: &["aap-agent enroll TOKEN", "AAP_TOKEN_FILE=FILE aap …", "aap token ls"],
    },
    Operation {
        id: Id::TokenLs,
        noun: "token",
        verb: "ls",
        is_default: true,
        summary: "List tokens, also those that are over",
        details: "Types: enrolment, api. States: valid, used (every use is gone), expired, revoked. Enrolment tokens that are over are \
listed for 30 days. API tokens of others are seen by whoever may read tokens.",
        arguments: &[],
        effect: Effect::Read,
        permission: "node:read",
        output: Output::List { kind: "token.list", fields: TOKEN_FIELDS },
        formats: LISTING,
        exits: READ,
        examples: &[Example { command: "aap token ls", purpose: "all of them" }],
        hints: &["aap token create --site SITE", "aap token create --api"],
    },
    Operation {
        id: Id::TokenRevoke,
        noun: "token",
        verb: "revoke",
        is_default: false,
        summary: "Withdraw a token, or all API tokens of a user",
        details: "Nodes that came of an enrolment token stay; `aap node ban` shuts one out. A program that shows an API token is refused \
from then on.",
        arguments: &[
            Argument::optional(
                "token",
                Value::Text,
                "Its id, as `aap token ls` shows it, or the token itself",
            ),
            Argument::option("all-of", Value::User, "All API tokens of this user"),
        ],
        effect: Effect::Mutate,
        permission: "node:approve",
        output: Output::List { kind: "token.revoked", fields: TOKEN_FIELDS },
        formats: LISTING,
        exits: ONE,
        examples: &[
            Example { command: "aap token revoke 7mKq03TzRw9e", purpose: "it leaked" },
            Example { command: "aap token revoke --all-of ana", purpose: "everything that acts for her" },
        ],
        hints: &["aap token ls"],
    },
    standing(
        Id::NodeApprove,
        "approve",
        "Let a node in that waits for it, or that was shut out",
        "A node that was banned, or locked because its key was in two places, must be enrolled again with a new key where the old one may be \
in other hands: `aap-agent enroll --again TOKEN`.",
        Effect::Mutate,
        &[Example { command: "aap node approve edge-17", purpose: "it waits" }],
    ),
    standing(
        Id::NodeCordon,
        "cordon",
        "Give a node nothing new to do; what it delivers still lands",
        "`aap node approve` takes it back.",
        Effect::Mutate,
        &[Example {
            command: "aap node cordon edge-17 --reason 'disk is failing'",
            purpose: "before repairs",
        }],
    ),
    standing(
        Id::NodeBan,
        "ban",
        "Shut a node out: its connection is cut within five seconds",
        "Nothing of it is taken any more; what it has keeps waiting in its buffer, and what landed stays.",
        Effect::Destructive,
        &[Example {
            command: "aap node ban edge-17 --reason stolen",
            purpose: "the machine is in other hands",
        }],
    ),
    Operation {
        id: Id::NodeDrain,
        noun: "node",
        verb: "drain",
        is_default: false,
        summary: "Let a node take no new rows, and deliver all it has",
        details: "Sources that read stop, sources that are asked refuse for now, and `aap ingest` on it, too. The node remembers it over restarts. Its state is `draining` until all it has is with the coordinator, then `drained`. --wait shows what is left and waits for the end; past --timeout (10m) it ends with 8, and the node goes on.",
        arguments: &[NODE, REASON, Argument::flag("wait", "Wait until it is drained")],
        effect: Effect::Mutate,
        permission: "node:approve",
        output: Output::Item { kind: "node.standing", fields: STANDING },
        formats: ITEM,
        exits: &[
            ExitCode::Ok,
            ExitCode::NotFound,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Unavailable,
            ExitCode::Pending,
        ],
        examples: &[Example {
            command: "aap node drain edge-17 --wait --reason 'new disk'",
            purpose: "before the machine is taken out",
        }],
        hints: &["aap node resume NODE"],
    },
    standing(
        Id::NodeResume,
        "resume",
        "Let a node that was drained take rows again",
        "Sources go on where they stopped.",
        Effect::Mutate,
        &[Example { command: "aap node resume edge-17", purpose: "the machine is back" }],
    ),
    Operation {
        id: Id::NodeLabel,
        noun: "node",
        verb: "label",
        is_default: false,
        summary: "Set or remove labels of a node",
        details: "KEY=VALUE sets one, KEY- removes it. Roles and selectors go by labels and by the site.",
        arguments: &[
            NODE,
            Argument::position("labels", Value::Text, "KEY=VALUE or KEY-").many(),
            Argument::option("site", Value::Text, "Move it to this site"),
        ],
        effect: Effect::Mutate,
        permission: "node:write",
        output: Output::Item { kind: "node.standing", fields: STANDING },
        formats: ITEM,
        exits: ONE,
        examples: &[Example {
            command: "aap node label edge-17 line=7 spare-",
            purpose: "one set, one removed",
        }],
        hints: &["aap node show NAME"],
    },
];
