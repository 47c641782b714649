//! Names of fields in the server.
//!
//! A query takes `.` for a way into a document and a leading `$` for an operator, so neither is left in a name: `_` stands for
//! each.

use std::collections::HashSet;

use arrow_schema::{DataType, Schema};
use mongodb::bson::raw::CString;

/// The document's own.
const ID: &str = "_id";
/// What the last columns of a slice are called.
pub(crate) const NODE: &str = "_node";
pub(crate) const EPOCH: &str = "_epoch";
pub(crate) const SEQ: &str = "_seq";
pub(crate) const ROW: &str = "_row";

/// A column of a slice in its documents.
#[derive(Debug)]
pub(crate) struct Named {
    /// Which column of the slice.
    pub(crate) index: usize,
    /// What documents call it.
    pub(crate) name: CString,
    /// What documents call its microseconds, if it is a time.
    pub(crate) us: Option<CString>,
}

/// The columns of a slice, in its order. A name that is taken gets a number (`a_b_1`); one that may stay as it is, stays.
pub(crate) fn columns(schema: &Schema) -> Vec<Named> {
    let mut taken = HashSet::from([ID.to_owned()]);
    let fields = schema.fields();
    let mut names = vec![None; fields.len()];
    // Whoever has to change gives way.
    for has_to_change in [false, true] {
        for (name, field) in names.iter_mut().zip(fields) {
            let plain = plain(field.name());
            if name.is_none() && (has_to_change || (plain == *field.name() && !taken.contains(&plain))) {
                *name = Some(distinct(plain, &mut taken));
            }
        }
    }
    let named = names.into_iter().flatten().zip(fields).enumerate().map(|(index, (name, field))| {
        let is_time = matches!(field.data_type(), DataType::Timestamp(..));
        let us = is_time.then(|| key(distinct(format!("_{name}_us"), &mut taken)));
        Named { index, name: key(name), us }
    });
    named.collect()
}

fn plain(name: &str) -> String {
    let plain = name.replace('\0', "").replace('.', "_");
    match plain.strip_prefix('$') {
        Some(rest) => format!("_{rest}"),
        None if plain.is_empty() => "_".to_owned(),
        None => plain,
    }
}

fn distinct(wanted: String, taken: &mut HashSet<String>) -> String {
    let mut name = wanted.clone();
    let mut times = 0;
    while !taken.insert(name.clone()) {
        times += 1;
        name = format!("{wanted}_{times}");
    }
    name
}

fn key(name: String) -> CString {
    CString::try_from(name).expect("zero bytes were taken out")
}

#[cfg(test)]
mod tests {
    use arrow_schema::{Field, TimeUnit};

    use super::*;

    fn check(fields: &[(&str, DataType)], expected: &[&str]) {
        let schema: Vec<Field> =
            fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
        let found: Vec<String> = columns(&Schema::new(schema))
            .into_iter()
            .flat_map(|named| std::iter::once(named.name).chain(named.us))
            .map(CString::into_string)
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn names_are_such_as_queries_take() {
        let text = || DataType::Utf8;
        check(&[("n", text()), ("N", text()), ("a$", text())], &["n", "N", "a$"]);
        check(
            &[("$set", text()), ("service.name", text()), ("", text()), ("a\0b", text())],
            &["_set", "service_name", "_", "ab"],
        );
        check(&[("_id", text())], &["_id_1"]);
        // Whichever comes first, the one that is called so keeps its name.
        check(&[("a.b", text()), ("a_b", text())], &["a_b_1", "a_b"]);
        check(&[("a_b", text()), ("a.b", text())], &["a_b", "a_b_1"]);
    }

    #[test]
    fn a_time_has_its_microseconds_beside_it() {
        let time = || DataType::Timestamp(TimeUnit::Microsecond, None);
        check(&[("ts", time()), ("n", DataType::Int64)], &["ts", "_ts_us", "n"]);
        check(&[("at", time()), ("_at_us", DataType::Utf8)], &["at", "_at_us_1", "_at_us"]);
    }
}
