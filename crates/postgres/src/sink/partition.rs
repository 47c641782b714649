//! Partitions of a table, made ahead of the rows that go there.

use std::collections::BTreeSet;

use aap_sinks::Slice;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_schema::{DataType, TimeUnit};
use tokio_postgres::types::Type;

use super::spec::{Partition, TIME_COLUMN};
use crate::connection::{Error, Session};
use crate::copy::Held;
use crate::names::{TableName, literal, quoted};
use crate::table::Table;

/// Most partitions that one group may make: a year of days, and some. A source whose clock runs wild must not make thousands;
/// the rest of its rows goes to the default partition.
const NEW_MAX: usize = 400;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A day of the proleptic Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Day {
    year: i64,
    month: u8,
    day: u8,
}

impl Day {
    /// From days since 1970 (Hinnant's algorithm).
    fn of(days: i64) -> Self {
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = (of_year - (153 * from_march + 2) / 5 + 1) as u8;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 } as u8;
        Self { year: year_of_era + era * 400 + i64::from(month <= 2), month, day }
    }

    fn next_month(self) -> Self {
        match self.month {
            12 => Self { year: self.year + 1, month: 1, day: 1 },
            month => Self { month: month + 1, day: 1, ..self },
        }
    }

    /// A moment of the column's type.
    fn literal(self) -> String {
        literal(&format!("{:04}-{:02}-{:02} 00:00:00+00", self.year, self.month, self.day))
    }
}

/// One partition: how its table's name ends, and the range of it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    ending: String,
    from: String,
    to: String,
}

impl Piece {
    /// The one that a day since 1970 lies in. `None` for days that no table needs a name for.
    fn of(partition: Partition, days: i64) -> Option<Self> {
        let day = Day::of(days);
        if !(1..=9999).contains(&day.year) {
            return None;
        }
        match partition {
            Partition::None => None,
            Partition::Day => Some(Self {
                ending: format!("_p{:04}{:02}{:02}", day.year, day.month, day.day),
                from: day.literal(),
                to: Day::of(days + 1).literal(),
            }),
            Partition::Month => {
                let first = Day { day: 1, ..day };
                Some(Self {
                    ending: format!("_p{:04}{:02}", day.year, day.month),
                    from: first.literal(),
                    to: first.next_month().literal(),
                })
            }
        }
    }
}

/// Makes those that the rows of these slices need and the table does not have.
pub(crate) async fn ahead(
    session: &Session,
    partition: Partition,
    table: &Table,
    slices: &[&Slice],
) -> Result<(), Error> {
    let is_time = table.column(TIME_COLUMN).is_some_and(|column| matches!(column.held, Held::Timestamp(_)));
    if partition == Partition::None || !is_time {
        return Ok(());
    }
    let pieces: BTreeSet<Piece> =
        days(slices).into_iter().filter_map(|day| Piece::of(partition, day)).collect();
    let known = known(session, &table.name).await?;
    let new = pieces.iter().map(|piece| (piece, table.name.beside(&piece.ending)));
    for (piece, name) in new.filter(|(_, name)| !known.contains(&name.table)).take(NEW_MAX) {
        make(session, &table.name, &name, piece).await?;
    }
    Ok(())
}

/// Days since 1970 on which the slices have rows.
fn days(slices: &[&Slice]) -> BTreeSet<i64> {
    let mut days = BTreeSet::new();
    for slice in slices {
        let Some(times) = slice.rows.column_by_name(TIME_COLUMN) else { continue };
        if !matches!(times.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
            continue;
        }
        let mut last = None;
        for micros in times.as_primitive::<TimestampMicrosecondType>().iter().flatten() {
            // Rows come in order of time, more or less: most are of the day of the one before.
            let day = micros.div_euclid(MICROS_PER_DAY);
            if last.replace(day) != Some(day) {
                days.insert(day);
            }
        }
    }
    days
}

/// The names of all partitions of a table.
async fn known(session: &Session, table: &TableName) -> Result<BTreeSet<String>, Error> {
    let sql = "SELECT c.relname::text FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid \
               WHERE i.inhparent = to_regclass($1)";
    let rows = session.query("look for partitions", sql, &[(&table.to_string(), Type::TEXT)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn make(session: &Session, table: &TableName, name: &TableName, piece: &Piece) -> Result<(), Error> {
    let Piece { from, to, .. } = piece;
    // Rows that the default partition has already would be in the wrong place then, and the server refuses. Theirs stay there;
    // so does whatever follows, and nothing is lost.
    let column = quoted(TIME_COLUMN);
    let taken = format!(
        "SELECT 1 FROM {} WHERE {column} >= {from} AND {column} < {to} LIMIT 1",
        table.beside("_default")
    );
    let default = table.beside("_default").to_string();
    let exists = "SELECT 1 WHERE to_regclass($1) IS NOT NULL";
    let found = session.query("look for the default partition", exists, &[(&default, Type::TEXT)]).await?;
    if !found.is_empty() && !session.query("look into the default partition", &taken, &[]).await?.is_empty() {
        tracing::debug!(%table, partition = %name, "the default partition has rows of this time: they stay there");
        return Ok(());
    }
    let statement = format!("CREATE TABLE {name} PARTITION OF {table} FOR VALUES FROM ({from}) TO ({to})");
    session.batch("make a partition", &statement).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_months_of_the_calendar() {
        let check = |partition, days, ending: &str, from: &str, to: &str| {
            let moment = |day: &str| literal(&format!("{day} 00:00:00+00"));
            let expected = Piece { ending: ending.to_owned(), from: moment(from), to: moment(to) };
            assert_eq!(Piece::of(partition, days), Some(expected));
        };
        check(Partition::Day, 0, "_p19700101", "1970-01-01", "1970-01-02");
        check(Partition::Day, -1, "_p19691231", "1969-12-31", "1970-01-01");
        check(Partition::Day, 19_782, "_p20240229", "2024-02-29", "2024-03-01");
        check(Partition::Month, 20_783, "_p202611", "2026-11-01", "2026-12-01");
        check(Partition::Month, 20_800, "_p202612", "2026-12-01", "2027-01-01");
        assert_eq!(Piece::of(Partition::Day, 106_751_991), None, "year 294247");
    }
}
