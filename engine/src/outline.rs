//! Names and types of an answer, found by binding alone.

use duckdb::Connection;

/// Names and types of the columns of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outline {
    pub(crate) columns: Vec<(String, String)>,
}

impl Outline {
    /// Binds `sql`; nothing runs.
    pub(crate) fn of(connection: &Connection, sql: &str) -> duckdb::Result<Self> {
        let sql = format!("SELECT column_name, column_type FROM (DESCRIBE {sql}\n)");
        let mut statement = connection.prepare(&sql)?;
        let columns = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Self { columns: columns.collect::<duckdb::Result<_>>()? })
    }
}
