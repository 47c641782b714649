//! Binary COPY as Arrow.
//!
//! ```text
//!  PGCOPY\n\xff\r\n\0 | flags i32 | extension i32, bytes          the header
//!  fields i16 | (length i32 | bytes) × fields                     a row; length −1 is NULL
//!  −1 i16                                                          the end
//! ```
//! <https://www.postgresql.org/docs/current/sql-copy.html>

use std::collections::HashMap;
use std::sync::Arc;

use aap_federation::TYPE_KEY;
use aap_types::{ExitCode, Problem};
use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Float32Builder, Float64Builder, Int16Builder, Int32Builder,
    Int64Builder, StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::copy::{Digits, Held};
use crate::names::quoted;
use crate::table::Column;

/// Rows of a batch: what a scan of the engine takes at a time, times four.
const BATCH_ROWS: usize = 8192;
/// Bytes of texts after which a batch ends before it has its rows.
const BATCH_BYTES: usize = 8 << 20;
/// Where the server's times begin, in microseconds and days since 1970.
pub(crate) const EPOCH_US: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;
/// Digits that the engine's DECIMAL holds.
const DECIMAL_DIGITS_MAX: i32 = 38;
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0";
const HEADER_BYTES: usize = HEADER.len() + 8;

/// The form of a column on the wire, and in the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Date,
    Time,
    Timestamp {
        zone: bool,
    },
    Bytes,
    /// As text, which the engine takes for this type.
    Text(String),
}

impl Kind {
    /// As the engine's SQL calls it.
    pub(crate) fn type_name(&self) -> String {
        match self {
            Self::Bool => "BOOLEAN",
            Self::Int2 => "SMALLINT",
            Self::Int4 => "INTEGER",
            Self::Int8 => "BIGINT",
            Self::Float4 => "FLOAT",
            Self::Float8 => "DOUBLE",
            Self::Date => "DATE",
            Self::Time => "TIME",
            Self::Timestamp { zone: true } => "TIMESTAMP WITH TIME ZONE",
            Self::Timestamp { zone: false } => "TIMESTAMP",
            Self::Bytes => "BLOB",
            Self::Text(name) => name,
        }
        .to_owned()
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 => DataType::Int64,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp { zone } => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.then(|| "UTC".into()))
            }
            Self::Bytes => DataType::Binary,
            Self::Text(_) => DataType::Utf8,
        }
    }
}

/// A column of the answer.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    name: String,
    /// What the server is asked for.
    pub(crate) sql: String,
    pub(crate) kind: Kind,
}

impl Fetched {
    /// A column of a table under another name.
    pub(crate) fn of(column: &Column, name: &str) -> Self {
        let expression = quoted(&column.name);
        Self::shaped(column, &expression, name)
    }

    /// A column for rows that are kept: no digit is rounded, and what is endless is not there, for no day could hold it.
    pub(crate) fn kept(column: &Column, name: &str) -> Self {
        let expression = quoted(&column.name);
        match column.held {
            Held::Numeric(_) => {
                let kind = Kind::Text("VARCHAR".to_owned());
                Self { name: name.to_owned(), sql: format!("({expression})::text"), kind }
            }
            Held::Timestamp(_) | Held::Date => {
                let finite = format!("CASE WHEN isfinite({expression}) THEN {expression} END");
                Self::shaped(column, &finite, name)
            }
            _ => Self::shaped(column, &expression, name),
        }
    }

    /// An expression of a column's type.
    pub(crate) fn of_expression(column: &Column, expression: &str, name: &str) -> Self {
        Self::shaped(column, expression, name)
    }

