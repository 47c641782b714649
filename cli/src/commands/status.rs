//! `aap status`: one look at the platform, and whether data advances.
//!
//! Health is progress, not a running process. What waits is looked at again for up to [`WINDOW`]; a node with
//! something waiting is well as soon as its waiting shrinks, its rows land, or nothing waits any more.

use std::time::Duration;

use aap_client::operations::{Field, FieldType, Format, Id};
use aap_client::v1::{NodeStatus, NodeStatusReply, NodeStatusRequest, StatusReply, StatusRequest};
use aap_client::{OperatorApi, call};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::json;

use super::views;
use crate::arguments::format_for;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::listing::{Object, object, print_item, print_table};
use crate::text::{clean, rfc3339};

/// How long what waits may stand still before that is called a stall: several group commits and round trips.
const WINDOW: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A connected node reports every few seconds; this much silence means it hangs.
const SILENCE_MAX_US: i64 = 20_000_000;
/// The agent of this machine answers its socket at once, or it hangs.
const AGENT_TIMEOUT: Duration = Duration::from_secs(3);
/// Of `--watch`.
const REFRESH: Duration = Duration::from_secs(2);

pub(super) async fn show(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (mut api, mut absent) = connect(context).await?;
    if !arguments.get_flag("watch") {
        let view = look(context, &mut api, absent.as_ref()).await?;
        print(context, &view)?;
        return Ok(view.exit());
    }
    let mut interrupts = Interrupts::new()?;
    loop {
        let view = tokio::select! {
            view = look(context, &mut api, absent.as_ref()) => view?,
            _ = interrupts.next() => return Ok(ExitCode::Ok),
        };
        if absent.is_some() {
            (api, absent) = connect(context).await?;
        }
        if context.printer.stdout_is_terminal() && context.settings.format.is_none() {
            context.printer.write(b"\x1b[H\x1b[2J")?;
        }
        print(context, &view)?;
        context.printer.flush()?;
        tokio::select! {
            () = tokio::time::sleep(REFRESH) => {}
            _ = interrupts.next() => return Ok(ExitCode::Ok),
        }
    }
}

/// Connects to whoever can say how things are: where the coordinator does not answer, the node of this home speaks for
/// itself, and the problem says what is missing.
async fn connect(context: &Context<'_>) -> Result<(OperatorApi, Option<Problem>), Problem> {
    match context.platform.operator().await {
        Ok(api) => Ok((api, None)),
        Err(problem) if problem.exit == ExitCode::Unavailable => {
            match context.platform.operator_of_node().await {
                Ok(api) => Ok((api, Some(problem))),
                Err(_neither) => Err(problem),
            }
        }
        Err(problem) => Err(problem),
    }
}

/// What one look found.
struct View {
    status: StatusReply,
    agent: Option<NodeStatusReply>,
    /// Why data does not advance; empty when all is well.
    reasons: Vec<String>,
    /// The coordinator does not answer; what is shown is the node's own view.
    alone: bool,
}

impl View {
    fn exit(&self) -> ExitCode {
        match () {
            () if self.alone => ExitCode::Unavailable,
            () if self.reasons.is_empty() => ExitCode::Ok,
            () => ExitCode::CheckFailed,
        }
    }
}

async fn look(
    context: &Context<'_>,
    api: &mut OperatorApi,
    absent: Option<&Problem>,
) -> Result<View, Problem> {
    let first = fetch(context, api).await?;
    let (status, stalled) = watch_progress(context, api, first).await?;
    let agent = local_agent(context).await;
    let mut reasons: Vec<String> = absent.iter().map(|problem| problem.message.clone()).collect();
    if absent.is_none() {
        reasons.extend(status.nodes.iter().filter_map(|node| absence(node, status.as_of_us)));
    }
    if status.nodes.is_empty() {
        reasons.push("no node has connected yet".to_owned());
    }
    reasons.extend(stalled);
    match &agent {
        Agent::Absent => {}
        Agent::Silent(problem) => {
            reasons.push(format!("the agent of this home does not answer: {}", problem.message))
        }
        Agent::Answers(reply) => reasons.extend(agent_reasons(reply)),
    }
    let agent = if let Agent::Answers(reply) = agent { Some(*reply) } else { None };
    Ok(View { status, agent, reasons, alone: absent.is_some() })
}

async fn fetch(context: &Context<'_>, api: &mut OperatorApi) -> Result<StatusReply, Problem> {
    let mut status = call(context.call_timeout(), api.status(StatusRequest {})).await?;
    if status.as_of_us == 0 {
        status.as_of_us = context.now_us();
    }
    Ok(status)
}

