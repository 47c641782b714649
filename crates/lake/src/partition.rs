//! From frames to the rows of files: system columns, days, order.

use std::collections::BTreeMap;
use std::sync::Arc;

use aap_types::{BatchId, SYSTEM_COLUMNS};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use arrow_select::take::take_record_batch;

use crate::Error;

/// Where rows without a time go, by the convention of Hive and Spark; also the rows of days beyond the limit.
const NO_DATE: &str = "__HIVE_DEFAULT_PARTITION__";
/// Most days that one load is spread over: ten years. A clock gone wild must not make a file of each row.
const DAYS_MAX: usize = 3660;
const DAY_US: i64 = 86_400_000_000;

/// The rows of one file, sorted.
#[derive(Debug)]
pub(crate) struct DayOfRows {
    /// `YYYY-MM-DD`.
    pub(crate) date: String,
    pub(crate) rows: RecordBatch,
    pub(crate) ts_min_us: i64,
    pub(crate) ts_max_us: i64,
}

/// Adds `_node, _epoch, _seq, _row` to the rows of a frame. A column of the source with such a name gives way.
pub(crate) fn identify(batch: &RecordBatch, id: &BatchId) -> Result<RecordBatch, Error> {
    let rows = batch.num_rows();
    let schema = batch.schema();
    let own = |name: &str| !SYSTEM_COLUMNS.iter().any(|system| system.eq_ignore_ascii_case(name));
    let kept = schema.fields().iter().zip(batch.columns()).filter(|(field, _)| own(field.name()));
    let (mut fields, mut columns): (Vec<Arc<Field>>, Vec<ArrayRef>) =
        kept.map(|(field, column)| (field.clone(), column.clone())).unzip();
    let values: [ArrayRef; 4] = [
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(id.key.node.as_str(), rows))),
        Arc::new(UInt64Array::from_value(id.key.epoch.0, rows)),
        Arc::new(UInt64Array::from_value(id.sequence.0, rows)),
        Arc::new(UInt64Array::from_iter_values(0..rows as u64)),
    ];
    for (name, values) in SYSTEM_COLUMNS.into_iter().zip(values) {
        fields.push(Arc::new(Field::new(name, values.data_type().clone(), true)));
        columns.push(values);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(Error::arrow("add system columns"))
}

/// The place of the `ts` column, if it is a time.
pub(crate) fn ts_column(schema: &Schema) -> Option<usize> {
    let (place, field) = schema.column_with_name("ts")?;
    matches!(field.data_type(), DataType::Timestamp(..)).then_some(place)
}

/// Sorts rows by `ts`, keeping the order of rows with the same, and cuts them by day.
pub(crate) fn by_day(rows: &RecordBatch) -> Result<Vec<DayOfRows>, Error> {
    let times = times_of(rows);
    let mut order: Vec<u32> = (0..u32::try_from(rows.num_rows()).unwrap_or(u32::MAX)).collect();
    order.sort_by_key(|row| times[*row as usize]);
    let mut days: BTreeMap<Option<i64>, Vec<u32>> = BTreeMap::new();
    for row in order {
        let mut day = times[row as usize].map(|ts| ts.div_euclid(DAY_US));
        if days.len() >= DAYS_MAX && !days.contains_key(&day) {
            day = None;
        }
        days.entry(day).or_default().push(row);
    }
    days.into_iter().map(|(day, picked)| day_of_rows(rows, &times, day, picked)).collect()
}

fn day_of_rows(
    rows: &RecordBatch,
    times: &[Option<i64>],
    day: Option<i64>,
    picked: Vec<u32>,
) -> Result<DayOfRows, Error> {
    let known = || picked.iter().filter_map(|row| times[*row as usize]);
    let (ts_min_us, ts_max_us) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
    let in_order = picked.len() == rows.num_rows() && picked.is_sorted();
    let rows = match in_order {
        true => rows.clone(),
        false => {
            take_record_batch(rows, &UInt32Array::from(picked)).map_err(Error::arrow("sort rows by time"))?
        }
    };
    Ok(DayOfRows { date: day.map_or_else(|| NO_DATE.to_owned(), date), rows, ts_min_us, ts_max_us })
}

fn times_of(rows: &RecordBatch) -> Vec<Option<i64>> {
    let column = ts_column(&rows.schema()).map(|place| rows.column(place));
    match column.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>()) {
        Some(times) => times.iter().collect(),
        None => vec![None; rows.num_rows()],
    }
}

/// The date of a day since 1970; days that no calendar has are [`NO_DATE`].
fn date(day: i64) -> String {
    let seconds = day.checked_mul(DAY_US / 1_000_000);
    let moment = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let date = moment.map(|moment| moment.to_zoned(jiff::tz::TimeZone::UTC).date());
    // Hive and Spark read four digits.
    date.filter(|date| date.year() >= 0).map_or_else(|| NO_DATE.to_owned(), |date| date.to_string())
}
