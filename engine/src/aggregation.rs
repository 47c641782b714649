//! A statement over groups that another system makes, instead of over its rows.
//!
//! ```text
//!  select region, count(*) as n, avg(total) from pg.public.orders where total > 5 group by region order by n desc
//!  there:  keys [region], calls [count(*), sum(total), count(total)], where total > 5         one row a group: __k0, __a0, __a1, __a2
//!  here:   select __k0 as region, __a0 as n, __a1 / __a2 as "avg(total)" from … order by n desc
//! ```
//! Only columns are grouped by and aggregated, so that the other system needs to understand nothing of the statement. Names and
//! types of the answer are those of the statement over the table's own columns, found by binding it.

use std::collections::BTreeSet;

use aap_federation::{Aggregate, Call, Function};
use duckdb::Connection;
use serde_json::Value;

use crate::outline::Outline;
use crate::tree;
use crate::types::quoted;

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
];
/// What the table in its FROM may hold.
const TABLE_PARTS: &[&str] =
    &["type", "alias", "query_location", "table_name", "schema_name", "catalog_name"];

/// Whether it is one SELECT over one table and nothing else.
pub(crate) fn is_plain_select(select: &Value) -> bool {
    let only = |value: &Value, known: &[&str]| {
        value.as_object().is_some_and(|fields| fields.keys().all(|name| known.contains(&name.as_str())))
    };
    let no_cte = select["cte_map"]["map"].as_array().is_none_or(Vec::is_empty);
    let nested = tree::any(select, &|object| {
        object.get("class").is_some_and(|class| class == "SUBQUERY" || class == "POSITIONAL_REFERENCE")
    });
    select["type"] == "SELECT_NODE"
        && only(select, PARTS)
        && select["from_table"]["type"] == "BASE_TABLE"
        && only(&select["from_table"], TABLE_PARTS)
        && no_cte
        && !nested
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn modifier<'a>(select: &'a Value, kind: &str) -> Option<&'a Value> {
    list(select, "modifiers").iter().find(|modifier| modifier["type"] == kind)
}

fn groups(select: &Value) -> bool {
    !list(select, "group_expressions").is_empty()
        || !list(select, "group_sets").is_empty()
        || select["aggregate_handling"] == "FORCE_AGGREGATES"
}

/// LIMIT and OFFSET. None where they are more than numbers.
fn limit(select: &Value) -> Option<(Option<u64>, u64)> {
    if modifier(select, "LIMIT_PERCENT_MODIFIER").is_some() {
        return None;
    }
    let Some(modifier) = modifier(select, "LIMIT_MODIFIER") else { return Some((None, 0)) };
    let number = |name: &str| match &modifier[name] {
        Value::Null => Some(None),
        number => tree::integer(number).map(Some),
    };
    Some((number("limit")?, number("offset")?.unwrap_or(0)))
}

/// LIMIT and OFFSET of a plain SELECT whose rows stand by themselves, so that any of its first rows will do.
pub(crate) fn first_rows(select: &Value, aggregates: &BTreeSet<String>) -> Option<(Option<u64>, u64)> {
    let sorted_or_distinct =
        list(select, "modifiers").iter().any(|modifier| modifier["type"] != "LIMIT_MODIFIER");
    let alone = !groups(select)
        && !sorted_or_distinct
        && select["having"].is_null()
        && !tree::has_more_than_rows(select, aggregates);
    if alone { limit(select) } else { None }
}

/// A statement over groups.
#[derive(Debug)]
pub(crate) struct Aggregation {
    /// How many columns make a group.
    keys: usize,
    calls: Vec<Call>,
    items: Vec<String>,
    having: Option<String>,
    orders: Vec<String>,
    limit: (Option<u64>, u64),
}

impl Aggregation {
    /// What to ask for, and the statement over it. None where the statement aggregates nothing, or more than columns.
    pub(crate) fn of(
        connection: &Connection,
        select: &Value,
        aggregates: &BTreeSet<String>,
    ) -> Option<(Aggregate, Self)> {
        let several_sets = list(select, "group_sets").len() > 1;
        let unknown = list(select, "modifiers")
            .iter()
            .any(|found| found["type"] != "LIMIT_MODIFIER" && found["type"] != "ORDER_MODIFIER");
        if several_sets || unknown || select["aggregate_handling"] == "FORCE_AGGREGATES" {
            return None;
        }
        let items = list(select, "select_list");
        let keys = list(select, "group_expressions").iter().map(|group| key_of(group, items));
        let mut plan =
            Plan { connection, aggregates, items, keys: keys.collect::<Option<Vec<_>>>()?, calls: vec![] };
        let texts = items.iter().map(|item| plan.text(item, false)).collect::<Option<Vec<_>>>()?;
        let having = match &select["having"] {
            Value::Null => None,
            having => Some(plan.text(having, true)?),
        };
        let orders = modifier(select, "ORDER_MODIFIER").map_or(&[][..], |modifier| list(modifier, "orders"));
        let orders = orders.iter().map(|order| {
            let expression = &order["expression"];
            // A term that is an alias as a whole means that item, whatever columns there are.
            let text = match plan.alias(expression) {
                Some(alias) => quoted(&alias),
                None => plan.text(expression, true)?,
            };
            Some(tree::order_text(order, &text))
        });
        let orders = orders.collect::<Option<Vec<_>>>()?;
        if plan.keys.is_empty() && plan.calls.is_empty() {
            return None;
        }
        let (keys, calls) = (plan.keys.len(), plan.calls.clone());
        let wanted = Aggregate { keys: plan.keys, calls: plan.calls };
        Some((wanted, Self { keys, calls, items: texts, having, orders, limit: limit(select)? }))
    }

