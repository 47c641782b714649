//! The rows of a slice as fields of a table, and those that the table will never take.

use std::collections::BTreeMap;

use aap_sinks::{BadRow, Failure, Slice};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

use super::shape::{is_system, misfit, wrong_type};
use crate::copy::Field;
use crate::names::column_names;
use crate::table::{Column, Table};

/// A slice, ready to be written.
pub(crate) struct Planned<'a> {
    /// How many rows.
    pub(crate) rows: usize,
    /// The columns of the table, in the order of the fields.
    pub(crate) columns: Vec<String>,
    /// What is written into them.
    pub(crate) fields: Vec<Field<'a>>,
}

/// Plans a slice, which is number `place` of its group, and adds the rows to `bad` that cannot be written. `key` are columns
/// that must have a value though the table may not say so.
pub(crate) fn plan<'a>(
    table: &Table,
    key: &[String],
    place: usize,
    slice: &'a Slice,
    bad: &mut Vec<BadRow>,
) -> Result<Planned<'a>, Failure> {
    let schema = slice.rows.schema();
    let mut planned = Planned { rows: slice.rows.num_rows(), columns: vec![], fields: vec![] };
    let mut faults: BTreeMap<usize, String> = BTreeMap::new();
    let names = column_names(&schema);
    for (name, array) in names.iter().zip(slice.rows.columns()) {
        let Some(column) = table.column(name) else {
            debug_assert!(is_system(name) || *array.data_type() == DataType::Null, "the table was settled");
            continue;
        };
        if column.generated {
            let message = format!(
                "the column `{}` of table {} is generated, and the rows have it",
                column.name, table.name
            );
            return Err(misfit(message, None));
        }
        let field = Field::of(array, column.held)
            .ok_or_else(|| wrong_type(&table.name, column, array.data_type()))?;
        let required = column.required || key.contains(&column.name);
        look(&field, array, column, required, &mut faults);
        planned.columns.push(column.name.clone());
        planned.fields.push(field);
    }
    for column in &table.columns {
        let needed = (column.required && !column.has_default) || key.contains(&column.name);
        if needed && !planned.columns.contains(&column.name) {
            for row in 0..planned.rows {
                faults.entry(row).or_insert_with(|| empty(column));
            }
        }
    }
    bad.extend(faults.into_iter().map(|(row, reason)| BadRow { slice: place, row, reason }));
    Ok(planned)
}

fn look(
    field: &Field<'_>,
    array: &ArrayRef,
    column: &Column,
    required: bool,
    faults: &mut BTreeMap<usize, String>,
) {
    if required && (array.null_count() > 0 || *array.data_type() == DataType::Null) {
        let nulls = (0..array.len()).filter(|row| aap_columns::value::is_null(array.as_ref(), *row));
        nulls.for_each(|row| {
            faults.entry(row).or_insert_with(|| empty(column));
        });
    }
    if !field.may_fail() {
        return;
    }
    for row in 0..array.len() {
        if let Some(reason) = field.fault(row) {
            faults
                .entry(row)
                .or_insert_with(|| format!("column `{}` ({}): {reason}", column.name, column.declared));
        }
    }
}

fn empty(column: &Column) -> String {
    format!("column `{}` must have a value, and the row has none", column.name)
}
