//! What ran where.

use crate::{Scan, Spool};

/// How a table's part of a query was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What the system was asked, in its own words.
    pub statement: String,
    /// What it did itself: conditions, columns, limit, aggregation.
    pub pushed: Vec<String>,
    /// What is left to the engine, and why.
    pub kept: Vec<Kept>,
    /// Whether the answer is [`crate::Aggregate`]'s and not rows.
    pub aggregated: bool,
    /// Rows that came.
    pub rows: u64,
    /// Bytes of the rows in Arrow.
    pub bytes: u64,
    /// The columns that the table has, with the engine's types, where the answer is aggregated.
    pub columns: Vec<(String, String)>,
}

/// Something that was not pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What, as SQL.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Report {
    /// Begins with what the engine itself would not give away.
    pub fn of(scan: &Scan) -> Self {
        let kept = scan.kept.iter().map(|(what, why)| Kept { what: what.clone(), why: why.clone() });
        Self { kept: kept.collect(), ..Self::default() }
    }

    /// Notes what is left to the engine.
    pub fn keep(&mut self, what: impl ToString, why: impl Into<String>) {
        self.kept.push(Kept { what: what.to_string(), why: why.into() });
    }

    /// Notes what the system does.
    pub fn push(&mut self, what: impl ToString) {
        self.pushed.push(what.to_string());
    }

    /// With what came.
    #[must_use]
    pub fn with_moved(mut self, spool: &Spool) -> Self {
        (self.rows, self.bytes) = (spool.rows(), spool.bytes());
        self
    }
}
