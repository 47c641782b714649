//! Logging in at the provider of identities: by a browser of this machine, or by a code that is typed at another.

use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::time::Duration;

use aap_client::v1::{
    FinishLoginRequest, LogInReply, StartLoginReply, StartLoginRequest, start_login_request,
};
use aap_client::{Loopback, call};
use aap_types::{ExitCode, Problem};

use crate::context::Context;
use crate::failure::Failure;
use crate::text::clean_lines;

/// How long is waited for a person.
const PERSON_WITHIN: Duration = Duration::from_secs(5 * 60);
/// What names of users begin with whom the provider knows.
const PREFIX: &str = "oidc:";
/// What opens a browser on a desktop.
const OPENER: &str = "xdg-open";

/// Whether a name is one of the provider's.
pub(super) fn is_external(user: &str) -> bool {
    user.starts_with(PREFIX)
}

/// By a browser, which comes back to a port of this machine. Where `opens` and this is a desktop, it is opened.
pub(super) async fn by_browser(context: &mut Context<'_>, opens: bool) -> Result<LogInReply, Failure> {
    let login = Loopback::open().await?;
    let browser = start_login_request::Browser {
        redirect: login.redirect().to_owned(),
        challenge: login.challenge().to_owned(),
        state: login.state().to_owned(),
    };
    let started = start(context, Some(browser)).await?;
    say(
        context,
        &format!(
            "log in at {}, which lets `{}` know of you:\n  {}",
            started.issuer, started.client_id, started.url
        ),
    );
    if opens && open(&started.url) {
        context.printer.note("a browser was opened; where it cannot be seen, open the URL yourself");
    }
    let code = tokio::time::timeout(PERSON_WITHIN, login.code(&started.issuer)).await;
    let code = code.map_err(|_| nobody_came())??;
    let verifier = login.verifier().reveal().to_owned();
    let request = FinishLoginRequest { handle: started.handle, code, verifier };
    finish(context, request, context.call_timeout()).await
}

/// By a code that the person compares at another machine.
pub(super) async fn by_device(context: &mut Context<'_>) -> Result<LogInReply, Failure> {
    let started = start(context, None).await?;
    let question = format!(
        "on any machine, open\n  {}\nand compare the code {}. It lets `{}` know of you: {}. Go on only if you began this yourself.",
        started.url,
        started.code,
        started.client_id,
        started.scopes.join(", ")
    );
    say(context, &question);
    let request = FinishLoginRequest { handle: started.handle, ..FinishLoginRequest::default() };
    finish(context, request, PERSON_WITHIN + context.call_timeout()).await
}

/// Also with `--quiet`: without it nobody can go on.
fn say(context: &mut Context<'_>, text: &str) {
    context.printer.error_line(&clean_lines(text));
}

async fn start(
    context: &Context<'_>,
    browser: Option<start_login_request::Browser>,
) -> Result<StartLoginReply, Problem> {
    let mut api = context.platform.access_as(None).await?;
    call(context.call_timeout(), api.start_login(StartLoginRequest { browser })).await
}

async fn finish(
    context: &Context<'_>,
    request: FinishLoginRequest,
    within: Duration,
) -> Result<LogInReply, Failure> {
    let mut api = context.platform.access_as(None).await?;
    Ok(call(within, api.finish_login(request)).await?)
}

/// Whether a browser was opened. It outlives this program, and says nothing here.
fn open(url: &str) -> bool {
    let has_desktop = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    let mut command = Command::new(OPENER);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    has_desktop && command.spawn().is_ok()
}

/// Whether somebody is there who could open a browser.
pub(super) fn is_attended() -> bool {
    std::io::stderr().is_terminal()
}

fn nobody_came() -> Problem {
    let message = format!("no browser came back within {} minutes", PERSON_WITHIN.as_secs() / 60);
    Problem::new("auth.login_over", ExitCode::LoginNeeded, message)
        .hint_command("begin anew", "aap auth login")
        .hint("the browser must run on this machine, or reach the port in the URL here, such as by `ssh -L`")
}
