//! Makes the table of a stream, or makes it follow its stream, or says why it does not fit.

use std::collections::BTreeMap;

use aap_sinks::{Failure, FailureKind, Slice};
use aap_types::{ExitCode, Problem, SYSTEM_COLUMNS};
use arrow_schema::{DataType, TimeUnit};

use super::spec::{Mode, Partition, PostgresSpec, TIME_COLUMN};
use crate::connection::{Error, Session};
use crate::copy::{sql_type, widened};
use crate::names::{TableName, column_names, literal, quoted};
use crate::table::{Column, Table, list};

/// A column that the rows of a group have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its name.
    pub(crate) name: String,
    /// The one type of all slices.
    pub(crate) kind: DataType,
}

/// What came of it: an answer of the server that is none of ours goes up as an error.
type Outcome<T> = Result<Result<T, Failure>, Error>;

/// The columns of all slices in the order in which they appear. Columns that only have NULL are left out: they say nothing of
/// the type that they will have, and a table without them says the same.
pub(crate) fn wanted<'a>(slices: impl IntoIterator<Item = &'a Slice>) -> Vec<Wanted> {
    let mut found: Vec<Wanted> = vec![];
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for slice in slices {
        let schema = slice.rows.schema();
        for (name, field) in column_names(&schema).into_iter().zip(schema.fields()) {
            if *field.data_type() == DataType::Null {
                continue;
            }
            match places.get(&name.to_lowercase()) {
                Some(place) => {
                    let kind = aap_columns::unite(&found[*place].kind, field.data_type());
                    found[*place].kind = kind;
                }
                None => {
                    places.insert(name.to_lowercase(), found.len());
                    found.push(Wanted { name, kind: field.data_type().clone() });
                }
            }
        }
    }
    found
}

/// The table as it must be for these columns. It stays so until the end of the transaction.
pub(crate) async fn settle(
    session: &Session,
    spec: &PostgresSpec,
    name: &TableName,
    wanted: &[Wanted],
) -> Outcome<Table> {
    let Some(table) = Table::locked(session, name).await? else {
        if !spec.create {
            return Ok(Err(missing(spec, name, wanted)));
        }
        create(session, spec, name, wanted).await?;
        return match Table::locked(session, name).await? {
            Some(table) => Ok(Ok(table)),
            None => Ok(Err(missing(spec, name, wanted))),
        };
    };
    if let Err(failure) = usable(spec, &table) {
        return Ok(Err(failure));
    }
    let changes = changes(spec, &table, wanted);
    if changes.is_empty() {
        return Ok(Ok(table));
    }
    let statement = format!("ALTER TABLE {name} {}", changes.join(", "));
    if !spec.evolves() {
        let lacking = lacking(&table, wanted).map(|column| column.name.as_str());
        let columns: Vec<&str> = lacking.filter(|name| !is_system(name)).collect();
        let message = format!("the table {name} has no column {}", list(columns));
        return Ok(Err(misfit(message, Some(statement))));
    }
    if let Err(error) = session.batch("change the table", &statement).await {
        // A change of type writes the whole table anew: that is for somebody who knows when.
        if error.is_too_slow() {
            return Ok(Err(misfit(
                format!("the table {name} is too large to be changed in passing"),
                Some(statement),
            )));
        }
        return Err(error);
    }
    tracing::info!(table = %name, %statement, "the table follows its stream");
    match Table::locked(session, name).await? {
        Some(table) => Ok(Ok(table)),
        None => Ok(Err(missing(spec, name, wanted))),
    }
}

/// Whether rows can be written into it at all, and be split as was asked for.
fn usable(spec: &PostgresSpec, table: &Table) -> Result<(), Failure> {
    let name = &table.name;
    if !table.takes_rows() {
        return Err(misfit(format!("{name} is no table"), None));
    }
    if spec.partition == Partition::None {
        return Ok(());
    }
    // The server quotes only what must be quoted, and `ts` need not.
    let wanted = format!("RANGE ({TIME_COLUMN})");
    if table.split.as_deref() == Some(wanted.as_str()) {
        return Ok(());
    }
    let message =
        format!("the table {name} is not partitioned by range of `{TIME_COLUMN}`, as `partition` says");
    Err(misfit(message, None))
}

/// The actions of an `ALTER TABLE`. Where tables do not evolve, only columns that are missing count: what can be written into
/// the ones that are there is decided value by value.
fn changes(spec: &PostgresSpec, table: &Table, wanted: &[Wanted]) -> Vec<String> {
    let mut changes: Vec<String> = lacking(table, wanted)
        // Nobody's own table needs to have our columns: what was written is in the ledger.
        .filter(|column| spec.evolves() || !is_system(&column.name))
        .map(|column| format!("ADD COLUMN {} {}", quoted(&column.name), declared(column)))
        .collect();
    if spec.evolves() {
        changes.extend(wanted.iter().filter_map(|wanted| {
            let column = table.column(&wanted.name).filter(|_| !is_system(&wanted.name))?;
            widen(wanted, column)
        }));
    }
    changes
}

