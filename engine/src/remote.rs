//! What a statement needs of tables in other systems: the columns it names, conditions on one column against a constant, how
//! many rows are enough.
//!
//! Conservative, as [`crate::time_range`] is: the engine applies the whole statement to what comes, so a condition may be given
//! away only where no row that fails it can reach the answer. A conjunct of WHERE that NULL does not pass is one whatever the
//! joins are: rows that an outer join makes up fail it too. What is not given away is told with its reason.

use std::collections::{BTreeMap, BTreeSet};

use aap_federation::{Comparison, Literal, Predicate, Scan};
use duckdb::Connection;
use serde_json::{Map, Value};

use crate::tree;

/// A constant list longer than this is left to the engine: no server likes such statements.
const IN_VALUES_MAX: usize = 1_000;

/// Functions of constants that are constants: what intervals and moments are written with.
const OF_CONSTANTS: &[&str] = &[
    "+",
    "-",
    "date_trunc",
    "get_current_timestamp",
    "make_date",
    "now",
    "to_days",
    "to_hours",
    "to_milliseconds",
    "to_minutes",
    "to_months",
    "to_seconds",
    "to_weeks",
    "today",
    "transaction_timestamp",
    // `interval 1 hour` is parsed to a call of it.
    "trunc",
];
/// Those of them that are later when the statement runs.
const MOVING: &[&str] =
    &["get_current_timestamp", "now", "today", "transaction_timestamp", "current_timestamp", "current_date"];

/// Conditions on the tables of one FROM.
#[derive(Debug, Default)]
pub(crate) struct Conditions(BTreeMap<String, Given>);

/// What is asked of one table.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Given {
    filters: Vec<Predicate>,
    kept: Vec<(String, String)>,
    /// Whether a bound moves on until the statement runs: rows that pass it there may not pass it here.
    moves: bool,
}

impl Conditions {
    /// Of the tables directly in the FROM of a SELECT node. Empty where none of them is elsewhere.
    pub(crate) fn of_select(connection: &Connection, select: &Value) -> Self {
        let mut from = From::default();
        let readable = from.read(&select["from_table"]);
        from.forget_doubles();
        if !from.elsewhere {
            return Self::default();
        }
        let mut conditions = Self::default();
        let clauses = std::iter::once(&select["where_clause"]).chain(from.inner_conditions.iter().copied());
        for conjunct in clauses.flat_map(tree::conjuncts) {
            let read = match readable {
                true => predicates(connection, conjunct, &from),
                false => Err("its FROM holds more than tables joined".to_owned()),
            };
            match read {
                Ok(read) => {
                    let moves = moves(conjunct);
                    for (alias, predicate) in read {
                        let given = conditions.0.entry(alias).or_default();
                        given.filters.push(predicate);
                        given.moves |= moves;
                    }
                }
                Err(why) => {
                    let text = tree::text(connection, conjunct).unwrap_or_else(|| "a condition".to_owned());
                    for alias in from.meant_by(conjunct) {
                        conditions.0.entry(alias).or_default().kept.push((text.clone(), why.clone()));
                    }
                }
            }
        }
        conditions
    }

    /// Of the table that is called so here.
    pub(crate) fn of(&self, alias: &str) -> Given {
        self.0.get(alias).cloned().unwrap_or_default()
    }
}

impl Given {
    /// What may be asked of a table that is used twice: only what both uses ask.
    pub(crate) fn common(self, other: &Self) -> Self {
        let (common, own): (Vec<_>, Vec<_>) =
            self.filters.into_iter().partition(|filter| other.filters.contains(filter));
        let twice = |filter: &Predicate| (filter.to_string(), "the table is used twice".to_owned());
        let lost =
            own.iter().chain(other.filters.iter().filter(|filter| !common.contains(filter))).map(twice);
        let mut kept: Vec<_> = self.kept.into_iter().chain(other.kept.iter().cloned()).chain(lost).collect();
        kept.dedup();
        Self { filters: common, kept, moves: self.moves || other.moves }
    }

    /// Whether rows that pass the conditions there pass them here, too.
    pub(crate) fn is_steady(&self) -> bool {
        !self.moves
    }

