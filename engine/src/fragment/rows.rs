//! Rows by nodes: what of them the statement needs, filtered and cut where that is safe; the whole is made of rows.

use std::collections::BTreeSet;

use aap_sql::TableNeed;
use duckdb::Connection;
use serde_json::Value;

use super::moment::Now;
use super::shape::{Filter, Place, Shape};
use super::stream::Stream;
use super::{ANSWERS, Halves};
use crate::outline::Outline;
use crate::tree;
use crate::types::{literal, quoted};

/// Nodes answer the statement's own list (their first n in order); the whole is sorted and cut again. None where
/// rows depend on each other, or where the columns are fewer than the list.
pub(super) fn split_list(
    connection: &Connection,
    shape: &Shape<'_>,
    now: &Now,
    outline: &Outline,
) -> Option<Halves> {
    let filter = shape.filter(connection, now);
    if !shape.is_row_by_row() || shape.has_star() || !filter.left.is_empty() {
        return None;
    }
    let (mut columns, mut items) = (BTreeSet::new(), vec![]);
    let mut add = |expression: &Value, place| {
        let resolved = now.freeze(&shape.resolve(expression, place)?);
        shape.columns(&resolved, &mut columns);
        tree::text(connection, &resolved)
    };
    for item in shape.items() {
        items.push(add(item, Place::List)?);
    }
    let listed = items.len();
    let (mut here, mut there) = (vec![], vec![]);
    for order in shape.orders() {
        let expression = &order["expression"];
        let (node, merge) = match shape.item_of_order(expression) {
            Some(item) => ((item + 1).to_string(), (item + 1).to_string()),
            None => {
                let term = add(expression, Place::Order)?;
                let at = items.iter().position(|item| *item == term).unwrap_or(items.len());
                if at == items.len() {
                    items.push(term);
                }
                ((at + 1).to_string(), format!("__c{at}"))
            }
        };
        here.push(tree::order_text(order, &node));
        there.push(tree::order_text(order, &merge));
    }
    if items.len() > columns.len().max(1) || listed != outline.columns.len() {
        return None;
    }
    let limit = shape.limit()?;
    let list: Vec<String> = items.iter().enumerate().map(|(at, item)| format!("{item} AS __c{at}")).collect();
    let names =
        outline.columns.iter().enumerate().map(|(at, (name, _))| format!("__c{at} AS {}", quoted(name)));
    let merge = format!(
        "SELECT {} FROM {ANSWERS}{}",
        names.collect::<Vec<_>>().join(", "),
        tree::tail(&there, limit)
    );
    let node = format!("SELECT {} {}{}", list.join(", "), filter.from(shape, columns), first(&here, limit));
    Some(Halves { node, merge, partial: false, columns_only: false })
}

/// Nodes answer the columns that are used; the whole is the statement without what nodes filtered.
pub(super) fn split_columns(connection: &Connection, shape: &Shape<'_>, now: &Now) -> Option<Halves> {
    let filter = shape.filter(connection, now);
    let mut rest = shape.node.clone();
    match (tree::all_of(filter.left.clone()), rest.as_object_mut()) {
        (Value::Null, Some(parts)) => drop(parts.remove("where_clause")),
        (left, _) => rest["where_clause"] = left,
    }
    let (list, used) = used_columns(shape.stream, &rest, &shape.alias);
    let top = top(connection, shape, now, &filter).unwrap_or_default();
    let node = format!("SELECT {list} {}{top}", filter.from(shape, used));
    rest["from_table"] =
        serde_json::json!({"type": "BASE_TABLE", "table_name": ANSWERS, "alias": shape.alias});
    Some(Halves {
        node,
        merge: tree::exact_select_text(connection, &rest)?,
        partial: false,
        columns_only: true,
    })
}

/// ORDER BY and LIMIT of a node, where nothing after the cut can want more rows.
fn top(connection: &Connection, shape: &Shape<'_>, now: &Now, filter: &Filter) -> Option<String> {
    if !shape.is_row_by_row() || !filter.left.is_empty() {
        return None;
    }
    let orders = shape.orders().iter().map(|order| {
        let resolved = now.freeze(&shape.resolve(&order["expression"], Place::Order)?);
        Some(tree::order_text(order, &tree::text(connection, &resolved)?))
    });
    Some(first(&orders.collect::<Option<Vec<_>>>()?, shape.limit()?))
}

