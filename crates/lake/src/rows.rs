//! Rows of many batches as the rows of a file: gathered chunk by chunk, so that memory does not grow with what columns
//! and dictionaries expand to.

use std::sync::Arc;

use aap_columns::{convert, held_bytes};
use aap_types::{BatchId, SYSTEM_COLUMNS};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{
    Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray, UInt32Array, UInt64Array, make_array,
    new_null_array,
};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use arrow_select::concat::concat;
use arrow_select::interleave::interleave;
use arrow_select::take::take;

use crate::Error;
use crate::unite::United;

/// A chunk ends at the first of these: cache-sized, and small beside everything else a load holds.
const CHUNK_ROWS: usize = 8192;
const CHUNK_BYTES: u64 = 4 << 20;
/// Rows that follow each other in their part are copied as one, from so many on in the mean: below that, going by runs costs more than
/// going row by row.
const RUN_ROWS: usize = 32;
/// What a value costs beside its bytes: offset, validity, and the digits of a number that becomes text.
const VALUE_BYTES: u64 = 24;

/// A batch, of a frame or a file.
#[derive(Debug)]
pub(crate) struct Part {
    /// Of a frame: what the system columns say. Files have these columns.
    pub(crate) id: Option<BatchId>,
    pub(crate) batch: RecordBatch,
    /// For each united column, its index here. Set by [`Part::place`].
    places: Vec<Option<usize>>,
    /// What its rows take in memory when nothing is shared any more.
    pub(crate) expanded_bytes: u64,
    mean_row_bytes: u64,
}

impl Part {
    pub(crate) fn new(id: Option<BatchId>, batch: RecordBatch) -> Self {
        let expanded_bytes: u64 = batch.columns().iter().map(expanded).fold(0, u64::saturating_add);
        let mean_row_bytes = expanded_bytes / (batch.num_rows().max(1) as u64);
        Self { id, batch, places: vec![], expanded_bytes, mean_row_bytes }
    }

    /// Finds its columns among the united ones, which must be complete.
    pub(crate) fn place(&mut self, united: &United) {
        self.places = united.places_in(&self.batch.schema());
    }

    /// What it takes in memory as it is.
    pub(crate) fn held_bytes(&self) -> u64 {
        held_bytes(&self.batch) as u64
    }

    fn row_bytes(&self, columns: usize) -> u64 {
        self.mean_row_bytes + VALUE_BYTES * columns as u64
    }

    /// The time of each row, in microseconds.
    pub(crate) fn times(&self, united: &United) -> Result<Vec<Option<i64>>, Error> {
        let rows = self.batch.num_rows();
        let ts = united.ts().and_then(|place| Some((place, self.places[place]?)));
        let Some((place, index)) = ts else { return Ok(vec![None; rows]) };
        let times =
            convert(self.batch.column(index), united.kind(place)).map_err(Error::arrow("read times"))?;
        Ok(times.as_primitive::<TimestampMicrosecondType>().iter().collect())
    }
}

/// Rows on their way into one file.
#[derive(Debug)]
pub(crate) struct Chunk {
    picks: Vec<(usize, usize)>,
    bytes: u64,
}

impl Chunk {
    pub(crate) fn new() -> Self {
        Self { picks: Vec::with_capacity(CHUNK_ROWS), bytes: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.picks.is_empty()
    }

    /// Adds a row. Returns whether the chunk is full.
    pub(crate) fn pick(&mut self, parts: &[Part], part: usize, row: usize, columns: usize) -> bool {
        self.picks.push((part, row));
        self.bytes += parts[part].row_bytes(columns);
        self.picks.len() >= CHUNK_ROWS || self.bytes >= CHUNK_BYTES
    }

    /// The rows picked, as one batch in the form of `united`. Empties the chunk.
    pub(crate) fn gather(
        &mut self,
        parts: &[Part],
        united: &United,
        schema: &SchemaRef,
    ) -> Result<RecordBatch, Error> {
        let picks = std::mem::take(&mut self.picks);
        self.bytes = 0;
        let batch =
            gather(parts, &picks, united, schema).map_err(Error::arrow("gather the rows of a file"))?;
        self.picks = picks;
        self.picks.clear();
        Ok(batch)
    }
}

/// The rows that one part has in a chunk.
struct Piece<'a> {
    part: &'a Part,
    rows: Vec<u32>,
}

/// Rows of one piece that follow each other in its part.
struct Run {
    slot: usize,
    from: usize,
    rows: usize,
}

