//! `aap apply`, `aap diff`, `aap get`, `aap delete`: declared objects.

use aap_client::call;
use aap_client::operations::{Format, Id};
use aap_client::v1::apply_request::File;
use aap_client::v1::{ApplyRequest, Change, DeleteRequest, GetRequest, Resource};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::json;

use super::{text, views};
use crate::arguments::format_for;
use crate::confirm::{Answer, Question, confirm};
use crate::context::Context;
use crate::declared::{self, ObjectName};
use crate::failure::Failure;
use crate::line_diff::{Line, unified};
use crate::listing::{Object, object, print_list};
use crate::text::{clean, clean_lines};

/// What a change is called that is none.
const UNCHANGED: &str = "unchanged";

pub(super) async fn apply(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let files = declared::files(arguments, "aap apply")?;
    let dry_run = arguments.get_flag("dry-run");
    let changes = send(context, files, dry_run).await?;
    let as_of_us = context.now_us();
    print_list(context, Id::Apply, changes.iter().map(views::applied).collect(), as_of_us)?;
    note_warnings(context, &changes)?;
    if dry_run {
        context.printer.note("note: a dry run; nothing was changed");
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn diff(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let files = declared::files(arguments, "aap diff")?;
    let changes = send(context, files, true).await?;
    let would_change = changes.iter().any(|change| change.action != UNCHANGED);
    match format_for(Id::Diff, &context.settings, context.printer.stdout_is_terminal())? {
        Format::Table | Format::Plain => {
            for change in &changes {
                print_diff(context, change)?;
            }
        }
        _ => {
            let as_of_us = context.now_us();
            print_list(context, Id::Diff, changes.iter().map(views::change).collect(), as_of_us)?;
        }
    }
    note_warnings(context, &changes)?;
    if !would_change {
        context.printer.note("nothing would change");
        return Ok(ExitCode::Ok);
    }
    Ok(ExitCode::Changes)
}

async fn send(context: &Context<'_>, files: Vec<File>, dry_run: bool) -> Result<Vec<Change>, Problem> {
    let mut api = context.platform.resources().await?;
    Ok(call(context.call_timeout(), api.apply(ApplyRequest { files, dry_run })).await?.changes)
}

/// Under the data, also where both go to one terminal.
fn note_warnings(context: &mut Context<'_>, changes: &[Change]) -> Result<(), Failure> {
    context.printer.flush()?;
    for change in changes {
        let object = ObjectName { kind: change.kind.clone(), name: change.name.clone() };
        for warning in &change.warnings {
            context.printer.note(&format!("warning: {object}: {}", clean(warning)));
        }
    }
    Ok(())
}

fn print_diff(context: &mut Context<'_>, change: &Change) -> Result<(), Failure> {
    if change.action == UNCHANGED {
        return Ok(());
    }
    let lines = unified(&change.before, &change.after);
    let style = context.printer.style();
    let shown = |sign: char, text: &str| format!("{sign}{}", clean(text));
    let place = format!("{}/{}", change.kind.to_lowercase(), change.name);
    let before = if change.before.is_empty() { "/dev/null" } else { &place };
    context.printer.line(&style.bold(&format!("--- {before}")))?;
    context.printer.line(&style.bold(&format!("+++ {place}")))?;
    if lines.is_empty() {
        context.printer.line("  only line ends differ")?;
    }
    for line in lines {
        let line = match line {
            Line::Place(place) => style.yellow(&place),
            Line::Same(text) => shown(' ', text),
            Line::Removed(text) => style.red(&shown('-', text)),
            Line::Added(text) => style.green(&shown('+', text)),
        };
        context.printer.line(&line)?;
    }
    Ok(())
}

pub(super) async fn get(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let object = ObjectName { kind: text(arguments, "kind").into(), name: text(arguments, "name").into() };
    let format = format_for(Id::Get, &context.settings, context.printer.stdout_is_terminal())?;
    let is_one = !object.name.is_empty();
    let resources = fetch(context, &object).await?;
    if is_one && matches!(format, Format::Table | Format::Plain) {
        print_documents(context, &resources)?;
        return Ok(ExitCode::Ok);
    }
    let as_of_us = context.now_us();
    print_list(context, Id::Get, resources.iter().map(views::resource).collect(), as_of_us)?;
    if resources.is_empty() {
        let what = if object.kind.is_empty() { "nothing" } else { "nothing of this kind" };
        context.printer.note(&format!("{what} is declared yet; `aap apply -f FILE` does it"));
    }
    Ok(ExitCode::Ok)
}

/// As they were applied, so that a redirected document can be edited and applied again.
fn print_documents(context: &mut Context<'_>, resources: &[Resource]) -> Result<(), Failure> {
    for (at, resource) in resources.iter().enumerate() {
        if at > 0 {
            context.printer.line("---")?;
        }
        let document = resource.document.trim_end_matches('\n');
        let on_terminal = context.printer.stdout_is_terminal();
        context.printer.line(&if on_terminal { clean_lines(document) } else { document.to_owned() })?;
    }
    Ok(())
}

async fn fetch(context: &Context<'_>, object: &ObjectName) -> Result<Vec<Resource>, Problem> {
    let mut api = context.platform.resources().await?;
    let request = GetRequest { kind: object.kind.clone(), name: object.name.clone() };
    let resources = call(context.call_timeout(), api.get(request)).await?.resources;
    if resources.is_empty() && !object.name.is_empty() {
        let command = format!("aap get {}", object.kind);
        return Err(Problem::new("resource.not_found", ExitCode::NotFound, format!("there is no {object}"))
            .hint_command("see which there are", command));
    }
    Ok(resources)
}

pub(super) async fn delete(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (wanted, command) = wanted(arguments)?;
    let (found, mut missing) = look_up(context, wanted).await?;
    let Some(first) = found.first() else {
        return Err(missing.swap_remove(0).into());
    };
    let answer = if found.len() == 1 { Answer::Name(&first.name) } else { Answer::Count(found.len()) };
    let names: Vec<String> = found.iter().map(ToString::to_string).collect();
    let with = if found.iter().any(|o| o.kind.eq_ignore_ascii_case("sink")) {
        ", with its dead letters"
    } else {
        ""
    };
    let loss = format!("This deletes {} for good{with}.", names.join(", "));
    confirm(context, &Question { loss, answer, command: format!("{command} --yes") })?;
    let mut deleted = Vec::new();
    let outcome = delete_all(context, found, &mut deleted, &mut missing).await;
    if outcome.is_ok() || !deleted.is_empty() {
        let as_of_us = context.now_us();
        print_list(context, Id::Delete, deleted, as_of_us)?;
    }
    outcome?;
    for problem in &missing {
        context.printer.note(&format!("note: {}", clean(&problem.message)));
    }
    Ok(if missing.is_empty() { ExitCode::Ok } else { ExitCode::Partial })
}

/// What is to be deleted, and the command that says so.
fn wanted(arguments: &ArgMatches) -> Result<(Vec<ObjectName>, String), Problem> {
    let (kind, name) = (text(arguments, "kind"), text(arguments, "name"));
    let named: Vec<&String> = arguments.get_many("file").into_iter().flatten().collect();
    match (kind.is_empty(), name.is_empty(), named.is_empty()) {
        (false, false, true) => {
            let object = ObjectName { kind: kind.to_owned(), name: name.to_owned() };
            Ok((vec![object], format!("aap delete {kind} {name}")))
        }
        (true, true, false) => {
            let command =
                named.iter().fold("aap delete".to_owned(), |line, file| format!("{line} -f {file}"));
            Ok((declared::objects(&declared::files(arguments, "aap delete")?)?, command))
        }
        _ => Err(Problem::new(
            "cli.usage",
            ExitCode::Usage,
            "give either a kind and a name, or files with `-f`",
        )
        .hint_command("see what there is", "aap get")),
    }
}

/// Those that are there, as the platform names them, and why the others are not. Asked before the question, so that nobody
/// confirms the deletion of what is not there.
async fn look_up(
    context: &Context<'_>,
    wanted: Vec<ObjectName>,
) -> Result<(Vec<ObjectName>, Vec<Problem>), Problem> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for object in wanted {
        match fetch(context, &object).await {
            Ok(resources) => {
                found.extend(resources.into_iter().map(|r| ObjectName { kind: r.kind, name: r.name }));
            }
            Err(problem) if problem.exit == ExitCode::NotFound => missing.push(problem),
            Err(problem) => return Err(problem),
        }
    }
    Ok((found, missing))
}

/// Deletes one after the other; what is gone by now counts as missing.
async fn delete_all(
    context: &Context<'_>,
    objects: Vec<ObjectName>,
    deleted: &mut Vec<Object>,
    missing: &mut Vec<Problem>,
) -> Result<(), Problem> {
    let mut api = context.platform.resources().await?;
    for ObjectName { kind, name } in objects {
        match call(context.call_timeout(), api.delete(DeleteRequest { kind, name })).await {
            Ok(reply) => deleted.push(object(json!({"kind": reply.kind, "name": reply.name}))),
            Err(problem) if problem.exit == ExitCode::NotFound => missing.push(problem),
            Err(problem) => return Err(problem),
        }
    }
    Ok(())
}
