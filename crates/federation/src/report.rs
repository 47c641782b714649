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
    /// What came of each place, where the table lies in several.
    pub parts: Vec<Part>,
}

/// What came of one of the places of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub place: String,
    /// Rows that came.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
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

    /// Notes what becomes of a limit, and returns it where it can be taken over: `exact` says whether all conditions before it were.
    pub fn limit(&mut self, limit: Option<u64>, exact: bool) -> Option<u64> {
        let what = format!("limit {}", limit?);
        match exact {
            true => self.push(what),
            false => self.keep(what, "a condition before it is left to the engine"),
        }
        limit.filter(|_| exact)
    }

    /// With what came.
    #[must_use]
    pub fn with_moved(mut self, spool: &Spool) -> Self {
        (self.rows, self.bytes) = (spool.rows(), spool.bytes());
        self
    }
}
