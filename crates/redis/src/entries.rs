//! Rows as entries of a stream: names and values as the script takes them, an array of MessagePack each.

use aap_columns::value::{Form, Objects, Writer, is_null, writers};
use aap_sinks::{BadRow, Slice};

use crate::spec::Format;

/// Names and values of an entry: Lua hands so many to a command at the most.
const PARTS_MAX: usize = 7_000;
/// The field of `format: json`.
const JSON: &str = "json";

/// The entries of a slice, which is number `number` of its group. Takes processor time.
///
/// # Errors
/// The rows that no entry can hold.
pub(crate) fn of(slice: &Slice, number: usize, format: Format) -> Result<Vec<Vec<u8>>, Vec<BadRow>> {
    let rows = &slice.rows;
    if format == Format::Json {
        let objects = Objects::of(rows);
        let entry = |row| {
            let (mut text, mut entry) = (vec![], vec![]);
            objects.write(row, &mut text);
            array(2, &mut entry);
            string(JSON.as_bytes(), &mut entry);
            string(&text, &mut entry);
            entry
        };
        return Ok((0..rows.num_rows()).map(entry).collect());
    }
    let schema = rows.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let writers = writers(rows, Form::Plain);
    let (mut entries, mut bad) = (Vec::with_capacity(rows.num_rows()), vec![]);
    for row in 0..rows.num_rows() {
        match fields(slice, &names, &writers, row) {
            Ok(entry) => entries.push(entry),
            Err(count) => {
                let reason = format!("it has {count} values; an entry takes {}", PARTS_MAX / 2);
                bad.push(BadRow { slice: number, row, reason });
            }
        }
    }
    if bad.is_empty() { Ok(entries) } else { Err(bad) }
}

/// A row, without the columns that have no value; how many it has, if too many.
fn fields(slice: &Slice, names: &[&str], writers: &[Writer<'_>], row: usize) -> Result<Vec<u8>, usize> {
    let columns = slice.rows.columns();
    let is_there = |column: usize| !is_null(columns[column].as_ref(), row);
    let count = (0..columns.len()).filter(|column| is_there(*column)).count();
    if 2 * count > PARTS_MAX {
        return Err(count);
    }
    let (mut entry, mut value) = (vec![], vec![]);
    array(2 * count, &mut entry);
    for column in (0..columns.len()).filter(|column| is_there(*column)) {
        value.clear();
        writers[column](row, &mut value);
        string(names[column].as_bytes(), &mut entry);
        string(&value, &mut entry);
    }
    Ok(entry)
}

fn array(length: usize, out: &mut Vec<u8>) {
    out.push(0xdc);
    out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(bytes.len()) {
        Ok(length) if length < 32 => out.push(0xa0 | length),
        _ => {
            out.push(0xdb);
            out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aap_types::{Epoch, Sequence, StreamKey};
    use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};

    use super::*;

    fn slice(columns: Vec<(String, ArrayRef)>) -> Slice {
        let key = StreamKey { node: "n".parse().unwrap(), epoch: Epoch(1), stream: "s".parse().unwrap() };
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        Slice { key, after: Sequence(0), through: Sequence(1), rows }
    }

    #[test]
    fn a_row_is_its_values_in_messagepack() {
        let long = "x".repeat(40);
        let rows = slice(vec![
            ("a".to_owned(), Arc::new(Int64Array::from(vec![Some(7)])) as ArrayRef),
            ("b".to_owned(), Arc::new(StringArray::from(vec![None::<&str>]))),
            ("c".to_owned(), Arc::new(StringArray::from(vec![long.as_str()]))),
        ]);
        let entry = &of(&rows, 0, Format::Fields).unwrap()[0];
        let expected =
            [&[0xdc, 0, 4, 0xa1, b'a', 0xa1, b'7', 0xa1, b'c', 0xdb, 0, 0, 0, 40], long.as_bytes()].concat();
        assert_eq!(*entry, expected);
    }

    #[test]
    fn a_row_with_too_many_values_is_named() {
        let one: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let columns = (0..=PARTS_MAX / 2).map(|number| (format!("c{number}"), one.clone())).collect();
        let bad = of(&slice(columns), 3, Format::Fields).unwrap_err();
        assert_eq!((bad.len(), bad[0].slice, bad[0].row), (1, 3, 0));
    }
}
