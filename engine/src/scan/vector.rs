//! Arrow arrays into DuckDB vectors, one vector (2,048 rows) at a time.
//!
//! This is the hot path of a scan: primitives and validity are copied, short strings are written in place, a
//! dictionary becomes a DuckDB dictionary vector.

#![expect(
    unsafe_code,
    reason = "vectors are written through DuckDB's C interface; each block says why it is sound"
)]

use std::error::Error;
use std::ffi::c_char;

use arrow_array::cast::AsArray;
use arrow_array::types as arrow;
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, DictionaryArray, PrimitiveArray, StringArray,
};
use arrow_buffer::{ArrowNativeType, NullBuffer};
use arrow_schema::{DataType, TimeUnit};
use duckdb::core::DataChunkHandle;
use duckdb::ffi;
use duckdb::vtab::arrow::{WritableVector, write_arrow_array_to_vector};

/// Strings of at most this many bytes lie inside `duckdb_string_t`.
const INLINE_BYTES: usize = 12;
/// A dictionary of more values is written value by value: its vector holds no more.
const DICTIONARY_MAX: usize = 2047;

/// Writes `rows` rows of `array` from `first` into column `place` of the chunk.
pub(super) fn write(
    output: &DataChunkHandle,
    place: usize,
    array: &dyn Array,
    first: usize,
    rows: usize,
) -> Result<(), Box<dyn Error>> {
    use DataType as T;
    let vector = vector_of(output, place);
    let slice = array.slice(first, rows);
    match slice.data_type() {
        T::Boolean => write_bools(vector, slice.as_boolean()),
        T::Int8 => write_primitive::<arrow::Int8Type>(vector, &slice),
        T::Int16 => write_primitive::<arrow::Int16Type>(vector, &slice),
        T::Int32 => write_primitive::<arrow::Int32Type>(vector, &slice),
        T::Int64 => write_primitive::<arrow::Int64Type>(vector, &slice),
        T::UInt8 => write_primitive::<arrow::UInt8Type>(vector, &slice),
        T::UInt16 => write_primitive::<arrow::UInt16Type>(vector, &slice),
        T::UInt32 => write_primitive::<arrow::UInt32Type>(vector, &slice),
        T::UInt64 => write_primitive::<arrow::UInt64Type>(vector, &slice),
        T::Float32 => write_primitive::<arrow::Float32Type>(vector, &slice),
        T::Float64 => write_primitive::<arrow::Float64Type>(vector, &slice),
        T::Date32 => write_primitive::<arrow::Date32Type>(vector, &slice),
        T::Time64(TimeUnit::Microsecond) => write_primitive::<arrow::Time64MicrosecondType>(vector, &slice),
        T::Timestamp(TimeUnit::Microsecond, _) => {
            write_primitive::<arrow::TimestampMicrosecondType>(vector, &slice);
        }
        T::Utf8 => write_strings(vector, slice.as_string::<i32>()),
        T::Dictionary(_, _) => write_any_dictionary(vector, &slice)?,
        _ => write_arrow_array_to_vector(&slice, &mut Place(output, place))?,
    }
    Ok(())
}

/// All rows NULL.
pub(super) fn write_null(output: &DataChunkHandle, place: usize) {
    let vector = vector_of(output, place);
    // SAFETY: after ensure_validity_writable the mask has a bit for each of the 2,048 rows: 32 words.
    unsafe {
        ffi::duckdb_vector_ensure_validity_writable(vector);
        let mask = ffi::duckdb_vector_get_validity(vector);
        std::ptr::write_bytes(mask, 0, 32);
    }
}

/// All rows the same text.
pub(super) fn write_constant_text(output: &DataChunkHandle, place: usize, text: &str) {
    let vector = vector_of(output, place);
    // SAFETY: the vector is a live output vector of VARCHAR; the text is valid UTF-8 of the given length; the value is
    // destroyed after DuckDB has copied it.
    unsafe {
        let mut value = ffi::duckdb_create_varchar_length(text.as_ptr().cast::<c_char>(), text.len() as u64);
        ffi::duckdb_vector_reference_value(vector, value);
        ffi::duckdb_destroy_value(&mut value);
    }
}

