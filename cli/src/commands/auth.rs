//! `aap auth`: one's own login.

use aap_client::credentials::{ChosenStore, Login, LoginFacts, Source};
use aap_client::operations::Id;
use aap_client::v1::{
    ChangePasswordRequest, LogInReply, LogInRequest, LogOutRequest, WhoAmIReply, WhoAmIRequest,
};
use aap_client::{Bearer, Secret, call};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::json;

use super::{access_views, external, text, views};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{Object, object, print_item};
use crate::password::{self, STDIN};

/// What the tokens of sessions begin with.
const SESSION_PREFIX: &str = "aaps_";

pub(super) async fn login(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (password_file, token_file) = (text(arguments, "password-file"), text(arguments, "with-token"));
    let user = user(context, text(arguments, "user"));
    // Before somebody takes the trouble: a login that cannot be kept is none.
    let store = context.platform.credentials().choose_store()?;
    let (device, no_browser) = (arguments.get_flag("device"), arguments.get_flag("no-browser"));
    let (login, must_change_password) = match (password_file, token_file, device, no_browser) {
        ("", "", false, false) if user.is_empty() || external::is_external(&user) => {
            if !external::is_attended() {
                return Err(nobody_named().into());
            }
            context.printer.note("users of the platform itself log in by name: aap auth login NAME");
            logged_in(external::by_browser(context, true).await?)
        }
        ("", "", false, true) => logged_in(external::by_browser(context, false).await?),
        ("", "", true, false) => logged_in(external::by_device(context).await?),
        (file, "", false, false) => logged_in(by_password(context, user, file).await?),
        ("", file, false, false) => (by_token(context, file).await?, false),
        _ => return Err(several_ways().into()),
    };
    keep(context, store.as_ref(), login.clone())?;
    let item = login_item(context, &login.facts, must_change_password);
    let as_of_us = context.now_us();
    print_item(context, Id::AuthLogin, &item, as_of_us, |_| Ok(()))?;
    context.printer.flush()?;
    if must_change_password {
        context.printer.note("the password has to be changed before anything else: aap auth password");
    }
    if context.platform.credentials().is_from_environment() {
        context.printer.note("note: AAP_TOKEN_FILE or AAP_TOKEN is set and wins over this login");
    }
    Ok(ExitCode::Ok)
}

/// Keeps a login, and says where something was in the way.
fn keep(context: &mut Context<'_>, store: Option<&ChosenStore>, login: Login) -> Result<(), Problem> {
    let Some(store) = store else { return Ok(()) };
    let stays = context.platform.credentials().keep(store, login)?;
    for problem in &store.passed_over {
        let causes = problem.causes.join(": ");
        context.printer.note(&format!("note: this store of logins was passed over: {problem}: {causes}"));
    }
    if let Some(problem) = stays {
        context.printer.note(&format!("warning: the former login stays where it was: {problem}"));
    }
    Ok(())
}

/// Who is typed, else whom the context names.
fn user(context: &Context<'_>, typed: &str) -> String {
    let of_context = || context.named.as_ref().and_then(|(_, facts)| facts.user.clone());
    if typed.is_empty() { of_context().unwrap_or_default() } else { typed.to_owned() }
}

async fn by_password(context: &Context<'_>, user: String, file: &str) -> Result<LogInReply, Failure> {
    if user.is_empty() {
        return Err(nobody_named().into());
    }
    let password = secret(file, &format!("Password of {user}"), "--password-file")?;
    let mut api = context.platform.access_as(None).await?;
    let request = LogInRequest { user, password: password.reveal().to_owned() };
    Ok(call(context.call_timeout(), api.log_in(request)).await?)
}

/// What is kept of a session that has begun, and whether its user must change their password first.
fn logged_in(reply: LogInReply) -> (Login, bool) {
    let facts = LoginFacts {
        user: reply.user,
        is_session: true,
        expires_us: reply.expires_us,
        idle_us: reply.idle_us,
        authority: None,
    };
    (Login { facts, token: Secret::from(reply.token) }, reply.must_change_password)
}

/// The token is kept only if the platform knows it.
async fn by_token(context: &Context<'_>, file: &str) -> Result<Login, Failure> {
    let token = password::from_file(file)?;
    let bearer = Bearer::of(&token, if file == STDIN { "stdin" } else { file })?;
    let reply = who_am_i(context, Some(bearer)).await.map_err(|problem| match problem.exit {
        ExitCode::LoginNeeded => {
            problem.hint("it is not kept; look whether it is whole, and of this platform")
        }
        _ => problem,
    })?;
    let facts = LoginFacts {
        user: reply.name,
        is_session: token.reveal().starts_with(SESSION_PREFIX),
        expires_us: reply.expires_us,
        idle_us: 0,
        authority: None,
    };
    Ok(Login { facts, token })
}

/// Whom the platform knows: by a token, or by the one that is found.
async fn who_am_i(context: &Context<'_>, bearer: Option<Bearer>) -> Result<WhoAmIReply, Problem> {
    let mut api = match bearer {
        Some(bearer) => context.platform.access_as(Some(bearer)).await?,
        None => context.platform.access().await?,
    };
    call(context.call_timeout(), api.who_am_i(WhoAmIRequest {})).await
}

fn login_item(context: &Context<'_>, facts: &LoginFacts, must_change_password: bool) -> Object {
    object(json!({
        "user": facts.user,
        "expires": views::until(facts.expires_us),
        "idle_ms": idle_ms(facts),
        "store": context.platform.credentials().store().map(|(name, _)| name),
        "context": context.platform.context().map(ToString::to_string),
        "must_change_password": must_change_password,
    }))
}

