//! Columns of one kind each: numbers, texts, words (texts of which many rows have the same), times.

use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, StringDictionaryBuilder,
};
use arrow_array::types::Int16Type;
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_schema::{ArrowError, DataType, Field};

use crate::decoded::{ts_array, ts_type};

/// Times in microseconds; every row has one.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<i64>);

impl Times {
    pub(crate) fn push(&mut self, us: i64) {
        self.0.push(us);
    }
}

/// Text.
#[derive(Debug, Default)]
pub(crate) struct Texts(StringBuilder);

impl Texts {
    pub(crate) fn push(&mut self, text: Option<&str>) {
        self.0.append_option(text);
    }
}

/// Text of which many rows have the same. A batch never has more rows than there are keys.
#[derive(Default)]
pub(crate) struct Words(StringDictionaryBuilder<Int16Type>);

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Words")
    }
}

impl Words {
    pub(crate) fn push(&mut self, word: Option<&str>) {
        self.push_many(word, 1);
    }

    pub(crate) fn push_many(&mut self, word: Option<&str>, rows: usize) {
        match word {
            Some(word) => {
                self.0.append_n(word, rows).expect("a batch has no more words than keys");
            }
            None => self.0.append_nulls(rows),
        }
    }
}

/// Whole numbers.
#[derive(Debug, Default)]
pub(crate) struct Integers(Int64Builder);

impl Integers {
    pub(crate) fn push(&mut self, number: Option<i64>) {
        self.0.append_option(number);
    }

    /// A number that is not stated where it is zero.
    pub(crate) fn push_stated(&mut self, number: u64) {
        self.push((number != 0).then(|| i64::try_from(number).unwrap_or(i64::MAX)));
    }
}

/// Doubles.
#[derive(Debug, Default)]
pub(crate) struct Doubles(Float64Builder);

impl Doubles {
    pub(crate) fn push(&mut self, number: Option<f64>) {
        self.0.append_option(number);
    }
}

/// Yes or no.
#[derive(Debug, Default)]
pub(crate) struct Truths(BooleanBuilder);

impl Truths {
    pub(crate) fn push(&mut self, truth: Option<bool>) {
        self.0.append_option(truth);
    }
}

/// The columns of a batch as they are taken out of their builders, which begin anew.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    pub(crate) fields: Vec<Field>,
    pub(crate) arrays: Vec<ArrayRef>,
}

/// What gives its rows to a batch.
pub(crate) trait Column {
    fn finish(&mut self) -> (DataType, ArrayRef);
}

impl Finished {
    /// Takes the rows of a column under its name.
    pub(crate) fn add(&mut self, name: &str, column: &mut dyn Column) {
        let (data_type, array) = column.finish();
        self.fields.push(Field::new(name, data_type, true));
        self.arrays.push(array);
    }

    pub(crate) fn batch(self) -> Result<arrow_array::RecordBatch, ArrowError> {
        arrow_array::RecordBatch::try_new(Arc::new(arrow_schema::Schema::new(self.fields)), self.arrays)
    }
}

impl Column for Times {
    fn finish(&mut self) -> (DataType, ArrayRef) {
        (ts_type(), ts_array(std::mem::take(&mut self.0)))
    }
}

impl Column for Texts {
    fn finish(&mut self) -> (DataType, ArrayRef) {
        (DataType::Utf8, Arc::new(self.0.finish()))
    }
}

impl Column for Words {
    fn finish(&mut self) -> (DataType, ArrayRef) {
        let words = self.0.finish();
        if words.values().is_empty() {
            // A dictionary of nothing is more than some readers can bear.
            return (DataType::Utf8, Arc::new(StringArray::new_null(words.len())));
        }
        (words.data_type().clone(), Arc::new(words))
    }
}

impl Column for Integers {
    fn finish(&mut self) -> (DataType, ArrayRef) {
        (DataType::Int64, Arc::new(self.0.finish()))
    }
}

impl Column for Doubles {
    fn finish(&mut self) -> (DataType, ArrayRef) {
        (DataType::Float64, Arc::new(self.0.finish()))
    }
}

impl Column for Truths {
    fn finish(&mut self) -> (DataType, ArrayRef) {
        (DataType::Boolean, Arc::new(self.0.finish()))
    }
}
