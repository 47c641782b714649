//! Types of Cassandra, and which of ours each can hold without losing anything.
//!
//! | Arrow | made as | also fits |
//! |---|---|---|
//! | Boolean | `boolean` | |
//! | Int8, Int16, Int32, Int64 | `tinyint`, `smallint`, `int`, `bigint` | wider ones, `varint`, `decimal`, floats that are exact |
//! | UInt8, UInt16, UInt32 | `smallint`, `int`, `bigint` | the same |
//! | UInt64 | `varint`: whole, and without a scale to think of | `decimal` |
//! | Float32, Float64 | `float`, `double` | `double` |
//! | Utf8, Binary | `text`, `blob` | |
//! | Date32, Time64 | `date`, `time` | |
//! | Timestamp | `timestamp`, and a `bigint` of microseconds beside it | |
//! | Decimal128 | `decimal` | |
//!
//! `text` takes everything, in the form of `aap_columns::text`.

use arrow_schema::DataType;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean,
    Tinyint,
    Smallint,
    Int,
    Bigint,
    Varint,
    Decimal,
    Float,
    Double,
    Text,
    Blob,
    Date,
    Time,
    Timestamp,
}

const NAMES: [(Kind, &str); 14] = [
    (Kind::Boolean, "boolean"),
    (Kind::Tinyint, "tinyint"),
    (Kind::Smallint, "smallint"),
    (Kind::Int, "int"),
    (Kind::Bigint, "bigint"),
    (Kind::Varint, "varint"),
    (Kind::Decimal, "decimal"),
    (Kind::Float, "float"),
    (Kind::Double, "double"),
    (Kind::Text, "text"),
    (Kind::Blob, "blob"),
    (Kind::Date, "date"),
    (Kind::Time, "time"),
    (Kind::Timestamp, "timestamp"),
];

impl Kind {
    /// What a column of this type is made as.
    pub(crate) fn of(kind: &DataType) -> Self {
        use DataType as T;
        match kind {
            T::Boolean => Self::Boolean,
            T::Int8 => Self::Tinyint,
            T::Int16 | T::UInt8 => Self::Smallint,
            T::Int32 | T::UInt16 => Self::Int,
            T::Int64 | T::UInt32 => Self::Bigint,
            T::UInt64 => Self::Varint,
            T::Float32 => Self::Float,
            T::Float64 => Self::Double,
            T::Binary => Self::Blob,
            T::Date32 => Self::Date,
            T::Time64(_) => Self::Time,
            T::Timestamp(..) => Self::Timestamp,
            T::Decimal128(..) => Self::Decimal,
            _ => Self::Text,
        }
    }

    /// The type that the server's own tables call so; `None` for those that we do not write.
    pub(crate) fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    pub(crate) fn name(self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self).map_or("text", |(_, name)| name)
    }

    /// Whether it holds every value of that type exactly.
    pub(crate) fn holds(self, kind: &DataType) -> bool {
        let made_as = Self::of(kind);
        // Of unsigned ones `made_as` is the next wider, so it stands for both.
        let narrower: &[Self] = match self {
            Self::Text => return true,
            Self::Smallint => &[Self::Tinyint],
            Self::Int => &[Self::Tinyint, Self::Smallint],
            Self::Bigint => &[Self::Tinyint, Self::Smallint, Self::Int],
            Self::Varint => &[Self::Tinyint, Self::Smallint, Self::Int, Self::Bigint],
            Self::Decimal => &[Self::Tinyint, Self::Smallint, Self::Int, Self::Bigint, Self::Varint],
            Self::Float => &[Self::Tinyint, Self::Smallint],
            Self::Double => &[Self::Tinyint, Self::Smallint, Self::Int, Self::Float],
            _ => &[],
        };
        self == made_as || narrower.contains(&made_as)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_takes_what_it_can_hold_exactly() {
        let check = |name: &str, kind: DataType, expected: bool| {
            assert_eq!(Kind::named(name).unwrap().holds(&kind), expected, "{kind} in {name}");
        };
        check("bigint", DataType::UInt32, true);
        check("bigint", DataType::UInt64, false);
        check("int", DataType::Int64, false);
        check("int", DataType::UInt16, true);
        check("float", DataType::Int32, false);
        check("double", DataType::Int32, true);
        check("double", DataType::Int64, false);
        check("double", DataType::Float32, true);
        check("decimal", DataType::UInt64, true);
        check("text", DataType::Binary, true);
        check("blob", DataType::Utf8, false);
        check("bigint", DataType::Boolean, false);
        assert_eq!(Kind::named("frozen<list<int>>"), None);
        assert!(NAMES.iter().all(|(kind, name)| kind.name() == *name));
    }
}
