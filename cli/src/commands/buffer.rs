//! `aap buffer`: runs `aap-agent buffer …` in our place. The store is the agent's trade, and needs no daemon.

use std::process::Command;

use aap_client::operations::{Format, Operation};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;

use super::{program, text};
use crate::context::Context;
use crate::failure::Failure;
use crate::up::programs;

pub(super) fn run(
    context: &mut Context<'_>,
    operation: &Operation,
    arguments: &ArgMatches,
) -> Result<ExitCode, Failure> {
    let more = take_output(context, arguments.get_many::<String>("more").into_iter().flatten().cloned())?;
    let mut command = Command::new(programs::beside("aap-agent")?);
    command.args(["buffer", operation.verb, text(arguments, "dir")]).args(more);
    program::become_it(context, operation, command)
}

/// Takes our own `-o FORMAT` out of what follows the directory; all else belongs to the agent.
fn take_output(
    context: &mut Context<'_>,
    words: impl Iterator<Item = String>,
) -> Result<Vec<String>, Problem> {
    let mut rest = Vec::new();
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        let wanted = match word.as_str() {
            "-o" | "--output" => words.next().unwrap_or_default(),
            text => match text.strip_prefix("--output=").or_else(|| text.strip_prefix("-o")) {
                Some(value) => value.to_owned(),
                None => {
                    rest.push(word);
                    continue;
                }
            },
        };
        let format = Format::NAMES.iter().find(|(name, _)| *name == wanted).map(|(_, format)| *format);
        context.settings.format = Some(format.ok_or_else(|| {
            Problem::new("cli.usage", ExitCode::Usage, format!("`{wanted}` is not a format"))
                .hint("`aap buffer` prints table, plain or json")
        })?);
    }
    Ok(rest)
}
