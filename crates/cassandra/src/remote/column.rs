//! Values of CQL as Arrow. Types without a form of their own come as the server's JSON of them.

use std::collections::HashMap;
use std::sync::Arc;

use aap_federation::TYPE_KEY;
use aap_types::{ExitCode, Problem};
use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Float32Builder, Float64Builder, Int8Builder, Int16Builder,
    Int32Builder, Int64Builder, StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use scylla::value::{CqlValue, Row};

use crate::names::quoted;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;
/// 1970-01-01 in Cassandra's count of days.
const DAY_ZERO: i64 = 1 << 31;

/// A column of the answer.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    name: String,
    /// What the cluster is asked for.
    pub(super) cql: String,
    data_type: DataType,
    type_name: Option<&'static str>,
}

impl Fetched {
    /// A column of a table, of that type.
    pub(super) fn of(name: &str, kind: &str) -> Self {
        let plain = quoted(name);
        let text = |cql: String, type_name| (cql, DataType::Utf8, type_name);
        let (cql, data_type, type_name) = match kind {
            "boolean" => (plain, DataType::Boolean, None),
            "tinyint" => (plain, DataType::Int8, None),
            "smallint" => (plain, DataType::Int16, None),
            "int" => (plain, DataType::Int32, None),
            "bigint" | "counter" => (plain, DataType::Int64, None),
            "float" => (plain, DataType::Float32, None),
            "double" => (plain, DataType::Float64, None),
            "text" | "varchar" | "ascii" => (plain, DataType::Utf8, None),
            "blob" => (plain, DataType::Binary, None),
            "date" => (plain, DataType::Date32, None),
            "time" => (plain, DataType::Time64(TimeUnit::Microsecond), None),
            "timestamp" => (plain, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), None),
            "uuid" | "timeuuid" => text(format!("CAST({plain} AS text)"), Some("UUID")),
            "varint" => text(format!("CAST({plain} AS text)"), Some("HUGEINT")),
            // Each value has a scale of its own.
            "decimal" => (format!("CAST({plain} AS double)"), DataType::Float64, None),
            _ => text(format!("toJson({plain})"), None),
        };
        Self { name: name.to_owned(), cql, data_type, type_name }
    }

    fn field(&self) -> Field {
        let field = Field::new(&self.name, self.data_type.clone(), true);
        match self.type_name {
            Some(name) => field.with_metadata(HashMap::from([(TYPE_KEY.to_owned(), name.to_owned())])),
            None => field,
        }
    }
}

