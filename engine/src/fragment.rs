//! Splitting a statement for many nodes: what each node answers, and the statement that makes the whole of the answers.
//!
//! A pure function over DuckDB's syntax tree and the columns that the platform knows of the stream. The first way that
//! fits is taken; where the columns are known, it is taken only if its halves bind to the names and types that the
//! statement itself has.
//!
//! | way | for | a node answers |
//! |---|---|---|
//! | `fragment/groups.rs` | aggregates, GROUP BY, DISTINCT | keys, distinct values, parts of aggregates |
//! | `fragment/rows.rs`, list | one SELECT whose rows stand by themselves | the list, its first rows if there is a LIMIT |
//! | `fragment/rows.rs`, columns | any one SELECT over the stream | columns used, of rows that WHERE lets through |
//! | `fragment/rows.rs`, ship | joins with itself, CTEs, set operations, subqueries | columns named, within the range of `ts` |
//!
//! | file | owns |
//! |---|---|
//! | `fragment/shape.rs` | one SELECT over one stream, its names resolved |
//! | `fragment/aggregates.rs` | which aggregates have parts |
//! | `fragment/stream.rs` | the FROM that a node understands whatever columns it has |
//! | `fragment/moment.rs` | `now()` as one moment |

mod aggregates;
mod groups;
mod moment;
mod rows;
mod shape;
mod stream;
#[cfg(test)]
mod tests;

use aap_sql::{Planned, TableNeed};
use aap_types::{ExitCode, Problem};
use duckdb::Connection;
use serde_json::Value;

use self::moment::Now;
use self::shape::Shape;
use self::stream::Stream;
use crate::outline::Outline;
use crate::statement::{self, Statement};
use crate::{tree, types};

/// The table of the nodes' answers. No stream has such a name.
const ANSWERS: &str = "__answers";

/// The two statements.
#[derive(Debug)]
struct Halves {
    node: String,
    /// Over [`ANSWERS`].
    merge: String,
    partial: bool,
    /// Whether nodes answer columns of the stream as they are.
    columns_only: bool,
}

/// Decides what each node answers and what makes the whole. The stream is a view of `connection` if it is known.
pub(crate) fn plan(connection: &Connection, sql: &str, statement: &Statement) -> Result<Planned, Problem> {
    let problem = |message: &str| Problem::new("query.fan_out", ExitCode::Usage, message);
    let [need] = statement.tables.as_slice() else {
        return Err(problem("a query over several nodes reads exactly one stream")
            .hint("without `--nodes`, `nodes.STREAM` is a table that can be joined with others"));
    };
    if need.path.first().is_some_and(|first| first.eq_ignore_ascii_case("nodes")) {
        return Err(problem(
            "every node is asked for its own part of a stream, which it knows by its plain name",
        )
        .hint("leave `nodes.` out, or ask without `--nodes`"));
    }
    let tree = statement::parse_tree(connection, sql)?;
    let stream = Stream::describe(connection, &need.name);
    let planned = |node_sql, merge_sql, table: &str, partial| Planned {
        node_sql,
        merge_sql,
        table: table.to_owned(),
        stream: need.name.clone(),
        partial,
    };
    Ok(match split(connection, sql, &tree["node"], &stream) {
        Some(halves) => planned(halves.node, halves.merge, ANSWERS, halves.partial),
        None => ship(connection, sql, &tree["node"], &stream, need, planned),
    })
}

fn ship(
    connection: &Connection,
    sql: &str,
    node: &Value,
    stream: &Stream,
    need: &TableNeed,
    planned: impl Fn(String, String, &str, bool) -> Planned,
) -> Planned {
    let node_sql = rows::ship(connection, stream, need, node);
    planned(node_sql, sql.to_owned(), &need.name, false)
}

/// The halves of one SELECT over a known stream.
fn split(connection: &Connection, sql: &str, node: &Value, stream: &Stream) -> Option<Halves> {
    if !stream.is_known() {
        return None;
    }
    let aggregates = tree::aggregate_names(connection)?;
    let shape = Shape::of(node, stream, &aggregates)?;
    let now = Now::take(connection)?;
    // What follows a semicolon is not SQL of ours to embed; the tree's own text has none.
    let outline = Outline::of(connection, sql).ok();
    let outline = outline.or_else(|| Outline::of(connection, &tree::select_text(connection, node)?).ok());
    let Some(outline) = outline else {
        return rows::split_columns(connection, &shape, &now);
    };
    groups::split(connection, &shape, &now, &outline)
        .filter(|halves| meets(connection, halves, &outline))
        .or_else(|| {
            rows::split_list(connection, &shape, &now, &outline)
                .filter(|halves| meets(connection, halves, &outline))
        })
        .or_else(|| {
            rows::split_columns(connection, &shape, &now).filter(|halves| meets(connection, halves, &outline))
        })
}

/// Whether the halves bind to the outline of the statement: the proof that they answer as it does. What is between them must
/// travel well, unless it is the stream's columns themselves, which come as they can whatever the way.
fn meets(connection: &Connection, halves: &Halves, outline: &Outline) -> bool {
    let view = format!("CREATE OR REPLACE TEMP VIEW {ANSWERS} AS {}", halves.node);
    let met = || {
        connection.execute_batch(&view)?;
        let between = Outline::of(connection, &halves.node)?;
        let travels = |(_, data_type): &(String, String)| types::travels(data_type);
        let travels = halves.columns_only || between.columns.iter().all(travels);
        Ok::<bool, duckdb::Error>(travels && Outline::of(connection, &halves.merge)? == *outline)
    };
    met().unwrap_or(false)
}

/// The `ALL` of ORDER BY ALL.
fn is_all(expression: &Value) -> bool {
    expression["class"] == "STAR" && expression["columns"] == true && expression["expr"].is_null()
}
