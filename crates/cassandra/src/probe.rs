//! Looks whether a sink could write, changing nothing.

use crate::fail::CassandraError;
use crate::ledger::Ledger;
use crate::names::{LEDGER, is_plain};
use crate::session::Connected;
use crate::spec::CassandraSpec;
use crate::table::{Table, replication};

/// A line for each thing that was found.
pub(crate) async fn look(
    connected: &Connected,
    spec: &CassandraSpec,
    uid: &str,
) -> Result<Vec<String>, CassandraError> {
    let mut lines = vec![cluster(connected, spec).await?];
    let made = if spec.create { "would be created" } else { "is missing, and `create` is not set" };
    match replication(connected, &spec.keyspace).await? {
        Some(options) => {
            let options: Vec<String> =
                options.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            lines.push(format!("keyspace: {}, {}", spec.keyspace, options.join(", ")));
        }
        None => lines.push(format!("keyspace: {} {made}", spec.keyspace)),
    }
    lines.push(table(connected, spec, made).await?);
    lines.push(match Table::read(connected, &spec.keyspace, LEDGER).await? {
        Some(_) => {
            let positions = Ledger { connected, spec, uid }.positions().await?;
            format!("ledger: {LEDGER}, {} keys of this sink", positions.len())
        }
        None => format!("ledger: {LEDGER} {made}"),
    });
    Ok(lines)
}

async fn cluster(connected: &Connected, spec: &CassandraSpec) -> Result<String, CassandraError> {
    let get = "SELECT cluster_name, release_version FROM system.local";
    let rows: Vec<(String, String)> = connected.rows(get, ()).await?;
    let (name, version) = rows.into_iter().next().unwrap_or_default();
    let (all, up) = connected.nodes();
    let user = spec.username.as_deref().map(|user| format!(", as {user}")).unwrap_or_default();
    let tls = if spec.tls.is_some() { "TLS" } else { "no TLS" };
    Ok(format!("cluster: {name}, Cassandra {version}, {up} of {all} nodes up{user}, {tls}"))
}

async fn table(connected: &Connected, spec: &CassandraSpec, made: &str) -> Result<String, CassandraError> {
    if !spec.table.is_fixed() {
        return Ok(format!("tables: {}, one for each stream; one that is not there {made}", spec.table));
    }
    let name = spec.table.to_string();
    if !is_plain(&name) {
        return Ok(format!("table: `{name}`, as Cassandra can spell it; one that is not there {made}"));
    }
    Ok(match Table::read(connected, &spec.keyspace, &name).await? {
        Some(found) => {
            let columns: Vec<String> =
                found.columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
            format!("table: {name}, {} columns: {}", columns.len(), columns.join(", "))
        }
        None => format!("table: {name} {made}"),
    })
}