enum Column {
    Bool(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Text(StringBuilder),
    Blob(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl Column {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Int8 => Self::Int8(Int8Builder::new()),
            DataType::Int16 => Self::Int16(Int16Builder::new()),
            DataType::Int32 => Self::Int32(Int32Builder::new()),
            DataType::Int64 => Self::Int64(Int64Builder::new()),
            DataType::Float32 => Self::Float32(Float32Builder::new()),
            DataType::Float64 => Self::Float64(Float64Builder::new()),
            DataType::Binary => Self::Blob(BinaryBuilder::new()),
            DataType::Date32 => Self::Date(Date32Builder::new()),
            DataType::Time64(_) => Self::Time(Time64MicrosecondBuilder::new()),
            DataType::Timestamp(..) => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(data_type.clone()))
            }
            _ => Self::Text(StringBuilder::new()),
        }
    }

    /// Appends a value. `None`: it is of another type than was asked for.
    fn push(&mut self, value: Option<CqlValue>) -> Option<()> {
        use CqlValue as V;
        // An empty value of a type that has none is what old drivers wrote for NULL.
        let value = value.filter(|value| !matches!(value, V::Empty));
        match (self, value) {
            (Self::Bool(to), value) => {
                to.append_option(value.map(|value| value.as_boolean().ok_or(())).transpose().ok()?)
            }
            (Self::Int8(to), None) => to.append_null(),
            (Self::Int8(to), Some(V::TinyInt(value))) => to.append_value(value),
            (Self::Int16(to), None) => to.append_null(),
            (Self::Int16(to), Some(V::SmallInt(value))) => to.append_value(value),
            (Self::Int32(to), None) => to.append_null(),
            (Self::Int32(to), Some(V::Int(value))) => to.append_value(value),
            (Self::Int64(to), None) => to.append_null(),
            (Self::Int64(to), Some(V::BigInt(value))) => to.append_value(value),
            (Self::Int64(to), Some(V::Counter(value))) => to.append_value(value.0),
            (Self::Float32(to), None) => to.append_null(),
            (Self::Float32(to), Some(V::Float(value))) => to.append_value(value),
            (Self::Float64(to), None) => to.append_null(),
            (Self::Float64(to), Some(V::Double(value))) => to.append_value(value),
            (Self::Text(to), None) => to.append_null(),
            (Self::Text(to), Some(V::Text(value) | V::Ascii(value))) => to.append_value(value),
            (Self::Blob(to), None) => to.append_null(),
            (Self::Blob(to), Some(V::Blob(value))) => to.append_value(value),
            (Self::Date(to), None) => to.append_null(),
            (Self::Date(to), Some(V::Date(value))) => {
                to.append_option(i32::try_from(i64::from(value.0) - DAY_ZERO).ok());
            }
            (Self::Time(to), None) => to.append_null(),
            (Self::Time(to), Some(V::Time(value))) => to.append_value(value.0 / 1000),
            (Self::Timestamp(to), None) => to.append_null(),
            (Self::Timestamp(to), Some(V::Timestamp(value))) => to.append_option(value.0.checked_mul(1000)),
            _ => return None,
        }
        Some(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(values) => Arc::new(values.finish()),
            Self::Int8(values) => Arc::new(values.finish()),
            Self::Int16(values) => Arc::new(values.finish()),
            Self::Int32(values) => Arc::new(values.finish()),
            Self::Int64(values) => Arc::new(values.finish()),
            Self::Float32(values) => Arc::new(values.finish()),
            Self::Float64(values) => Arc::new(values.finish()),
            Self::Text(values) => Arc::new(values.finish()),
            Self::Blob(values) => Arc::new(values.finish()),
            Self::Date(values) => Arc::new(values.finish()),
            Self::Time(values) => Arc::new(values.finish()),
            Self::Timestamp(values) => Arc::new(values.finish()),
        }
    }
}

/// Rows on their way into batches.
pub(super) struct Values {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
}

impl Values {
    pub(super) fn new(columns: &[Fetched]) -> Self {
        let schema = Arc::new(Schema::new(columns.iter().map(Fetched::field).collect::<Vec<_>>()));
        Self {
            schema,
            columns: columns.iter().map(|column| Column::of(&column.data_type)).collect(),
            rows: 0,
        }
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Takes a row; a batch when it is full.
    pub(super) fn push(&mut self, row: Row) -> Result<Option<RecordBatch>, Problem> {
        if row.columns.len() != self.columns.len() {
            return Err(broken());
        }
        for (column, value) in self.columns.iter_mut().zip(row.columns) {
            column.push(value).ok_or_else(broken)?;
        }
        self.rows += 1;
        if self.rows >= BATCH_ROWS { self.finish() } else { Ok(None) }
    }

    /// What is left.
    pub(super) fn finish(&mut self) -> Result<Option<RecordBatch>, Problem> {
        if std::mem::take(&mut self.rows) == 0 {
            return Ok(None);
        }
        let arrays = self.columns.iter_mut().map(Column::finish).collect();
        let batch = RecordBatch::try_new(self.schema.clone(), arrays);
        batch.map(Some).map_err(|error| broken().caused_by(&error))
    }
}

fn broken() -> Problem {
    Problem::new(
        "query.remote_refused",
        ExitCode::Failed,
        "Cassandra sent a value of another type than was asked for",
    )
}
