//! `aap sink dlq`: rows that the server of a sink will not take.

use aap_client::call;
use aap_client::operations::{Format, Id};
use aap_client::v1::{DeadLetter, ListDeadLettersReply, ListDeadLettersRequest};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::json;

use super::{sink, text, views};
use crate::arguments::format_for;
use crate::confirm::{Answer, Question, confirm};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{limit_items, object, print_item, print_list_of};
use crate::text::{age, clean, count};

pub(super) async fn ls(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "sink");
    let reply = fetch(context, name).await?;
    let as_of_us = context.now_us();
    let items = reply.letters.iter().map(views::dead_letter).collect();
    print_list_of(context, Id::SinkDlqLs, items, total(&reply), as_of_us)?;
    note_if_none(context, name, &reply);
    Ok(ExitCode::Ok)
}

pub(super) async fn show(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "sink");
    let mut reply = fetch(context, name).await?;
    let total = total(&reply);
    let format = format_for(Id::SinkDlqShow, &context.settings, context.printer.stdout_is_terminal())?;
    if format == Format::Table {
        limit_items(context, &mut reply.letters, total);
        for letter in &reply.letters {
            print_letter(context, letter)?;
        }
    } else {
        let as_of_us = context.now_us();
        let items = reply.letters.iter().map(views::dead_letter_with_row).collect();
        print_list_of(context, Id::SinkDlqShow, items, total, as_of_us)?;
    }
    note_if_none(context, name, &reply);
    Ok(ExitCode::Ok)
}

/// Where the row comes from and why it was refused, then the row: cells of a table would cut it.
fn print_letter(context: &mut Context<'_>, letter: &DeadLetter) -> Result<(), Failure> {
    let DeadLetter { node, stream, epoch, sequence, row, at_us, .. } = letter;
    let when = age(context.now_us(), *at_us);
    let head = format!("{stream}  {node}  epoch {epoch}  seq {sequence}  row {row}  {when}");
    let head = context.printer.style().bold(&clean(&head));
    context.printer.line(&head)?;
    context.printer.line(&format!("  {}", clean(&letter.reason)))?;
    context.printer.line(&format!("  {}", clean(&letter.document)))?;
    Ok(())
}

/// How many there are; those that were sent are among them.
fn total(reply: &ListDeadLettersReply) -> usize {
    usize::try_from(reply.total).unwrap_or(usize::MAX).max(reply.letters.len())
}

fn note_if_none(context: &mut Context<'_>, name: &str, reply: &ListDeadLettersReply) {
    if reply.letters.is_empty() {
        context.printer.note(&format!("sink `{name}` has no dead letters"));
    }
}

async fn fetch(context: &Context<'_>, name: &str) -> Result<ListDeadLettersReply, Problem> {
    let mut api = context.platform.resources().await?;
    let request = ListDeadLettersRequest { name: name.to_owned(), limit: context.settings.limit };
    call(context.call_timeout(), api.list_dead_letters(request)).await
}

pub(super) async fn replay(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let mut api = context.platform.resources().await?;
    let reply = call(context.call_timeout(), api.replay_dead_letters(sink::request(arguments))).await?;
    let name = text(arguments, "sink");
    print_rows(context, Id::SinkDlqReplay, name, reply.rows)?;
    if reply.rows > 0 {
        context.printer.note(&format!("what it still cannot write comes back: `aap sink dlq ls {name}`"));
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn purge(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "sink");
    // Asked before the question, so that nobody confirms the deletion of what is not there.
    let letters = count(sink::one(context, name).await?.dead_letters);
    let question = Question {
        loss: format!("This deletes the {letters} dead letters of sink `{name}` for good."),
        answer: Answer::Name(name),
        command: format!("aap sink dlq purge {name} --yes"),
    };
    confirm(context, &question)?;
    let mut api = context.platform.resources().await?;
    let reply = call(context.call_timeout(), api.purge_dead_letters(sink::request(arguments))).await?;
    print_rows(context, Id::SinkDlqPurge, name, reply.rows)?;
    Ok(ExitCode::Ok)
}

fn print_rows(context: &mut Context<'_>, id: Id, name: &str, rows: u64) -> Result<(), Failure> {
    let item = object(json!({"sink": name, "rows": rows}));
    let as_of_us = context.now_us();
    print_item(context, id, &item, as_of_us, |_| Ok(()))
}
