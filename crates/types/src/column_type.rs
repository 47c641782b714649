//! The type of a column, by the name SQL has for it, and the one type that holds the values of two.
//!
//! Batches of one stream may differ in their types. Lake, catalogue and engine all unite them by [`ColumnType::unite`],
//! so a column has one type wherever its rows lie. No value is lost by it:
//!
//! | types met | become |
//! |---|---|
//! | the same, or one of them `NULL` | that type |
//! | integers | the smallest integer that holds both; `UBIGINT` and a signed one: `DECIMAL(20,0)` |
//! | decimals, or a decimal and an integer | a decimal with the digits of both, up to 38 |
//! | `FLOAT`, `DOUBLE`, and whole numbers beside them | `DOUBLE` |
//! | times of different precision, with or without zone | `TIMESTAMP WITH TIME ZONE`, those without zone being UTC |
//! | anything else | `VARCHAR` |
//!
//! The result does not depend on the order in which types are met, save for the digits of a decimal. A whole number beyond 2⁵³ has no exact `DOUBLE`:
//! an answer rounds it, as SQL does; what stores values must store text instead.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// Most digits of a `DECIMAL`.
const DIGITS_MAX: u8 = 38;

/// The type of a column.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// Nothing but NULL was met.
    Null,
    /// `BOOLEAN`.
    Boolean,
    /// `TINYINT` to `BIGINT`, `UTINYINT` to `UBIGINT`.
    Integer {
        /// Whether it has negative numbers.
        signed: bool,
        /// 1, 2, 4 or 8.
        bytes: u8,
    },
    /// `HUGEINT`: 128 bits.
    HugeInt,
    /// `FLOAT`: 32 bits.
    Float,
    /// `DOUBLE`: 64 bits.
    Double,
    /// `DECIMAL(precision,scale)`.
    Decimal {
        /// Digits.
        precision: u8,
        /// Of these, after the point.
        scale: u8,
    },
    /// `VARCHAR`.
    Text,
    /// `BLOB`.
    Blob,
    /// `DATE`.
    Date,
    /// `TIME`.
    Time,
    /// `TIMESTAMP`, in microseconds without a zone.
    Timestamp,
    /// `TIMESTAMP WITH TIME ZONE`, in microseconds.
    TimestampTz,
    /// A type that unites with nothing but itself, by its name.
    Other(String),
}

impl ColumnType {
    /// The one type that holds every value of both.
    #[must_use]
    pub fn unite(&self, other: &Self) -> Self {
        use ColumnType as T;
        match (self, other) {
            (a, b) if a == b => a.clone(),
            (T::Null, known) | (known, T::Null) => known.clone(),
            (&T::Integer { signed: s, bytes: b }, &T::Integer { signed: t, bytes: c }) => {
                unite_integers((s, b), (t, c))
            }
            (a, b) if a.is_time() && b.is_time() => T::TimestampTz,
            (a, b) if a.is_float() && b.is_float() => T::Double,
            (a, b) if (a.is_float() && b.is_whole()) || (a.is_whole() && b.is_float()) => T::Double,
            (T::HugeInt, b) if b.is_whole() => T::HugeInt,
            (a, T::HugeInt) if a.is_whole() => T::HugeInt,
            (a, b) => match (a.digits(), b.digits()) {
                (Some(a), Some(b)) => decimal_of(a, b),
                _ => T::Text,
            },
        }
    }

    fn is_float(&self) -> bool {
        matches!(self, Self::Float | Self::Double)
    }

    fn is_whole(&self) -> bool {
        matches!(self, Self::Integer { .. } | Self::HugeInt | Self::Decimal { scale: 0, .. })
    }

    fn is_time(&self) -> bool {
        match self {
            Self::Timestamp | Self::TimestampTz => true,
            Self::Other(name) => name.starts_with("TIMESTAMP_"),
            _ => false,
        }
    }

