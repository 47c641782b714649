//! Streams as nodes hold them in their own buffers, as tables of a query: `nodes.logs`.
//!
//! ```text
//!  Scan ──► nodes that its conditions on `_node` let through
//!           SELECT * FROM "logs" LIMIT 0        of all at once: which columns are there, of which types
//!           SELECT columns FROM (…) WHERE …     of all that have the stream: rows, or their groups
//!           files ──► Spool, coverage           a node that did not answer both in full adds nothing, and is named
//! ```
//! Nodes differ in columns and types. Only who knows those of all nodes can say what a condition means, so nodes are asked twice.
//!
//! | file | owns |
//! |---|---|
//! | `statement.rs` | the statement of a scan |

mod statement;

use std::fs::File;
use std::io::BufReader;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aap_federation::{Literal, Predicate, Remote, Report, Scan, Spool, TYPE_KEY};
use aap_proto::v1;
use aap_types::{ExitCode, NodeId, Problem, StreamName, unite_columns};
use arrow_ipc::reader::StreamReader;
use camino::Utf8Path;
use futures::future::BoxFuture;
use tokio::task::spawn_blocking;

use crate::access::Scope;
use crate::asking::{self, Asking, Part, Question};
use statement::Statement;

/// What stands before a stream's name where nodes are asked for it.
pub(crate) const CATALOG: &str = "nodes";
/// The column that says which node a row is of.
const NODE: &str = "_node";
/// A node has one part in so many of the query's deadline to say which columns it has: what it needs for that is a moment, and one that
/// is silent must leave the others their time.
const COLUMNS_SHARE: u32 = 4;
/// And one in so many to answer. The rest is the engine's.
const ROWS_SHARE: u32 = 2;

/// Names of columns and types, as the engine calls them.
type Columns = Vec<(String, String)>;

/// The tables of one query.
#[derive(Debug)]
pub(crate) struct NodeTables {
    asking: Asking,
    scope: Scope,
    /// The query's.
    deadline: Duration,
    /// Of each table that was read.
    coverage: Mutex<Vec<v1::Coverage>>,
}

impl NodeTables {
    /// Nobody is asked yet.
    pub(crate) fn new(asking: Asking, scope: Scope, deadline: Duration) -> Self {
        Self { asking, scope, deadline, coverage: Mutex::default() }
    }

    /// Which nodes were asked for which tables, and answered.
    pub(crate) fn coverage(&self) -> Vec<v1::Coverage> {
        self.coverage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells nodes that nobody waits for them any more. For whoever drops a scan.
    pub(crate) async fn forsake(&self) {
        self.asking.forsake().await;
    }

    async fn fetch(&self, scan: &Scan, spool: &mut Spool) -> Result<Report, Problem> {
        let stream = stream_of(scan)?;
        if !self.scope.sees(&stream) {
            return Err(aap_sql::problem::unknown_table(stream.as_str(), &[]));
        }
        let mut known = self.asking.reach.known().await;
        known.retain(|node| self.scope.asks(node) && self.scope.sees_rows(&stream, node));
        let targets = let_through(&known, &scan.filters)?;
        let (parts, columns) = self.columns(&stream, &targets).await;
        let statement = Statement::of(scan, &stream, &columns);
        let parts = self.rows(parts, &statement.sql).await;
        if let Some(problem) = parts.iter().find_map(|(_, part)| too_much(part)) {
            return Err(problem.clone());
        }
        let collected = asking::collect(parts)?;
        let mut report = statement.report;
        if targets.len() < known.len() {
            report.push(format!("{} of {} nodes", targets.len(), known.len()));
        }
        for answered in collected.answers {
            let (rows, bytes) = (answered.end.rows, answered.end.bytes);
            report.parts.push(aap_federation::Part { place: answered.node.to_string(), rows, bytes });
            spool.take_over(answered.file, rows, bytes)?;
        }
        self.coverage.lock().unwrap_or_else(PoisonError::into_inner).push(collected.coverage);
        Ok(report)
    }

    /// Which nodes have the stream, and the columns that they have together.
    async fn columns(&self, stream: &StreamName, nodes: &[NodeId]) -> (Vec<(NodeId, Part)>, Columns) {
        let sql = format!("SELECT * FROM \"{stream}\" LIMIT 0");
        let question = Question { sql, rows: 0, deadline: self.deadline / COLUMNS_SHARE };
        let mut parts = self.asking.whole_or_nothing(self.asking.ask(nodes, &question).await);
        let mut united = vec![];
        for (_, part) in &mut parts {
            let Part::Answered(answered) = part else { continue };
            let file = answered.file.clone();
            match spawn_blocking(move || columns_of(&file)).await {
                Ok(Some(columns)) => unite_columns(&mut united, &columns),
                _ => *part = Part::Failed(without_columns()),
            }
        }
        (parts, united)
    }

    /// Asks those that have the stream for what the statement says. The others' parts stay.
    async fn rows(&self, parts: Vec<(NodeId, Part)>, sql: &str) -> Vec<(NodeId, Part)> {
        let having = parts.iter().filter(|(_, part)| matches!(part, Part::Answered(_)));
        let having: Vec<NodeId> = having.map(|(node, _)| node.clone()).collect();
        let question = Question { sql: sql.to_owned(), rows: 0, deadline: self.deadline / ROWS_SHARE };
        let rows = self.asking.whole_or_nothing(self.asking.ask(&having, &question).await);
        let mut rows = rows.into_iter();
        let replaced = parts.into_iter().map(|(node, part)| match part {
            Part::Answered(_) => rows.next().unwrap_or((node, part)),
            part => (node, part),
        });
        replaced.collect()
    }
}

/// The stream that the table is.
fn stream_of(scan: &Scan) -> Result<StreamName, Problem> {
    let name = scan.table_name().to_lowercase();
    name.parse().map_err(|_not_a_name| aap_sql::problem::unknown_table(&name, &[]))
}

/// The nodes whose rows may pass.
///
/// # Errors
/// `node.none`; `node.unknown` where it is none of those that are known: its columns are not known, either.
fn let_through(known: &[NodeId], filters: &[Predicate]) -> Result<Vec<NodeId>, Problem> {
    if known.is_empty() {
        return Err(asking::no_node());
    }
    let passes = |node: &&NodeId| filters.iter().all(|filter| lets_through(filter, node.as_str()));
    let targets: Vec<NodeId> = known.iter().filter(passes).cloned().collect();
    if targets.is_empty() {
        let conditions = filters.iter().filter(|filter| is_node(filter)).map(ToString::to_string);
        let message = format!("there is no node with {}", conditions.collect::<Vec<_>>().join(" and "));
        return Err(Problem::new("node.unknown", ExitCode::NotFound, message)
            .hint_command("list the nodes", "aap node ls"));
    }
    Ok(targets)
}

fn is_node(filter: &Predicate) -> bool {
    filter.column().eq_ignore_ascii_case(NODE)
}

/// Whether rows of the node of that name can pass.
fn lets_through(filter: &Predicate, node: &str) -> bool {
    match filter {
        _ if !is_node(filter) => true,
        Predicate::Compare { comparison, value: Literal::Text(text), .. } => {
            comparison.holds(node.cmp(text.as_str()))
        }
        Predicate::Compare { .. } => true,
        Predicate::In { values, .. } => {
            values.iter().any(|value| !matches!(value, Literal::Text(text) if text != node))
        }
        Predicate::Null { is_null, .. } => !is_null,
    }
}

/// What a node says its columns are, in the schema of its answer.
fn columns_of(file: &Utf8Path) -> Option<Columns> {
    let reader = StreamReader::try_new(BufReader::new(File::open(file).ok()?), None).ok()?;
    let schema = reader.schema();
    let named = |field: &std::sync::Arc<arrow_schema::Field>| {
        Some((field.name().clone(), field.metadata().get(TYPE_KEY)?.clone()))
    };
    schema.fields().iter().map(named).collect()
}

fn without_columns() -> Problem {
    Problem::new(
        "node.answer_broken",
        ExitCode::Unavailable,
        "the node's answer does not say which columns it has",
    )
    .retry_after_ms(1000)
}

/// The query fetches too much, wherever from; that is no node's failure.
fn too_much(part: &Part) -> Option<&Problem> {
    match part {
        Part::Failed(problem) if problem.code == "query.fetched_too_much" => Some(problem),
        _ => None,
    }
}

impl Remote for NodeTables {
    fn kind(&self) -> &'static str {
        "node"
    }

