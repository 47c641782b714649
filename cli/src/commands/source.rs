//! `aap source`: runs `aap-agent source …` in our place. Sources are the agent's trade.

use std::process::Command;

use aap_client::operations::{Id, Operation};
use aap_types::ExitCode;
use clap::ArgMatches;

use super::{program, text};
use crate::context::Context;
use crate::failure::Failure;
use crate::up::programs;

pub(super) fn run(
    context: &Context<'_>,
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
    program::become_it(context, operation, command)
}
