//! One schema for batches that differ: columns are united by name without regard to case, types by
//! [`aap_types::ColumnType::unite`].
//!
//! A column keeps the type and spelling that the catalogue has for it, unless it must be wider: a type never narrows
//! from file to file. Where a value has no exact form in the united type (a whole number beyond 2⁵³ beside floats), the
//! column of that file is text, and so no value is ever changed.

use std::collections::HashMap;
use std::sync::Arc;

use aap_columns::{arrow_type, convert, distinct_names, sql_type, stored};
use aap_types::{ColumnType, SYSTEM_COLUMNS};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

/// Names and types, as the catalogue has them.
pub(crate) type Columns = Vec<(String, String)>;

/// Where the time of a row stands.
const TS: &str = "ts";
/// Rows that are tried at a time.
const TRY_ROWS: usize = 8192;

/// The columns of a file in the making. The system columns come after them.
#[derive(Debug, Default)]
pub(crate) struct United {
    columns: Vec<(String, DataType)>,
    places: HashMap<String, usize>,
    /// What the catalogue knows, by lower-case name.
    known: HashMap<String, (String, DataType)>,
}

impl United {
    /// No columns yet; those of the catalogue are what types start from.
    pub(crate) fn over(known: &[(String, String)]) -> Self {
        let usable = known.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(TS));
        let typed = usable.filter_map(|(name, kind)| {
            let kind = arrow_type(&ColumnType::from(kind.as_str()))?;
            Some((name.to_lowercase(), (name.clone(), kind)))
        });
        Self { known: typed.collect(), ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.columns.len()
    }

    /// Adds the columns of a schema. System columns and what calls itself so are left out.
    pub(crate) fn add(&mut self, schema: &Schema) {
        for (name, _, field) in own_columns(schema) {
            let met = stored(field.data_type());
            let lower = name.to_lowercase();
            match self.places.get(&lower) {
                Some(&place) => {
                    let known = &mut self.columns[place].1;
                    *known = aap_columns::unite(known, &met);
                }
                None => {
                    let column = match self.known.get(&lower) {
                        Some((name, kind)) => (name.clone(), aap_columns::unite(kind, &met)),
                        None => (name, met),
                    };
                    self.places.insert(lower, self.columns.len());
                    self.columns.push(column);
                }
            }
        }
    }

    /// For each column, its index in a schema that was added.
    pub(crate) fn places_in(&self, schema: &Schema) -> Vec<Option<usize>> {
        let mut places = vec![None; self.columns.len()];
        for (name, index, _) in own_columns(schema) {
            if let Some(&place) = self.places.get(&name.to_lowercase()) {
                places[place] = Some(index);
            }
        }
        places
    }

    /// Columns that `schema` may have to give up exactness for, as (place, index in the schema).
    pub(crate) fn doubtful_in(&self, schema: &Schema) -> Vec<(usize, usize)> {
        let indexed = self.places_in(schema).into_iter().enumerate();
        let present = indexed.filter_map(|(place, index)| Some((place, index?)));
        let is_doubtful = |&(place, index): &(usize, usize)| {
            let (to, from) = (&self.columns[place].1, schema.field(index).data_type());
            !matches!(to, DataType::Utf8 | DataType::Null) && to != from && *from != DataType::Null
        };
        present.filter(is_doubtful).collect()
    }

    /// Makes column `place` text if `array` has a value that its type has no exact form for.
    pub(crate) fn try_values(&mut self, place: usize, array: &ArrayRef) {
        let to = &self.columns[place].1;
        if *to == DataType::Utf8 {
            return;
        }
        let fits = (0..array.len()).step_by(TRY_ROWS).all(|from| {
            let rows = TRY_ROWS.min(array.len() - from);
            convert(&array.slice(from, rows), to).is_ok()
        });
        if !fits {
            self.columns[place].1 = DataType::Utf8;
        }
    }

    /// Tries every column of a batch that differs in type.
    pub(crate) fn try_batch(&mut self, batch: &RecordBatch) {
        for (place, index) in self.doubtful_in(&batch.schema()) {
            self.try_values(place, batch.column(index));
        }
    }

    /// The place of the column that rows are sorted by, if it is a time.
    pub(crate) fn ts(&self) -> Option<usize> {
        let place = *self.places.get(TS)?;
        matches!(self.columns[place].1, DataType::Timestamp(..)).then_some(place)
    }

    /// The type of a column.
    pub(crate) fn kind(&self, place: usize) -> &DataType {
        match &self.columns[place].1 {
            // Nothing but NULL was met.
            DataType::Null => &DataType::Utf8,
            kind => kind,
        }
    }

    /// The schema of the file.
    pub(crate) fn schema(&self) -> SchemaRef {
        let own =
            (0..self.columns.len()).map(|place| (self.columns[place].0.as_str(), self.kind(place).clone()));
        let system = SYSTEM_COLUMNS.into_iter().zip([
            DataType::Utf8,
            DataType::UInt64,
            DataType::UInt64,
            DataType::UInt64,
        ]);
        let fields = own.chain(system).map(|(name, kind)| Field::new(name, kind, true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The columns as the catalogue has them.
    pub(crate) fn described(&self) -> Columns {
        let schema = self.schema();
        let named = schema.fields().iter();
        named.map(|field| (field.name().clone(), sql_type(field.data_type()).to_string())).collect()
    }
}

/// Columns that are not the system's: name, index, field.
fn own_columns(schema: &Schema) -> Vec<(String, usize, &Field)> {
    let is_own = |name: &str| !SYSTEM_COLUMNS.iter().any(|system| system.eq_ignore_ascii_case(name));
    let named = distinct_names(schema).into_iter().enumerate();
    named
        .filter(|(_, (_, field))| is_own(field.name()))
        .map(|(index, (name, field))| (name, index, field))
        .collect()
}