/// A chunk's rows, by part.
struct Pieces<'a> {
    list: Vec<Piece<'a>>,
    /// All rows, in their order, if there are few of these.
    runs: Option<Vec<Run>>,
    /// For each row of the chunk, which piece it is from: and which row of its part, or which of the piece it is.
    by_row: Vec<(usize, usize)>,
    by_place: Vec<(usize, usize)>,
    /// Columns before the system's.
    own: usize,
}

/// The picked rows, as one batch in the form of `united`.
pub(crate) fn gather(
    parts: &[Part],
    picks: &[(usize, usize)],
    united: &United,
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let pieces = Pieces::of(parts, picks, united.len())?;
    let columns =
        schema.fields().iter().enumerate().map(|(place, field)| pieces.column(place, field.data_type()));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(picks.len()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

impl<'a> Pieces<'a> {
    fn of(parts: &'a [Part], picks: &[(usize, usize)], own: usize) -> Result<Self, ArrowError> {
        let mut slots: Vec<Option<usize>> = vec![None; parts.len()];
        let mut list: Vec<Piece<'a>> = vec![];
        let (mut by_row, mut by_place) = (Vec::with_capacity(picks.len()), Vec::with_capacity(picks.len()));
        for &(part, row) in picks {
            let slot = *slots[part].get_or_insert_with(|| {
                list.push(Piece { part: &parts[part], rows: vec![] });
                list.len() - 1
            });
            by_row.push((slot, row));
            by_place.push((slot, list[slot].rows.len()));
            let row = u32::try_from(row).map_err(|_| ArrowError::ComputeError("a row number".to_owned()))?;
            list[slot].rows.push(row);
        }
        let runs = runs(&by_row);
        Ok(Self { list, runs, by_row, by_place, own })
    }

    fn column(&self, place: usize, kind: &DataType) -> Result<ArrayRef, ArrowError> {
        if let Some(system) = place.checked_sub(self.own)
            && let Some(ids) =
                self.list.iter().map(|piece| piece.part.id.as_ref()).collect::<Option<Vec<_>>>()
        {
            return Ok(self.system(system, &ids));
        }
        let stored: Vec<Option<&ArrayRef>> =
            self.list.iter().map(|piece| piece.stored(place, self.own)).collect();
        if let Some(runs) = &self.runs {
            return by_runs(runs, &stored, kind);
        }
        let alike: Option<Vec<&dyn Array>> =
            stored.iter().map(|array| array.filter(|a| a.data_type() == kind).map(AsRef::as_ref)).collect();
        if let Some(alike) = alike {
            return interleave(&alike, &self.by_row);
        }
        let taken = self.list.iter().zip(stored).map(|(piece, array)| match array {
            Some(array) => convert(&take(array, &UInt32Array::from(piece.rows.clone()), None)?, kind),
            None => Ok(new_null_array(kind, piece.rows.len())),
        });
        let taken = taken.collect::<Result<Vec<ArrayRef>, ArrowError>>()?;
        interleave(&taken.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>(), &self.by_place)
    }

    /// `_node, _epoch, _seq, _row`, where rows come from frames.
    fn system(&self, number: usize, ids: &[&BatchId]) -> ArrayRef {
        let of = self.by_row.iter().map(|(slot, row)| (ids[*slot], *row));
        match number {
            0 => Arc::new(StringArray::from_iter_values(of.map(|(id, _)| id.key.node.as_str()))),
            1 => Arc::new(UInt64Array::from_iter_values(of.map(|(id, _)| id.key.epoch.0))),
            2 => Arc::new(UInt64Array::from_iter_values(of.map(|(id, _)| id.sequence.0))),
            _ => Arc::new(UInt64Array::from_iter_values(of.map(|(_, row)| row as u64))),
        }
    }
}

impl<'a> Piece<'a> {
    /// The column as its batch has it.
    fn stored(&self, place: usize, own: usize) -> Option<&'a ArrayRef> {
        match place.checked_sub(own) {
            None => self.part.places[place].map(|index| self.part.batch.column(index)),
            Some(system) => self.part.batch.column_by_name(SYSTEM_COLUMNS[system]),
        }
    }
}

/// The rows as runs, unless there are too many of them.
fn runs(by_row: &[(usize, usize)]) -> Option<Vec<Run>> {
    let most = by_row.len().div_ceil(RUN_ROWS);
    let mut runs: Vec<Run> = vec![];
    for &(slot, row) in by_row {
        let goes_on = |run: &&mut Run| run.slot == slot && run.from + run.rows == row;
        if let Some(run) = runs.last_mut().filter(goes_on) {
            run.rows += 1;
        } else if runs.len() < most {
            runs.push(Run { slot, from: row, rows: 1 });
        } else {
            return None;
        }
    }
    (!runs.is_empty()).then_some(runs)
}

/// A column of rows that come in runs. One run alone is not copied.
fn by_runs(runs: &[Run], stored: &[Option<&ArrayRef>], kind: &DataType) -> Result<ArrayRef, ArrowError> {
    let slices = runs.iter().map(|run| match stored[run.slot] {
        Some(array) => {
            let slice = array.slice(run.from, run.rows);
            if slice.data_type() == kind { Ok(slice) } else { convert(&slice, kind) }
        }
        None => Ok(new_null_array(kind, run.rows)),
    });
    let slices = slices.collect::<Result<Vec<ArrayRef>, ArrowError>>()?;
    match slices.as_slice() {
        [slice] => Ok(slice.clone()),
        slices => concat(&slices.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>()),
    }
}

/// Bytes of a column when each row has a value of its own. An upper bound where it cannot be told cheaply.
fn expanded(array: &ArrayRef) -> u64 {
    use DataType as T;
    let data = array.to_data();
    let own = data.get_slice_memory_size().unwrap_or_else(|_| data.get_array_memory_size()) as u64;
    match array.data_type() {
        T::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            if dictionary.values().is_empty() {
                // Nulls alone: no key can be looked up.
                return own;
            }
            let lengths = lengths(dictionary.values());
            let keys = dictionary.normalized_keys();
            let valid = keys.iter().enumerate().filter(|(row, _)| array.is_valid(*row));
            own + valid.map(|(_, key)| lengths.get(*key).copied().unwrap_or(0)).sum::<u64>()
        }
        T::RunEndEncoded(..) | T::ListView(_) | T::LargeListView(_) => {
            let widest = data.child_data().iter().map(|child| widest(&make_array(child.clone()))).max();
            own + (array.len() as u64).saturating_mul(widest.unwrap_or(0))
        }
        T::Utf8View => own + array.as_string_view().lengths().map(u64::from).sum::<u64>(),
        T::BinaryView => own + array.as_binary_view().lengths().map(u64::from).sum::<u64>(),
        kind if kind.is_nested() => {
            own + data.child_data().iter().map(|child| expanded(&make_array(child.clone()))).sum::<u64>()
        }
        _ => own,
    }
}

