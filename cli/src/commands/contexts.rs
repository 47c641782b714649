//! `aap context`: ways to platforms, as whoever types knows them. No platform is asked.

use std::time::Duration;

use aap_client::contexts::{self, ContextName, Contexts, OperatorContext};
use aap_client::operations::Id;
use aap_client::protection::{Protection, UNLOCK_MAX, Unlocked, Unlocks};
use aap_client::{Authority, Platform, Target, credentials};
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use clap::ArgMatches;
use serde_json::{Value, json};

use super::{text, views};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{Object, object, print_item, print_list};
use crate::password::STDIN;

pub(super) fn add(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name: ContextName = text(arguments, "name").parse()?;
    let (facts, authority) = described(context, arguments)?;
    read(context)?.add(&name, &facts, authority.as_ref())?;
    print_one(context, Id::ContextAdd, &name)?;
    context.printer.flush()?;
    if authority.is_some() {
        context
            .printer
            .note("compare the fingerprint with what `aap context show` says where the coordinator runs");
        context.printer.note(&format!("next: aap -c {name} auth login"));
    }
    Ok(ExitCode::Ok)
}

/// What the arguments say that it is.
fn described(
    context: &Context<'_>,
    arguments: &ArgMatches,
) -> Result<(OperatorContext, Option<Authority>), Problem> {
    let (endpoint, ca, from) = (text(arguments, "endpoint"), text(arguments, "ca"), text(arguments, "from"));
    let home = context.settings.on_line.home.as_deref();
    let (mut facts, authority) = match (endpoint, ca, from, home) {
        ("", "", "", Some(home)) => (of_home(home)?, None),
        ("", "", from, None) if !from.is_empty() => {
            let (facts, authority) = imported(from)?;
            (facts, Some(authority))
        }
        (endpoint, ca, "", home) if !endpoint.is_empty() && !ca.is_empty() => {
            let here = home.map(of_home).transpose()?.unwrap_or_default();
            let endpoint = Some(contexts::endpoint(endpoint)?);
            (OperatorContext { endpoint, ..here }, Some(Authority::read(Utf8Path::new(ca))?))
        }
        _ => {
            return Err(usage("a context is --endpoint and --ca, or --home, or --from")
                .hint_command("see how", "aap context add --help"));
        }
    };
    if let Some(user) = arguments.get_one::<String>("user") {
        facts.user = Some(user.clone());
    }
    if let Some(protection) = Protection::of(text(arguments, "protection")) {
        facts.protection = protection;
    }
    Ok((facts, authority))
}

fn of_home(home: &Utf8Path) -> Result<OperatorContext, Problem> {
    let absolute = std::path::absolute(home).ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
    let home = absolute
        .ok_or_else(|| usage(&format!("`{home}` is no path of a home")).hint("name its directory"))?;
    Ok(OperatorContext { home: Some(home), ..OperatorContext::default() })
}

fn imported(from: &str) -> Result<(OperatorContext, Authority), Problem> {
    let text = match from {
        STDIN => std::io::read_to_string(std::io::stdin().lock()),
        path => std::fs::read_to_string(path),
    };
    let text = text.map_err(|error| {
        usage(&format!("`{from}` cannot be read"))
            .caused_by(&error)
            .hint("it is what `aap context export` wrote")
    })?;
    contexts::imported(&text, Utf8Path::new(from))
}

pub(super) fn ls(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let contexts = read(context)?;
    let mut items = Vec::new();
    for name in contexts.names() {
        let (name, facts) = contexts.get(name)?;
        items.push(item(context, &contexts, &name, &facts));
    }
    let is_empty = items.is_empty();
    let as_of_us = context.now_us();
    print_list(context, Id::ContextLs, items, as_of_us)?;
    if is_empty {
        context.printer.note("no context: commands go to the home of this machine");
    }
    Ok(ExitCode::Ok)
}

pub(super) fn show(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let contexts = read(context)?;
    let settings = &context.settings;
    let named =
        [&settings.on_line, &settings.in_environment].into_iter().find_map(|named| named.context.as_deref());
    let typed = Some(text(arguments, "name")).filter(|name| !name.is_empty());
    let Some(name) = typed.or(named).or(contexts.current()) else {
        return print_home(context, Id::ContextShow);
    };
    let (name, _) = contexts.get(name)?;
    print_one(context, Id::ContextShow, &name)?;
    Ok(ExitCode::Ok)
}

pub(super) fn use_it(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    match (text(arguments, "name"), arguments.get_flag("none")) {
        ("", true) => {
            read(context)?.set_current(None)?;
            print_home(context, Id::ContextUse)
        }
        (name, false) if !name.is_empty() => {
            read(context)?.set_current(Some(name))?;
            print_one(context, Id::ContextUse, &name.parse()?)?;
            context.printer.flush()?;
            note_what_wins(context);
            Ok(ExitCode::Ok)
        }
        _ => Err(usage("give the name of a context, or --none")
            .hint_command("see which there are", "aap context ls")
            .into()),
    }
}

/// The environment wins over the current context, which surprises whoever has forgotten it.
fn note_what_wins(context: &mut Context<'_>) {
    let named = &context.settings.in_environment;
    let variable = match (&named.home, &named.context) {
        (Some(_), _) => "AAP_HOME",
        (None, Some(_)) => "AAP_CONTEXT",
        (None, None) => return,
    };
    context.printer.note(&format!("note: {variable} is set, and wins over the current context"));
}

