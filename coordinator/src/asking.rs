//! Asking nodes for what their own buffers hold: all at once, each answer spooled as it comes, and whoever does not answer in full
//! named with the reason.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_federation::Budget;
use aap_proto::v1::{self, query_output};
use aap_sql::QueryEnd;
use aap_types::{ExitCode, NodeId, Problem};
use camino::Utf8PathBuf;
use futures::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::reach::{Reach, Way};

/// What one query asks of nodes.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) reach: Reach,
    /// The query's. Each question has one of its own, which begins with it.
    id: String,
    /// Where answers are spooled. It must be there before a node is asked.
    folder: Utf8PathBuf,
    /// What all answers together may take.
    budget: Budget,
    /// Who was asked each question.
    questions: Mutex<Vec<Vec<NodeId>>>,
}

/// What each node is asked.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) sql: String,
    /// Most rows of an answer that is not made one with others. 0: all.
    pub(crate) rows: u64,
    /// How long a node has to answer.
    pub(crate) deadline: Duration,
}

/// One node's part.
#[derive(Debug)]
pub(crate) enum Part {
    Answered(Answered),
    /// It did not answer in time; the reason is empty where it is just not connected.
    Late(String),
    /// The node has nothing of that stream.
    WithoutStream(Problem),
    Failed(Problem),
}

/// A node's answer, in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) node: NodeId,
    pub(crate) file: Utf8PathBuf,
    pub(crate) end: QueryEnd,
}

impl Part {
    fn whole_or_nothing(self, budget: &Budget) -> Self {
        match self {
            Self::Answered(Answered { end, .. }) if end.truncated => Self::Failed(budget.exceeded()),
            Self::Failed(problem) if problem.code == "query.unknown_table" => Self::WithoutStream(problem),
            other => other,
        }
    }
}

impl Asking {
    /// For the query of that id. Nobody is asked yet.
    pub(crate) fn new(reach: Reach, id: &str, folder: Utf8PathBuf, budget: Budget) -> Self {
        Self { reach, id: id.to_owned(), folder, budget, questions: Mutex::default() }
    }

    /// Asks all of `nodes`; their parts come in that order. Whoever drops this calls [`Self::forsake`].
    pub(crate) async fn ask(&self, nodes: &[NodeId], question: &Question) -> Vec<(NodeId, Part)> {
        let number = {
            let mut questions = self.questions();
            questions.push(nodes.to_vec());
            questions.len()
        };
        let parts = join_all(nodes.iter().map(|node| self.ask_one(node, number, question))).await;
        nodes.iter().cloned().zip(parts).collect()
    }

    /// Nothing is made of a part of an answer, and nothing is missing where a node lacks the stream.
    pub(crate) fn whole_or_nothing(&self, parts: Vec<(NodeId, Part)>) -> Vec<(NodeId, Part)> {
        parts.into_iter().map(|(node, part)| (node, part.whole_or_nothing(&self.budget))).collect()
    }

    /// Tells nodes that may still be at work that nobody waits for them any more.
    pub(crate) async fn forsake(&self) {
        let questions = self.questions().clone();
        for (number, nodes) in (1..).zip(questions) {
            self.reach.cancel(&nodes, &self.id_of(number)).await;
        }
    }

    fn questions(&self) -> MutexGuard<'_, Vec<Vec<NodeId>>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id_of(&self, number: usize) -> String {
        format!("{}.{number}", self.id)
    }

    async fn ask_one(&self, node: &NodeId, number: usize, question: &Question) -> Part {
        let way = match self.reach.way(node).await {
            Ok(way) => way,
            Err(reason) => return Part::Late(reason),
        };
        let part = match timeout(question.deadline, self.spool(node, &way, number, question)).await {
            Ok(part) => part,
            Err(_elapsed) => {
                Part::Late(format!("it had not answered after {} s", question.deadline.as_secs_f32().ceil()))
            }
        };
        way.end(&self.id_of(number), matches!(part, Part::Answered(_))).await;
        part
    }

    /// Writes the node's answer to a file.
    async fn spool(&self, node: &NodeId, way: &Way, number: usize, question: &Question) -> Part {
        let broken = |what: &str| {
            Part::Failed(Problem::new("node.answer_broken", ExitCode::Unavailable, what).retry_after_ms(1000))
        };
        let limits = v1::QueryLimits {
            rows: question.rows,
            bytes: self.budget.whole(),
            deadline_ms: u64::try_from(question.deadline.as_millis()).unwrap_or(u64::MAX),
        };
        let mut parts = match way.query(&self.id_of(number), &question.sql, limits).await {
            Ok(parts) => parts,
            Err(reason) => return Part::Late(reason),
        };
        let path = self.folder.join(format!("{number}-{node}.arrow"));
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
                    if let Err(problem) = self.budget.take(bytes.len() as u64) {
                        return Part::Failed(problem);
                    }
                    let written = spawn_blocking(move || file.write_all(&bytes).map(|()| file)).await;
                    match written {
                        Ok(Ok(back)) => file = back,
                        _ => return broken("cannot spool the node's answer"),
                    }
                }
                query_output::Kind::End(json) => {
                    let end = serde_json::from_str(&json).unwrap_or_default();
                    return Part::Answered(Answered { node: node.clone(), file: path, end });
                }
                query_output::Kind::Problem(json) => {
                    let unreadable = |_| Problem::new("node.answer_broken", ExitCode::Failed, json.clone());
                    return Part::Failed(serde_json::from_str(&json).unwrap_or_else(unreadable));
                }
            }
        }
    }
}

