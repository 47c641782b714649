//! One query from the first line to the last frame.

use std::process::ExitCode;

use aap_sql::wire::Kind;
use aap_sql::{Column, EngineQuery, Manifest, Needs, PlanRequest, QueryEnd, Request, problem as queries};
use aap_types::Problem;
use duckdb::Connection;

use crate::input::Input;
use crate::outline::Outline;
use crate::output::Output;
use crate::statement::Statement;
use crate::watch::{self, Deadline};
use crate::{database, encode, fragment, problem, sandbox, types};

/// How a query ends before its end: with something to say, or because nobody listens.
enum Stop {
    Problem(Box<Problem>),
    DaemonGone,
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::UnexpectedEof => Self::DaemonGone,
            _ => queries::protocol("something unreadable").caused_by(&error).into(),
        }
    }
}

/// Answers one request from stdin on stdout.
pub fn serve() -> ExitCode {
    let mut output = Output::new(0);
    match answer(&mut output) {
        Ok(()) | Err(Stop::DaemonGone) => {}
        Err(Stop::Problem(problem)) => {
            let problem = problem::with_hint(*problem);
            if output.message(Kind::Problem, &problem).is_err() {
                return ExitCode::FAILURE;
            }
        }
    }
    // Not by returning: DuckDB's threads may still be at work on what nobody wants any more.
    watch::end_now()
}

fn answer(output: &mut Output) -> Result<(), Stop> {
    let mut input = Input::new();
    let Some(request) = input.next()? else { return Err(Stop::DaemonGone) };
    match request {
        Request::Query(query) => answer_query(query, input, output),
        Request::Plan(plan) => answer_plan(&plan, input, output),
    }
}

/// Nothing is read but the schemas of the frames: they say what columns the stream has beside those declared.
fn answer_plan(plan: &PlanRequest, mut input: Input, output: &mut Output) -> Result<(), Stop> {
    let memory = sandbox::PLAN_MEMORY_BYTES;
    sandbox::limit(memory);
    let connection = database::open()?;
    sandbox::forbid_system_calls();
    let statement = Statement::parse(&connection, &plan.sql)?;
    output.message(Kind::Needs, &Needs { tables: statement.tables.clone() })?;
    let Some(manifest) = input.next::<Manifest>()? else { return Err(Stop::DaemonGone) };
    sandbox::restrict_files(&manifest, &plan.scratch);
    let mut bounds = EngineQuery { scratch: plan.scratch.clone(), ..EngineQuery::default() };
    bounds.limits.memory_bytes = memory;
    database::attach(&connection, &statement.tables)?;
    database::lock(&connection, &bounds, &manifest)?;
    database::make_tables(&connection, &manifest, &statement.tables)?;
    let planned = fragment::plan(&connection, &plan.sql, &statement)?;
    Ok(output.message(Kind::Planned, &planned)?)
}

fn answer_query(query: EngineQuery, mut input: Input, output: &mut Output) -> Result<(), Stop> {
    let memory = query.limits.memory_bytes;
    let mut missing = sandbox::limit(memory);
    let connection = database::open()?;
    missing.extend(sandbox::forbid_system_calls());
    let mut statement = Statement::parse(&connection, &query.sql)?;
    statement.bound(query.limits.rows);
    output.message(Kind::Needs, &Needs { tables: statement.tables.clone() })?;
    let Some(manifest) = input.next::<Manifest>()? else { return Err(Stop::DaemonGone) };
    database::attach(&connection, &statement.tables)?;
    missing.extend(sandbox::restrict_files(&manifest, &query.scratch));
    // Threads that start from here on are inside the sandbox.
    let deadline = watch::start(input, query.limits.deadline_ms, connection.interrupt_handle())?;
    database::lock(&connection, &query, &manifest)?;
    *output = Output::new(query.limits.bytes);
    let end = run(&connection, &query, &manifest, &statement, output);
    let mut end = end.map_err(|stop| on_time(stop, &deadline, &query))?;
    end.sandbox_missing = missing;
    Ok(output.message(Kind::End, &end)?)
}

/// An interrupt that we sent ourselves is the deadline.
fn on_time(stop: Stop, deadline: &Deadline, query: &EngineQuery) -> Stop {
    match stop {
        Stop::Problem(_) if deadline.has_passed() => queries::deadline(query.limits.deadline_ms).into(),
        other => other,
    }
}

/// A statement over groups, where that is how its table came.
struct OverGroups {
    /// What the statement answers.
    outline: Outline,
    /// The table that holds them.
    table: String,
    /// Whether a group may stand in it several times.
    in_parts: bool,
}

impl OverGroups {
    fn sql(&self, judged: &Statement) -> Option<String> {
        let aggregation = judged.aggregation.as_ref()?;
        match self.in_parts {
            true => aggregation.sql(&aggregation.wholes(&self.table)?, &self.outline),
            false => aggregation.sql(&self.table, &self.outline),
        }
    }
}

fn over_groups(
    connection: &Connection,
    query: &EngineQuery,
    manifest: &Manifest,
    judged: &Statement,
) -> Result<Option<OverGroups>, Stop> {
    let Some(table) = manifest.tables.iter().find(|table| table.aggregated) else { return Ok(None) };
    let failed = |error: duckdb::Error| problem::of_duckdb(&error, query.limits.memory_bytes);
    let need = judged.tables.iter().find(|need| need.name == table.name);
    let view = database::view_of(&table.name, need);
    let columns = table.columns.as_deref().unwrap_or_default();
    database::make_empty(connection, &view, columns).map_err(failed)?;
    let outline = Outline::of(connection, query.sql.trim().trim_end_matches(';')).map_err(failed)?;
    Ok(Some(OverGroups { outline, table: view, in_parts: table.ipc.len() > 1 }))
}

fn run(
    connection: &Connection,
    query: &EngineQuery,
    manifest: &Manifest,
    judged: &Statement,
    output: &mut Output,
) -> Result<QueryEnd, Stop> {
    let failed = |error: duckdb::Error| problem::of_duckdb(&error, query.limits.memory_bytes);
    let over_groups = over_groups(connection, query, manifest, judged)?;
    let damage = database::make_tables(connection, manifest, &judged.tables)?;
    let sql = match &over_groups {
        Some(over_groups) => over_groups
            .sql(judged)
            .ok_or_else(|| queries::protocol("groups that the statement cannot be made of"))?,
        None => query.sql.clone(),
    };
    let mut statement = connection.prepare(&sql).map_err(failed)?;
    let type_names: Vec<String> =
        (0..statement.column_count()).map(|i| types::name_of(&statement.column_logical_type(i))).collect();
    let batches = statement.stream_arrow([]).map_err(failed)?;
    let schema = types::with_names(&batches.get_schema(), &type_names);
    let columns: Vec<Column> = schema
        .fields()
        .iter()
        .zip(type_names)
        .map(|(field, type_name)| Column { name: field.name().clone(), type_name })
        .collect();
    output.message(Kind::Columns, &columns)?;
    let batches = batches.map(|batch| batch.map_err(failed));
    let mut end = encode::encode(query.format, &schema, batches, query.limits.rows, output).map_err(
        |stop| match stop {
            encode::Stop::Problem(problem) => Stop::Problem(problem),
            encode::Stop::Io(error) => error.into(),
        },
    )?;
    end.damaged = damage.list();
    Ok(end)
}
