//! Trying sources out: `aap-agent source test FILE` runs those of a file for a while over a buffer that is thrown away, and shows
//! their first rows. Nothing is stored, no position moves, and a running agent is not disturbed, unless both want one port.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aap_buffer::{Buffer, BufferConfig, FrameKind, RealFileSystem, decode};
use aap_runtime::{Clock, Home, Shutdown, SystemClock};
use aap_types::{ExitCode, Problem, Sequence, StreamName};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::board::{Board, SourceEntry, SourceState};
use crate::cli::{Output, print_line};
use crate::config::{self, SourceConfig, SourceSpec};
use crate::counters::Counters;
use crate::deletions::Deletions;
use crate::failpoint::Failpoints;
use crate::ingress::Ingress;
use crate::offline::zones_by_offset;
use crate::source::{self, Listening, SourceDeps};
use crate::welcome::FirstWelcome;

/// How long a source has until its first row, if nothing else is said.
pub(crate) const WITHIN: Duration = Duration::from_secs(5);
/// Rows that are shown of a source.
const ROWS_SHOWN: usize = 5;
/// A value is shown up to this length.
const VALUE_BYTES_MAX: usize = 200;
/// Between looks at what came.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a source may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What became of one source.
struct Outcome {
    config: SourceConfig,
    detail: String,
    failure: Option<String>,
    rows: Vec<Value>,
}

impl Outcome {
    fn state(&self) -> &'static str {
        match (&self.failure, self.rows.is_empty()) {
            (Some(_), _) => "failed",
            (None, true) => "quiet",
            (None, false) => "rows",
        }
    }
}

/// Every type of source, and what it promises.
pub(crate) fn types(output: Output) {
    let text = match output {
        Output::Json => json!({
            "format_version": "1.0",
            "kind": "source.types",
            "items": config::SOURCE_TYPES.iter().map(|known| json!({
                "type": known.name,
                "summary": known.summary,
                "class": known.class,
                "guarantee": known.guarantee,
                "example": known.example,
            })).collect::<Vec<_>>(),
        })
        .to_string(),
        Output::Text => {
            let of = |known: &config::SourceType| {
                let config::SourceType { name, summary, class, guarantee, example } = known;
                format!("{name}: {summary}\n  {class}: {guarantee}\n  spec: {example}")
            };
            config::SOURCE_TYPES.iter().map(of).collect::<Vec<_>>().join("\n")
        }
    };
    print_line(&text);
}

/// Tries out the sources of a file.
///
/// # Errors
/// `config.invalid` with file and line; `agent.source_cannot_run` if one of them failed.
pub(crate) fn test(home: Home, file: &Utf8Path, within: Duration, output: Output) -> Result<(), Problem> {
    let sources = config::check_file(file).map_err(|error| error.problem())?.sources;
    let failed = |what: &'static str| {
        move |error: std::io::Error| Problem::new("agent.failed", ExitCode::Failed, what).caused_by(&error)
    };
    let scratch = Scratch::new().map_err(failed("make a directory for the trial"))?;
    let runtime = tokio::runtime::Runtime::new().map_err(failed("start threads"))?;
    let outcomes = runtime.block_on(async {
        let mut outcomes = Vec::new();
        for config in sources {
            outcomes.push(try_out(config, &home, &scratch, within).await?);
        }
        Ok::<_, Problem>(outcomes)
    })?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    print_line(&report(file, &outcomes, output));
    let failures: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.failure.is_some()).collect();
    let Some(first) = failures.first() else { return Ok(()) };
    let message = format!("{} of {} sources cannot run", failures.len(), outcomes.len());
    let cause = format!("`{}`: {}", first.config.name, first.failure.as_deref().unwrap_or_default());
    Err(Problem::new("agent.source_cannot_run", ExitCode::CheckFailed, message).cause(cause))
}

/// A directory that goes when the trial is over.
struct Scratch(Utf8PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("aap-source-test-{}", std::process::id());
        let path = Utf8PathBuf::try_from(std::env::temp_dir()).map_err(std::io::Error::other)?.join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "the directory of the trial stays");
        }
    }
}

fn open(home: &Home, directory: Utf8PathBuf) -> Result<SourceDeps, Problem> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let settings = json!({
        "directory": directory, "node": "trial", "landing_consumer": "nobody",
        "durability": "memory", "segment_bytes": 1 << 20, "budget": 16 << 20, "retain": 0,
    });
    let config: BufferConfig = serde_json::from_value(settings).map_err(|error| {
        Problem::new("agent.failed", ExitCode::Failed, "set up the trial").caused_by(&error)
    })?;
    std::fs::create_dir_all(&directory).map_err(|error| {
        Problem::new("agent.failed", ExitCode::Failed, "set up the trial").caused_by(&error)
    })?;
    let opened =
        Buffer::open(Arc::new(RealFileSystem), clock.clone(), config).map_err(|error| error.problem())?;
    let ingress = Ingress {
        buffer: opened.buffer,
        clock,
        counters: Arc::new(Counters::default()),
        failpoints: Failpoints::default(),
        drain: Arc::default(),
    };
    let first_welcome = Arc::new(FirstWelcome::default());
    first_welcome.came();
    Ok(SourceDeps {
        ingress,
        board: Arc::new(Board::default()),
        decoding: Arc::new(Semaphore::new(1)),
        first_welcome,
        deletions: Arc::new(Deletions::default()),
        home: home.clone(),
        listening: Arc::new(Listening::default()),
    })
}