fn idle_ms(facts: &LoginFacts) -> Option<i64> {
    Some(facts.idle_us / 1000).filter(|ms| *ms > 0)
}

pub(super) async fn logout(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    // One that cannot be read is forgotten all the same; only its session cannot be ended then.
    let login = match context.platform.credentials().login() {
        Ok(login) => login,
        Err(problem) => {
            context.printer.note(&format!("warning: {problem}; a session goes on until it is over"));
            None
        }
    };
    let session_ended = match &login {
        Some(login) if login.facts.is_session => end_session(context, login).await,
        _ => false,
    };
    let forgotten = context.platform.credentials().forget()?;
    let item = object(json!({
        "user": login.map(|login| login.facts.user),
        "forgotten": forgotten,
        "session_ended": session_ended,
    }));
    let as_of_us = context.now_us();
    print_item(context, Id::AuthLogout, &item, as_of_us, |_| Ok(()))?;
    if !forgotten {
        context.printer.note("no login was kept here");
    }
    Ok(ExitCode::Ok)
}

/// Ends the session at the platform. One that is over already is as good as ended.
async fn end_session(context: &mut Context<'_>, login: &Login) -> bool {
    let asked = async {
        let mut api = context.platform.access_as(Some(Bearer::of(&login.token, "the stored login")?)).await?;
        call(context.call_timeout(), api.log_out(LogOutRequest {})).await
    };
    let ended = asked.await;
    match ended {
        Ok(_) => true,
        Err(problem) if problem.exit == ExitCode::LoginNeeded => true,
        Err(problem) => {
            context.printer.note(&format!("warning: the session goes on until it is over: {problem}"));
            false
        }
    }
}

pub(super) fn status(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let credentials = context.platform.credentials();
    let source = credentials.find()?.source;
    let (user, expires, idle) = match &source {
        Source::Login(facts) => (Some(facts.user.clone()), views::until(facts.expires_us), idle_ms(facts)),
        Source::TokenFile(_) | Source::Variable | Source::Home(_) => (None, None, None),
    };
    let (store, place) = match &source {
        Source::Login(_) => {
            credentials.store().map_or((None, None), |(name, place)| (Some(name), Some(place)))
        }
        Source::TokenFile(path) | Source::Home(path) => (None, Some(path.to_string())),
        Source::Variable => (None, None),
    };
    let item = object(json!({
        "source": source.name(),
        "user": user,
        "expires": expires,
        "idle_ms": idle,
        "context": context.platform.context().map(ToString::to_string),
        "store": store,
        "place": place,
    }));
    let as_of_us = context.now_us();
    print_item(context, Id::AuthStatus, &item, as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

pub(super) async fn whoami(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let reply = who_am_i(context, None).await?;
    let as_of_us = context.now_us();
    print_item(context, Id::AuthWhoami, &access_views::who(&reply), as_of_us, |_| Ok(()))?;
    if reply.must_change_password {
        context.printer.note("the password has to be changed before anything else: aap auth password");
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn change_password(
    context: &mut Context<'_>,
    arguments: &ArgMatches,
) -> Result<ExitCode, Failure> {
    let (before, after) = (text(arguments, "password-file"), text(arguments, "new-password-file"));
    if before == STDIN && after == STDIN {
        return Err(Problem::new(
            "cli.usage",
            ExitCode::Usage,
            "only one of the two passwords can come from stdin",
        )
        .hint("name a file for the other")
        .into());
    }
    let source = context.platform.credentials().find()?.source;
    let user = if let Source::Login(facts) = source { Some(facts.user) } else { None };
    let before = secret(before, "Present password", "--password-file")?;
    let after = new_password(after)?;
    let mut api = context.platform.access().await?;
    let request =
        ChangePasswordRequest { before: before.reveal().to_owned(), after: after.reveal().to_owned() };
    let reply = call(context.call_timeout(), api.change_password(request)).await?;
    let item = object(json!({"user": user, "sessions_ended": reply.sessions_ended}));
    let as_of_us = context.now_us();
    print_item(context, Id::AuthPassword, &item, as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

/// From a file, or typed twice alike.
fn new_password(file: &str) -> Result<Secret, Failure> {
    let option = "--new-password-file";
    let first = secret(file, "New password", option)?;
    if file.is_empty() && password::ask("The new password once more", option)? != first {
        return Err(Problem::new(
            "auth.password_mismatch",
            ExitCode::Usage,
            "two different passwords were typed",
        )
        .hint_command("nothing was changed; once more", "aap auth password")
        .into());
    }
    Ok(first)
}

/// From a file, else asked for.
fn secret(file: &str, prompt: &str, option: &str) -> Result<Secret, Failure> {
    if file.is_empty() { password::ask(prompt, option) } else { Ok(password::from_file(file)?) }
}

fn nobody_named() -> Problem {
    Problem::new("cli.usage", ExitCode::Usage, "it is not said who logs in")
        .hint_command("name the user", "aap auth login USER")
        .hint_command("or log in at the provider of identities by a browser", "aap auth login --no-browser")
        .hint_command("or by a code that is typed elsewhere", "aap auth login --device")
}

fn several_ways() -> Problem {
    Problem::new(
        "cli.usage",
        ExitCode::Usage,
        "a login is by password, by token, by browser or by device: one of them",
    )
    .hint("give only one of --password-file, --with-token, --no-browser and --device")
}
