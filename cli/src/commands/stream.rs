//! `aap stream`.

use aap_client::operations::{Field, FieldType, Id};
use aap_client::v1::{DeleteStreamRequest, ListStreamsRequest, ShowStreamRequest, TailStreamRequest};
use aap_client::{call, problem_of};
use aap_types::ExitCode;
use clap::ArgMatches;
use serde_json::{Value, json};

use super::{query, text, views};
use crate::arguments::format_for;
use crate::confirm::{Answer, Question, confirm};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{Object, object, print_item, print_list, print_table};
use crate::rows::{RowPrinter, RowStyle};
use crate::text::rfc3339;

/// Rows of a tail for which no number is given: a screenful.
const TAIL_ROWS: u64 = 20;

pub(super) async fn ls(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let mut api = context.platform.operator().await?;
    let reply = call(context.call_timeout(), api.list_streams(ListStreamsRequest {})).await?;
    let as_of_us = context.now_us();
    print_list(context, Id::StreamLs, reply.streams.iter().map(views::stream).collect(), as_of_us)?;
    if reply.streams.is_empty() {
        context.printer.note("no stream yet; `aap ingest STREAM FILE` or `aap up --tail GLOB` makes one");
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn show(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "stream");
    let mut api = context.platform.operator().await?;
    let request = ShowStreamRequest { stream: name.to_owned() };
    let reply = call(context.call_timeout(), api.show_stream(request)).await?;
    let mut item = views::stream(&reply.status.unwrap_or_default());
    let columns: Vec<Value> =
        reply.columns.iter().map(|c| json!({"name": c.name, "type": c.r#type})).collect();
    let origins: Vec<Value> = reply
        .origins
        .iter()
        .map(
            |o| json!({"node": o.node, "epoch": o.epoch.to_string(), "sequence": o.sequence, "rows": o.rows}),
        )
        .collect();
    item.insert("columns".into(), Value::Array(columns));
    item.insert("origins".into(), Value::Array(origins));
    let as_of_us = context.now_us();
    print_item(context, Id::StreamShow, &item, as_of_us, |context| print_details(context, &item))?;
    Ok(ExitCode::Ok)
}

fn print_details(context: &mut Context<'_>, item: &Object) -> Result<(), Failure> {
    const COLUMNS: &[Field] =
        &[Field::shown("name", "column", FieldType::Text), Field::shown("type", "type", FieldType::Text)];
    const ORIGINS: &[Field] = &[
        Field::shown("node", "node", FieldType::Text),
        Field::shown("epoch", "epoch", FieldType::Text),
        Field::shown("sequence", "landed through", FieldType::Count),
        Field::shown("rows", "rows", FieldType::Count),
    ];
    for (name, fields) in [("columns", COLUMNS), ("origins", ORIGINS)] {
        let rows: Vec<Object> =
            item.get(name).and_then(Value::as_array).into_iter().flatten().cloned().map(object).collect();
        if !rows.is_empty() {
            context.printer.line("")?;
            print_table(context, fields, &rows)?;
        }
    }
    Ok(())
}

pub(super) async fn tail(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let format = format_for(Id::StreamTail, &context.settings, context.printer.stdout_is_terminal())?;
    let style = RowStyle {
        format,
        kind: "stream.rows",
        headers: !context.settings.no_headers,
        wide: arguments.get_flag("wide"),
    };
    let follow = arguments.get_flag("follow");
    let request = TailStreamRequest {
        stream: text(arguments, "stream").to_owned(),
        rows: tail_rows(arguments.get_one("rows").copied(), arguments.get_one("limit").copied()),
        follow,
        format: style.wire_format().to_owned(),
    };
    let mut api = context.platform.operator().await?;
    let events = api.tail_stream(request).await.map_err(|status| problem_of(&status))?.into_inner();
    let mut printer = RowPrinter::new(style);
    // Nothing runs on the server that would have to be cancelled: closing the connection ends a tail.
    match query::print_events(context, events, &mut printer).await? {
        query::Ended::Done(_) => Ok(ExitCode::Ok),
        query::Ended::Interrupted(code) => {
            context.printer.flush()?;
            Ok(code)
        }
    }
}

/// How many of the newest rows come first: `--rows`, where 0 means none, else `--limit`, where 0 means all.
fn tail_rows(rows: Option<u64>, limit: Option<u64>) -> u64 {
    let cap = limit.map(|limit| if limit == 0 { u64::MAX } else { limit });
    match (rows, cap) {
        (Some(rows), cap) => rows.min(cap.unwrap_or(u64::MAX)),
        (None, Some(cap)) => cap,
        (None, None) => TAIL_ROWS,
    }
}

pub(super) async fn files(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let mut api = context.platform.operator().await?;
    let request = ShowStreamRequest { stream: text(arguments, "stream").to_owned() };
    let reply = call(context.call_timeout(), api.list_stream_files(request)).await?;
    let items = reply
        .files
        .iter()
        .map(|file| {
            object(json!({
                "path": file.path,
                "rows": file.rows,
                "bytes": file.bytes,
                "oldest": rfc3339(file.ts_min_us),
                "newest": rfc3339(file.ts_max_us),
            }))
        })
        .collect();
    let as_of_us = context.now_us();
    print_list(context, Id::StreamFiles, items, as_of_us)?;
    Ok(ExitCode::Ok)
}

pub(super) async fn delete(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "stream");
    let mut api = context.platform.operator().await?;
    // Asked before the question, so that nobody confirms the deletion of what is not there.
    let shown =
        call(context.call_timeout(), api.show_stream(ShowStreamRequest { stream: name.to_owned() })).await?;
    let rows = crate::text::count(shown.status.map_or(0, |status| status.rows));
    confirm(
        context,
        &Question {
            loss: format!("This deletes stream `{name}` with {rows} rows for good."),
            answer: Answer::Name(name),
            command: format!("aap stream delete {name} --yes"),
        },
    )?;
    let reply =
        call(context.call_timeout(), api.delete_stream(DeleteStreamRequest { stream: name.to_owned() }))
            .await?;
    let item = object(json!({"stream": name, "rows": reply.rows, "files": reply.files}));
    let as_of_us = context.now_us();
    print_item(context, Id::StreamDelete, &item, as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_0_shows_none_of_the_old_ones_and_limit_0_shows_all() {
        for (rows, limit, shown) in [
            (None, None, TAIL_ROWS),
            (Some(0), None, 0),
            (Some(0), Some(0), 0),
            (None, Some(0), u64::MAX),
            (None, Some(7), 7),
            (Some(5), Some(0), 5),
            (Some(5), Some(3), 3),
        ] {
            assert_eq!(tail_rows(rows, limit), shown, "{rows:?} {limit:?}");
        }
    }
}