async fn try_out(
    config: SourceConfig,
    home: &Home,
    scratch: &Scratch,
    within: Duration,
) -> Result<Outcome, Problem> {
    if matches!(config.spec, SourceSpec::Http(_)) {
        // It keeps the answers to keys beside the buffer of the home, which is the agent's own.
        let detail = "not run: what it takes is named by its requests".to_owned();
        return Ok(Outcome { config, detail, failure: None, rows: vec![] });
    }
    let deps = open(home, scratch.0.join(&config.name))?;
    let entry = SourceEntry {
        kind: config.spec.type_name(),
        stream: config.spec.streams_text(),
        guarantee: config.spec.guarantee(),
        state: SourceState::Running,
        detail: String::new(),
        problems: BTreeMap::new(),
    };
    deps.board.add_source(&config.name, entry);
    let shutdown = Shutdown::default();
    let (own, stop) = (deps.clone(), shutdown.clone());
    #[expect(clippy::disallowed_methods, reason = "awaited below; apart only so that a panic is its own")]
    let mut running = tokio::spawn(source::run(config.trial(), own, stop));
    let streams: Vec<StreamName> = config.spec.streams().into_iter().cloned().collect();
    let rows_came = async {
        while !deps.ingress.counters.snapshot().values().any(|count| count.rows_durable > 0) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let ended = tokio::select! {
        ended = &mut running => Some(ended),
        () = rows_came => None,
        () = tokio::time::sleep(within) => None,
    };
    let ended = match ended {
        Some(ended) => Some(ended),
        None => {
            shutdown.request();
            tokio::time::timeout(STOP_WITHIN, running).await.ok()
        }
    };
    let board = deps.board.sources().remove(&config.name);
    let (detail, problems) = board.map(|entry| (entry.detail, entry.problems)).unwrap_or_default();
    let failure = match ended {
        Some(Ok(Err(error))) => Some(match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }),
        Some(Err(error)) => Some(format!("failed unexpectedly: {error}")),
        Some(Ok(Ok(()))) | None => problems.into_values().next(),
    };
    let rows = first_rows(&deps.ingress.buffer, &streams);
    let buffer = deps.ingress.buffer.clone();
    tokio::task::spawn_blocking(move || buffer.close()).await.ok();
    Ok(Outcome { config, detail, failure, rows })
}

/// The first rows in the buffer, as objects of what is not null.
fn first_rows(buffer: &Buffer, streams: &[StreamName]) -> Vec<Value> {
    let mut rows = Vec::new();
    for (key, _) in buffer.tails() {
        // Dead letters, too: they say why there are no rows.
        let is_of_it =
            streams.iter().any(|stream| key.stream == *stream || key.stream == stream.dead_letters());
        let frames = buffer.read(&key, Sequence::ZERO, 1 << 20).ok().filter(|_| is_of_it);
        for frame in frames.into_iter().flatten().filter(|frame| frame.kind == FrameKind::Data) {
            let Ok(batch) = decode(&frame.schema, &frame.payload, None) else { continue };
            let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
            let some = zones_by_offset(&batch.slice(0, batch.num_rows().min(ROWS_SHOWN)));
            if some.and_then(|some| writer.write(&some)).is_err() {
                continue;
            }
            for line in writer.into_inner().split(|byte| *byte == b'\n') {
                let Ok(mut row) = serde_json::from_slice::<Value>(line) else { continue };
                shorten(&mut row);
                row["_stream"] = key.stream.as_str().into();
                rows.push(row);
                if rows.len() == ROWS_SHOWN {
                    return rows;
                }
            }
        }
    }
    rows
}

/// Long values are there to be seen, not read.
fn shorten(row: &mut Value) {
    for value in row.as_object_mut().into_iter().flat_map(|row| row.values_mut()) {
        if let Value::String(text) = value
            && text.len() > VALUE_BYTES_MAX
        {
            let end = (0..=VALUE_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
    }
}

fn report(file: &Utf8Path, outcomes: &[Outcome], output: Output) -> String {
    match output {
        Output::Json => json!({
            "format_version": "1.0",
            "kind": "source.test",
            "file": file,
            "items": outcomes.iter().map(|outcome| json!({
                "name": outcome.config.name,
                "type": outcome.config.spec.type_name(),
                "stream": outcome.config.spec.streams_text(),
                "guarantee": outcome.config.spec.guarantee(),
                "state": outcome.state(),
                "detail": outcome.detail,
                "failure": outcome.failure,
                "rows": outcome.rows,
            })).collect::<Vec<_>>(),
        })
        .to_string(),
        Output::Text => {
            let mut lines = vec![format!("`{file}` is valid: {} sources", outcomes.len())];
            for outcome in outcomes {
                let (name, kind) = (&outcome.config.name, outcome.config.spec.type_name());
                lines.push(format!("{name} ({kind}): {}", outcome.config.spec.guarantee()));
                lines.extend(
                    Some(&outcome.detail).filter(|text| !text.is_empty()).map(|text| format!("  {text}")),
                );
                lines.extend(outcome.failure.iter().map(|text| format!("  failed: {text}")));
                if outcome.rows.is_empty() && outcome.failure.is_none() {
                    lines.push("  no row came meanwhile".to_owned());
                }
                lines.extend(outcome.rows.iter().map(|row| format!("  {row}")));
            }
            lines.join("\n")
        }
    }
}
