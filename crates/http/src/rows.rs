//! Rows as JSON objects: absent values are left out, so that a row is the same text whatever columns other rows have.

use aap_columns::value::{Form, Writer, is_null, object_keys, writers};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_schema::Schema;

/// The rows of a batch.
pub(crate) struct Rows<'a> {
    batch: &'a RecordBatch,
    keys: Vec<Vec<u8>>,
    writers: Vec<Writer<'a>>,
}

impl<'a> Rows<'a> {
    /// With the names of the columns.
    pub(crate) fn of(batch: &'a RecordBatch) -> Self {
        Self { batch, keys: object_keys(&batch.schema()), writers: writers(batch, Form::Json) }
    }

    /// With names of its own, as many as columns.
    pub(crate) fn named(batch: &'a RecordBatch, names: &[String]) -> Self {
        let fields = batch
            .schema()
            .fields()
            .iter()
            .zip(names)
            .map(|(field, name)| field.as_ref().clone().with_name(name))
            .collect::<Vec<_>>();
        let keys = object_keys(&Schema::new(fields));
        Self { batch, keys, writers: writers(batch, Form::Json) }
    }

    /// Appends one.
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        let mut is_first = true;
        for ((column, key), write) in self.batch.columns().iter().zip(&self.keys).zip(&self.writers) {
            if is_null(column.as_ref(), row) {
                continue;
            }
            if !std::mem::take(&mut is_first) {
                out.push(b',');
            }
            out.extend_from_slice(key);
            write(row, out);
        }
        out.push(b'}');
    }
}

/// What identifies the rows of a batch.
#[derive(Debug)]
pub(crate) struct Ids<'a> {
    nodes: &'a arrow_array::StringArray,
    epochs: &'a [u64],
    seqs: &'a [u64],
    rows: &'a [u64],
}

impl<'a> Ids<'a> {
    /// `None` where the batch lacks a column of them, which no batch of ours does.
    pub(crate) fn of(batch: &'a RecordBatch) -> Option<Self> {
        let numbers = |name: &str| {
            let column = batch.column_by_name(name)?.as_primitive_opt::<UInt64Type>()?;
            Some(column.values().as_ref())
        };
        let nodes = batch.column_by_name("_node")?.as_string_opt::<i32>()?;
        Some(Self { nodes, epochs: numbers("_epoch")?, seqs: numbers("_seq")?, rows: numbers("_row")? })
    }

    /// `node/epoch/stream/seq/row`: the batch's id, and the row in it.
    pub(crate) fn text(&self, stream: &str, row: usize, out: &mut Vec<u8>) {
        use std::io::Write;
        let (node, epoch) = (self.nodes.value(row), self.epochs[row]);
        // Writing into memory does not fail.
        let _infallible = write!(out, "{node}/{epoch}/{stream}/{}/{}", self.seqs[row], self.rows[row]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, StringArray, UInt64Array};

    use super::*;

    #[test]
    fn an_absent_value_is_left_out_and_a_row_knows_its_id() {
        let columns: [(&str, ArrayRef); 6] = [
            ("a", Arc::new(Int64Array::from(vec![None, Some(1)]))),
            ("b", Arc::new(StringArray::from(vec![Some("x\"y"), None]))),
            ("_node", Arc::new(StringArray::from(vec!["n", "n"]))),
            ("_epoch", Arc::new(UInt64Array::from(vec![u64::MAX; 2]))),
            ("_seq", Arc::new(UInt64Array::from(vec![3, 3]))),
            ("_row", Arc::new(UInt64Array::from(vec![0, 1]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let (rows, ids) = (Rows::of(&batch), Ids::of(&batch).unwrap());
        let mut out = vec![];
        rows.write(0, &mut out);
        out.push(b' ');
        rows.write(1, &mut out);
        out.push(b' ');
        ids.text("events", 1, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"b":"x\"y","_node":"n","_epoch":18446744073709551615,"_seq":3,"_row":0} "#.to_owned()
                + r#"{"a":1,"_node":"n","_epoch":18446744073709551615,"_seq":3,"_row":1} "#
                + "n/18446744073709551615/events/3/1"
        );
    }
}
