//! One value as JSON or as plain text.
//!
//! | SQL | JSON |
//! |---|---|
//! | NULL | `null` |
//! | integers | a number; beyond 64 bits a text |
//! | DECIMAL | a number up to 15 digits, which a double holds exactly; beyond, a text |
//! | FLOAT, DOUBLE | the shortest number that reads back the same; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | TIMESTAMP WITH TIME ZONE | `"2026-11-23T22:15:00.123456Z"`; no fraction where it is zero |
//! | TIMESTAMP | the same without `Z`; DATE and TIME are its parts |
//! | BLOB | hexadecimal |
//! | LIST, STRUCT, MAP | array, object, object with the keys as texts |
//! | INTERVAL and the rest | text |
//!
//! Plain text (CSV) is the same without the quotes around texts.

use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::types as arrow;
use arrow_array::{Array, ArrowPrimitiveType, OffsetSizeTrait, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, IntervalUnit, Schema, TimeUnit};

/// JSON, or text without quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON.
    Json,
    /// Text without quotes.
    Plain,
}

/// Appends the value of a row.
pub type Writer<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

/// Digits that a double holds exactly.
const EXACT_DIGITS: usize = 15;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Whether a row is NULL, also through a dictionary.
pub fn is_null(array: &dyn Array, row: usize) -> bool {
    *array.data_type() == DataType::Null || array.is_null(row)
}

/// The writer of a column.
pub fn writer(array: &dyn Array, form: Form) -> Writer<'_> {
    let inner = present(array, form);
    if *array.data_type() == DataType::Null {
        return Box::new(|_, out| out.extend_from_slice(b"null"));
    }
    match array.nulls() {
        Some(nulls) if nulls.null_count() > 0 => Box::new(move |row, out| {
            if nulls.is_null(row) {
                out.extend_from_slice(b"null");
            } else {
                inner(row, out);
            }
        }),
        _ => inner,
    }
}

/// The rows of a batch as JSON objects, one member for each column.
pub struct Objects<'a> {
    keys: Vec<Vec<u8>>,
    writers: Vec<Writer<'a>>,
}

impl std::fmt::Debug for Objects<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("columns", &self.keys.len()).finish_non_exhaustive()
    }
}

impl<'a> Objects<'a> {
    /// The rows of `batch`.
    pub fn of(batch: &'a RecordBatch) -> Self {
        Self { keys: object_keys(&batch.schema()), writers: writers(batch, Form::Json) }
    }

    /// Appends one row.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        write_object(row, &self.keys, &self.writers, out);
    }
}

/// The writers of all columns.
pub fn writers(batch: &RecordBatch, form: Form) -> Vec<Writer<'_>> {
    batch.columns().iter().map(|column| writer(column.as_ref(), form)).collect()
}

/// `"name":` of each column. Of two columns of one name the second gets a number, since JSON keeps only one.
pub fn object_keys(schema: &Schema) -> Vec<Vec<u8>> {
    let mut taken: Vec<String> = vec![];
    for field in schema.fields() {
        let mut name = field.name().clone();
        let mut number = 1;
        while taken.contains(&name) {
            name = format!("{}_{number}", field.name());
            number += 1;
        }
        taken.push(name);
    }
    taken
        .iter()
        .map(|name| {
            let mut key = vec![];
            write_json_text(name, &mut key);
            key.push(b':');
            key
        })
        .collect()
}

/// Appends a row as an object with these keys.
pub fn write_object(row: usize, keys: &[Vec<u8>], writers: &[Writer<'_>], out: &mut Vec<u8>) {
    out.push(b'{');
    for (place, (key, write)) in keys.iter().zip(writers).enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(key);
        write(row, out);
    }
    out.push(b'}');
}

