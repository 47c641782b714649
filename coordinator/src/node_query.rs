//! Queries that nodes answer from their own buffers: fan out, spool the answers, merge them with the engine.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aap_proto::v1::{self, query_output};
use aap_sql::serving::{AnswerSender, Ticket};
use aap_sql::{Catalog, EngineQuery, QueryEnd};
use aap_types::{ExitCode, NodeId, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use futures::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::catalog::{Answers, ScratchFolder};
use crate::queries::Queries;
use crate::reach::Way;

/// The table of answers when a single node is asked: its rows pass as they are.
const ONE_NODE_TABLE: &str = "answer";

/// One node's part.
enum Part {
    Answered {
        file: Utf8PathBuf,
        end: QueryEnd,
    },
    /// It did not answer in time; the reason is empty where it is just not connected.
    Late(String),
    /// The node has nothing of that stream.
    WithoutStream(Problem),
    Failed(Problem),
}

impl Part {
    /// Nothing is made of a part of an answer, and nothing is missing where a node lacks the stream.
    fn for_merge(self) -> Self {
        match self {
            Self::Answered { end, .. } if end.truncated => Self::Failed(answers_too_large()),
            Self::Failed(problem) if problem.code == "query.unknown_table" => Self::WithoutStream(problem),
            other => other,
        }
    }
}

/// Asks nodes, and sends the whole of their answers.
pub(crate) async fn answer(
    queries: &Queries,
    request: v1::QueryRequest,
    query: EngineQuery,
    ticket: &Ticket,
    answer: &AnswerSender,
) -> Result<(), Problem> {
    let targets = targets(queries, &request).await?;
    let as_of_us = queries.clock().unix_us();
    let (node_sql, merge_sql, table, partial) = match targets.len() {
        1 => {
            let merge = format!("select * from {ONE_NODE_TABLE}");
            (request.sql.clone(), merge, ONE_NODE_TABLE.to_owned(), false)
        }
        _ => {
            let tables: Arc<dyn Catalog> = queries.inner.tables.clone();
            let planned =
                queries.inner.serving.engine().plan(&request.sql, tables, ticket.cancel.clone()).await?;
            (planned.node_sql, planned.merge_sql, planned.table, planned.partial)
        }
    };
    let limits = v1::QueryLimits {
        // A cut may be made only where nothing is merged any more.
        rows: if targets.len() == 1 { query.limits.rows } else { 0 },
        bytes: queries.inner.node_answers_bytes,
        deadline_ms: query.limits.deadline_ms,
    };
    let folder = scratch_folder(queries, ticket).await?;
    let asked = Asked { id: &ticket.id, sql: &node_sql, limits };
    let room = AtomicU64::new(queries.inner.node_answers_bytes);
    let parts = targets.iter().map(|node| asked.node(queries, node, &folder.0, &room));
    let parts = tokio::select! {
        parts = join_all(parts) => parts,
        () = ticket.cancel.requested() => {
            queries.inner.reach.cancel(&targets, &ticket.id).await;
            return Err(aap_sql::problem::cancelled());
        }
    };
    let parts = if targets.len() == 1 { parts } else { parts.into_iter().map(Part::for_merge).collect() };
    let mut collected = collect(&targets, parts)?;
    for scan in &mut collected.scans {
        (scan.statement, scan.aggregated) = (node_sql.clone(), partial);
    }
    let done = v1::QueryDone {
        as_of_us,
        coverage: Some(collected.coverage),
        scans: collected.scans,
        truncated: collected.truncated_by.is_some(),
        truncated_by: collected.truncated_by.unwrap_or_default(),
        ..Default::default()
    };
    let tables: Arc<dyn Catalog> = Arc::new(Answers { name: table, files: collected.files, folder });
    let merge = EngineQuery { sql: merge_sql, ..query };
    queries.inner.serving.answer(merge, tables, ticket, answer, done).await
}

async fn targets(queries: &Queries, request: &v1::QueryRequest) -> Result<Vec<NodeId>, Problem> {
    let known = queries.inner.reach.known().await;
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
    match targets.is_empty() {
        true => Err(Problem::new("node.none", ExitCode::NotFound, "no node has ever connected")
            .hint_command("see the state of the platform", "aap status")),
        false => Ok(targets),
    }
}

/// `node.unknown`.
pub(crate) fn unknown_node(name: &str) -> Problem {
    Problem::new("node.unknown", ExitCode::NotFound, format!("there is no node `{name}`"))
        .hint_command("list the nodes", "aap node ls")
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

/// What each node is asked.
struct Asked<'a> {
    id: &'a str,
    sql: &'a str,
    limits: v1::QueryLimits,
}

impl Asked<'_> {
    async fn node(&self, queries: &Queries, node: &NodeId, folder: &Utf8Path, room: &AtomicU64) -> Part {
        let way = match queries.inner.reach.way(node).await {
            Ok(way) => way,
            Err(reason) => return Part::Late(reason),
        };
        let file = folder.join(format!("{node}.arrow"));
        let deadline = Duration::from_millis(self.limits.deadline_ms);
        let result = match timeout(deadline, self.spool(&way, file, room)).await {
            Ok(part) => part,
            Err(_elapsed) => Part::Late(format!("it had not answered after {} s", deadline.as_secs())),
        };
        way.end(self.id, matches!(result, Part::Answered { .. })).await;
        result
    }

    /// Writes the node's answer to a file.
    async fn spool(&self, way: &Way, path: Utf8PathBuf, room: &AtomicU64) -> Part {
        let broken = |what: &str| {
            Part::Failed(Problem::new("node.answer_broken", ExitCode::Unavailable, what).retry_after_ms(1000))
        };
        let mut parts = match way.query(self.id, self.sql, self.limits).await {
            Ok(parts) => parts,
            Err(reason) => return Part::Late(reason),
        };
        let Ok(mut file) = std::fs::File::create(&path) else {
            return broken("cannot spool the node's answer");
        };
        loop {
            let part = match parts.next().await {
                Ok(part) => part,
                Err(reason) => return broken(&reason),
            };
            match part {
                query_output::Kind::ArrowIpc(bytes) => {
                    let taken = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| {
                        room.checked_sub(bytes.len() as u64)
                    });
                    if taken.is_err() {
                        return Part::Failed(answers_too_large());
                    }
                    let written = spawn_blocking(move || file.write_all(&bytes).map(|()| file)).await;
                    match written {
                        Ok(Ok(back)) => file = back,
                        _ => return broken("cannot spool the node's answer"),
                    }
                }
                query_output::Kind::End(json) => {
                    let end = serde_json::from_str(&json).unwrap_or_default();
                    return Part::Answered { file: path, end };
                }
                query_output::Kind::Problem(json) => {
                    let unreadable = |_| Problem::new("node.answer_broken", ExitCode::Failed, json.clone());
                    return Part::Failed(serde_json::from_str(&json).unwrap_or_else(unreadable));
                }
            }
        }
    }
}

