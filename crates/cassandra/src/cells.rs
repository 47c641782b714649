//! Arrow columns as cells of CQL.
//!
//! A column is brought into one of a few forms at once; a value is then a handful of bytes, big-endian, made on the stack.

use aap_columns::convert;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int64Array, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow_schema::{ArrowError, DataType, TimeUnit};

use crate::kind::Kind;

/// 1970-01-01 in Cassandra's count of days.
const DAY_ZERO: u32 = 1 << 31;
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Digits that hold every integer.
const WHOLE: DataType = DataType::Decimal128(38, 0);

/// A column, ready to be written.
#[derive(Debug)]
pub(crate) enum Cells {
    Boolean(BooleanArray),
    /// The last so many bytes of it.
    Integer(Int64Array, usize),
    Varint(Decimal128Array),
    Decimal(Decimal128Array, i32),
    Float(Float32Array),
    Double(Float64Array),
    Text(StringArray),
    Blob(BinaryArray),
    Date(Date32Array),
    Time(Time64MicrosecondArray),
    Millis(TimestampMicrosecondArray),
    Micros(TimestampMicrosecondArray),
}

impl Cells {
    /// `array` for a column of that type, which holds it.
    pub(crate) fn of(array: &ArrayRef, kind: Kind) -> Result<Self, ArrowError> {
        let integer = |bytes| Ok(Self::Integer(primitive::<Int64Type>(array, &DataType::Int64)?, bytes));
        match kind {
            Kind::Boolean => Ok(Self::Boolean(array.as_boolean().clone())),
            Kind::Tinyint => integer(1),
            Kind::Smallint => integer(2),
            Kind::Int => integer(4),
            Kind::Bigint => integer(8),
            Kind::Varint => Ok(Self::Varint(primitive::<Decimal128Type>(array, &WHOLE)?)),
            Kind::Decimal => match array.data_type() {
                DataType::Decimal128(_, scale) => {
                    Ok(Self::Decimal(array.as_primitive::<Decimal128Type>().clone(), i32::from(*scale)))
                }
                _ => Ok(Self::Decimal(primitive::<Decimal128Type>(array, &WHOLE)?, 0)),
            },
            Kind::Float => Ok(Self::Float(primitive::<Float32Type>(array, &DataType::Float32)?)),
            Kind::Double => Ok(Self::Double(primitive::<Float64Type>(array, &DataType::Float64)?)),
            Kind::Text => Ok(Self::Text(aap_columns::text(array)?.as_string::<i32>().clone())),
            Kind::Blob => Ok(Self::Blob(convert(array, &DataType::Binary)?.as_binary::<i32>().clone())),
            Kind::Date => Ok(Self::Date(primitive::<Date32Type>(array, &DataType::Date32)?)),
            Kind::Time => {
                let micros = DataType::Time64(TimeUnit::Microsecond);
                Ok(Self::Time(primitive::<Time64MicrosecondType>(array, &micros)?))
            }
            Kind::Timestamp => Ok(Self::Millis(micros(array)?)),
        }
    }

    /// The microseconds that stand beside a time.
    pub(crate) fn micros_of(array: &ArrayRef) -> Result<Self, ArrowError> {
        Ok(Self::Micros(micros(array)?))
    }

    fn array(&self) -> &dyn Array {
        match self {
            Self::Boolean(array) => array,
            Self::Integer(array, _) => array,
            Self::Varint(array) | Self::Decimal(array, _) => array,
            Self::Float(array) => array,
            Self::Double(array) => array,
            Self::Text(array) => array,
            Self::Blob(array) => array,
            Self::Date(array) => array,
            Self::Time(array) => array,
            Self::Millis(array) | Self::Micros(array) => array,
        }
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_absent(&self, row: usize) -> bool {
        self.array().is_null(row)
    }

    /// Hands the bytes of a value that is there to `take`.
    pub(crate) fn with<R>(&self, row: usize, take: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Self::Boolean(array) => take(&[u8::from(array.value(row))]),
            Self::Integer(array, bytes) => take(&array.value(row).to_be_bytes()[8 - bytes..]),
            Self::Varint(array) => take(shortest(&array.value(row).to_be_bytes())),
            Self::Decimal(array, scale) => {
                let unscaled = array.value(row).to_be_bytes();
                let short = shortest(&unscaled);
                let mut bytes = [0; 4 + size_of::<i128>()];
                bytes[..4].copy_from_slice(&scale.to_be_bytes());
                bytes[4..4 + short.len()].copy_from_slice(short);
                take(&bytes[..4 + short.len()])
            }
            Self::Float(array) => take(&array.value(row).to_be_bytes()),
            Self::Double(array) => take(&array.value(row).to_be_bytes()),
            Self::Text(array) => take(array.value(row).as_bytes()),
            Self::Blob(array) => take(array.value(row)),
            // Wraps around to the same day: both count 2^32 of them.
            Self::Date(array) => take(&DAY_ZERO.wrapping_add_signed(array.value(row)).to_be_bytes()),
            Self::Time(array) => take(&array.value(row).saturating_mul(1000).to_be_bytes()),
            Self::Millis(array) => take(&array.value(row).div_euclid(1000).to_be_bytes()),
            Self::Micros(array) => take(&array.value(row).to_be_bytes()),
        }
    }

