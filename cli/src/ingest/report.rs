//! Progress as a bar on a terminal or as JSON lines, and the final words.

use std::io;
use std::time::Duration;

use aap_client::operations::{Format, Id};
use aap_types::Problem;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::session::Run;
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{FORMAT_VERSION, object, print_item};
use crate::text;

/// JSON lines of progress come no faster than this.
const EVENTS_EVERY: Duration = Duration::from_millis(500);

/// Tells the user how far a run is.
pub(crate) struct Report {
    bar: Option<ProgressBar>,
    /// JSON lines; written straight to stdout, which has nothing else to carry.
    events: bool,
    last_event: Option<tokio::time::Instant>,
    said_waiting: bool,
    said_full: bool,
    quiet: bool,
}

impl Report {
    pub(crate) fn begin(context: &Context<'_>, run: &Run, size: Option<u64>) -> Self {
        let bar = context.printer.draws_progress().then(|| bar(run, size));
        let events = context.settings.format == Some(Format::Json);
        let quiet = context.settings.quiet;
        Self { bar, events, last_event: None, said_waiting: false, said_full: false, quiet }
    }

    pub(crate) fn opened(&mut self, run: &Run, size: Option<u64>) -> Result<(), Failure> {
        self.said_waiting = false;
        if let Some(bar) = &self.bar {
            bar.set_position(run.durable_offset);
            bar.set_message(rows(run));
        }
        self.event(&json!({
            "type": if run.sessions == 1 { "opened" } else { "resumed" },
            "format_version": FORMAT_VERSION,
            "kind": "ingest",
            "stream": run.stream,
            "name": run.name,
            "offset": run.durable_offset,
            "bytes_total": size,
        }))
    }

    pub(crate) fn progress(&mut self, run: &Run) -> Result<(), Failure> {
        if let Some(bar) = &self.bar {
            bar.set_position(position(run));
            bar.set_message(rows(run));
        }
        if !self.events || self.last_event.is_some_and(|last| last.elapsed() < EVENTS_EVERY) {
            return Ok(());
        }
        self.last_event = Some(tokio::time::Instant::now());
        self.event(&json!({
            "type": "progress",
            "durable_bytes": run.durable_offset,
            "rows": run.rows_added(),
            "rows_total": run.rows_total,
            "bad_rows": run.bad_rows,
        }))
    }

    /// The agent is away.
    pub(crate) fn waiting(&mut self, lost: &Problem) {
        if self.said_waiting {
            return;
        }
        self.said_waiting = true;
        let text = format!("waiting for the agent: {}", text::clean(&lost.message));
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        } else {
            // Words only where a terminal or a log reads them; JSON lines say it as an event.
            let _ignored = self.event(&json!({"type": "waiting", "reason": lost.message}));
        }
    }

    /// The agent's buffer has no room. Said once, however often it happens.
    pub(crate) fn full(&mut self, waits_for: &str) -> Result<(), Failure> {
        if std::mem::replace(&mut self.said_full, true) {
            return Ok(());
        }
        let text =
            format!("the agent's buffer is full; this waits until there is room: {}", text::clean(waits_for));
        match &self.bar {
            Some(bar) => bar.println(text),
            None if self.quiet => {}
            None => {
                use io::Write;
                // If stderr is gone, nobody is left to be told.
                let _ignored = writeln!(io::stderr().lock(), "{text}");
            }
        }
        self.event(&json!({"type": "waiting", "reason": waits_for}))
    }

    fn event(&mut self, event: &Value) -> Result<(), Failure> {
        if !self.events {
            return Ok(());
        }
        use io::Write;
        let mut out = io::stdout().lock();
        match writeln!(out, "{event}").and_then(|()| out.flush()) {
            // Nobody reads any more; the rows still want to be durable.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.events = false;
                Ok(())
            }
            written => Ok(written?),
        }
    }

    /// Takes the bar away, before anything else is printed.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// The run is complete and durable.
    pub(crate) fn done(&mut self, context: &mut Context<'_>, run: &Run) -> Result<(), Failure> {
        let mut item = object(json!({
            "stream": run.stream,
            "name": run.name,
            "rows": run.rows_added(),
            "rows_total": run.rows_total,
            "bad_rows": run.bad_rows,
            "cut_bytes": run.cut_bytes,
            "batches": run.batches,
            "bytes": run.durable_offset,
            "already_complete": run.already_complete,
        }));
        if self.events {
            item.insert("type".into(), json!("done"));
            item.insert("format_version".into(), json!(FORMAT_VERSION));
            item.insert("kind".into(), json!("ingest"));
            self.event(&Value::Object(item))?;
        } else {
            let as_of_us = context.now_us();
            print_item(context, Id::Ingest, &item, as_of_us, |_| Ok(()))?;
            if run.already_complete {
                context.printer.note("nothing to do: all of it was taken before");
            }
        }
        if run.cut_bytes > 0 {
            context.printer.note(&format!(
                "{} bytes are beyond the longest record (8 MiB) and are stored nowhere",
                text::count(run.cut_bytes)
            ));
        }
        if run.bad_rows > 0 {
            let table = dead_letters(&run.stream);
            context.printer.note(&format!(
                "{} rows could not be read and are kept with the reason: aap query 'select * from \"{table}\"'",
                text::count(run.bad_rows)
            ));
        }
        Ok(())
    }

    /// Ctrl-C: what is durable stays.
    pub(crate) fn interrupted(&mut self, context: &mut Context<'_>, run: &Run, replayable: bool) {
        let durable = format!("interrupted; {} rows of this run are durable", text::count(run.rows_total));
        let next = if replayable { "; the same command continues where it stopped" } else { "" };
        context.printer.note(&format!("{durable}{next}"));
    }
}

fn dead_letters(stream: &str) -> String {
    stream
        .parse::<aap_types::StreamName>()
        .map_or_else(|_| format!("{stream}.dead"), |s| s.dead_letters().to_string())
}

/// What is durable. Of compressed and columnar input the agent can name no byte before the end; then what was sent.
fn position(run: &Run) -> u64 {
    if run.durable_offset == 0 { run.sent_offset } else { run.durable_offset }
}

fn rows(run: &Run) -> String {
    format!("{} rows", text::count(run.rows_total))
}

fn bar(run: &Run, size: Option<u64>) -> ProgressBar {
    let template = match size {
        Some(_) => {
            "{prefix} {bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {msg}  {eta}"
        }
        None => "{prefix} {spinner} {binary_bytes}  {binary_bytes_per_sec}  {msg}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = match size {
        Some(size) => ProgressBar::new(size),
        None => ProgressBar::no_length(),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.with_style(style).with_prefix(run.stream.clone())
}
