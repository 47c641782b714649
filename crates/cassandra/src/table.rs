//! Tables: as they are, made, and following their streams.

use std::collections::{BTreeMap, BTreeSet};

use aap_sinks::Failure;
use arrow_schema::DataType;

use crate::fail::{self, CassandraError, Trouble};
use crate::kind::Kind;
use crate::names::{KEY, PARTITION_KEYS, TS_US, literal, quoted};
use crate::session::Connected;
use crate::spec::{CassandraSpec, ReplicationOption};

/// A column that rows have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) kind: DataType,
    /// What stands beside it, if it is made as a time.
    pub(crate) us: Option<String>,
}

/// A table as it is now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    /// Types by name, as the server calls them.
    pub(crate) columns: BTreeMap<String, String>,
    /// Names and types of the key, in its order.
    key: Vec<(String, String)>,
    partition_keys: usize,
    /// Columns that were there once.
    dropped: BTreeSet<String>,
}

impl Table {
    /// What the server has under that name, if anything.
    pub(crate) async fn read(
        connected: &Connected,
        keyspace: &str,
        name: &str,
    ) -> Result<Option<Self>, CassandraError> {
        let get = "SELECT column_name, type, kind, position FROM system_schema.columns \
                   WHERE keyspace_name = ? AND table_name = ?";
        let rows: Vec<(String, String, String, i32)> = connected.rows(get, (keyspace, name)).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let get = "SELECT column_name FROM system_schema.dropped_columns WHERE keyspace_name = ? AND table_name = ?";
        let dropped: Vec<(String,)> = connected.rows(get, (keyspace, name)).await?;
        let mut table =
            Self { dropped: dropped.into_iter().map(|(name,)| name).collect(), ..Self::default() };
        let mut keys: Vec<(bool, i32, String, String)> = vec![];
        for (column, kind, role, position) in rows {
            if role == "partition_key" || role == "clustering" {
                keys.push((role == "clustering", position, column.clone(), kind.clone()));
            }
            table.columns.insert(column, kind);
        }
        keys.sort();
        table.partition_keys = keys.iter().filter(|(is_clustering, ..)| !is_clustering).count();
        table.key = keys.into_iter().map(|(_, _, column, kind)| (column, kind)).collect();
        Ok(Some(table))
    }

    /// What a column holds; `None` for types that we do not write.
    pub(crate) fn kind(&self, name: &str) -> Option<Kind> {
        self.columns.get(name).and_then(|kind| Kind::named(kind))
    }

    /// Names and types of the partition key, in its order.
    pub(crate) fn partition_key(&self) -> &[(String, String)] {
        &self.key[..self.partition_keys]
    }

    /// Names and types of the clustering key, in its order.
    pub(crate) fn clustering_key(&self) -> &[(String, String)] {
        &self.key[self.partition_keys..]
    }

    /// A table of these columns.
    #[cfg(test)]
    pub(crate) fn with(
        partition: &[(&str, &str)],
        clustering: &[(&str, &str)],
        others: &[(&str, &str)],
    ) -> Self {
        let owned = |(name, kind): &(&str, &str)| ((*name).to_owned(), (*kind).to_owned());
        let key: Vec<(String, String)> = partition.iter().chain(clustering).map(owned).collect();
        let columns = key.iter().cloned().chain(others.iter().map(owned)).collect();
        Self { columns, key, partition_keys: partition.len(), ..Self::default() }
    }

    fn has_our_key(&self) -> bool {
        let ours = KEY.iter().map(|(name, kind)| (*name, *kind));
        self.partition_keys == PARTITION_KEYS
            && self.key.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).eq(ours)
    }

    /// Names and types that the rows need and the table has not.
    fn lacking(&self, wanted: &[Wanted]) -> Vec<(String, &'static str)> {
        let mut lacking = vec![];
        if !self.columns.contains_key(TS_US) {
            lacking.push((TS_US.to_owned(), Kind::Bigint.name()));
        }
        for column in wanted {
            let declared = self.columns.get(&column.name);
            if declared.is_none() {
                lacking.push((column.name.clone(), Kind::of(&column.kind).name()));
            }
            let is_time = declared.is_none_or(|kind| kind == Kind::Timestamp.name());
            if let Some(us) = column.us.as_ref().filter(|us| is_time && !self.columns.contains_key(*us)) {
                lacking.push((us.clone(), Kind::Bigint.name()));
            }
        }
        lacking
    }
}