fn widen(wanted: &Wanted, column: &Column) -> Option<String> {
    let wider = widened(&wanted.kind, column.held).filter(|_| !column.generated)?;
    let name = quoted(&column.name);
    Some(format!("ALTER COLUMN {name} TYPE {wider} USING {name}::{wider}"))
}

fn lacking<'a>(table: &'a Table, wanted: &'a [Wanted]) -> impl Iterator<Item = &'a Wanted> {
    wanted.iter().filter(|wanted| table.column(&wanted.name).is_none())
}

pub(crate) fn is_system(name: &str) -> bool {
    SYSTEM_COLUMNS.contains(&name)
}

/// The type that a column is made with. Batches and rows are counted from 1, and epochs are milliseconds since 1970, shifted by
/// 20 bits: all fit 63 bits until the year 2248, and a `bigint` is half as wide as a `numeric` and compares many times as fast.
/// Should one not fit after all, its rows are refused as any others are.
fn declared(column: &Wanted) -> String {
    match (column.name.as_str(), &column.kind) {
        (name, DataType::UInt64) if is_system(name) => "bigint".to_owned(),
        (_, kind) => sql_type(kind),
    }
}

async fn create(
    session: &Session,
    spec: &PostgresSpec,
    name: &TableName,
    wanted: &[Wanted],
) -> Result<(), Error> {
    if let Some(schema) = &name.schema {
        let found = session
            .query(
                "look for the schema",
                "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1",
                &[(schema, tokio_postgres::types::Type::TEXT)],
            )
            .await?;
        if found.is_empty() {
            session.batch("make the schema", &format!("CREATE SCHEMA {}", quoted(schema))).await?;
        }
    }
    let statement = definition(spec, name, wanted);
    session.batch("make the table", &statement).await?;
    tracing::info!(table = %name, "made the table of a stream");
    Ok(())
}

/// The statements that make a table of these columns.
pub(crate) fn definition(spec: &PostgresSpec, name: &TableName, wanted: &[Wanted]) -> String {
    let mut columns: Vec<Wanted> = wanted.to_vec();
    let splits = spec.partition != Partition::None;
    if splits && !columns.iter().any(|column| column.name == TIME_COLUMN) {
        let kind = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        columns.insert(0, Wanted { name: TIME_COLUMN.to_owned(), kind });
    }
    let mut lines: Vec<String> =
        columns.iter().map(|column| format!("{} {}", quoted(&column.name), declared(column))).collect();
    if spec.mode == Mode::Upsert {
        lines.push(format!("PRIMARY KEY ({})", list(spec.key.iter().map(String::as_str))));
    }
    let note = literal("written by aap");
    let split = if splits { format!(" PARTITION BY RANGE ({})", quoted(TIME_COLUMN)) } else { String::new() };
    let mut statement =
        format!("CREATE TABLE {name} ({}){split}; COMMENT ON TABLE {name} IS {note}", lines.join(", "));
    if splits {
        statement
            .push_str(&format!("; CREATE TABLE {} PARTITION OF {name} DEFAULT", name.beside("_default")));
    }
    statement
}

fn missing(spec: &PostgresSpec, name: &TableName, wanted: &[Wanted]) -> Failure {
    let problem = Problem::new("sink.table_missing", ExitCode::NotFound, format!("there is no table {name}"))
        .hint("let the sink make it: `create: true`")
        .hint_command("or make it", definition(spec, name, wanted));
    Failure::new(FailureKind::Refused, problem)
}

/// The table is not what the rows need.
pub(crate) fn misfit(message: String, statement: Option<String>) -> Failure {
    let problem = Problem::new("sink.table_shape", ExitCode::Conflict, message);
    let problem = match statement {
        Some(statement) => problem.hint_command("change the table", statement),
        None => problem,
    };
    Failure::new(FailureKind::Refused, problem)
}

/// No value of the rows' column can be held exactly in the table's.
pub(crate) fn wrong_type(table: &TableName, column: &Column, kind: &DataType) -> Failure {
    let (name, wider) = (quoted(&column.name), sql_type(kind));
    let message = format!(
        "the column {name} of table {table} is {}, and the rows have {wider}, which it cannot hold exactly",
        column.declared
    );
    misfit(
        message,
        Some(format!("ALTER TABLE {table} ALTER COLUMN {name} TYPE {wider} USING {name}::text::{wider}")),
    )
}
