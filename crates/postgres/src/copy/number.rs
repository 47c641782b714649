//! Numbers as fields.

use std::ops::RangeInclusive;

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Decimal128Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, PrimitiveArray};

use super::field::Field;
use super::held::Digits;
use super::{Held, numeric};

/// Whole numbers of any width.
pub(super) fn integers<'a, T>(array: &'a ArrayRef, held: Held) -> Option<Field<'a>>
where
    T: ArrowPrimitiveType,
    T::Native: Into<i128>,
{
    let values = array.as_primitive::<T>();
    let value = move |row: usize| -> i128 { values.value(row).into() };
    match held {
        Held::Float4 => {
            let field = Field::fixed(values, move |row| (value(row) as f32).to_be_bytes());
            Some(field.faulty(move |row| inexact(value(row), value(row) as f32 as i128, "real")))
        }
        Held::Float8 => {
            let field = Field::fixed(values, move |row| (value(row) as f64).to_be_bytes());
            Some(field.faulty(move |row| inexact(value(row), value(row) as f64 as i128, "double precision")))
        }
        _ => whole(values, value, held),
    }
}

fn inexact(value: i128, rounded: i128, kind: &str) -> Option<String> {
    (value != rounded).then(|| format!("{value} has no exact form as {kind}"))
}

/// Whole numbers, in the types of those.
fn whole<'a, T: ArrowPrimitiveType>(
    values: &'a PrimitiveArray<T>,
    value: impl Fn(usize) -> i128 + Send + Sync + Copy + 'a,
    held: Held,
) -> Option<Field<'a>> {
    // Cutting off is right where the fault finds none.
    let (field, range) = match held {
        Held::Int(2) => (Field::fixed(values, move |row| (value(row) as i16).to_be_bytes()), range::<i16>()),
        Held::Int(4) => (Field::fixed(values, move |row| (value(row) as i32).to_be_bytes()), range::<i32>()),
        Held::Int(_) => (Field::fixed(values, move |row| (value(row) as i64).to_be_bytes()), range::<i64>()),
        Held::Numeric(digits) => return Some(in_digits(values, value, 0, digits)),
        _ => return None,
    };
    // One look at all of them, which most columns pass, is cheaper than one at each.
    if (0..values.len()).all(|row| values.is_null(row) || range.contains(&value(row))) {
        return Some(field);
    }
    Some(field.faulty(move |row| {
        let value = value(row);
        (!range.contains(&value))
            .then(|| format!("{value} is not between {} and {}", range.start(), range.end()))
    }))
}

fn range<T: Bounded>() -> RangeInclusive<i128> {
    T::LEAST..=T::GREATEST
}

/// A signed integer of the server.
trait Bounded {
    const LEAST: i128;
    const GREATEST: i128;
}

macro_rules! bounded {
    ($($type:ty),*) => {
        $(impl Bounded for $type {
            const LEAST: i128 = <$type>::MIN as i128;
            const GREATEST: i128 = <$type>::MAX as i128;
        })*
    };
}
bounded!(i16, i32, i64);

/// Decimals.
pub(super) fn decimals(values: &PrimitiveArray<Decimal128Type>, scale: i8, held: Held) -> Option<Field<'_>> {
    let value = move |row: usize| values.value(row);
    match held {
        Held::Numeric(digits) => Some(in_digits(values, value, u32::try_from(scale).ok()?, digits)),
        Held::Int(_) if scale == 0 => whole(values, value, held),
        _ => None,
    }
}

fn in_digits<'a, T: ArrowPrimitiveType>(
    values: &'a PrimitiveArray<T>,
    value: impl Fn(usize) -> i128 + Send + Sync + Copy + 'a,
    scale: u32,
    digits: Option<Digits>,
) -> Field<'a> {
    let field = Field::new(values, move |row, out| numeric::write(value(row), scale, out));
    let Some(Digits { precision, places }) = digits else { return field };
    field.faulty(move |row| {
        let (value, scale) = (value(row), scale as i32);
        let shown = || format!("{value}e-{scale} does not fit numeric({precision},{places})");
        (!numeric::fits(value, scale, precision, places)).then(shown)
    })
}

/// Single precision, which a double holds too.
pub(super) fn reals(values: &PrimitiveArray<Float32Type>, held: Held) -> Option<Field<'_>> {
    match held {
        Held::Float4 => Some(Field::fixed(values, move |row| values.value(row).to_be_bytes())),
        Held::Float8 => Some(Field::fixed(values, move |row| f64::from(values.value(row)).to_be_bytes())),
        _ => None,
    }
}

/// Double precision.
pub(super) fn doubles(values: &PrimitiveArray<Float64Type>) -> Field<'_> {
    Field::fixed(values, move |row| values.value(row).to_be_bytes())
}