    fn shaped(column: &Column, expression: &str, name: &str) -> Self {
        let text = |type_name: &str| (format!("({expression})::text"), Kind::Text(type_name.to_owned()));
        let plain = |kind: Kind| (expression.to_owned(), kind);
        let (sql, kind) = match column.held {
            Held::Bool => plain(Kind::Bool),
            Held::Int(2) => plain(Kind::Int2),
            Held::Int(4) => plain(Kind::Int4),
            Held::Int(_) => plain(Kind::Int8),
            Held::Numeric(Some(digits)) if is_decimal(digits) => {
                text(&format!("DECIMAL({},{})", digits.precision, digits.places))
            }
            Held::Numeric(_) => (format!("({expression})::float8"), Kind::Float8),
            Held::Float4 => plain(Kind::Float4),
            Held::Float8 => plain(Kind::Float8),
            Held::Bytea => plain(Kind::Bytes),
            Held::Date => plain(Kind::Date),
            Held::Time(_) if column.declared.contains("with time zone") => text("VARCHAR"),
            Held::Time(_) => plain(Kind::Time),
            Held::Timestamp(_) => plain(Kind::Timestamp { zone: column.declared.contains("with time zone") }),
            Held::Uuid => text("UUID"),
            Held::Text(_) | Held::Label | Held::Json | Held::Jsonb | Held::Other => text("VARCHAR"),
        };
        Self { name: name.to_owned(), sql, kind }
    }

    /// A column that only counts rows.
    pub(crate) fn counter() -> Self {
        Self { name: "__row".to_owned(), sql: "true".to_owned(), kind: Kind::Bool }
    }

    /// A moment that is the row's `ts`.
    pub(crate) fn time(expression: &str) -> Self {
        let kind = Kind::Timestamp { zone: true };
        Self { name: "ts".to_owned(), sql: expression.to_owned(), kind }
    }

    /// A number of rows.
    pub(crate) fn count(expression: &str, name: &str) -> Self {
        Self { name: name.to_owned(), sql: expression.to_owned(), kind: Kind::Int8 }
    }

    /// A sum of integers.
    pub(crate) fn huge(expression: &str, name: &str) -> Self {
        let sql = format!("({expression})::text");
        Self { name: name.to_owned(), sql, kind: Kind::Text("HUGEINT".to_owned()) }
    }

    pub(crate) fn field(&self) -> Field {
        let metadata = HashMap::from([(TYPE_KEY.to_owned(), self.kind.type_name())]);
        Field::new(&self.name, self.kind.data_type(), true).with_metadata(metadata)
    }
}

/// Whether the engine's DECIMAL holds it.
pub(crate) fn is_decimal(digits: Digits) -> bool {
    digits.precision <= DECIMAL_DIGITS_MAX && (0..=digits.precision).contains(&digits.places)
}

pub(crate) enum Values {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Bytes(BinaryBuilder),
    Text(StringBuilder),
}

impl Values {
    pub(crate) fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Bool => Self::Bool(BooleanBuilder::new()),
            Kind::Int2 => Self::Int2(Int16Builder::new()),
            Kind::Int4 => Self::Int4(Int32Builder::new()),
            Kind::Int8 => Self::Int8(Int64Builder::new()),
            Kind::Float4 => Self::Float4(Float32Builder::new()),
            Kind::Float8 => Self::Float8(Float64Builder::new()),
            Kind::Date => Self::Date(Date32Builder::new()),
            Kind::Time => Self::Time(Time64MicrosecondBuilder::new()),
            Kind::Timestamp { .. } => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(kind.data_type()))
            }
            Kind::Bytes => Self::Bytes(BinaryBuilder::new()),
            Kind::Text(_) => Self::Text(StringBuilder::new()),
        }
    }

    /// Appends a field. `None`: it has another length than its type.
    fn push(&mut self, field: Option<&[u8]>) -> Option<()> {
        /// The bytes of a number; NULL stays NULL.
        fn number<const N: usize>(field: Option<&[u8]>) -> Option<Option<[u8; N]>> {
            field.map_or(Some(None), |bytes| Some(Some(bytes.try_into().ok()?)))
        }
        match self {
            Self::Bool(values) => values.append_option(number::<1>(field)?.map(|bytes| bytes[0] != 0)),
            Self::Int2(values) => values.append_option(number(field)?.map(i16::from_be_bytes)),
            Self::Int4(values) => values.append_option(number(field)?.map(i32::from_be_bytes)),
            Self::Int8(values) => values.append_option(number(field)?.map(i64::from_be_bytes)),
            Self::Float4(values) => values.append_option(number(field)?.map(f32::from_be_bytes)),
            Self::Float8(values) => values.append_option(number(field)?.map(f64::from_be_bytes)),
            Self::Date(values) => {
                values.append_option(number(field)?.map(|bytes| day(i32::from_be_bytes(bytes))));
            }
            Self::Time(values) => values.append_option(number(field)?.map(i64::from_be_bytes)),
            Self::Timestamp(values) => {
                values.append_option(number(field)?.map(|bytes| moment(i64::from_be_bytes(bytes))));
            }
            Self::Bytes(values) => values.append_option(field),
            Self::Text(values) => match field {
                None => values.append_null(),
                Some(bytes) => values.append_value(text_of(bytes)),
            },
        }
        Some(())
    }

    pub(crate) fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(values) => Arc::new(values.finish()),
            Self::Int2(values) => Arc::new(values.finish()),
            Self::Int4(values) => Arc::new(values.finish()),
            Self::Int8(values) => Arc::new(values.finish()),
            Self::Float4(values) => Arc::new(values.finish()),
            Self::Float8(values) => Arc::new(values.finish()),
            Self::Date(values) => Arc::new(values.finish()),
            Self::Time(values) => Arc::new(values.finish()),
            Self::Timestamp(values) => Arc::new(values.finish()),
            Self::Bytes(values) => Arc::new(values.finish()),
            Self::Text(values) => Arc::new(values.finish()),
        }
    }
}

