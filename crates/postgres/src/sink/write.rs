//! One group, in one transaction: claim the place, settle the tables, look at every row, copy, advance the ledger, commit.

use std::collections::BTreeMap;

use aap_sinks::{Failure, Group, Slice};

use super::fail::{Carries, failure};
use super::ledger::Ledger;
use super::partition;
use super::rows::{Planned, plan};
use super::shape::{misfit, settle, wanted};
use super::spec::{Mode, PostgresSpec};
use crate::connection::{Access, Copying, Error, Session};
use crate::copy::{CHUNK_ROOM, Field, HEADER, TRAILER, write_row};
use crate::names::TableName;
use crate::table::{Table, list};

/// The place of a row in its group, in the table that an upsert goes through. No column of ours begins so.
const ORDER: &str = "_aap_order";

/// What a write needs to know beside the group.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) access: &'a Access,
    pub(crate) spec: &'a PostgresSpec,
    pub(crate) ledger: &'a Ledger,
    pub(crate) session: &'a Session,
    pub(crate) generation: &'a str,
}

/// The slices of one table: each with its number in the group.
type Destinations<'a> = BTreeMap<TableName, Vec<(usize, &'a Slice)>>;

impl Writer<'_> {
    /// Writes it all and commits. After a failure the transaction is still open, or lost.
    pub(crate) async fn write(&self, group: &Group) -> Result<(), Failure> {
        let plain = |error| failure(self.access, &error, Carries::Nothing);
        self.session.begin().await.map_err(plain)?;
        self.ledger.claim(self.session, self.generation, group).await.map_err(plain)??;
        let destinations = self.destinations(group)?;
        // Two destinations may be one table in the end, so all are settled before any is looked at.
        for (name, slices) in &destinations {
            self.settle(name, slices).await?;
        }
        let mut tables = vec![];
        let mut bad = vec![];
        for (name, slices) in &destinations {
            let table = Table::read(self.session, name).await.map_err(plain)?;
            let table = table.ok_or_else(|| misfit(format!("the table {name} has gone"), None))?;
            let planned: Result<Vec<_>, _> = slices
                .iter()
                .map(|(place, slice)| plan(&table, &self.spec.key, *place, slice, &mut bad))
                .collect();
            tables.push((table, planned?));
        }
        if !bad.is_empty() {
            bad.sort_by_key(|row| (row.slice, row.row));
            return Err(Failure::rows(bad));
        }
        for (place, (table, planned)) in tables.iter().enumerate() {
            match self.spec.mode {
                Mode::Append => self.copy(&table.name.to_string(), planned, false).await?,
                Mode::Upsert => self.upsert(place, table, planned).await?,
            }
        }
        if !self.ledger.advance(self.session, group).await.map_err(plain)? {
            return Err(Failure::moved("the ledger changed while its owner held it"));
        }
        self.session.commit().await.map_err(|error| failure(self.access, &error, Carries::Rows))
    }

    fn destinations<'g>(&self, group: &'g Group) -> Result<Destinations<'g>, Failure> {
        let mut destinations = Destinations::new();
        for (place, slice) in group.slices.iter().enumerate().filter(|(_, slice)| slice.rows.num_rows() > 0) {
            let name = TableName::of(&self.spec.table, &slice.key.stream).map_err(|error| {
                misfit(format!("stream `{}` has no table: {error}", slice.key.stream), None)
            })?;
            destinations.entry(name).or_default().push((place, slice));
        }
        Ok(destinations)
    }

    async fn settle(&self, name: &TableName, slices: &[(usize, &Slice)]) -> Result<(), Failure> {
        let plain = |error| failure(self.access, &error, Carries::Nothing);
        let slices: Vec<&Slice> = slices.iter().map(|(_, slice)| *slice).collect();
        let wanted = wanted(slices.iter().copied());
        let table = settle(self.session, self.spec, name, &wanted).await.map_err(plain)??;
        if let Some(key) =
            self.spec.key.iter().find(|key| !table.columns.iter().any(|column| column.name == **key))
        {
            return Err(misfit(
                format!("the table {name} has no column `{key}`, which is part of the key"),
                None,
            ));
        }
        partition::ahead(self.session, self.spec.partition, &table, &slices).await.map_err(plain)
    }

    /// Copies slices into a table. Those that have the same columns go in one statement.
    async fn copy(&self, table: &str, slices: &[Planned<'_>], ordered: bool) -> Result<(), Failure> {
        let told = |error: Error| failure(self.access, &error, Carries::Rows);
        let mut under_way: Option<(&[String], Copying)> = None;
        let mut before = 0;
        let mut buffer = Vec::with_capacity(CHUNK_ROOM);
        for slice in slices {
            match &under_way {
                Some((columns, _)) if *columns == slice.columns => {}
                _ => {
                    if let Some((_, copying)) = under_way.take() {
                        end(copying, &mut buffer).await.map_err(told)?;
                    }
                    let extra = ordered.then_some(ORDER);
                    let columns = list(slice.columns.iter().map(String::as_str).chain(extra));
                    let sql = format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)");
                    under_way = Some((&slice.columns, self.session.copy(&sql).await.map_err(told)?));
                    buffer.extend_from_slice(HEADER);
                }
            }
            let Some((_, copying)) = &mut under_way else { continue };
            let counter = ordered.then(|| Field::counter(before));
            before += slice.rows;
            send(slice, counter.as_ref(), copying, &mut buffer).await.map_err(told)?;
        }
        match under_way {
            Some((_, copying)) => end(copying, &mut buffer).await.map_err(told),
            None => Ok(()),
        }
    }

    /// Copies slices aside, and merges the last row of each key into the table.
    async fn upsert(&self, place: usize, table: &Table, slices: &[Planned<'_>]) -> Result<(), Failure> {
        let mut columns: Vec<&str> = vec![];
        for name in slices.iter().flat_map(|slice| &slice.columns) {
            if !columns.contains(&name.as_str()) {
                columns.push(name);
            }
        }
        let stage = format!("pg_temp.aap_stage_{place}");
        // Of the table's own types, less its constraints: those are checked where the rows end up.
        let make = format!(
            "CREATE TEMPORARY TABLE aap_stage_{place} ON COMMIT DROP AS SELECT {}, 0::bigint AS {ORDER} FROM {} WITH NO DATA",
            list(columns.iter().copied()),
            table.name
        );
        let plain = |error| failure(self.access, &error, Carries::Nothing);
        self.session.batch("make a table to go through", &make).await.map_err(plain)?;
        self.copy(&stage, slices, true).await?;
        let merge = merge(&table.name, &stage, &columns, &self.spec.key);
        self.session.batch("merge rows by their key", &merge).await.map_err(|error| {
            if error.state().is_some_and(|state| state.code() == "42P10") {
                let key = list(self.spec.key.iter().map(String::as_str));
                let message =
                    format!("the table {} has no unique index over exactly the key {key}", table.name);
                return misfit(message, Some(format!("CREATE UNIQUE INDEX ON {} ({key})", table.name)));
            }
            failure(self.access, &error, Carries::Rows)
        })
    }
}

