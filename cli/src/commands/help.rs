//! `aap help`, `aap version`, `aap completion`, `aap man`.

use aap_client::environment::VARIABLES;
use aap_client::operations::{self, GLOBALS, Id, NOUNS, Operation, exit_meaning};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::{Value, json};

use super::text;
use crate::arguments::command;
use crate::completion;
use crate::context::Context;
use crate::error_pages;
use crate::failure::Failure;
use crate::listing::{FORMAT_VERSION, object, print_item};

const TOPICS: [&str; 5] = ["exit-codes", "errors", "error CODE", "environment", "output"];

const OUTPUT: &str = "\
stdout is data only; everything else goes to stderr.

  table    aligned columns; the default on a terminal
  plain    tab-separated with a line of names, backslash escapes; the default in a pipe
  json     one document: {\"format_version\",\"kind\",\"items\"|\"item\",\"truncated\",\"as_of\",…}; consumers ignore
           what they do not know. `aap ingest` prints JSON lines, the last of type \"done\"
  ndjson   one bare item a line
  csv      comma-separated with a line of names
  parquet  an Apache Parquet file (query only)
  arrow    an Arrow IPC stream (query only)

With json or ndjson an error is one line on stderr: {\"error\":{\"code\",\"class\",\"exit\",\"message\",\"causes\",
\"hints\",\"retryable\",\"retry_after_ms\",\"request_id\",\"docs\"}}. At most 500 rows or items are printed, unless
--limit says otherwise; 0 means all. What is cut off is announced on stderr and as \"truncated\":true.";

pub(super) fn show(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let topic: Vec<&str> =
        arguments.get_many::<String>("topic").into_iter().flatten().map(String::as_str).collect();
    let for_programs = arguments.get_flag("json") || context.printer.for_programs();
    match topic.as_slice() {
        ["errors"] | ["error"] => errors(context, for_programs)?,
        ["error", code] => error(context, code, for_programs)?,
        _ if for_programs => context.printer.line(&registry().to_string())?,
        ["exit-codes"] => exit_codes(context)?,
        ["environment"] => environment(context)?,
        ["output"] => context.printer.line(OUTPUT)?,
        words => command_help(context, words)?,
    }
    Ok(ExitCode::Ok)
}

/// Every code of an error.
fn errors(context: &mut Context<'_>, for_programs: bool) -> Result<(), Failure> {
    if for_programs {
        let items: Vec<Value> =
            error_pages::all().map(|(code, summary)| json!({"code": code, "summary": summary})).collect();
        let document = json!({
            "format_version": FORMAT_VERSION, "kind": "help.errors", "items": items, "truncated": false,
        });
        return Ok(context.printer.line(&document.to_string())?);
    }
    let width = error_pages::all().map(|(code, _)| code.len()).max().unwrap_or(0);
    for (code, summary) in error_pages::all() {
        context.printer.line(&format!("{code:width$}  {summary}"))?;
    }
    Ok(())
}

/// The page of one error.
fn error(context: &mut Context<'_>, code: &str, for_programs: bool) -> Result<(), Failure> {
    let page = error_pages::page(code).ok_or_else(|| error_pages::unknown(code))?;
    if for_programs {
        let item = json!({"code": code, "page": page});
        let document = json!({"format_version": FORMAT_VERSION, "kind": "help.error", "item": item});
        return Ok(context.printer.line(&document.to_string())?);
    }
    let text = error_pages::rendered(page, context.printer.style());
    Ok(context.printer.write(text.as_bytes())?)
}

fn exit_codes(context: &mut Context<'_>) -> Result<(), Failure> {
    for code in codes() {
        let line = format!("{:>3}  {}", code.number(), exit_meaning(code));
        context.printer.line(&line)?;
    }
    Ok(())
}

/// Every exit code of the contract, by number.
fn codes() -> impl Iterator<Item = ExitCode> {
    (0..=u8::MAX).filter(|n| ExitCode::from_number(*n).number() == *n).map(ExitCode::from_number)
}

fn environment(context: &mut Context<'_>) -> Result<(), Failure> {
    for argument in GLOBALS {
        if let Some(name) = argument.environment {
            context.printer.line(&format!("{name:20} --{}: {}", argument.name, argument.summary))?;
        }
    }
    for (name, purpose) in VARIABLES {
        context.printer.line(&format!("{name:20} {purpose}"))?;
    }
    context.printer.line("NO_COLOR             no colours anywhere")?;
    Ok(())
}

fn command_help(context: &mut Context<'_>, words: &[&str]) -> Result<(), Failure> {
    let mut tree = command();
    tree.build();
    let mut found = &mut tree;
    for word in words {
        found = found.find_subcommand_mut(word).ok_or_else(|| {
            let message = format!("there is no command or topic `{}`", words.join(" "));
            Problem::new("help.not_found", ExitCode::NotFound, message)
                .hint(format!("topics are {}", TOPICS.join(", ")))
                .hint_command("see the commands", "aap help")
        })?;
    }
    let rendered = found.render_long_help();
    let text =
        if context.printer.stdout_is_terminal() { rendered.ansi().to_string() } else { rendered.to_string() };
    context.printer.write(text.as_bytes())?;
    Ok(())
}

/// The whole registry, for tools.
fn registry() -> Value {
    let operations: Vec<&Operation> = operations::all().collect();
    let commands: Vec<Value> = operations
        .iter()
        .map(|operation| {
            let mut value = serde_json::to_value(operation).unwrap_or(Value::Null);
            value["command"] = json!(operation.command());
            value["exits"] = operation.exits.iter().map(|code| json!(code.number())).collect();
            value
        })
        .collect();
    json!({
        "format_version": FORMAT_VERSION,
        "kind": "help",
        "version": env!("CARGO_PKG_VERSION"),
        "items": commands,
        "nouns": NOUNS,
        "globals": GLOBALS,
        "exit_codes": codes().map(|code| json!({
            "exit": code.number(), "class": code, "meaning": exit_meaning(code),
        })).collect::<Vec<_>>(),
        "truncated": false,
    })
}

pub(super) fn version(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let item = object(json!({"version": env!("CARGO_PKG_VERSION")}));
    let as_of_us = context.now_us();
    print_item(context, Id::Version, &item, as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

pub(super) fn completion(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    context.printer.write(&completion::script(text(arguments, "shell"))?)?;
    Ok(ExitCode::Ok)
}

pub(super) fn man(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let folder = text(arguments, "dir");
    if folder.is_empty() {
        let mut page = Vec::new();
        clap_mangen::Man::new(command()).render(&mut page)?;
        context.printer.write(&page)?;
        return Ok(ExitCode::Ok);
    }
    clap_mangen::generate_to(command(), folder).map_err(|error| {
        Problem::new("help.man", ExitCode::Failed, format!("the manual cannot be written into `{folder}`"))
            .caused_by(&error)
            .hint_command("make the directory first", format!("mkdir -p {folder}"))
    })?;
    context.printer.note(&format!("written: {folder}/aap*.1"));
    Ok(ExitCode::Ok)
}
