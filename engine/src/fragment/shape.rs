//! A statement as the planner likes it: one SELECT over one stream, its parts apart, its names resolved.
//!
//! Resolving follows DuckDB: a name in WHERE, GROUP BY and the list is a column first and an alias second; the whole
//! of an ORDER BY term is an alias first; in HAVING a name outside aggregates is a grouping column, else an alias.

use std::collections::BTreeSet;

use duckdb::Connection;
use serde_json::Value;

use super::stream::Stream;
use crate::{time_range, tree};

/// An alias may stand for an expression with aliases in it.
const ALIAS_DEPTH_MAX: usize = 8;

/// What a SELECT node may hold here.
const PARTS: &[&str] = &[
    "type",
    "query_location",
    "modifiers",
    "cte_map",
    "select_list",
    "from_table",
    "where_clause",
    "group_expressions",
    "group_sets",
    "aggregate_handling",
    "having",
    "qualify",
];

/// Where a name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    List,
    Having,
    Order,
}

/// One SELECT over one stream.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    pub(super) stream: &'a Stream,
    /// What the statement calls the stream.
    pub(super) alias: String,
    pub(super) node: Value,
    /// Names of aggregate functions.
    aggregates: &'a BTreeSet<String>,
}

impl<'a> Shape<'a> {
    /// None for everything that is more than one SELECT over the stream.
    pub(super) fn of(node: &Value, stream: &'a Stream, aggregates: &'a BTreeSet<String>) -> Option<Self> {
        let fields = node.as_object().filter(|_| node["type"] == "SELECT_NODE")?;
        let plain = fields.keys().all(|name| PARTS.contains(&name.as_str()));
        let from = node["from_table"].as_object().filter(|from| from["type"] == "BASE_TABLE")?;
        let from_plain = from
            .keys()
            .all(|name| matches!(name.as_str(), "type" | "alias" | "query_location" | "table_name"));
        let ctes = node["cte_map"]["map"].as_array().is_some_and(|map| !map.is_empty());
        let nested = tree::any(node, &|object| {
            object.get("class").is_some_and(|class| class == "SUBQUERY" || class == "POSITIONAL_REFERENCE")
        });
        if !plain || !from_plain || ctes || nested {
            return None;
        }
        let alias = from.get("alias").and_then(Value::as_str).unwrap_or(&stream.name).to_owned();
        Some(Self { stream, alias, node: tree::normal(node.clone()), aggregates })
    }

    pub(super) fn items(&self) -> &[Value] {
        self.node["select_list"].as_array().map_or(&[], Vec::as_slice)
    }

    pub(super) fn groups(&self) -> &[Value] {
        self.node["group_expressions"].as_array().map_or(&[], Vec::as_slice)
    }

    pub(super) fn modifiers(&self) -> &[Value] {
        self.node["modifiers"].as_array().map_or(&[], Vec::as_slice)
    }

    fn modifier(&self, kind: &str) -> Option<&Value> {
        self.modifiers().iter().find(|modifier| modifier["type"] == kind)
    }

    pub(super) fn orders(&self) -> &[Value] {
        let orders = self.modifier("ORDER_MODIFIER").and_then(|modifier| modifier["orders"].as_array());
        orders.map_or(&[], Vec::as_slice)
    }

    pub(super) fn distinct(&self) -> Option<&Value> {
        self.modifier("DISTINCT_MODIFIER")
    }

    /// LIMIT and OFFSET, if they are plain numbers and nothing else limits.
    pub(super) fn limit(&self) -> Option<(Option<u64>, u64)> {
        if self.modifier("LIMIT_PERCENT_MODIFIER").is_some() {
            return None;
        }
        let Some(modifier) = self.modifier("LIMIT_MODIFIER") else { return Some((None, 0)) };
        let limit = match &modifier["limit"] {
            Value::Null => None,
            limit => Some(tree::integer(limit)?),
        };
        let offset = match &modifier["offset"] {
            Value::Null => 0,
            offset => tree::integer(offset)?,
        };
        Some((limit, offset))
    }

    pub(super) fn groups_all(&self) -> bool {
        self.node["aggregate_handling"] == "FORCE_AGGREGATES"
    }

    /// Whether every row of the stream gives at most one row, by itself.
    pub(super) fn is_row_by_row(&self) -> bool {
        self.groups().is_empty()
            && self.node["group_sets"].as_array().is_none_or(Vec::is_empty)
            && !self.groups_all()
            && self.distinct().is_none()
            && self.node["having"].is_null()
            && self.node["qualify"].is_null()
            && !tree::has_more_than_rows(&self.node, self.aggregates)
    }

    pub(super) fn has_star(&self) -> bool {
        self.items()
            .iter()
            .any(|item| tree::any(item, &|object| object.get("class").is_some_and(|class| class == "STAR")))
    }

    pub(super) fn has_window(&self) -> bool {
        tree::any(&self.node, &|object| object.get("class").is_some_and(|class| class == "WINDOW"))
    }

    pub(super) fn is_aggregate(&self, expression: &Value) -> bool {
        expression["class"] == "FUNCTION"
            && expression["function_name"].as_str().is_some_and(|name| self.aggregates.contains(name))
    }

    pub(super) fn has_aggregate(&self, expression: &Value) -> bool {
        tree::any(expression, &|object| {
            function_name(object).is_some_and(|name| self.aggregates.contains(name))
        })
    }

    /// The expression with every name resolved: only columns of the stream are left, each behind the stream's alias.
    /// None if a name is neither a column nor an alias.
    pub(super) fn resolve(&self, expression: &Value, place: Place) -> Option<Value> {
        if place == Place::Order
            && let Some(item) = self.item_of_order(expression)
        {
            return self.resolve_at(&self.items()[item], Place::List, 1);
        }
        self.resolve_at(expression, place, 0)
    }

