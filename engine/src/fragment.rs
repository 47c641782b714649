//! Splitting a statement for many nodes.

use aap_sql::Planned;
use aap_types::{ExitCode, Problem};
use duckdb::Connection;

use crate::statement::Statement;

/// Decides what each node answers and what makes the whole.
pub(crate) fn plan(connection: &Connection, sql: &str) -> Result<Planned, Problem> {
    let statement = Statement::parse(connection, sql)?;
    let [table] = statement.tables.as_slice() else {
        return Err(Problem::new(
            "query.fan_out",
            ExitCode::Usage,
            "a query over several nodes reads exactly one stream",
        ));
    };
    let stream = table.name.clone();
    Ok(Planned {
        node_sql: format!("SELECT * FROM {}", crate::types::quoted(&stream)),
        merge_sql: sql.to_owned(),
        table: stream.clone(),
        stream,
        partial: false,
    })
}