/// Days since 1970. `infinity` and `-infinity` are the engine's.
fn day(days: i32) -> i32 {
    match days {
        i32::MAX => i32::MAX,
        i32::MIN => -i32::MAX,
        // The server's dates end long before.
        days => days.saturating_add(EPOCH_DAYS),
    }
}

/// Microseconds since 1970, likewise.
fn moment(us: i64) -> i64 {
    match us {
        i64::MAX => i64::MAX,
        i64::MIN => -i64::MAX,
        us => us.saturating_add(EPOCH_US),
    }
}

/// The client asks for UTF-8; a database in SQL_ASCII sends what it has.
fn text_of(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Rows of a COPY as batches.
pub(crate) struct Decoder {
    schema: SchemaRef,
    values: Vec<Values>,
    /// What came of a row that is not whole.
    rest: Vec<u8>,
    has_begun: bool,
    has_ended: bool,
    rows: usize,
    bytes: usize,
}

/// Takes a batch.
type Emit<'a> = &'a mut dyn FnMut(RecordBatch) -> Result<(), Problem>;

impl Decoder {
    pub(crate) fn new(columns: &[Fetched]) -> Self {
        let schema = Schema::new(columns.iter().map(Fetched::field).collect::<Vec<_>>());
        let values = columns.iter().map(|column| Values::of(&column.kind)).collect();
        let (rest, has_begun, has_ended) = Default::default();
        Self { schema: Arc::new(schema), values, rest, has_begun, has_ended, rows: 0, bytes: 0 }
    }

    /// The next bytes, cut anywhere.
    pub(crate) fn take(
        &mut self,
        part: &[u8],
        mut emit: impl FnMut(RecordBatch) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let joined;
        let mut input = if self.rest.is_empty() {
            part
        } else {
            self.rest.extend_from_slice(part);
            joined = std::mem::take(&mut self.rest);
            &joined
        };
        if !self.has_begun {
            if input.len() < HEADER_BYTES {
                self.rest = input.to_vec();
                return Ok(());
            }
            if !input.starts_with(HEADER) {
                return Err(broken());
            }
            (input, self.has_begun) = (&input[HEADER_BYTES..], true);
        }
        while let Some(after) = self.row(input)? {
            input = after;
            if self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES {
                self.emit(&mut emit)?;
            }
        }
        self.rest = input.to_vec();
        Ok(())
    }

    /// The end of the answer.
    pub(crate) fn finish(
        &mut self,
        mut emit: impl FnMut(RecordBatch) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        if !self.has_ended || !self.rest.is_empty() {
            return Err(broken());
        }
        if self.rows > 0 { self.emit(&mut emit) } else { Ok(()) }
    }

    fn emit(&mut self, emit: Emit<'_>) -> Result<(), Problem> {
        let arrays = self.values.iter_mut().map(Values::finish).collect();
        let batch =
            RecordBatch::try_new(self.schema.clone(), arrays).map_err(|error| broken().caused_by(&error))?;
        (self.rows, self.bytes) = (0, 0);
        emit(batch)
    }

    /// Takes one row off the front; `None` where it is not whole. Fields are looked at twice, so that no half row is taken.
    fn row<'a>(&mut self, input: &'a [u8]) -> Result<Option<&'a [u8]>, Problem> {
        if self.has_ended {
            return if input.is_empty() { Ok(None) } else { Err(broken()) };
        }
        let Some((count, mut after)) = input.split_first_chunk::<2>() else { return Ok(None) };
        let count = i16::from_be_bytes(*count);
        if count == -1 {
            self.has_ended = true;
            return Ok(Some(after));
        }
        if usize::try_from(count).ok() != Some(self.values.len()) {
            return Err(broken());
        }
        let fields = after;
        for _ in 0..count {
            match field(after)? {
                Some((_, rest)) => after = rest,
                None => return Ok(None),
            }
        }
        let mut at = fields;
        for values in &mut self.values {
            let Some((field, rest)) = field(at)? else { return Ok(None) };
            values.push(field).ok_or_else(broken)?;
            at = rest;
        }
        self.rows += 1;
        self.bytes += fields.len() - after.len();
        Ok(Some(after))
    }
}

