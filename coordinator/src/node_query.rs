//! Queries that nodes answer from their own buffers: the statement is split, every node answers its half, and the engine makes the
//! whole of the answers.

use std::sync::Arc;
use std::time::Duration;

use aap_federation::Budget;
use aap_proto::v1;
use aap_sql::serving::{AnswerSender, Ticket};
use aap_sql::{Catalog, EngineQuery, Planned};
use aap_types::{ExitCode, NodeId, Problem, StreamName};
use tokio::task::spawn_blocking;

use crate::access::{Named, Scope};
use crate::asking::{Answered, Asking, Question, collect, no_node, unknown_node};
use crate::catalog::{Answers, ScratchFolder};
use crate::queries::Queries;

/// The table of answers when a single node is asked: its rows pass as they are.
const ONE_NODE_TABLE: &str = "answer";

/// Asks nodes, and sends the whole of their answers.
pub(crate) async fn answer(
    queries: &Queries,
    (request, query): (v1::QueryRequest, EngineQuery),
    scope: Scope,
    ticket: &Ticket,
    answer: &AnswerSender,
) -> Result<(), Problem> {
    let targets = targets(queries, &request, scope, ticket).await?;
    let as_of_us = queries.clock().unix_us();
    let is_one = targets.len() == 1;
    let planned = match is_one {
        true => pass_through(&request.sql),
        false => {
            let tables: Arc<dyn Catalog> = queries.inner.tables.clone();
            queries.inner.serving.engine().plan(&request.sql, tables, ticket.cancel.clone()).await?
        }
    };
    let folder = scratch_folder(queries, ticket).await?;
    let budget = Budget::of(queries.inner.node_answers_bytes, answers_too_large);
    let asking = Asking::new(queries.inner.reach.clone(), &ticket.id, folder.0.clone(), budget);
    let question = Question {
        sql: planned.node_sql.clone(),
        // A cut may be made only where nothing is merged any more.
        rows: if is_one { query.limits.rows } else { 0 },
        deadline: Duration::from_millis(query.limits.deadline_ms),
    };
    let mut parts = tokio::select! {
        parts = asking.ask(&targets, &question) => parts,
        () = ticket.cancel.requested() => {
            asking.forsake().await;
            return Err(aap_sql::problem::cancelled());
        }
    };
    if !is_one {
        parts = asking.whole_or_nothing(parts);
    }
    let collected = collect(parts)?;
    let done = v1::QueryDone {
        as_of_us,
        coverage: Some(collected.coverage),
        scans: collected.answers.iter().map(|answered| scan_of(answered, &planned)).collect(),
        truncated: collected.truncated_by.is_some(),
        truncated_by: collected.truncated_by.unwrap_or_default(),
        ..Default::default()
    };
    let files = collected.answers.into_iter().map(|answered| answered.file).collect();
    let tables: Arc<dyn Catalog> = Arc::new(Answers { name: planned.table, files, folder });
    let merge = EngineQuery { sql: planned.merge_sql, ..query };
    queries.inner.serving.answer(merge, tables, ticket, answer, done).await
}

/// A single node answers the statement itself.
fn pass_through(sql: &str) -> Planned {
    Planned {
        node_sql: sql.to_owned(),
        merge_sql: format!("select * from {ONE_NODE_TABLE}"),
        table: ONE_NODE_TABLE.to_owned(),
        stream: String::new(),
        partial: false,
    }
}

/// The nodes that are asked: of those that were meant the ones that the caller may ask, and whose rows of the streams in the statement
/// they see.
async fn targets(
    queries: &Queries,
    request: &v1::QueryRequest,
    scope: Scope,
    ticket: &Ticket,
) -> Result<Vec<NodeId>, Problem> {
    let mut known = queries.inner.reach.known().await;
    known.retain(|node| scope.asks(node));
    if !scope.sees_all_rows() {
        let streams = streams(queries, &request.sql, scope.clone(), ticket).await?;
        known.retain(|node| streams.iter().all(|stream| scope.sees_rows(stream, node)));
    }
    let targets: Vec<NodeId> = match request.all_nodes {
        true => known,
        false => {
            let named = request.nodes.iter().map(|name| {
                let node = name.parse::<NodeId>().ok().filter(|node| known.binary_search(node).is_ok());
                node.ok_or_else(|| unknown_node(name))
            });
            let mut named = named.collect::<Result<Vec<_>, _>>()?;
            named.sort();
            named.dedup();
            named
        }
    };
    if targets.is_empty() { Err(no_node()) } else { Ok(targets) }
}

/// The streams that a statement names.
async fn streams(
    queries: &Queries,
    sql: &str,
    scope: Scope,
    ticket: &Ticket,
) -> Result<Vec<StreamName>, Problem> {
    let named = Arc::new(Named::new(queries.scoped(scope)));
    let planned = queries.inner.serving.engine().plan(sql, named.clone(), ticket.cancel.clone()).await;
    match (named.streams(), planned) {
        // A statement that cannot be split is one all the same.
        (Some(streams), _) => Ok(streams),
        (None, Err(problem)) => Err(problem),
        (None, Ok(_)) => Ok(vec![]),
    }
}

async fn scratch_folder(queries: &Queries, ticket: &Ticket) -> Result<Arc<ScratchFolder>, Problem> {
    let path = queries.inner.scratch.join(format!("n-{}-{}", std::process::id(), ticket.started_us));
    let folder = path.clone();
    let made = spawn_blocking(move || std::fs::create_dir_all(&folder)).await;
    let fail = |error: &dyn std::fmt::Display| {
        Problem::new("query.scratch", ExitCode::Failed, format!("cannot make the scratch folder `{path}`"))
            .cause(error.to_string())
    };
    made.map_err(|error| fail(&error))?.map_err(|error| fail(&error))?;
    Ok(Arc::new(ScratchFolder(path.clone())))
}

fn answers_too_large(_bytes: u64) -> Problem {
    Problem::new("query.answers_too_large", ExitCode::Failed, "the nodes' answers are larger than the limit")
        .hint("aggregate or filter more, or raise `query.node_answers` of the coordinator")
}

/// A node's part of the answer.
fn scan_of(answered: &Answered, planned: &Planned) -> v1::Scan {
    v1::Scan {
        place: format!("node {}", answered.node),
        statement: planned.node_sql.clone(),
        aggregated: planned.partial,
        rows: answered.end.rows,
        bytes: answered.end.bytes,
        ..v1::Scan::default()
    }
}
