//! Queries that a Spark cluster answers from the lake's files; the answer is spooled, and our engine gives it its form.
//!
//! ```text
//!  pin, what waits, catalogue ──► files of the streams that the statement names
//!  Spark: a view for each ──► the statement ──► Arrow batches ──► spool ──► `select * from answer` ──► client
//! ```
//! What has landed and is not in the lake is not in the answer; its coverage says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aap_federation::{Budget, Spool};
use aap_lake::{Lake, Pin};
use aap_proto::v1;
use aap_spark::{Session, SparkSpec};
use aap_sql::serving::{AnswerSender, Ticket};
use aap_sql::{Catalog, EngineQuery};
use aap_types::{ExitCode, Problem, StreamName};
use camino::Utf8PathBuf;
use tokio::task::spawn_blocking;

use crate::access::Scope;
use crate::catalog::{Answers, ScratchFolder, catalogue_problem};
use crate::queries::Queries;

/// The table of the spooled answer: its rows pass as they are.
const ANSWER_TABLE: &str = "answer";
/// What Spark sees of who asks.
const USER: &str = "aap";
/// What Spark's message begins with where it knows no table of a name.
const UNKNOWN_TABLE: &str = "[TABLE_OR_VIEW_NOT_FOUND]";
/// The least time that our engine has for the form of an answer, however long Spark took for it.
const FORM_MIN: Duration = Duration::from_secs(5);
/// How soon what waits for the lake may be there.
const RETRY_MS: u64 = 10_000;

/// Who answers a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineName {
    Duckdb,
    Spark,
}

impl EngineName {
    /// What a request names.
    ///
    /// # Errors
    /// `query.engine` (2).
    pub(crate) fn of(request: &v1::QueryRequest) -> Result<Self, Problem> {
        let problem = |message: String| Problem::new("query.engine", ExitCode::Usage, message);
        match request.engine.as_str() {
            "" | "duckdb" => Ok(Self::Duckdb),
            "spark" if request.all_nodes || !request.nodes.is_empty() => {
                Err(problem("Spark reads the lake, and cannot ask nodes".to_owned())
                    .hint("leave `--engine` out, or `--node` and `--nodes`"))
            }
            "spark" => Ok(Self::Spark),
            other => Err(problem(format!("there is no engine `{other}`")).hint("use duckdb or spark")),
        }
    }
}

/// Answers one statement by Spark. `coverage` is what is known of it already.
pub(crate) async fn answer(
    queries: &Queries,
    query: EngineQuery,
    scope: Scope,
    (ticket, answer): (&Ticket, &AnswerSender),
    mut coverage: v1::Coverage,
) -> Result<(), Problem> {
    let spec = queries.inner.spark.as_ref().ok_or_else(not_configured)?;
    let as_of_us = queries.clock().unix_us();
    let (lake, sql) = (queries.inner.tables.lake.clone(), query.sql.clone());
    let reads = spawn_blocking(move || Reads::of(&lake, &sql, &scope)).await;
    let reads = reads.map_err(|panic| catalogue_panicked(&panic))??;
    let (path, bytes) = (queries.new_folder(), queries.inner.fetched_bytes);
    let folder = Arc::new(
        spawn_blocking(move || make_folder(path)).await.map_err(|panic| catalogue_panicked(&panic))??,
    );
    let mut spool = Spool::new(folder.0.join(ANSWER_TABLE), Budget::new(bytes));

    let deadline_ms = query.limits.deadline_ms;
    let (deadline, began) = (Duration::from_millis(deadline_ms), queries.clock().monotonic());
    fetch(spec, &reads, &query, ticket, &mut spool).await?;
    spool.finish()?;
    reads.cover(&mut coverage);
    let scan = v1::Scan {
        table: reads.named(),
        place: format!("Spark at {}", spec.place()),
        statement: query.sql.clone(),
        pushed: vec!["the whole statement".to_owned()],
        rows: spool.rows(),
        bytes: spool.bytes(),
        ..v1::Scan::default()
    };
    let files = spool.files().to_vec();
    let tables: Arc<dyn Catalog> = Arc::new(Answers { name: ANSWER_TABLE.to_owned(), files, folder });
    let left = deadline.saturating_sub(queries.clock().monotonic().saturating_sub(began)).max(FORM_MIN);
    let mut form = EngineQuery { sql: format!("select * from {ANSWER_TABLE}"), ..query };
    form.limits.deadline_ms = u64::try_from(left.as_millis()).unwrap_or(deadline_ms);
    let done = v1::QueryDone { as_of_us, coverage: Some(coverage), scans: vec![scan], ..Default::default() };
    queries.inner.serving.answer(form, tables, ticket, answer, done).await
}