/// The writer of rows that are not NULL.
fn present(array: &dyn Array, form: Form) -> Writer<'_> {
    use DataType as T;
    match array.data_type() {
        T::Boolean => {
            let array = array.as_boolean();
            Box::new(move |row, out| out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }))
        }
        T::Int8 => number::<arrow::Int8Type>(array),
        T::Int16 => number::<arrow::Int16Type>(array),
        T::Int32 => number::<arrow::Int32Type>(array),
        T::Int64 => number::<arrow::Int64Type>(array),
        T::UInt8 => number::<arrow::UInt8Type>(array),
        T::UInt16 => number::<arrow::UInt16Type>(array),
        T::UInt32 => number::<arrow::UInt32Type>(array),
        T::UInt64 => number::<arrow::UInt64Type>(array),
        T::Float32 => {
            let array = array.as_primitive::<arrow::Float32Type>();
            Box::new(move |row, out| {
                let value = array.value(row);
                write_float(f64::from(value), form, out, |out| push(out, format_args!("{value:?}")));
            })
        }
        T::Float64 => {
            let array = array.as_primitive::<arrow::Float64Type>();
            Box::new(move |row, out| {
                let value = array.value(row);
                write_float(value, form, out, |out| push(out, format_args!("{value:?}")));
            })
        }
        T::Utf8 => {
            let array = array.as_string::<i32>();
            Box::new(move |row, out| write_text(array.value(row), form, out))
        }
        T::LargeUtf8 => {
            let array = array.as_string::<i64>();
            Box::new(move |row, out| write_text(array.value(row), form, out))
        }
        T::Utf8View => {
            let array = array.as_string_view();
            Box::new(move |row, out| write_text(array.value(row), form, out))
        }
        T::Binary => {
            let array = array.as_binary::<i32>();
            Box::new(move |row, out| write_hex(array.value(row), form, out))
        }
        T::LargeBinary => {
            let array = array.as_binary::<i64>();
            Box::new(move |row, out| write_hex(array.value(row), form, out))
        }
        T::FixedSizeBinary(_) => {
            let array = array.as_fixed_size_binary();
            Box::new(move |row, out| write_hex(array.value(row), form, out))
        }
        T::Decimal128(_, scale) => {
            let (array, scale) = (array.as_primitive::<arrow::Decimal128Type>(), *scale);
            Box::new(move |row, out| write_decimal(array.value(row), scale, form, out))
        }
        T::Interval(IntervalUnit::MonthDayNano) => {
            let array = array.as_primitive::<arrow::IntervalMonthDayNanoType>();
            Box::new(move |row, out| {
                let value = array.value(row);
                quoted(form, out, |out| write_interval(value.months, value.days, value.nanoseconds, out));
            })
        }
        T::Dictionary(_, _) => dictionary(array, form),
        T::List(_) => list::<i32>(array),
        T::LargeList(_) => list::<i64>(array),
        T::FixedSizeList(_, _) => fixed_list(array),
        T::Struct(_) => structure(array),
        T::Map(_, _) => map(array),
        _ => moment(array, form),
    }
}

fn number<T>(array: &dyn Array) -> Writer<'_>
where
    T: ArrowPrimitiveType,
    T::Native: std::fmt::Display,
{
    let array = array.as_primitive::<T>();
    Box::new(move |row, out| push(out, format_args!("{}", array.value(row))))
}

/// Dates and times; what is none of them becomes Arrow's own text.
fn moment(array: &dyn Array, form: Form) -> Writer<'_> {
    use DataType as T;
    let zoned = matches!(array.data_type(), T::Timestamp(_, Some(_)));
    match array.data_type() {
        T::Timestamp(TimeUnit::Second, _) => {
            stamp::<arrow::TimestampSecondType>(array, form, zoned, 1_000_000_000)
        }
        T::Timestamp(TimeUnit::Millisecond, _) => {
            stamp::<arrow::TimestampMillisecondType>(array, form, zoned, 1_000_000)
        }
        T::Timestamp(TimeUnit::Microsecond, _) => {
            stamp::<arrow::TimestampMicrosecondType>(array, form, zoned, 1_000)
        }
        T::Timestamp(TimeUnit::Nanosecond, _) => {
            stamp::<arrow::TimestampNanosecondType>(array, form, zoned, 1)
        }
        T::Date32 => {
            let array = array.as_primitive::<arrow::Date32Type>();
            Box::new(move |row, out| {
                let days = i64::from(array.value(row));
                quoted(form, out, |out| match array.value(row) {
                    i32::MAX => out.extend_from_slice(b"infinity"),
                    days if days == -i32::MAX => out.extend_from_slice(b"-infinity"),
                    _ => write_date(days, out),
                });
            })
        }
        T::Time64(TimeUnit::Microsecond) => {
            let array = array.as_primitive::<arrow::Time64MicrosecondType>();
            Box::new(move |row, out| {
                let micros = array.value(row);
                quoted(form, out, |out| write_time(i128::from(micros) * 1000, out));
            })
        }
        T::Time64(TimeUnit::Nanosecond) => {
            let array = array.as_primitive::<arrow::Time64NanosecondType>();
            Box::new(move |row, out| {
                let nanos = array.value(row);
                quoted(form, out, |out| write_time(i128::from(nanos), out));
            })
        }
        _ => formatted(array, form),
    }
}