/// A column that a slice does not have is NULL in the stage, and so the table's is set to NULL with the rest of the row: the row
/// is replaced, not patched.
fn merge(table: &TableName, stage: &str, columns: &[&str], key: &[String]) -> String {
    let all = list(columns.iter().copied());
    let key_list = list(key.iter().map(String::as_str));
    let others: Vec<String> = columns
        .iter()
        .filter(|name| !key.iter().any(|key| key == *name))
        .map(|name| list([*name]))
        .map(|name| format!("{name} = excluded.{name}"))
        .collect();
    let action = match others.is_empty() {
        true => "NOTHING".to_owned(),
        false => format!("UPDATE SET {}", others.join(", ")),
    };
    format!(
        "INSERT INTO {table} ({all}) SELECT DISTINCT ON ({key_list}) {all} FROM {stage} \
         ORDER BY {key_list}, {ORDER} DESC ON CONFLICT ({key_list}) DO {action}"
    )
}

async fn send(
    slice: &Planned<'_>,
    counter: Option<&Field<'_>>,
    copying: &mut Copying,
    buffer: &mut Vec<u8>,
) -> Result<(), Error> {
    for row in 0..slice.rows {
        write_row(&slice.fields, counter, row, buffer);
        if buffer.len() >= crate::connection::CHUNK_BYTES {
            let full = std::mem::replace(buffer, Vec::with_capacity(CHUNK_ROOM));
            copying.send(full).await?;
        }
    }
    Ok(())
}

async fn end(mut copying: Copying, buffer: &mut Vec<u8>) -> Result<(), Error> {
    buffer.extend_from_slice(&TRAILER);
    copying.send(std::mem::take(buffer)).await?;
    copying.finish().await?;
    Ok(())
}
