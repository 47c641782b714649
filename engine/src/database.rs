//! DuckDB as we lock it down, and a table as a view over its parts.

use std::collections::HashMap;
use std::sync::Arc;

use aap_sql::{EngineQuery, Manifest, TableManifest, TableNeed};
use aap_types::{ExitCode, Problem};
use camino::Utf8PathBuf;
use duckdb::{Config, Connection};

use crate::scan::{self, Damage, Source};
use crate::types::{literal, quoted, unite};
use crate::{problem, scan::FUNCTION, types};

/// What a spill may use on disk for each byte of memory limit.
const SPILL_FACTOR: u64 = 8;

/// The system columns every table has, with the types they have in answers.
pub(crate) const SYSTEM: [(&str, &str); 4] =
    [("_node", "VARCHAR"), ("_epoch", "UBIGINT"), ("_seq", "UBIGINT"), ("_row", "UBIGINT")];

/// Opens DuckDB in memory with one thread, which is this one: the sandbox is not complete yet.
pub(crate) fn open() -> Result<Connection, Problem> {
    let config = Config::default()
        .enable_autoload_extension(false)
        .and_then(|config| config.with("autoinstall_known_extensions", "false"))
        .and_then(|config| config.with("allow_community_extensions", "false"))
        .and_then(|config| config.with("allow_persistent_secrets", "false"))
        .and_then(|config| config.with("allow_unsigned_extensions", "false"))
        .and_then(|config| config.threads(1));
    let connection = config.and_then(Connection::open_in_memory_with_flags).map_err(|error| start(&error))?;
    run(&connection, "SET TimeZone = 'UTC'")?;
    Ok(connection)
}

fn start(error: &duckdb::Error) -> Problem {
    Problem::new("query.engine_start", ExitCode::Failed, "the query engine cannot start DuckDB")
        .caused_by(error)
}

fn run(connection: &Connection, sql: &str) -> Result<(), Problem> {
    connection.execute_batch(sql).map_err(|error| start(&error))
}

/// Sets the limits and shuts every door. From here on DuckDB opens nothing but the planned Parquet files.
pub(crate) fn lock(connection: &Connection, query: &EngineQuery, manifest: &Manifest) -> Result<(), Problem> {
    let memory = query.limits.memory_bytes;
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(8));
    let files: Vec<String> = parquet_files(manifest).map(|path| literal(path.as_str())).collect();
    let settings = [
        format!("SET memory_limit = '{memory}B'"),
        format!("SET temp_directory = {}", literal(query.scratch.as_str())),
        format!("SET max_temp_directory_size = '{}B'", memory.saturating_mul(SPILL_FACTOR)),
        format!("SET allowed_paths = [{}]", files.join(", ")),
        "SET preserve_insertion_order = false".to_owned(),
        "SET enable_object_cache = true".to_owned(),
        format!("SET threads = {threads}"),
        "SET enable_external_access = false".to_owned(),
        "SET lock_configuration = true".to_owned(),
    ];
    settings.iter().try_for_each(|setting| run(connection, setting))
}

fn parquet_files(manifest: &Manifest) -> impl Iterator<Item = &Utf8PathBuf> {
    manifest.tables.iter().flat_map(|table| &table.parquet)
}

/// Makes a place for every table whose name has dots, so that the statement finds it under that name. Before [`lock`].
pub(crate) fn attach(connection: &Connection, needs: &[TableNeed]) -> Result<(), Problem> {
    for need in needs {
        let [catalog, parents @ ..] = need.path.as_slice() else { continue };
        run(connection, &format!("ATTACH IF NOT EXISTS ':memory:' AS {}", quoted(catalog)))?;
        if let [schema, _table] = parents {
            run(connection, &format!("CREATE SCHEMA IF NOT EXISTS {}.{}", quoted(catalog), quoted(schema)))?;
        }
    }
    Ok(())
}

/// What a view over the table of that name is called.
pub(crate) fn view_of(name: &str, need: Option<&TableNeed>) -> String {
    match need.map(|need| need.path.as_slice()) {
        Some([catalog, table]) => format!("{}.\"main\".{}", quoted(catalog), quoted(table)),
        Some(path @ [_, _, ..]) => path.iter().map(|part| quoted(part)).collect::<Vec<_>>().join("."),
        _ => quoted(name),
    }
}

/// An empty table of these columns, to bind statements to.
pub(crate) fn make_empty(
    connection: &Connection,
    view: &str,
    columns: &[(String, String)],
) -> duckdb::Result<()> {
    connection.execute_batch(&format!("CREATE OR REPLACE VIEW {view} AS {}", empty_select(columns)))
}

/// Makes each table of the manifest a view of its name. Returns where damage found while scanning is reported.
pub(crate) fn make_tables(
    connection: &Connection,
    manifest: &Manifest,
    needs: &[TableNeed],
) -> Result<Damage, Problem> {
    let damage = Damage::default();
    let mut sources = vec![];
    let mut views = vec![];
    for table in &manifest.tables {
        let need = needs.iter().find(|need| need.name == table.name);
        let mut parts = vec![];
        if !table.segments.is_empty() {
            parts.push(scanned_part(&mut sources, Source::of_frames(table, need, &damage)?));
        }
        if !table.ipc.is_empty() {
            parts.push(scanned_part(&mut sources, Source::of_ipc(table, &damage)?));
        }
        views.push((table, view_of(&table.name, need), parts));
    }
    scan::register(connection, sources).map_err(|error| start(&error))?;
    for (table, view, mut parts) in views {
        if !table.parquet.is_empty() {
            parts.push(parquet_part(table));
        }
        make_view(connection, table, &view, parts)?;
    }
    Ok(damage)
}

