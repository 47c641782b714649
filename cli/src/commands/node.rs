//! `aap node`.

use std::time::Duration;

use aap_client::operations::{Field, FieldType, Id};
use aap_client::v1::{
    LabelNodeRequest, ListNodesRequest, NodeIdentityReply, NodeStatus, NodeStatusRequest, RecoverRequest,
    SetNodeStateRequest,
};
use aap_client::{Clock, call, problem_of};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::{Value, json};

use super::{site, text, token, views};
use crate::confirm::{Answer, Question, confirm};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{Object, object, print_item, print_list, print_table};

/// How long `--wait` waits for a node that is drained, where nobody says.
const DRAIN_WITHIN: Duration = Duration::from_secs(600);
/// Between two looks meanwhile; nodes report once a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn ls(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let mut nodes = fetch(context, "").await?;
    let wanted = text(arguments, "site");
    nodes.retain(|node| wanted.is_empty() || site::of(node) == wanted);
    let as_of_us = context.now_us();
    print_list(context, Id::NodeLs, nodes.iter().map(views::node).collect(), as_of_us)?;
    if nodes.is_empty() {
        context.printer.note(match wanted {
            "" => "no node has connected yet",
            _ => "no node belongs to this site",
        });
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn show(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "node");
    let nodes = fetch(context, name).await?;
    let Some(node) = nodes.iter().find(|node| node.node == name) else {
        return Err(Problem::new("node.not_found", ExitCode::NotFound, format!("there is no node `{name}`"))
            .hint_command("see which there are", "aap node ls")
            .into());
    };
    let item = views::node(node);
    let as_of_us = context.now_us();
    print_item(context, Id::NodeShow, &item, as_of_us, |context| print_details(context, &item))?;
    Ok(ExitCode::Ok)
}

pub(super) async fn recover(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "node");
    let resend = match (arguments.get_flag("resend"), arguments.get_flag("discard")) {
        (true, false) => true,
        (false, true) if context.settings.yes => false,
        (false, true) => {
            return Err(Problem::new("confirm.needed", ExitCode::Usage, "--discard lets rows go for good")
                .hint_command("do it", format!("aap node recover {name} --discard --yes"))
                .into());
        }
        _ => {
            return Err(Problem::new("cli.usage", ExitCode::Usage, "give either --resend or --discard")
                .hint_command("what they do", "aap node recover --help")
                .into());
        }
    };
    let mut api = context.platform.node().await?;
    let here = call(context.call_timeout(), api.status(NodeStatusRequest {})).await?.node;
    if here != name {
        let message = format!("this home is node `{here}`, not `{name}`");
        return Err(Problem::new("node.not_found", ExitCode::NotFound, message)
            .hint("run it on that node, or give its home with `--home`")
            .into());
    }
    let reply =
        api.recover(RecoverRequest { resend }).await.map_err(|status| problem_of(&status))?.into_inner();
    let action = if resend { "resend" } else { "discard" };
    let item = object(json!({
        "node": here, "action": action, "streams": reply.streams, "batches": reply.batches, "rows": reply.rows,
    }));
    let as_of_us = context.now_us();
    print_item(context, Id::NodeRecover, &item, as_of_us, |_| Ok(()))?;
    if reply.streams == 0 {
        context.printer.note("nothing was held");
    }
    Ok(ExitCode::Ok)
}

/// Puts a node into another state.
pub(super) async fn set_state(
    context: &mut Context<'_>,
    id: Id,
    state: &str,
    arguments: &ArgMatches,
) -> Result<ExitCode, Failure> {
    let name = text(arguments, "node");
    if id == Id::NodeBan {
        let question = Question {
            loss: format!("`{name}` delivers nothing any more once it is banned."),
            answer: Answer::Name(name),
            command: format!("aap node ban {name} --yes"),
        };
        confirm(context, &question)?;
    }
    let request = SetNodeStateRequest {
        node: name.to_owned(),
        state: state.to_owned(),
        reason: text(arguments, "reason").to_owned(),
    };
    let mut api = context.platform.access().await?;
    let reply = call(context.call_timeout(), api.set_node_state(request)).await?;
    print_standing(context, id, &reply)
}

