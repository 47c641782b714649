//! Slices as documents.

use aap_sinks::{BadRow, Slice};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, StringArray, UInt64Array};
use arrow_schema::{ArrowError, DataType};
use mongodb::bson::raw::{CString, RawDocumentBuf, cstr};

use crate::cells::Cells;
use crate::names::{self, EPOCH, NODE, Named, ROW, SEQ};
use crate::spec::Decimals;

/// Largest document: the same on every server.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// A row as a document, and where it stands in its group.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) slice: usize,
    pub(crate) row: usize,
    pub(crate) document: RawDocumentBuf,
}

impl Ready {
    /// The row, as one that is not taken.
    pub(crate) fn bad(&self, reason: String) -> BadRow {
        BadRow { slice: self.slice, row: self.row, reason }
    }

    /// The document's `_id`.
    pub(crate) fn id(&self) -> &str {
        self.document.get_str("_id").unwrap_or_default()
    }
}

/// The documents of slice number `number`, and the rows that no document can hold. Takes processor time.
///
/// # Errors
/// The rows are not those of a slice.
pub(crate) fn of(
    slice: &Slice,
    number: usize,
    decimals: Decimals,
) -> Result<(Vec<Ready>, Vec<BadRow>), ArrowError> {
    let (ids, fields) = (Ids::of(slice)?, fields(slice, decimals)?);
    let (mut all, mut bad) = (Vec::with_capacity(slice.rows.num_rows()), vec![]);
    for row in 0..slice.rows.num_rows() {
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_id"), ids.text(row).as_str());
        for (name, cells) in &fields {
            cells.append(row, name, &mut document);
        }
        let bytes = document.as_bytes().len();
        let ready = Ready { slice: number, row, document };
        match bytes <= DOCUMENT_BYTES_MAX {
            true => all.push(ready),
            false => bad.push(ready.bad(format!(
                "its document has {bytes} bytes; MongoDB takes {} MiB",
                DOCUMENT_BYTES_MAX >> 20
            ))),
        }
    }
    Ok((all, bad))
}

/// The fields of each document behind its `_id`.
fn fields(slice: &Slice, decimals: Decimals) -> Result<Vec<(CString, Cells)>, ArrowError> {
    let mut fields = vec![];
    for Named { index, name, us } in names::columns(slice.rows.schema_ref()) {
        let array = slice.rows.column(index);
        if *array.data_type() == DataType::Null {
            continue;
        }
        fields.push((name, Cells::of(array, decimals)?));
        if let Some(us) = us {
            fields.push((us, Cells::micros_of(array)?));
        }
    }
    Ok(fields)
}

/// What makes a row's id.
struct Ids<'a> {
    stream: &'a str,
    nodes: &'a StringArray,
    epochs: &'a UInt64Array,
    seqs: &'a UInt64Array,
    rows: &'a UInt64Array,
}

impl<'a> Ids<'a> {
    fn of(slice: &'a Slice) -> Result<Self, ArrowError> {
        let missing = |name: &str| ArrowError::SchemaError(format!("the rows have no `{name}`"));
        let numbers = |name: &str| {
            let column =
                slice.rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<UInt64Type>());
            column.ok_or_else(|| missing(name))
        };
        let nodes = slice.rows.column_by_name(NODE).and_then(|column| column.as_string_opt::<i32>());
        Ok(Self {
            stream: slice.key.stream.as_str(),
            nodes: nodes.ok_or_else(|| missing(NODE))?,
            epochs: numbers(EPOCH)?,
            seqs: numbers(SEQ)?,
            rows: numbers(ROW)?,
        })
    }

    /// `node/epoch/stream/seq/row`. A dead letter that comes back keeps that of its row, whoever's slice it is in.
    fn text(&self, row: usize) -> String {
        let (node, epoch) = (self.nodes.value(row), self.epochs.value(row));
        format!("{node}/{epoch}/{}/{}/{}", self.stream, self.seqs.value(row), self.rows.value(row))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aap_sinks::conformance::{key, slice};
    use arrow_array::{ArrayRef, NullArray, RecordBatch};
    use mongodb::bson::{Bson, DateTime, Document};

    use super::*;

    #[test]
    fn a_row_is_a_document_under_its_id_without_what_is_absent() {
        let slice = slice(&key("edge-1", "events"), 0, 1);
        let (documents, bad) = of(&slice, 0, Decimals::Decimal128).unwrap();
        assert_eq!((documents.len(), bad.len()), (7, 0));
        let epoch = slice.key.epoch.0;
        assert_eq!(documents[1].id(), format!("edge-1/{epoch}/events/1/1"));
        let document = Document::try_from(documents[1].document.clone()).unwrap();
        let names: Vec<&str> = document.keys().map(String::as_str).collect();
        let expected =
            ["_id", "ts", "_ts_us", "n", "message", "score", "price", "_node", "_epoch", "_seq", "_row"];
        assert_eq!(names, expected, "`good` is absent in this row");
        assert_eq!(document["ts"], Bson::DateTime(DateTime::from_millis(1_760_000_000_123)));
        assert_eq!(document["_ts_us"], Bson::Int64(1_760_000_000_123_464));
        assert_eq!(document["price"], Bson::Decimal128("8.08".parse().unwrap()));
    }

    #[test]
    fn a_row_that_is_too_large_is_named_and_a_column_of_nothing_is_left_out() {
        let mut slice = slice(&key("edge-1", "events"), 0, 1);
        let large = "x".repeat(DOCUMENT_BYTES_MAX);
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(
            (0..7).map(|row| if row == 3 { large.as_str() } else { "" }),
        ));
        let mut columns = vec![("text", texts), ("nothing", Arc::new(NullArray::new(7)) as ArrayRef)];
        for name in [NODE, EPOCH, SEQ, ROW] {
            columns.push((name, slice.rows.column_by_name(name).unwrap().clone()));
        }
        slice.rows = RecordBatch::try_from_iter(columns).unwrap();
        let (documents, bad) = of(&slice, 5, Decimals::Text).unwrap();
        assert_eq!((documents.len(), bad.len()), (6, 1));
        assert_eq!((bad[0].slice, bad[0].row), (5, 3));
        assert!(bad[0].reason.ends_with("MongoDB takes 16 MiB"), "{}", bad[0].reason);
        assert!(documents[0].document.get("nothing").unwrap().is_none());
    }
}
