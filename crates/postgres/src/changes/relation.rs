//! A table of the log as columns of a stream.
//!
//! The log names types by number. Those that the server was built with are known; of domains, enumerations and extensions the
//! catalogue is asked, once for each form that a table has.

use std::collections::HashMap;

use aap_types::{Problem, StreamName};
use tokio_postgres::types::Type;

use super::message::{RelationColumn, RelationMessage};
use crate::connection::{Error, Session};
use crate::copy::Held;
use crate::names::literal;
use crate::remote::column::Fetched;
use crate::source::shape;
use crate::table::Column;

/// Columns that every row has beside those of its table.
pub(crate) const OWN: [&str; 7] = ["ts", "_op", "_table", "_lsn", "_change", "_commit_ts", "_unchanged"];

/// `char(n)`, as the catalogue calls it.
const PADDED: &str = "bpchar";

/// A table, in the form that the following rows have.
#[derive(Debug)]
pub(crate) struct Relation {
    pub(crate) message: RelationMessage,
    /// Where its rows go.
    pub(crate) stream: StreamName,
    /// `schema.table`.
    pub(crate) name: String,
    pub(crate) columns: Vec<Fetched>,
    /// Which of them tell rows apart.
    pub(crate) keys: Vec<bool>,
    /// Which are filled up with blanks that are not part of the value.
    pub(crate) padded: Vec<bool>,
}

/// What the catalogue says beside the log.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Types that are not built in: name, kind and modifier of what they are made of.
    types: HashMap<u32, (String, String, i32)>,
    /// The columns of the primary key.
    primary: Vec<String>,
}

impl Found {
    /// What is needed of the catalogue for a table.
    pub(crate) async fn of(session: &Session, message: &RelationMessage) -> Result<Self, Error> {
        let mut found = Self::default();
        let unknown: Vec<String> = message
            .columns
            .iter()
            .filter(|column| Type::from_oid(column.type_oid).is_none())
            .map(|column| column.type_oid.to_string())
            .collect();
        if !unknown.is_empty() {
            let sql = format!(
                "SELECT t.oid::bigint, b.typname::text, b.typtype::text, \
                 CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE -1 END FROM pg_catalog.pg_type t \
                 JOIN pg_catalog.pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END \
                 WHERE t.oid IN ({})",
                unknown.join(", ")
            );
            for row in session.query("look for types", &sql, &[]).await? {
                let oid = u32::try_from(row.get::<_, i64>(0)).unwrap_or_default();
                found.types.insert(oid, (row.get(1), row.get(2), row.get(3)));
            }
        }
        if message.identity == b'f' {
            let sql = format!(
                "SELECT a.attname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a \
                 ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) WHERE i.indisprimary AND i.indrelid = {}",
                literal(&message.id.to_string())
            );
            let rows = session.query("look for the primary key", &sql, &[]).await?;
            found.primary = rows.iter().map(|row| row.get(0)).collect();
        }
        Ok(found)
    }
}

impl RelationMessage {
    /// Whether the catalogue must be asked.
    pub(crate) fn needs_catalogue(&self) -> bool {
        let is_known = |column: &RelationColumn| Type::from_oid(column.type_oid).is_some();
        self.identity == b'f' || !self.columns.iter().all(is_known)
    }
}

impl Relation {
    /// `stream`: where all rows go, whatever their table.
    pub(crate) fn new(
        message: RelationMessage,
        found: &Found,
        stream: Option<&StreamName>,
    ) -> Result<Self, Problem> {
        let stream = match stream {
            Some(stream) => stream.clone(),
            None => message.table.parse().map_err(|_| {
                let text = format!("table `{}` cannot be the name of a stream", message.table);
                shape(text, "say where its changes go with `stream: NAME`")
            })?,
        };
        let mut taken: Vec<String> = OWN.iter().map(|name| (*name).to_owned()).collect();
        let types: Vec<Column> = message.columns.iter().map(|column| typed(column, found)).collect();
        let padded = types.iter().map(|column| column.declared == PADDED).collect();
        let columns = types.iter().map(|column| {
            let name = free(&column.name, &taken);
            taken.push(name.to_lowercase());
            Fetched::kept(column, &name)
        });
        let columns = columns.collect();
        let is_key = |column: &RelationColumn| match message.identity {
            // The whole row is sent, so everything is marked.
            b'f' => found.primary.contains(&column.name),
            _ => column.is_key,
        };
        let keys = message.columns.iter().map(is_key).collect();
        let name = format!("{}.{}", message.schema, message.table);
        Ok(Self { message, stream, name, columns, keys, padded })
    }
}

/// A name that no other column has.
fn free(name: &str, taken: &[String]) -> String {
    let is_taken = |name: &str| taken.iter().any(|taken| *taken == name.to_lowercase());
    let mut free = name.to_owned();
    let mut times = 0;
    // Tables themselves may have columns that differ by case alone, which streams keep apart in their way.
    while OWN.iter().any(|own| free.eq_ignore_ascii_case(own)) || (times > 0 && is_taken(&free)) {
        times += 1;
        free = format!("{name}_{times}");
    }
    free
}

fn typed(column: &RelationColumn, found: &Found) -> Column {
    let (name, kind, modifier) = match Type::from_oid(column.type_oid) {
        Some(known) => (known.name().to_owned(), "b".to_owned(), column.modifier),
        None => match found.types.get(&column.type_oid) {
            // Of a domain the modifier is its own.
            Some((name, kind, modifier)) => (name.clone(), kind.clone(), *modifier),
            // Dropped meanwhile: as text.
            None => (String::new(), String::new(), -1),
        },
    };
    let declared = match name.as_str() {
        "timestamptz" => "timestamp with time zone".to_owned(),
        _ => name.clone(),
    };
    let held = Held::of(&name, &kind, modifier);
    Column {
        name: column.name.clone(),
        declared,
        held,
        required: false,
        has_default: false,
        generated: false,
        by_bytes: true,
    }
}
