//! The statement of a scan.

use aap_federation::{Comparison, Literal, Predicate, Report, Scan};

use super::column::Fetched;
use crate::names::{literal, quoted};
use crate::table::Table;

/// Partitions that one statement may name: the server asks for each of them by itself.
const PARTITIONS_MAX: usize = 100;

/// What the cluster is asked, and what its answer consists of.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) columns: Vec<Fetched>,
    pub(super) report: Report,
}

impl Statement {
    /// Pushes what the table's key allows.
    pub(super) fn of(scan: &Scan, (keyspace, name): (&str, &str), table: &Table) -> Self {
        let mut report = Report::of(scan);
        let conditions = conditions(scan, table, &mut report);
        if scan.aggregate.is_some() {
            report.keep("aggregation", "Cassandra groups by the beginning of its key only");
        }
        let columns = columns(scan, table, &mut report);
        let limit = limit(scan, &mut report);
        let list: Vec<&str> = columns.iter().map(|column| column.cql.as_str()).collect();
        let filter = match conditions.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", conditions.join(" AND ")),
        };
        report.statement =
            format!("SELECT {} FROM {}.{}{filter}{limit}", list.join(", "), quoted(keyspace), quoted(name));
        Self { columns, report }
    }
}

/// The columns that are needed; where it is none, the first of the key, so that rows are counted.
fn columns(scan: &Scan, table: &Table, report: &mut Report) -> Vec<Fetched> {
    let needed: Vec<(&String, &String)> = table.columns.iter().filter(|(name, _)| scan.needs(name)).collect();
    if needed.len() < table.columns.len() {
        report.push(format!("{} of {} columns", needed.len(), table.columns.len()));
    }
    if needed.is_empty() {
        return table.partition_key().iter().take(1).map(|(name, kind)| Fetched::of(name, kind)).collect();
    }
    needed.into_iter().map(|(name, kind)| Fetched::of(name, kind)).collect()
}

fn limit(scan: &Scan, report: &mut Report) -> String {
    let Some(limit) = scan.limit else { return String::new() };
    // CQL counts with 31 bits.
    match i32::try_from(limit) {
        Ok(limit) if report.kept.is_empty() && limit > 0 => {
            report.push(format!("limit {limit}"));
            format!(" LIMIT {limit}")
        }
        _ => {
            report.keep(format!("limit {limit}"), "a condition before it is left to the engine");
            String::new()
        }
    }
}

/// Conditions as CQL: all of the partition key by value, then the clustering key by value as far as it goes, then one range.
fn conditions(scan: &Scan, table: &Table, report: &mut Report) -> Vec<String> {
    let mut left: Vec<&Predicate> = scan.filters.iter().collect();
    let mut pushed = vec![];
    let mut partitions = 1_usize;
    for (name, kind) in table.partition_key() {
        let found = left.iter().position(|filter| by_value(filter, name, kind).is_some());
        let Some(at) = found else { break };
        let filter = left.remove(at);
        partitions = partitions.saturating_mul(filter.values().len());
        pushed.push((filter, by_value(filter, name, kind).unwrap_or_default()));
    }
    if pushed.len() < table.partition_key().len() || partitions > PARTITIONS_MAX {
        for filter in &scan.filters {
            report.keep(filter, why_not(table));
        }
        return vec![];
    }
    for (name, kind) in table.clustering_key() {
        let by = |filter: &&Predicate| by_value(filter, name, kind).filter(|_| filter.values().len() == 1);
        if let Some(at) = left.iter().position(|filter| by(filter).is_some()) {
            let filter = left.remove(at);
            pushed.push((filter, by_value(filter, name, kind).unwrap_or_default()));
            continue;
        }
        // At most one bound of each side: the server takes no second.
        for sides in
            [[Comparison::Greater, Comparison::GreaterOrEqual], [Comparison::Less, Comparison::LessOrEqual]]
        {
            let found = left.iter().position(|filter| by_range(filter, name, kind, sides).is_some());
            if let Some(at) = found {
                let filter = left.remove(at);
                pushed.push((filter, by_range(filter, name, kind, sides).unwrap_or_default()));
            }
        }
        break;
    }
    for filter in left {
        report.keep(filter, "the key before it is not given by value, or it is no part of the key");
    }
    for (filter, _) in &pushed {
        report.push(filter);
    }
    pushed.into_iter().map(|(_, cql)| cql).collect()
}

