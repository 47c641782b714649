//! Operations on one's own login: auth, auth session.
//!
//! None needs a permission: whoever is known may do this about themselves, and the coordinator judges what is about others.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Field, FieldType, Format, Operation, Output, Value};

const LISTING: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson, Format::Csv];
const ITEM: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson];
const READ: &[ExitCode] = &[ExitCode::Ok, ExitCode::LoginNeeded, ExitCode::Denied, ExitCode::Unavailable];

const SESSIONS: &[Field] = &[
    Field::shown("id", "id", FieldType::Text),
    Field::shown("user", "user", FieldType::Text),
    Field::shown("from", "from", FieldType::Text),
    Field::shown("created", "began", FieldType::Time),
    Field::shown("used", "used", FieldType::Time),
    Field::shown("expires", "expires", FieldType::Time),
    Field::shown("current", "this one", FieldType::Boolean),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: Id::AuthLogin,
        noun: "auth",
        verb: "login",
        is_default: false,
        summary: "Log in, and keep the login for the commands that follow",
        details: "Of a user of the platform it asks for the password on a terminal, and never shows it. Elsewhere it comes from a file, or \
from stdin with `-`; it is no argument, because others can see those. Without a name a person logs in at the provider of identities that the \
coordinator knows: by a browser, which comes back to a port of this machine, or with --device by a code that is compared at another. Either \
waits five minutes at most. With --with-token an API token is kept instead, after the platform was asked whether it is good. The \
login is kept for this context or home alone, in a file that only you can read; `aap auth status` says where.",
        arguments: &[
            Argument::optional("user", Value::Text, "Who; by default whom the context names"),
            Argument::option("password-file", Value::File, "Read the password from this file, `-`: stdin"),
            Argument::option("with-token", Value::File, "Keep the API token in this file, `-`: stdin"),
            Argument::flag("no-browser", "At the provider of identities; print the URL, and open no browser"),
            Argument::flag(
                "device",
                "At the provider of identities, by a code that is compared at another machine",
            ),
        ],
        effect: Effect::Mutate,
        permission: "",
        output: Output::Item {
            kind: "auth.login",
            fields: &[
                Field::shown("user", "user", FieldType::Text),
                Field::shown("expires", "expires", FieldType::Time),
                Field::shown("idle_ms", "without use", FieldType::Milliseconds),
                Field::shown("store", "kept in", FieldType::Text),
                Field::json("context", FieldType::Text),
                Field::json("must_change_password", FieldType::Boolean),
            ],
        },
        formats: ITEM,
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
            Example { command: "aap auth login", purpose: "by a browser, at the provider of identities" },
            Example { command: "aap auth login --device", purpose: "from a machine without a browser" },
            Example { command: "aap auth login ana", purpose: "asks for the password" },
            Example {
                command: "aap auth login ana --password-file /run/secrets/ana",
                purpose: "without a terminal",
            },
            Example { command: "aap auth login --with-token -", purpose: "an API token, from stdin" },
        ],
        hints: &["aap auth whoami", "aap auth logout"],
    },
    Operation {
        id: Id::AuthLogout,
        noun: "auth",
        verb: "logout",
        is_default: false,
        summary: "End the session that is kept here, and forget it",
        details: "An API token that was kept is only forgotten: `aap token revoke` withdraws it.",
        arguments: &[],
        effect: Effect::Mutate,
        permission: "",
        output: Output::Item {
            kind: "auth.logout",
            fields: &[
                Field::shown("user", "user", FieldType::Text),
                Field::shown("forgotten", "forgotten", FieldType::Boolean),
                Field::shown("session_ended", "session ended", FieldType::Boolean),
            ],
        },
        formats: ITEM,
        exits: &[ExitCode::Ok, ExitCode::Failed],
        examples: &[Example { command: "aap auth logout", purpose: "before leaving" }],
        hints: &["aap auth login"],
    },
    Operation {
        id: Id::AuthStatus,
        noun: "auth",
        verb: "status",
        is_default: false,
        summary: "Show with which credential commands go, where it comes from and when it ends",
        details: "Looks on this machine only; `aap auth whoami` asks the platform. Sources: AAP_TOKEN_FILE, AAP_TOKEN, login (what \
`aap auth login` keeps), home (the operator's token of a platform on this machine). Exit 4: there is none.",
        arguments: &[],
        effect: Effect::Read,
        permission: "",
        output: Output::Item {
            kind: "auth.status",
            fields: &[
                Field::shown("source", "source", FieldType::Text),
                Field::shown("user", "user", FieldType::Text),
                Field::shown("expires", "expires", FieldType::Time),
                Field::shown("idle_ms", "without use", FieldType::Milliseconds),
                Field::shown("context", "context", FieldType::Text),
                Field::shown("store", "store", FieldType::Text),
                Field::shown("place", "place", FieldType::Text),
            ],
        },
        formats: ITEM,
        exits: &[ExitCode::Ok, ExitCode::Failed, ExitCode::LoginNeeded],
        examples: &[Example { command: "aap auth status", purpose: "why a command is refused" }],
        hints: &["aap auth whoami"],
    },
    Operation {
        id: Id::AuthWhoami,
        noun: "auth",
        verb: "whoami",
        is_default: false,
        summary: "Ask the platform as whom it knows you, and with which roles",
        details: "",
        arguments: &[],
        effect: Effect::Read,
        permission: "",
        output: Output::Item {
            kind: "auth.whoami",
            fields: &[
                Field::shown("name", "name", FieldType::Text),
                Field::shown("kind", "kind", FieldType::Text),
                Field::shown("roles", "roles", FieldType::Texts),
                Field::shown("expires", "expires", FieldType::Time),
                Field::shown("scope", "limited to", FieldType::Texts),
                Field::json("credential", FieldType::Text),
                Field::json("must_change_password", FieldType::Boolean),
                Field::json("coordinator_version", FieldType::Text),
            ],
        },
        formats: ITEM,
        exits: READ,
        examples: &[Example { command: "aap auth whoami -o json", purpose: "for scripts" }],
        hints: &["aap can-i VERB OBJECT"],
    },
    Operation {
        id: Id::AuthPassword,
        noun: "auth",
        verb: "password",
        is_default: false,
        summary: "Change your password; your other sessions end",
        details: "Asks for the present one and twice for the new one on a terminal; elsewhere both come from files.",
        arguments: &[
            Argument::option(
                "password-file",
                Value::File,
                "The present password is in this file, `-`: stdin",
            ),
            Argument::option("new-password-file", Value::File, "The new one is in this file, `-`: stdin"),
        ],
        effect: Effect::Mutate,
        permission: "",
        output: Output::Item {
            kind: "auth.password",
            fields: &[
                Field::shown("user", "user", FieldType::Text),
                Field::shown("sessions_ended", "sessions ended", FieldType::Count),
            ],
        },
        formats: ITEM,
        exits: &[
            ExitCode::Ok,
            ExitCode::Usage,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Unavailable,
        ],
        examples: &[Example { command: "aap auth password", purpose: "asks for both" }],
        hints: &["aap auth session ls"],
    },
    Operation {
        id: Id::AuthSessionLs,
        noun: "auth session",
        verb: "ls",
        is_default: true,
        summary: "List sessions: your own, somebody's, or everybody's",
        details: "Those of others are seen by whoever may read users.",
        arguments: &[
            Argument::option("user", Value::Text, "Whose; by default your own"),
            Argument::flag("all", "Everybody's"),
        ],
        effect: Effect::Read,
        permission: "",
        output: Output::List { kind: "session.list", fields: SESSIONS },
        formats: LISTING,
        exits: READ,
        examples: &[
            Example { command: "aap auth session ls", purpose: "where you are logged in" },
            Example { command: "aap auth session ls --all", purpose: "who is" },
        ],
        hints: &["aap auth session end ID"],
    },
    Operation {
        id: Id::AuthSessionEnd,
        noun: "auth session",
        verb: "end",
        is_default: false,
        summary: "End a session, or all of somebody",
        details: "With --all without --user your own end, this one too. Those of others are ended by whoever may operate users.",
        arguments: &[
            Argument::optional("session", Value::Text, "Its id, as `aap auth session ls` shows it"),
            Argument::flag("all", "All of them"),
            Argument::option("user", Value::Text, "Whose"),
        ],
        effect: Effect::Mutate,
        permission: "",
        output: Output::Item {
            kind: "session.ended",
            fields: &[
                Field::shown("id", "id", FieldType::Text),
                Field::shown("user", "user", FieldType::Text),
                Field::shown("ended", "ended", FieldType::Count),
            ],
        },
        formats: ITEM,
        exits: &[
            ExitCode::Ok,
            ExitCode::Usage,
            ExitCode::NotFound,
            ExitCode::LoginNeeded,
            ExitCode::Denied,
            ExitCode::Unavailable,
        ],
        examples: &[
            Example { command: "aap auth session end 7mKq03TzRw9e", purpose: "a machine that you lost" },
            Example { command: "aap auth session end --all --user ana", purpose: "she has left" },
        ],
        hints: &["aap auth session ls"],
    },
];