fn answers_too_large() -> Problem {
    Problem::new("query.answers_too_large", ExitCode::Failed, "the nodes' answers are larger than the limit")
        .hint("aggregate or filter more, or raise `query.node_answers` of the coordinator")
}

struct Collected {
    files: Vec<Utf8PathBuf>,
    coverage: v1::Coverage,
    truncated_by: Option<String>,
    scans: Vec<v1::Scan>,
}

/// Sorts the parts out. It is a failure only when nobody answered.
fn collect(targets: &[NodeId], parts: Vec<Part>) -> Result<Collected, Problem> {
    let (files, scans) = Default::default();
    let mut collected = Collected { files, coverage: v1::Coverage::default(), truncated_by: None, scans };
    let (mut first_problem, mut without_stream) = (None, None);
    for (node, part) in targets.iter().zip(parts) {
        let name = node.to_string();
        collected.coverage.asked.push(name.clone());
        match part {
            Part::Answered { file, end } => {
                collected.files.push(file);
                collected.scans.push(scan_of(&name, &end));
                collected.coverage.answered.push(name);
                if end.truncated {
                    collected.truncated_by = Some(end.truncated_by.unwrap_or_else(|| "bytes".to_owned()));
                }
            }
            Part::Late(reason) => {
                collected.coverage.late.push(name);
                collected.coverage.late_reasons.push(reason);
            }
            Part::WithoutStream(problem) => {
                collected.coverage.answered.push(name);
                without_stream.get_or_insert(problem);
            }
            Part::Failed(problem) => {
                tracing::info!(%node, %problem, "a node did not answer a query");
                collected.coverage.failed.push(name.clone());
                collected.coverage.reasons.push(problem.message.clone());
                first_problem.get_or_insert(problem.cause(format!("on node `{name}`")));
            }
        }
    }
    if !collected.files.is_empty() {
        return Ok(collected);
    }
    let without_stream = without_stream.filter(|_| collected.coverage.late.is_empty());
    Err(first_problem.or(without_stream).unwrap_or_else(|| {
        let v1::Coverage { late, late_reasons, .. } = collected.coverage;
        let names = late.join("`, `");
        let reasons = late.iter().zip(late_reasons).filter(|(_, reason)| !reason.is_empty());
        let mut problem =
            Problem::new("node.unreachable", ExitCode::Unavailable, format!("no answer from `{names}`"))
                .hint_command("see whether it is connected", "aap node ls")
                .retry_after_ms(5000);
        for (node, reason) in reasons {
            problem = problem.cause(format!("`{node}`: {reason}"));
        }
        problem
    }))
}

