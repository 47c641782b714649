//! Operations on who may do what: user, role, can-i, who-can.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Field, FieldType, Format, Operation, Output, Value};
use crate::rules::VERBS;

const LISTING: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson, Format::Csv];
const ITEM: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson];
const READ: &[ExitCode] = &[ExitCode::Ok, ExitCode::LoginNeeded, ExitCode::Denied, ExitCode::Unavailable];
const ONE: &[ExitCode] =
    &[ExitCode::Ok, ExitCode::NotFound, ExitCode::LoginNeeded, ExitCode::Denied, ExitCode::Unavailable];
const CHANGE: &[ExitCode] = &[
    ExitCode::Ok,
    ExitCode::Usage,
    ExitCode::NotFound,
    ExitCode::LoginNeeded,
    ExitCode::Denied,
    ExitCode::Conflict,
    ExitCode::Unavailable,
];

const USER: Argument = Argument::position("user", Value::User, "Which");
const ROLE: Argument = Argument::position("role", Value::Role, "Which");
const VERB: Argument = Argument::position("verb", Value::Choice(VERBS), "What would be done");
const OBJECT: Argument = Argument::position(
    "object",
    Value::Text,
    "KIND/NAME, a KIND for any object of it, or the name of a stream",
);

const USER_FIELDS: &[Field] = &[
    Field::shown("user", "user", FieldType::Text),
    Field::shown("display", "name", FieldType::Text),
    Field::shown("roles", "roles", FieldType::Texts),
    Field::shown("disabled", "disabled", FieldType::Boolean),
    Field::shown("must_change_password", "must change password", FieldType::Boolean),
    Field::shown("origin", "origin", FieldType::Text),
    Field::shown("created", "created", FieldType::Time),
    Field::json("updated", FieldType::Time),
    Field::json("revision", FieldType::Count),
];
/// With the password that was made up, if one was.
const USER_WITH_PASSWORD: &[Field] = &[
    Field::shown("user", "user", FieldType::Text),
    Field::shown("display", "name", FieldType::Text),
    Field::shown("roles", "roles", FieldType::Texts),
    Field::shown("disabled", "disabled", FieldType::Boolean),
    Field::shown("must_change_password", "must change password", FieldType::Boolean),
    Field::shown("password", "password", FieldType::Text),
    Field::json("origin", FieldType::Text),
    Field::json("created", FieldType::Time),
    Field::json("updated", FieldType::Time),
    Field::json("revision", FieldType::Count),
];
const ROLE_FIELDS: &[Field] = &[
    Field::shown("role", "role", FieldType::Text),
    Field::shown("built_in", "built in", FieldType::Boolean),
    Field::shown("allow", "allow", FieldType::Texts),
    Field::shown("deny", "deny", FieldType::Texts),
    Field::shown("users", "users", FieldType::Texts),
    Field::json("rules", FieldType::Objects),
];

