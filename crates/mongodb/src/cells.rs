//! Arrow columns as values of BSON.
//!
//! | Arrow | BSON |
//! |---|---|
//! | Boolean | bool |
//! | Int8, Int16, Int32, UInt8, UInt16 | int |
//! | Int64, UInt32 | long |
//! | UInt64 | long; beyond it decimal, or text with `decimals: text` |
//! | Float32, Float64 | double |
//! | Decimal128 | decimal up to its 34 digits, text beyond; text with `decimals: text` |
//! | Utf8, Binary | string, binary |
//! | Timestamp | date, rounded down to milliseconds, and a long of microseconds beside it |
//! | Date32 | date: midnight in UTC |
//! | Time64, and the rest | text, in the form of `aap_columns::text` |
//!
//! A sink's columns are never nested: `aap_columns::stored` has made texts of those.

use aap_columns::convert;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, DecimalType, Float64Type, Int32Type, Int64Type,
    TimestampMicrosecondType, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array,
    Int64Array, PrimitiveArray, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use mongodb::bson::raw::{CStr, RawDocumentBuf};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{DateTime, Decimal128, RawBinaryRef};

use crate::spec::Decimals;

const MS_PER_DAY: i64 = 86_400_000;
/// The largest coefficient of a decimal: 34 digits.
const COEFFICIENT_MAX: u128 = 10_u128.pow(34) - 1;
/// What is added to a decimal's exponent, and where it stands.
const EXPONENT_BIAS: i128 = 6176;
const EXPONENT_SHIFT: u32 = 113;
const SIGN: u128 = 1 << 127;

/// A column, ready to be written.
#[derive(Debug)]
pub(crate) enum Cells {
    Boolean(BooleanArray),
    Int(Int32Array),
    Long(Int64Array),
    Unsigned(UInt64Array, Decimals),
    Double(Float64Array),
    Decimal(Decimal128Array),
    Text(StringArray),
    Binary(BinaryArray),
    Day(Date32Array),
    Time(TimestampMicrosecondArray),
    Micros(TimestampMicrosecondArray),
}

impl Cells {
    /// A column.
    pub(crate) fn of(array: &ArrayRef, decimals: Decimals) -> Result<Self, ArrowError> {
        use DataType as T;
        Ok(match array.data_type() {
            T::Boolean => Self::Boolean(array.as_boolean().clone()),
            T::Int8 | T::Int16 | T::Int32 | T::UInt8 | T::UInt16 => {
                Self::Int(primitive::<Int32Type>(array, &T::Int32)?)
            }
            T::Int64 | T::UInt32 => Self::Long(primitive::<Int64Type>(array, &T::Int64)?),
            T::UInt64 => Self::Unsigned(primitive::<UInt64Type>(array, &T::UInt64)?, decimals),
            T::Float32 | T::Float64 => Self::Double(primitive::<Float64Type>(array, &T::Float64)?),
            T::Decimal128(..) if decimals == Decimals::Decimal128 => {
                Self::Decimal(array.as_primitive::<Decimal128Type>().clone())
            }
            T::Binary => Self::Binary(array.as_binary::<i32>().clone()),
            T::Date32 => Self::Day(array.as_primitive::<Date32Type>().clone()),
            T::Timestamp(..) => Self::Time(micros(array)?),
            _ => Self::Text(aap_columns::text(array)?.as_string::<i32>().clone()),
        })
    }

    /// The microseconds that stand beside a time.
    pub(crate) fn micros_of(array: &ArrayRef) -> Result<Self, ArrowError> {
        Ok(Self::Micros(micros(array)?))
    }

    fn array(&self) -> &dyn Array {
        match self {
            Self::Boolean(array) => array,
            Self::Int(array) => array,
            Self::Long(array) => array,
            Self::Unsigned(array, _) => array,
            Self::Double(array) => array,
            Self::Decimal(array) => array,
            Self::Text(array) => array,
            Self::Binary(array) => array,
            Self::Day(array) => array,
            Self::Time(array) | Self::Micros(array) => array,
        }
    }

    /// Appends the value of a row, if it has one.
    pub(crate) fn append(&self, row: usize, name: &CStr, document: &mut RawDocumentBuf) {
        if self.array().is_null(row) {
            return;
        }
        match self {
            Self::Boolean(array) => document.append(name, array.value(row)),
            Self::Int(array) => document.append(name, array.value(row)),
            Self::Long(array) => document.append(name, array.value(row)),
            Self::Unsigned(array, decimals) => append_unsigned(array.value(row), *decimals, name, document),
            Self::Double(array) => document.append(name, array.value(row)),
            Self::Decimal(array) => match decimal(array.value(row), array.scale()) {
                Some(decimal) => document.append(name, decimal),
                None => document.append(name, digits(array, row).as_str()),
            },
            Self::Text(array) => document.append(name, array.value(row)),
            Self::Binary(array) => {
                let bytes = array.value(row);
                document.append(name, RawBinaryRef { subtype: BinarySubtype::Generic, bytes });
            }
            Self::Day(array) => {
                document.append(name, DateTime::from_millis(i64::from(array.value(row)) * MS_PER_DAY));
            }
            Self::Time(array) => {
                document.append(name, DateTime::from_millis(array.value(row).div_euclid(1000)));
            }
            Self::Micros(array) => document.append(name, array.value(row)),
        }
    }
}

