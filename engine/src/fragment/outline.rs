//! Names and types of an answer, found by binding alone: what proves that two halves answer as the statement does.

use duckdb::Connection;

use super::{ANSWERS, Halves};
use crate::types;

/// Names and types of the columns of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) columns: Vec<(String, String)>,
}

impl Outline {
    /// Binds `sql`; nothing runs.
    pub(super) fn of(connection: &Connection, sql: &str) -> duckdb::Result<Self> {
        let sql = format!("SELECT column_name, column_type FROM (DESCRIBE {sql}\n)");
        let mut statement = connection.prepare(&sql)?;
        let columns = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Self { columns: columns.collect::<duckdb::Result<_>>()? })
    }

    /// Whether the halves bind to this outline. What is between them must travel well, unless it is the stream's columns
    /// themselves, which come as they can whatever the way.
    pub(super) fn is_met_by(&self, connection: &Connection, halves: &Halves) -> bool {
        let view = format!("CREATE OR REPLACE TEMP VIEW {ANSWERS} AS {}", halves.node);
        let met = || {
            connection.execute_batch(&view)?;
            let between = Self::of(connection, &halves.node)?;
            let travels = |(_, data_type): &(String, String)| types::travels(data_type);
            let travels = halves.columns_only || between.columns.iter().all(travels);
            Ok::<bool, duckdb::Error>(travels && Self::of(connection, &halves.merge)? == *self)
        };
        met().unwrap_or(false)
    }
}
