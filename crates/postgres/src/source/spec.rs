//! What an operator says about a server that is read: one table that grows, or every change of several.

use std::time::Duration;

use aap_runtime::SecretRef;
use aap_types::StreamName;
use serde::{Deserialize, Serialize};

use crate::connection::{Access, ServerUrl};
use crate::names::{IDENTIFIER_BYTES_MAX, TableName};

/// How often a table is looked at where nothing is said, in seconds.
const TABLE_EVERY_DEFAULT_S: u64 = 5;
/// How often new changes are asked for where nothing is said: a look costs the server next to nothing where there are none.
const CHANGES_EVERY_DEFAULT_S: u64 = 1;

/// The section `postgres` of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSourceSpec {
    /// `postgres://user@host:port/database?sslmode=…&sslrootcert=…`. A password is refused here.
    url: ServerUrl,
    /// Where the password stands. Default: none, for servers that ask for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<SecretRef>,
    /// `table` or `schema.table`. This, or `changes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    /// A column that is never null and greater in every row that is added: a sequence, or the time of writing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    /// The column that is the row's `ts`. Default: a column `ts`, else the cursor if it is a time, else when the row was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    /// Where rows go. Default: the stream of the table's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<StreamName>,
    /// Every change of some tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changes: Option<ChangesSpec>,
    /// Seconds between looks. Default: 5, of changes 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every_seconds: Option<u64>,
}

/// Its section `changes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangesSpec {
    /// Which tables: a publication is made for them. These, or `publication`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tables: Vec<String>,
    /// A publication that is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    publication: Option<String>,
    /// Where all changes go. Default: those of each table to the stream of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<StreamName>,
    /// Whether rows that were there first are read. Only `false` can be had.
    #[serde(default)]
    snapshot: bool,
}

/// A source that was checked.
#[derive(Debug, Clone)]
pub enum PostgresSource {
    /// The new rows of a table.
    Table(TableSource),
    /// Every change of some tables.
    Changes(ChangesSource),
}

/// A table that is read.
#[derive(Debug, Clone)]
pub struct TableSource {
    pub(crate) access: Access,
    pub(crate) table: TableName,
    pub(crate) cursor: String,
    pub(crate) time: Option<String>,
    /// What is read, as text: another table, or another column, is another place.
    pub place: String,
    /// Where rows go.
    pub stream: StreamName,
    /// Between looks.
    pub every: Duration,
}

/// Tables whose changes are read.
#[derive(Debug, Clone)]
pub struct ChangesSource {
    pub(crate) access: Access,
    pub(crate) publish: Publish,
    pub(crate) stream: Option<StreamName>,
    /// Between looks.
    pub every: Duration,
}

/// How the server is told which changes are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publish {
    /// By a publication of ours for these tables, as SQL takes their names.
    Tables(Vec<String>),
    /// By somebody else's.
    Publication(String),
}

