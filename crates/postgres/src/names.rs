//! Names in the server: tables, and columns as PostgreSQL can hold them.

use std::collections::HashSet;
use std::fmt;

use aap_sinks::Template;
use aap_types::StreamName;
use arrow_schema::Schema;

/// Longest identifier in bytes (`NAMEDATALEN` less one). The server cuts longer ones off without an error, so that two of them
/// could become one.
pub(crate) const IDENTIFIER_BYTES_MAX: usize = 63;

/// Columns that every table has already, which no other can be called.
const TAKEN: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

/// A table, and the schema that it is in; without one, the first of the search path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TableName {
    /// Before the dot.
    pub(crate) schema: Option<String>,
    /// After it.
    pub(crate) table: String,
}

/// Why a text names no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// Too many dots, or nothing beside one.
    #[error("`{0}` names no table: use `table` or `schema.table`")]
    Parts(String),
    /// Longer than the server can tell apart.
    #[error("`{0}` is longer than the 63 bytes that PostgreSQL keeps of a name")]
    Long(String),
}

impl TableName {
    /// The table of a stream. The dot that ends the schema is one of the template: those in a stream's name are part of it.
    pub(crate) fn of(template: &Template, stream: &StreamName) -> Result<Self, NameError> {
        let text = template.to_string();
        let fill = |part: &str| part.replace("{stream}", stream.as_str());
        Self::parts(&text, fill)
    }

    /// A table whose name is fixed.
    pub(crate) fn fixed(text: &str) -> Result<Self, NameError> {
        Self::parts(text, str::to_owned)
    }

    fn parts(text: &str, fill: impl Fn(&str) -> String) -> Result<Self, NameError> {
        let (schema, table) = match text.split_once('.') {
            Some((schema, table)) => (Some(fill(schema)), table),
            None => (None, text),
        };
        if table.contains('.') || table.is_empty() || schema.as_deref() == Some("") || text.contains('\0') {
            return Err(NameError::Parts(text.to_owned()));
        }
        let name = Self { schema, table: fill(table) };
        let parts = [name.schema.as_deref().unwrap_or_default(), &name.table];
        if let Some(long) = parts.iter().find(|part| part.len() > IDENTIFIER_BYTES_MAX) {
            return Err(NameError::Long((*long).to_owned()));
        }
        Ok(name)
    }

    /// Another table beside this one. Where the name is too long for the ending, its end gives way to a digest of the whole.
    pub(crate) fn beside(&self, ending: &str) -> Self {
        let mut table = format!("{}{ending}", self.table);
        if table.len() > IDENTIFIER_BYTES_MAX {
            let digest = ring::digest::digest(&ring::digest::SHA256, self.table.as_bytes());
            let digest: String = digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
            let room = IDENTIFIER_BYTES_MAX - ending.len() - digest.len() - 1;
            table = format!("{}_{digest}{ending}", cut(&self.table, room));
        }
        Self { schema: self.schema.clone(), table }
    }
}

/// As SQL takes it.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", quoted(schema))?;
        }
        f.write_str(&quoted(&self.table))
    }
}

/// An identifier of SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text of SQL, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "''");
    format!("E'{escaped}'")
}

/// What the columns of a batch are called in a table: as [`aap_columns::distinct_names`] says, less what PostgreSQL cannot hold.
pub(crate) fn column_names(schema: &Schema) -> Vec<String> {
    let mut taken: HashSet<String> = HashSet::new();
    let names = aap_columns::distinct_names(schema).into_iter().map(|(name, _)| {
        let plain = match name.as_str() {
            "" => "column".to_owned(),
            taken if TAKEN.contains(&taken) => format!("{taken}_"),
            other => cut(other, IDENTIFIER_BYTES_MAX).to_owned(),
        };
        let mut name = plain.clone();
        let mut times = 0;
        while !taken.insert(name.to_lowercase()) {
            times += 1;
            let ending = format!("_{times}");
            name = format!("{}{ending}", cut(&plain, IDENTIFIER_BYTES_MAX - ending.len()));
        }
        name
    });
    names.collect()
}

/// The beginning of a text, at most so many bytes.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use arrow_schema::{DataType, Field};

    use super::*;

    #[test]
    fn dots_of_a_stream_stay_in_the_name_of_its_table() {
        let stream: StreamName = "web.access".parse().unwrap();
        let check = |template: &str, expected: &str| {
            let name = TableName::of(&template.parse().unwrap(), &stream);
            assert_eq!(name.map_or_else(|error| error.to_string(), |name| name.to_string()), expected);
        };
        check("lake.{stream}", "\"lake\".\"web.access\"");
        check("{stream}_raw", "\"web.access_raw\"");
        check("a\"b.c", "\"a\"\"b\".\"c\"");
        check("a.b.c", "`a.b.c` names no table: use `table` or `schema.table`");
        check(
            &format!("{}{{stream}}", "x".repeat(60)),
            &format!(
                "`{}web.access` is longer than the 63 bytes that PostgreSQL keeps of a name",
                "x".repeat(60)
            ),
        );
    }

    #[test]
    fn tables_beside_one_of_a_long_name_stay_apart() {
        let name = |table: &str| TableName::fixed(table).unwrap();
        assert_eq!(name("a.b").beside("_default").to_string(), "\"a\".\"b_default\"");
        let (one, two) = (name(&format!("{}1", "é".repeat(31))), name(&format!("{}2", "é".repeat(31))));
        let (one, two) = (one.beside("_p20261126"), two.beside("_p20261126"));
        assert!(one.table.len() <= IDENTIFIER_BYTES_MAX && one != two, "{one} {two}");
    }

    #[test]
    fn columns_that_postgresql_cannot_hold_get_names_that_it_can() {
        let names = ["", "ctid", "Level", "level", "a\0b", &"é".repeat(40), &format!("{}x", "é".repeat(40))];
        let schema = Schema::new(names.map(|name| Field::new(name, DataType::Int64, true)).to_vec());
        let long = "é".repeat(31);
        assert_eq!(
            column_names(&schema),
            ["column", "ctid_", "Level", "level_1", "ab", &long, &format!("{}_1", "é".repeat(30))]
        );
    }
}