fn append_unsigned(value: u64, decimals: Decimals, name: &CStr, document: &mut RawDocumentBuf) {
    match (i64::try_from(value), decimals) {
        (Ok(value), _) => document.append(name, value),
        (Err(_), Decimals::Text) => document.append(name, value.to_string().as_str()),
        (Err(_), Decimals::Decimal128) => {
            let decimal = decimal(i128::from(value), 0).expect("64 bits have 20 digits");
            document.append(name, decimal);
        }
    }
}

/// IEEE 754-2008, 128 bits, binary integer decimal: sign, exponent, coefficient. `None` if it has too many digits.
fn decimal(unscaled: i128, scale: i8) -> Option<Decimal128> {
    let coefficient = unscaled.unsigned_abs();
    if coefficient > COEFFICIENT_MAX {
        return None;
    }
    let exponent = (EXPONENT_BIAS - i128::from(scale)).unsigned_abs() << EXPONENT_SHIFT;
    let sign = if unscaled < 0 { SIGN } else { 0 };
    Some(Decimal128::from_bytes((sign | exponent | coefficient).to_le_bytes()))
}

fn digits(array: &Decimal128Array, row: usize) -> String {
    Decimal128Type::format_decimal(array.value(row), array.precision(), array.scale())
}

fn primitive<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    kind: &DataType,
) -> Result<PrimitiveArray<T>, ArrowError> {
    Ok(convert(array, kind)?.as_primitive::<T>().clone())
}

/// The instant, whatever the zone is called.
fn micros(array: &ArrayRef) -> Result<TimestampMicrosecondArray, ArrowError> {
    primitive::<TimestampMicrosecondType>(array, &DataType::Timestamp(TimeUnit::Microsecond, None))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Float32Array, Int8Array, Time64MicrosecondArray, UInt16Array, UInt32Array};
    use mongodb::bson::raw::cstr;
    use mongodb::bson::{Binary, Bson, Document};

    use super::*;

    fn value(array: &ArrayRef, decimals: Decimals) -> Option<Bson> {
        let mut document = RawDocumentBuf::new();
        Cells::of(array, decimals).unwrap().append(0, cstr!("x"), &mut document);
        Document::try_from(document).unwrap().remove("x")
    }

    #[track_caller]
    fn check(array: impl Array + 'static, expected: Bson) {
        assert_eq!(value(&(Arc::new(array) as ArrayRef), Decimals::Decimal128), Some(expected));
    }

    fn decimals(value: i128, precision: u8, scale: i8) -> Decimal128Array {
        Decimal128Array::from(vec![value]).with_precision_and_scale(precision, scale).unwrap()
    }

    #[test]
    fn values_keep_their_type_and_everything_in_them() {
        check(BooleanArray::from(vec![true]), Bson::Boolean(true));
        check(Int8Array::from(vec![-1]), Bson::Int32(-1));
        check(UInt16Array::from(vec![u16::MAX]), Bson::Int32(65535));
        check(UInt32Array::from(vec![u32::MAX]), Bson::Int64(4_294_967_295));
        check(Int64Array::from(vec![i64::MIN]), Bson::Int64(i64::MIN));
        check(UInt64Array::from(vec![7]), Bson::Int64(7));
        check(UInt64Array::from(vec![u64::MAX]), Bson::Decimal128("18446744073709551615".parse().unwrap()));
        check(Float32Array::from(vec![0.5]), Bson::Double(0.5));
        check(StringArray::from(vec!["é\0"]), Bson::String("é\0".to_owned()));
        let binary = Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 255] };
        check(BinaryArray::from_vec(vec![&[0, 255][..]]), Bson::Binary(binary));
        check(Date32Array::from(vec![-1]), Bson::DateTime(DateTime::from_millis(-86_400_000)));
        check(Time64MicrosecondArray::from(vec![3_600_000_001]), Bson::String("01:00:00.000001".to_owned()));
        let nothing: ArrayRef = Arc::new(Int64Array::from(vec![None]));
        assert_eq!(value(&nothing, Decimals::Decimal128), None);
    }

    #[test]
    fn a_time_is_rounded_down_and_has_its_microseconds_beside_it() {
        let times = TimestampMicrosecondArray::from(vec![-1]).with_timezone("UTC");
        check(times.clone(), Bson::DateTime(DateTime::from_millis(-1)));
        let mut document = RawDocumentBuf::new();
        let times: ArrayRef = Arc::new(times);
        Cells::micros_of(&times).unwrap().append(0, cstr!("x"), &mut document);
        assert_eq!(document.get_i64("x").unwrap(), -1);
    }

    #[test]
    fn decimals_are_those_of_the_server_as_far_as_it_has_digits() {
        let parsed = |text: &str| Bson::Decimal128(text.parse().unwrap());
        check(decimals(101, 12, 2), parsed("1.01"));
        check(decimals(-100, 12, 2), parsed("-1.00"));
        check(decimals(0, 12, 2), parsed("0.00"));
        check(decimals(COEFFICIENT_MAX as i128, 38, 10), parsed("999999999999999999999999.9999999999"));
        let beyond = "1000000000000000000000000.0000000000".to_owned();
        check(decimals(COEFFICIENT_MAX as i128 + 1, 38, 10), Bson::String(beyond));
        let text = |array: ArrayRef| value(&array, Decimals::Text);
        assert_eq!(text(Arc::new(decimals(101, 12, 2))), Some(Bson::String("1.01".to_owned())));
        assert_eq!(
            text(Arc::new(UInt64Array::from(vec![u64::MAX]))),
            Some(Bson::String("18446744073709551615".to_owned()))
        );
        assert_eq!(text(Arc::new(UInt64Array::from(vec![7]))), Some(Bson::Int64(7)));
    }
}
