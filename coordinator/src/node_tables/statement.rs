//! The statement of a scan, in the engine's own dialect: nodes run the same engine, so what it says of one type is the same there.
//!
//! ```text
//!  SELECT "id" FROM (SELECT CAST(NULL AS BIGINT) AS "id" WHERE false UNION ALL BY NAME SELECT * FROM "logs" WHERE "ts" >= …) WHERE "id" > 5
//! ```
//! A node's buffer holds what it still holds: a column may be missing there, or have a narrower type. Beside an empty row that has all
//! columns that are used, with the types that all nodes have together, it has them too. Bounds of `ts` stand where the node's engine
//! looks for what it must read.

use std::collections::BTreeSet;

use aap_federation::{Aggregate, Function, Literal, Predicate, Report, Scan};
use aap_types::{ColumnType, StreamName};

/// Letters of `2026-11-26`.
const DAY_LENGTH: usize = 10;

/// What nodes are asked.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) report: Report,
}

impl Statement {
    /// Of a stream that has `columns`, whichever nodes have them.
    pub(super) fn of(scan: &Scan, stream: &StreamName, columns: &[(String, String)]) -> Self {
        let columns = Columns(columns);
        let mut report = Report::of(scan);
        let (mut used, mut times, mut others) = (BTreeSet::new(), vec![], vec![]);
        for filter in &scan.filters {
            match columns.condition(filter) {
                Ok((column, sql)) => {
                    report.push(filter);
                    used.insert(column.name);
                    let bounds_times = column.kind == ColumnType::TimestampTz
                        && column.name.eq_ignore_ascii_case("ts")
                        && !matches!(filter, Predicate::Null { .. });
                    if bounds_times { &mut times } else { &mut others }.push(sql);
                }
                Err(why) => report.keep(filter, why),
            }
        }
        let exact = report.kept.is_empty();
        let groups = scan.aggregate.as_ref().filter(|_| exact).map(|wanted| columns.groups(wanted));
        let (list, tail) = match groups {
            Some(Ok(list)) => {
                report.aggregated = true;
                report.push("aggregation");
                report.columns = columns.0.to_vec();
                (list, group_by(scan.aggregate.as_ref().map_or(0, |wanted| wanted.keys.len())))
            }
            other => {
                if let Some(Err(why)) = other {
                    report.keep("aggregation", why);
                } else if scan.aggregate.is_some() {
                    report.keep("aggregation", "a condition before it is left to the engine");
                }
                let list = columns.rows(scan, &mut report);
                let limit = report.limit(scan.limit, exact);
                (list, limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default())
            }
        };
        used.extend(list.iter().filter_map(|item| item.column));
        let items: Vec<&str> = list.iter().map(|item| item.sql.as_str()).collect();
        let from = columns.from(stream, &used, &where_of(&times));
        let sql = format!("SELECT {} FROM {from}{}{tail}", items.join(", "), where_of(&others));
        report.statement.clone_from(&sql);
        Self { sql, report }
    }
}

/// The columns that nodes have together.
#[derive(Debug, Clone, Copy)]
struct Columns<'a>(&'a [(String, String)]);

#[derive(Debug)]
struct Column<'a> {
    name: &'a str,
    kind: ColumnType,
}

/// Something that is answered, and the column that it is of.
#[derive(Debug)]
struct Item<'a> {
    sql: String,
    column: Option<&'a str>,
}

