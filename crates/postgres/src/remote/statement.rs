//! The statement of a scan.

use aap_federation::{Aggregate, Call, Function, Report, Scan};
use arrow_schema::Schema;

use super::column::Fetched;
use super::condition;
use crate::copy::Held;
use crate::names::quoted;
use crate::table::{Column, Table};

/// What the server is asked, and what its answer consists of.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) columns: Vec<Fetched>,
    pub(super) report: Report,
}

impl Statement {
    /// Pushes what it can.
    pub(super) fn of(scan: &Scan, table: &Table) -> Self {
        let mut report = Report::of(scan);
        let mut conditions = vec![];
        for filter in &scan.filters {
            match condition::sql(table, filter) {
                Ok(sql) => {
                    report.push(filter);
                    conditions.push(sql);
                }
                Err(why) => report.keep(filter, why),
            }
        }
        let exact = report.kept.is_empty();
        let grouped = scan.aggregate.as_ref().filter(|_| exact).map(|wanted| grouped(table, wanted));
        let (columns, ending) = match grouped {
            Some(Ok(columns)) => {
                let keys = scan.aggregate.as_ref().map_or(0, |wanted| wanted.keys.len());
                report.aggregated = true;
                report.push("aggregation");
                report.columns = table.columns.iter().map(described).collect();
                (columns, group_by(keys))
            }
            other => {
                if let Some(Err(why)) = other {
                    report.keep("aggregation", why);
                } else if scan.aggregate.is_some() {
                    report.keep("aggregation", "a condition before it is left to the engine");
                }
                let columns = rows(table, scan, &mut report);
                let limit = report.limit(scan.limit, exact);
                (columns, limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default())
            }
        };
        let list: Vec<&str> = columns.iter().map(|column| column.sql.as_str()).collect();
        let filter = match conditions.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", conditions.join(" AND ")),
        };
        report.statement = format!("SELECT {} FROM {}{filter}{ending}", list.join(", "), table.name);
        Self { columns, report }
    }

    pub(super) fn schema(&self) -> Schema {
        Schema::new(self.columns.iter().map(Fetched::field).collect::<Vec<_>>())
    }
}

/// The columns that are needed; where it is none, one that counts.
fn rows(table: &Table, scan: &Scan, report: &mut Report) -> Vec<Fetched> {
    let needed: Vec<&Column> = table.columns.iter().filter(|column| scan.needs(&column.name)).collect();
    if needed.len() < table.columns.len() {
        report.push(format!("{} of {} columns", needed.len(), table.columns.len()));
    }
    if needed.is_empty() {
        return vec![Fetched::counter()];
    }
    needed.into_iter().map(|column| Fetched::of(column, &column.name)).collect()
}

fn described(column: &Column) -> (String, String) {
    (column.name.clone(), Fetched::of(column, &column.name).kind.type_name())
}

fn group_by(keys: usize) -> String {
    match keys {
        0 => String::new(),
        keys => {
            format!(" GROUP BY {}", (1..=keys).map(|at| at.to_string()).collect::<Vec<_>>().join(", "))
        }
    }
}

fn grouped(table: &Table, wanted: &Aggregate) -> Result<Vec<Fetched>, String> {
    let find = |name: &str| table.column(name).ok_or_else(|| format!("the table has no column `{name}`"));
    let mut columns = vec![];
    for (at, key) in wanted.keys.iter().enumerate() {
        let column = find(key)?;
        if !is_a_key(column) {
            return Err(format!("`{key}` is {}, which the engine groups by itself", column.declared));
        }
        columns.push(Fetched::of(column, &format!("__k{at}")));
    }
    for (at, call) in wanted.calls.iter().enumerate() {
        let column = call.column.as_deref().map(find).transpose()?;
        columns.push(aggregated(call, column, &format!("__a{at}"))?);
    }
    Ok(columns)
}

/// Whether two values are one there exactly where they are one here.
fn is_a_key(column: &Column) -> bool {
    match column.held {
        Held::Bool | Held::Int(_) | Held::Date | Held::Timestamp(_) | Held::Uuid => true,
        Held::Text(_) => condition::compares_bytes(column),
        _ => false,
    }
}

fn aggregated(call: &Call, column: Option<&Column>, name: &str) -> Result<Fetched, String> {
    let engine =
        |column: &Column| Err(format!("{} of {} is the engine's", call.function.as_str(), column.declared));
    let Some(column) = column else { return Ok(Fetched::count("count(*)", name)) };
    let argument = quoted(&column.name);
    Ok(match call.function {
        Function::Count if !call.distinct => Fetched::count(&format!("count({argument})"), name),
        Function::Count if is_a_key(column) => Fetched::count(&format!("count(DISTINCT {argument})"), name),
        Function::Sum if matches!(column.held, Held::Int(_)) => {
            Fetched::huge(&format!("sum({argument})"), name)
        }
        Function::Min | Function::Max => {
            let ordered = matches!(
                column.held,
                Held::Int(_)
                    | Held::Float8
                    | Held::Float4
                    | Held::Date
                    | Held::Timestamp(_)
                    | Held::Numeric(Some(_))
            );
            if !ordered {
                return engine(column);
            }
            let call = format!("{}({argument})", call.function.as_str());
            Fetched::of_expression(column, &call, name)
        }
        _ => return engine(column),
    })
}