/// The first rows, so many that an offset can pass over some: ` ORDER BY … LIMIT …`, or nothing.
fn first(orders: &[String], limit: (Option<u64>, u64)) -> String {
    match limit {
        (Some(limit), offset) => tree::tail(orders, (Some(limit.saturating_add(offset)), 0)),
        (None, _) => String::new(),
    }
}

/// Any other statement over the stream: the columns it can name, of the time that it can need.
pub(super) fn ship(connection: &Connection, stream: &Stream, need: &TableNeed, node: &Value) -> String {
    let (list, used) = used_columns(stream, node, &stream.name);
    let from = stream.from(&stream.name, &used, times(connection, stream, need).as_deref());
    format!("SELECT {list} FROM {from}")
}

fn times(connection: &Connection, stream: &Stream, need: &TableNeed) -> Option<String> {
    if stream.type_of("ts") != Some("TIMESTAMP WITH TIME ZONE") {
        return None;
    }
    let bound = |operator: &str, us: Option<i64>| {
        let sql = "SELECT CAST(make_timestamptz(?) AS VARCHAR)";
        let text: String = connection.query_row(sql, [us?], |row| row.get(0)).ok()?;
        Some(format!("ts {operator} CAST({} AS TIMESTAMP WITH TIME ZONE)", literal(&text)))
    };
    let bounds: Vec<String> =
        bound(">=", need.ts_min_us).into_iter().chain(bound("<=", need.ts_max_us)).collect();
    (!bounds.is_empty()).then(|| bounds.join(" AND "))
}

/// The list that has every column of the stream that `node` can name, and these columns.
fn used_columns(stream: &Stream, node: &Value, alias: &str) -> (String, BTreeSet<String>) {
    let mut words = BTreeSet::new();
    tree::words(node, &mut words);
    if !stream.is_known() || wants_all(node, &words, alias) {
        return ("*".to_owned(), stream.columns.iter().map(|(name, _)| name.clone()).collect());
    }
    let used: BTreeSet<String> =
        words.iter().filter_map(|word| stream.column(word)).map(str::to_owned).collect();
    let strange = strange_columns(stream, node);
    let list: Vec<&str> = used.iter().chain(&strange).map(String::as_str).collect();
    // Rows are to be counted at least.
    let list = if list.is_empty() { "1 AS __row".to_owned() } else { tree::identifiers(list) };
    (list, used)
}

/// Whether a part of the statement means columns without their names.
fn wants_all(node: &Value, words: &BTreeSet<String>, alias: &str) -> bool {
    let row_as_value = |name: &str| words.contains(&name.to_lowercase());
    tree::any(node, &|object| {
        let is = |field: &str, value: &str| object.get(field).is_some_and(|found| found == value);
        let names =
            |field: &str| object.get(field).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        let alias = object.get("alias").and_then(Value::as_str).filter(|_| !object.contains_key("class"));
        let star = is("class", "STAR") && !super::is_all(&Value::Object(object.clone()));
        star || is("class", "POSITIONAL_REFERENCE")
            || is("type", "PIVOT")
            || is("type", "SHOW_REF")
            || is("ref_type", "NATURAL")
            || names("column_name_alias")
            || alias.is_some_and(row_as_value)
    }) || row_as_value(alias)
}

/// Names that nobody here knows: a node may, and one that does not says so.
fn strange_columns(stream: &Stream, node: &Value) -> Vec<String> {
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut asked: BTreeSet<String> = BTreeSet::new();
    collect_names(node, &mut known, &mut asked);
    let strange = |name: &String| {
        !known.contains(&name.to_lowercase())
            && stream.column(name).is_none()
            && !super::moment::COLUMN_LIKE.contains(&name.to_lowercase().as_str())
    };
    if tree::any(node, &|object| object.get("type").is_some_and(|kind| kind == "SUBQUERY" || kind == "JOIN"))
    {
        return vec![];
    }
    asked.into_iter().filter(strange).collect()
}

/// Names that a statement gives (aliases, parameters of lambdas), and single names that it asks for.
fn collect_names(value: &Value, given: &mut BTreeSet<String>, asked: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(alias) = value["alias"].as_str() {
                given.insert(alias.to_lowercase());
            }
            if value["class"] == "LAMBDA" {
                tree::words(&value["lhs"], given);
            }
            if let Some([name]) = tree::names(value).as_deref() {
                asked.insert((*name).to_owned());
            }
            fields.values().for_each(|field| collect_names(field, given, asked));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_names(item, given, asked)),
        _ => {}
    }
}
