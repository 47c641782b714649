//! A table as it is now: read in the transaction that writes to it, under a lock that keeps it so.

use tokio_postgres::types::Type;

use crate::connection::{Error, Session};
use crate::copy::Held;
use crate::names::{TableName, quoted};

/// A table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Its name.
    pub(crate) name: TableName,
    /// `pg_class.relkind`: `r` a table, `p` a partitioned one, anything else is none.
    pub(crate) kind: String,
    /// How a partitioned one is split, as `RANGE (ts)`.
    pub(crate) split: Option<String>,
    /// Its columns in order.
    pub(crate) columns: Vec<Column>,
}

/// A column of a table.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    /// Its name.
    pub(crate) name: String,
    /// Its type as SQL writes it.
    pub(crate) declared: String,
    /// What that can hold.
    pub(crate) held: Held,
    /// Must have a value.
    pub(crate) required: bool,
    /// Gets one by itself where none is given.
    pub(crate) has_default: bool,
    /// Is computed from others, and cannot be written.
    pub(crate) generated: bool,
    /// Its texts are equal exactly where their bytes are.
    pub(crate) by_bytes: bool,
}

impl Table {
    /// Reads it. `None` if there is none of that name.
    pub(crate) async fn read(session: &Session, name: &TableName) -> Result<Option<Self>, Error> {
        let text = name.to_string();
        let sql = "SELECT relkind::text, CASE WHEN relkind = 'p' THEN pg_get_partkeydef(oid) END \
                   FROM pg_catalog.pg_class WHERE oid = to_regclass($1)";
        let found = session.query("look for the table", sql, &[(&text, Type::TEXT)]).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let (kind, split) = (row.get(0), row.get(1));
        Ok(Some(Self { name: name.clone(), kind, split, columns: columns(session, &text).await? }))
    }

    /// The same, once nobody else can change its columns until the end of the transaction.
    pub(crate) async fn locked(session: &Session, name: &TableName) -> Result<Option<Self>, Error> {
        match Self::read(session, name).await? {
            Some(found) if found.takes_rows() => {
                session.batch("lock the table", &format!("LOCK TABLE {name} IN ROW EXCLUSIVE MODE")).await?;
                Self::read(session, name).await
            }
            other => Ok(other),
        }
    }

    /// Whether it is a table, and no view or the like.
    pub(crate) fn takes_rows(&self) -> bool {
        matches!(self.kind.as_str(), "r" | "p")
    }

    /// The column for rows' column `name`: the one of exactly that name, or the only one that differs by case alone, as SQL
    /// that quotes nothing would find it.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        if let Some(exact) = self.columns.iter().find(|column| column.name == name) {
            return Some(exact);
        }
        let lower = name.to_lowercase();
        let mut like = self.columns.iter().filter(|column| column.name.to_lowercase() == lower);
        let first = like.next()?;
        if like.next().is_none() { Some(first) } else { None }
    }
}

async fn columns(session: &Session, table: &str) -> Result<Vec<Column>, Error> {
    // A domain is written as the type that it restricts; the server checks the rest.
    let sql = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), b.typname::text, b.typtype::text, \
               CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END, a.attnotnull OR t.typnotnull, \
               a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, a.attgenerated <> '', \
               coalesce((SELECT c.collisdeterministic FROM pg_catalog.pg_collation c WHERE c.oid = a.attcollation), true) \
               FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
               JOIN pg_catalog.pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END \
               WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
    let rows = session.query("read the columns of the table", sql, &[(&table, Type::TEXT)]).await?;
    let column = |row: &tokio_postgres::Row| Column {
        name: row.get(0),
        declared: row.get(1),
        held: Held::of(row.get(2), row.get(3), row.get(4)),
        required: row.get(5),
        has_default: row.get(6),
        generated: row.get(7),
        by_bytes: row.get(8),
    };
    Ok(rows.iter().map(column).collect())
}

/// A list of columns of SQL.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}
