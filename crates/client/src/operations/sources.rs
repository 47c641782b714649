//! Operations on files of sources. `aap` runs `aap-agent source VERB` for them: sources are the agent's trade.

use aap_types::ExitCode;

use super::ids::Id;
use super::vocabulary::{Argument, Effect, Example, Format, Operation, Output, Value};

const FORMATS: &[Format] = &[Format::Table, Format::Plain, Format::Json];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: Id::SourceTypes,
        noun: "source",
        verb: "types",
        is_default: false,
        summary: "List the types of sources, what each promises, and an example of its section",
        details: "Of agents; topics of Kafka and tables of PostgreSQL are read by the coordinator and applied with `aap apply`. \
Classes: replayable (read again from where its rows stand), retried with a key (a client repeats a request under \
the same key), unacknowledged (it cannot be asked again, or only for what may then stand there twice).",
        arguments: &[],
        effect: Effect::Read,
        permission: "",
        output: Output::Program,
        formats: FORMATS,
        exits: &[ExitCode::Ok, ExitCode::Failed],
        examples: &[Example { command: "aap source types", purpose: "what there is to choose from" }],
        hints: &["aap source test FILE"],
    },
    Operation {
        id: Id::SourceTest,
        noun: "source",
        verb: "test",
        is_default: false,
        summary: "Check a file of sources and run each until its first rows, storing nothing",
        details: "A wrong field is named with its line and what was probably meant. Then each source connects or listens, and its \
first rows are shown; --timeout says how long to wait for them (5 s). No position moves and no message is acknowledged. A port that the \
running agent has is taken: test such a source with another.",
        arguments: &[Argument::position("file", Value::File, "A file with documents of kind Source")],
        effect: Effect::Read,
        permission: "",
        output: Output::Program,
        formats: FORMATS,
        exits: &[ExitCode::Ok, ExitCode::Failed, ExitCode::Usage, ExitCode::CheckFailed],
        examples: &[Example {
            command: "aap source test web-logs.yaml",
            purpose: "before it goes to `config/sources.d`",
        }],
        hints: &["aap source types"],
    },
];
