//! How a command ends when it does not end well, and how a problem looks.

use std::io;

use aap_types::{ExitCode, Problem};

use crate::printer::{Printer, Style};
use crate::text::clean_lines;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something failed; not yet printed.
    Problem(Box<Problem>),
    /// Whoever read our output has gone: no reason to complain.
    BrokenPipe,
    /// Somebody who was asked pressed Ctrl-C.
    Interrupted,
}

impl From<Box<Problem>> for Failure {
    fn from(problem: Box<Problem>) -> Self {
        Self::Problem(problem)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

/// Only writing to stdout fails with a bare `io::Error`; everything else says what it was doing.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        Problem::new("cli.output", ExitCode::Failed, "the result could not be written to stdout")
            .caused_by(&error)
            .hint("is the disk full where the output goes?")
            .into()
    }
}

/// Prints the failure and says how the program ends.
pub(crate) fn report(failure: Failure, printer: &mut Printer) -> ExitCode {
    match failure {
        Failure::BrokenPipe => ExitCode::Ok,
        Failure::Interrupted => ExitCode::Interrupted,
        Failure::Problem(problem) => {
            printer.discard_if_broken();
            print_problem(&problem, printer);
            problem.exit
        }
    }
}

/// The problem on stderr: for people, or one JSON line where the output is for programs.
pub(crate) fn print_problem(problem: &Problem, printer: &mut Printer) {
    if printer.for_programs() {
        printer.error_line(&problem.to_json().to_string());
    } else {
        printer.error_line(&text_of(problem, printer.error_style()));
    }
}

/// The problem as people read it.
pub(crate) fn text_of(problem: &Problem, style: Style) -> String {
    // No line of it begins with what a stranger wrote: it could look like a hint of ours.
    let clean = |text: &str| clean_lines(text).replace('\n', "\n    ");
    let head = style.red(&format!("error[{}]", problem.code));
    let mut text = format!("{head}: {}", clean(&problem.message));
    for cause in &problem.causes {
        text.push_str(&format!("\n  cause: {}", clean(cause)));
    }
    for hint in &problem.hints {
        text.push_str(&format!("\n  {}: {}", style.green("hint"), clean(&hint.text)));
        if let Some(command) = &hint.command {
            text.push_str(&format!(": `{}`", clean(command)));
        }
    }
    let retryable = if problem.is_retryable() { " (retryable)" } else { "" };
    text.push_str(&format!("\n  exit {}{retryable}", problem.exit.number()));
    if crate::error_pages::page(&problem.code).is_some() {
        text.push_str(&format!(" · aap help error {}", problem.code));
    }
    text
}
