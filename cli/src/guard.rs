//! What stands before a change through a protected context: the one place that asks or refuses, for every command.

use aap_client::operations::{Effect, Operation};
use aap_client::protection::{self, Guard, Protection, Unlocks};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;

use crate::confirm::typed;
use crate::context::Context;

/// Nouns whose operations change nothing on the platform of a context: one's own login, the contexts themselves, a directory that is named.
const NOT_OF_THE_PLATFORM: [&str; 4] = ["auth", "auth session", "context", "buffer"];

/// Returns when the operation may be done.
///
/// # Errors
/// `context.read_only` (5), `context.locked` (5); `confirm.needed` (2) where nobody can be asked, or somebody typed something else.
pub(crate) fn pass(
    context: &mut Context<'_>,
    operation: &Operation,
    arguments: &ArgMatches,
) -> Result<(), Problem> {
    let Some((name, facts)) = context.named.clone().filter(|_| changes_the_platform(operation, arguments))
    else {
        return Ok(());
    };
    let unlocked = Unlocks::within(&context.environment.state_folder()).get(&name);
    match protection::guard(&name, facts.protection, unlocked.as_ref(), context.now_us()) {
        Guard::Pass => {
            let reason =
                unlocked.filter(|_| facts.protection == Protection::Unlock).map(|unlocked| unlocked.reason);
            reason.into_iter().for_each(|reason| context.platform.give_reason(&reason));
            Ok(())
        }
        Guard::Refuse(problem) => Err(problem),
        Guard::Ask => confirm(context, operation, name.as_str()),
    }
}

fn changes_the_platform(operation: &Operation, arguments: &ArgMatches) -> bool {
    let is_trial = matches!(arguments.try_get_one::<bool>("dry-run"), Ok(Some(true)));
    operation.effect != Effect::Read && !is_trial && !NOT_OF_THE_PLATFORM.contains(&operation.noun)
}

fn confirm(context: &mut Context<'_>, operation: &Operation, name: &str) -> Result<(), Problem> {
    let command = operation.command();
    let refused = |message: String| {
        Problem::new("confirm.needed", ExitCode::Usage, message)
            .hint_command("say that it is meant", format!("{command} … --confirm {name}"))
    };
    match context.settings.confirm.clone() {
        Some(given) if given == name => return Ok(()),
        Some(given) => {
            return Err(refused(format!(
                "`{given}` is confirmed, and the context is `{name}`; nothing was changed"
            )));
        }
        None => {}
    }
    let prompt = format!("`{command}` changes something in the context `{name}`. Type its name to confirm:");
    match typed(context, &prompt)? {
        Some(text) if text == name => Ok(()),
        Some(_) => Err(refused("not confirmed; nothing was changed".to_owned())),
        None => Err(refused(format!(
            "a change in the context `{name}` needs a confirmation, and this is not a terminal"
        ))),
    }
}