    /// Bytes of a value, none if it is absent.
    pub(crate) fn size(&self, row: usize) -> usize {
        match self {
            _ if self.is_absent(row) => 0,
            Self::Text(array) => array.value_length(row) as usize,
            Self::Blob(array) => array.value_length(row) as usize,
            _ => self.with(row, <[u8]>::len),
        }
    }

    /// The rows with a value that the type cannot hold, and why.
    pub(crate) fn misfits(&self) -> Vec<(usize, String)> {
        let Self::Time(array) = self else { return vec![] };
        let outside = array.iter().enumerate().filter_map(|(row, value)| {
            let value = value.filter(|value| !(0..MICROS_PER_DAY).contains(value))?;
            Some((row, format!("{value} µs is no time of a day")))
        });
        outside.collect()
    }
}

fn primitive<T: arrow_array::ArrowPrimitiveType>(
    array: &ArrayRef,
    kind: &DataType,
) -> Result<arrow_array::PrimitiveArray<T>, ArrowError> {
    Ok(convert(array, kind)?.as_primitive::<T>().clone())
}

/// The instant, whatever the zone is called.
pub(crate) fn micros(array: &ArrayRef) -> Result<TimestampMicrosecondArray, ArrowError> {
    let zone = match array.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    primitive::<TimestampMicrosecondType>(array, &DataType::Timestamp(TimeUnit::Microsecond, zone))
}

/// Two's complement without the bytes that only repeat the sign.
fn shortest(bytes: &[u8; 16]) -> &[u8] {
    let repeats = |pair: &&[u8]| {
        matches!(pair, [0, next] if *next < 0x80) || matches!(pair, [0xFF, next] if *next >= 0x80)
    };
    let spare = bytes.windows(2).take_while(repeats).count();
    &bytes[spare..]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::UInt64Array;

    use super::*;

    #[test]
    fn integers_take_as_few_bytes_as_they_need() {
        let check = |value: i128, expected: &[u8]| {
            assert_eq!(shortest(&value.to_be_bytes()), expected, "{value}");
        };
        check(0, &[0]);
        check(-1, &[0xFF]);
        check(127, &[127]);
        check(128, &[0, 128]);
        check(-128, &[0x80]);
        check(-129, &[0xFF, 0x7F]);
        check(i128::from(u64::MAX), &[0, 255, 255, 255, 255, 255, 255, 255, 255]);
        check(i128::MIN, &i128::MIN.to_be_bytes());
    }

    #[test]
    fn cells_are_the_bytes_of_cql() {
        let check = |array: ArrayRef, kind: Kind, expected: &[u8]| {
            let cells = Cells::of(&array, kind).unwrap();
            assert_eq!(cells.with(0, <[u8]>::to_vec), expected, "{kind:?}");
            assert_eq!(cells.size(0), expected.len());
        };
        check(Arc::new(Int64Array::from(vec![-2])), Kind::Smallint, &[0xFF, 0xFE]);
        check(
            Arc::new(UInt64Array::from(vec![u64::MAX])),
            Kind::Decimal,
            &[0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255],
        );
        check(Arc::new(Date32Array::from(vec![-1])), Kind::Date, &[0x7F, 0xFF, 0xFF, 0xFF]);
        check(Arc::new(Date32Array::from(vec![i32::MAX])), Kind::Date, &[0xFF; 4]);
        check(Arc::new(TimestampMicrosecondArray::from(vec![-1])), Kind::Timestamp, &[0xFF; 8]);
        check(Arc::new(Time64MicrosecondArray::from(vec![1])), Kind::Time, &[0, 0, 0, 0, 0, 0, 3, 0xE8]);
        let times = Cells::of(
            &(Arc::new(Time64MicrosecondArray::from(vec![Some(MICROS_PER_DAY), None, Some(0)])) as ArrayRef),
            Kind::Time,
        )
        .unwrap();
        assert_eq!(times.misfits(), [(0, "86400000000 µs is no time of a day".to_owned())]);
    }
}
