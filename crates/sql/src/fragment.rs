//! A statement split for many nodes: what each node answers, and what makes the whole of the answers.

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

/// Asks the engine to split a statement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanRequest {
    /// One SELECT over stream names.
    pub sql: String,
    /// An empty folder of its own. [`crate::Engine`] makes one and fills this in.
    #[serde(default)]
    pub scratch: Utf8PathBuf,
}

/// How a statement is answered by many nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// What each node answers (in Arrow).
    pub node_sql: String,
    /// What makes the whole: a statement over `table`, which is the union of the nodes' answers.
    pub merge_sql: String,
    /// The table's name in `merge_sql`.
    pub table: String,
    /// The stream that `node_sql` reads.
    pub stream: String,
    /// Whether nodes answer partial aggregates rather than rows.
    pub partial: bool,
}