/// A field and what follows it.
type Taken<'a> = (Option<&'a [u8]>, &'a [u8]);

fn field(input: &[u8]) -> Result<Option<Taken<'_>>, Problem> {
    let Some((length, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
    match i32::from_be_bytes(*length) {
        -1 => Ok(Some((None, rest))),
        length => {
            let length = usize::try_from(length).map_err(|_| broken())?;
            Ok(rest.split_at_checked(length).map(|(field, rest)| (Some(field), rest)))
        }
    }
}

fn broken() -> Problem {
    Problem::new(
        "query.remote_refused",
        ExitCode::Failed,
        "PostgreSQL sent rows in a form that is not the one asked for",
    )
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;

    use super::*;

    type Rows = Vec<(Option<i64>, Option<String>)>;

    fn copy(rows: &[(Option<i64>, Option<&str>)]) -> Vec<u8> {
        let mut out = HEADER.to_vec();
        out.extend([0; 8]);
        for (number, text) in rows {
            out.extend(2_i16.to_be_bytes());
            let fields = [
                number.map(|number| number.to_be_bytes().to_vec()),
                text.map(|text| text.as_bytes().to_vec()),
            ];
            for field in fields {
                let length = field.as_ref().map_or(-1, |bytes| bytes.len() as i32);
                out.extend(length.to_be_bytes());
                out.extend(field.unwrap_or_default());
            }
        }
        out.extend((-1_i16).to_be_bytes());
        out
    }

    fn columns() -> Vec<Fetched> {
        let text = Kind::Text("VARCHAR".to_owned());
        let text = Fetched { name: "t".to_owned(), sql: "t".to_owned(), kind: text };
        vec![Fetched::count("n", "n"), text]
    }

    fn decode(bytes: &[u8], size: usize) -> Result<Rows, Problem> {
        let mut decoder = Decoder::new(&columns());
        let mut rows = vec![];
        let mut emit = |batch: RecordBatch| {
            let (numbers, texts) =
                (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>());
            let texts = texts.iter().map(|text| text.map(str::to_owned));
            rows.extend(numbers.iter().zip(texts));
            Ok(())
        };
        for part in bytes.chunks(size) {
            decoder.take(part, &mut emit)?;
        }
        decoder.finish(&mut emit)?;
        Ok(rows)
    }

    #[test]
    fn rows_come_whole_however_the_answer_is_cut_and_a_torn_answer_is_an_error() {
        let rows: Vec<(Option<i64>, Option<&str>)> =
            vec![(Some(1), Some("one")), (None, Some("")), (Some(-3), None)];
        let bytes = copy(&rows);
        let expected: Vec<_> = rows.iter().map(|(number, text)| (*number, text.map(str::to_owned))).collect();
        for size in 1..=bytes.len() {
            assert_eq!(decode(&bytes, size).unwrap(), expected, "in parts of {size}");
        }
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end], 7).is_err(), "cut after {end}");
        }
        let more = [bytes.as_slice(), b"x"].concat();
        assert!(decode(&more, 5).is_err());
    }
}