    /// The table of wholes over the table `from`, in which a group may stand several times, each time of other rows. `None` where
    /// that says too little.
    pub(crate) fn wholes(&self, from: &str) -> Option<String> {
        let keys: Vec<String> = (0..self.keys).map(|at| format!("__k{at}")).collect();
        let whole = |(at, call): (usize, &Call)| {
            let whole = match call.function {
                Function::Count if call.distinct => return None,
                Function::Count => format!("CAST(coalesce(sum(__a{at}), 0) AS BIGINT)"),
                idempotent_or_additive => format!("{}(__a{at})", idempotent_or_additive.as_str()),
            };
            Some(format!("{whole} AS __a{at}"))
        };
        let wholes = self.calls.iter().enumerate().map(whole).collect::<Option<Vec<_>>>()?;
        let group = if keys.is_empty() { String::new() } else { format!(" GROUP BY {}", keys.join(", ")) };
        let items: Vec<String> = keys.into_iter().chain(wholes).collect();
        Some(format!("(SELECT {} FROM {from}{group})", items.join(", ")))
    }

    /// The statement over the table `from`, which has the columns of the [`Aggregate`]; it answers as `outline` says.
    pub(crate) fn sql(&self, from: &str, outline: &Outline) -> Option<String> {
        if outline.columns.len() != self.items.len() {
            return None;
        }
        let items = self.items.iter().zip(&outline.columns);
        let items =
            items.map(|(item, (name, data_type))| format!("CAST({item} AS {data_type}) AS {}", quoted(name)));
        let having = self.having.as_ref().map(|having| format!(" WHERE {having}")).unwrap_or_default();
        let tail = tree::tail(&self.orders, self.limit);
        Some(format!("SELECT {} FROM {from}{having}{tail}", items.collect::<Vec<_>>().join(", ")))
    }
}

/// The column that a term of GROUP BY is: itself, or the item that it names by position or alias.
fn key_of(group: &Value, items: &[Value]) -> Option<String> {
    let column = |expression: &Value| Some((*tree::names(expression)?.last()?).to_owned());
    if let Some(position) = tree::integer(group) {
        return column(items.get(usize::try_from(position).ok()?.checked_sub(1)?)?);
    }
    let name = column(group)?;
    // A column comes before an alias; whether there is such a column is not known here, so an alias must mean the same.
    let aliased = items
        .iter()
        .find(|item| item["alias"].as_str().is_some_and(|alias| alias.eq_ignore_ascii_case(&name)));
    match aliased {
        Some(item) if !column(item)?.eq_ignore_ascii_case(&name) => None,
        _ => Some(name),
    }
}

struct Plan<'a> {
    connection: &'a Connection,
    aggregates: &'a BTreeSet<String>,
    items: &'a [Value],
    keys: Vec<String>,
    calls: Vec<Call>,
}