impl<'a> Columns<'a> {
    fn find(self, name: &str) -> Result<Column<'a>, String> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let (name, kind) = found.ok_or_else(|| format!("no node has a column `{name}`"))?;
        Ok(Column { name, kind: ColumnType::from(kind.as_str()) })
    }

    /// The condition as SQL, with its column; or why the engine must judge.
    fn condition(self, filter: &Predicate) -> Result<(Column<'a>, String), String> {
        let column = self.find(filter.column())?;
        let name = quoted(column.name);
        let constant = |value: &Literal| {
            let other = || format!("{} beside {value} is compared by the engine", column.kind);
            constant(&column.kind, value).ok_or_else(other)
        };
        let sql = match filter {
            Predicate::Null { is_null: true, .. } => format!("{name} IS NULL"),
            Predicate::Null { is_null: false, .. } => format!("{name} IS NOT NULL"),
            Predicate::In { values, .. } => {
                let values = values.iter().map(constant).collect::<Result<Vec<_>, _>>()?;
                format!("{name} IN ({})", values.join(", "))
            }
            Predicate::Compare { comparison, value, .. } => {
                format!("{name} {} {}", comparison.as_str(), constant(value)?)
            }
        };
        Ok((column, sql))
    }

    /// The columns that are needed; where it is none, something that counts.
    fn rows(self, scan: &Scan, report: &mut Report) -> Vec<Item<'a>> {
        let needed: Vec<&str> =
            self.0.iter().map(|(name, _)| name.as_str()).filter(|name| scan.needs(name)).collect();
        if needed.len() < self.0.len() {
            report.push(format!("{} of {} columns", needed.len(), self.0.len()));
        }
        if needed.is_empty() {
            return vec![Item { sql: "1 AS __row".to_owned(), column: None }];
        }
        needed.into_iter().map(|name| Item { sql: quoted(name), column: Some(name) }).collect()
    }

    /// Keys and calls of a node's groups; or why the engine must make them of rows.
    fn groups(self, wanted: &Aggregate) -> Result<Vec<Item<'a>>, String> {
        let mut items = vec![];
        for (at, key) in wanted.keys.iter().enumerate() {
            let column = self.find(key)?;
            if !is_plain(&column.kind) {
                return Err(format!("`{key}` is {}, which the engine groups by itself", column.kind));
            }
            let sql = format!("{} AS __k{at}", quoted(column.name));
            items.push(Item { sql, column: Some(column.name) });
        }
        for (at, call) in wanted.calls.iter().enumerate() {
            if call.distinct {
                return Err("several nodes may have the same value, which counts once".to_owned());
            }
            let function = call.function.as_str();
            let Some(column) = call.column.as_deref().map(|name| self.find(name)).transpose()? else {
                items.push(Item { sql: format!("count(*) AS __a{at}"), column: None });
                continue;
            };
            let exact = match call.function {
                Function::Count => true,
                Function::Sum => is_number(&column.kind),
                Function::Min | Function::Max => is_plain(&column.kind),
            };
            if !exact {
                return Err(format!("{function} of {} is the engine's", column.kind));
            }
            let sql = format!("{function}({}) AS __a{at}", quoted(column.name));
            items.push(Item { sql, column: Some(column.name) });
        }
        Ok(items)
    }

    /// The stream, as it is behind FROM, with all columns that are used.
    fn from(self, stream: &StreamName, used: &BTreeSet<&str>, within: &str) -> String {
        let typed = self.0.iter().filter(|(name, _)| used.contains(name.as_str()) && !is_system(name));
        let typed: Vec<String> =
            typed.map(|(name, kind)| format!("CAST(NULL AS {kind}) AS {}", quoted(name))).collect();
        match (typed.is_empty(), within) {
            (true, "") => format!("\"{stream}\""),
            (true, _) => format!("(SELECT * FROM \"{stream}\"{within})"),
            (false, _) => format!(
                "(SELECT {} WHERE false UNION ALL BY NAME SELECT * FROM \"{stream}\"{within})",
                typed.join(", ")
            ),
        }
    }
}

/// A constant beside a column of that type, so that it is compared there as it is here. `None`: it might not be.
fn constant(kind: &ColumnType, value: &Literal) -> Option<String> {
    use ColumnType as T;
    Some(match (kind, value) {
        (T::Boolean, Literal::Bool(_)) => value.to_string(),
        (number, Literal::Int(_) | Literal::Decimal(_)) if is_number(number) => value.to_string(),
        // Plain digits would be a DECIMAL.
        (number, Literal::Float(value)) if is_number(number) => format!("CAST('{value:e}' AS DOUBLE)"),
        // A statement with a NUL is refused.
        (T::Text, Literal::Text(text)) if !text.contains('\0') => value.to_string(),
        (T::Date, Literal::Text(text)) if text.len() != DAY_LENGTH => return None,
        (T::Date | T::Timestamp | T::TimestampTz, value) => {
            // Beyond the years that its text can hold there is none.
            Literal::time_text(value.moment()?)?;
            value.to_string()
        }
        _ => return None,
    })
}

/// Types that come back from a node as they were, and are compared and grouped as such.
fn is_plain(kind: &ColumnType) -> bool {
    use ColumnType as T;
    matches!(kind, T::Boolean | T::Text | T::Date | T::Timestamp | T::TimestampTz) || is_number(kind)
}

