//! `aap buffer`: runs `aap-agent buffer …` in our place. The store is the agent's trade, and needs no daemon.

use std::os::unix::process::CommandExt;
use std::process::Command;

use aap_client::operations::Operation;
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
    command.args(["buffer", operation.verb, text(arguments, "dir")]);
    command.args(arguments.get_many::<String>("more").into_iter().flatten());
    if context.settings.format.is_some() {
        let format = format_for(operation.id, &context.settings, context.printer.stdout_is_terminal())?;
        command.args(["--output", format.name()]);
    }
    if let Some(home) = &context.settings.home {
        command.env("AAP_HOME", home);
    }
    // Replaces this process: signals, streams and the exit code are the program's own.
    let error = command.exec();
    let message = format!("`{}` cannot be run", command.get_program().to_string_lossy());
    Err(Problem::new("platform.program", ExitCode::Failed, message).caused_by(&error).into())
}
