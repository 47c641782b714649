//! `aap`: arguments → client → rendering. No storage, no engine, no Arrow: encodings are made by the server.
//!
//! | file | owns |
//! |---|---|
//! | `arguments.rs` | the clap tree, made from the registry of operations, and [`arguments::Settings`] |
//! | `completion.rs` | what the shell offers at a press of the key |
//! | `confirm.rs` | the question before something is removed for good |
//! | `guard.rs` | what stands before a change through a protected context |
//! | `password.rs` | secrets from a terminal without echo, a file or stdin |
//! | `context.rs` | what every command gets: platform, settings, printer |
//! | `declared.rs` | the files of `-f`: their texts, and the objects they name |
//! | `doctor.rs`, `doctor/` | what `aap doctor` looks at |
//! | `error_pages.rs` | the pages of `docs/errors/`, which `build.rs` puts into the program |
//! | `failure.rs` | how a command ends, and how a problem looks |
//! | `printer.rs` | stdout and stderr; the only place that prints |
//! | `line_diff.rs` | two texts as a unified diff |
//! | `listing.rs`, `table.rs`, `text.rs` | objects as table, plain, json, ndjson, csv |
//! | `rows.rs` | rows of a query or a tail, as they stream in |
//! | `interrupt.rs` | Ctrl-C and SIGTERM |
//! | `commands/` | one module per noun, one function per verb |
//! | `ingest/` | `aap ingest`: input, session, report |
//! | `up/` | the supervisor of a local platform |

mod arguments;
mod commands;
mod completion;
mod confirm;
mod context;
mod declared;
mod doctor;
mod error_pages;
mod failure;
mod guard;
mod ingest;
mod interrupt;
mod line_diff;
mod listing;
mod password;
mod printer;
mod rows;
mod table;
mod text;
mod up;

use std::process::ExitCode as ProcessExit;

use aap_types::{ExitCode, Problem};

use crate::context::Context;
use crate::failure::Failure;
use crate::printer::Printer;

fn main() -> ProcessExit {
    if completion::answered() {
        return ProcessExit::SUCCESS;
    }
    let code = match std::panic::catch_unwind(run) {
        Ok(code) => code,
        Err(_) => ExitCode::Bug,
    };
    ProcessExit::from(code.number())
}

fn run() -> ExitCode {
    let parsed = match arguments::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(end) => return end.report(),
    };
    let mut printer = Printer::new(&parsed.settings);
    let outcome =
        execute(parsed, &mut printer).and_then(|code| printer.flush().map(|()| code).map_err(Failure::from));
    match outcome {
        Ok(code) => code,
        Err(failure) => failure::report(failure, &mut printer),
    }
}

fn execute(parsed: arguments::Parsed, printer: &mut Printer) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Problem::new("cli.runtime", ExitCode::Failed, "the program could not start").caused_by(&error)
    })?;
    let mut context = Context::new(parsed.operation, parsed.settings, printer)?;
    let outcome = runtime
        .block_on(commands::dispatch(parsed.operation, &parsed.arguments, &mut context))
        .map_err(|failure| context.with_remedy(parsed.operation, failure));
    // A thread may still read stdin; nobody waits for it.
    runtime.shutdown_background();
    outcome
}