impl Plan<'_> {
    /// The expression over groups, as SQL. `aliases`: whether an item's alias may stand for it.
    fn text(&mut self, expression: &Value, aliases: bool) -> Option<String> {
        let connection = self.connection;
        let rewritten = tree::map(expression, &mut |part| {
            if part["class"] == "STAR" || part["class"] == "LAMBDA" {
                return Some(None);
            }
            let function = part["function_name"].as_str().filter(|_| part["class"] == "FUNCTION");
            if function.is_some_and(|name| self.aggregates.contains(name)) {
                return Some(self.whole_of(part));
            }
            tree::names(part).map(|names| self.key(&names, aliases))
        })?;
        tree::text(connection, &rewritten)
    }

    /// The alias that an expression plainly is.
    fn alias(&self, expression: &Value) -> Option<String> {
        let names = tree::names(expression)?;
        let [name] = names.as_slice() else { return None };
        let mut aliases = self.items.iter().filter_map(|item| item["alias"].as_str());
        aliases.find(|alias| alias.eq_ignore_ascii_case(name)).map(str::to_owned)
    }

    fn key(&self, names: &[&str], aliases: bool) -> Option<Value> {
        let name = names.last()?;
        if let Some(at) = self.keys.iter().position(|key| key.eq_ignore_ascii_case(name)) {
            return Some(tree::column(&[&format!("__k{at}")]));
        }
        let alias = self
            .items
            .iter()
            .find(|item| item["alias"].as_str().is_some_and(|alias| alias.eq_ignore_ascii_case(name)));
        match (aliases && names.len() == 1, alias) {
            (true, Some(_)) => Some(tree::column(&[name])),
            _ => None,
        }
    }

    fn whole_of(&mut self, call: &Value) -> Option<Value> {
        let plain =
            call["order_bys"]["orders"].as_array().is_none_or(Vec::is_empty) && call["filter"].is_null();
        let arguments = list(call, "children");
        let distinct = call["distinct"] == true;
        if !plain {
            return None;
        }
        let column = match arguments {
            [] => None,
            [argument] => Some((*tree::names(argument)?.last()?).to_owned()),
            _ => return None,
        };
        let function = match call["function_name"].as_str()? {
            "count_star" => Function::Count,
            "count" => Function::Count,
            "sum" => Function::Sum,
            "min" => Function::Min,
            "max" => Function::Max,
            "avg" | "mean" if !distinct => {
                let sum = self.place(Function::Sum, column.clone(), false);
                let count = self.place(Function::Count, column, false);
                let text = format!("SELECT CAST({sum} AS DOUBLE) / {count}");
                return Some(tree::select_of(self.connection, &text)?["select_list"][0].clone());
            }
            _ => return None,
        };
        if (function != Function::Count && column.is_none()) || (distinct && function == Function::Sum) {
            return None;
        }
        let distinct = distinct && function == Function::Count;
        Some(tree::column(&[&self.place(function, column, distinct)]))
    }

    /// The column of the call, which is added if it is new.
    fn place(&mut self, function: Function, column: Option<String>, distinct: bool) -> String {
        let call = Call { function, column, distinct };
        let at = self.calls.iter().position(|known| *known == call).unwrap_or_else(|| {
            self.calls.push(call);
            self.calls.len() - 1
        });
        format!("__a{at}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database;
    use crate::statement::Statement;

    const ROWS: &str = "CREATE TABLE events AS SELECT CASE n % 4 WHEN 3 THEN NULL ELSE 'c' || n % 4 END AS city, \
                        CASE WHEN n % 5 > 0 THEN n END AS id, n % 3 AS node FROM range(100) AS t(n)";

    fn cells(connection: &Connection, sql: &str) -> Vec<String> {
        let sql = format!("SELECT CAST(r AS VARCHAR) FROM ({sql}) AS r");
        let mut statement = connection.prepare(&sql).unwrap();
        let cells = statement.query_map([], |row| row.get(0)).unwrap();
        cells.collect::<duckdb::Result<_>>().unwrap()
    }

    #[test]
    fn groups_of_several_nodes_are_put_together_as_those_of_all_rows() {
        let connection = database::open().unwrap();
        connection.execute_batch(ROWS).unwrap();
        for sql in [
            "select count(*), count(id), sum(id), min(id), max(id), avg(id) from nodes.events",
            "select city, count(*) n, avg(id) from nodes.events group by city order by n desc, city nulls first",
            "select city from nodes.events group by 1 having sum(id) > 1100 order by 1",
            "select count(*) % 7, to_hex(count(*)) from nodes.events",
            "select count(*), sum(id) from nodes.events where id > 1000",
        ] {
            let statement = Statement::parse(&connection, sql).unwrap();
            let scan = statement.tables[0].scan.as_ref().unwrap();
            let wanted = scan.aggregate.as_ref().expect(sql);
            let condition = scan.filters.iter().map(ToString::to_string).collect::<Vec<_>>().join(" AND ");
            let condition = if condition.is_empty() { "true".to_owned() } else { condition };
            let keys = wanted.keys.iter().enumerate().map(|(at, key)| format!("{key} AS __k{at}"));
            let calls = wanted.calls.iter().enumerate().map(|(at, call)| {
                format!("{}({}) AS __a{at}", call.function.as_str(), call.column.as_deref().unwrap_or("*"))
            });
            let list = keys.chain(calls).collect::<Vec<_>>().join(", ");
            let group = if wanted.keys.is_empty() { "" } else { "GROUP BY ALL" };
            let part =
                |node: u8| format!("(SELECT {list} FROM events WHERE node = {node} AND {condition} {group})");
            let parts = format!(
                "CREATE OR REPLACE VIEW parts AS {} UNION ALL {} UNION ALL {}",
                part(0),
                part(1),
                part(2)
            );
            connection.execute_batch(&parts).unwrap();
            let whole = sql.replace("nodes.events", "events");
            let outline = Outline::of(&connection, &whole).unwrap();
            let aggregation = statement.aggregation.as_ref().unwrap();
            let made = aggregation.sql(&aggregation.wholes("parts").unwrap(), &outline).unwrap();
            assert_eq!(Outline::of(&connection, &made).unwrap(), outline, "{made}");
            assert_eq!(cells(&connection, &made), cells(&connection, &whole), "{made}");
        }
        let distinct = Statement::parse(&connection, "select count(distinct id) from nodes.events").unwrap();
        assert_eq!(distinct.aggregation.unwrap().wholes("parts"), None);
    }
}