/// All rows the same number.
pub(super) fn write_constant_u64(output: &DataChunkHandle, place: usize, number: u64) {
    let vector = vector_of(output, place);
    // SAFETY: as above.
    unsafe {
        let mut value = ffi::duckdb_create_uint64(number);
        ffi::duckdb_vector_reference_value(vector, value);
        ffi::duckdb_destroy_value(&mut value);
    }
}

/// The numbers from `first` on.
pub(super) fn write_count(output: &DataChunkHandle, place: usize, first: u64, rows: usize) {
    let data = data_of::<u64>(vector_of(output, place));
    for (row, number) in (first..).take(rows).enumerate() {
        // SAFETY: a UBIGINT vector holds 2,048 u64, and `rows` is at most that.
        unsafe { data.add(row).write(number) };
    }
}

fn vector_of(output: &DataChunkHandle, place: usize) -> ffi::duckdb_vector {
    // SAFETY: the chunk is live during the callback, and `place` is one of its columns.
    unsafe { ffi::duckdb_data_chunk_get_vector(output.get_ptr(), place as u64) }
}

fn data_of<T>(vector: ffi::duckdb_vector) -> *mut T {
    // SAFETY: the vector is live; the pointer is used within its 2,048 values of the column's physical type.
    unsafe { ffi::duckdb_vector_get_data(vector).cast() }
}

/// For the types that have no fast path here.
struct Place<'a>(&'a DataChunkHandle, usize);

impl WritableVector for Place<'_> {
    fn flat_vector(&mut self) -> duckdb::core::FlatVector<'_> {
        self.0.flat_vector(self.1)
    }
    fn list_vector(&mut self) -> duckdb::core::ListVector<'_> {
        self.0.list_vector(self.1)
    }
    fn array_vector(&mut self) -> duckdb::core::ArrayVector<'_> {
        self.0.array_vector(self.1)
    }
    fn struct_vector(&mut self) -> duckdb::core::StructVector<'_> {
        self.0.struct_vector(self.1)
    }
}

fn write_primitive<T: ArrowPrimitiveType>(vector: ffi::duckdb_vector, array: &ArrayRef) {
    let array: &PrimitiveArray<T> = array.as_primitive();
    // SAFETY: the column was bound with the DuckDB type whose physical form is `T::Native`, and the slice has at most
    // 2,048 rows.
    unsafe { std::ptr::copy_nonoverlapping(array.values().as_ptr(), data_of(vector), array.len()) };
    write_validity(vector, array.nulls());
}

fn write_bools(vector: ffi::duckdb_vector, array: &BooleanArray) {
    let data = data_of::<bool>(vector);
    for (row, value) in array.values().iter().enumerate() {
        // SAFETY: a BOOLEAN vector holds 2,048 bytes.
        unsafe { data.add(row).write(value) };
    }
    write_validity(vector, array.nulls());
}

/// DuckDB and Arrow both set a bit for each valid row, lowest first.
fn write_validity(vector: ffi::duckdb_vector, nulls: Option<&NullBuffer>) {
    let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else { return };
    // SAFETY: after ensure_validity_writable the mask has 2,048 bits, that is 32 words; the slice has no more rows.
    unsafe {
        ffi::duckdb_vector_ensure_validity_writable(vector);
        let mask = ffi::duckdb_vector_get_validity(vector);
        for (word, bits) in
            nulls.inner().bit_chunks().iter_padded().enumerate().take(nulls.len().div_ceil(64))
        {
            mask.add(word).write(bits);
        }
    }
}

fn write_strings(vector: ffi::duckdb_vector, array: &StringArray) {
    let data = data_of::<ffi::duckdb_string_t>(vector);
    for row in 0..array.len() {
        if array.is_valid(row) {
            write_string(vector, data, row, array.value(row));
        }
    }
    write_validity(vector, array.nulls());
}

fn write_string(vector: ffi::duckdb_vector, data: *mut ffi::duckdb_string_t, row: usize, text: &str) {
    if text.len() <= INLINE_BYTES {
        // SAFETY: `row` is below 2,048, the capacity of a VARCHAR vector.
        unsafe { data.add(row).write(inline(text)) };
    } else {
        // SAFETY: DuckDB copies the bytes into the vector's own heap; the text is valid UTF-8.
        unsafe {
            ffi::duckdb_unsafe_vector_assign_string_element_len(
                vector,
                row as u64,
                text.as_ptr().cast::<c_char>(),
                text.len() as u64,
            );
        }
    }
}

