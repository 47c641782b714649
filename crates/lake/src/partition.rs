//! Which file a row goes to, and in which order: days, and time within a day.

use std::collections::BTreeMap;

use crate::Error;
use crate::rows::Part;
use crate::unite::United;

/// Where rows without a time go, by the convention of Hive and Spark; also the rows of days beyond the limit.
const NO_DATE: &str = "__HIVE_DEFAULT_PARTITION__";
/// Most days that one load is spread over: ten years. A clock gone wild must not make a file of each row.
const DAYS_MAX: usize = 3660;
const DAY_US: i64 = 86_400_000_000;

/// A row, in the order of its file: time, then as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) ts: i64,
    pub(crate) part: u32,
    pub(crate) row: u32,
}

/// The rows of one file, sorted.
#[derive(Debug)]
pub(crate) struct Day {
    /// `YYYY-MM-DD`.
    pub(crate) date: String,
    /// Without a time, in the order in which they came. They stand first.
    pub(crate) timeless: Vec<Moment>,
    pub(crate) rows: Vec<Moment>,
}

impl Day {
    /// All rows as (part, row).
    pub(crate) fn picks(&self) -> impl Iterator<Item = (usize, usize)> {
        self.timeless.iter().chain(&self.rows).map(|moment| (moment.part as usize, moment.row as usize))
    }

    /// The smallest and largest time, or zeros.
    pub(crate) fn time_range(&self) -> (i64, i64) {
        let ends = (self.rows.first(), self.rows.last());
        (ends.0.map_or(0, |moment| moment.ts), ends.1.map_or(0, |moment| moment.ts))
    }
}

/// Sorts the rows of all parts and cuts them by day.
pub(crate) fn by_day(parts: &[Part], united: &United) -> Result<Vec<Day>, Error> {
    let (mut timeless, mut rows) = (vec![], vec![]);
    for (part, content) in (0u32..).zip(parts) {
        for (row, ts) in (0u32..).zip(content.times(united)?) {
            match ts {
                Some(ts) => rows.push(Moment { ts, part, row }),
                None => timeless.push(Moment { ts: 0, part, row }),
            }
        }
    }
    rows.sort_unstable();
    let mut days: BTreeMap<Option<i64>, Day> = BTreeMap::new();
    let mut rest = rows.as_slice();
    while let Some(first) = rest.first() {
        let day = first.ts.div_euclid(DAY_US);
        let end = rest.partition_point(|moment| moment.ts.div_euclid(DAY_US) == day);
        let (here, later) = rest.split_at(end);
        rest = later;
        let full = days.len() >= DAYS_MAX;
        let place = if full { None } else { date(day).map(|_| day) };
        day_of(&mut days, place).rows.extend_from_slice(here);
    }
    if !timeless.is_empty() {
        day_of(&mut days, None).timeless = timeless;
    }
    Ok(days.into_values().collect())
}

fn day_of(days: &mut BTreeMap<Option<i64>, Day>, day: Option<i64>) -> &mut Day {
    days.entry(day).or_insert_with(|| Day {
        date: day.and_then(date).unwrap_or_else(|| NO_DATE.to_owned()),
        timeless: vec![],
        rows: vec![],
    })
}

/// The date of a day since 1970; none for days that no calendar has.
fn date(day: i64) -> Option<String> {
    let seconds = day.checked_mul(DAY_US / 1_000_000)?;
    let date = jiff::Timestamp::from_second(seconds).ok()?.to_zoned(jiff::tz::TimeZone::UTC).date();
    // Hive and Spark read four digits.
    (date.year() >= 0).then(|| date.to_string())
}