/// A part of a table: what to put behind FROM, and its columns if they are known.
struct Part {
    from: String,
    columns: Vec<(String, String)>,
    /// Types that columns are to have rather than the ones they are scanned with, by lower-case name.
    named_types: HashMap<String, String>,
}

impl Part {
    /// The columns with the types that they are to have.
    fn wanted(&self) -> impl Iterator<Item = (&String, &String)> {
        self.columns.iter().map(|(name, scanned)| {
            let named = self.named_types.get(&name.to_lowercase()).filter(|named| types::is_restored(named));
            (name, named.filter(|named| *named != "NULL").unwrap_or(scanned))
        })
    }
}

fn scanned_part(sources: &mut Vec<Arc<Source>>, source: Source) -> Part {
    let named_types = source.named_types.clone();
    sources.push(Arc::new(source));
    Part { from: format!("{FUNCTION}({})", sources.len() - 1), columns: vec![], named_types }
}

fn parquet_part(table: &TableManifest) -> Part {
    let files: Vec<String> = table.parquet.iter().map(|path| literal(path.as_str())).collect();
    let from =
        format!("read_parquet([{}], union_by_name = true, hive_partitioning = false)", files.join(", "));
    Part { from, columns: vec![], named_types: HashMap::new() }
}

fn make_view(
    connection: &Connection,
    table: &TableManifest,
    view: &str,
    mut parts: Vec<Part>,
) -> Result<(), Problem> {
    for part in &mut parts {
        part.columns = describe(connection, &part.from).map_err(|error| {
            problem::of_duckdb(&error, 0).cause(format!("while reading `{}`", table.name))
        })?;
    }
    let columns = united_columns(table, &parts);
    let selects: Vec<String> = if parts.is_empty() {
        vec![empty_select(&columns)]
    } else {
        parts.iter().map(|part| select(part, &columns) + &of_nodes(table)).collect()
    };
    let view = format!("CREATE OR REPLACE VIEW {view} AS {}", selects.join(" UNION ALL "));
    connection.execute_batch(&view).map_err(|error| {
        problem::of_duckdb(&error, 0).cause(format!("while making the table `{}`", table.name))
    })
}

fn describe(connection: &Connection, from: &str) -> duckdb::Result<Vec<(String, String)>> {
    let mut statement = connection
        .prepare(&format!("SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {from})"))?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// All columns by name: those declared, then those found, the system's last. Answers of nodes have what they have.
fn united_columns(table: &TableManifest, parts: &[Part]) -> Vec<(String, String)> {
    let answers = !table.ipc.is_empty();
    // Of an aggregated table they are not what the file holds.
    let declared = table.columns.iter().filter(|_| !table.aggregated).flatten();
    let declared = declared.map(|(name, data_type)| (name, data_type));
    let found = parts.iter().flat_map(Part::wanted);
    let mut columns: Vec<(String, String)> = vec![];
    for (name, data_type) in declared.chain(found) {
        if !answers && SYSTEM.iter().any(|(system, _)| system.eq_ignore_ascii_case(name)) {
            continue;
        }
        match columns.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, known)) => *known = unite(known, data_type),
            None => columns.push((name.clone(), data_type.clone())),
        }
    }
    if !answers && !columns.iter().any(|(name, _)| name.eq_ignore_ascii_case("ts")) {
        columns.insert(0, ("ts".to_owned(), "TIMESTAMP WITH TIME ZONE".to_owned()));
    }
    if !answers {
        columns.extend(SYSTEM.iter().map(|(name, data_type)| ((*name).to_owned(), (*data_type).to_owned())));
    }
    columns
}

fn select(part: &Part, columns: &[(String, String)]) -> String {
    let items: Vec<String> = columns
        .iter()
        .map(|(name, data_type)| {
            let here = part.columns.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            match here {
                Some((known, known_type)) if known_type == data_type => {
                    format!("{} AS {}", quoted(known), quoted(name))
                }
                Some((known, _)) => format!("CAST({} AS {data_type}) AS {}", quoted(known), quoted(name)),
                None => format!("CAST(NULL AS {data_type}) AS {}", quoted(name)),
            }
        })
        .collect();
    format!("SELECT {} FROM {}", items.join(", "), part.from)
}

/// The condition on whose rows are shown, if not everybody's.
fn of_nodes(table: &TableManifest) -> String {
    match table.nodes.as_deref() {
        None => String::new(),
        Some([]) => " WHERE false".to_owned(),
        Some(nodes) => {
            let names: Vec<String> = nodes.iter().map(|node| literal(node.as_str())).collect();
            format!(" WHERE \"_node\" IN ({})", names.join(", "))
        }
    }
}

fn empty_select(columns: &[(String, String)]) -> String {
    let items: Vec<String> = columns
        .iter()
        .map(|(name, data_type)| format!("CAST(NULL AS {data_type}) AS {}", quoted(name)))
        .collect();
    format!("SELECT {} WHERE false", items.join(", "))
}
