//! What a column of a table can hold.

use arrow_schema::DataType;

/// The type of a column, as far as it matters to what may be written into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// `boolean`.
    Bool,
    /// `smallint`, `integer`, `bigint`: how many bytes.
    Int(u8),
    /// `numeric`, and its digits where they are limited.
    Numeric(Option<Digits>),
    /// `real`.
    Float4,
    /// `double precision`.
    Float8,
    /// `text`, `varchar`, `char`, and their longest value in characters.
    Text(Option<u32>),
    /// An enumeration, whose labels the server knows.
    Label,
    /// `bytea`.
    Bytea,
    /// `date`.
    Date,
    /// `time`, and how many places of a second it keeps.
    Time(u32),
    /// `timestamp` with and without a zone: on the wire they are the same, and a time without a zone is UTC here.
    Timestamp(u32),
    /// `json`.
    Json,
    /// `jsonb`.
    Jsonb,
    /// `uuid`.
    Uuid,
    /// Anything else.
    Other,
}

/// `numeric(precision, places)`; places may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digits {
    pub(crate) precision: i32,
    pub(crate) places: i32,
}

/// Places of a second that times have where nothing is said.
const MICROSECONDS: u32 = 6;
/// Most digits that `numeric` can be declared with.
const PRECISION_MAX: i32 = 1000;

impl Held {
    /// From the name of the type in the catalogue, its kind (`pg_type.typtype`) and the modifier of the column.
    pub(crate) fn of(name: &str, kind: &str, modifier: i32) -> Self {
        let limit = u32::try_from(modifier - 4).ok();
        let places = u32::try_from(modifier).unwrap_or(MICROSECONDS);
        match (name, kind) {
            (_, "e") => Self::Label,
            ("bool", _) => Self::Bool,
            ("int2", _) => Self::Int(2),
            ("int4", _) => Self::Int(4),
            ("int8", _) => Self::Int(8),
            ("numeric", _) => Self::Numeric(limit.map(|packed| Digits {
                precision: (packed >> 16) as i32,
                // Eleven bits with a sign.
                places: ((packed & 0x7ff) as i32 ^ 1024) - 1024,
            })),
            ("float4", _) => Self::Float4,
            ("float8", _) => Self::Float8,
            ("text" | "citext", _) => Self::Text(None),
            ("varchar" | "bpchar", _) => Self::Text(limit),
            ("bytea", _) => Self::Bytea,
            ("date", _) => Self::Date,
            ("time", _) => Self::Time(places),
            ("timestamp" | "timestamptz", _) => Self::Timestamp(places),
            ("json", _) => Self::Json,
            ("jsonb", _) => Self::Jsonb,
            ("uuid", _) => Self::Uuid,
            _ => Self::Other,
        }
    }
}

/// What a column of this type is made as.
pub(crate) fn sql_type(kind: &DataType) -> String {
    use DataType as T;
    match kind {
        T::Boolean => "boolean",
        T::Int8 | T::Int16 | T::UInt8 => "smallint",
        T::Int32 | T::UInt16 => "integer",
        T::Int64 | T::UInt32 => "bigint",
        T::UInt64 => "numeric(20,0)",
        T::Float32 => "real",
        T::Float64 => "double precision",
        T::Decimal128(precision, scale) => return format!("numeric({precision},{scale})"),
        T::Binary => "bytea",
        T::Date32 => "date",
        T::Time64(_) => "time",
        T::Timestamp(_, Some(_)) => "timestamptz",
        T::Timestamp(_, None) => "timestamp",
        _ => "text",
    }
    .to_owned()
}

/// The type that a column must become to hold every value of `kind` beside its own, where PostgreSQL can change it without
/// changing a value. `None` where it need not, or cannot.
pub(crate) fn widened(kind: &DataType, held: Held) -> Option<String> {
    use DataType as T;
    if matches!(kind, T::Utf8) {
        // Numbers and truth have one form as text, which is ours too. Times and floats have others.
        let same = matches!(held, Held::Bool | Held::Int(_) | Held::Numeric(_));
        return same.then(|| "text".to_owned());
    }
    if matches!(kind, T::Float32 | T::Float64) {
        let exact = matches!(held, Held::Int(2 | 4)) || (held == Held::Float4 && *kind == T::Float64);
        return exact.then(|| "double precision".to_owned());
    }
    let wanted = digits(kind)?;
    match held {
        Held::Int(bytes) => {
            let own = match bytes {
                2 => 5,
                4 => 10,
                _ => 19,
            };
            match integer_bytes(kind) {
                Some(needed) => (needed > bytes).then(|| sql_type(kind)),
                None => numeric(own.max(whole(wanted)), wanted.places.max(0)),
            }
        }
        Held::Numeric(Some(own)) => {
            let (before, places) = (whole(own).max(whole(wanted)), own.places.max(wanted.places));
            (before > whole(own) || places > own.places).then(|| numeric(before, places)).flatten()
        }
        // Beyond 24 bits a `real` rounds; a double holds 53.
        Held::Float4 if matches!(kind, T::Int32 | T::UInt32) => Some("double precision".to_owned()),
        _ => None,
    }
}

