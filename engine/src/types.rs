//! Names of types: how Arrow's and DuckDB's meet, and how two types of one column unite.

use std::sync::Arc;

use aap_types::ColumnType;
use arrow_schema::{DataType, Schema, SchemaRef, TimeUnit};
use duckdb::core::{LogicalTypeHandle, LogicalTypeId};

/// The name of a DuckDB type in SQL.
pub(crate) fn name_of(logical: &LogicalTypeHandle) -> String {
    use LogicalTypeId as Id;
    if let Some(alias) = logical.get_alias() {
        return alias;
    }
    let simple = match logical.id() {
        Id::Boolean => "BOOLEAN",
        Id::Tinyint => "TINYINT",
        Id::Smallint => "SMALLINT",
        Id::Integer => "INTEGER",
        Id::Bigint => "BIGINT",
        Id::Hugeint => "HUGEINT",
        Id::UTinyint => "UTINYINT",
        Id::USmallint => "USMALLINT",
        Id::UInteger => "UINTEGER",
        Id::UBigint => "UBIGINT",
        Id::UHugeint => "UHUGEINT",
        Id::Float => "FLOAT",
        Id::Double => "DOUBLE",
        Id::Varchar => "VARCHAR",
        Id::Blob => "BLOB",
        Id::Bit => "BIT",
        Id::Bignum => "BIGNUM",
        Id::Uuid => "UUID",
        Id::Date => "DATE",
        Id::Time => "TIME",
        Id::TimeTZ => "TIME WITH TIME ZONE",
        Id::TimeNs => "TIME_NS",
        Id::Timestamp => "TIMESTAMP",
        Id::TimestampS => "TIMESTAMP_S",
        Id::TimestampMs => "TIMESTAMP_MS",
        Id::TimestampNs => "TIMESTAMP_NS",
        Id::TimestampTZ => "TIMESTAMP WITH TIME ZONE",
        Id::Interval => "INTERVAL",
        Id::Enum => "ENUM",
        Id::SqlNull => "NULL",
        Id::Decimal => return format!("DECIMAL({},{})", logical.decimal_width(), logical.decimal_scale()),
        Id::List => return format!("{}[]", name_of(&logical.child(0))),
        Id::Array => return format!("{}[]", name_of(&logical.child(0))),
        Id::Map => return format!("MAP({}, {})", name_of(&logical.child(0)), name_of(&logical.child(1))),
        Id::Struct => return format!("STRUCT({})", members(logical)),
        Id::Union => return format!("UNION({})", members(logical)),
        other => return format!("{other:?}").to_uppercase(),
    };
    simple.to_owned()
}

/// What a struct or a union consists of.
fn members(logical: &LogicalTypeHandle) -> String {
    let fields: Vec<String> = (0..logical.num_children())
        .map(|i| format!("{} {}", quoted(&logical.child_name(i)), name_of(&logical.child(i))))
        .collect();
    fields.join(", ")
}

/// An identifier in double quotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in single quotes.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The key of a field's metadata that holds its DuckDB type.
pub(crate) use aap_federation::TYPE_KEY;

/// The schema with the DuckDB type of each column in its field.
pub(crate) fn with_names(schema: &Schema, names: &[String]) -> SchemaRef {
    let named = schema.fields().iter().zip(names).map(|(field, name)| {
        let mut metadata = field.metadata().clone();
        metadata.insert(TYPE_KEY.to_owned(), name.clone());
        field.as_ref().clone().with_metadata(metadata)
    });
    Arc::new(Schema::new_with_metadata(named.collect::<Vec<_>>(), schema.metadata().clone()))
}

/// Types whose Arrow form is read back as they were.
const SAME_IN_ARROW: &[&str] = &[
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "FLOAT",
    "DOUBLE",
    "VARCHAR",
    "BLOB",
    "DATE",
    "TIME",
    "TIMESTAMP",
    "TIMESTAMP WITH TIME ZONE",
    "NULL",
];

/// Types that a cast of what their Arrow form is read as makes again.
const RESTORED: &[&str] = &["HUGEINT", "UUID", "TIMESTAMP_S", "TIMESTAMP_MS"];

/// Whether a column of an answer that travels as Arrow comes back with this type, where its field names it.
pub(crate) fn is_restored(name: &str) -> bool {
    SAME_IN_ARROW.contains(&name) || RESTORED.contains(&name) || name.starts_with("DECIMAL(")
}

/// Whether a column of this type can be a part of an answer that travels as Arrow.
pub(crate) fn travels(name: &str) -> bool {
    is_restored(name) || name.strip_suffix("[]").is_some_and(|item| SAME_IN_ARROW.contains(&item))
}

/// The Arrow type in which a column of IPC files is scanned: one form for each DuckDB type.
pub(crate) fn scanned(data_type: &DataType) -> DataType {
    use DataType as T;
    match data_type {
        T::Dictionary(_, values) => scanned(values),
        T::LargeUtf8 | T::Utf8View | T::Null | T::Decimal256(_, _) | T::Duration(_) => T::Utf8,
        T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => T::Binary,
        T::Float16 => T::Float32,
        T::Date64 => T::Date32,
        T::Time32(_) | T::Time64(_) => T::Time64(TimeUnit::Microsecond),
        T::Timestamp(_, Some(_)) => T::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        T::Timestamp(_, None) => T::Timestamp(TimeUnit::Microsecond, None),
        T::Decimal32(precision, scale) | T::Decimal64(precision, scale) | T::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            T::Decimal128(*precision, *scale)
        }
        T::Decimal32(_, _) | T::Decimal64(_, _) | T::Decimal128(_, _) => T::Utf8,
        other => other.clone(),
    }
}

/// The Arrow type in which a column of frames is scanned: the one in which the lake stores it. `Null` gives way to any
/// other.
pub(crate) fn stored(data_type: &DataType) -> DataType {
    aap_columns::stored(data_type)
}

/// The one type of a column that has two, as the lake unites them.
///
/// Whole numbers beside floats are `DOUBLE` in answers, which rounds those beyond 2⁵³; the lake keeps such as text.
pub(crate) fn unite(a: &str, b: &str) -> String {
    ColumnType::from(a).unite(&b.into()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_unite_without_losing_a_value() {
        for (a, b, united) in [
            ("BIGINT", "BIGINT", "BIGINT"),
            ("INTEGER", "BIGINT", "BIGINT"),
            ("BIGINT", "DOUBLE", "DOUBLE"),
            ("UINTEGER", "INTEGER", "BIGINT"),
            ("UBIGINT", "BIGINT", "DECIMAL(20,0)"),
            // What DuckDB makes of files with UBIGINT and BIGINT.
            ("HUGEINT", "BIGINT", "HUGEINT"),
            ("BOOLEAN", "BIGINT", "VARCHAR"),
            ("VARCHAR", "BIGINT", "VARCHAR"),
            ("NULL", "BIGINT", "BIGINT"),
            ("HUGEINT", "BIGINT", "HUGEINT"),
            ("HUGEINT", "DOUBLE", "DOUBLE"),
            ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITH TIME ZONE"),
            ("DATE", "DOUBLE", "VARCHAR"),
        ] {
            assert_eq!(unite(a, b), united, "{a} {b}");
            assert_eq!(unite(b, a), united, "{b} {a}");
        }
    }
}
