//! A column of Arrow as the field of a row.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Int8Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, TimeUnit};

use super::{Held, moment, number, texts};

/// Appends the field of a row, its length first.
type Write<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + Send + Sync + 'a>;
/// Why the value of a row cannot be written.
type Fault<'a> = Box<dyn Fn(usize) -> Option<String> + Send + Sync + 'a>;

/// The length of NULL.
const NULL: [u8; 4] = (-1_i32).to_be_bytes();

/// A column as it is written into a column of a table.
pub(crate) struct Field<'a> {
    array: Option<&'a dyn Array>,
    write: Write<'a>,
    /// `None`: every value can be written.
    fault: Option<Fault<'a>>,
}

impl<'a> Field<'a> {
    /// `array` as `held`. `None` if values of this type have no exact form there at all.
    pub(crate) fn of(array: &'a ArrayRef, held: Held) -> Option<Self> {
        use DataType as T;
        Some(match (array.data_type(), held) {
            (T::Null, _) => Self::null(),
            (T::Utf8, _) => return texts::text(array.as_string(), held),
            (_, Held::Text(longest)) => texts::shown(array.as_ref(), longest),
            (_, Held::Json | Held::Jsonb) => texts::json(array.as_ref(), held),
            (T::Boolean, Held::Bool) => {
                let values = array.as_boolean();
                Self::fixed(values, move |row| [u8::from(values.value(row))])
            }
            (T::Binary, Held::Bytea) => {
                let values = array.as_binary::<i32>();
                Self::new(values, move |row, out| variable(values.value(row), out))
            }
            (T::Int8, _) => return number::integers::<Int8Type>(array, held),
            (T::Int16, _) => return number::integers::<Int16Type>(array, held),
            (T::Int32, _) => return number::integers::<Int32Type>(array, held),
            (T::Int64, _) => return number::integers::<Int64Type>(array, held),
            (T::UInt8, _) => return number::integers::<UInt8Type>(array, held),
            (T::UInt16, _) => return number::integers::<UInt16Type>(array, held),
            (T::UInt32, _) => return number::integers::<UInt32Type>(array, held),
            (T::UInt64, _) => return number::integers::<UInt64Type>(array, held),
            (T::Decimal128(_, scale), _) => return number::decimals(array.as_primitive(), *scale, held),
            (T::Float32, _) => return number::reals(array.as_primitive(), held),
            (T::Float64, Held::Float8) => number::doubles(array.as_primitive()),
            (T::Date32, Held::Date) => moment::dates(array.as_primitive::<Date32Type>()),
            (T::Time64(TimeUnit::Microsecond), Held::Time(places)) => {
                moment::times(array.as_primitive::<Time64MicrosecondType>(), places)
            }
            (T::Timestamp(TimeUnit::Microsecond, _), Held::Timestamp(places)) => {
                moment::timestamps(array.as_primitive::<TimestampMicrosecondType>(), places)
            }
            _ => return None,
        })
    }

    /// NULL in every row.
    fn null() -> Self {
        Self { array: None, write: Box::new(|_, out| out.extend_from_slice(&NULL)), fault: None }
    }

    /// The number of a row, counted from `first`: what orders the rows of an upsert.
    pub(crate) fn counter(first: usize) -> Self {
        let write = move |row: usize, out: &mut Vec<u8>| fixed(((first + row) as i64).to_be_bytes(), out);
        Self { array: None, write: Box::new(write), fault: None }
    }

    /// A field whose values are written by `write`; NULL is none of them.
    pub(super) fn new(array: &'a dyn Array, write: impl Fn(usize, &mut Vec<u8>) + Send + Sync + 'a) -> Self {
        let write: Write<'a> = match array.nulls().filter(|nulls| nulls.null_count() > 0) {
            None => Box::new(write),
            Some(nulls) => Box::new(move |row, out| match nulls.is_null(row) {
                true => out.extend_from_slice(&NULL),
                false => write(row, out),
            }),
        };
        Self { array: Some(array), write, fault: None }
    }

    /// A field of values of one length.
    pub(super) fn fixed<const N: usize>(
        array: &'a dyn Array,
        value: impl Fn(usize) -> [u8; N] + Send + Sync + 'a,
    ) -> Self {
        Self::new(array, move |row, out| fixed(value(row), out))
    }

    /// Says of each value why it cannot be written.
    pub(super) fn faulty(mut self, fault: impl Fn(usize) -> Option<String> + Send + Sync + 'a) -> Self {
        self.fault = Some(Box::new(fault));
        self
    }

    /// Appends the field of a row.
    #[inline]
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) {
        (self.write)(row, out);
    }

    /// Whether any value may be at fault.
    pub(crate) fn may_fail(&self) -> bool {
        self.fault.is_some()
    }

    /// Why the value of a row cannot be written.
    pub(crate) fn fault(&self, row: usize) -> Option<String> {
        let fault = self.fault.as_ref()?;
        if self.array.is_some_and(|array| array.is_null(row)) { None } else { fault(row) }
    }
}

/// A field of known length.
#[inline]
pub(super) fn fixed<const N: usize>(bytes: [u8; N], out: &mut Vec<u8>) {
    out.reserve(size_of::<i32>() + N);
    out.extend_from_slice(&(N as i32).to_be_bytes());
    out.extend_from_slice(&bytes);
}

/// A field of any length. Arrow counts these in 31 bits, too.
#[inline]
pub(super) fn variable(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(size_of::<i32>() + bytes.len());
    out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A field that `write` appends, whose length is known afterwards.
pub(super) fn measured(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&NULL);
    write(out);
    let length = (out.len() - start - NULL.len()) as i32;
    out[start..start + NULL.len()].copy_from_slice(&length.to_be_bytes());
}
