//! One schema for batches that differ: columns are united by name; where types differ, the wider one wins.
//!
//! | types met | becomes |
//! |---|---|
//! | the same, or one is missing or null | that type |
//! | integers | Int64; UInt64 if all are unsigned |
//! | numbers, one of them a float | Float64 |
//! | timestamps | microseconds, UTC |
//! | anything else | Utf8, as text |

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_cast::{can_cast_types, cast};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow_select::concat::concat_batches;

use crate::Error;

/// The type of `ts` and every other time.
pub(crate) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// A schema that can hold every row of `schemas`. Columns stand in the order in which they first appear.
pub(crate) fn unite_schemas<'a>(schemas: impl IntoIterator<Item = &'a Schema>) -> SchemaRef {
    let mut fields: Vec<(String, DataType)> = vec![];
    let mut places: HashMap<String, usize> = HashMap::new();
    for field in schemas.into_iter().flat_map(|schema| schema.fields()) {
        match places.get(field.name()) {
            Some(&place) => fields[place].1 = widen(&fields[place].1, field.data_type()),
            None => {
                places.insert(field.name().clone(), fields.len());
                fields.push((field.name().clone(), plain(field.data_type())));
            }
        }
    }
    let stored = |kind| if kind == DataType::Null { DataType::Utf8 } else { kind };
    let fields = fields.into_iter().map(|(name, kind)| Field::new(name, stored(kind), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// All rows of `batches` in one batch of the united schema.
pub(crate) fn unite(batches: &[RecordBatch]) -> Result<RecordBatch, Error> {
    let schemas: Vec<SchemaRef> = batches.iter().map(RecordBatch::schema).collect();
    let united = unite_schemas(schemas.iter().map(AsRef::as_ref));
    let conformed = batches.iter().map(|batch| conform(batch, &united)).collect::<Result<Vec<_>, _>>()?;
    concat_batches(&united, &conformed).map_err(Error::arrow("put batches one after the other"))
}

fn conform(batch: &RecordBatch, to: &SchemaRef) -> Result<RecordBatch, Error> {
    let columns = to.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => convert(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    });
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(to.clone(), columns.collect::<Result<_, _>>()?, &options)
        .map_err(Error::arrow("bring a batch into the form of its stream"))
}

fn convert(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, Error> {
    if column.data_type() == to {
        return Ok(column.clone());
    }
    if can_cast_types(column.data_type(), to) {
        return cast(column, to).map_err(Error::arrow("widen a column"));
    }
    let doing = "write a column as text";
    let options = FormatOptions::default();
    let shown = ArrayFormatter::try_new(column.as_ref(), &options).map_err(Error::arrow(doing))?;
    let text = (0..column.len()).map(|row| match column.is_null(row) {
        true => Ok(None),
        false => shown.value(row).try_to_string().map(Some),
    });
    let text = text.collect::<Result<StringArray, _>>().map_err(Error::arrow(doing))?;
    Ok(Arc::new(text))
}

/// The type without its encoding.
fn plain(kind: &DataType) -> DataType {
    match kind {
        DataType::Dictionary(_, value) => plain(value),
        DataType::RunEndEncoded(_, value) => plain(value.data_type()),
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Timestamp(..) => timestamp(),
        DataType::Float16 => DataType::Float32,
        other => other.clone(),
    }
}

fn widen(known: &DataType, met: &DataType) -> DataType {
    let met = plain(met);
    match (known, &met) {
        (a, b) if a == b => met,
        (DataType::Null, _) => met,
        (_, DataType::Null) => known.clone(),
        (a, b) if a.is_unsigned_integer() && b.is_unsigned_integer() => DataType::UInt64,
        (a, b) if a.is_integer() && b.is_integer() => DataType::Int64,
        (a, b) if is_number(a) && is_number(b) => DataType::Float64,
        _ => DataType::Utf8,
    }
}

fn is_number(kind: &DataType) -> bool {
    kind.is_integer() || kind.is_floating()
}

/// The name under which SQL knows a type.
pub(crate) fn sql_type(kind: &DataType) -> String {
    match kind {
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INTEGER",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "UTINYINT",
        DataType::UInt16 => "USMALLINT",
        DataType::UInt32 => "UINTEGER",
        DataType::UInt64 => "UBIGINT",
        DataType::Float16 | DataType::Float32 => "FLOAT",
        DataType::Float64 => "DOUBLE",
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE",
        DataType::Timestamp(_, None) => "TIMESTAMP",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Time32(_) | DataType::Time64(_) => "TIME",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "BLOB"
        }
        DataType::Dictionary(_, value) => return sql_type(value),
        DataType::Decimal128(precision, scale) => return format!("DECIMAL({precision},{scale})"),
        _ => "VARCHAR",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use arrow_array::types::Int32Type;
    use arrow_array::{DictionaryArray, Float64Array, Int64Array, StructArray};

    use super::*;

    fn check(columns: &[ArrayRef], expected: (DataType, &[Option<&str>])) {
        let batches: Vec<_> =
            columns.iter().map(|c| RecordBatch::try_from_iter([("c", c.clone())]).unwrap()).collect();
        let united = unite(&batches).unwrap();
        assert_eq!(united.column(0).data_type(), &expected.0);
        let text = cast(united.column(0), &DataType::Utf8).unwrap();
        let text = text.as_any().downcast_ref::<StringArray>().unwrap();
        assert_eq!(text.iter().collect::<Vec<_>>(), expected.1);
    }

    #[test]
    fn columns_of_one_name_take_the_wider_type_and_lose_no_row() {
        let int = || Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef;
        let float = || Arc::new(Float64Array::from(vec![0.5])) as ArrayRef;
        let text = || Arc::new(StringArray::from(vec!["x"])) as ArrayRef;
        let dictionary = || Arc::new(DictionaryArray::<Int32Type>::from_iter(["d", "d"])) as ArrayRef;
        let nulls = || new_null_array(&DataType::Null, 1);
        check(&[int(), float()], (DataType::Float64, &[Some("1.0"), None, Some("0.5")]));
        check(&[int(), text()], (DataType::Utf8, &[Some("1"), None, Some("x")]));
        check(&[dictionary(), text()], (DataType::Utf8, &[Some("d"), Some("d"), Some("x")]));
        check(&[nulls(), int()], (DataType::Int64, &[None, Some("1"), None]));
        check(&[nulls()], (DataType::Utf8, &[None]));
    }

    #[test]
    fn a_nested_column_beside_a_number_becomes_text() {
        let field = Arc::new(Field::new("a", DataType::Int64, true));
        let nested =
            Arc::new(StructArray::from(vec![(field, Arc::new(Int64Array::from(vec![7])) as ArrayRef)]));
        check(&[nested, Arc::new(Int64Array::from(vec![1]))], (DataType::Utf8, &[Some("{a: 7}"), Some("1")]));
    }

    #[test]
    fn a_missing_column_is_null() {
        let left =
            RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
        let right =
            RecordBatch::try_from_iter([("b", Arc::new(Int64Array::from(vec![2])) as ArrayRef)]).unwrap();
        let united = unite(&[left, right]).unwrap();
        assert_eq!(united.num_rows(), 2);
        assert!(united.column(0).is_null(1) && united.column(1).is_null(0));
    }
}
