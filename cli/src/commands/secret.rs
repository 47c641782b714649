//! `aap secret`: what the platform keeps for sinks, sources and catalogs. No value is ever printed.

use std::io::IsTerminal;

use aap_client::operations::Id;
use aap_client::v1::{KeptSecret, ListSecretsRequest, RemoveSecretRequest, SecretReply, SetSecretRequest};
use aap_client::{Secret, call};
use aap_types::{ExitCode, SecretName};
use clap::ArgMatches;
use serde_json::json;

use super::text;
use crate::confirm::{Answer, Question, confirm};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{Object, object, print_item, print_list};
use crate::password;
use crate::text::rfc3339;

pub(super) async fn set(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "name").to_owned();
    // Before somebody types a value for nothing.
    let is_name = name.parse::<SecretName>().is_ok();
    let value =
        if is_name { value_of(&name, text(arguments, "value-file"))? } else { Secret::from(String::new()) };
    let request = SetSecretRequest { name: name.clone(), value: value.reveal().to_owned() };
    let mut api = context.platform.secrets().await?;
    let reply = call(context.call_timeout(), api.set(request)).await?;
    print(context, Id::SecretSet, reply)?;
    context.printer.flush()?;
    context.printer.note(&format!("documents refer to it as secret:{name}"));
    Ok(ExitCode::Ok)
}

/// From a file, from what is piped in, or typed.
fn value_of(name: &str, file: &str) -> Result<Secret, Failure> {
    match file {
        "" if std::io::stdin().is_terminal() => password::ask(&format!("Value of {name}"), "--value-file"),
        "" => Ok(password::from_file(password::STDIN)?),
        file => Ok(password::from_file(file)?),
    }
}

pub(super) async fn ls(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let mut api = context.platform.secrets().await?;
    let secrets = call(context.call_timeout(), api.list(ListSecretsRequest {})).await?.secrets;
    let (is_empty, as_of_us) = (secrets.is_empty(), context.now_us());
    print_list(context, Id::SecretLs, secrets.iter().map(view).collect(), as_of_us)?;
    if is_empty {
        context.printer.note("no secret is kept; `aap secret set NAME` keeps one");
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn rm(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (name, force) = (text(arguments, "name"), arguments.get_flag("force"));
    let question = Question {
        loss: format!("This forgets the secret `{name}`; what refers to it cannot connect any more."),
        answer: Answer::Name(name),
        command: format!("aap secret rm {name}{} --yes", if force { " --force" } else { "" }),
    };
    confirm(context, &question)?;
    let mut api = context.platform.secrets().await?;
    let request = RemoveSecretRequest { name: name.to_owned(), force };
    let reply = call(context.call_timeout(), api.remove(request)).await?;
    print(context, Id::SecretRm, reply)?;
    Ok(ExitCode::Ok)
}

fn print(context: &mut Context<'_>, id: Id, reply: SecretReply) -> Result<(), Failure> {
    let as_of_us = context.now_us();
    print_item(context, id, &view(&reply.secret.unwrap_or_default()), as_of_us, |_| Ok(()))
}

fn view(secret: &KeptSecret) -> Object {
    object(json!({
        "name": secret.name,
        "state": secret.state,
        "updated": rfc3339(secret.updated_us),
        "author": secret.author,
        "used_by": secret.used_by,
        "reference": format!("secret:{}", secret.name),
        "revision": secret.revision,
        "created": rfc3339(secret.created_us),
        "key": secret.key,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_with_the_fields_of_its_operations() {
        let shown = view(&KeptSecret::default());
        for id in [Id::SecretSet, Id::SecretLs, Id::SecretRm] {
            let fields: Vec<&str> =
                aap_client::operations::of(id).output.fields().iter().map(|field| field.name).collect();
            assert!(
                fields.iter().all(|field| shown.contains_key(*field)) && fields.len() == shown.len(),
                "{fields:?}"
            );
        }
    }
}
