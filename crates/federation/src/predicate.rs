//! Conditions on one column that other systems understand too.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// A condition on one column of a table. Names are as the statement writes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predicate {
    /// `column op value`.
    Compare {
        /// On the left.
        column: String,
        /// Between them.
        comparison: Comparison,
        /// On the right. Never null.
        value: Literal,
    },
    /// `column IN (values)`.
    In {
        /// Which.
        column: String,
        /// One of these. None of them null; at least one.
        values: Vec<Literal>,
    },
    /// `column IS NULL`, or `IS NOT NULL`.
    Null {
        /// Which.
        column: String,
        /// Whether it is `IS NULL`.
        is_null: bool,
    },
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// `=`
    #[serde(rename = "=")]
    Equal,
    /// `<>`
    #[serde(rename = "<>")]
    NotEqual,
    /// `<`
    #[serde(rename = "<")]
    Less,
    /// `<=`
    #[serde(rename = "<=")]
    LessOrEqual,
    /// `>`
    #[serde(rename = ">")]
    Greater,
    /// `>=`
    #[serde(rename = ">=")]
    GreaterOrEqual,
}

impl Comparison {
    /// As SQL writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    /// Whether it holds for two values that are in this order.
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }

    /// The same with its sides exchanged.
    #[must_use]
    pub fn mirrored(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            same => same,
        }
    }
}

/// A constant of a statement, evaluated by the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Literal {
    /// `true`.
    Bool(bool),
    /// Any integer type.
    Int(i64),
    /// DOUBLE or FLOAT.
    Float(f64),
    /// DECIMAL, as its text.
    Decimal(String),
    /// VARCHAR.
    Text(String),
    /// DATE, days since 1970.
    Date(i32),
    /// TIMESTAMP without a zone, microseconds since 1970.
    Timestamp(i64),
    /// TIMESTAMP WITH TIME ZONE, microseconds since 1970 UTC.
    Moment(i64),
}

impl Literal {
    /// A time as text that every system reads: `2026-11-26 10:00:00.123456`, in UTC. `None` outside the years 0001 to 9999.
    pub fn time_text(us: i64) -> Option<String> {
        let time = jiff::Timestamp::from_microsecond(us).ok()?.to_zoned(jiff::tz::TimeZone::UTC);
        (1..=9999).contains(&time.year()).then(|| time.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string())
    }

    /// The moment that it means beside a column of times, in microseconds since 1970 UTC: the engine's zone is UTC.
    pub fn moment(&self) -> Option<i64> {
        match self {
            Self::Moment(us) | Self::Timestamp(us) => Some(*us),
            Self::Date(days) => i64::from(*days).checked_mul(DAY_US),
            Self::Text(text) => moment_of(text),
            _ => None,
        }
    }

    /// The text of a UUID in its usual form, which is all that every system reads alike.
    pub fn uuid(&self) -> Option<&str> {
        let Self::Text(text) = self else { return None };
        let is_uuid = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        is_uuid.then_some(text)
    }

    /// A date as `2026-11-26`. `None` outside the years 0001 to 9999.
    pub fn date_text(days: i32) -> Option<String> {
        Self::time_text(i64::from(days).checked_mul(DAY_US)?).map(|text| text[..10].to_owned())
    }
}

/// `2026-11-26`, or that with a time, or that with a zone, as people write it; nothing that two systems could read differently.
fn moment_of(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Some(moment.as_microsecond());
    }
    let is_plain =
        text.len() >= 10 && text.bytes().take(10).all(|byte| byte.is_ascii_digit() || byte == b'-');
    let time = text.parse::<jiff::civil::DateTime>().ok().filter(|_| is_plain)?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond())
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Decimal(text) => f.write_str(text),
            Self::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
            Self::Date(days) => write!(f, "date '{}'", Self::date_text(*days).unwrap_or_default()),
            Self::Timestamp(us) => write!(f, "timestamp '{}'", Self::time_text(*us).unwrap_or_default()),
            Self::Moment(us) => write!(f, "timestamptz '{}Z'", Self::time_text(*us).unwrap_or_default()),
        }
    }
}

impl Predicate {
    /// The column it is about.
    pub fn column(&self) -> &str {
        match self {
            Self::Compare { column, .. } | Self::In { column, .. } | Self::Null { column, .. } => column,
        }
    }

    /// The constants in it.
    pub fn values(&self) -> &[Literal] {
        match self {
            Self::Compare { value, .. } => std::slice::from_ref(value),
            Self::In { values, .. } => values,
            Self::Null { .. } => &[],
        }
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compare { column, comparison, value } => {
                write!(f, "{column} {} {value}", comparison.as_str())
            }
            Self::In { column, values } => {
                let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                write!(f, "{column} in ({})", values.join(", "))
            }
            Self::Null { column, is_null: true } => write!(f, "{column} is null"),
            Self::Null { column, is_null: false } => write!(f, "{column} is not null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_read_as_they_were_written_and_travel_as_json() {
        let conditions = [
            (
                Predicate::Compare {
                    column: "ts".to_owned(),
                    comparison: Comparison::GreaterOrEqual,
                    value: Literal::Moment(1_700_000_000_000_001),
                },
                "ts >= timestamptz '2023-11-14 22:13:20.000001Z'",
            ),
            (
                Predicate::In {
                    column: "name".to_owned(),
                    values: vec![Literal::Text("it's".to_owned()), Literal::Date(-1)],
                },
                "name in ('it''s', date '1969-12-31')",
            ),
            (Predicate::Null { column: "a".to_owned(), is_null: false }, "a is not null"),
        ];
        for (condition, text) in conditions {
            assert_eq!(condition.to_string(), text);
            let json = serde_json::to_string(&condition).unwrap();
            assert_eq!(serde_json::from_str::<Predicate>(&json).unwrap(), condition);
        }
        assert_eq!(Literal::time_text(i64::MAX), None);
        assert_eq!(Literal::date_text(i32::MIN), None);
        for (text, moment) in [
            ("2023-11-14 22:13:20", Some(1_700_000_000_000_000)),
            ("2023-11-14T22:13:20Z", Some(1_700_000_000_000_000)),
            ("2023-11-14 23:13:20+01", Some(1_700_000_000_000_000)),
            ("2023-11-14", Some(1_699_920_000_000_000)),
            ("yesterday", None),
            ("14.11.2023", None),
            ("7", None),
        ] {
            assert_eq!(Literal::Text(text.to_owned()).moment(), moment, "{text}");
        }
    }
}
