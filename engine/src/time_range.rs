//! The range of `ts` that a SELECT plainly needs of its tables, so that nobody reads frames and files outside it.
//!
//! Conservative: a bound is used only where no row outside it can reach the answer. That holds for the conjuncts
//! of a WHERE over one table, or over inner joins when the column is qualified. Everything else means "all".

use std::collections::BTreeMap;

use duckdb::Connection;
use serde_json::Value;

use crate::tree;

/// Both ends inclusive, microseconds since 1970 UTC; absent means unbounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) min: Option<i64>,
    pub(crate) max: Option<i64>,
}

impl Range {
    /// Covers both.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            min: self.min.zip(other.min).map(|(a, b)| a.min(b)),
            max: self.max.zip(other.max).map(|(a, b)| a.max(b)),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            min: self.min.into_iter().chain(other.min).max(),
            max: self.max.into_iter().chain(other.max).min(),
        }
    }
}

/// A comparison with `ts` on its left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Lower,
    Upper,
    Both,
}

/// The ranges of the tables directly in the FROM of a SELECT node, by alias in lower case.
pub(crate) fn of_select(connection: &Connection, select: &Value) -> BTreeMap<String, Range> {
    let mut aliases = vec![];
    if !plain_tables(&select["from_table"], &mut aliases) {
        return BTreeMap::new();
    }
    let only = if aliases.len() == 1 { aliases.first().cloned() } else { None };
    let mut ranges = BTreeMap::new();
    for conjunct in tree::conjuncts(&select["where_clause"]) {
        for (alias, range) in bounds_of(connection, conjunct, only.as_deref()) {
            let known: &mut Range = ranges.entry(alias).or_default();
            *known = known.and(range);
        }
    }
    ranges
}

/// Whether `from` is one table or inner joins of tables and whatever else; collects the tables' aliases.
fn plain_tables(from: &Value, aliases: &mut Vec<String>) -> bool {
    match from["type"].as_str() {
        Some("BASE_TABLE") => {
            let name = from["alias"].as_str().or(from["table_name"].as_str()).unwrap_or_default();
            // A list of column names after the alias may call something else `ts`.
            let renamed = from["column_name_alias"].as_array().is_some_and(|names| !names.is_empty());
            aliases.push(if renamed { String::new() } else { name.to_lowercase() });
            true
        }
        Some("JOIN") => {
            let inner = from["join_type"].as_str().is_none_or(|kind| kind == "INNER");
            let plain = from["ref_type"].as_str().is_none_or(|kind| matches!(kind, "REGULAR" | "CROSS"));
            inner && plain && plain_tables(&from["left"], aliases) && plain_tables(&from["right"], aliases)
        }
        // Its rows do not depend on the tables beside it, but `ts` alone may be its column.
        Some("SUBQUERY" | "TABLE_FUNCTION" | "EXPRESSION_LIST") => {
            aliases.push(String::new());
            true
        }
        _ => false,
    }
}

/// Whether the condition bounds a table's `ts`, named behind its alias, and does nothing else.
pub(crate) fn bounds_ts(connection: &Connection, conjunct: &Value) -> bool {
    !bounds_of(connection, conjunct, None).is_empty()
}

fn bounds_of(connection: &Connection, conjunct: &Value, only: Option<&str>) -> Vec<(String, Range)> {
    let bound = |column: &Value, bound: Bound, constant: &Value| {
        let alias = alias_of_ts(column, only)?;
        Some((alias, range_of(connection, bound, constant)?))
    };
    if conjunct["class"] == "BETWEEN" {
        let input = &conjunct["input"];
        let ends = [(Bound::Lower, &conjunct["lower"]), (Bound::Upper, &conjunct["upper"])];
        return ends.into_iter().filter_map(|(end, constant)| bound(input, end, constant)).collect();
    }
    let Some((straight, mirrored)) = comparison(conjunct) else { return vec![] };
    let (left, right) = (&conjunct["left"], &conjunct["right"]);
    bound(left, straight, right).or_else(|| bound(right, mirrored, left)).into_iter().collect()
}

fn comparison(expression: &Value) -> Option<(Bound, Bound)> {
    match expression["type"].as_str()? {
        "COMPARE_GREATERTHAN" | "COMPARE_GREATERTHANOREQUALTO" => Some((Bound::Lower, Bound::Upper)),
        "COMPARE_LESSTHAN" | "COMPARE_LESSTHANOREQUALTO" => Some((Bound::Upper, Bound::Lower)),
        "COMPARE_EQUAL" => Some((Bound::Both, Bound::Both)),
        _ => None,
    }
}

