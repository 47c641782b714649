//! `aap query`.

use std::time::Duration;

use aap_client::operations::{Format, Id};
use aap_client::v1::query_event::Kind;
use aap_client::v1::{
    CancelQuery, Coverage, ListQueriesRequest, QueryDone, QueryEvent, QueryLimits, QueryRequest, Scan,
};
use aap_client::{OperatorApi, call, problem_of};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::json;
use tonic::Streaming;

use super::text;
use crate::arguments::format_for;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::listing::{object, print_item, print_list};
use crate::rows::{RowPrinter, RowStyle};
use crate::text::rfc3339;

/// How long the server may take to hear that it should cancel; then we leave, and it notices the closed connection.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// Rows that wait for others to size the table are shown when nothing came for this long.
const LULL: Duration = Duration::from_millis(150);
/// The server ends a query at its deadline; if it does not, we do a little later.
const DEADLINE_GRACE: Duration = Duration::from_secs(5);

pub(super) async fn run(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    if arguments.get_flag("explain") {
        return explain(context, arguments).await;
    }
    let sql = statement(arguments)?;
    let style = row_style(context, arguments)?;
    let id = query_id()?;
    let request = request(context, arguments, sql, style.wire_format(), &id);
    let mut api = context.platform.operator_for(&request.nodes).await?;
    let mut printer = RowPrinter::new(style);
    let deadline = context.settings.timeout.map(|timeout| timeout + DEADLINE_GRACE);
    let answer = answer(context, &mut api, request, &mut printer);
    let ended = match deadline {
        None => answer.await,
        Some(limit) => {
            tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(deadline_passed().into()))
        }
    };
    match ended {
        Ok(Ended::Done(done)) => Ok(conclude(context, &done)),
        Ok(Ended::Interrupted(code)) => {
            cancel_on_server(&mut api, &id).await;
            context.printer.note("cancelled");
            Ok(code)
        }
        Err(gone @ (Failure::BrokenPipe | Failure::Interrupted)) => {
            cancel_on_server(&mut api, &id).await;
            Err(gone)
        }
        Err(Failure::Problem(problem)) => {
            printer.failed(&problem, context.printer)?;
            Err(Failure::Problem(problem))
        }
    }
}

async fn answer(
    context: &mut Context<'_>,
    api: &mut OperatorApi,
    request: QueryRequest,
    printer: &mut RowPrinter,
) -> Result<Ended, Failure> {
    let mut interrupts = Interrupts::new()?;
    let events = tokio::select! {
        response = api.run_query(request) => response.map_err(|status| problem_of(&status))?.into_inner(),
        code = interrupts.next() => return Ok(Ended::Interrupted(code)),
    };
    print_events_until(context, events, printer, &mut interrupts).await
}

fn request(
    context: &Context<'_>,
    arguments: &ArgMatches,
    sql: String,
    format: &str,
    id: &str,
) -> QueryRequest {
    let deadline_ms =
        context.settings.timeout.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
    QueryRequest {
        sql,
        format: format.to_owned(),
        limits: Some(QueryLimits { rows: context.settings.limit, bytes: 0, deadline_ms }),
        wait_for_ingest: arguments.get_flag("wait-for-ingest"),
        nodes: arguments.get_many::<String>("node").into_iter().flatten().cloned().collect(),
        all_nodes: arguments.get_one::<String>("nodes").is_some(),
        id: id.to_owned(),
        engine: arguments.get_one::<String>("engine").cloned().unwrap_or_default(),
    }
}

fn statement(arguments: &ArgMatches) -> Result<String, Problem> {
    let sql = match (arguments.get_one::<String>("file"), text(arguments, "sql")) {
        (Some(_), sql) if !sql.is_empty() => {
            return Err(no_statement("a statement and a file are given; one is enough"));
        }
        (Some(path), _) if path != "-" => std::fs::read_to_string(path).map_err(|error| {
            let exit = match error.kind() {
                std::io::ErrorKind::NotFound => ExitCode::NotFound,
                _ => ExitCode::Failed,
            };
            Problem::new("query.file", exit, format!("`{path}` cannot be read")).caused_by(&error)
        })?,
        (Some(_), _) | (None, "-") => std::io::read_to_string(std::io::stdin()).map_err(|error| {
            Problem::new("query.file", ExitCode::Failed, "stdin cannot be read").caused_by(&error)
        })?,
        (None, sql) => sql.to_owned(),
    };
    if sql.trim().is_empty() { Err(no_statement("no statement given")) } else { Ok(sql) }
}

fn no_statement(message: &str) -> Problem {
    Problem::new("cli.usage", ExitCode::Usage, message)
        .hint_command("ask something", "aap query \"select count(*) from logs\"")
}