    /// Digits before and after the point that it needs as a decimal.
    fn digits(&self) -> Option<(u8, u8)> {
        match *self {
            Self::Integer { bytes: 1, .. } => Some((3, 0)),
            Self::Integer { bytes: 2, .. } => Some((5, 0)),
            Self::Integer { bytes: 4, .. } => Some((10, 0)),
            Self::Integer { signed, .. } => Some((if signed { 19 } else { 20 }, 0)),
            Self::Decimal { precision, scale } => Some((precision.saturating_sub(scale), scale)),
            _ => None,
        }
    }
}

fn unite_integers((s, b): (bool, u8), (t, c): (bool, u8)) -> ColumnType {
    let (signed, unsigned) = match (s, t) {
        (true, false) => (b, c),
        (false, true) => (c, b),
        (signed, _) => return ColumnType::Integer { signed, bytes: b.max(c) },
    };
    match unsigned {
        // Neither 64-bit type holds both.
        8.. => ColumnType::Decimal { precision: 20, scale: 0 },
        _ => ColumnType::Integer { signed: true, bytes: signed.max(unsigned * 2) },
    }
}

fn decimal_of((before, after): (u8, u8), (other_before, other_after): (u8, u8)) -> ColumnType {
    let scale = after.max(other_after);
    match before.max(other_before).saturating_add(scale) {
        precision @ ..=DIGITS_MAX => ColumnType::Decimal { precision, scale },
        _ => ColumnType::Text,
    }
}

impl From<&str> for ColumnType {
    /// From the name that SQL has for it.
    fn from(name: &str) -> Self {
        let integer = |signed, bytes| Self::Integer { signed, bytes };
        match name {
            "NULL" => Self::Null,
            "BOOLEAN" => Self::Boolean,
            "TINYINT" => integer(true, 1),
            "SMALLINT" => integer(true, 2),
            "INTEGER" => integer(true, 4),
            "BIGINT" => integer(true, 8),
            "UTINYINT" => integer(false, 1),
            "USMALLINT" => integer(false, 2),
            "UINTEGER" => integer(false, 4),
            "UBIGINT" => integer(false, 8),
            "HUGEINT" => Self::HugeInt,
            "FLOAT" => Self::Float,
            "DOUBLE" => Self::Double,
            "VARCHAR" => Self::Text,
            "BLOB" => Self::Blob,
            "DATE" => Self::Date,
            "TIME" => Self::Time,
            "TIMESTAMP" => Self::Timestamp,
            "TIMESTAMP WITH TIME ZONE" => Self::TimestampTz,
            other => parse_decimal(other).unwrap_or_else(|| Self::Other(other.to_owned())),
        }
    }
}

fn parse_decimal(name: &str) -> Option<ColumnType> {
    let (precision, scale) = name.strip_prefix("DECIMAL(")?.strip_suffix(')')?.split_once(',')?;
    let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    (scale <= precision && precision <= DIGITS_MAX).then_some(ColumnType::Decimal { precision, scale })
}

impl FromStr for ColumnType {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(name.into())
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "NULL",
            Self::Boolean => "BOOLEAN",
            Self::Integer { signed: true, bytes: 1 } => "TINYINT",
            Self::Integer { signed: true, bytes: 2 } => "SMALLINT",
            Self::Integer { signed: true, bytes: 4 } => "INTEGER",
            Self::Integer { signed: true, .. } => "BIGINT",
            Self::Integer { bytes: 1, .. } => "UTINYINT",
            Self::Integer { bytes: 2, .. } => "USMALLINT",
            Self::Integer { bytes: 4, .. } => "UINTEGER",
            Self::Integer { .. } => "UBIGINT",
            Self::HugeInt => "HUGEINT",
            Self::Float => "FLOAT",
            Self::Double => "DOUBLE",
            Self::Decimal { precision, scale } => return write!(f, "DECIMAL({precision},{scale})"),
            Self::Text => "VARCHAR",
            Self::Blob => "BLOB",
            Self::Date => "DATE",
            Self::Time => "TIME",
            Self::Timestamp => "TIMESTAMP",
            Self::TimestampTz => "TIMESTAMP WITH TIME ZONE",
            Self::Other(name) => name,
        })
    }
}

