//! Which conditions mean in the server what they mean in the engine, as SQL.
//!
//! A condition that the server would judge differently for a single value is left to the engine: texts in an order of a
//! language, texts padded with blanks, `real` beside decimals.

use aap_federation::{Comparison, Literal, Predicate};

use super::column::is_decimal;
use crate::copy::Held;
use crate::names::{literal, quoted};
use crate::table::{Column, Table};

/// Letters of `2026-11-26`.
const DAY_LENGTH: usize = 10;

/// The condition, or why the engine must judge.
pub(super) fn sql(table: &Table, predicate: &Predicate) -> Result<String, String> {
    let name = predicate.column();
    let column = table.column(name).ok_or_else(|| format!("the table has no column `{name}`"))?;
    let quoted = quoted(&column.name);
    // What the engine's DECIMAL does not hold is read as a double, and compared as one.
    let column = &match column.held {
        Held::Numeric(Some(digits)) if !is_decimal(digits) => {
            Column { held: Held::Numeric(None), ..column.clone() }
        }
        _ => column.clone(),
    };
    match predicate {
        Predicate::Null { is_null: true, .. } => Ok(format!("{quoted} IS NULL")),
        Predicate::Null { is_null: false, .. } => Ok(format!("{quoted} IS NOT NULL")),
        Predicate::In { values, .. } => {
            let values = values.iter().map(|value| constant(column, Comparison::Equal, value));
            let values = values.collect::<Result<Vec<_>, _>>()?;
            Ok(format!("{} IN ({})", operand(column, Comparison::Equal), values.join(", ")))
        }
        Predicate::Compare { comparison, value, .. } => {
            let value = constant(column, *comparison, value)?;
            Ok(format!("{} {} {value}", operand(column, *comparison), comparison.as_str()))
        }
    }
}

/// Whether texts of the column are equal exactly where their bytes are.
pub(super) fn compares_bytes(column: &Column) -> bool {
    column.by_bytes && (column.declared == "text" || column.declared.starts_with("character varying"))
}

/// The column as it is compared. A collation is only named where it matters, because an index does not serve another one.
fn operand(column: &Column, comparison: Comparison) -> String {
    let name = quoted(&column.name);
    match column.held {
        Held::Text(_) if comparison != Comparison::Equal => format!("{name} COLLATE \"C\""),
        // It is read as a double.
        Held::Numeric(None) => format!("{name}::float8"),
        _ => name,
    }
}

fn constant(column: &Column, comparison: Comparison, value: &Literal) -> Result<String, String> {
    let other = || format!("{} beside {value} is compared by the engine", column.declared);
    let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
    Ok(match (column.held, value) {
        (Held::Bool, Literal::Bool(value)) if equality => value.to_string(),
        (Held::Int(_), Literal::Int(value)) => format!("'{value}'::int8"),
        (Held::Numeric(Some(_)), Literal::Int(value)) => format!("'{value}'::numeric"),
        (Held::Int(_) | Held::Numeric(Some(_)), Literal::Decimal(text)) => format!("'{text}'::numeric"),
        (Held::Float8 | Held::Numeric(None), Literal::Int(value)) => format!("'{value}'::float8"),
        (Held::Float8 | Held::Numeric(None), Literal::Decimal(text)) => format!("'{text}'::float8"),
        (Held::Int(_) | Held::Numeric(_) | Held::Float8 | Held::Float4, Literal::Float(value)) => {
            format!("'{value:?}'::float8")
        }
        (Held::Text(_), Literal::Text(text)) if compares_bytes(column) && !text.contains('\0') => {
            literal(text)
        }
        (Held::Uuid, value) if equality => format!("'{}'::uuid", value.uuid().ok_or_else(other)?),
        (Held::Date, Literal::Date(days)) => {
            format!("date '{}'", Literal::date_text(*days).ok_or_else(other)?)
        }
        // The engine makes a day of the text; the server would make a time of it.
        (Held::Date, Literal::Text(text)) if text.len() != DAY_LENGTH => return Err(other()),
        (Held::Date | Held::Timestamp(_), value) => {
            let text = value.moment().and_then(Literal::time_text).ok_or_else(other)?;
            match column.declared.contains("with time zone") {
                true => format!("timestamptz '{text}+00'"),
                false => format!("timestamp '{text}'"),
            }
        }
        _ => return Err(other()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::TableName;

    fn table() -> Table {
        let column = |name: &str, declared: &str, held: Held| Column {
            name: name.to_owned(),
            declared: declared.to_owned(),
            held,
            required: false,
            has_default: false,
            generated: false,
            by_bytes: true,
        };
        Table {
            name: TableName { schema: None, table: "t".to_owned() },
            kind: "r".to_owned(),
            split: None,
            columns: vec![
                column("i", "integer", Held::Int(4)),
                column("Name", "text", Held::Text(None)),
                column("pad", "character(5)", Held::Text(Some(5))),
                column("r", "real", Held::Float4),
                column("n", "numeric", Held::Numeric(None)),
                column("at", "timestamp with time zone", Held::Timestamp(6)),
                column("u", "uuid", Held::Uuid),
            ],
        }
    }

    fn check(column: &str, comparison: Comparison, value: Literal, expected: Result<&str, &str>) {
        let predicate = Predicate::Compare { column: column.to_owned(), comparison, value };
        let found = sql(&table(), &predicate);
        match expected {
            Ok(expected) => assert_eq!(found.as_deref(), Ok(expected)),
            Err(expected) => {
                let why = found.unwrap_err();
                assert!(why.contains(expected), "{why}");
            }
        }
    }

    #[test]
    fn only_what_means_the_same_there_is_pushed() {
        use Comparison as C;
        use Literal as L;
        let text = |text: &str| L::Text(text.to_owned());
        check("i", C::GreaterOrEqual, L::Int(5), Ok("\"i\" >= '5'::int8"));
        check("i", C::Equal, text("5"), Err("compared by the engine"));
        check("name", C::Equal, text("it's"), Ok("\"Name\" = E'it''s'"));
        check("NAME", C::Less, text("b"), Ok("\"Name\" COLLATE \"C\" < E'b'"));
        check("pad", C::Equal, text("b"), Err("character(5)"));
        check("r", C::Equal, L::Decimal("0.1".to_owned()), Err("real"));
        check("r", C::Greater, L::Float(0.1), Ok("\"r\" > '0.1'::float8"));
        check("n", C::Equal, L::Int(1), Ok("\"n\"::float8 = '1'::float8"));
        check(
            "at",
            C::Greater,
            text("2026-01-02"),
            Ok("\"at\" > timestamptz '2026-01-02 00:00:00.000000+00'"),
        );
        check("at", C::Greater, text("yesterday"), Err("compared by the engine"));
        check("u", C::Equal, text("nonsense"), Err("uuid"));
        check("missing", C::Equal, L::Int(1), Err("no column `missing`"));
    }
}
