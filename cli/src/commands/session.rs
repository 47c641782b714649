//! `aap auth session`.

use aap_client::call;
use aap_client::credentials::Source;
use aap_client::operations::Id;
use aap_client::v1::{EndSessionsRequest, ListSessionsRequest};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::json;

use super::{access_views, text};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{object, print_item, print_list};

/// What stands for everybody on the wire.
pub(super) const EVERYBODY: &str = "*";

pub(super) async fn ls(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let user = match (arguments.get_flag("all"), text(arguments, "user")) {
        (true, "") => EVERYBODY,
        (false, user) => user,
        (true, _) => return Err(usage("give --all or --user, not both").into()),
    };
    let mut api = context.platform.access().await?;
    let request = ListSessionsRequest { user: user.to_owned() };
    let sessions = call(context.call_timeout(), api.list_sessions(request)).await?.sessions;
    let as_of_us = context.now_us();
    print_list(context, Id::AuthSessionLs, sessions.iter().map(access_views::session).collect(), as_of_us)?;
    if sessions.is_empty() {
        context.printer.note("no session");
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn end(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (id, user) = (text(arguments, "session"), text(arguments, "user"));
    match (id.is_empty(), arguments.get_flag("all"), user.is_empty()) {
        (false, false, true) | (true, true, _) => {}
        (false, false, false) => return Err(usage("--user goes with --all; an id needs no user").into()),
        _ => return Err(usage("give the id of a session, or --all").into()),
    }
    let mut api = context.platform.access().await?;
    let request = EndSessionsRequest { id: id.to_owned(), user: user.to_owned() };
    let ended = call(context.call_timeout(), api.end_sessions(request)).await?.ended;
    if ended == 0 && !id.is_empty() {
        let message = format!("there is no session `{id}`");
        return Err(Problem::new("session.unknown", ExitCode::NotFound, message)
            .hint_command("see which there are", "aap auth session ls")
            .into());
    }
    let item = object(json!({
        "id": Some(id).filter(|id| !id.is_empty()),
        "user": Some(user).filter(|user| !user.is_empty()),
        "ended": ended,
    }));
    let as_of_us = context.now_us();
    print_item(context, Id::AuthSessionEnd, &item, as_of_us, |_| Ok(()))?;
    if id.is_empty() && user.is_empty() {
        forget_own(context)?;
    }
    Ok(ExitCode::Ok)
}

/// The login that is kept here was one of those that ended.
fn forget_own(context: &mut Context<'_>) -> Result<(), Problem> {
    let credentials = context.platform.credentials();
    let is_own = matches!(credentials.find()?.source, Source::Login(facts) if facts.is_session);
    if is_own {
        credentials.forget()?;
        context.printer.note("this session ended, too: `aap auth login` begins another");
    }
    Ok(())
}

fn usage(message: &str) -> Problem {
    Problem::new("cli.usage", ExitCode::Usage, message).hint_command("see how", "aap help auth session")
}