const RULES: &str = "RULE is KINDS:VERBS[:NAMES][@LABEL=VALUES], each a list with commas, `*` for all: stream:read,query:logs,web.* or \
node:query@site=lyon. A rule that denies wins over all that allow, also those of other roles.";

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: Id::CanI,
        noun: "",
        verb: "can-i",
        is_default: false,
        summary: "Ask whether you, or somebody, may do something, and by which rule",
        details: "Exit 0: yes, 5: no. About others asks whoever may read users.",
        arguments: &[VERB, OBJECT, Argument::option("as", Value::User, "Not you, but this user")],
        effect: Effect::Read,
        permission: "",
        output: Output::Item {
            kind: "access.decision",
            fields: &[
                Field::shown("allowed", "allowed", FieldType::Boolean),
                Field::shown("because", "because", FieldType::Text),
                Field::json("verb", FieldType::Text),
                Field::json("kind", FieldType::Text),
                Field::json("name", FieldType::Text),
                Field::json("user", FieldType::Text),
            ],
        },
        formats: ITEM,
        exits: CHANGE,
        examples: &[
            Example { command: "aap can-i query logs", purpose: "the stream `logs`" },
            Example { command: "aap can-i approve node/edge-17 --as ana", purpose: "about somebody else" },
            Example { command: "aap can-i delete stream", purpose: "any stream" },
        ],
        hints: &["aap who-can VERB OBJECT"],
    },
    Operation {
        id: Id::WhoCan,
        noun: "",
        verb: "who-can",
        is_default: false,
        summary: "List the users who may do something, each with the rule that allows it",
        details: "",
        arguments: &[VERB, OBJECT],
        effect: Effect::Read,
        permission: "user:read",
        output: Output::List {
            kind: "access.who",
            fields: &[
                Field::shown("user", "user", FieldType::Text),
                Field::shown("because", "because", FieldType::Text),
            ],
        },
        formats: LISTING,
        exits: READ,
        examples: &[Example { command: "aap who-can delete stream/logs", purpose: "before asking who did" }],
        hints: &["aap user show USER"],
    },
    Operation {
        id: Id::UserLs,
        noun: "user",
        verb: "ls",
        is_default: true,
        summary: "List users",
        details: "",
        arguments: &[],
        effect: Effect::Read,
        permission: "user:read",
        output: Output::List { kind: "user.list", fields: USER_FIELDS },
        formats: LISTING,
        exits: READ,
        examples: &[Example { command: "aap user ls", purpose: "all of them" }],
        hints: &["aap user create NAME --role viewer"],
    },
    Operation {
        id: Id::UserShow,
        noun: "user",
        verb: "show",
        is_default: false,
        summary: "Show one user",
        details: "",
        arguments: &[USER],
        effect: Effect::Read,
        permission: "user:read",
        output: Output::Item { kind: "user", fields: USER_FIELDS },
        formats: ITEM,
        exits: ONE,
        examples: &[Example { command: "aap user show ana", purpose: "her roles" }],
        hints: &["aap auth session ls --user NAME", "aap can-i VERB OBJECT --as NAME"],
    },
    Operation {
        id: Id::UserCreate,
        noun: "user",
        verb: "create",
        is_default: false,
        summary: "Create a user",
        details: "Without --password-file a password is made up, printed once and stored nowhere; whoever logs in with it has to change it \
before anything else. A user without a role may do nothing.",
        arguments: &[
            Argument::position("user", Value::Text, "The name to log in with"),
            Argument::option("role", Value::Role, "A role of theirs").many(),
            Argument::option("display", Value::Text, "The name for people"),
            Argument::option("password-file", Value::File, "The password is in this file, `-`: stdin"),
        ],
        effect: Effect::Mutate,
        permission: "user:write",
        output: Output::Item { kind: "user.created", fields: USER_WITH_PASSWORD },
        formats: ITEM,
        exits: CHANGE,
        examples: &[
            Example {
                command: "aap user create ana --role operator --display 'Ana Sol'",
                purpose: "with a password that is made up",
            },
            Example {
                command: "aap user create ben --role viewer --password-file -",
                purpose: "with one from stdin",
            },
        ],
        hints: &["aap auth login NAME", "aap role ls"],
    },
    Operation {
        id: Id::UserSet,
        noun: "user",
        verb: "set",
        is_default: false,
        summary: "Change a user: roles, name, password, whether they may log in",
        details: "With --disable and --reset-password their sessions end. --reset-password makes up a password as `aap user create` does, \
unless --password-file has one.",
        arguments: &[
            USER,
            Argument::option("add-role", Value::Role, "Give them this role").many(),
            Argument::option("remove-role", Value::Role, "Take this role from them").many(),
            Argument::option("display", Value::Text, "The name for people"),
            Argument::flag("disable", "Nobody can log in as them any more"),
            Argument::flag("enable", "They can log in again"),
            Argument::flag("reset-password", "Give them another password"),
            Argument::option("password-file", Value::File, "That password is in this file, `-`: stdin"),
        ],
        effect: Effect::Mutate,
        permission: "user:write",
        output: Output::Item { kind: "user.changed", fields: USER_WITH_PASSWORD },
        formats: ITEM,
        exits: CHANGE,
        examples: &[
            Example {
                command: "aap user set ana --add-role analyst --remove-role viewer",
                purpose: "another job",
            },
            Example { command: "aap user set ana --reset-password", purpose: "she forgot it" },
            Example { command: "aap user set ana --disable", purpose: "she has left" },
        ],
        hints: &["aap user show NAME"],
    },
    Operation {
        id: Id::UserDelete,
        noun: "user",
        verb: "delete",
        is_default: false,
        summary: "Delete a user, with their sessions and API tokens",
        details: "Asks for the name, or takes --yes.",
        arguments: &[USER],
        effect: Effect::Destructive,
        permission: "user:delete",
        output: Output::Item {
            kind: "user.deleted",
            fields: &[
                Field::shown("user", "user", FieldType::Text),
                Field::shown("sessions_ended", "sessions ended", FieldType::Count),
                Field::shown("tokens_revoked", "tokens revoked", FieldType::Count),
            ],
        },
        formats: ITEM,
        exits: CHANGE,
        examples: &[Example { command: "aap user delete ana --yes", purpose: "without being asked" }],
        hints: &["aap user set NAME --disable"],
    },
    Operation {
        id: Id::RoleLs,
        noun: "role",
        verb: "ls",
        is_default: true,
        summary: "List roles: those that are built in, and those that were declared",
        details: "",
        arguments: &[],
        effect: Effect::Read,
        permission: "role:read",
        output: Output::List { kind: "role.list", fields: ROLE_FIELDS },
        formats: LISTING,
        exits: READ,
        examples: &[Example { command: "aap role ls", purpose: "all of them" }],
        hints: &["aap role show NAME", "aap user set NAME --add-role ROLE"],
    },
    Operation {
        id: Id::RoleShow,
        noun: "role",
        verb: "show",
        is_default: false,
        summary: "Show the rules of a role, and who has it",
        details: "As far as you may see users. `aap get role NAME` prints one that was declared as a document.",
        arguments: &[ROLE],
        effect: Effect::Read,
        permission: "role:read",
        output: Output::Item { kind: "role", fields: ROLE_FIELDS },
        formats: ITEM,
        exits: ONE,
        examples: &[Example { command: "aap role show operator", purpose: "what operators may" }],
        hints: &["aap who-can VERB OBJECT"],
    },
    Operation {
        id: Id::RoleCreate,
        noun: "role",
        verb: "create",
        is_default: false,
        summary: "Declare a role by its rules",
        details: RULES,
        arguments: &[
            Argument::position("role", Value::Text, "Its name"),
            Argument::option("allow", Value::Text, "A rule that allows").many(),
            Argument::option("deny", Value::Text, "A rule that denies").many(),
        ],
        effect: Effect::Mutate,
        permission: "role:write",
        output: Output::Item { kind: "role.created", fields: ROLE_FIELDS },
        formats: ITEM,
        exits: CHANGE,
        examples: &[
            Example {
                command: "aap role create web --allow stream:read,query:web.*",
                purpose: "some streams",
            },
            Example {
                command: "aap role create lyon --allow 'node:read,query,operate@site=lyon' --deny '*:delete'",
                purpose: "the nodes of a site, and nothing is deleted",
            },
        ],
        hints: &["aap user set NAME --add-role ROLE", "aap get role NAME"],
    },
    Operation {
        id: Id::RoleDelete,
        noun: "role",
        verb: "delete",
        is_default: false,
        summary: "Delete a role that was declared",
        details: "Asks for the name, or takes --yes. Who has it may no longer what it allowed.",
        arguments: &[ROLE],
        effect: Effect::Destructive,
        permission: "role:delete",
        output: Output::Item {
            kind: "role.deleted",
            fields: &[Field::shown("role", "role", FieldType::Text)],
        },
        formats: ITEM,
        exits: CHANGE,
        examples: &[Example { command: "aap role delete web --yes", purpose: "without being asked" }],
        hints: &["aap role ls"],
    },
];
