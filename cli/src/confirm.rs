//! The question before something is removed for good: asked on a terminal, answered by `--yes` elsewhere.

use std::io::{BufRead, IsTerminal};

use aap_types::{ExitCode, Problem};

use crate::context::Context;

/// What is asked.
pub(crate) struct Question<'a> {
    /// What would be lost, as a sentence.
    pub(crate) loss: String,
    /// What has to be typed.
    pub(crate) answer: Answer<'a>,
    /// The command that does it without being asked.
    pub(crate) command: String,
}

/// What confirms: something that nobody types without having read the sentence.
pub(crate) enum Answer<'a> {
    /// The name of the only object.
    Name(&'a str),
    /// How many objects there are.
    Count(usize),
}

/// Returns when it may be done.
///
/// # Errors
/// `confirm.needed` (2) where nobody can be asked, or somebody typed something else.
pub(crate) fn confirm(context: &mut Context<'_>, question: &Question<'_>) -> Result<(), Problem> {
    if context.settings.yes {
        return Ok(());
    }
    let refused = |message: &str| {
        Problem::new("confirm.needed", ExitCode::Usage, message)
            .hint_command("delete without being asked", &question.command)
    };
    let (expected, what) = match question.answer {
        Answer::Name(name) => (name.to_owned(), "its name"),
        Answer::Count(count) => (count.to_string(), "their number"),
    };
    match typed(context, &format!("{} Type {what} to confirm:", question.loss))? {
        Some(text) if text == expected => Ok(()),
        Some(_) => Err(refused("not confirmed; nothing was deleted")),
        None => Err(refused("deleting needs a confirmation, and this is not a terminal")),
    }
}

/// What somebody types who is asked; `None` where nobody can be.
///
/// # Errors
/// `confirm.needed` (2): the terminal cannot be read.
pub(crate) fn typed(context: &mut Context<'_>, prompt: &str) -> Result<Option<String>, Problem> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    context.printer.error_line(prompt);
    let mut text = String::new();
    std::io::stdin().lock().read_line(&mut text).map_err(|error| {
        Problem::new("confirm.needed", ExitCode::Usage, "nothing could be read")
            .caused_by(&error)
            .hint("`--yes` and `--confirm NAME` answer without a terminal")
    })?;
    Ok(Some(text.trim().to_owned()))
}