fn why_not(table: &Table) -> String {
    let names: Vec<&str> = table.partition_key().iter().map(|(name, _)| name.as_str()).collect();
    format!("Cassandra finds rows where all of the partition key is given by value: {}", names.join(", "))
}

fn is_about(predicate: &Predicate, name: &str) -> bool {
    predicate.column().eq_ignore_ascii_case(name)
}

fn by_value(predicate: &Predicate, name: &str, kind: &str) -> Option<String> {
    if !is_about(predicate, name) {
        return None;
    }
    match predicate {
        Predicate::Compare { comparison: Comparison::Equal, value, .. } => {
            Some(format!("{} = {}", quoted(name), constant(value, kind)?))
        }
        Predicate::In { values, .. } => {
            let values = values.iter().map(|value| constant(value, kind)).collect::<Option<Vec<_>>>()?;
            Some(format!("{} IN ({})", quoted(name), values.join(", ")))
        }
        _ => None,
    }
}

fn by_range(predicate: &Predicate, name: &str, kind: &str, sides: [Comparison; 2]) -> Option<String> {
    // Cassandra orders them by their version and time, the engine by their bytes.
    if kind == "uuid" {
        return None;
    }
    match predicate {
        Predicate::Compare { comparison, value, .. }
            if is_about(predicate, name) && sides.contains(comparison) =>
        {
            Some(format!("{} {} {}", quoted(name), comparison.as_str(), constant(value, kind)?))
        }
        _ => None,
    }
}

/// The value in CQL, where it is exactly one of the column's type and in the same order there.
fn constant(value: &Literal, kind: &str) -> Option<String> {
    match (kind, value) {
        ("text" | "varchar" | "ascii", Literal::Text(text)) => Some(literal(text)),
        ("tinyint", Literal::Int(number)) => i8::try_from(*number).ok().map(|number| number.to_string()),
        ("smallint", Literal::Int(number)) => i16::try_from(*number).ok().map(|number| number.to_string()),
        ("int", Literal::Int(number)) => i32::try_from(*number).ok().map(|number| number.to_string()),
        ("bigint" | "varint", Literal::Int(number)) => Some(number.to_string()),
        ("boolean", Literal::Bool(value)) => Some(value.to_string()),
        // Milliseconds: a moment between two of them is none.
        ("timestamp", value) => value.moment().filter(|us| us % 1000 == 0).map(|us| (us / 1000).to_string()),
        ("date", Literal::Date(days)) => Literal::date_text(*days).map(|text| literal(&text)),
        ("uuid", value) => value.uuid().map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::with(
            &[("stream", "text"), ("bucket", "timestamp")],
            &[("ts", "timestamp"), ("seq", "bigint")],
            &[("status", "int"), ("tags", "set<text>")],
        )
    }

    fn compare(column: &str, comparison: Comparison, value: Literal) -> Predicate {
        Predicate::Compare { column: column.to_owned(), comparison, value }
    }

    fn statement(filters: Vec<Predicate>, limit: Option<u64>) -> (String, usize) {
        let words = Some(["status".to_owned()].into());
        let scan = Scan { filters, limit, words, ..Scan::default() };
        let statement = Statement::of(&scan, ("shop", "orders"), &table());
        (statement.report.statement, statement.report.kept.len())
    }

    #[test]
    fn the_partition_key_by_value_and_then_the_clustering_key_are_asked_for_and_nothing_else() {
        use Comparison::{Equal, Greater, LessOrEqual};
        let stream = compare("stream", Equal, Literal::Text("a".to_owned()));
        let bucket = compare("bucket", Equal, Literal::Moment(3_600_000_000));
        let status = compare("status", Equal, Literal::Int(500));
        let from = compare("ts", Greater, Literal::Moment(5_000));
        let to = compare("ts", LessOrEqual, Literal::Moment(9_000));
        let select = "SELECT \"status\" FROM \"shop\".\"orders\"";
        assert_eq!(statement(vec![], Some(7)), (format!("{select} LIMIT 7"), 0));
        assert_eq!(statement(vec![stream.clone(), status.clone()], Some(7)), (select.to_owned(), 3));
        let partition = format!("{select} WHERE \"stream\" = 'a' AND \"bucket\" = 3600000");
        assert_eq!(
            statement(vec![status, bucket.clone(), stream.clone(), to, from], None),
            (format!("{partition} AND \"ts\" > 5 AND \"ts\" <= 9"), 1)
        );
        let between = compare("ts", Greater, Literal::Moment(5_001));
        assert_eq!(statement(vec![stream, bucket, between], None), (partition, 1));
    }
}