/// Lets Spark answer into `spool`. However it ends, or is dropped, nothing of it goes on running there.
async fn fetch(
    spec: &SparkSpec,
    reads: &Reads,
    query: &EngineQuery,
    ticket: &Ticket,
    spool: &mut Spool,
) -> Result<(), Problem> {
    let cancelled = || aap_sql::problem::cancelled();
    let session = tokio::select! {
        session = Session::open(spec, USER) => session?,
        () = ticket.cancel.requested() => return Err(cancelled()),
    };
    let fetched = tokio::select! {
        fetched = run(&session, reads, query, spool) => fetched,
        () = ticket.cancel.requested() => Err(cancelled()),
        () = tokio::time::sleep(Duration::from_millis(query.limits.deadline_ms)) => {
            Err(aap_sql::problem::deadline(query.limits.deadline_ms))
        }
    };
    session.release().await;
    fetched.map_err(|problem| reads.explain(problem))
}

async fn run(
    session: &Session,
    reads: &Reads,
    query: &EngineQuery,
    spool: &mut Spool,
) -> Result<(), Problem> {
    for (stream, paths) in &reads.files {
        session.create_view(stream.as_str(), paths.clone()).await?;
    }
    // One more than is shown tells that the answer was cut.
    let rows_max = Some(query.limits.rows).filter(|rows| *rows > 0).map(|rows| rows.saturating_add(1));
    let mut parts = session.query(&query.sql, rows_max).await?;
    while let Some(batches) = parts.next().await? {
        for batch in batches {
            spool.write(&batch)?;
        }
    }
    Ok(())
}

/// What a statement reads of the lake, and what it misses.
struct Reads {
    /// The files of each stream that is named, as Spark calls them.
    files: BTreeMap<StreamName, Vec<String>>,
    /// Rows of those streams that have landed and are not in the lake.
    waiting: BTreeMap<StreamName, u64>,
    /// Keeps the files in being.
    _pin: Pin,
}

impl Reads {
    /// Pin, what waits, catalogue, in this order: see the seam in the documentation of `aap_lake`. Blocking.
    fn of(lake: &Lake, sql: &str, scope: &Scope) -> Result<Self, Problem> {
        let pin = lake.pin();
        let waiting = lake.waiting().frames();
        let catalogue = lake.catalogue().map_err(|error| catalogue_problem(&error))?;
        let words = words(sql);
        let is_named = |stream: &StreamName| words.contains(stream.as_str()) && scope.sees(stream);
        let mut files: BTreeMap<StreamName, Vec<String>> = BTreeMap::new();
        for file in catalogue.files.iter().filter(|file| is_named(&file.stream)) {
            files.entry(file.stream.clone()).or_default().push(address(&lake.address(&file.path)));
        }
        files.keys().try_for_each(|stream| scope.require_all_rows(stream, "Spark"))?;
        let mut rows: BTreeMap<StreamName, u64> = BTreeMap::new();
        for (key, counts) in waiting.beyond(&catalogue.cursors) {
            if counts.rows > 0 && is_named(&key.stream) {
                *rows.entry(key.stream).or_default() += counts.rows;
            }
        }
        Ok(Self { files, waiting: rows, _pin: pin })
    }