fn row_style(context: &Context<'_>, arguments: &ArgMatches) -> Result<RowStyle, Problem> {
    let terminal = context.printer.stdout_is_terminal();
    let format = format_for(Id::QueryRun, &context.settings, terminal)?;
    if terminal && matches!(format, Format::Parquet | Format::Arrow) {
        let message = format!("{} is not for a terminal", format.name());
        return Err(
            Problem::new("cli.format", ExitCode::Usage, message).hint("redirect it to a file with `> FILE`")
        );
    }
    let headers = !context.settings.no_headers;
    Ok(RowStyle { format, kind: "query", headers, wide: arguments.get_flag("wide") })
}

/// Chosen here, so that the query can be cancelled before the server has said anything.
fn query_id() -> Result<String, Problem> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(|error| {
        Problem::new("cli.random", ExitCode::Failed, "no random number").caused_by(&error)
    })?;
    Ok(format!("q-{:016x}", u64::from_le_bytes(bytes)))
}

fn deadline_passed() -> Problem {
    Problem::new("query.deadline", ExitCode::Failed, "the deadline of the query passed")
        .hint("give it longer with `--timeout`, or ask for less: a time range, fewer columns")
}

async fn cancel_on_server(api: &mut OperatorApi, id: &str) {
    // Best effort: the server also sees that nobody listens any more. A second Ctrl-C leaves at once.
    let Ok(mut interrupts) = Interrupts::new() else { return };
    tokio::select! {
        _ = call(CANCEL_TIMEOUT, api.cancel_query(CancelQuery { id: id.to_owned() })) => {}
        _ = interrupts.next() => {}
    }
}

/// Says on stderr what the rows alone do not, and which exit code that means.
fn conclude(context: &mut Context<'_>, done: &QueryDone) -> ExitCode {
    if done.truncated {
        let by = if done.truncated_by.is_empty() { "rows" } else { &done.truncated_by };
        context.printer.note(&match by {
            "rows" => format!("note: only the first {} rows are shown; `--limit 0` shows all", done.rows),
            other => format!("note: cut off after {} rows by the limit of {other}", done.rows),
        });
    }
    let as_of = rfc3339(done.as_of_us).unwrap_or_default();
    context.printer.detail(&format!("{} rows in {} ms, as of {as_of}", done.rows, done.elapsed_ms));
    match &done.coverage {
        Some(coverage) if !coverage.asked.is_empty() => announce(context, coverage),
        _ => ExitCode::Ok,
    }
}

/// Who did not answer. Where all did, only who asks with `--verbose` reads of it.
fn announce(context: &mut Context<'_>, coverage: &Coverage) -> ExitCode {
    let mut text =
        format!("coverage: {} of {} nodes answered", coverage.answered.len(), coverage.asked.len());
    for (what, nodes) in [("late", &coverage.late), ("failed", &coverage.failed)] {
        if !nodes.is_empty() {
            text.push_str(&format!("; {what}: {}", crate::text::clean(&nodes.join(", "))));
        }
    }
    let whole = coverage.late.is_empty() && coverage.failed.is_empty();
    if whole {
        context.printer.detail(&text);
        return ExitCode::Ok;
    }
    context.printer.error_line(&text);
    let late = coverage.late.iter().zip(&coverage.late_reasons).filter(|(_, reason)| !reason.is_empty());
    for (node, reason) in late.chain(coverage.failed.iter().zip(&coverage.reasons)) {
        context.printer.error_line(&crate::text::clean(&format!("  detail: `{node}`: {reason}")));
    }
    ExitCode::Partial
}

/// How a stream of events ended.
pub(super) enum Ended {
    Done(Box<QueryDone>),
    Interrupted(ExitCode),
}

/// Prints events as they come, until the end or a signal.
pub(super) async fn print_events(
    context: &mut Context<'_>,
    events: Streaming<QueryEvent>,
    rows: &mut RowPrinter,
) -> Result<Ended, Failure> {
    let mut interrupts = Interrupts::new()?;
    match print_events_until(context, events, rows, &mut interrupts).await {
        Err(Failure::Problem(problem)) => {
            rows.failed(&problem, context.printer)?;
            Err(Failure::Problem(problem))
        }
        Ok(Ended::Interrupted(code)) => {
            let end = QueryDone { as_of_us: context.now_us(), ..QueryDone::default() };
            rows.done(&end, context.printer)?;
            Ok(Ended::Interrupted(code))
        }
        other => other,
    }
}

