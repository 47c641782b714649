//! DuckDB's syntax tree as JSON: reading, comparing, and turning expressions back into SQL.

use std::collections::BTreeSet;

use duckdb::Connection;
use serde_json::{Map, Value, json};

use crate::statement;
use crate::types::quoted;

/// The first statement's SELECT node.
pub(crate) fn select_of(connection: &Connection, sql: &str) -> Option<Value> {
    let mut statement = statement::parse_tree(connection, sql).ok()?;
    Some(statement["node"].take())
}

/// Without places in the text: equal trees mean the same.
pub(crate) fn normal(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(name, _)| name != "query_location")
                .map(|(name, field)| (name, normal(field)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(normal).collect()),
        other => other,
    }
}

/// The expression without its name in the answer.
pub(crate) fn without_alias(mut expression: Value) -> Value {
    if let Some(fields) = expression.as_object_mut() {
        fields.remove("alias");
    }
    expression
}

/// The SQL text of an expression. None where DuckDB's text would not be read as the same tree again.
pub(crate) fn text(connection: &Connection, expression: &Value) -> Option<String> {
    let expression = normal(without_alias(typed_doubles(expression.clone())));
    let node = json!({
        "type": "SELECT_NODE",
        "cte_map": {},
        "select_list": [expression],
        "from_table": {"type": "EMPTY"},
        "aggregate_handling": "STANDARD_HANDLING",
    });
    let text = select_text(connection, &node)?;
    let again = select_of(connection, &text)?;
    let same = normal(again["select_list"][0].clone()) == expression;
    same.then(|| text.trim_start_matches("SELECT ").to_owned())
}

/// The SQL text of a SELECT node.
pub(crate) fn select_text(connection: &Connection, node: &Value) -> Option<String> {
    let statements = json!({"error": false, "statements": [{"node": node}]}).to_string();
    let sql = "SELECT json_deserialize_sql(CAST(? AS JSON))";
    let text: String = connection.query_row(sql, [statements], |row| row.get(0)).ok()?;
    Some(text.trim().trim_end_matches(';').to_owned())
}

/// The SQL text of a SELECT node. None where DuckDB's text would not be read as the same tree again.
pub(crate) fn exact_select_text(connection: &Connection, node: &Value) -> Option<String> {
    let node = normal(typed_doubles(node.clone()));
    let text = select_text(connection, &node)?;
    (normal(select_of(connection, &text)?) == node).then_some(text)
}

/// `1e10` is written as `10000000000.0`, which is a DECIMAL when it is read again.
fn typed_doubles(value: Value) -> Value {
    if value["class"] == "CONSTANT" && value["value"]["type"]["id"] == "DOUBLE" {
        let Some(number) = value["value"]["value"].as_f64() else { return value };
        return cast(&format!("{number:e}"), "DOUBLE", value["alias"].as_str());
    }
    match value {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, field)| (name, typed_doubles(field))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(typed_doubles).collect()),
        other => other,
    }
}

/// `CAST('text' AS type_name)`.
pub(crate) fn cast(text: &str, type_name: &str, alias: Option<&str>) -> Value {
    let constant = json!({
        "class": "CONSTANT",
        "type": "VALUE_CONSTANT",
        "value": {"type": {"id": "VARCHAR"}, "is_null": false, "value": text},
    });
    let mut cast = json!({
        "class": "CAST",
        "type": "OPERATOR_CAST",
        "child": constant,
        "cast_type": {"id": type_name},
    });
    if let (Some(alias), Some(fields)) = (alias, cast.as_object_mut()) {
        fields.insert("alias".into(), alias.into());
    }
    cast
}

/// A reference to a column.
pub(crate) fn column(names: &[&str]) -> Value {
    json!({"class": "COLUMN_REF", "type": "COLUMN_REF", "column_names": names})
}

/// The names of a column reference.
pub(crate) fn names(expression: &Value) -> Option<Vec<&str>> {
    if expression["class"] != "COLUMN_REF" {
        return None;
    }
    expression["column_names"].as_array()?.iter().map(Value::as_str).collect()
}

/// The integer that an expression plainly is.
pub(crate) fn integer(expression: &Value) -> Option<u64> {
    (expression["class"] == "CONSTANT").then(|| expression["value"]["value"].as_u64()).flatten()
}

/// The parts of a condition that must all hold.
pub(crate) fn conjuncts(clause: &Value) -> Vec<&Value> {
    if clause["type"] == "CONJUNCTION_AND" {
        clause["children"].as_array().into_iter().flatten().flat_map(conjuncts).collect()
    } else if clause.is_object() {
        vec![clause]
    } else {
        vec![]
    }
}

