//! Operations that another of our programs does in our place, because they are its trade and need no daemon.

use std::os::unix::process::CommandExt;
use std::process::Command;

use aap_client::operations::{Format, Operation};
use aap_types::{ExitCode, Problem};

use crate::arguments::format_for;
use crate::context::Context;
use crate::failure::Failure;

/// Becomes `command`, which gets the home and the format as it is asked for here: signals, streams and the exit code are its own.
pub(super) fn become_it(
    context: &Context<'_>,
    operation: &Operation,
    mut command: Command,
) -> Result<ExitCode, Failure> {
    // The programs know text for people, which is their default, and JSON.
    if format_for(operation.id, &context.settings, context.printer.stdout_is_terminal())? == Format::Json {
        command.args(["--output", "json"]);
    }
    if let Ok(home) = context.platform.home() {
        command.env("AAP_HOME", home.root());
    }
    let error = command.exec();
    let message = format!("`{}` cannot be run", command.get_program().to_string_lossy());
    Err(Problem::new("platform.program", ExitCode::Failed, message).caused_by(&error).into())
}