pub(super) fn rename(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (from, to): (ContextName, ContextName) =
        (text(arguments, "name").parse()?, text(arguments, "new-name").parse()?);
    read(context)?.rename(&from, &to)?;
    credentials::rename_login(&context.environment, &from, &to)?;
    unlocks(context).remove(&from)?;
    print_one(context, Id::ContextRename, &to)?;
    Ok(ExitCode::Ok)
}

pub(super) fn rm(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name: ContextName = text(arguments, "name").parse()?;
    read(context)?.remove(&name)?;
    let login_forgotten = credentials::forget_login(&context.environment, &name)?;
    unlocks(context).remove(&name)?;
    let item = object(json!({"context": name.as_str(), "login_forgotten": login_forgotten}));
    let as_of_us = context.now_us();
    print_item(context, Id::ContextRm, &item, as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

pub(super) fn export(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (name, facts) = read(context)?.get(text(arguments, "name"))?;
    let platform = Platform::find(Target::Context(name.clone(), facts.clone()), &context.environment)?;
    let facts = OperatorContext { endpoint: Some(platform.operator_endpoint()?), ..facts };
    let text = contexts::exported(&name, &facts, &platform.authority()?);
    context.printer.write(text.as_bytes())?;
    Ok(ExitCode::Ok)
}

pub(super) fn unlock(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (name, facts) = read(context)?.get(text(arguments, "name"))?;
    if facts.protection != Protection::Unlock {
        let message =
            format!("the protection of `{name}` is {}: there is nothing to unlock", facts.protection.name());
        return Err(Problem::new("context.no_lock", ExitCode::Usage, message)
            .hint_command("see what it is", format!("aap context show {name}"))
            .into());
    }
    let time = arguments.get_one::<Duration>("for").copied().unwrap_or_default();
    let reason = text(arguments, "reason").trim();
    if time.is_zero() || time > UNLOCK_MAX {
        return Err(usage("a context is unlocked for 12 hours at most").hint("give --for 15m").into());
    }
    if reason.is_empty() {
        return Err(usage("a context is unlocked for a reason").hint("give --reason 'why'").into());
    }
    let until_us = context.now_us().saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    unlocks(context).set(&name, &Unlocked { until_us, reason: reason.to_owned() })?;
    print_one(context, Id::ContextUnlock, &name)?;
    Ok(ExitCode::Ok)
}

pub(super) fn lock(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (name, _) = read(context)?.get(text(arguments, "name"))?;
    unlocks(context).remove(&name)?;
    print_one(context, Id::ContextLock, &name)?;
    Ok(ExitCode::Ok)
}

fn read(context: &Context<'_>) -> Result<Contexts, Problem> {
    Contexts::read(&context.environment.config_folder())
}

fn unlocks(context: &Context<'_>) -> Unlocks {
    Unlocks::within(&context.environment.state_folder())
}

/// A context as it is now, with the fingerprint of its authority.
fn print_one(context: &mut Context<'_>, id: Id, name: &ContextName) -> Result<(), Failure> {
    let contexts = read(context)?;
    let (_, facts) = contexts.get(name.as_str())?;
    let mut item = item(context, &contexts, name, &facts);
    // Its file may be gone, or nothing ever ran in the home: then there is none to show.
    let platform = Platform::find(Target::Context(name.clone(), facts), &context.environment);
    let fingerprint =
        platform.and_then(|platform| platform.authority()).map(|a| a.fingerprint().to_owned()).ok();
    item.insert("fingerprint".into(), json!(fingerprint));
    let as_of_us = context.now_us();
    print_item(context, id, &item, as_of_us, |_| Ok(()))
}

/// No context: the home of this machine.
fn print_home(context: &mut Context<'_>, id: Id) -> Result<ExitCode, Failure> {
    let platform = Platform::find(Target::Home(None), &context.environment)?;
    let home = platform.home()?.root().to_string();
    let facts = OperatorContext { home: Some(home.into()), ..OperatorContext::default() };
    let mut item = object_of(&facts);
    item.insert("context".into(), Value::Null);
    item.insert("current".into(), json!(false));
    item.insert("unlocked_until".into(), Value::Null);
    item.insert("unlock_reason".into(), Value::Null);
    item.insert("fingerprint".into(), json!(platform.authority().map(|a| a.fingerprint().to_owned()).ok()));
    let as_of_us = context.now_us();
    print_item(context, id, &item, as_of_us, |_| Ok(()))?;
    context.printer.note("no context is current: commands go to the home of this machine");
    Ok(ExitCode::Ok)
}

fn item(context: &Context<'_>, contexts: &Contexts, name: &ContextName, facts: &OperatorContext) -> Object {
    let now_us = context.now_us();
    let unlocked = unlocks(context).get(name).filter(|unlocked| now_us < unlocked.until_us);
    let mut item = object_of(facts);
    item.insert("context".into(), json!(name.as_str()));
    item.insert("current".into(), json!(contexts.current() == Some(name.as_str())));
    item.insert(
        "unlocked_until".into(),
        json!(unlocked.as_ref().and_then(|unlocked| views::until(unlocked.until_us))),
    );
    item.insert("unlock_reason".into(), json!(unlocked.map(|unlocked| unlocked.reason)));
    item
}

/// What a context itself says.
fn object_of(facts: &OperatorContext) -> Object {
    object(json!({
        "endpoint": facts.endpoint,
        "home": facts.home,
        "user": facts.user,
        "protection": facts.protection.name(),
        "ca": facts.ca,
    }))
}

fn usage(message: &str) -> Problem {
    Problem::new("cli.usage", ExitCode::Usage, message)
}