/// Parts, sorted out.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// One at least.
    pub(crate) answers: Vec<Answered>,
    pub(crate) coverage: v1::Coverage,
    /// What cut an answer off.
    pub(crate) truncated_by: Option<String>,
}

/// Sorts the parts out. It is a failure only when nobody answered.
pub(crate) fn collect(parts: Vec<(NodeId, Part)>) -> Result<Collected, Problem> {
    let mut collected = Collected::default();
    let (mut first_problem, mut without_stream) = (None, None);
    for (node, part) in parts {
        let name = node.to_string();
        collected.coverage.asked.push(name.clone());
        match part {
            Part::Answered(answered) => {
                collected.coverage.answered.push(name);
                if answered.end.truncated {
                    let by = answered.end.truncated_by.clone();
                    collected.truncated_by = Some(by.unwrap_or_else(|| "bytes".to_owned()));
                }
                collected.answers.push(answered);
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
    if !collected.answers.is_empty() {
        return Ok(collected);
    }
    let without_stream = without_stream.filter(|_| collected.coverage.late.is_empty());
    Err(first_problem.or(without_stream).unwrap_or_else(|| unreachable(collected.coverage)))
}

/// `node.unreachable`: all of them are late.
fn unreachable(coverage: v1::Coverage) -> Problem {
    let v1::Coverage { late, late_reasons, .. } = coverage;
    let names = late.join("`, `");
    let problem =
        Problem::new("node.unreachable", ExitCode::Unavailable, format!("no answer from `{names}`"))
            .hint_command("see whether it is connected", "aap node ls")
            .retry_after_ms(5000);
    let reasons = late.iter().zip(late_reasons).filter(|(_, reason)| !reason.is_empty());
    reasons.fold(problem, |problem, (node, reason)| problem.cause(format!("`{node}`: {reason}")))
}

/// `node.unknown`.
pub(crate) fn unknown_node(name: &str) -> Problem {
    Problem::new("node.unknown", ExitCode::NotFound, format!("there is no node `{name}`"))
        .hint_command("list the nodes", "aap node ls")
}

/// `node.none`.
pub(crate) fn no_node() -> Problem {
    Problem::new("node.none", ExitCode::NotFound, "no node has ever connected")
        .hint_command("see the state of the platform", "aap status")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(at: usize) -> NodeId {
        format!("n{at}").parse().unwrap()
    }

    fn answered(truncated: bool) -> Part {
        let end = QueryEnd { truncated, ..QueryEnd::default() };
        Part::Answered(Answered { node: name(0), file: "x.arrow".into(), end })
    }

    fn without_stream() -> Part {
        Part::Failed(aap_sql::problem::unknown_table("logs", &[]))
    }

    fn merged(parts: Vec<Part>) -> Result<Collected, Problem> {
        let budget = Budget::new(1 << 20);
        let parts = parts.into_iter().map(|part| part.whole_or_nothing(&budget)).enumerate();
        collect(parts.map(|(at, part)| (name(at), part)).collect())
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
        assert_eq!(collected.answers.len(), 1);
        assert_eq!(collected.truncated_by, None);
        let coverage = collected.coverage;
        assert_eq!(coverage.answered, ["n0", "n2"], "a node that lacks the stream has nothing to add");
        assert_eq!((coverage.failed, coverage.late), (vec!["n1".to_owned()], vec!["n3".to_owned()]));
        assert!(coverage.reasons[0].contains("more than 1 MiB"));
        assert_eq!(coverage.late_reasons, ["c1 is silent"]);
    }

    #[test]
    fn a_stream_that_no_node_has_is_unknown() {
        let refused = |parts| merged(parts).err().map(|problem| problem.code);
        assert_eq!(refused(vec![without_stream(), without_stream()]).unwrap(), "query.unknown_table");
        assert_eq!(refused(vec![without_stream(), Part::Late(String::new())]).unwrap(), "node.unreachable");
    }
}
