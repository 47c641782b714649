//! Operations on a buffer directory. `aap` runs `aap-agent buffer VERB` for them: the store is the agent's trade.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Format, Operation, Output, Value};

const FORMATS: &[Format] = &[Format::Table, Format::Plain, Format::Json];
const EXITS: &[ExitCode] =
    &[ExitCode::Ok, ExitCode::Failed, ExitCode::NotFound, ExitCode::Conflict, ExitCode::CheckFailed];
const ARGUMENTS: &[Argument] = &[
    Argument::position("dir", Value::Directory, "The buffer directory, such as HOME/agent/buffer"),
    Argument::rest("more", "Further arguments of `aap-agent buffer`"),
];

const fn operation(
    id: Id,
    verb: &'static str,
    effect: Effect,
    summary: &'static str,
    examples: &'static [Example],
) -> Operation {
    Operation {
        id,
        noun: "buffer",
        verb,
        is_default: false,
        summary,
        details: "Works on the directory itself, with or without a running daemon. The exit code is that of `aap-agent`.",
        arguments: ARGUMENTS,
        effect,
        permission: "",
        output: Output::Program,
        formats: FORMATS,
        exits: EXITS,
        examples,
        hints: &[],
    }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        Id::BufferLs,
        "ls",
        Effect::Read,
        "List the streams and segments of a buffer",
        &[Example { command: "aap buffer ls ~/.local/state/aap/agent/buffer", purpose: "what is stored" }],
    ),
    operation(
        Id::BufferShow,
        "show",
        Effect::Read,
        "Show identity, frames and cursors of a buffer",
        &[Example { command: "aap buffer show ~/.local/state/aap/agent/buffer", purpose: "in detail" }],
    ),
    operation(
        Id::BufferVerify,
        "verify",
        Effect::Read,
        "Check every checksum of a buffer",
        &[Example {
            command: "aap buffer verify ~/.local/state/aap/agent/buffer",
            purpose: "before moving a disk",
        }],
    ),
    operation(
        Id::BufferSalvage,
        "salvage",
        Effect::Mutate,
        "Copy what can be read from a damaged buffer into a new one: --out DIR",
        &[Example {
            command: "aap buffer salvage /mnt/broken/buffer --out /mnt/new/buffer",
            purpose: "after a failing disk",
        }],
    ),
    operation(
        Id::BufferExport,
        "export",
        Effect::Read,
        "Write the rows of a stream: --stream NAME, --out FILE, --format ndjson|arrow",
        &[Example {
            command: "aap buffer export /mnt/old/buffer --stream logs --out /tmp/logs.ndjson",
            purpose: "read it elsewhere",
        }],
    ),
    operation(
        Id::BufferReplay,
        "replay",
        Effect::Mutate,
        "Hand the undelivered rows of a buffer at rest to a running agent: --stream NAME, --all",
        &[Example { command: "aap buffer replay /mnt/old/buffer", purpose: "after a node was lost" }],
    ),
];