impl PostgresSourceSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.password.iter().cloned().collect()
    }

    /// Checks it, as far as that can be done without the server.
    ///
    /// # Errors
    /// The first thing that makes no sense.
    pub fn read(self) -> Result<PostgresSource, String> {
        if self.every_seconds == Some(0) {
            return Err("`every_seconds` must be 1 at least".to_owned());
        }
        match (&self.table, &self.changes) {
            (Some(_), None) => self.table().map(PostgresSource::Table),
            (None, Some(_)) => self.changes().map(PostgresSource::Changes),
            _ => Err("a source reads a table that grows (`table`) or the changes of tables (`changes`): say one of \
                      them"
                .to_owned()),
        }
    }

    fn every(&self, default_s: u64) -> Duration {
        Duration::from_secs(self.every_seconds.unwrap_or(default_s))
    }

    fn table(self) -> Result<TableSource, String> {
        let every = self.every(TABLE_EVERY_DEFAULT_S);
        let name = self.table.unwrap_or_default();
        let table = TableName::fixed(&name).map_err(|error| format!("`table`: {error}"))?;
        let cursor = self.cursor.ok_or("`table` needs `cursor`: a column that only grows")?;
        let stream = match self.stream {
            Some(stream) => stream,
            None => table.table.parse().map_err(|_| {
                format!(
                    "table `{}` cannot be the name of a stream: say which with `stream: NAME`",
                    table.table
                )
            })?,
        };
        let place = format!("{name}/{cursor}");
        let access = Access { url: self.url, password: self.password };
        Ok(TableSource { access, table, cursor, time: self.time, place, stream, every })
    }

    fn changes(self) -> Result<ChangesSource, String> {
        let every = self.every(CHANGES_EVERY_DEFAULT_S);
        for (field, is_said) in [("cursor", self.cursor.is_some()), ("time", self.time.is_some())] {
            if is_said {
                return Err(format!(
                    "`{field}` belongs to `table`: changes come in the order of their commits"
                ));
            }
        }
        if self.stream.is_some() {
            return Err("write `stream` into `changes`".to_owned());
        }
        let Some(ChangesSpec { tables, publication, stream, snapshot }) = self.changes else {
            return Err("`changes` is missing".to_owned());
        };
        if snapshot {
            return Err("`snapshot: true` cannot be had: changes begin when the source is made. Read the rows that are \
                        there already by a source with `table`, or ask the table itself by a Catalog"
                .to_owned());
        }
        let publish = match (tables.is_empty(), publication) {
            (false, None) => Publish::Tables(names(&tables, stream.is_some())?),
            (true, Some(name))
                if (1..=IDENTIFIER_BYTES_MAX).contains(&name.len()) && !name.contains('\0') =>
            {
                Publish::Publication(name)
            }
            (true, Some(name)) => return Err(format!("`publication: {name}` names no publication")),
            _ => return Err("`changes` needs `tables` or `publication`, one of them".to_owned()),
        };
        let access = Access { url: self.url, password: self.password };
        Ok(ChangesSource { access, publish, stream, every })
    }
}

/// Tables as SQL takes their names.
fn names(tables: &[String], have_stream: bool) -> Result<Vec<String>, String> {
    let mut known: Vec<TableName> = vec![];
    for text in tables {
        let name = TableName::fixed(text).map_err(|error| format!("`tables`: {error}"))?;
        if known.contains(&name) {
            return Err(format!("`tables`: {text} is there twice"));
        }
        if !have_stream && name.table.parse::<StreamName>().is_err() {
            let table = &name.table;
            return Err(format!(
                "table `{table}` cannot be the name of a stream: say which with `stream: NAME`"
            ));
        }
        known.push(name);
    }
    Ok(known.iter().map(TableName::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(more: &str, expected: &str) {
        let text = format!("url: postgres://me@db/x\n{more}");
        let found = match serde_norway::from_str::<PostgresSourceSpec>(&text) {
            Ok(spec) => spec.read().err().unwrap_or_else(|| "fine".to_owned()),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{more}: {found}");
    }

    #[test]
    fn what_cannot_work_is_told_before_a_connection_is_made() {
        check("table: public.orders\ncursor: id", "fine");
        check("table: Orders\ncursor: id", "`stream: NAME`");
        check("table: a.b.c\ncursor: id", "names no table");
        check("table: orders\ncursor: id\nevery_seconds: 0", "`every_seconds`");
        check("table: orders", "needs `cursor`");
        check("cursor: id", "say one of them");
        check("table: orders\ncursor: id\nchanges: { tables: [orders] }", "say one of them");
    }

    #[test]
    fn changes_are_those_of_tables_or_of_a_publication() {
        check("changes: { tables: [public.orders, customers] }", "fine");
        check("changes: { publication: shop, stream: all, snapshot: false }", "fine");
        check("changes: { publication: shop, tables: [orders] }", "one of them");
        check("changes: {}", "one of them");
        check("changes: { publication: '' }", "names no publication");
        check("changes: { tables: [orders, orders] }", "twice");
        check("changes: { tables: [Orders] }", "`stream: NAME`");
        check("changes: { tables: [Orders], stream: orders }", "fine");
        check("changes: { tables: [orders], snapshot: true }", "`snapshot: true` cannot be had");
        check("changes: { tables: [orders] }\nstream: orders", "into `changes`");
        check("changes: { tables: [orders] }\ncursor: id", "belongs to `table`");
        check("changes: { table: [orders] }", "unknown field");
    }
}
