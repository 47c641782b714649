//! Spawning engines: where the program is, what it may use, how many at once.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aap_runtime::Shutdown;
use aap_types::Problem;
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::stream::Session;
use crate::wire::Kind;
use crate::{
    Catalog, EngineQuery, Manifest, Needs, PlanRequest, Planned, QueryStream, Request, TableNeed, problem,
};

/// Splitting a statement takes milliseconds; a parser that hangs must not hang the daemon.
const PLAN_DEADLINE: Duration = Duration::from_secs(10);
/// Engines live in folders of this prefix under the scratch root.
const SCRATCH_PREFIX: &str = "q-";
/// Folders of one life of the daemon: those of engines, and those in which it collects the answers of nodes.
const LEFTOVER_PREFIXES: [&str; 2] = [SCRATCH_PREFIX, "n-"];

/// How engines run.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The program.
    pub binary: Utf8PathBuf,
    /// Folder for spilling; every query gets an empty one of its own below it. Belongs to this daemon alone.
    pub scratch_root: Utf8PathBuf,
    /// Memory of a query that does not ask for less, in bytes. Default: 1 GiB.
    pub memory_bytes: u64,
    /// Deadline of a query that names none. Default: 60 s.
    pub deadline: Duration,
    /// Most queries at once; the others wait for their turn within their deadline. Default: 4.
    pub concurrency: usize,
}

impl EngineConfig {
    /// The defaults, with the program of [`EngineConfig::find_binary`].
    pub fn new(scratch_root: Utf8PathBuf) -> Self {
        Self {
            binary: Self::find_binary(),
            scratch_root,
            memory_bytes: 1 << 30,
            deadline: Duration::from_secs(60),
            concurrency: 4,
        }
    }

    /// `AAP_ENGINE`, else `aap-engine` beside this program (or one folder up, where tests run).
    pub fn find_binary() -> Utf8PathBuf {
        const NAME: &str = "aap-engine";
        if let Ok(path) = std::env::var("AAP_ENGINE") {
            return path.into();
        }
        let program = std::env::current_exe().ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
        let folders = program.iter().flat_map(|path| path.ancestors().skip(1).take(2));
        folders.map(|folder| folder.join(NAME)).find(|path| path.is_file()).unwrap_or_else(|| NAME.into())
    }
}

/// Runs statements, each in a process of its own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    config: Arc<EngineConfig>,
    turns: Arc<Semaphore>,
    next: Arc<AtomicU64>,
}

impl Engine {
    /// Takes the scratch root into use: what an earlier life of this daemon left there is removed.
    pub fn new(config: EngineConfig) -> Self {
        remove_leftovers(&config.scratch_root);
        let turns = Arc::new(Semaphore::new(config.concurrency.max(1)));
        Self { config: Arc::new(config), turns, next: Arc::new(AtomicU64::new(0)) }
    }

    /// Starts `query`. The answer streams as it is taken; dropping it, or `cancel`, kills the engine.
    pub async fn run(
        &self,
        mut query: EngineQuery,
        catalog: Arc<dyn Catalog>,
        cancel: Shutdown,
    ) -> Result<QueryStream, Problem> {
        self.fill_in(&mut query);
        let deadline = Instant::now() + Duration::from_millis(query.limits.deadline_ms);
        let deadline_ms = query.limits.deadline_ms;
        let permit = self.turn(deadline, &cancel).await?;
        query.scratch = self.make_scratch()?;
        let child = self.spawn(&query.scratch)?;
        let mut session = Session::new(child, query.scratch.clone(), permit, cancel)
            .with_deadline(deadline, deadline_ms)
            .with_memory(query.limits.memory_bytes);
        // The engine interrupts itself at what is left of the deadline; we kill it half a second later.
        query.limits.deadline_ms = left_ms(deadline);
        session.send(&Request::Query(query)).await?;
        let needs: Needs = session.expect(Kind::Needs).await?;
        let manifest = resolve(&mut session, needs.tables, catalog, Unknown::Refused).await?;
        session.send(&manifest).await?;
        Ok(QueryStream::new(session))
    }

