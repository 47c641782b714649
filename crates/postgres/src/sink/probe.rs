//! Looks whether a sink could write, changing nothing.

use tokio_postgres::types::Type;

use super::ledger::Ledger;
use super::spec::PostgresSpec;
use crate::connection::{Error, Session};
use crate::names::TableName;
use crate::table::Table;

/// A line for each thing that was found.
pub(crate) async fn look(
    session: &Session,
    spec: &PostgresSpec,
    ledger: &Ledger,
) -> Result<Vec<String>, Error> {
    session.begin_read_only().await?;
    let lines = vec![server(session).await?, table(session, spec).await?, place(session, ledger).await?];
    session.rollback().await?;
    Ok(lines)
}

async fn server(session: &Session) -> Result<String, Error> {
    let sql = "SELECT current_setting('server_version'), current_database()::text, current_user::text, \
               CASE WHEN pg_is_in_recovery() THEN ', a standby that takes no writes' ELSE '' END, \
               CASE WHEN (SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()) THEN 'TLS' ELSE 'no TLS' END";
    let rows = session.query("ask the server who it is", sql, &[]).await?;
    let text = |place: usize| rows[0].get::<_, Option<&str>>(place).unwrap_or("unknown");
    Ok(format!(
        "server: PostgreSQL {}, database {}, as {}, {}{}",
        text(0),
        text(1),
        text(2),
        text(4),
        text(3)
    ))
}

async fn table(session: &Session, spec: &PostgresSpec) -> Result<String, Error> {
    if !spec.table.is_fixed() {
        let missing = if spec.create { "made where they are missing" } else { "which must be there" };
        return Ok(format!("tables: {}, one for each stream, {missing}", spec.table));
    }
    let name = match TableName::fixed(&spec.table.to_string()) {
        Ok(name) => name,
        Err(error) => return Ok(format!("table: {error}")),
    };
    Ok(match Table::read(session, &name).await? {
        Some(found) => {
            let rights = rights(session, &name, &["INSERT"]).await?;
            let columns: Vec<String> =
                found.columns.iter().map(|column| format!("{} {}", column.name, column.declared)).collect();
            format!("table: {name}, {rights}, {} columns: {}", columns.len(), columns.join(", "))
        }
        None if spec.create => format!("table: {name} would be created"),
        None => format!("table: {name} is missing, and `create` is not set"),
    })
}

async fn place(session: &Session, ledger: &Ledger) -> Result<String, Error> {
    let name = &ledger.table;
    if Table::read(session, name).await?.is_none() {
        return Ok(format!("ledger: {name} would be created"));
    }
    let rights = rights(session, name, &["SELECT", "INSERT", "UPDATE"]).await?;
    let positions = ledger.positions(session).await?;
    Ok(format!("ledger: {name}, {rights}, {} keys of this sink", positions.len()))
}

/// What of these the user may not do with a table.
async fn rights(session: &Session, name: &TableName, needed: &[&str]) -> Result<String, Error> {
    let needed: Vec<String> = needed.iter().map(ToString::to_string).collect();
    let sql = "SELECT r FROM unnest($2) AS r WHERE NOT has_table_privilege($1, r)";
    let name = name.to_string();
    let rows =
        session.query("ask for the rights", sql, &[(&name, Type::TEXT), (&needed, Type::TEXT_ARRAY)]).await?;
    let lacking: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    Ok(match lacking.is_empty() {
        true => "writable".to_owned(),
        false => format!("the right to {} is missing", lacking.join(", ")),
    })
}