fn is_number(kind: &ColumnType) -> bool {
    use ColumnType as T;
    matches!(kind, T::Integer { .. } | T::HugeInt | T::Float | T::Double | T::Decimal { .. })
}

/// Readers add these to every row of every node.
fn is_system(name: &str) -> bool {
    ["_node", "_epoch", "_seq", "_row"].iter().any(|system| system.eq_ignore_ascii_case(name))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn where_of(conditions: &[String]) -> String {
    match conditions.is_empty() {
        true => String::new(),
        false => format!(" WHERE {}", conditions.join(" AND ")),
    }
}

fn group_by(keys: usize) -> String {
    match keys {
        0 => String::new(),
        keys => format!(" GROUP BY {}", (1..=keys).map(|at| at.to_string()).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use aap_federation::{Call, Comparison};

    use super::*;

    const COLUMNS: [(&str, &str); 8] = [
        ("ts", "TIMESTAMP WITH TIME ZONE"),
        ("id", "BIGINT"),
        ("City", "VARCHAR"),
        ("price", "DOUBLE"),
        ("tags", "VARCHAR[]"),
        ("day", "DATE"),
        ("_node", "VARCHAR"),
        ("_row", "UBIGINT"),
    ];

    fn statement(scan: &Scan) -> Statement {
        let columns = COLUMNS.map(|(name, kind)| (name.to_owned(), kind.to_owned()));
        Statement::of(scan, &"logs".parse().unwrap(), &columns)
    }

    fn needing(words: &[&str]) -> Scan {
        Scan { words: Some(words.iter().map(|word| (*word).to_owned()).collect()), ..Scan::default() }
    }

    fn compare(column: &str, comparison: Comparison, value: Literal) -> Predicate {
        Predicate::Compare { column: column.to_owned(), comparison, value }
    }

    fn text(text: &str) -> Literal {
        Literal::Text(text.to_owned())
    }

    fn kept(report: &Report) -> String {
        report.kept.iter().map(|kept| format!("{}: {}", kept.what, kept.why)).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn columns_that_are_needed_come_whatever_a_node_has_of_them() {
        let found = statement(&needing(&["city", "_node", "other"]));
        assert_eq!(
            found.sql,
            "SELECT \"City\", \"_node\" FROM (SELECT CAST(NULL AS VARCHAR) AS \"City\" WHERE false \
             UNION ALL BY NAME SELECT * FROM \"logs\")"
        );
        assert_eq!(found.report.pushed, ["2 of 8 columns"]);
        assert_eq!(statement(&needing(&["_node"])).sql, "SELECT \"_node\" FROM \"logs\"");
        assert_eq!(statement(&needing(&[])).sql, "SELECT 1 AS __row FROM \"logs\"");
        assert!(statement(&Scan::default()).sql.starts_with(
            "SELECT \"ts\", \"id\", \"City\", \"price\", \"tags\", \"day\", \"_node\", \"_row\" FROM"
        ));
    }

    #[test]
    fn conditions_and_limit_are_applied_by_nodes_and_the_time_where_they_look_for_it() {
        let moment = Literal::Moment(1_700_000_000_000_001);
        let filters = vec![
            compare("ts", Comparison::GreaterOrEqual, moment),
            compare("CITY", Comparison::Equal, text("it's")),
            Predicate::In { column: "_node".to_owned(), values: vec![text("a"), text("b")] },
        ];
        let found = statement(&Scan { filters, limit: Some(7), ..needing(&["id", "city", "ts"]) });
        assert_eq!(
            found.sql,
            "SELECT \"ts\", \"id\", \"City\" FROM (SELECT CAST(NULL AS TIMESTAMP WITH TIME ZONE) AS \"ts\", CAST(NULL AS BIGINT) AS \"id\", \
             CAST(NULL AS VARCHAR) AS \"City\" WHERE false UNION ALL BY NAME SELECT * FROM \"logs\" \
             WHERE \"ts\" >= timestamptz '2023-11-14 22:13:20.000001Z') WHERE \"City\" = 'it''s' AND \"_node\" IN ('a', 'b') LIMIT 7"
        );
        assert!(found.report.kept.is_empty() && found.report.pushed.contains(&"limit 7".to_owned()));
    }

    #[test]
    fn a_condition_that_a_node_may_judge_otherwise_is_left_to_the_engine_and_so_is_what_follows() {
        use Comparison as C;
        for (filter, expected) in [
            (compare("id", C::Greater, Literal::Float(0.1)), Ok("\"id\" > CAST('1e-1' AS DOUBLE)")),
            (compare("price", C::Less, Literal::Decimal("2.50".to_owned())), Ok("\"price\" < 2.50")),
            (compare("day", C::Equal, text("2026-01-02")), Ok("\"day\" = '2026-01-02'")),
            (compare("day", C::Less, Literal::Date(1)), Ok("\"day\" < date '1970-01-02'")),
            (Predicate::Null { column: "tags".to_owned(), is_null: true }, Ok("\"tags\" IS NULL")),
            (compare("id", C::Equal, text("5")), Err("BIGINT beside '5'")),
            (compare("city", C::Equal, Literal::Int(5)), Err("VARCHAR beside 5")),
            (compare("tags", C::Equal, text("x")), Err("VARCHAR[] beside 'x'")),
            (compare("ts", C::Greater, text("yesterday")), Err("beside 'yesterday'")),
            (compare("day", C::Equal, text("2026-01-02 10:00:00")), Err("beside '2026-01-02 10")),
            (compare("ts", C::Less, Literal::Moment(i64::MAX)), Err("TIMESTAMP WITH TIME ZONE beside")),
            (compare("city", C::Equal, text("a\0")), Err("VARCHAR beside")),
            (compare("other", C::Equal, Literal::Int(1)), Err("no node has a column `other`")),
        ] {
            let scan = Scan { filters: vec![filter], limit: Some(7), ..needing(&["id"]) };
            let found = statement(&scan);
            match expected {
                Ok(sql) => assert!(found.sql.ends_with(&format!(" WHERE {sql} LIMIT 7")), "{}", found.sql),
                Err(why) => {
                    let kept = kept(&found.report);
                    assert!(kept.contains(why) && kept.contains("limit 7: a condition before it"), "{kept}");
                    assert!(found.sql.ends_with("SELECT * FROM \"logs\")"), "{}", found.sql);
                }
            }
        }
    }

    #[test]
    fn nodes_group_what_can_be_put_together_again() {
        let call = |function, column: &str, distinct| Call {
            function,
            column: Some(column.to_owned()).filter(|name| !name.is_empty()),
            distinct,
        };
        let scan = |keys: &[&str], calls| Scan {
            aggregate: Some(Aggregate { keys: keys.iter().map(|key| (*key).to_owned()).collect(), calls }),
            ..needing(&["id"])
        };
        let found = statement(&Scan {
            filters: vec![compare("id", Comparison::Less, Literal::Int(9))],
            ..scan(
                &["city", "_node"],
                vec![
                    call(Function::Count, "", false),
                    call(Function::Sum, "id", false),
                    call(Function::Max, "ts", false),
                ],
            )
        });
        assert_eq!(
            found.sql,
            "SELECT \"City\" AS __k0, \"_node\" AS __k1, count(*) AS __a0, sum(\"id\") AS __a1, max(\"ts\") AS __a2 FROM \
             (SELECT CAST(NULL AS TIMESTAMP WITH TIME ZONE) AS \"ts\", CAST(NULL AS BIGINT) AS \"id\", CAST(NULL AS VARCHAR) AS \"City\" \
             WHERE false UNION ALL BY NAME SELECT * FROM \"logs\") WHERE \"id\" < 9 GROUP BY 1, 2"
        );
        assert!(found.report.aggregated && found.report.columns.len() == COLUMNS.len());
        let whole = statement(&scan(&[], vec![call(Function::Count, "", false)]));
        assert_eq!(whole.sql, "SELECT count(*) AS __a0 FROM \"logs\"");
        for (scan, why) in [
            (scan(&[], vec![call(Function::Count, "id", true)]), "which counts once"),
            (scan(&["tags"], vec![]), "`tags` is VARCHAR[]"),
            (scan(&[], vec![call(Function::Sum, "city", false)]), "sum of VARCHAR"),
            (scan(&["other"], vec![]), "no node has a column `other`"),
            (
                Scan {
                    filters: vec![compare("city", Comparison::Equal, Literal::Int(5))],
                    ..scan(&[], vec![call(Function::Count, "", false)])
                },
                "aggregation: a condition before it",
            ),
        ] {
            let found = statement(&scan);
            assert!(!found.report.aggregated && kept(&found.report).contains(why), "{}", kept(&found.report));
            assert!(found.sql.starts_with("SELECT \"id\" FROM"), "{}", found.sql);
        }
    }
}
