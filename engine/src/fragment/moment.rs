//! What time it is: one moment for all nodes, taken when the statement is split.

use duckdb::Connection;
use serde_json::Value;

use crate::tree;

/// Moments that are written like columns.
pub(super) const COLUMN_LIKE: &[&str] = &[
    "current_timestamp",
    "current_date",
    "current_time",
    "current_localtimestamp",
    "current_localtime",
    "localtimestamp",
    "localtime",
];

/// The moment, as text with its zone.
#[derive(Debug)]
pub(super) struct Now(String);

impl Now {
    pub(super) fn take(connection: &Connection) -> Option<Self> {
        connection.query_row("SELECT CAST(now() AS VARCHAR)", [], |row| row.get(0)).map(Self).ok()
    }

    /// The expression with this moment in place of `now()` and its kin.
    pub(super) fn freeze(&self, expression: &Value) -> Value {
        let frozen = tree::map(expression, &mut |part| Some(Some(self.of(part)?)));
        frozen.unwrap_or_else(|| expression.clone())
    }

    fn of(&self, expression: &Value) -> Option<Value> {
        let name = match tree::names(expression).as_deref() {
            Some([name]) => name.to_lowercase(),
            Some(_) => return None,
            None if expression["class"] == "FUNCTION" => {
                let arguments = expression["children"].as_array().is_some_and(|list| !list.is_empty());
                expression["function_name"].as_str().filter(|_| !arguments)?.to_owned()
            }
            None => return None,
        };
        let kind = match name.as_str() {
            "now" | "get_current_timestamp" | "transaction_timestamp" | "current_timestamp" => {
                return Some(tree::cast(&self.0, "TIMESTAMP WITH TIME ZONE", None));
            }
            "current_date" | "today" => "DATE",
            "current_localtimestamp" | "localtimestamp" => "TIMESTAMP",
            "current_localtime" | "localtime" => "TIME",
            "current_time" | "get_current_time" => "TIME WITH TIME ZONE",
            _ => return None,
        };
        // The zone of every engine is UTC, so the moment's own date and time are the local ones.
        let mut cast = tree::cast("", kind, None);
        cast["child"] = tree::cast(&self.0, "TIMESTAMP WITH TIME ZONE", None);
        Some(cast)
    }
}
