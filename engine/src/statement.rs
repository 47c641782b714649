//! What a statement is allowed to be: exactly one SELECT, by an allow-list over its syntax tree.
//!
//! DuckDB's own switches are no privilege boundary (it says so itself), so nothing is bound or run before this has
//! read the whole tree that `json_serialize_sql` gives. Every object with a type must be of a known type; table
//! functions are allowed by name, other functions unless they reach outside the data; a table is a plain name.
//!
//! On the way it collects the tables, with the range of `ts` that each can need ([`crate::time_range`]).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;

use aap_sql::TableNeed;
use aap_types::{ExitCode, Problem};
use duckdb::Connection;
use serde::Deserialize;
use serde_json::Value;

use crate::aggregation::{self, Aggregation};
use crate::remote::{self, Conditions, Given};
use crate::time_range::{self, Range};
use crate::{functions, tree};

/// Deeper trees are refused: reading them recurses, and no person writes them.
const DEPTH_MAX: usize = 2_000;
/// Longer statements are refused.
const BYTES_MAX: usize = 1 << 20;

/// The types of query nodes, table references, modifiers and type descriptions that a SELECT may have.
const NODES: &[&str] = &[
    "SELECT_NODE",
    "SET_OPERATION_NODE",
    "RECURSIVE_CTE_NODE",
    "CTE_NODE",
    "EMPTY",
    "EMPTY_FROM",
    "BASE_TABLE",
    "JOIN",
    "SUBQUERY",
    "TABLE_FUNCTION",
    "EXPRESSION_LIST",
    "PIVOT",
    "SHOW_REF",
    "COLUMN_DATA",
    "DISTINCT_MODIFIER",
    "LIMIT_MODIFIER",
    "LIMIT_PERCENT_MODIFIER",
    "ORDER_MODIFIER",
    "ORDER_DEFAULT",
    "ASCENDING",
    "DESCENDING",
];

/// The classes of expressions that a SELECT may have. Not `PARAMETER`: nobody gives values. Not `DEFAULT`.
const EXPRESSIONS: &[&str] = &[
    "BETWEEN",
    "CASE",
    "CAST",
    "COLLATE",
    "COLUMN_REF",
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "FUNCTION",
    "LAMBDA",
    "LAMBDA_REF",
    "OPERATOR",
    "POSITIONAL_REFERENCE",
    "STAR",
    "SUBQUERY",
    "TYPE",
    "WINDOW",
];

/// First parts of a table's name that are DuckDB's own.
const OWN_CATALOGS: &[&str] =
    &["memory", "main", "system", "temp", "pg_catalog", "information_schema", "pg_temp"];

/// A statement that may run.
#[derive(Debug)]
pub(crate) struct Statement {
    /// The tables it names.
    pub(crate) tables: Vec<TableNeed>,
    /// The same statement over groups instead of rows, if its only table may be aggregated elsewhere.
    pub(crate) aggregation: Option<Aggregation>,
    /// Whether every row of its only table gives one row of the answer, or none.
    row_by_row: bool,
}

impl Statement {
    /// Parses and judges `sql`. Nothing of it is bound or run.
    pub(crate) fn parse(connection: &Connection, sql: &str) -> Result<Self, Problem> {
        let tree = parse_tree(connection, sql)?;
        let mut judge = Judge { connection, tables: BTreeMap::new() };
        judge.visit(&tree, &Scope::default())?;
        let aliases: BTreeSet<String> = judge.tables.values().flat_map(|used| used.aliases.clone()).collect();
        let words = if aliases.is_empty() { None } else { remote::words(&tree, &aliases) };
        let mut steady = true;
        let tables = judge.tables.into_iter().map(|(name, used)| {
            steady &= used.given.is_steady();
            let scan = (!used.path.is_empty()).then(|| used.given.scan(&used.path, words.clone()));
            let Range { min, max } = used.range;
            TableNeed { name, path: used.path, scan, ts_min_us: min, ts_max_us: max }
        });
        let mut statement = Self { tables: tables.collect(), aggregation: None, row_by_row: false };
        statement.look_for_less_than_rows(connection, &tree["node"], steady);
        Ok(statement)
    }

    /// No more than `rows` rows are answered; 0: all are. Where rows stand by themselves, no more are fetched either.
    pub(crate) fn bound(&mut self, rows: u64) {
        let one_more = (rows > 0).then(|| rows.saturating_add(1));
        if let ([TableNeed { scan: Some(scan), .. }], true) = (self.tables.as_mut_slice(), self.row_by_row) {
            scan.limit = scan.limit.into_iter().chain(one_more).min();
        }
    }