    fn place(&self) -> String {
        "all".to_owned()
    }

    fn scan<'a>(&'a self, scan: &'a Scan, spool: &'a mut Spool) -> BoxFuture<'a, Result<Report, Problem>> {
        Box::pin(self.fetch(scan, spool))
    }
}

#[cfg(test)]
mod tests {
    use aap_federation::Comparison;

    use super::*;

    #[test]
    fn only_nodes_that_conditions_let_through_are_asked() {
        let known: Vec<NodeId> = ["a1", "a2", "b1"].map(|name| name.parse().unwrap()).to_vec();
        let text = |text: &str| Literal::Text(text.to_owned());
        let compare =
            |comparison, value| Predicate::Compare { column: "_Node".to_owned(), comparison, value };
        let among = |values: &[&str]| Predicate::In {
            column: NODE.to_owned(),
            values: values.iter().map(|name| text(name)).collect(),
        };
        let other =
            Predicate::Compare { column: "id".to_owned(), comparison: Comparison::Equal, value: text("a1") };
        let null = |is_null| Predicate::Null { column: NODE.to_owned(), is_null };
        for (filters, expected) in [
            (vec![], "a1 a2 b1"),
            (vec![compare(Comparison::Equal, text("a2"))], "a2"),
            (vec![compare(Comparison::NotEqual, text("a2")), other.clone()], "a1 b1"),
            (vec![compare(Comparison::Less, text("b"))], "a1 a2"),
            (vec![among(&["b1", "a1", "nobody"])], "a1 b1"),
            (vec![among(&["b1", "a1"]), compare(Comparison::GreaterOrEqual, text("a2"))], "b1"),
            (vec![compare(Comparison::Equal, Literal::Int(5))], "a1 a2 b1"),
            (vec![null(false)], "a1 a2 b1"),
        ] {
            let found = let_through(&known, &filters).unwrap();
            let found: Vec<&str> = found.iter().map(NodeId::as_str).collect();
            assert_eq!(found.join(" "), expected, "{filters:?}");
        }
        let problem = let_through(&known, &[compare(Comparison::Equal, text("c")), other]).unwrap_err();
        assert_eq!(problem.message, "there is no node with _Node = 'c'");
        assert_eq!(problem.code, "node.unknown");
        assert_eq!(let_through(&known, &[null(true)]).unwrap_err().code, "node.unknown");
        assert_eq!(let_through(&[], &[]).unwrap_err().code, "node.none");
    }
}
