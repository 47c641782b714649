//! Aggregation by parts: nodes answer one row a group (and distinct value), the whole is made of these.
//!
//! ```text
//! node:   SELECT keys __k, distinct values __d, parts __p FROM stream WHERE … GROUP BY keys, distinct values
//! inner:  SELECT __k, whole aggregates __a FROM answers GROUP BY __k
//! outer:  the statement's own list, HAVING, ORDER BY and LIMIT over __k and __a
//! ```

use std::collections::BTreeSet;

use duckdb::Connection;
use serde_json::Value;

use super::aggregates::{self, Call, Split};
use super::moment::Now;
use super::shape::{Place, Shape};
use super::{ANSWERS, Halves};
use crate::outline::Outline;
use crate::tree;
use crate::types::quoted;

/// Splits a statement with aggregates, GROUP BY or DISTINCT. None: not this way.
pub(super) fn split(
    connection: &Connection,
    shape: &Shape<'_>,
    now: &Now,
    outline: &Outline,
) -> Option<Halves> {
    if shape.has_star() || shape.has_window() || !shape.node["qualify"].is_null() || !one_grouping(shape) {
        return None;
    }
    let filter = shape.filter(connection, now);
    if !filter.left.is_empty() || outline.columns.len() != shape.items().len() {
        return None;
    }
    let mut collected = Collected::new(connection, shape, now);
    collected.keys = keys(shape, now)?;
    let outer = outer(&mut collected, outline)?;
    let node = collected.node(&filter)?;
    Some(Halves { node, merge: outer.replace(INNER, &collected.inner()), partial: true, columns_only: false })
}

/// Stands for the inner statement until that is known.
const INNER: &str = "\u{1}inner\u{1}";

/// No ROLLUP and the like.
fn one_grouping(shape: &Shape<'_>) -> bool {
    match shape.node["group_sets"].as_array().map(Vec::as_slice) {
        None | Some([]) => shape.groups().is_empty(),
        Some([set]) => set.as_array().is_some_and(|set| set.len() == shape.groups().len()),
        Some(_) => false,
    }
}

/// What is grouped by, resolved. None where nothing is grouped, or where it is not plain by what.
fn keys(shape: &Shape<'_>, now: &Now) -> Option<Vec<Value>> {
    let items = shape.items();
    let aggregated = items.iter().any(|item| shape.has_aggregate(item))
        || shape.has_aggregate(&shape.node["having"])
        || !shape.node["having"].is_null()
        || shape.orders().iter().any(|order| shape.has_aggregate(order));
    let resolve = |item: &Value| shape.resolve(item, Place::List).map(|item| now.freeze(&item));
    let keys: Vec<Value> = if !shape.groups().is_empty() {
        let keys = shape.groups().iter().map(|group| match tree::integer(group) {
            Some(_) => resolve(&items[shape.item_of_order(group)?]),
            None => resolve(group),
        });
        keys.collect::<Option<_>>()?
    } else if shape.groups_all() {
        let keys = items.iter().filter(|item| !shape.has_aggregate(item)).map(resolve);
        keys.collect::<Option<_>>()?
    } else if aggregated {
        vec![]
    } else if shape.distinct().is_some_and(|distinct| distinct["distinct_on_targets"].is_null()) {
        items.iter().map(resolve).collect::<Option<_>>()?
    } else {
        return None;
    };
    // A constant among GROUP BY ALL or DISTINCT says less than it seems: the whole of it is not worth the risk.
    let plain = |key: &Value| {
        let mut columns = BTreeSet::new();
        shape.columns(key, &mut columns);
        !columns.is_empty() && !shape.has_aggregate(key)
    };
    keys.iter().all(plain).then_some(keys)
}

/// The statement over the wholes. Names are those of the single answer.
fn outer(collected: &mut Collected<'_>, outline: &Outline) -> Option<String> {
    let shape = collected.shape;
    let mut items = vec![];
    for (item, (name, _)) in shape.items().iter().zip(&outline.columns) {
        items.push(format!("{} AS {}", collected.over_wholes(item, Place::List)?, quoted(name)));
    }
    let having = match &shape.node["having"] {
        Value::Null => String::new(),
        having => format!(" WHERE {}", collected.over_wholes(having, Place::Having)?),
    };
    let distinct = match shape.distinct() {
        None => "",
        Some(distinct) if distinct["distinct_on_targets"].is_null() => "DISTINCT ",
        Some(_) => return None,
    };
    let mut orders = vec![];
    for order in shape.orders() {
        let expression = &order["expression"];
        let term = match shape.item_of_order(expression) {
            Some(item) => (item + 1).to_string(),
            None if super::is_all(expression) => "ALL".to_owned(),
            None => collected.over_wholes(expression, Place::Order)?,
        };
        orders.push(tree::order_text(order, &term));
    }
    let tail = tree::tail(&orders, shape.limit()?);
    Some(format!("SELECT {distinct}{} FROM ({INNER}) AS {ANSWERS}{having}{tail}", items.join(", ")))
}

