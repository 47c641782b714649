//! `aap token`: enrolment tokens, and API tokens.

use std::collections::HashMap;
use std::time::Duration;

use aap_client::operations::Id;
use aap_client::v1::{
    ApiToken, CreateApiTokenRequest, CreateEnrolmentTokenRequest, ListApiTokensRequest,
    ListEnrolmentTokensRequest, RevokeApiTokensRequest, RevokeEnrolmentTokenRequest,
};
use aap_client::{AccessApi, call, rules};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use clap::parser::ValueSource;
use serde_json::json;

use super::session::EVERYBODY;
use super::{access_views, text, texts, views};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{Object, object, print_item, print_list};
use crate::text::rfc3339;

/// Arguments that are for enrolment tokens alone, and for API tokens alone.
const OF_ENROLMENT: [&str; 5] = ["site", "node", "uses", "label", "require-approval"];
const OF_API: [&str; 3] = ["user", "for", "allow"];
/// What tokens of each type begin with.
const ENROLMENT_PREFIX: &str = "aape_";
const API_PREFIX: &str = "aapt_";
/// What a token is that was withdrawn.
const REVOKED: &str = "revoked";

pub(super) async fn create(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let is_api = arguments.get_flag("api");
    refuse_what_is_for_the_other(arguments, is_api)?;
    let (item, note) = if is_api {
        create_api(context, arguments).await?
    } else {
        create_enrolment(context, arguments).await?
    };
    let as_of_us = context.now_us();
    print_item(context, Id::TokenCreate, &item, as_of_us, |_| Ok(()))?;
    context.printer.flush()?;
    context.printer.note(note);
    Ok(ExitCode::Ok)
}

fn refuse_what_is_for_the_other(arguments: &ArgMatches, is_api: bool) -> Result<(), Problem> {
    let others: &[&str] = if is_api { &OF_ENROLMENT } else { &OF_API };
    let is_given = |name: &&&str| arguments.value_source(name) == Some(ValueSource::CommandLine);
    let Some(wrong) = others.iter().find(is_given) else { return Ok(()) };
    let problem = |message: String| Problem::new("cli.usage", ExitCode::Usage, message);
    Err(match is_api {
        true => problem(format!("--{wrong} is about machines, and --api makes a token for a program"))
            .hint(format!("leave out --{wrong}, or --api")),
        false => problem(format!("--{wrong} is about programs, and this makes a token for machines"))
            .hint_command("for a program", format!("aap token create --api --{wrong} …")),
    })
}

async fn create_enrolment(
    context: &Context<'_>,
    arguments: &ArgMatches,
) -> Result<(Object, &'static str), Problem> {
    let request = CreateEnrolmentTokenRequest {
        site: text(arguments, "site").to_owned(),
        node: text(arguments, "node").to_owned(),
        uses: uses(arguments)?,
        ttl_ms: ttl_ms(arguments),
        requires_approval: arguments.get_flag("require-approval"),
        labels: labels(arguments.get_many::<String>("label").into_iter().flatten())?,
    };
    let mut api = context.platform.access().await?;
    let reply = call(context.call_timeout(), api.create_enrolment_token(request)).await?;
    let token = reply.token.unwrap_or_default();
    let item = object(json!({
        "token": reply.text,
        "id": token.id,
        "type": "enrolment",
        "site": token.site,
        "user": null,
        "expires": rfc3339(token.expires_us),
        "for": null,
        "scope": [],
    }));
    Ok((item, "it is shown this once; on the machine: aap-agent enroll TOKEN"))
}

async fn create_api(
    context: &Context<'_>,
    arguments: &ArgMatches,
) -> Result<(Object, &'static str), Problem> {
    let scope =
        texts(arguments, "allow").iter().map(|text| rules::parse(text, false)).collect::<Result<_, _>>()?;
    let request = CreateApiTokenRequest {
        user: text(arguments, "user").to_owned(),
        label: text(arguments, "for").to_owned(),
        ttl_ms: ttl_ms(arguments),
        scope,
    };
    let mut api = context.platform.access().await?;
    let reply = call(context.call_timeout(), api.create_api_token(request)).await?;
    let token = reply.token.unwrap_or_default();
    let item = object(json!({
        "token": reply.text,
        "id": token.id,
        "type": "api",
        "site": null,
        "user": token.user,
        "expires": views::until(token.expires_us),
        "for": token.label,
        "scope": token.scope.iter().map(rules::to_text).collect::<Vec<_>>(),
    }));
    Ok((
        item,
        "it is shown this once; a program shows it by AAP_TOKEN_FILE, or `aap auth login --with-token FILE` keeps it",
    ))
}

pub(super) async fn ls(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let mut api = context.platform.access().await?;
    let timeout = context.call_timeout();
    let enrolment = call(timeout, api.list_enrolment_tokens(ListEnrolmentTokensRequest {})).await;
    let api_tokens = visible_api_tokens(&mut api, timeout).await;
    // Who may see one type only sees that, and is told.
    let (enrolment, api_tokens, hidden) = match (enrolment, api_tokens) {
        (Ok(enrolment), Ok(api_tokens)) => (enrolment.tokens, api_tokens, None),
        (Ok(enrolment), Err(problem)) if problem.exit == ExitCode::Denied => {
            (enrolment.tokens, vec![], Some(("API tokens", problem)))
        }
        (Err(problem), Ok(api_tokens)) if problem.exit == ExitCode::Denied => {
            (vec![], api_tokens, Some(("enrolment tokens", problem)))
        }
        (Err(problem), _) | (_, Err(problem)) => return Err(problem.into()),
    };
    let items: Vec<Object> = enrolment
        .iter()
        .map(access_views::enrolment_token)
        .chain(api_tokens.iter().map(access_views::api_token))
        .collect();
    let is_empty = items.is_empty();
    let as_of_us = context.now_us();
    print_list(context, Id::TokenLs, items, as_of_us)?;
    match hidden {
        Some((what, problem)) => context.printer.note(&format!("note: {what} are not shown: {problem}")),
        None if is_empty => context.printer.note("no token yet; `aap token create --site SITE` makes one"),
        None => {}
    }
    Ok(ExitCode::Ok)
}

