//! The stream that a statement reads: its columns as the whole platform knows them, and the FROM that every node
//! understands.

use std::collections::BTreeSet;

use duckdb::Connection;

use crate::types::quoted;

/// A stream and its columns: names as they are shown, and types. No columns: nobody here knows the stream.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) columns: Vec<(String, String)>,
}

impl Stream {
    /// Asks DuckDB for the columns of the view of that name, if there is one.
    pub(super) fn describe(connection: &Connection, name: &str) -> Self {
        let sql = format!("SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {})", quoted(name));
        let columns = connection.prepare(&sql).and_then(|mut statement| {
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        });
        Self { name: name.to_owned(), columns: columns.unwrap_or_default() }
    }

    pub(super) fn is_known(&self) -> bool {
        !self.columns.is_empty()
    }

    /// The column of that name in any case, as it is shown.
    pub(super) fn column(&self, name: &str) -> Option<&str> {
        let same = self.columns.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        same.map(|(known, _)| known.as_str())
    }

    pub(super) fn type_of(&self, name: &str) -> Option<&str> {
        let same = self.columns.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        same.map(|(_, data_type)| data_type.as_str())
    }

    /// The stream behind FROM, of `ts` within `times` only.
    ///
    /// A node's buffer holds what it still holds: a column may be missing there, or have a narrower type. Beside an
    /// empty row that has the columns `used` with their types, it has them too, and answers NULL.
    pub(super) fn from(&self, alias: &str, used: &BTreeSet<String>, times: Option<&str>) -> String {
        let typed: Vec<String> = self
            .columns
            .iter()
            .filter(|(name, _)| used.contains(name) && !is_system(name))
            .map(|(name, data_type)| format!("CAST(NULL AS {data_type}) AS {}", quoted(name)))
            .collect();
        let (table, alias) = (quoted(&self.name), quoted(alias));
        let within = times.map(|times| format!(" WHERE {times}")).unwrap_or_default();
        match (typed.is_empty(), times) {
            (true, None) => format!("{table} AS {alias}"),
            (true, Some(_)) => format!("(SELECT * FROM {table} AS {alias}{within}) AS {alias}"),
            (false, _) => format!(
                "(SELECT {} WHERE false UNION ALL BY NAME SELECT * FROM {table} AS {alias}{within}) AS {alias}",
                typed.join(", ")
            ),
        }
    }
}

/// Readers add these to every row of every node.
fn is_system(name: &str) -> bool {
    crate::database::SYSTEM.iter().any(|(system, _)| system.eq_ignore_ascii_case(name))
}