/// Bytes of the signed integer that holds every value of an integer type; 16 where none does.
fn integer_bytes(kind: &DataType) -> Option<u8> {
    use DataType as T;
    Some(match kind {
        T::Int8 | T::Int16 | T::UInt8 => 2,
        T::Int32 | T::UInt16 => 4,
        T::Int64 | T::UInt32 => 8,
        T::UInt64 => 16,
        _ => return None,
    })
}

/// Decimal digits that a type needs.
fn digits(kind: &DataType) -> Option<Digits> {
    use DataType as T;
    let precision = match kind {
        T::Int8 | T::UInt8 => 3,
        T::Int16 | T::UInt16 => 5,
        T::Int32 | T::UInt32 => 10,
        T::Int64 => 19,
        T::UInt64 => 20,
        T::Decimal128(precision, scale) => {
            return Some(Digits { precision: i32::from(*precision), places: i32::from(*scale) });
        }
        _ => return None,
    };
    Some(Digits { precision, places: 0 })
}

fn whole(digits: Digits) -> i32 {
    digits.precision - digits.places
}

fn numeric(whole: i32, places: i32) -> Option<String> {
    let precision = whole + places;
    (precision <= PRECISION_MAX).then(|| format!("numeric({precision},{places})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_of_the_catalogue() {
        let numeric = |precision: i32, places: i32| (precision << 16 | places & 0x7ff) + 4;
        let digits = |precision, places| Held::Numeric(Some(Digits { precision, places }));
        assert_eq!(Held::of("numeric", "b", numeric(12, 2)), digits(12, 2));
        assert_eq!(Held::of("numeric", "b", numeric(3, -2)), digits(3, -2));
        assert_eq!(Held::of("numeric", "b", -1), Held::Numeric(None));
        assert_eq!(Held::of("varchar", "b", 24), Held::Text(Some(20)));
        assert_eq!(Held::of("varchar", "b", -1), Held::Text(None));
        assert_eq!(Held::of("timestamptz", "b", -1), Held::Timestamp(6));
        assert_eq!(Held::of("time", "b", 3), Held::Time(3));
        assert_eq!(Held::of("mood", "e", -1), Held::Label);
    }

    #[test]
    fn a_column_is_widened_only_where_no_value_changes() {
        use DataType as T;
        let check = |kind: &T, held: Held, expected: Option<&str>| {
            assert_eq!(widened(kind, held).as_deref(), expected, "{kind} into {held:?}");
        };
        let digits = |precision, places| Held::Numeric(Some(Digits { precision, places }));
        check(&T::Int64, Held::Int(4), Some("bigint"));
        check(&T::UInt64, Held::Int(8), Some("numeric(20,0)"));
        check(&T::Int32, Held::Int(8), None);
        check(&T::Decimal128(12, 2), Held::Int(4), Some("numeric(12,2)"));
        check(&T::Decimal128(12, 2), Held::Int(8), Some("numeric(21,2)"));
        check(&T::Decimal128(12, 4), digits(12, 2), Some("numeric(14,4)"));
        check(&T::UInt64, digits(12, 2), Some("numeric(22,2)"));
        check(&T::Decimal128(9, 2), digits(12, 2), None);
        check(&T::Float64, Held::Int(4), Some("double precision"));
        check(&T::Float64, Held::Int(8), None);
        check(&T::Float64, Held::Float4, Some("double precision"));
        check(&T::Float32, Held::Float4, None);
        check(&T::Utf8, Held::Int(8), Some("text"));
        check(&T::Utf8, Held::Timestamp(6), None);
        check(&T::Utf8, Held::Text(Some(3)), None);
        check(&T::Boolean, Held::Int(4), None);
    }
}