    /// The scan of the table of that path.
    pub(crate) fn scan(self, path: &[String], words: Option<BTreeSet<String>>) -> Scan {
        Scan { table: path[1..].to_vec(), words, filters: self.filters, kept: self.kept, ..Scan::default() }
    }
}

/// The tables of a FROM.
#[derive(Debug, Default)]
struct From<'a> {
    /// What they are called, lower case; empty for what has no name here.
    aliases: Vec<String>,
    /// ON of inner joins.
    inner_conditions: Vec<&'a Value>,
    /// Whether one of them is in another system.
    elsewhere: bool,
    /// Whether an outer join may make up rows.
    outer: bool,
}

impl<'a> From<'a> {
    /// Whether it consists of tables and joins whose rows are only ever matched by conditions.
    fn read(&mut self, from: &'a Value) -> bool {
        match from["type"].as_str() {
            Some("BASE_TABLE") => {
                self.elsewhere |= is_qualified(from);
                let renamed = from["column_name_alias"].as_array().is_some_and(|names| !names.is_empty());
                self.aliases.push(if renamed { String::new() } else { alias_of(from) });
                from["sample"].is_null()
            }
            Some("JOIN") => {
                let inner = from["join_type"].as_str().is_none_or(|kind| kind == "INNER");
                let kind = from["ref_type"].as_str().unwrap_or("REGULAR");
                self.outer |= !inner;
                if inner {
                    self.inner_conditions.push(&from["condition"]);
                }
                // Both sides are looked at in any case: they tell whether a table is elsewhere.
                let left = self.read(&from["left"]);
                let right = self.read(&from["right"]);
                left && right && matches!(kind, "REGULAR" | "CROSS")
            }
            Some("SUBQUERY" | "TABLE_FUNCTION" | "EXPRESSION_LIST") => {
                self.aliases.push(String::new());
                true
            }
            _ => false,
        }
    }

    /// Tables that are called alike are told apart by what stands before their names: nothing is known of them here.
    fn forget_doubles(&mut self) {
        let twice = |alias: &String| self.aliases.iter().filter(|other| *other == alias).count() > 1;
        let doubles: BTreeSet<String> = self.aliases.iter().filter(|alias| twice(alias)).cloned().collect();
        for alias in self.aliases.iter_mut().filter(|alias| doubles.contains(*alias)) {
            alias.clear();
        }
    }

    /// The only table.
    fn only(&self) -> Option<&str> {
        match self.aliases.as_slice() {
            [only] if !only.is_empty() => Some(only),
            _ => None,
        }
    }

    /// The tables that an expression names, or all where it does not say.
    fn meant_by(&self, expression: &Value) -> Vec<String> {
        let mut named = BTreeSet::new();
        qualifiers(expression, &mut named);
        let meant = self.aliases.iter().filter(|alias| !alias.is_empty());
        let meant = meant.filter(|alias| named.is_empty() || named.contains(*alias));
        meant.cloned().collect()
    }

    /// The table and the column that an expression plainly is.
    fn column(&self, expression: &Value) -> Option<(String, String)> {
        let (alias, column) = match tree::names(expression)?.as_slice() {
            [column] => (self.only()?.to_owned(), (*column).to_owned()),
            [.., alias, column] => (alias.to_lowercase(), (*column).to_owned()),
            [] => return None,
        };
        self.aliases.contains(&alias).then_some((alias, column))
    }
}

/// Whether a table's name has dots.
pub(crate) fn is_qualified(table: &Value) -> bool {
    ["schema_name", "catalog_name"]
        .iter()
        .any(|part| table[*part].as_str().is_some_and(|part| !part.is_empty()))
}

/// What a table is called in its SELECT, lower case.
pub(crate) fn alias_of(table: &Value) -> String {
    let alias = table["alias"].as_str().filter(|alias| !alias.is_empty());
    alias.or(table["table_name"].as_str()).unwrap_or_default().to_lowercase()
}

fn qualifiers(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some([.., alias, _]) = tree::names(value).as_deref() {
                found.insert(alias.to_lowercase());
            }
            fields.values().for_each(|field| qualifiers(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| qualifiers(item, found)),
        _ => {}
    }
}