/// Everybody's, or one's own where those of others may not be seen.
async fn visible_api_tokens(api: &mut AccessApi, timeout: Duration) -> Result<Vec<ApiToken>, Problem> {
    match api_tokens_of(api, timeout, EVERYBODY).await {
        Err(problem) if problem.exit == ExitCode::Denied => api_tokens_of(api, timeout, "").await,
        other => other,
    }
}

async fn api_tokens_of(api: &mut AccessApi, timeout: Duration, user: &str) -> Result<Vec<ApiToken>, Problem> {
    let request = ListApiTokensRequest { user: user.to_owned() };
    Ok(call(timeout, api.list_api_tokens(request)).await?.tokens)
}

pub(super) async fn revoke(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (token, user) = (text(arguments, "token"), text(arguments, "all-of"));
    let mut api = context.platform.access().await?;
    let timeout = context.call_timeout();
    let revoked = match (token.is_empty(), user.is_empty()) {
        (false, true) => vec![revoke_one(&mut api, timeout, token).await?],
        (true, false) => revoke_all_of(&mut api, timeout, user).await?,
        _ => {
            return Err(Problem::new("cli.usage", ExitCode::Usage, "give either a token or --all-of USER")
                .hint_command("see which there are", "aap token ls")
                .into());
        }
    };
    if revoked.is_empty() {
        context.printer.note(&format!("`{user}` has no API token"));
    }
    let as_of_us = context.now_us();
    print_list(context, Id::TokenRevoke, revoked, as_of_us)?;
    Ok(ExitCode::Ok)
}

/// By its id, which does not say of which type it is, or by its text, which does.
async fn revoke_one(api: &mut AccessApi, timeout: Duration, token: &str) -> Result<Object, Problem> {
    if let Some(rest) = token.strip_prefix(ENROLMENT_PREFIX) {
        return revoke_enrolment(api, timeout, id_of(rest)).await;
    }
    if let Some(rest) = token.strip_prefix(API_PREFIX) {
        return revoke_api(api, timeout, id_of(rest)).await;
    }
    let as_enrolment = match revoke_enrolment(api, timeout, token).await {
        Err(problem) if matches!(problem.exit, ExitCode::NotFound | ExitCode::Denied) => problem,
        other => return other,
    };
    match revoke_api(api, timeout, token).await {
        // It is neither, or not theirs: what was said first is as true.
        Err(problem) if problem.exit == ExitCode::NotFound => Err(as_enrolment),
        other => other,
    }
}

/// The id of a token, of what stands behind its prefix.
fn id_of(rest: &str) -> &str {
    rest.split('_').next().unwrap_or(rest)
}

async fn revoke_enrolment(api: &mut AccessApi, timeout: Duration, id: &str) -> Result<Object, Problem> {
    let request = RevokeEnrolmentTokenRequest { id: id.to_owned() };
    let reply = call(timeout, api.revoke_enrolment_token(request)).await?;
    Ok(access_views::enrolment_token(&reply.token.unwrap_or_default()))
}

async fn revoke_api(api: &mut AccessApi, timeout: Duration, id: &str) -> Result<Object, Problem> {
    let known = visible_api_tokens(api, timeout).await?;
    let request = RevokeApiTokensRequest { id: id.to_owned(), user: String::new() };
    let revoked = call(timeout, api.revoke_api_tokens(request)).await?.revoked;
    if revoked == 0 {
        return Err(Problem::new("token.unknown", ExitCode::NotFound, format!("there is no token `{id}`"))
            .hint_command("see which there are", "aap token ls"));
    }
    let token = known.into_iter().find(|token| token.id == id);
    Ok(gone(token.unwrap_or_else(|| ApiToken { id: id.to_owned(), ..ApiToken::default() })))
}

async fn revoke_all_of(api: &mut AccessApi, timeout: Duration, user: &str) -> Result<Vec<Object>, Problem> {
    let known = api_tokens_of(api, timeout, user).await?;
    let request = RevokeApiTokensRequest { id: String::new(), user: user.to_owned() };
    call(timeout, api.revoke_api_tokens(request)).await?;
    Ok(known.into_iter().map(gone).collect())
}

fn gone(token: ApiToken) -> Object {
    access_views::api_token(&ApiToken { state: REVOKED.to_owned(), ..token })
}

/// `--ttl`; 0: what is usual.
fn ttl_ms(arguments: &ArgMatches) -> u64 {
    arguments.get_one::<Duration>("ttl").map_or(0, |ttl| ttl.as_millis() as u64)
}

fn uses(arguments: &ArgMatches) -> Result<u32, Problem> {
    let given = arguments.get_one::<u64>("uses").copied().unwrap_or(1);
    u32::try_from(given).ok().filter(|uses| *uses > 0).ok_or_else(|| {
        Problem::new("cli.usage", ExitCode::Usage, format!("--uses {given} is no number of machines"))
    })
}

/// `KEY=VALUE` each.
pub(super) fn labels<'a>(
    given: impl Iterator<Item = &'a String>,
) -> Result<HashMap<String, String>, Problem> {
    given
        .map(|label| match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Problem::new("cli.usage", ExitCode::Usage, format!("`{label}` is no label"))
                .hint("write KEY=VALUE, such as line=7")),
        })
        .collect()
}
