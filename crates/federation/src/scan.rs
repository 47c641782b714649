//! What a statement needs of a table.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::Predicate;

/// What a statement needs of a table elsewhere. The default needs everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scan {
    /// The table's name within its system, as it is written in the statement: `[table]` or `[schema, table]`.
    pub table: Vec<String>,
    /// Every word of the statement that can be a column's name, lower case. Absent: all columns are needed.
    pub words: Option<BTreeSet<String>>,
    /// Rows for which one of these does not hold cannot matter.
    pub filters: Vec<Predicate>,
    /// Conditions that no other system is asked to check, as SQL, each with the reason.
    pub kept: Vec<(String, String)>,
    /// So many rows are enough, any of those for which all of `filters` hold exactly. Absent: all are needed.
    pub limit: Option<u64>,
    /// The statement is made of these instead of rows, if all of `filters` hold exactly.
    pub aggregate: Option<Aggregate>,
}

impl Scan {
    /// Whether a column of this name is needed.
    pub fn needs(&self, column: &str) -> bool {
        self.words.as_ref().is_none_or(|words| words.contains(&column.to_lowercase()))
    }

    /// Joined by dots.
    pub fn table_name(&self) -> String {
        self.table.join(".")
    }
}

/// Groups and what is counted of each. The answer has the columns `__k0…` for the keys and `__a0…` for the calls. Several files
/// may each hold groups of their own, if no call is of distinct values: the engine makes the whole of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregate {
    /// Columns that make a group. None: there is one group, of all rows.
    pub keys: Vec<String>,
    /// What is computed of each group.
    pub calls: Vec<Call>,
}

/// One aggregate of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Which.
    pub function: Function,
    /// Over which column. Absent for `count(*)`.
    pub column: Option<String>,
    /// Of each value once. Of `count` only.
    #[serde(default)]
    pub distinct: bool,
}

/// Aggregates that mean the same everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// Rows, or rows where the column is not null.
    Count,
    /// The sum of integers, exactly.
    Sum,
    /// The least.
    Min,
    /// The greatest.
    Max,
}

impl Function {
    /// As SQL calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
        }
    }
}