/// The conditions that a conjunct is made of, each with its table; or why it is none.
fn predicates(
    connection: &Connection,
    conjunct: &Value,
    from: &From<'_>,
) -> Result<Vec<(String, Predicate)>, String> {
    if tree::any(conjunct, &|object| object.get("class").is_some_and(|class| class == "SUBQUERY")) {
        return Err("it holds a subquery".to_owned());
    }
    let kind = conjunct["type"].as_str().unwrap_or_default();
    let children = conjunct["children"].as_array().map_or(&[][..], Vec::as_slice);
    let one = |(alias, predicate)| Ok(vec![(alias, predicate)]);
    if let Some(comparison) = comparison(kind) {
        return one(compare(connection, &conjunct["left"], comparison, &conjunct["right"], from)?);
    }
    if conjunct["class"] == "BETWEEN" {
        let input = &conjunct["input"];
        let lower = compare(connection, input, Comparison::GreaterOrEqual, &conjunct["lower"], from)?;
        let upper = compare(connection, input, Comparison::LessOrEqual, &conjunct["upper"], from)?;
        return Ok(vec![lower, upper]);
    }
    match (kind, children) {
        ("COMPARE_IN", [column, values @ ..]) if values.len() <= IN_VALUES_MAX => {
            let (alias, column) = from.column(column).ok_or_else(no_column)?;
            let values = values.iter().map(|value| constant(connection, value, false));
            let values = values.collect::<Option<Vec<_>>>().ok_or_else(no_constant)?;
            one((alias, Predicate::In { column, values }))
        }
        ("OPERATOR_IS_NOT_NULL", [column]) => {
            let (alias, column) = from.column(column).ok_or_else(no_column)?;
            one((alias, Predicate::Null { column, is_null: false }))
        }
        ("OPERATOR_IS_NULL", [column]) => {
            let (alias, column) = from.column(column).ok_or_else(no_column)?;
            if from.outer {
                return Err("an outer join makes up rows that it holds for".to_owned());
            }
            one((alias, Predicate::Null { column, is_null: true }))
        }
        ("COLUMN_REF", _) => {
            let (alias, column) = from.column(conjunct).ok_or_else(no_column)?;
            let value = Literal::Bool(true);
            one((alias, Predicate::Compare { column, comparison: Comparison::Equal, value }))
        }
        _ => Err("it is no comparison of a column with a constant".to_owned()),
    }
}

fn no_column() -> String {
    "no side of it is a plain column of one table; in a join, write its table before it".to_owned()
}

fn no_constant() -> String {
    "no side of it is a constant".to_owned()
}

fn compare(
    connection: &Connection,
    left: &Value,
    comparison: Comparison,
    right: &Value,
    from: &From<'_>,
) -> Result<(String, Predicate), String> {
    let (left_column, right_column) = (from.column(left), from.column(right));
    let ((alias, column), comparison, other) = match (left_column, right_column) {
        (Some(_), Some(_)) => return Err("it compares two columns".to_owned()),
        (Some(column), None) => (column, comparison, right),
        (None, Some(column)) => (column, comparison.mirrored(), left),
        (None, None) => return Err(no_column()),
    };
    // A moment that moves on until the statement runs may bound from below only.
    let from_below = matches!(comparison, Comparison::Greater | Comparison::GreaterOrEqual);
    let value = constant(connection, other, from_below).ok_or_else(no_constant)?;
    Ok((alias, Predicate::Compare { column, comparison, value }))
}