    /// Splits a statement for many nodes. What `catalog` knows of the stream's columns decides how well; it need not
    /// know the stream.
    pub async fn plan(
        &self,
        sql: &str,
        catalog: Arc<dyn Catalog>,
        cancel: Shutdown,
    ) -> Result<Planned, Problem> {
        let deadline = Instant::now() + PLAN_DEADLINE;
        let permit = self.turn(deadline, &cancel).await?;
        let scratch = self.make_scratch()?;
        let child = self.spawn(&scratch)?;
        let mut session = Session::new(child, scratch.clone(), permit, cancel)
            .with_deadline(deadline, u64::try_from(PLAN_DEADLINE.as_millis()).unwrap_or(u64::MAX))
            .with_memory(self.config.memory_bytes);
        session.send(&Request::Plan(PlanRequest { sql: sql.to_owned(), scratch })).await?;
        let needs: Needs = session.expect(Kind::Needs).await?;
        let manifest = resolve(&mut session, needs.tables, catalog, Unknown::Passed).await?;
        session.send(&without_files(manifest)).await?;
        session.expect(Kind::Planned).await
    }

    fn fill_in(&self, query: &mut EngineQuery) {
        let limits = &mut query.limits;
        if limits.deadline_ms == 0 {
            limits.deadline_ms = u64::try_from(self.config.deadline.as_millis()).unwrap_or(u64::MAX);
        }
        // More than half a year is forever; it keeps the arithmetic of instants from overflowing.
        limits.deadline_ms = limits.deadline_ms.min(1 << 34);
        if limits.memory_bytes == 0 {
            limits.memory_bytes = self.config.memory_bytes;
        }
    }

    async fn turn(&self, deadline: Instant, cancel: &Shutdown) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = || problem::busy(self.config.concurrency);
        tokio::select! {
            permit = self.turns.clone().acquire_owned() => permit.map_err(|_closed| busy()),
            () = tokio::time::sleep_until(deadline) => Err(busy()),
            () = cancel.requested() => Err(problem::cancelled()),
        }
    }

    fn make_scratch(&self) -> Result<Utf8PathBuf, Problem> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.config.scratch_root.join(format!("{SCRATCH_PREFIX}{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| problem::scratch(path.as_str(), &error))?;
        let path = path.canonicalize_utf8().map_err(|error| problem::scratch(path.as_str(), &error))?;
        Ok(path)
    }

    fn spawn(&self, scratch: &Utf8Path) -> Result<Child, Problem> {
        let binary = &self.config.binary;
        Command::new(binary)
            .env_clear()
            // Two arenas: each reserves address space, which is what the engine's memory cap counts.
            .env("MALLOC_ARENA_MAX", "2")
            .env("TZ", "UTC")
            .current_dir(scratch)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| problem::engine_missing(binary.as_str(), &error))
    }
}

/// What becomes of a table that the catalogue does not know. Where it is passed on, a statement is only split.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Refused,
    Passed,
}

/// The catalogue declares the columns of Parquet files, so that splitting a statement opens none of them.
fn without_files(mut manifest: Manifest) -> Manifest {
    for table in &mut manifest.tables {
        if table.columns.is_some() {
            table.parquet.clear();
        }
    }
    manifest
}

async fn resolve(
    session: &mut Session,
    need: Vec<TableNeed>,
    catalog: Arc<dyn Catalog>,
    unknown: Unknown,
) -> Result<Manifest, Problem> {
    if need.is_empty() {
        return Ok(Manifest::default());
    }
    let resolved = tokio::task::spawn_blocking(move || {
        let resolved = match unknown {
            Unknown::Refused => catalog.resolve(&need)?,
            Unknown::Passed => catalog.outline(&need)?,
        };
        match need.iter().find(|need| !resolved.manifest.tables.iter().any(|table| table.name == need.name)) {
            Some(missing) if unknown == Unknown::Refused => {
                Err(problem::unknown_table(&missing.name, &catalog.table_names()))
            }
            _ => Ok(resolved),
        }
    });
    let resolved = session.while_alive(resolved).await?.map_err(|panic| {
        Problem::new("query.catalog", aap_types::ExitCode::Bug, "the catalogue failed").caused_by(&panic)
    })??;
    session.hold(resolved.pins);
    Ok(resolved.manifest)
}

fn left_ms(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now());
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn remove_leftovers(root: &Utf8Path) {
    let Ok(entries) = root.read_dir_utf8() else { return };
    for entry in entries.flatten() {
        if LEFTOVER_PREFIXES.iter().any(|prefix| entry.file_name().starts_with(prefix))
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(path = %entry.path(), %error, "cannot remove an old scratch folder");
        }
    }
}

/// One JSON line.
pub(crate) fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_an_earlier_life_are_removed_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
        for name in ["q-1-0", "n-1-99", "upload"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        Engine::new(EngineConfig::new(root.clone()));
        let left: Vec<String> =
            root.read_dir_utf8().unwrap().flatten().map(|entry| entry.file_name().to_owned()).collect();
        assert_eq!(left, ["upload"]);
    }
}