/// A node's part of the answer. What it was asked is filled in later.
fn scan_of(node: &str, end: &QueryEnd) -> v1::Scan {
    v1::Scan { place: format!("node {node}"), rows: end.rows, bytes: end.bytes, ..v1::Scan::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(truncated: bool) -> Part {
        Part::Answered { file: "x.arrow".into(), end: QueryEnd { truncated, ..QueryEnd::default() } }
    }

    fn without_stream() -> Part {
        Part::Failed(aap_sql::problem::unknown_table("logs", &[]))
    }

    fn merged(parts: Vec<Part>) -> Result<Collected, Problem> {
        let targets: Vec<NodeId> = (0..parts.len()).map(|at| format!("n{at}").parse().unwrap()).collect();
        collect(&targets, parts.into_iter().map(Part::for_merge).collect())
    }

    #[test]
    fn only_whole_answers_are_merged_and_the_others_are_named_with_their_reason() {
        let collected = merged(vec![
            answered(false),
            answered(true),
            without_stream(),
            Part::Late("c1 is silent".to_owned()),
        ])
        .unwrap();
        assert_eq!(collected.files.len(), 1);
        assert_eq!(collected.truncated_by, None);
        let coverage = collected.coverage;
        assert_eq!(coverage.answered, ["n0", "n2"], "a node that lacks the stream has nothing to add");
        assert_eq!((coverage.failed, coverage.late), (vec!["n1".to_owned()], vec!["n3".to_owned()]));
        assert!(coverage.reasons[0].contains("larger than the limit"));
        assert_eq!(coverage.late_reasons, ["c1 is silent"]);
    }

    #[test]
    fn a_stream_that_no_node_has_is_unknown() {
        let refused = |parts| merged(parts).err().map(|problem| problem.code);
        assert_eq!(refused(vec![without_stream(), without_stream()]).unwrap(), "query.unknown_table");
        assert_eq!(refused(vec![without_stream(), Part::Late(String::new())]).unwrap(), "node.unreachable");
    }
}
