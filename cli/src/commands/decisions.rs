//! `aap can-i`, `aap who-can`.

use aap_client::call;
use aap_client::operations::Id;
use aap_client::rules::{self, KINDS};
use aap_client::v1::{CanIRequest, WhoCanRequest};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::json;

use super::text;
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{object, print_item, print_list};

/// What a bare name is the name of.
const USUAL_KIND: &str = "stream";

/// What would be done something to; without a name any object of the kind.
#[derive(Debug, PartialEq, Eq)]
struct Subject {
    kind: String,
    name: String,
}

/// `kind/name`, `kind`, or the name of a stream.
fn subject(typed: &str) -> Result<Subject, Problem> {
    match typed.split_once('/') {
        Some((kind, name)) if !name.is_empty() => {
            Ok(Subject { kind: rules::kind(kind)?, name: name.to_owned() })
        }
        Some(_) => Err(Problem::new("cli.usage", ExitCode::Usage, format!("`{typed}` names nothing"))
            .hint("write KIND/NAME, a KIND alone for any object of it, or the name of a stream")),
        None if KINDS.contains(&typed) => Ok(Subject { kind: typed.to_owned(), name: String::new() }),
        None => Ok(Subject { kind: USUAL_KIND.to_owned(), name: typed.to_owned() }),
    }
}

pub(super) async fn can_i(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let Subject { kind, name } = subject(text(arguments, "object"))?;
    let (verb, user) = (text(arguments, "verb").to_owned(), text(arguments, "as").to_owned());
    let mut api = context.platform.access().await?;
    let request =
        CanIRequest { verb: verb.clone(), kind: kind.clone(), name: name.clone(), user: user.clone() };
    let reply = call(context.call_timeout(), api.can_i(request)).await?;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let item = object(json!({
        "allowed": reply.allowed,
        "because": reply.because,
        "verb": verb,
        "kind": kind,
        "name": some(name),
        "user": some(user),
    }));
    let as_of_us = context.now_us();
    print_item(context, Id::CanI, &item, as_of_us, |_| Ok(()))?;
    Ok(if reply.allowed { ExitCode::Ok } else { ExitCode::Denied })
}

pub(super) async fn who_can(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let Subject { kind, name } = subject(text(arguments, "object"))?;
    let mut api = context.platform.access().await?;
    let request = WhoCanRequest { verb: text(arguments, "verb").to_owned(), kind, name };
    let who = call(context.call_timeout(), api.who_can(request)).await?.who;
    let items = who.iter().map(|who| object(json!({"user": who.user, "because": who.because}))).collect();
    let as_of_us = context.now_us();
    print_list(context, Id::WhoCan, items, as_of_us)?;
    if who.is_empty() {
        context.printer.note("no user may; who has the token of the platform's home may do everything");
    }
    Ok(ExitCode::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_a_kind_with_a_name_a_kind_or_a_stream() {
        for (typed, kind, name) in [
            ("node/edge-17", "node", "edge-17"),
            ("stream", "stream", ""),
            ("logs", "stream", "logs"),
            ("stream/stream", "stream", "stream"),
            ("secret/a/b", "secret", "a/b"),
        ] {
            assert_eq!(subject(typed).unwrap(), Subject { kind: kind.into(), name: name.into() }, "{typed}");
        }
        for wrong in ["nodes/edge-17", "node/", "*/x"] {
            assert_eq!(subject(wrong).unwrap_err().exit, ExitCode::Usage, "{wrong}");
        }
    }
}