fn comparison(kind: &str) -> Option<Comparison> {
    Some(match kind {
        "COMPARE_EQUAL" => Comparison::Equal,
        "COMPARE_NOTEQUAL" => Comparison::NotEqual,
        "COMPARE_LESSTHAN" => Comparison::Less,
        "COMPARE_LESSTHANOREQUALTO" => Comparison::LessOrEqual,
        "COMPARE_GREATERTHAN" => Comparison::Greater,
        "COMPARE_GREATERTHANOREQUALTO" => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

/// The value of an expression that is made of constants. Never NULL.
fn constant(connection: &Connection, expression: &Value, may_move: bool) -> Option<Literal> {
    if !is_constant(expression, may_move) {
        return None;
    }
    let text = tree::text(connection, expression)?;
    let ask = |what: &str| -> Option<Option<String>> {
        let sql = format!("SELECT CAST({what} AS VARCHAR) FROM (SELECT {text} AS __x)");
        connection.query_row(&sql, [], |row| row.get(0)).ok()
    };
    let number = |what: &str| ask(what)??.parse().ok();
    let kind = ask("typeof(__x)")??;
    Some(match kind.as_str() {
        "BOOLEAN" => Literal::Bool(ask("__x")?? == "true"),
        "TINYINT" | "SMALLINT" | "INTEGER" | "BIGINT" | "UTINYINT" | "USMALLINT" | "UINTEGER" | "UBIGINT"
        | "HUGEINT" => Literal::Int(number("__x")?),
        // A FLOAT by its own digits: its shortest text is another DOUBLE.
        "FLOAT" | "DOUBLE" => {
            Literal::Float(ask("CAST(__x AS DOUBLE)")??.parse().ok().filter(|value: &f64| value.is_finite())?)
        }
        "VARCHAR" => Literal::Text(ask("__x")??),
        "DATE" => Literal::Date(i32::try_from(number("__x - DATE '1970-01-01'")?).ok()?),
        "TIMESTAMP" => Literal::Timestamp(number("epoch_us(__x)")?),
        "TIMESTAMP WITH TIME ZONE" => Literal::Moment(number("epoch_us(__x)")?),
        decimal if decimal.starts_with("DECIMAL(") => Literal::Decimal(ask("__x")??),
        _ => return None,
    })
}

/// Whether a moment in it is later when the statement runs.
fn moves(expression: &Value) -> bool {
    let is_moving = |name: &str| MOVING.contains(&name.to_lowercase().as_str());
    tree::any(expression, &|object| {
        let function = object.get("function_name").and_then(Value::as_str).is_some_and(is_moving);
        let named = column_names(object).is_some_and(|names| names.iter().any(|name| is_moving(name)));
        function || named
    })
}

fn is_constant(expression: &Value, may_move: bool) -> bool {
    let children = || expression["children"].as_array().into_iter().flatten();
    match expression["class"].as_str() {
        Some("CONSTANT") => expression["value"]["is_null"] != true,
        Some("CAST") => is_constant(&expression["child"], may_move),
        Some("FUNCTION") => expression["function_name"].as_str().is_some_and(|name| {
            OF_CONSTANTS.contains(&name)
                && (may_move || !MOVING.contains(&name))
                && children().all(|child| is_constant(child, may_move))
        }),
        Some("COLUMN_REF") => matches!(
            tree::names(expression).as_deref(),
            Some([name]) if may_move && MOVING.contains(&name.to_lowercase().as_str())
        ),
        _ => false,
    }
}

/// The columns that a statement can name, lower case; `None` where it means columns without their names. `aliases` are what
/// tables elsewhere are called.
pub(crate) fn words(statement: &Value, aliases: &BTreeSet<String>) -> Option<BTreeSet<String>> {
    let unnamed = tree::any(statement, &|object| {
        let is = |field: &str, value: &str| object.get(field).is_some_and(|found| found == value);
        let names =
            |field: &str| object.get(field).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        let row_as_value = is("class", "COLUMN_REF")
            && matches!(
                column_names(object).as_deref(),
                Some([.., name]) if aliases.contains(&name.to_lowercase())
            );
        is("class", "STAR")
            || is("class", "POSITIONAL_REFERENCE")
            || is("type", "PIVOT")
            || is("type", "SHOW_REF")
            || is("ref_type", "NATURAL")
            || names("column_name_alias")
            || row_as_value
    });
    if unnamed {
        return None;
    }
    let mut words = BTreeSet::new();
    tree::words(statement, &mut words);
    Some(words)
}

fn column_names(object: &Map<String, Value>) -> Option<Vec<&str>> {
    object.get("column_names")?.as_array()?.iter().map(Value::as_str).collect()
}