/// Looks again while something waits and does not move. Answers the newest status and who stalls.
async fn watch_progress(
    context: &Context<'_>,
    api: &mut OperatorApi,
    first: StatusReply,
) -> Result<(StatusReply, Vec<String>), Problem> {
    let mut newest = first.clone();
    let deadline = tokio::time::Instant::now() + WINDOW;
    loop {
        let stalled: Vec<String> =
            newest.nodes.iter().filter(|node| !moves(node, &first, &newest)).map(stall).collect();
        if stalled.is_empty() || tokio::time::Instant::now() >= deadline {
            return Ok((newest, stalled));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        newest = fetch(context, api).await?;
    }
}

/// Whether nothing waits at the node, or what waits moves.
fn moves(node: &NodeStatus, first: &StatusReply, newest: &StatusReply) -> bool {
    if node.waiting_batches == 0 || !node.connected {
        // A node that is not connected is reported as that.
        return true;
    }
    let before = first.nodes.iter().find(|other| other.node == node.node);
    let shrank = before.is_some_and(|before| node.waiting_batches < before.waiting_batches);
    let landed = |status: &StatusReply| status.streams.iter().map(|stream| stream.batches).sum::<u64>();
    let only_one = newest.nodes.iter().filter(|other| other.waiting_batches > 0).count() == 1;
    shrank || node.rows_per_second > 0.0 || (only_one && landed(newest) > landed(first))
}

fn stall(node: &NodeStatus) -> String {
    format!("node `{}`: {} batches wait and none lands", node.node, node.waiting_batches)
}

fn absence(node: &NodeStatus, as_of_us: i64) -> Option<String> {
    let seen = crate::text::age(as_of_us, node.last_seen_us);
    let standing = node.identity.as_ref().map_or("", |identity| identity.state.as_str());
    match standing {
        // As somebody wanted it.
        "banned" | "drained" => return None,
        "pending" => {
            return Some(format!("node `{0}` waits for an operator: aap node approve {0}", node.node));
        }
        "locked" => {
            return Some(format!(
                "node `{0}` is locked, because its key is in two places: aap node show {0}",
                node.node
            ));
        }
        _ => {}
    }
    if !node.connected {
        return Some(format!("node `{}` is not connected; last seen {seen}", node.node));
    }
    let silent = node.last_seen_us > 0 && as_of_us.saturating_sub(node.last_seen_us) > SILENCE_MAX_US;
    silent.then(|| format!("node `{}` is connected but silent; last heard {seen}", node.node))
}

/// The agent of this home, asked on its own socket.
enum Agent {
    /// None ever ran in this home, such as on an operator's own machine.
    Absent,
    Silent(Problem),
    Answers(Box<NodeStatusReply>),
}

async fn local_agent(context: &Context<'_>) -> Agent {
    let traces = [context.platform.agent_file(), context.platform.agent_socket()];
    if !traces.into_iter().flatten().any(|path| path.exists()) {
        return Agent::Absent;
    }
    let asked = async {
        let mut api = context.platform.node().await?;
        call(AGENT_TIMEOUT, api.status(NodeStatusRequest {})).await
    };
    match asked.await {
        Ok(reply) => Agent::Answers(Box::new(reply)),
        Err(problem) => Agent::Silent(problem),
    }
}

fn agent_reasons(reply: &NodeStatusReply) -> Vec<String> {
    let failed = reply.sources.iter().filter(|source| source.state == "failed");
    failed.map(|source| format!("source `{}` failed: {}", source.name, source.detail)).collect()
}

fn print(context: &mut Context<'_>, view: &View) -> Result<(), Failure> {
    let format = format_for(Id::Status, &context.settings, context.printer.stdout_is_terminal())?;
    let item = item_of(view);
    if matches!(format, Format::Json | Format::Ndjson) {
        return print_item(context, Id::Status, &item, view.status.as_of_us, |_| Ok(()));
    }
    print_summary(context, view)?;
    print_sections(context, view)?;
    for problem in problems(view) {
        let line = format!("{}: {}", context.printer.style().yellow("problem"), clean(&problem));
        context.printer.line(&line)?;
    }
    Ok(())
}

fn item_of(view: &View) -> Object {
    object(json!({
        "healthy": view.reasons.is_empty(),
        "reasons": view.reasons,
        "coordinator_version": view.status.coordinator_version,
        "started": rfc3339(view.status.started_us),
        "nodes": view.status.nodes.iter().map(views::node).collect::<Vec<_>>(),
        "streams": view.status.streams.iter().map(views::stream).collect::<Vec<_>>(),
        "sources": view.agent.iter().flat_map(|agent| &agent.sources).map(views::source).collect::<Vec<_>>(),
        "problems": problems(view),
    }))
}

/// Degraded health that does not stop data.
fn problems(view: &View) -> Vec<String> {
    let of_nodes =
        view.status.nodes.iter().flat_map(|n| n.problems.iter().map(|p| format!("node `{}`: {p}", n.node)));
    view.status.problems.iter().cloned().chain(of_nodes).collect()
}

fn print_summary(context: &mut Context<'_>, view: &View) -> Result<(), Failure> {
    let style = context.printer.style();
    let up = crate::text::span_ms((view.status.as_of_us - view.status.started_us).max(0) / 1000);
    let who = match (view.status.coordinator_version.as_str(), view.status.nodes.first()) {
        ("", Some(node)) => format!("node {} by itself, agent {}", node.node, node.agent_version),
        (version, _) => format!("coordinator {version}"),
    };
    let who = clean(&who);
    let head = if view.reasons.is_empty() { style.green("healthy") } else { style.red("not healthy") };
    context.printer.line(&format!("{head}   {who}, up {up}"))?;
    for reason in &view.reasons {
        let line = format!("  {}", clean(reason));
        context.printer.line(&line)?;
    }
    Ok(())
}

fn print_sections(context: &mut Context<'_>, view: &View) -> Result<(), Failure> {
    const SOURCES: &[Field] = &[
        Field::shown("name", "source", FieldType::Text),
        Field::shown("kind", "kind", FieldType::Text),
        Field::shown("stream", "stream", FieldType::Text),
        Field::shown("state", "state", FieldType::Text),
        Field::shown("guarantee", "guarantee", FieldType::Text),
        Field::shown("detail", "detail", FieldType::Text),
    ];
    let nodes: Vec<Object> = view.status.nodes.iter().map(views::node).collect();
    let streams: Vec<Object> = view.status.streams.iter().map(views::stream).collect();
    let sources: Vec<Object> =
        view.agent.iter().flat_map(|agent| &agent.sources).map(views::source).collect();
    let fields = |id| crate::listing::shown(aap_client::operations::of(id).output.fields());
    for (fields, items) in
        [(fields(Id::NodeLs), nodes), (fields(Id::StreamLs), streams), (SOURCES.to_vec(), sources)]
    {
        if !items.is_empty() {
            context.printer.line("")?;
            print_table(context, &fields, &items)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aap_client::v1::{NodeIdentity, StreamStatus};

    use super::*;

    fn status(waiting: u64, rate: f64, landed: u64) -> StatusReply {
        let node = NodeStatus {
            node: "n".into(),
            connected: true,
            waiting_batches: waiting,
            rows_per_second: rate,
            ..NodeStatus::default()
        };
        let stream = StreamStatus { batches: landed, ..StreamStatus::default() };
        StatusReply { nodes: vec![node], streams: vec![stream], ..StatusReply::default() }
    }

    #[test]
    fn data_advances_when_nothing_waits_or_what_waits_moves() {
        for (first, newest, advances) in [
            (status(0, 0.0, 5), status(0, 0.0, 5), true),
            (status(7, 0.0, 5), status(7, 0.0, 5), false),
            (status(7, 0.0, 5), status(9, 0.0, 5), false),
            (status(7, 0.0, 5), status(6, 0.0, 5), true),
            (status(7, 0.0, 5), status(9, 0.0, 6), true),
            (status(7, 0.0, 5), status(9, 12.0, 5), true),
        ] {
            assert_eq!(moves(&newest.nodes[0], &first, &newest), advances, "{newest:?}");
        }
    }

    #[test]
    fn a_node_that_left_or_fell_silent_is_a_reason() {
        let node = |connected, seen| NodeStatus {
            node: "n".into(),
            connected,
            last_seen_us: seen,
            ..NodeStatus::default()
        };
        assert!(absence(&node(false, 1), 2).is_some_and(|text| text.contains("not connected")));
        assert!(absence(&node(true, 1_000_000), 60_000_000).is_some_and(|text| text.contains("silent")));
        assert_eq!(absence(&node(true, 59_000_000), 60_000_000), None);
        let standing = |state: &str| {
            let identity = NodeIdentity { state: state.to_owned(), ..NodeIdentity::default() };
            absence(&NodeStatus { identity: Some(identity), ..node(false, 1) }, 2)
        };
        assert_eq!(standing("banned"), None, "it is away because somebody wanted it");
        assert!(standing("pending").is_some_and(|text| text.contains("aap node approve n")));
        assert!(standing("locked").is_some_and(|text| text.contains("locked")));
        assert!(standing("approved").is_some_and(|text| text.contains("not connected")));
    }
}
