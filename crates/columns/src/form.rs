//! Types and names of columns.

use std::collections::HashSet;

use aap_types::ColumnType;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, TimeUnit};

const UTC: &str = "UTC";

/// Bytes that rows take in memory by themselves, whoever else shares their buffers.
pub fn held_bytes(rows: &RecordBatch) -> usize {
    let columns = rows.columns().iter().map(|column| {
        let data = column.to_data();
        data.get_slice_memory_size().unwrap_or_else(|_| data.get_array_memory_size())
    });
    columns.sum()
}

/// The type in which a column of frames is stored and scanned. `Null` stays: it gives way to any other.
pub fn stored(kind: &DataType) -> DataType {
    use DataType as T;
    match kind {
        T::Dictionary(_, values) => stored(values),
        T::RunEndEncoded(_, values) => stored(values.data_type()),
        T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => T::Binary,
        T::Float16 => T::Float32,
        T::Date64 => T::Date32,
        T::Time32(_) | T::Time64(_) => T::Time64(TimeUnit::Microsecond),
        T::Timestamp(_, zone) => T::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| UTC.into())),
        T::Decimal32(precision, scale) | T::Decimal64(precision, scale) | T::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            T::Decimal128(*precision, *scale)
        }
        T::Null | T::Boolean | T::Binary | T::Float32 | T::Float64 | T::Date32 => kind.clone(),
        integer if integer.is_integer() => integer.clone(),
        _ => T::Utf8,
    }
}

/// The one type of a column that has two, by the rule of [`ColumnType::unite`].
pub fn unite(one: &DataType, other: &DataType) -> DataType {
    match one == other {
        true => one.clone(),
        false => arrow_type(&sql_type(one).unite(&sql_type(other))).unwrap_or(DataType::Utf8),
    }
}

/// What SQL calls a type.
pub fn sql_type(kind: &DataType) -> ColumnType {
    use DataType as T;
    let integer = |signed, bytes| ColumnType::Integer { signed, bytes };
    match kind {
        T::Null => ColumnType::Null,
        T::Boolean => ColumnType::Boolean,
        T::Int8 => integer(true, 1),
        T::Int16 => integer(true, 2),
        T::Int32 => integer(true, 4),
        T::Int64 => integer(true, 8),
        T::UInt8 => integer(false, 1),
        T::UInt16 => integer(false, 2),
        T::UInt32 => integer(false, 4),
        T::UInt64 => integer(false, 8),
        T::Float16 | T::Float32 => ColumnType::Float,
        T::Float64 => ColumnType::Double,
        T::Timestamp(_, Some(_)) => ColumnType::TimestampTz,
        T::Timestamp(_, None) => ColumnType::Timestamp,
        T::Date32 | T::Date64 => ColumnType::Date,
        T::Time32(_) | T::Time64(_) => ColumnType::Time,
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => ColumnType::Blob,
        T::Utf8 | T::LargeUtf8 | T::Utf8View => ColumnType::Text,
        T::Dictionary(_, values) => sql_type(values),
        T::Decimal32(precision, scale) | T::Decimal64(precision, scale) | T::Decimal128(precision, scale) => {
            match u8::try_from(*scale) {
                Ok(scale) => ColumnType::Decimal { precision: *precision, scale },
                Err(_negative) => ColumnType::Text,
            }
        }
        other => ColumnType::Other(other.to_string()),
    }
}

/// The Arrow type that holds what SQL calls so; `None` for types that frames and lake files do not have.
pub fn arrow_type(kind: &ColumnType) -> Option<DataType> {
    use DataType as T;
    Some(match *kind {
        ColumnType::Null => T::Null,
        ColumnType::Boolean => T::Boolean,
        ColumnType::Integer { signed: true, bytes: 1 } => T::Int8,
        ColumnType::Integer { signed: true, bytes: 2 } => T::Int16,
        ColumnType::Integer { signed: true, bytes: 4 } => T::Int32,
        ColumnType::Integer { signed: true, .. } => T::Int64,
        ColumnType::Integer { bytes: 1, .. } => T::UInt8,
        ColumnType::Integer { bytes: 2, .. } => T::UInt16,
        ColumnType::Integer { bytes: 4, .. } => T::UInt32,
        ColumnType::Integer { .. } => T::UInt64,
        ColumnType::Float => T::Float32,
        ColumnType::Double => T::Float64,
        ColumnType::Decimal { precision, scale } => T::Decimal128(precision, i8::try_from(scale).ok()?),
        ColumnType::Text => T::Utf8,
        ColumnType::Blob => T::Binary,
        ColumnType::Date => T::Date32,
        ColumnType::Time => T::Time64(TimeUnit::Microsecond),
        ColumnType::Timestamp => T::Timestamp(TimeUnit::Microsecond, None),
        ColumnType::TimestampTz => T::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        ColumnType::HugeInt | ColumnType::Other(_) => return None,
    })
}

/// The fields under names that differ by more than case, because SQL does not see case: a second `Level` after `level`
/// becomes `Level_1`.
pub fn distinct_names(schema: &Schema) -> Vec<(String, &Field)> {
    let mut taken: HashSet<String> = HashSet::new();
    let named = schema.fields().iter().map(|field| {
        let plain = field.name().replace('\0', "");
        let mut name = plain.clone();
        let mut times = 0;
        while !taken.insert(name.to_lowercase()) {
            times += 1;
            name = format!("{plain}_{times}");
        }
        (name, field.as_ref())
    });
    named.collect()
}