    /// The index of the item that an ORDER BY or GROUP BY term names by its position or, first of all, by its alias.
    pub(super) fn item_of_order(&self, expression: &Value) -> Option<usize> {
        if let Some(position) = tree::integer(expression) {
            return usize::try_from(position).ok()?.checked_sub(1).filter(|item| *item < self.items().len());
        }
        match tree::names(expression)?.as_slice() {
            [name] => self.item_of_alias(name),
            _ => None,
        }
    }

    fn item_of_alias(&self, name: &str) -> Option<usize> {
        let named =
            |item: &Value| item["alias"].as_str().is_some_and(|alias| alias.eq_ignore_ascii_case(name));
        self.items().iter().position(named)
    }

    fn resolve_at(&self, expression: &Value, place: Place, depth: usize) -> Option<Value> {
        if depth > ALIAS_DEPTH_MAX {
            return None;
        }
        let resolved = tree::map(expression, &mut |part| {
            if part["class"] == "LAMBDA" || part["class"] == "STAR" {
                return Some(None);
            }
            if place == Place::Having && self.is_aggregate(part) {
                return Some(self.resolve_at(part, Place::List, depth + 1));
            }
            tree::names(part).map(|names| self.resolve_names(&names, place, depth))
        })?;
        Some(tree::without_alias(resolved))
    }

    fn resolve_names(&self, names: &[&str], place: Place, depth: usize) -> Option<Value> {
        let (first, rest) = names.split_first()?;
        if let Some((second, fields)) = rest.split_first()
            && first.eq_ignore_ascii_case(&self.alias)
            && let Some(column) = self.stream.column(second)
        {
            return Some(self.column(column, fields));
        }
        let column = self.stream.column(first);
        let alias = self.item_of_alias(first).filter(|_| rest.is_empty());
        match (column, alias) {
            (Some(column), None) => Some(self.column(column, rest)),
            (Some(column), Some(_)) if place != Place::Having || self.is_grouped(column) => {
                Some(self.column(column, rest))
            }
            (_, Some(item)) => self.resolve_at(&self.items()[item], Place::List, depth + 1),
            (None, None) => {
                let moment = column_like_moment(first).filter(|_| rest.is_empty())?;
                Some(tree::column(&[moment]))
            }
        }
    }

    fn is_grouped(&self, column: &str) -> bool {
        self.groups().iter().any(|group| {
            let names = tree::names(group).unwrap_or_default();
            names.last().is_some_and(|name| name.eq_ignore_ascii_case(column))
        })
    }

    fn column(&self, column: &str, fields: &[&str]) -> Value {
        let mut names = vec![self.alias.as_str(), column];
        names.extend(fields);
        tree::column(&names)
    }

    /// Columns in a resolved expression.
    pub(super) fn columns(&self, resolved: &Value, columns: &mut BTreeSet<String>) {
        match resolved {
            Value::Object(fields) => {
                if let Some([alias, column, ..]) = tree::names(resolved).as_deref()
                    && *alias == self.alias
                {
                    columns.insert((*column).to_owned());
                }
                fields.values().for_each(|field| self.columns(field, columns));
            }
            Value::Array(items) => items.iter().for_each(|item| self.columns(item, columns)),
            _ => {}
        }
    }

    /// The condition of WHERE as nodes evaluate it, and what of it is left to be evaluated on the whole.
    pub(super) fn filter(&self, connection: &Connection, now: &super::moment::Now) -> Filter {
        let mut filter = Filter::default();
        for conjunct in tree::conjuncts(&self.node["where_clause"]) {
            let pushed = self.resolve(conjunct, Place::List).map(|resolved| now.freeze(&resolved));
            let text = pushed.as_ref().and_then(|pushed| tree::text(connection, pushed));
            match (pushed, text) {
                (Some(pushed), Some(text)) => {
                    let mut columns = BTreeSet::new();
                    self.columns(&pushed, &mut columns);
                    let of_ts = columns.len() == 1 && time_range::bounds_ts(connection, &pushed);
                    if of_ts { &mut filter.times } else { &mut filter.others }.push(text);
                    filter.columns.extend(columns);
                }
                _ => filter.left.push(conjunct.clone()),
            }
        }
        filter
    }
}

/// WHERE, split.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// Bounds of `ts`: they stand where the node looks for the range it must read.
    pub(super) times: Vec<String>,
    pub(super) others: Vec<String>,
    pub(super) columns: BTreeSet<String>,
    /// What nodes cannot evaluate.
    pub(super) left: Vec<Value>,
}

impl Filter {
    /// `FROM … WHERE …` of a node's statement that uses `used` beside what the filter uses.
    pub(super) fn from(&self, shape: &Shape<'_>, mut used: BTreeSet<String>) -> String {
        used.extend(self.columns.iter().cloned());
        let times = (!self.times.is_empty()).then(|| self.times.join(" AND "));
        let from = shape.stream.from(&shape.alias, &used, times.as_deref());
        let others = if self.others.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", self.others.join(" AND "))
        };
        format!("FROM {from}{others}")
    }
}

fn function_name(object: &serde_json::Map<String, Value>) -> Option<&str> {
    object.get("class").filter(|class| *class == "FUNCTION")?;
    object.get("function_name")?.as_str()
}

/// SQL's functions without brackets come as columns.
fn column_like_moment(name: &str) -> Option<&str> {
    super::moment::COLUMN_LIKE.iter().any(|known| name.eq_ignore_ascii_case(known)).then_some(name)
}