/// Lets a node take no new rows, and waits until it has delivered all it has, where that is wanted.
pub(super) async fn drain(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "node");
    let within = context.settings.timeout.unwrap_or(DRAIN_WITHIN);
    let begun = context.clock.monotonic();
    let request = SetNodeStateRequest {
        node: name.to_owned(),
        state: "draining".to_owned(),
        reason: text(arguments, "reason").to_owned(),
    };
    let mut api = context.platform.access().await?;
    let reply = call(context.call_timeout(), api.set_node_state(request)).await?;
    if !arguments.get_flag("wait") {
        return print_standing(context, Id::NodeDrain, &reply);
    }
    let mut told = None;
    loop {
        let nodes = fetch(context, name).await?;
        let node = nodes.into_iter().find(|node| node.node == name).unwrap_or_default();
        let identity = node.identity.clone().unwrap_or_default();
        if identity.state == "drained" {
            return print_standing(context, Id::NodeDrain, &NodeIdentityReply { node: Some(identity) });
        }
        if context.clock.monotonic().saturating_sub(begun) >= within {
            return Err(not_drained(&node, within).into());
        }
        let left = (node.connected, node.waiting_batches);
        if told.replace(left) != Some(left) {
            context.printer.note(&backlog(&node));
        }
        tokio::time::sleep(LOOK_EVERY.min(within)).await;
    }
}

fn backlog(node: &NodeStatus) -> String {
    match node.connected {
        true => {
            format!("`{}`: {} batches wait, {} bytes", node.node, node.waiting_batches, node.waiting_bytes)
        }
        false => format!("`{}` is not connected", node.node),
    }
}

fn not_drained(node: &NodeStatus, within: Duration) -> Problem {
    let message = format!("`{}` is not drained after {} s, and goes on", node.node, within.as_secs_f64());
    Problem::new("node.draining", ExitCode::Pending, message)
        .cause(backlog(node))
        .hint_command("look again", format!("aap node show {}", node.node))
        .hint_command("wait for longer", format!("aap node drain {} --wait --timeout 1h", node.node))
}

pub(super) async fn label(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (set, removed): (Vec<&String>, Vec<&String>) = arguments
        .get_many::<String>("labels")
        .into_iter()
        .flatten()
        .partition(|label| label.contains('=') || !label.ends_with('-'));
    let request = LabelNodeRequest {
        node: text(arguments, "node").to_owned(),
        set: token::labels(set.into_iter())?,
        remove: removed.iter().map(|label| label.trim_end_matches('-').to_owned()).collect(),
        site: text(arguments, "site").to_owned(),
    };
    let mut api = context.platform.access().await?;
    let reply = call(context.call_timeout(), api.label_node(request)).await?;
    print_standing(context, Id::NodeLabel, &reply)
}

fn print_standing(context: &mut Context<'_>, id: Id, reply: &NodeIdentityReply) -> Result<ExitCode, Failure> {
    let item = views::standing(&reply.node.clone().unwrap_or_default());
    let as_of_us = context.now_us();
    print_item(context, id, &item, as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

pub(super) async fn fetch(context: &Context<'_>, node: &str) -> Result<Vec<NodeStatus>, Problem> {
    let mut api = context.platform.operator().await?;
    let request = ListNodesRequest { node: node.to_owned() };
    Ok(call(context.call_timeout(), api.list_nodes(request)).await?.nodes)
}

/// Streams and problems, under the fields.
fn print_details(context: &mut Context<'_>, item: &Object) -> Result<(), Failure> {
    const STREAMS: &[Field] = &[
        Field::shown("stream", "stream", FieldType::Text),
        Field::shown("rows_read", "read", FieldType::Count),
        Field::shown("rows_durable", "durable", FieldType::Count),
        Field::shown("rows_dropped", "dropped", FieldType::Count),
        Field::shown("bytes_read", "bytes read", FieldType::Bytes),
    ];
    if let Some(Value::Array(streams)) =
        item.get("streams").filter(|s| s.as_array().is_some_and(|s| !s.is_empty()))
    {
        context.printer.line("")?;
        let rows: Vec<Object> = streams.iter().cloned().map(object).collect();
        print_table(context, STREAMS, &rows)?;
    }
    for problem in
        item.get("problems").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    {
        context.printer.line(&format!("problem: {}", crate::text::clean(problem)))?;
    }
    Ok(())
}