    /// The streams, for whoever asks how a query was answered.
    fn named(&self) -> String {
        self.files.keys().map(StreamName::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Says what is not in the answer.
    fn cover(&self, coverage: &mut v1::Coverage) {
        if self.waiting.is_empty() {
            return;
        }
        coverage.asked.extend(["lake", "landing"].map(str::to_owned));
        coverage.answered.push("lake".to_owned());
        coverage.late.push("landing".to_owned());
        coverage.late_reasons.push(self.missing());
    }

    fn missing(&self) -> String {
        let of_streams = self.waiting.iter().map(|(stream, rows)| format!("{rows} rows of `{stream}`"));
        format!(
            "{} have not reached the lake, which is what Spark reads",
            of_streams.collect::<Vec<_>>().join(", ")
        )
    }

    /// A table that Spark does not know can be a stream of which nothing is in the lake yet.
    fn explain(&self, problem: Problem) -> Problem {
        let is_unknown = problem.causes.iter().any(|cause| cause.starts_with(UNKNOWN_TABLE));
        match self.waiting.keys().find(|stream| !self.files.contains_key(*stream)) {
            Some(stream) if is_unknown => {
                let message = format!("nothing of the stream `{stream}` has reached the lake yet");
                Problem::new("spark.not_in_lake", ExitCode::Unavailable, message)
                    .cause(self.missing())
                    .hint("wait for the lake, or let the platform's own engine answer: leave `--engine` out")
                    .retry_after_ms(RETRY_MS)
            }
            _ => problem,
        }
    }
}

/// What a statement may mean by names: words with dots and hyphens and their parts, in lower case. Text in single quotes names
/// nothing.
fn words(sql: &str) -> BTreeSet<String> {
    let outside: String = sql.split('\'').step_by(2).collect::<Vec<_>>().join(" ").to_lowercase();
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
    let long = outside.split(|c: char| !is_part(c));
    let mut words = BTreeSet::new();
    for word in long {
        // `events.id` names a column of `events`, `a-b` is a stream or a difference.
        for (from, _) in word.char_indices().filter(|(at, _)| begins(word, *at)) {
            let ends =
                word[from..].char_indices().filter(|(_, c)| matches!(c, '.' | '-')).map(|(at, _)| from + at);
            for end in ends.chain([word.len()]) {
                words.insert(word[from..end].to_owned());
            }
        }
    }
    words
}

/// Whether a name may begin there.
fn begins(word: &str, at: usize) -> bool {
    word[..at].chars().next_back().is_none_or(|before| matches!(before, '.' | '-'))
}

/// A file of the lake as Spark calls it.
fn address(address: &str) -> String {
    match address.split_once("://") {
        Some(("s3", rest)) => format!("s3a://{rest}"),
        Some(_) => address.to_owned(),
        None => format!("file://{address}"),
    }
}

fn make_folder(path: Utf8PathBuf) -> Result<ScratchFolder, Problem> {
    std::fs::create_dir_all(&path).map_err(|error| {
        Problem::new("query.scratch", ExitCode::Failed, format!("cannot make the scratch folder `{path}`"))
            .caused_by(&error)
    })?;
    Ok(ScratchFolder(path))
}

fn catalogue_panicked(panic: &tokio::task::JoinError) -> Problem {
    Problem::new("lake.catalogue", ExitCode::Failed, "cannot read the catalogue of the lake").caused_by(panic)
}

fn not_configured() -> Problem {
    Problem::new("spark.not_configured", ExitCode::NotFound, "the coordinator knows no Spark cluster")
        .hint("name it in `config/coordinator.yaml`: `spark: { url: 'sc://HOST:15002' }`, and start it again")
        .hint("or let the platform's own engine answer: leave `--engine` out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_names_streams_by_words_outside_of_text() {
        let found =
            words("SELECT e.x, 'texts' FROM Events e JOIN \"web.access\" w ON w.id=\"host-metrics\".id");
        for name in ["events", "web.access", "host-metrics", "e"] {
            assert!(found.contains(name), "{name} in {found:?}");
        }
        for name in ["texts", "event", "ent", "metric"] {
            assert!(!found.contains(name), "{name} in {found:?}");
        }
    }

    #[test]
    fn spark_finds_files_on_disk_and_in_stores() {
        assert_eq!(address("/home/me/lake/a.parquet"), "file:///home/me/lake/a.parquet");
        assert_eq!(address("s3://bucket/lake/a.parquet"), "s3a://bucket/lake/a.parquet");
        assert_eq!(address("file:///mnt/lake/a.parquet"), "file:///mnt/lake/a.parquet");
    }

    #[test]
    fn an_engine_has_a_name() {
        let of = |engine: &str, all_nodes| {
            let request = v1::QueryRequest { engine: engine.to_owned(), all_nodes, ..Default::default() };
            EngineName::of(&request).map_err(|problem| problem.code)
        };
        assert_eq!(of("", true), Ok(EngineName::Duckdb));
        assert_eq!(of("spark", false), Ok(EngineName::Spark));
        assert_eq!(of("spark", true), Err("query.engine".to_owned()));
        assert_eq!(of("mysql", false), Err("query.engine".to_owned()));
    }
}