/// One table, and what may be done with it.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) connected: &'a Connected,
    pub(crate) spec: &'a CassandraSpec,
    pub(crate) name: &'a str,
}

impl Place<'_> {
    /// `"keyspace"."table"`.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.spec.keyspace), quoted(self.name))
    }

    /// The table, made for rows with these columns.
    pub(crate) async fn ensure(&self, known: Option<Table>, wanted: &[Wanted]) -> Result<Table, Failure> {
        let table = match known {
            Some(table) => table,
            None => self.found(wanted).await?,
        };
        if let Some(dropped) = wanted.iter().find(|column| table.dropped.contains(&column.name)) {
            return Err(fail::misfit(
                format!("column `{}` of {} was dropped once", dropped.name, self.quoted()),
                "Cassandra would hide what the sink writes there, for it is older by its write time: \
                 let the sink write to another `table`",
                None,
            ));
        }
        let table = self.followed(table, wanted).await?;
        self.fits(&table, wanted)?;
        Ok(table)
    }

    /// Reads it, or makes it.
    async fn found(&self, wanted: &[Wanted]) -> Result<Table, Failure> {
        if let Some(table) = self.read().await? {
            if table.has_our_key() {
                return Ok(table);
            }
            return Err(fail::misfit(
                format!("the primary key of {} is not made of row ids", self.quoted()),
                "make the table so, under this or another name",
                Some(self.definition(wanted)),
            ));
        }
        let definition = self.definition(wanted);
        if !self.spec.create {
            return Err(fail::missing(format!("there is no table {}", self.quoted()), definition));
        }
        make(self.connected, self.spec, &definition).await?;
        self.read().await?.ok_or_else(|| self.vanished())
    }

    /// Adds what it has not.
    async fn followed(&self, table: Table, wanted: &[Wanted]) -> Result<Table, Failure> {
        let lacking = table.lacking(wanted);
        let Some((first, _)) = lacking.first() else { return Ok(table) };
        let added: Vec<String> =
            lacking.iter().map(|(name, kind)| format!("{} {kind}", quoted(name))).collect();
        let statement = format!("ALTER TABLE {} ADD {}", self.quoted(), added.join(", "));
        if !self.spec.evolves() {
            return Err(fail::misfit(
                format!("{} has no column `{first}`", self.quoted()),
                "set `evolve: true`, or add what is missing",
                Some(statement),
            ));
        }
        let added = make(self.connected, self.spec, &statement).await;
        let table = self.read().await?.ok_or_else(|| self.vanished())?;
        // Another instance may have added the same.
        match table.lacking(wanted).is_empty() {
            true => Ok(table),
            false => Err(added.err().unwrap_or_else(|| self.vanished())),
        }
    }

    fn fits(&self, table: &Table, wanted: &[Wanted]) -> Result<(), Failure> {
        for column in wanted {
            let declared = table.columns.get(&column.name).map_or("", String::as_str);
            if !Kind::named(declared).is_some_and(|kind| kind.holds(&column.kind)) {
                let message = format!(
                    "column `{}` of {} is {declared}, which does not hold {} exactly",
                    column.name,
                    self.quoted(),
                    column.kind
                );
                let remedy = "Cassandra changes no type: let the sink write to another `table`, or make this one again \
                              with that column as text, which takes everything";
                return Err(fail::misfit(message, remedy, None));
            }
            let us = column.us.as_ref().filter(|_| declared == Kind::Timestamp.name());
            if let Some(us) = us.filter(|us| table.kind(us) != Some(Kind::Bigint)) {
                let message = format!("column `{us}` of {} is not bigint", self.quoted());
                return Err(fail::misfit(
                    message,
                    "it is for the microseconds of a time: call yours otherwise",
                    None,
                ));
            }
        }
        Ok(())
    }

    /// The statement that makes it.
    fn definition(&self, wanted: &[Wanted]) -> String {
        let key = KEY.iter().map(|(name, kind)| format!("{} {kind}", quoted(name)));
        let more = Table::default().lacking(wanted);
        let more = more.iter().map(|(name, kind)| format!("{} {kind}", quoted(name)));
        let columns: Vec<String> = key.chain(more).collect();
        let names: Vec<String> = KEY.iter().map(|(name, _)| quoted(name)).collect();
        let (partition, clustering) = names.split_at(PARTITION_KEYS);
        format!(
            "CREATE TABLE {} ({}, PRIMARY KEY (({}), {}))",
            self.quoted(),
            columns.join(", "),
            partition.join(", "),
            clustering.join(", ")
        )
    }

    async fn read(&self) -> Result<Option<Table>, Failure> {
        let read = Table::read(self.connected, &self.spec.keyspace, self.name).await;
        read.map_err(|error| fail::failure(self.spec, &error))
    }

    fn vanished(&self) -> Failure {
        fail::misfit(
            format!("{} is not as it was just made", self.quoted()),
            "somebody else changes it: see to it that only the sink does",
            None,
        )
    }
}