/// Bytes of each value.
fn lengths(values: &ArrayRef) -> Vec<u64> {
    match values.data_type() {
        DataType::Utf8 => values.as_string::<i32>().offsets().lengths().map(|length| length as u64).collect(),
        DataType::Binary => {
            values.as_binary::<i32>().offsets().lengths().map(|length| length as u64).collect()
        }
        _ => vec![widest(values); values.len()],
    }
}

/// Bytes that one value may have at most.
fn widest(values: &ArrayRef) -> u64 {
    match values.data_type().primitive_width() {
        Some(width) => width as u64,
        None => match values.data_type() {
            DataType::Utf8 | DataType::Binary => lengths(values).into_iter().max().unwrap_or(0),
            _ => expanded(values),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::DictionaryArray;
    use arrow_array::types::Int8Type;

    use super::*;

    #[test]
    fn few_runs_are_copied_whole_and_many_are_not() {
        let runs = |rows: &[(usize, usize)]| {
            runs(rows).map(|runs| runs.iter().map(|run| (run.slot, run.from, run.rows)).collect::<Vec<_>>())
        };
        let straight: Vec<_> = (7..107).map(|row| (0, row)).collect();
        assert_eq!(runs(&straight), Some(vec![(0, 7, 100)]));
        let two: Vec<_> = (0..50).map(|row| (1, row)).chain((50..100).map(|row| (0, row))).collect();
        assert_eq!(runs(&two), Some(vec![(1, 0, 50), (0, 50, 50)]));
        let gap: Vec<_> = (0..50).chain(51..101).map(|row| (0, row)).collect();
        assert_eq!(runs(&gap), Some(vec![(0, 0, 50), (0, 51, 50)]));
        let turns: Vec<_> = (0..100).map(|row| (row % 2, row / 2)).collect();
        assert_eq!(runs(&turns), None);
        assert_eq!(runs(&[]), None);
    }

    #[test]
    fn a_dictionary_of_nothing_is_measured() {
        let words: DictionaryArray<Int8Type> = [None::<&str>, None].into_iter().collect();
        let words: ArrayRef = Arc::new(words);
        assert!(expanded(&words) < 1024);
    }
}