/// The condition that all of `parts` hold; null if there is none.
pub(crate) fn all_of(mut parts: Vec<Value>) -> Value {
    match parts.len() {
        0 => Value::Null,
        1 => parts.remove(0),
        _ => json!({"class": "CONJUNCTION", "type": "CONJUNCTION_AND", "children": parts}),
    }
}

/// Whether `found` holds for an object anywhere in `value`.
pub(crate) fn any(value: &Value, found: &dyn Fn(&Map<String, Value>) -> bool) -> bool {
    match value {
        Value::Object(fields) => found(fields) || fields.values().any(|field| any(field, found)),
        Value::Array(items) => items.iter().any(|item| any(item, found)),
        _ => false,
    }
}

/// Every text in `value` that can be the name of a column, lower case.
pub(crate) fn words(value: &Value, words: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for name in ["column_names", "using_columns"] {
                let list = fields.get(name).and_then(Value::as_array).into_iter().flatten();
                words.extend(list.filter_map(|word| Some(word.as_str()?.to_lowercase())));
            }
            fields.values().for_each(|field| self::words(field, words));
        }
        Value::Array(items) => items.iter().for_each(|item| self::words(item, words)),
        _ => {}
    }
}

/// Applies `change` to every expression below, from the top; where it answers, nothing below is visited.
pub(crate) fn map(value: &Value, change: &mut dyn FnMut(&Value) -> Option<Option<Value>>) -> Option<Value> {
    if value["class"].is_string()
        && let Some(changed) = change(value)
    {
        return changed;
    }
    Some(match value {
        Value::Object(fields) => {
            let mapped = fields.iter().map(|(name, field)| Some((name.clone(), map(field, change)?)));
            Value::Object(mapped.collect::<Option<Map<_, _>>>()?)
        }
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| map(item, change)).collect::<Option<Vec<_>>>()?)
        }
        other => other.clone(),
    })
}

/// The text of one term of ORDER BY, with its direction as it was written.
pub(crate) fn order_text(order: &Value, expression: &str) -> String {
    let direction = match order["type"].as_str() {
        Some("ASCENDING") => " ASC",
        Some("DESCENDING") => " DESC",
        _ => "",
    };
    let nulls = match order["null_order"].as_str() {
        Some("NULLS FIRST") => " NULLS FIRST",
        Some("NULLS LAST") => " NULLS LAST",
        _ => "",
    };
    format!("{expression}{direction}{nulls}")
}

/// A list of identifiers.
pub(crate) fn identifiers<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// The names of all aggregate functions.
pub(crate) fn aggregate_names(connection: &Connection) -> Option<BTreeSet<String>> {
    let sql = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'aggregate'";
    let mut statement = connection.prepare(sql).ok()?;
    statement.query_map([], |row| row.get(0)).ok()?.collect::<duckdb::Result<_>>().ok()
}

/// The names of functions that may hide an aggregate or several rows: aggregates, and macros, whose bodies are not looked at.
pub(crate) fn names_beyond_rows(connection: &Connection) -> Option<BTreeSet<String>> {
    let sql = "SELECT DISTINCT function_name FROM duckdb_functions() \
               WHERE function_type IN ('aggregate', 'macro', 'table_macro')";
    let mut statement = connection.prepare(sql).ok()?;
    statement.query_map([], |row| row.get(0)).ok()?.collect::<duckdb::Result<_>>().ok()
}

/// Whether something in `value` depends on more than one row, or makes more than one of a row.
pub(crate) fn has_more_than_rows(value: &Value, aggregates: &BTreeSet<String>) -> bool {
    any(value, &|object| {
        let function = || {
            object.get("class").filter(|class| *class == "FUNCTION")?;
            object.get("function_name")?.as_str()
        };
        object.get("class").is_some_and(|class| class == "WINDOW")
            || function().is_some_and(|name| matches!(name, "unnest" | "unlist") || aggregates.contains(name))
    })
}

/// ` ORDER BY … LIMIT … OFFSET …`.
pub(crate) fn tail(orders: &[String], (limit, offset): (Option<u64>, u64)) -> String {
    let mut tail = String::new();
    if !orders.is_empty() {
        tail += &format!(" ORDER BY {}", orders.join(", "));
    }
    if let Some(limit) = limit {
        tail += &format!(" LIMIT {limit}");
    }
    if offset > 0 {
        tail += &format!(" OFFSET {offset}");
    }
    tail
}
