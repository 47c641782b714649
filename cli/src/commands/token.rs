//! `aap token`.

use std::collections::HashMap;
use std::time::Duration;

use aap_client::call;
use aap_client::operations::Id;
use aap_client::v1::{CreateEnrolmentTokenRequest, ListEnrolmentTokensRequest, RevokeEnrolmentTokenRequest};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::json;

use super::{text, views};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{object, print_item, print_list};
use crate::text::rfc3339;

pub(super) async fn create(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let request = CreateEnrolmentTokenRequest {
        site: text(arguments, "site").to_owned(),
        node: text(arguments, "node").to_owned(),
        uses: uses(arguments)?,
        ttl_ms: arguments.get_one::<Duration>("ttl").map_or(0, |ttl| ttl.as_millis() as u64),
        requires_approval: arguments.get_flag("require-approval"),
        labels: labels(arguments.get_many::<String>("label").into_iter().flatten())?,
    };
    let mut api = context.platform.access().await?;
    let reply = call(context.call_timeout(), api.create_enrolment_token(request)).await?;
    let token = reply.token.unwrap_or_default();
    let item = object(json!({
        "token": reply.text, "id": token.id, "site": token.site, "expires": rfc3339(token.expires_us),
    }));
    let as_of_us = context.now_us();
    print_item(context, Id::TokenCreate, &item, as_of_us, |_| Ok(()))?;
    context.printer.flush()?;
    context.printer.note("it is shown this once; on the machine: aap-agent enroll TOKEN");
    Ok(ExitCode::Ok)
}

pub(super) async fn ls(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let mut api = context.platform.access().await?;
    let reply =
        call(context.call_timeout(), api.list_enrolment_tokens(ListEnrolmentTokensRequest {})).await?;
    let as_of_us = context.now_us();
    print_list(context, Id::TokenLs, reply.tokens.iter().map(views::token).collect(), as_of_us)?;
    if reply.tokens.is_empty() {
        context.printer.note("no token yet; `aap token create --site SITE` makes one");
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn revoke(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let request = RevokeEnrolmentTokenRequest { id: text(arguments, "token").to_owned() };
    let mut api = context.platform.access().await?;
    let reply = call(context.call_timeout(), api.revoke_enrolment_token(request)).await?;
    let as_of_us = context.now_us();
    print_item(context, Id::TokenRevoke, &views::token(&reply.token.unwrap_or_default()), as_of_us, |_| {
        Ok(())
    })?;
    Ok(ExitCode::Ok)
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