    /// Groups or first rows of a single table elsewhere may be all that is needed of it.
    fn look_for_less_than_rows(&mut self, connection: &Connection, select: &Value, steady: bool) {
        let [TableNeed { scan: Some(scan), .. }] = self.tables.as_mut_slice() else { return };
        if !scan.kept.is_empty() || !aggregation::is_plain_select(select) {
            return;
        }
        let Some(aggregates) = tree::names_beyond_rows(connection) else { return };
        if let Some((limit, offset)) = aggregation::first_rows(select, &aggregates) {
            if !steady {
                return;
            }
            self.row_by_row = true;
            scan.limit = limit.map(|limit| limit.saturating_add(offset));
        } else if let Some((wanted, aggregation)) = Aggregation::of(connection, select, &aggregates) {
            scan.aggregate = Some(wanted);
            self.aggregation = Some(aggregation);
        }
    }
}

/// What is known of a table that the statement names.
#[derive(Debug)]
struct Used {
    path: Vec<String>,
    /// What it is called, if it lies elsewhere.
    aliases: BTreeSet<String>,
    range: Range,
    given: Given,
}

#[derive(Deserialize)]
struct Serialized {
    error: bool,
    #[serde(default)]
    error_type: String,
    #[serde(default)]
    error_message: String,
    #[serde(default)]
    position: Option<String>,
    #[serde(default)]
    statements: Vec<Value>,
}

/// The syntax tree of the one statement in `sql`, not judged.
pub(crate) fn parse_tree(connection: &Connection, sql: &str) -> Result<Value, Problem> {
    if sql.len() > BYTES_MAX {
        return Err(usage("query.too_long", format!("the statement is longer than {BYTES_MAX} bytes")));
    }
    if sql.contains('\0') {
        return Err(usage("query.syntax", "the statement holds a NUL character"));
    }
    let text: String = connection
        .query_row("SELECT json_serialize_sql(CAST(? AS VARCHAR), skip_default := true)", [sql], |row| {
            row.get(0)
        })
        .map_err(|error| crate::problem::of_duckdb(&error, 0))?;
    if depth(&text) > DEPTH_MAX {
        return Err(usage("query.too_deep", "the statement is nested too deeply"));
    }
    let mut reader = serde_json::Deserializer::from_str(&text);
    reader.disable_recursion_limit();
    let parsed = Serialized::deserialize(&mut reader)
        .map_err(|error| usage("query.syntax", "the syntax tree is unreadable").caused_by(&error))?;
    one_select(sql, parsed)
}

