//! `aap sink`.

use std::time::Duration;

use aap_client::call;
use aap_client::operations::{Field, FieldType, Id};
use aap_client::v1::{ListSinksRequest, SinkReply, SinkRequest, SinkStatus};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::{Value, json};

use super::{text, views};
use crate::context::Context;
use crate::failure::{Failure, text_of};
use crate::listing::{Object, object, print_item, print_list, print_table};
use crate::text::clean;

/// How long a test may take: the server is asked on the way, which may be far and has deadlines of its own.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn ls(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let sinks = fetch(context, "").await?;
    let as_of_us = context.now_us();
    print_list(context, Id::SinkLs, sinks.iter().map(views::sink).collect(), as_of_us)?;
    if sinks.is_empty() {
        context.printer.note("no sink yet; `aap apply -f FILE` makes one");
    }
    // Under the data, also where both go to one terminal.
    context.printer.flush()?;
    for sink in &sinks {
        if let Some(problem) = views::problem(&sink.problem) {
            let (name, message) = (&sink.name, clean(&problem.message));
            context.printer.note(&format!("note: sink `{name}`: {message}; `aap sink show {name}`"));
        }
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn show(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let sink = one(context, text(arguments, "sink")).await?;
    let item = views::sink(&sink);
    let as_of_us = context.now_us();
    print_item(context, Id::SinkShow, &item, as_of_us, |context| print_details(context, &sink, &item))?;
    Ok(ExitCode::Ok)
}

/// Streams, positions and the problem, under the fields.
fn print_details(context: &mut Context<'_>, sink: &SinkStatus, item: &Object) -> Result<(), Failure> {
    const STREAMS: &[Field] = &[
        Field::shown("stream", "stream", FieldType::Text),
        Field::shown("rows", "rows", FieldType::Count),
        Field::shown("waiting_batches", "waiting", FieldType::Count),
    ];
    const POSITIONS: &[Field] = &[
        Field::shown("stream", "stream", FieldType::Text),
        Field::shown("node", "node", FieldType::Text),
        Field::shown("epoch", "epoch", FieldType::Text),
        Field::shown("through", "written", FieldType::Count),
        Field::shown("landed", "landed", FieldType::Count),
    ];
    let list =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let streams = item.get("streams").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut positions = Vec::new();
    for stream in &streams {
        for mut position in list(stream, "positions") {
            position["stream"] = stream["stream"].clone();
            positions.push(position);
        }
    }
    for (fields, rows) in [(STREAMS, streams), (POSITIONS, positions)] {
        if !rows.is_empty() {
            context.printer.line("")?;
            print_table(context, fields, &rows.into_iter().map(object).collect::<Vec<_>>())?;
        }
    }
    if let Some(problem) = views::problem(&sink.problem) {
        let text = text_of(&problem, context.printer.style());
        context.printer.line("")?;
        context.printer.line(&text)?;
    }
    Ok(())
}

pub(super) async fn test(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "sink");
    let deadline = context.settings.timeout.unwrap_or(TEST_TIMEOUT);
    let mut api = context.platform.resources().await?;
    let reply = call(deadline, api.test_sink(SinkRequest { name: name.to_owned() })).await?;
    let item = object(json!({"sink": name, "guarantee": reply.guarantee, "found": reply.found}));
    let as_of_us = context.now_us();
    print_item(context, Id::SinkTest, &item, as_of_us, |context| {
        for line in &reply.found {
            context.printer.line(&clean(line))?;
        }
        Ok(())
    })?;
    Ok(ExitCode::Ok)
}

pub(super) async fn pause(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let mut api = context.platform.resources().await?;
    let reply = call(context.call_timeout(), api.pause_sink(request(arguments))).await?;
    print_state(context, Id::SinkPause, &reply)
}

pub(super) async fn resume(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let mut api = context.platform.resources().await?;
    let reply = call(context.call_timeout(), api.resume_sink(request(arguments))).await?;
    print_state(context, Id::SinkResume, &reply)
}

fn print_state(context: &mut Context<'_>, id: Id, reply: &SinkReply) -> Result<ExitCode, Failure> {
    let item = object(json!({"sink": reply.name, "state": reply.state}));
    let as_of_us = context.now_us();
    print_item(context, id, &item, as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

/// The request about the sink that is named.
pub(super) fn request(arguments: &ArgMatches) -> SinkRequest {
    SinkRequest { name: text(arguments, "sink").to_owned() }
}

/// One sink.
///
/// # Errors
/// `sink.not_found` (3).
pub(super) async fn one(context: &Context<'_>, name: &str) -> Result<SinkStatus, Problem> {
    fetch(context, name).await?.into_iter().find(|sink| sink.name == name).ok_or_else(|| {
        Problem::new("sink.not_found", ExitCode::NotFound, format!("there is no sink `{name}`"))
            .hint_command("see which there are", "aap sink ls")
    })
}

async fn fetch(context: &Context<'_>, name: &str) -> Result<Vec<SinkStatus>, Problem> {
    let mut api = context.platform.resources().await?;
    let request = ListSinksRequest { name: name.to_owned() };
    Ok(call(context.call_timeout(), api.list_sinks(request)).await?.sinks)
}
