//! Values of one type as values of another, without losing any.

use std::fmt::Write;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType, UInt64Type,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray, StringArray, new_null_array};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use arrow_select::take::take;

use crate::{stored, value};

/// `array` as type `to`.
///
/// # Errors
/// If a value has no exact form in that type; text has one for every value.
pub fn convert(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    use DataType as T;
    match (array.data_type(), to) {
        (from, to) if from == to => Ok(array.clone()),
        (T::Null, to) => Ok(new_null_array(to, array.len())),
        (T::Dictionary(..), _) => {
            let dictionary = array.as_any_dictionary();
            convert(&take(dictionary.values().as_ref(), dictionary.keys(), None)?, to)
        }
        (T::RunEndEncoded(_, values), _) => convert(&exact_cast(array, values.data_type())?, to),
        (_, T::Utf8) => text(array),
        (T::Timestamp(..), T::Timestamp(TimeUnit::Microsecond, zone)) => {
            // The instant is the same in every zone; only the name changes, and a time without one is UTC.
            let zoned = match array.data_type() {
                T::Timestamp(_, zone) => T::Timestamp(TimeUnit::Microsecond, zone.clone()),
                other => other.clone(),
            };
            let times = exact_cast(array, &zoned)?;
            Ok(Arc::new(
                times.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(zone.clone()),
            ))
        }
        (from, T::Float64) if from.is_integer() || matches!(from, T::Decimal128(_, 0)) => exact_float(array),
        _ => exact_cast(array, to),
    }
}

/// Casts, and refuses where a value would become NULL.
fn exact_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let cast = cast_with_options(array, to, &options)?;
    match cast.null_count() == array.null_count() {
        true => Ok(cast),
        false => Err(inexact(array.data_type(), to)),
    }
}

fn exact_float(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let floats = exact_cast(array, &DataType::Float64)?;
    let values = floats.as_primitive::<Float64Type>();
    let is_exact = match array.data_type() {
        // The largest float of each range rounds up beyond it, so the way back is through a wider integer.
        DataType::UInt64 => all_exact::<UInt64Type>(array, values, i128::from),
        DataType::Decimal128(..) => all_exact::<Decimal128Type>(array, values, |value| value),
        DataType::Int64 => all_exact::<Int64Type>(array, values, i128::from),
        _ => true,
    };
    if is_exact { Ok(floats) } else { Err(inexact(array.data_type(), &DataType::Float64)) }
}

fn all_exact<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    floats: &PrimitiveArray<Float64Type>,
    widen: impl Fn(T::Native) -> i128,
) -> bool {
    let whole = array.as_primitive::<T>();
    let mut pairs = whole.iter().zip(floats.iter());
    pairs.all(|pair| match pair {
        (Some(value), Some(float)) => float as i128 == widen(value),
        _ => true,
    })
}

fn inexact(from: &DataType, to: &DataType) -> ArrowError {
    ArrowError::CastError(format!("a value of type {from} has no exact form as {to}"))
}

/// Every value as text.
///
/// # Errors
/// If Arrow cannot show a type at all.
pub fn text(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    use DataType as T;
    let options = CastOptions { safe: false, ..CastOptions::default() };
    match array.data_type() {
        T::Utf8 => Ok(array.clone()),
        T::LargeUtf8 | T::Utf8View => cast_with_options(array, &T::Utf8, &options),
        T::Null => Ok(new_null_array(&T::Utf8, array.len())),
        T::Binary => {
            Ok(Arc::new(array.as_binary::<i32>().iter().map(|b| b.map(escaped)).collect::<StringArray>()))
        }
        T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => {
            text(&cast_with_options(array, &T::Binary, &options)?)
        }
        // Arrow shows only zones that are offsets; an instant is the same in any.
        T::Timestamp(_, Some(_)) => zoned(&convert(array, &stored(array.data_type()))?),
        _ => shown(array),
    }
}

/// Instants in UTC, as answers show them.
fn zoned(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let write = value::writer(array.as_ref(), value::Form::Plain);
    let show = |row| {
        let mut text = vec![];
        write(row, &mut text);
        String::from_utf8(text).map_err(|error| ArrowError::ExternalError(Box::new(error)))
    };
    let rows = 0..array.len();
    let shown = rows.map(|row| (!array.is_null(row)).then(|| show(row)).transpose());
    Ok(Arc::new(shown.collect::<Result<StringArray, _>>()?))
}

/// As SQL casts `BLOB` to `VARCHAR`, which it can cast back.
fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\\' | b'\'' | b'"' => write!(out, "\\x{byte:02X}"),
            b' '..=b'~' => out.write_char(byte.into()),
            _ => write!(out, "\\x{byte:02X}"),
        }
        .expect("writing to memory cannot fail");
    }
    out
}

fn shown(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::new().with_display_error(false);
    let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
    let show = |row: usize| match array.is_null(row) {
        true => Ok(None),
        // A time that no calendar has is still a number.
        false => formatter.value(row).try_to_string().or_else(|_| number(&array.slice(row, 1))).map(Some),
    };
    Ok(Arc::new((0..array.len()).map(show).collect::<Result<StringArray, _>>()?))
}

fn number(one: &ArrayRef) -> Result<String, ArrowError> {
    let number =
        cast_with_options(one, &DataType::Int64, &CastOptions { safe: false, ..CastOptions::default() })?;
    Ok(number.as_primitive::<Int64Type>().value(0).to_string())
}
