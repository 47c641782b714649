//! `aap init`: what `aap-coordinator setup` does.

use std::process::Command;

use aap_client::operations::Operation;
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;

use super::{program, text};
use crate::context::Context;
use crate::failure::Failure;
use crate::up::programs;

/// What is passed on as it was given.
const OPTIONS: [&str; 5] = ["endpoint", "agents", "admin", "certificate", "key"];

pub(super) fn run(
    context: &Context<'_>,
    operation: &Operation,
    arguments: &ArgMatches,
) -> Result<ExitCode, Failure> {
    // Through a context that leads elsewhere there is none to set up; the default one is not meant then.
    context.platform.home()?;
    if text(arguments, "endpoint").is_empty() {
        let problem = Problem::new("cli.usage", ExitCode::Usage, "--endpoint is missing");
        return Err(problem
            .hint_command("say where others will find it", "aap init --endpoint coord.example:7401")
            .hint_command("one machine alone needs none", "aap up")
            .into());
    }
    let mut command = Command::new(programs::beside("aap-coordinator")?);
    command.arg("setup");
    for name in OPTIONS {
        match text(arguments, name) {
            "" => {}
            value => drop(command.arg(format!("--{name}")).arg(value)),
        }
    }
    program::become_it(context, operation, command)
}