/// A string that lies inside its own value: the rest must be zero, because DuckDB compares all of it.
fn inline(text: &str) -> ffi::duckdb_string_t {
    let mut inlined = [0 as c_char; INLINE_BYTES];
    for (to, from) in inlined.iter_mut().zip(text.bytes()) {
        *to = from as c_char;
    }
    ffi::duckdb_string_t {
        value: ffi::duckdb_string_t__bindgen_ty_1 {
            inlined: ffi::duckdb_string_t__bindgen_ty_1__bindgen_ty_2 { length: text.len() as u32, inlined },
        },
    }
}

fn write_any_dictionary(vector: ffi::duckdb_vector, array: &ArrayRef) -> Result<(), Box<dyn Error>> {
    let DataType::Dictionary(keys, _) = array.data_type() else { return Err("not a dictionary".into()) };
    match keys.as_ref() {
        DataType::Int8 => write_dictionary(vector, array.as_dictionary::<arrow::Int8Type>()),
        DataType::Int16 => write_dictionary(vector, array.as_dictionary::<arrow::Int16Type>()),
        DataType::Int32 => write_dictionary(vector, array.as_dictionary::<arrow::Int32Type>()),
        DataType::Int64 => write_dictionary(vector, array.as_dictionary::<arrow::Int64Type>()),
        DataType::UInt8 => write_dictionary(vector, array.as_dictionary::<arrow::UInt8Type>()),
        DataType::UInt16 => write_dictionary(vector, array.as_dictionary::<arrow::UInt16Type>()),
        DataType::UInt32 => write_dictionary(vector, array.as_dictionary::<arrow::UInt32Type>()),
        DataType::UInt64 => write_dictionary(vector, array.as_dictionary::<arrow::UInt64Type>()),
        other => return Err(format!("dictionary keys of type {other}").into()),
    }
    Ok(())
}

fn write_dictionary<K: arrow::ArrowDictionaryKeyType>(
    vector: ffi::duckdb_vector,
    array: &DictionaryArray<K>,
) {
    let values = array.values().as_string::<i32>();
    if values.len() > DICTIONARY_MAX {
        return write_unpacked(vector, array, values);
    }
    // The values, and after them one NULL for the rows that have none.
    write_strings(vector, values);
    let null = values.len() as u32;
    let rows = array.len();
    // SAFETY: the vector holds 2,048 values and values.len() is at most 2,047, so the NULL fits; the selection has
    // `rows` entries, each written, each naming a value written above. DuckDB takes the selection over by copy of its
    // reference-counted buffer before it is destroyed here.
    unsafe {
        if array.null_count() > 0 {
            ffi::duckdb_vector_ensure_validity_writable(vector);
            let mask = ffi::duckdb_vector_get_validity(vector);
            ffi::duckdb_validity_set_row_invalid(mask, u64::from(null));
        }
        let selection = ffi::duckdb_create_selection_vector(rows as u64);
        let chosen = ffi::duckdb_selection_vector_get_data_ptr(selection);
        for (row, key) in array.keys().values().iter().enumerate() {
            let valid = array.is_valid(row);
            chosen.add(row).write(if valid { (key.as_usize() as u32).min(null) } else { null });
        }
        ffi::duckdb_slice_vector(vector, selection, rows as u64);
        ffi::duckdb_destroy_selection_vector(selection);
    }
}

fn write_unpacked<K: arrow::ArrowDictionaryKeyType>(
    vector: ffi::duckdb_vector,
    array: &DictionaryArray<K>,
    values: &StringArray,
) {
    let data = data_of::<ffi::duckdb_string_t>(vector);
    for (row, key) in array.keys().iter().enumerate() {
        if let Some(key) = key
            && values.is_valid(key.as_usize())
        {
            write_string(vector, data, row, values.value(key.as_usize()));
        }
    }
    let valid: NullBuffer =
        array.keys().iter().map(|key| key.is_some_and(|key| values.is_valid(key.as_usize()))).collect();
    write_validity(vector, Some(&valid));
}