async fn print_events_until(
    context: &mut Context<'_>,
    mut events: Streaming<QueryEvent>,
    rows: &mut RowPrinter,
    interrupts: &mut Interrupts,
) -> Result<Ended, Failure> {
    let mut unseen = false;
    loop {
        let event = tokio::select! {
            event = events.message() => event.map_err(|status| problem_of(&status))?,
            code = interrupts.next() => return Ok(Ended::Interrupted(code)),
            () = tokio::time::sleep(LULL), if unseen => {
                unseen = false;
                rows.show_waiting(context.printer)?;
                continue;
            }
        };
        match event.and_then(|event| event.kind) {
            Some(Kind::Started(started)) => rows.started(started.columns, context.printer)?,
            Some(Kind::Data(bytes)) => {
                rows.data(&bytes, context.printer)?;
                unseen = true;
            }
            Some(Kind::Done(done)) => {
                rows.done(&done, context.printer)?;
                return Ok(Ended::Done(Box::new(done)));
            }
            None => return Err(ended_early().into()),
        }
    }
}

fn ended_early() -> Problem {
    Problem::new("platform.unreachable", ExitCode::Unavailable, "the answer ended before it was complete")
        .hint_command("see whether the platform is well", "aap status")
        .retry_after_ms(1000)
}

/// Runs a statement for what its end tells.
pub(super) async fn explain(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let format = format_for(Id::QueryExplain, &context.settings, context.printer.stdout_is_terminal())?;
    let id = query_id()?;
    let request = request(context, arguments, statement(arguments)?, "rows", &id);
    let mut api = context.platform.operator_for(&request.nodes).await?;
    let mut interrupts = Interrupts::new()?;
    let done = tokio::select! {
        done = last_event(&mut api, request) => done?,
        code = interrupts.next() => {
            cancel_on_server(&mut api, &id).await;
            context.printer.note("cancelled");
            return Ok(code);
        }
    };
    let items: Vec<_> = done.scans.iter().map(scan_item).collect();
    print_list(context, Id::QueryExplain, items, done.as_of_us)?;
    if format == Format::Table {
        for scan in &done.scans {
            print_scan(context, scan)?;
        }
    }
    Ok(conclude(context, &done))
}

async fn last_event(api: &mut OperatorApi, request: QueryRequest) -> Result<QueryDone, Failure> {
    let mut events = api.run_query(request).await.map_err(|status| problem_of(&status))?.into_inner();
    while let Some(event) = events.message().await.map_err(|status| problem_of(&status))? {
        if let Some(Kind::Done(done)) = event.kind {
            return Ok(done);
        }
    }
    Err(ended_early().into())
}

fn scan_item(scan: &Scan) -> crate::listing::Object {
    object(json!({
        "table": scan.table,
        "place": scan.place,
        "rows": scan.rows,
        "bytes": scan.bytes,
        "aggregated": scan.aggregated,
        "statement": scan.statement,
        "pushed": scan.pushed,
        "kept": scan.kept,
    }))
}

/// What does not fit into a table's line.
fn print_scan(context: &mut Context<'_>, scan: &Scan) -> Result<(), Failure> {
    let name = context.printer.style().bold(&crate::text::clean(&scan.table));
    context.printer.line("")?;
    context.printer.line(&name)?;
    let mut line =
        |what: &str, text: &str| context.printer.line(&format!("  {what:<9}{}", crate::text::clean(text)));
    line("asked", &scan.statement)?;
    for pushed in &scan.pushed {
        line("there", pushed)?;
    }
    for kept in &scan.kept {
        line("here", kept)?;
    }
    Ok(())
}

pub(super) async fn ls(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let mut api = context.platform.operator().await?;
    let reply = call(context.call_timeout(), api.list_queries(ListQueriesRequest {})).await?;
    let items = reply
        .queries
        .iter()
        .map(|query| {
            object(json!({
                "id": query.id,
                "started": rfc3339(query.started_us),
                "rows": query.rows,
                "principal": query.principal,
                "sql": query.sql,
            }))
        })
        .collect();
    let as_of_us = context.now_us();
    print_list(context, Id::QueryLs, items, as_of_us)?;
    Ok(ExitCode::Ok)
}

pub(super) async fn cancel(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let id = text(arguments, "id");
    let mut api = context.platform.operator().await?;
    let reply = call(context.call_timeout(), api.cancel_query(CancelQuery { id: id.to_owned() })).await?;
    if !reply.found {
        return Err(Problem::new(
            "query.not_found",
            ExitCode::NotFound,
            format!("no query `{id}` is running"),
        )
        .hint_command("see what is running", "aap query ls")
        .into());
    }
    let item = object(json!({"id": id}));
    let as_of_us = context.now_us();
    print_item(context, Id::QueryCancel, &item, as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}