fn stamp<T: ArrowPrimitiveType<Native = i64>>(
    array: &dyn Array,
    form: Form,
    zoned: bool,
    nanos_per_unit: i64,
) -> Writer<'_> {
    let array = array.as_primitive::<T>();
    Box::new(move |row, out| {
        let value = array.value(row);
        quoted(form, out, |out| match value {
            i64::MAX => out.extend_from_slice(b"infinity"),
            value if value == -i64::MAX => out.extend_from_slice(b"-infinity"),
            _ => write_timestamp(i128::from(value) * i128::from(nanos_per_unit), zoned, out),
        });
    })
}

fn formatted(array: &dyn Array, form: Form) -> Writer<'_> {
    const OPTIONS: FormatOptions<'static> = FormatOptions::new();
    match ArrayFormatter::try_new(array, &OPTIONS) {
        Ok(formatter) => Box::new(move |row, out| write_text(&formatter.value(row).to_string(), form, out)),
        Err(_) => Box::new(move |_, out| write_text("?", form, out)),
    }
}

fn dictionary(array: &dyn Array, form: Form) -> Writer<'_> {
    let dictionary = array.as_any_dictionary();
    if dictionary.values().is_empty() {
        // Nulls alone: no key can be looked up.
        return Box::new(|_, out| out.extend_from_slice(b"null"));
    }
    let values = writer(dictionary.values().as_ref(), form);
    let keys = dictionary.normalized_keys();
    Box::new(move |row, out| match keys.get(row) {
        Some(key) => values(*key, out),
        None => out.extend_from_slice(b"null"),
    })
}

fn list<O: OffsetSizeTrait>(array: &dyn Array) -> Writer<'_> {
    let array = array.as_list::<O>();
    let items = writer(array.values().as_ref(), Form::Json);
    Box::new(move |row, out| {
        let offsets = array.value_offsets();
        write_items(offsets[row].as_usize()..offsets[row + 1].as_usize(), &items, out);
    })
}

fn fixed_list(array: &dyn Array) -> Writer<'_> {
    let array = array.as_fixed_size_list();
    let items = writer(array.values().as_ref(), Form::Json);
    let length = array.value_length() as usize;
    Box::new(move |row, out| {
        let first = array.value_offset_at(row);
        write_items(first..first + length, &items, out);
    })
}

fn write_items(range: std::ops::Range<usize>, items: &Writer<'_>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (place, item) in range.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        items(item, out);
    }
    out.push(b']');
}

fn structure(array: &dyn Array) -> Writer<'_> {
    let array = array.as_struct();
    let fields: Vec<(Vec<u8>, Writer<'_>)> = array
        .fields()
        .iter()
        .zip(array.columns())
        .map(|(field, column)| {
            let mut key = vec![];
            write_json_text(field.name(), &mut key);
            key.push(b':');
            (key, writer(column.as_ref(), Form::Json))
        })
        .collect();
    Box::new(move |row, out| {
        out.push(b'{');
        for (place, (key, value)) in fields.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            out.extend_from_slice(key);
            value(row, out);
        }
        out.push(b'}');
    })
}

fn map(array: &dyn Array) -> Writer<'_> {
    let array = array.as_map();
    let keys = writer(array.keys().as_ref(), Form::Plain);
    let values = writer(array.values().as_ref(), Form::Json);
    Box::new(move |row, out| {
        let offsets = array.value_offsets();
        out.push(b'{');
        for (place, entry) in (offsets[row] as usize..offsets[row + 1] as usize).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            let mut key = vec![];
            keys(entry, &mut key);
            write_json_text(&String::from_utf8_lossy(&key), out);
            out.push(b':');
            values(entry, out);
        }
        out.push(b'}');
    })
}

