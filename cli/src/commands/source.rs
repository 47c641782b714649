//! `aap source`: runs `aap-agent source …` in our place. Sources are the agent's trade.

use std::os::unix::process::CommandExt;
use std::process::Command;

use aap_client::operations::{Format, Id, Operation};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;

use super::text;
use crate::arguments::format_for;
use crate::context::Context;
use crate::failure::Failure;
use crate::up::programs;

pub(super) fn run(
    context: &mut Context<'_>,
    operation: &Operation,
    arguments: &ArgMatches,
) -> Result<ExitCode, Failure> {
    let mut command = Command::new(programs::beside("aap-agent")?);
    command.args(["source", operation.verb]);
    if operation.id == Id::SourceTest {
        command.arg(text(arguments, "file"));
        if let Some(within) = context.settings.timeout {
            command.args(["--seconds", &within.as_secs_f64().to_string()]);
        }
    }
    // The agent knows text for people, which is its default, and JSON.
    if format_for(operation.id, &context.settings, context.printer.stdout_is_terminal())? == Format::Json {
        command.args(["--output", "json"]);
    }
    if let Some(home) = &context.settings.home {
        command.env("AAP_HOME", home);
    }
    // Replaces this process: signals, streams and the exit code are the program's own.
    let error = command.exec();
    let message = format!("`{}` cannot be run", command.get_program().to_string_lossy());
    Err(Problem::new("platform.program", ExitCode::Failed, message).caused_by(&error).into())
}