/// Adds columns to those known, by name without regard to case: new ones at the end, types united.
pub fn unite_columns(known: &mut Vec<(String, String)>, met: &[(String, String)]) {
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, (name, _)) in known.iter().enumerate() {
        places.entry(name.to_lowercase()).or_insert(place);
    }
    for (name, kind) in met {
        match places.entry(name.to_lowercase()) {
            Entry::Occupied(place) => {
                let known = &mut known[*place.get()].1;
                *known = ColumnType::from(known.as_str()).unite(&kind.as_str().into()).to_string();
            }
            Entry::Vacant(place) => {
                place.insert(known.len());
                known.push((name.clone(), kind.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 27] = [
        "NULL",
        "BOOLEAN",
        "TINYINT",
        "SMALLINT",
        "INTEGER",
        "BIGINT",
        "UTINYINT",
        "USMALLINT",
        "UINTEGER",
        "UBIGINT",
        "HUGEINT",
        "FLOAT",
        "DOUBLE",
        "DECIMAL(5,0)",
        "DECIMAL(5,2)",
        "DECIMAL(38,0)",
        "DECIMAL(30,20)",
        "VARCHAR",
        "BLOB",
        "DATE",
        "TIME",
        "TIMESTAMP",
        "TIMESTAMP_NS",
        "TIMESTAMP WITH TIME ZONE",
        "INTERVAL",
        "BIGINT[]",
        "STRUCT(\"a\" BIGINT)",
    ];

    fn unite(a: &str, b: &str) -> String {
        ColumnType::from(a).unite(&b.into()).to_string()
    }

    #[test]
    fn two_types_become_one_that_holds_every_value_of_both() {
        for (a, b, united) in [
            ("INTEGER", "BIGINT", "BIGINT"),
            ("UINTEGER", "INTEGER", "BIGINT"),
            ("UTINYINT", "TINYINT", "SMALLINT"),
            ("UBIGINT", "BIGINT", "DECIMAL(20,0)"),
            ("UBIGINT", "UINTEGER", "UBIGINT"),
            ("DECIMAL(20,0)", "BIGINT", "DECIMAL(20,0)"),
            ("DECIMAL(5,2)", "BIGINT", "DECIMAL(21,2)"),
            ("DECIMAL(30,20)", "BIGINT", "VARCHAR"),
            ("DECIMAL(5,2)", "DOUBLE", "VARCHAR"),
            ("HUGEINT", "UBIGINT", "HUGEINT"),
            ("HUGEINT", "DOUBLE", "DOUBLE"),
            ("BIGINT", "DOUBLE", "DOUBLE"),
            ("FLOAT", "DOUBLE", "DOUBLE"),
            ("BOOLEAN", "BIGINT", "VARCHAR"),
            ("BLOB", "VARCHAR", "VARCHAR"),
            ("NULL", "BIGINT", "BIGINT"),
            ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITH TIME ZONE"),
            ("DATE", "DOUBLE", "VARCHAR"),
            ("BIGINT[]", "BIGINT", "VARCHAR"),
        ] {
            assert_eq!(unite(a, b), united, "{a} {b}");
        }
    }

    #[test]
    fn the_order_in_which_types_are_met_does_not_matter() {
        for a in NAMES {
            assert_eq!(ColumnType::from(a).to_string(), a);
            assert_eq!(unite(a, a), a);
            for b in NAMES {
                assert_eq!(unite(a, b), unite(b, a), "{a} {b}");
                for c in NAMES {
                    let (left, right) = (unite(&unite(a, b), c), unite(a, &unite(b, c)));
                    // The smallest integer for two has more digits than either.
                    let is_decimal = |name: &str| name.starts_with("DECIMAL");
                    let differs_in_digits = is_decimal(&left) || is_decimal(&right);
                    assert!(left == right || differs_in_digits, "{a} {b} {c}: {left} {right}");
                }
            }
        }
    }

    #[test]
    fn columns_that_differ_by_case_are_one_and_only_widen() {
        let of = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
        let mut known = vec![of("Level", "VARCHAR")];
        unite_columns(&mut known, &[of("level", "BIGINT"), of("n", "BIGINT"), of("N", "DOUBLE")]);
        assert_eq!(known, [of("Level", "VARCHAR"), of("n", "DOUBLE")]);
    }
}