/// Appends formatted text; a `Vec` takes everything.
fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok(), "writing to memory succeeds");
}

fn quoted(form: Form, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    if form == Form::Json {
        out.push(b'"');
    }
    write(out);
    if form == Form::Json {
        out.push(b'"');
    }
}

fn write_text(text: &str, form: Form, out: &mut Vec<u8>) {
    match form {
        Form::Json => write_json_text(text, out),
        Form::Plain => out.extend_from_slice(text.as_bytes()),
    }
}

/// A JSON string. Copies the runs between characters that need escaping.
pub fn write_json_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut done = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[done..at]);
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => push(out, format_args!("\\u{other:04x}")),
        }
        done = at + 1;
    }
    out.extend_from_slice(&bytes[done..]);
    out.push(b'"');
}

fn write_hex(bytes: &[u8], form: Form, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    quoted(form, out, |out| {
        for byte in bytes {
            out.push(DIGITS[usize::from(byte >> 4)]);
            out.push(DIGITS[usize::from(byte & 15)]);
        }
    });
}

fn write_float(value: f64, form: Form, out: &mut Vec<u8>, finite: impl FnOnce(&mut Vec<u8>)) {
    if value.is_finite() {
        finite(out);
    } else if value.is_nan() {
        write_text("NaN", form, out);
    } else {
        write_text(if value > 0.0 { "Infinity" } else { "-Infinity" }, form, out);
    }
}

fn write_decimal(value: i128, scale: i8, form: Form, out: &mut Vec<u8>) {
    let digits = value.unsigned_abs().to_string();
    let scale = usize::try_from(scale).unwrap_or(0);
    let whole_number = scale == 0 && (i64::try_from(value).is_ok() || u64::try_from(value).is_ok());
    let exact = whole_number || digits.len().max(scale) <= EXACT_DIGITS;
    let write = |out: &mut Vec<u8>| {
        if value < 0 {
            out.push(b'-');
        }
        let padded = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = padded.split_at(padded.len() - scale);
        out.extend_from_slice(whole.as_bytes());
        if scale > 0 {
            out.push(b'.');
            out.extend_from_slice(fraction.as_bytes());
        }
    };
    if exact { write(out) } else { quoted(form, out, write) }
}

fn write_timestamp(nanos: i128, zoned: bool, out: &mut Vec<u8>) {
    let nanos_per_day = i128::from(MICROS_PER_DAY) * 1000;
    let days = i64::try_from(nanos.div_euclid(nanos_per_day)).unwrap_or_default();
    write_date(days, out);
    out.push(b'T');
    write_time(nanos.rem_euclid(nanos_per_day), out);
    if zoned {
        out.push(b'Z');
    }
}

fn write_time(nanos: i128, out: &mut Vec<u8>) {
    let (seconds, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    push(out, format_args!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60));
    match fraction {
        0 => {}
        _ if fraction % 1_000_000 == 0 => push(out, format_args!(".{:03}", fraction / 1_000_000)),
        _ if fraction % 1_000 == 0 => push(out, format_args!(".{:06}", fraction / 1_000)),
        _ => push(out, format_args!(".{fraction:09}")),
    }
}

/// Days since 1970 as a date of the proleptic Gregorian calendar (Hinnant's algorithm).
fn write_date(days: i64, out: &mut Vec<u8>) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let sign = if year < 0 { "-" } else { "" };
    push(out, format_args!("{sign}{:04}-{month:02}-{day:02}", year.abs()));
}

fn write_interval(months: i32, days: i32, nanos: i64, out: &mut Vec<u8>) {
    let mut parts = vec![];
    for (number, unit) in [(months / 12, "year"), (months % 12, "month"), (days, "day")] {
        if number != 0 {
            parts.push(format!("{number} {unit}{}", if number.abs() == 1 { "" } else { "s" }));
        }
    }
    out.extend_from_slice(parts.join(" ").as_bytes());
    if nanos != 0 || parts.is_empty() {
        if !parts.is_empty() {
            out.push(b' ');
        }
        if nanos < 0 {
            out.push(b'-');
        }
        write_time(i128::from(nanos).abs(), out);
    }
}
