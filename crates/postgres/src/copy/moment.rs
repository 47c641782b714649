//! Dates and times as fields.
//!
//! PostgreSQL counts from 2000, in days and microseconds; Arrow from 1970. Either takes the ends of its range for infinity, and so
//! does DuckDB, with the least value but one for minus infinity.

use arrow_array::PrimitiveArray;
use arrow_array::types::{Date32Type, Time64MicrosecondType, TimestampMicrosecondType};

use super::field::Field;

/// From 1970-01-01 to 2000-01-01.
const DAYS_TO_2000: i64 = 10_957;
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// 4714-11-24 BC, the first day, counted from 2000.
const FIRST_DAY: i64 = -2_451_545;
/// The day after 5874897-12-31, the last day of a date.
const DAYS_END: i64 = 2_145_031_949;

/// Dates.
pub(super) fn dates(values: &PrimitiveArray<Date32Type>) -> Field<'_> {
    let day = move |row: usize| match values.value(row) {
        i32::MAX => Some(i32::MAX),
        days if days <= -i32::MAX => Some(i32::MIN),
        days => {
            let day = i64::from(days) - DAYS_TO_2000;
            (FIRST_DAY..DAYS_END).contains(&day).then_some(day as i32)
        }
    };
    let field = Field::fixed(values, move |row| day(row).unwrap_or_default().to_be_bytes());
    field.faulty(move |row| match day(row) {
        Some(_) => None,
        None => {
            Some(format!("the date {} days after 1970 is outside the range of PostgreSQL", values.value(row)))
        }
    })
}

/// Times of day, which may be 24:00.
pub(super) fn times(values: &PrimitiveArray<Time64MicrosecondType>, places: u32) -> Field<'_> {
    let field = Field::fixed(values, move |row| values.value(row).to_be_bytes());
    field.faulty(move |row| match values.value(row) {
        micros if !(0..=MICROS_PER_DAY).contains(&micros) => {
            Some(format!("{micros} microseconds after midnight is no time of day"))
        }
        micros => rounded(micros, places),
    })
}

/// Timestamps, with a zone or without. Counted from 1970, none is later than the last year of PostgreSQL.
pub(super) fn timestamps(values: &PrimitiveArray<TimestampMicrosecondType>, places: u32) -> Field<'_> {
    let moment = move |row: usize| match values.value(row) {
        i64::MAX => Some(i64::MAX),
        micros if micros <= -i64::MAX => Some(i64::MIN),
        micros => micros
            .checked_sub(DAYS_TO_2000 * MICROS_PER_DAY)
            .filter(|moment| *moment >= FIRST_DAY * MICROS_PER_DAY),
    };
    let field = Field::fixed(values, move |row| moment(row).unwrap_or_default().to_be_bytes());
    field.faulty(move |row| match moment(row) {
        Some(i64::MAX | i64::MIN) => None,
        Some(_) => rounded(values.value(row), places),
        None => Some(format!(
            "the time {} microseconds after 1970 is outside the range of PostgreSQL",
            values.value(row)
        )),
    })
}

/// A column that keeps fewer places of a second rounds without a word.
fn rounded(micros: i64, places: u32) -> Option<String> {
    let unit = 10_i64.pow(6_u32.saturating_sub(places));
    (micros % unit != 0)
        .then(|| format!("a time of {micros} microseconds has more than {places} places of a second"))
}