/// Changes the schema. What somebody else has made meanwhile is fine.
pub(crate) async fn make(connected: &Connected, spec: &CassandraSpec, cql: &str) -> Result<(), Failure> {
    match connected.change(cql).await {
        Err(error) if !is_there_already(&error) => Err(fail::failure(spec, &error)),
        _ => Ok(()),
    }
}

fn is_there_already(error: &CassandraError) -> bool {
    error.trouble() == Trouble::Statement && error.to_string().to_lowercase().contains("exist")
}

/// Sees to keyspace and ledger.
pub(crate) async fn ensure_keyspace(
    connected: &Connected,
    spec: &CassandraSpec,
    ledger: &str,
    ledger_definition: &str,
) -> Result<(), Failure> {
    let failed = |error: CassandraError| fail::failure(spec, &error);
    if replication(connected, &spec.keyspace).await.map_err(failed)?.is_none() {
        let definition = keyspace_definition(connected, spec);
        if !spec.create {
            let statement = definition.unwrap_or_else(|_ask| {
                format!("CREATE KEYSPACE {} WITH replication = {{…}}", quoted(&spec.keyspace))
            });
            return Err(fail::missing(format!("there is no keyspace `{}`", spec.keyspace), statement));
        }
        make(connected, spec, &definition?).await?;
    }
    if Table::read(connected, &spec.keyspace, ledger).await.map_err(failed)?.is_none() {
        if !spec.create {
            let what = format!("there is no table `{ledger}` in keyspace `{}`", spec.keyspace);
            return Err(fail::missing(what, ledger_definition.to_owned()));
        }
        make(connected, spec, ledger_definition).await?;
    }
    Ok(())
}

/// How a keyspace is copied, if it is there.
pub(crate) async fn replication(
    connected: &Connected,
    keyspace: &str,
) -> Result<Option<BTreeMap<String, String>>, CassandraError> {
    let get = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let rows: Vec<(BTreeMap<String, String>,)> = connected.rows(get, (keyspace,)).await?;
    Ok(rows.into_iter().next().map(|(replication,)| replication))
}

fn keyspace_definition(connected: &Connected, spec: &CassandraSpec) -> Result<String, Failure> {
    let entry = |name: &str, value: &str| format!("{}: {}", literal(name), literal(value));
    let entries: Vec<String> = match &spec.replication {
        Some(replication) => replication
            .iter()
            .map(|(name, value)| match value {
                ReplicationOption::Copies(copies) => entry(name, &copies.to_string()),
                ReplicationOption::Text(text) => entry(name, text),
            })
            .collect(),
        None if connected.nodes().0 == 1 => {
            vec![entry("class", "SimpleStrategy"), entry("replication_factor", "1")]
        }
        None => {
            return Err(fail::setting(format!(
                "the cluster has {} nodes: say in `replication` how many copies a keyspace gets, as in \
                 `{{class: NetworkTopologyStrategy, datacenter1: 3}}`",
                connected.nodes().0
            )));
        }
    };
    Ok(format!("CREATE KEYSPACE {} WITH replication = {{{}}}", quoted(&spec.keyspace), entries.join(", ")))
}