/// Keys, distinct values, parts and wholes, each once.
struct Collected<'a> {
    connection: &'a Connection,
    shape: &'a Shape<'a>,
    now: &'a Now,
    keys: Vec<Value>,
    values: Vec<String>,
    parts: Vec<String>,
    wholes: Vec<String>,
    means: Vec<String>,
    /// Columns that keys and calls use.
    columns: BTreeSet<String>,
}

impl<'a> Collected<'a> {
    fn new(connection: &'a Connection, shape: &'a Shape<'a>, now: &'a Now) -> Self {
        Self {
            connection,
            shape,
            now,
            keys: vec![],
            values: vec![],
            parts: vec![],
            wholes: vec![],
            means: vec![],
            columns: BTreeSet::new(),
        }
    }

    /// An expression of the statement in terms of `__k` and `__a`, as SQL.
    fn over_wholes(&mut self, expression: &Value, place: Place) -> Option<String> {
        let resolved = self.now.freeze(&self.shape.resolve(expression, place)?);
        let rewritten = tree::map(&resolved, &mut |part| {
            if let Some(key) = self.keys.iter().position(|key| key == part) {
                return Some(Some(tree::column(&[&format!("__k{key}")])));
            }
            if self.shape.is_aggregate(part) {
                return Some(self.whole_of(part));
            }
            // A column that is neither grouped nor aggregated.
            tree::names(part).map(|_| None)
        })?;
        tree::text(self.connection, &rewritten)
    }

    fn whole_of(&mut self, call: &Value) -> Option<Value> {
        let plain = call["order_bys"]["orders"].as_array().is_none_or(Vec::is_empty);
        let arguments = call["children"].as_array().map_or(&[][..], Vec::as_slice);
        let nested = arguments.iter().any(|argument| self.shape.has_aggregate(argument));
        if !plain || nested {
            return None;
        }
        self.shape.columns(call, &mut self.columns);
        let texts = arguments.iter().map(|argument| tree::text(self.connection, argument));
        let filter = match &call["filter"] {
            Value::Null => None,
            filter => Some(tree::text(self.connection, filter)?),
        };
        let call = Call {
            name: call["function_name"].as_str()?,
            arguments: texts.collect::<Option<_>>()?,
            filter,
            distinct: call["distinct"] == true,
        };
        let whole = match call.split()? {
            Split::Values(value) => {
                let column = place(&mut self.values, value, "__d");
                let distinct = if call.distinct { "DISTINCT " } else { "" };
                format!("{}({distinct}{column})", call.name)
            }
            Split::Parts(parts) => {
                let columns: Vec<String> =
                    parts.into_iter().map(|part| place(&mut self.parts, part, "__p")).collect();
                let mean = aggregates::mean(call.name, &columns, "whole");
                let mean = mean.map(|mean| place(&mut self.means, mean, "__m")).unwrap_or_default();
                aggregates::whole(call.name, &columns, &mean)?
            }
        };
        Some(tree::column(&[&place(&mut self.wholes, whole, "__a")]))
    }

    fn node(&mut self, filter: &super::shape::Filter) -> Option<String> {
        for key in &self.keys {
            self.shape.columns(key, &mut self.columns);
        }
        let keys =
            self.keys.iter().map(|key| tree::text(self.connection, key)).collect::<Option<Vec<_>>>()?;
        let grouped = keys.len() + self.values.len();
        if grouped == 0 && self.parts.is_empty() {
            self.parts.push("count(*)".to_owned());
        }
        let items: Vec<String> =
            named(&keys, "__k").chain(named(&self.values, "__d")).chain(named(&self.parts, "__p")).collect();
        let group = match grouped {
            0 => String::new(),
            _ => {
                format!(" GROUP BY {}", (1..=grouped).map(|at| at.to_string()).collect::<Vec<_>>().join(", "))
            }
        };
        let from = filter.from(self.shape, self.columns.clone());
        Some(format!("SELECT {} {from}{group}", items.join(", ")))
    }

    fn inner(&self) -> String {
        let keys: Vec<String> = (0..self.keys.len()).map(|at| format!("__k{at}")).collect();
        let mut items: Vec<String> = keys.clone();
        items.extend(named(&self.wholes, "__a"));
        if items.is_empty() {
            items.push("count(*) AS __a0".to_owned());
        }
        let by = keys.join(", ");
        let partition = if keys.is_empty() { String::new() } else { format!("PARTITION BY {by}") };
        let from = match self.means.is_empty() {
            true => ANSWERS.to_owned(),
            false => format!(
                "(SELECT *, {} FROM {ANSWERS} WINDOW whole AS ({partition}))",
                named(&self.means, "__m").collect::<Vec<_>>().join(", ")
            ),
        };
        let group = if keys.is_empty() { String::new() } else { format!(" GROUP BY {by}") };
        format!("SELECT {} FROM {from}{group}", items.join(", "))
    }
}

fn named<'a>(list: &'a [String], prefix: &'a str) -> impl Iterator<Item = String> + 'a {
    list.iter().enumerate().map(move |(at, text)| format!("{text} AS {prefix}{at}"))
}

/// The column of `text` in the list, which gets it if it is new.
fn place(list: &mut Vec<String>, text: String, prefix: &str) -> String {
    let at = list.iter().position(|known| *known == text).unwrap_or_else(|| {
        list.push(text);
        list.len() - 1
    });
    format!("{prefix}{at}")
}
