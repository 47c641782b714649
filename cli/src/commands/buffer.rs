//! `aap buffer`: runs `aap-agent buffer …` in our place. The store is the agent's trade, and needs no daemon.

use std::os::unix::process::CommandExt;
use std::process::Command;

use aap_client::operations::{Format, Operation};
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
    let more = take_output(context, arguments.get_many::<String>("more").into_iter().flatten().cloned())?;
    let mut command = Command::new(programs::beside("aap-agent")?);
    command.args(["buffer", operation.verb, text(arguments, "dir")]).args(more);
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
