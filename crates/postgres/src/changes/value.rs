//! Values as the server writes them (`DateStyle` ISO, `TimeZone` UTC, `bytea_output` hex) into the columns of a batch.

use crate::remote::column::Values;

/// Days from 0000-03-01, where the leap day ends a year, to 1970-01-01.
const DAYS_TO_1970: i64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;
const DAY_US: i64 = 86_400_000_000;

impl Values {
    /// Appends NULL.
    pub(crate) fn push_null(&mut self) {
        match self {
            Self::Bool(values) => values.append_null(),
            Self::Int2(values) => values.append_null(),
            Self::Int4(values) => values.append_null(),
            Self::Int8(values) => values.append_null(),
            Self::Float4(values) => values.append_null(),
            Self::Float8(values) => values.append_null(),
            Self::Date(values) => values.append_null(),
            Self::Time(values) => values.append_null(),
            Self::Timestamp(values) => values.append_null(),
            Self::Bytes(values) => values.append_null(),
            Self::Text(values) => values.append_null(),
        }
    }

    /// Appends a value. What is endless becomes NULL, as where a table is read. `None`: it is none of the column's type.
    pub(crate) fn push_text(&mut self, bytes: &[u8]) -> Option<()> {
        if let Self::Text(values) = self {
            // The client asks for UTF-8; a database in SQL_ASCII sends what it has.
            values.append_value(String::from_utf8_lossy(bytes));
            return Some(());
        }
        let text = std::str::from_utf8(bytes).ok()?;
        match self {
            Self::Bool(values) => values.append_value(match text {
                "t" => true,
                "f" => false,
                _ => return None,
            }),
            Self::Int2(values) => values.append_value(text.parse().ok()?),
            Self::Int4(values) => values.append_value(text.parse().ok()?),
            Self::Int8(values) => values.append_value(text.parse().ok()?),
            Self::Float4(values) => values.append_value(text.parse().ok()?),
            Self::Float8(values) => values.append_value(text.parse().ok()?),
            Self::Date(values) => values.append_option(finite(text, date)?),
            Self::Time(values) => values.append_value(time(text)?),
            Self::Timestamp(values) => values.append_option(finite(text, moment)?),
            Self::Bytes(values) => values.append_value(bytea(text)?),
            // Above.
            Self::Text(_) => return None,
        }
        Some(())
    }
}

/// A value, or none where it is endless.
fn finite<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    match text {
        "infinity" | "-infinity" => Some(None),
        text => parse(text).map(Some),
    }
}

/// Days since 1970 of `2026-11-26` or `0044-03-15 BC`.
fn date(text: &str) -> Option<i32> {
    let (text, is_before) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    i32::try_from(days(text, is_before)?).ok()
}

fn days(text: &str, is_before: bool) -> Option<i64> {
    let mut parts = text.splitn(3, '-');
    let (year, month, day) = (digits(parts.next()?)?, digits(parts.next()?)?, digits(parts.next()?)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year > 10_000_000 {
        return None;
    }
    // There is no year 0: before year 1 comes 1 BC.
    let year = if is_before { 1 - year } else { year };
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * ERA_DAYS + day_of_era - DAYS_TO_1970)
}

/// Microseconds since midnight of `10:00:00.5`.
fn time(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, ':');
    let (hours, minutes, seconds) = (digits(parts.next()?)?, digits(parts.next()?)?, parts.next()?);
    let (seconds, places) = seconds.split_once('.').unwrap_or((seconds, ""));
    if places.len() > 6 || hours > 24 || minutes > 59 {
        return None;
    }
    let us = if places.is_empty() { 0 } else { digits(&format!("{places:0<6}"))? };
    Some(((hours * 60 + minutes) * 60 + digits(seconds)?) * 1_000_000 + us)
}

/// Microseconds since 1970 of `2026-11-26 10:00:00.5`, with `+00` where the type has a zone, and `BC` in the end.
fn moment(text: &str) -> Option<i64> {
    let (text, is_before) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (date, clock) = text.split_once(' ')?;
    let clock = clock.strip_suffix("+00").unwrap_or(clock);
    // The last of the server's days are beyond what 64 bits hold since 1970.
    Some(days(date, is_before)?.saturating_mul(DAY_US).saturating_add(time(clock)?))
}

/// Digits alone: no sign, no space.
fn digits(text: &str) -> Option<i64> {
    let is_number = (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// The bytes of `\x00ff`.
fn bytea(text: &str) -> Option<Vec<u8>> {
    let hex = text.strip_prefix("\\x")?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if !hex.len().is_multiple_of(2) {
        return None;
    }
    hex.chunks_exact(2).map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_and_times_are_those_of_the_server() {
        let check = |text: &str, expected: Option<i32>| assert_eq!(date(text), expected, "{text}");
        check("1970-01-01", Some(0));
        check("2000-02-29", Some(11_016));
        check("1969-12-31", Some(-1));
        check("0001-01-01", Some(-719_162));
        check("0001-12-31 BC", Some(-719_163));
        check("4714-11-24 BC", Some(-2_440_588));
        check("5874897-12-31", Some(2_145_042_905));
        check("2026-13-01", None);
        check("2026-+1-01", None);
        check("", None);
        assert_eq!(moment("1970-01-02 00:00:01.5+00"), Some(DAY_US + 1_500_000));
        assert_eq!(moment("1969-12-31 23:59:59.999999"), Some(-1));
        assert_eq!(moment("1970-01-02 00:00:01.5+02"), None, "the session is in UTC");
        assert_eq!((time("24:00:00"), time("10:00")), (Some(DAY_US), None));
        assert_eq!(bytea("\\x00fF"), Some(vec![0, 255]));
        assert_eq!((bytea("\\x0"), bytea("00"), bytea("\\xgg")), (None, None, None));
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in ".{0,40}", near in "[0-9]{0,9}-[0-9]{0,3}-[0-9]{0,3} [0-9:.]{0,20}( BC)?") {
            for text in [&text, &near] {
                drop((date(text), time(text), moment(text), bytea(text)));
            }
        }
    }
}
