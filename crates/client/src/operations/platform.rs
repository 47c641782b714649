//! Operations on the platform as a whole.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Field, FieldType, Format, Operation, Output, Value};

const LISTING: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson, Format::Csv];
const ITEM: &[Format] = &[Format::Table, Format::Plain, Format::Json, Format::Ndjson];

/// A backup that was written or restored.
const BACKUP: &[Field] = &[
    Field::shown("file", "file", FieldType::Text),
    Field::shown("home", "home", FieldType::Text),
    Field::shown("created", "created", FieldType::Time),
    Field::json("aap_version", FieldType::Text),
    Field::shown("files", "files", FieldType::Count),
    Field::shown("bytes", "bytes", FieldType::Bytes),
];

/// What `aap doctor` looks at, in this order.
pub const DOCTOR_CHECKS: &[&str] = &[
    "contexts",
    "credentials",
    "home",
    "disk",
    "limits",
    "programs",
    "ports",
    "coordinator",
    "tls",
    "clock",
    "nodes",
    "approvals",
    "buffers",
    "sinks",
    "audit",
    "agent",
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: Id::Init,
        noun: "",
        verb: "init",
        is_default: false,
        summary: "Make a coordinator that other machines find, and its first administrator",
        details: "Writes config/coordinator.yaml of the home, makes the certificate authority and a user who may do everything, and prints \
the password this once. Nothing may run in the home meanwhile; done again it changes nothing. One machine alone needs none of this: `aap up`.",
        arguments: &[
            Argument::option("endpoint", Value::Text, "HOST:PORT at which operators will find it; needed"),
            Argument::option(
                "agents",
                Value::Text,
                "HOST:PORT at which agents will; the same host and port 7400 without it",
            ),
            Argument::option("admin", Value::Text, "The name of the first administrator").default("admin"),
            Argument::option(
                "certificate",
                Value::File,
                "A certificate for operators that others trust already, PEM; with --key",
            ),
            Argument::option("key", Value::File, "Its key, PEM"),
        ],
        effect: Effect::Mutate,
        permission: "",
        output: Output::Program,
        formats: &[Format::Table, Format::Plain, Format::Json],
        exits: &[ExitCode::Ok, ExitCode::Failed, ExitCode::Usage, ExitCode::Conflict],
        examples: &[Example {
            command: "aap init --endpoint coord.example:7401",
            purpose: "then `aap up --detach`, and `aap auth login admin`",
        }],
        hints: &["aap up --detach", "aap auth login admin", "aap token create --site SITE"],
    },
    Operation {
        id: Id::Up,
        noun: "",
        verb: "up",
        is_default: false,
        summary: "Start coordinator and agent on this machine, and keep them running",
        details: "Creates what is missing in the home: certificates, configuration, state. A program that is killed is \
started again within 2 s. Without --detach it stays in the foreground and Ctrl-C stops everything in data order. \
On a platform that already runs it adds the files of --tail, checks that it is ready, and returns 0. The first start \
writes config/agent.yaml (figures of this machine every 10 s; HTTP ingest on loopback with the token of \
run/operator.token) and config/coordinator.yaml, which are yours to edit from then on.",
        arguments: &[
            Argument::flag("detach", "Return when the platform is ready, and leave it running").short('d'),
            Argument::option(
                "tail",
                Value::Glob,
                "Follow these files from their beginning into the stream `logs`",
            )
            .many(),
            Argument::option(
                "node",
                Value::Node,
                "Name of this node; by default the host's. Only for a new home",
            ),
        ],
        effect: Effect::Mutate,
        permission: "",
        output: Output::Item {
            kind: "platform",
            fields: &[
                Field::shown("home", "home", FieldType::Text),
                Field::shown("node", "node", FieldType::Text),
                Field::shown("operator", "operators", FieldType::Text),
                Field::shown("agents", "agents", FieldType::Text),
                Field::shown("http", "http ingest", FieldType::Text),
                Field::json("already_running", FieldType::Boolean),
                Field::json("tail_added", FieldType::Texts),
            ],
        },
        formats: ITEM,
        exits: &[ExitCode::Ok, ExitCode::Failed, ExitCode::Conflict, ExitCode::Unavailable],
        examples: &[
            Example { command: "aap up --detach", purpose: "start, and return when it is ready" },
            Example {
                command: "aap up --tail '/var/log/*.log'",
                purpose: "start in the foreground and follow log files",
            },
        ],
        hints: &["aap status", "aap down"],
    },
    Operation {
        id: Id::Down,
        noun: "",
        verb: "down",
        is_default: false,
        summary: "Stop the platform on this machine in data order",
        details: "The agent stops first, then the coordinator. What does not end within its deadline is killed, and \
that is said; nothing acknowledged is lost by it. Returns 0 when nothing was running.",
        arguments: &[],
        effect: Effect::Mutate,
        permission: "",
        output: Output::Item {
            kind: "platform.down",
            fields: &[
                Field::shown("stopped", "stopped", FieldType::Texts),
                Field::shown("killed", "killed", FieldType::Texts),
            ],
        },
        formats: ITEM,
        exits: &[ExitCode::Ok, ExitCode::Failed],
        examples: &[Example { command: "aap down", purpose: "stop everything" }],
        hints: &["aap up --detach"],
    },
    Operation {
        id: Id::Backup,
        noun: "",
        verb: "backup",
        is_default: false,
        summary: "Put the platform on this machine, which must be stopped, into one file",
        details: "The file holds everything that outlives a run: configuration, certificates with their PRIVATE KEYS, the \
operator's token, metadata, the lake, the coordinator's landing buffer and the agent's buffer with what waits in it. Only its \
owner can read it. It does not hold logs, scratch, and what configuration refers to outside of the home, such as files with \
passwords. A platform that runs is refused: `aap down` first. The file appears when it is whole.",
        arguments: &[Argument::position(
            "file",
            Value::File,
            "Where the backup goes; it must not be there yet",
        )],
        effect: Effect::Mutate,
        permission: "",
        output: Output::Item { kind: "backup", fields: BACKUP },
        formats: ITEM,
        exits: &[ExitCode::Ok, ExitCode::Failed, ExitCode::NotFound, ExitCode::Conflict],
        examples: &[Example {
            command: "aap backup /mnt/backup/platform.aap-backup",
            purpose: "after `aap down`; `aap up --detach` afterwards",
        }],
        hints: &["aap up --detach"],
    },
    Operation {
        id: Id::Restore,
        noun: "",
        verb: "restore",
        is_default: false,
        summary: "Make a platform of a file that `aap backup` wrote",
        details: "Into the home of --home, which must not be there, or be empty. Everything is checked against the sums in the \
file before the home appears. The platform goes on where the backup stood: sources are read again from there. Its stores begin \
new epochs, so that sinks that were ahead of the backup take what comes now for what it is: new rows. Never start both the \
former platform and the restored one.",
        arguments: &[Argument::position("file", Value::File, "The backup")],
        effect: Effect::Mutate,
        permission: "",
        output: Output::Item { kind: "restore", fields: BACKUP },
        formats: ITEM,
        exits: &[ExitCode::Ok, ExitCode::Failed, ExitCode::NotFound, ExitCode::Conflict],
        examples: &[
            Example { command: "aap restore platform.aap-backup", purpose: "into the usual home" },
            Example {
                command: "aap --home /srv/aap restore platform.aap-backup",
                purpose: "into another, to look at it",
            },
        ],
        hints: &["aap up --detach", "aap status"],
    },
    Operation {
        id: Id::Logs,
        noun: "",
        verb: "logs",
        is_default: false,
        summary: "Show what the daemons logged",
        details: "",
        arguments: &[
            Argument::optional(
                "program",
                Value::Choice(&["agent", "coordinator", "up"]),
                "Whose; all without it",
            ),
            Argument::flag("follow", "Go on as more is written").short('f'),
            Argument::option("lines", Value::Number, "How many of the last lines").short('n').default("100"),
        ],
        effect: Effect::Read,
        permission: "",
        output: Output::Text,
        formats: &[Format::Table, Format::Plain],
        exits: &[ExitCode::Ok, ExitCode::NotFound],
        examples: &[
            Example { command: "aap logs agent -n 20", purpose: "the agent's last 20 lines" },
            Example { command: "aap logs -f", purpose: "follow everything" },
        ],
        hints: &[],
    },
    Operation {
        id: Id::Status,
        noun: "",
        verb: "status",
        is_default: false,
        summary: "Show nodes, streams, rates, what waits, what landed, and lag",
        details: "Exit 0: every known node is connected and heard from, the agent of this home answers with no source \
failed, and whatever waits moves within 5 s; an idle platform with nothing waiting is well. Exit 11: one of these is \
not so (the reasons are printed). Exit 7: the coordinator cannot be reached. Problems that do not stop data, such as \
a missing sandbox layer, are shown and do not change the exit code.",
        arguments: &[Argument::flag("watch", "Refresh every two seconds until Ctrl-C").short('w')],
        effect: Effect::Read,
        permission: "platform:read",
        output: Output::Item {
            kind: "status",
            fields: &[
                Field::json("healthy", FieldType::Boolean),
                Field::json("reasons", FieldType::Texts),
                Field::json("coordinator_version", FieldType::Text),
                Field::json("started", FieldType::Time),
                Field::json("nodes", FieldType::Objects),
                Field::json("streams", FieldType::Objects),
                Field::json("sources", FieldType::Objects),
                Field::json("problems", FieldType::Texts),
            ],
        },
        formats: ITEM,
        exits: &[ExitCode::Ok, ExitCode::CheckFailed, ExitCode::Unavailable, ExitCode::LoginNeeded],
        examples: &[
            Example { command: "aap status", purpose: "one look" },
            Example { command: "aap status -o json", purpose: "for scripts" },
        ],
        hints: &["aap logs", "aap stream ls"],
    },
    Operation {
        id: Id::Doctor,
        noun: "",
        verb: "doctor",
        is_default: false,
        summary: "Check this machine and the platform, and say what to do about what is not well",
        details: "Looks at contexts and credentials, the home and its keys, disk, limits, programs and ports, the coordinator, its certificate \
and clock, nodes, waiting approvals, buffers, sinks, the audit log and the agent here. Each check is `ok`, `warn`, `fail` or `skipped`; one that \
fails makes the exit code 11. --fix puts right only modes of your own files and missing folders, and says what it did. --bundle writes findings, \
status, versions, configuration and the ends of the logs into an archive that only you can read, with secrets left out.",
        arguments: &[
            Argument::flag("fix", "Put right what can be put right without a doubt"),
            Argument::option("only", Value::Choice(DOCTOR_CHECKS), "Only this check").many(),
            Argument::option("bundle", Value::File, "Write an archive (tar) for whoever helps"),
        ],
        effect: Effect::Read,
        permission: "platform:read",
        output: Output::List {
            kind: "doctor.findings",
            fields: &[
                Field::shown("check", "check", FieldType::Text),
                Field::shown("result", "result", FieldType::Text),
                Field::shown("finding", "finding", FieldType::Text),
                Field::json("cause", FieldType::Text),
                Field::json("hint", FieldType::Text),
                Field::json("command", FieldType::Text),
                Field::json("fixed", FieldType::Text),
            ],
        },
        formats: LISTING,
        exits: &[ExitCode::Ok, ExitCode::Failed, ExitCode::Conflict, ExitCode::CheckFailed],
        examples: &[
            Example { command: "aap doctor", purpose: "everything" },
            Example {
                command: "aap doctor --only home --only credentials --fix",
                purpose: "put modes right",
            },
            Example { command: "aap doctor --bundle aap-doctor.tar", purpose: "for whoever helps" },
        ],
        hints: &["aap status", "aap logs"],
    },
    Operation {
        id: Id::Version,
        noun: "",
        verb: "version",
        is_default: false,
        summary: "Show the version",
        details: "",
        arguments: &[],
        effect: Effect::Read,
        permission: "",
        output: Output::Item {
            kind: "version",
            fields: &[Field::shown("version", "version", FieldType::Text)],
        },
        formats: ITEM,
        exits: &[ExitCode::Ok],
        examples: &[Example { command: "aap version", purpose: "which build this is" }],
        hints: &[],
    },
    Operation {
        id: Id::Completion,
        noun: "",
        verb: "completion",
        is_default: false,
        summary: "Print a completion script for a shell",
        details: "The script asks `aap` at every press of the key. Commands and options come from the program itself; names of nodes, \
streams, sinks, users, roles and declared objects from the platform, if it answers within 150 ms: it never asks for a password, and says \
nothing where it fails. Names are kept for ten seconds in the folder for state.",
        arguments: &[Argument::position(
            "shell",
            Value::Choice(&["bash", "zsh", "fish", "elvish", "powershell"]),
            "Which shell",
        )],
        effect: Effect::Read,
        permission: "",
        output: Output::Text,
        formats: &[Format::Plain],
        exits: &[ExitCode::Ok],
        examples: &[Example {
            command: "aap completion bash",
            purpose: "for ~/.local/share/bash-completion/completions/aap; or: source <(aap completion bash)",
        }],
        hints: &[],
    },
    Operation {
        id: Id::Help,
        noun: "",
        verb: "help",
        is_default: false,
        summary: "Explain a command, an error or a topic: error CODE, errors, exit-codes, environment, output",
        details: "With --json, the whole registry of operations as one JSON document.",
        arguments: &[
            Argument {
                kind: super::Kind::Positional { required: false, many: true },
                ..Argument::optional("topic", Value::Text, "A command, or a topic")
            },
            Argument::flag("json", "Everything, machine-readable"),
        ],
        effect: Effect::Read,
        permission: "",
        output: Output::List {
            kind: "help",
            fields: &[
                Field::shown("id", "command", FieldType::Text),
                Field::shown("summary", "summary", FieldType::Text),
            ],
        },
        formats: LISTING,
        exits: &[ExitCode::Ok, ExitCode::NotFound],
        examples: &[
            Example { command: "aap help exit-codes", purpose: "what scripts can rely on" },
            Example { command: "aap help stream ls", purpose: "one command" },
            Example { command: "aap help error query.memory", purpose: "cause and remedy of an error" },
            Example { command: "aap help --json", purpose: "for tools" },
        ],
        hints: &[],
    },
    Operation {
        id: Id::Man,
        noun: "",
        verb: "man",
        is_default: false,
        summary: "Print the manual page of `aap`, or write one for every command into a directory",
        details: "",
        arguments: &[Argument::optional("dir", Value::Directory, "Where to; it must be there")],
        effect: Effect::Read,
        permission: "",
        output: Output::Text,
        formats: &[Format::Plain],
        exits: &[ExitCode::Ok, ExitCode::Failed],
        examples: &[
            Example { command: "aap man", purpose: "the page of `aap` itself, for man -l -" },
            Example { command: "aap man /usr/local/share/man/man1", purpose: "one for every command" },
        ],
        hints: &["aap help"],
    },
];