fn one_select(sql: &str, parsed: Serialized) -> Result<Value, Problem> {
    if parsed.error {
        return Err(match parsed.error_type.as_str() {
            "not implemented" => not_a_select(sql),
            _ => syntax(sql, &parsed.error_message, parsed.position.as_deref()),
        });
    }
    let mut statements = parsed.statements;
    match (statements.pop(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (None, _) => Err(usage("query.empty", "there is no statement")
            .hint_command("an example", "aap query \"select count(*) from logs\"")),
        (Some(_), more) => Err(usage(
            "query.not_a_select",
            format!("{} statements were given; exactly one SELECT is answered", more + 1),
        )),
    }
}

fn usage(code: &str, message: impl Into<String>) -> Problem {
    Problem::new(code, ExitCode::Usage, message)
}

fn syntax(sql: &str, message: &str, position: Option<&str>) -> Problem {
    let problem = usage("query.syntax", message.lines().next().unwrap_or("syntax error").to_owned());
    let Some(offset) = position.and_then(|text| text.parse::<usize>().ok()) else { return problem };
    let before = &sql.as_bytes()[..offset.min(sql.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
    let shown: String = sql.lines().nth(line - 1).unwrap_or("").chars().take(200).collect();
    problem
        .cause(format!("line {line}, column {column}"))
        .cause(shown)
        .hint("the dialect is DuckDB's; quote names that hold `.` or `-` with double quotes")
}

/// The parser took it, and it is something else than a SELECT.
fn not_a_select(sql: &str) -> Problem {
    let word = functions::first_word(sql);
    if ["SELECT", "WITH", "FROM", "VALUES", "TABLE", "DESCRIBE", "SUMMARIZE"].contains(&word.as_str()) {
        return usage("query.not_a_select", "several statements were given; exactly one SELECT is answered")
            .hint("send them one by one");
    }
    let problem = Problem::new(
        "query.not_a_select",
        ExitCode::Denied,
        format!("`{word}` is not answered here: a query is one SELECT, which changes nothing"),
    );
    match word.as_str() {
        "PIVOT" => problem.hint("list the values: `from (pivot t on column in (1, 2) using sum(value))`"),
        "EXPLAIN" => problem.hint("run the SELECT itself"),
        _ => problem.hint_command("write rows to a stream", "aap ingest STREAM FILE"),
    }
}

/// Nesting of brackets outside strings.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in json.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What is known at a place of the tree.
#[derive(Debug, Clone, Default)]
struct Scope {
    /// Names of common table expressions that hide tables here, lower case.
    hidden: HashSet<String>,
    /// Ranges of `ts` by alias, for the tables of the SELECT whose FROM this is.
    ranges: BTreeMap<String, Range>,
    /// Conditions by alias, for the same tables.
    conditions: Rc<Conditions>,
}

impl Scope {
    /// Of what lies deeper: other tables than those of this FROM.
    fn below(&self) -> Self {
        Self { hidden: self.hidden.clone(), ..Self::default() }
    }
}

struct Judge<'a> {
    connection: &'a Connection,
    tables: BTreeMap<String, Used>,
}

impl Judge<'_> {
    fn visit(&mut self, value: &Value, scope: &Scope) -> Result<(), Problem> {
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.visit(item, scope)),
            Value::Object(_) => self.visit_object(value, scope),
            _ => Ok(()),
        }
    }

    fn visit_object(&mut self, object: &Value, scope: &Scope) -> Result<(), Problem> {
        if let Some(class) = object["class"].as_str() {
            return self.visit_expression(class, object, scope);
        }
        match object["type"].as_str() {
            None => self.visit_fields(object, scope),
            Some("BASE_TABLE") => self.visit_table(object, scope),
            Some("TABLE_FUNCTION") => self.visit_table_function(object, scope),
            Some("SHOW_REF") if object["query"].is_null() => {
                Err(denied("listing tables in SQL is not answered here")
                    .hint_command("list the streams", "aap stream ls"))
            }
            Some("JOIN" | "PIVOT" | "SHOW_REF" | "EMPTY" | "EMPTY_FROM") => self.visit_fields(object, scope),
            Some(node) if NODES.contains(&node) => self.visit_query(node, object, scope),
            Some(node) if node.ends_with("_TYPE_INFO") => self.visit_fields(object, scope),
            Some(node) => Err(denied(&format!("`{node}` is not allowed in a query"))),
        }
    }

    fn visit_fields(&mut self, object: &Value, scope: &Scope) -> Result<(), Problem> {
        let Value::Object(fields) = object else { return Ok(()) };
        fields.values().try_for_each(|field| self.visit(field, scope))
    }

    /// A query node or a modifier: its common table expressions hide tables below it; its WHERE bounds its tables.
    fn visit_query(&mut self, node: &str, object: &Value, scope: &Scope) -> Result<(), Problem> {
        let mut inner = scope.below();
        if let Value::Array(expressions) = &object["cte_map"]["map"] {
            for expression in expressions {
                let name = expression["key"].as_str().unwrap_or_default().to_lowercase();
                let query = &expression["value"]["query"];
                if query["node"]["type"] == "RECURSIVE_CTE_NODE" {
                    inner.hidden.insert(name.clone());
                }
                self.visit(&expression["value"], &inner)?;
                inner.hidden.insert(name);
            }
        }
        let Value::Object(fields) = object else { return Ok(()) };
        for (name, field) in fields {
            match name.as_str() {
                "cte_map" => {}
                "from_table" if node == "SELECT_NODE" => {
                    let ranges = time_range::of_select(self.connection, object);
                    let conditions = Rc::new(Conditions::of_select(self.connection, object));
                    self.visit(field, &Scope { hidden: inner.hidden.clone(), ranges, conditions })?;
                }
                _ => self.visit(field, &inner)?,
            }
        }
        Ok(())
    }

    fn visit_table(&mut self, table: &Value, scope: &Scope) -> Result<(), Problem> {
        let part = |name: &str| table[name].as_str().filter(|part| !part.is_empty()).map(str::to_owned);
        let parts = ["catalog_name", "schema_name", "table_name"].into_iter().filter_map(part);
        let parts: Vec<String> = parts.collect();
        let name = parts.join(".").to_lowercase();
        let first = parts.first().map(|part| part.to_lowercase()).unwrap_or_default();
        if parts.len() > 1 && OWN_CATALOGS.contains(&first.as_str()) {
            return Err(denied(&format!("`{name}`: a stream's name stands alone"))
                .hint(format!("for a stream whose name holds a dot, write \"{name}\"")));
        }
        if !table["at_clause"].is_null() {
            return Err(denied("AT is not answered here: streams have no versions"));
        }
        if parts.len() > 1 || !scope.hidden.contains(&name) {
            let alias = remote::alias_of(table);
            let range = scope.ranges.get(&alias).copied().unwrap_or_default();
            self.uses(name, parts, alias, range, scope)?;
        }
        self.visit_fields(table, &scope.below())
    }

    fn uses(
        &mut self,
        name: String,
        parts: Vec<String>,
        alias: String,
        range: Range,
        scope: &Scope,
    ) -> Result<(), Problem> {
        let elsewhere = parts.len() > 1;
        let path = if elsewhere { parts } else { vec![] };
        let given = if elsewhere { scope.conditions.of(&alias) } else { Given::default() };
        let aliases = if elsewhere { BTreeSet::from([alias]) } else { BTreeSet::new() };
        match self.tables.remove(&name) {
            None => drop(self.tables.insert(name, Used { path, aliases, range, given })),
            Some(known) if known.path != path => {
                return Err(denied(&format!("two tables whose names differ by case alone: `{name}`"))
                    .hint("ask for them one after the other"));
            }
            Some(mut known) => {
                known.aliases.extend(aliases);
                known.range = known.range.or(range);
                known.given = known.given.common(&given);
                self.tables.insert(name, known);
            }
        }
        Ok(())
    }

    fn visit_table_function(&mut self, table: &Value, scope: &Scope) -> Result<(), Problem> {
        let function = &table["function"];
        let name = function["function_name"].as_str().unwrap_or_default().to_lowercase();
        if function["class"] != "FUNCTION" || !functions::is_allowed_table_function(&name) {
            return Err(denied(&format!(
                "the table function `{name}` is not allowed: a query reads streams only"
            )));
        }
        plain_function(function, &name)?;
        let below = scope.below();
        self.visit(&function["children"], &below)?;
        self.visit(&table["subquery"], &below)
    }

    fn visit_expression(&mut self, class: &str, object: &Value, scope: &Scope) -> Result<(), Problem> {
        match class {
            "PARAMETER" => {
                return Err(usage(
                    "query.parameter",
                    "the statement has a parameter, and nothing gives it a value",
                ));
            }
            "CONSTANT" => return Ok(()),
            "FUNCTION" | "WINDOW" => {
                let name = object["function_name"].as_str().unwrap_or_default().to_lowercase();
                if functions::is_forbidden(&name) {
                    return Err(denied(&format!(
                        "the function `{name}` is not allowed: it reaches beyond the data"
                    )));
                }
                plain_function(object, &name)?;
            }
            _ if EXPRESSIONS.contains(&class) => {}
            _ => return Err(denied(&format!("`{class}` is not allowed in a query"))),
        }
        let below = scope.below();
        self.visit_fields_of_expression(object, &below)
    }

    fn visit_fields_of_expression(&mut self, object: &Value, scope: &Scope) -> Result<(), Problem> {
        let Value::Object(fields) = object else { return Ok(()) };
        for (name, field) in fields {
            // `type` and `class` are strings; `cast_type` describes a type and may hold a nested expression.
            if !matches!(name.as_str(), "type" | "class") {
                self.visit(field, scope)?;
            }
        }
        Ok(())
    }
}

/// A function called by its name alone, without the travelling aggregate states whose bytes DuckDB trusts.
fn plain_function(function: &Value, name: &str) -> Result<(), Problem> {
    let qualified = |part: &str, plain: &[&str]| {
        function[part].as_str().is_some_and(|found| !found.is_empty() && !plain.contains(&found))
    };
    // DuckDB's parser itself writes these before the functions that it makes of syntax: lists, `extract`, `substring`, IN.
    if qualified("schema", &["main", "pg_catalog"]) || qualified("catalog", &["system"]) {
        return Err(denied(&format!("call `{name}` by its name alone")));
    }
    if function["export_state"] == true {
        return Err(denied("EXPORT_STATE is not allowed: states are engine memory"));
    }
    Ok(())
}

fn denied(message: &str) -> Problem {
    Problem::new("query.not_allowed", ExitCode::Denied, message)
}