/// The alias of the table whose `ts` this column is.
fn alias_of_ts(column: &Value, only: Option<&str>) -> Option<String> {
    if column["class"] != "COLUMN_REF" {
        return None;
    }
    let names: Vec<String> = column["column_names"]
        .as_array()?
        .iter()
        .filter_map(|name| Some(name.as_str()?.to_lowercase()))
        .collect();
    let alias = match names.as_slice() {
        [name] if name == "ts" => only?.to_owned(),
        [alias, name] if name == "ts" => alias.clone(),
        _ => return None,
    };
    (!alias.is_empty()).then_some(alias)
}

fn range_of(connection: &Connection, bound: Bound, constant: &Value) -> Option<Range> {
    let moment = Moment::of(constant)?;
    // `now()` of the statement is later than now, so it may only bound from below.
    if moment.moves && bound != Bound::Lower {
        return None;
    }
    let us: Option<i64> =
        connection.query_row(&moment.sql, duckdb::params_from_iter(moment.texts), |row| row.get(0)).ok()?;
    let us = us?;
    Some(match bound {
        Bound::Lower => Range { min: Some(us), max: None },
        Bound::Upper => Range { min: None, max: Some(us) },
        Bound::Both => Range { min: Some(us), max: Some(us) },
    })
}

/// A moment that a statement names, as SQL of ours over its texts as parameters.
struct Moment {
    sql: String,
    texts: Vec<String>,
    moves: bool,
}

impl Moment {
    fn of(expression: &Value) -> Option<Self> {
        if let Some((text, kind)) = typed_text(expression) {
            let cast = match kind {
                "VARCHAR" | "TIMESTAMP WITH TIME ZONE" => "TRY_CAST(? AS TIMESTAMPTZ)",
                "TIMESTAMP" => "CAST(TRY_CAST(? AS TIMESTAMP) AS TIMESTAMPTZ)",
                "DATE" => "CAST(TRY_CAST(? AS DATE) AS TIMESTAMPTZ)",
                _ => return None,
            };
            return Some(Self { sql: format!("SELECT epoch_us({cast})"), texts: vec![text], moves: false });
        }
        if is_now(expression) {
            return Some(Self { sql: "SELECT epoch_us(now())".into(), texts: vec![], moves: true });
        }
        let operator = expression["function_name"].as_str().filter(|name| matches!(*name, "-" | "+"))?;
        let [left, right] = expression["children"].as_array()?.as_slice() else { return None };
        let (interval, texts) = interval(right)?;
        if is_now(left) {
            let sql = format!("SELECT epoch_us(now() {operator} {interval})");
            return Some(Self { sql, texts, moves: true });
        }
        let (text, "TIMESTAMP WITH TIME ZONE") = typed_text(left)? else { return None };
        let sql = format!("SELECT epoch_us(TRY_CAST(? AS TIMESTAMPTZ) {operator} {interval})");
        Some(Self { sql, texts: std::iter::once(text).chain(texts).collect(), moves: false })
    }
}

/// A text constant, cast or not: its text and type.
fn typed_text(expression: &Value) -> Option<(String, &str)> {
    if expression["class"] == "CONSTANT" && expression["value"]["type"]["id"] == "VARCHAR" {
        return Some((expression["value"]["value"].as_str()?.to_owned(), "VARCHAR"));
    }
    if expression["class"] == "CAST" && expression["try_cast"] != true {
        let (text, inner) = typed_text(&expression["child"])?;
        return (inner == "VARCHAR").then_some((text, expression["cast_type"]["id"].as_str()?));
    }
    None
}

fn is_now(expression: &Value) -> bool {
    let called = expression["class"] == "FUNCTION"
        && matches!(
            expression["function_name"].as_str(),
            Some("now" | "get_current_timestamp" | "transaction_timestamp")
        );
    let named = expression["class"] == "COLUMN_REF"
        && expression["column_names"].as_array().is_some_and(|names| {
            names.len() == 1
                && names[0].as_str().is_some_and(|name| name.eq_ignore_ascii_case("current_timestamp"))
        });
    called || named
}

fn interval(expression: &Value) -> Option<(String, Vec<String>)> {
    if let Some((text, "INTERVAL")) = typed_text(expression) {
        return Some(("TRY_CAST(? AS INTERVAL)".into(), vec![text]));
    }
    let function = expression["function_name"].as_str()?;
    if !matches!(function, "to_seconds" | "to_minutes" | "to_hours" | "to_days" | "to_weeks" | "to_months") {
        return None;
    }
    let [argument] = expression["children"].as_array()?.as_slice() else { return None };
    let constant = if argument["class"] == "CAST" { &argument["child"] } else { argument };
    let number = constant["value"]["value"].as_i64()?;
    Some((format!("{function}({number})"), vec![]))
}
