//! `aap ingest`: a file or stdin into a stream, every row once however often it is repeated.
//!
//! The agent knows how far a run (stream and name) is durable. It says from which byte to go on and what the bytes
//! before that must hash to; whoever finds other content there ends with 6. A killed agent is waited for, and the
//! run goes on where it is durable.
//!
//! | file | owns |
//! |---|---|
//! | `ingest/input.rs` | [`Input`]: the bytes, from any durable offset on |
//! | `ingest/session.rs` | one connection: open, check, send, read progress |
//! | `ingest/report.rs` | progress bar or JSON lines, and the final words |

mod input;
mod report;
mod session;

use std::time::Duration;

use aap_types::{ExitCode, Problem};
use clap::ArgMatches;

use crate::context::Context;
use crate::failure::Failure;
use crate::ingest::input::{Input, Kind};
use crate::ingest::report::Report;
use crate::ingest::session::{Lost, Run};
use crate::interrupt::Interrupts;

/// How long an agent that went away is waited for. `--timeout` changes it, and also ends the wait for a full buffer, which has
/// no end of its own.
const AGENT_WAIT: Duration = Duration::from_secs(60);
/// Between two attempts to reach it.
const RETRY_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn run(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    // Rows go to the agent of a home; without one nobody has to wait for it.
    context.platform.home()?;
    let text = |name: &str| arguments.get_one::<String>(name).cloned();
    let stream = text("stream").unwrap_or_default();
    let file = text("file").unwrap_or_default();
    let mut input = Input::open(&file)?;
    let kind = Kind::of(&file, text("format").as_deref(), text("codec").as_deref())?;
    let name = text("name").map_or_else(|| input.default_name(context), Ok)?;
    let mut run = Run::new(stream, name, kind, arguments.get_flag("again"), context.settings.timeout);
    let mut report = Report::begin(context, &run, input.size());
    let mut interrupts = Interrupts::new()?;
    let ended = tokio::select! {
        ended = until_done(context, &mut run, &mut input, &mut report) => ended.map(|()| None),
        code = interrupts.next() => Ok(Some(code)),
    };
    report.clear();
    match ended? {
        None => {
            report.done(context, &run)?;
            Ok(ExitCode::Ok)
        }
        Some(code) => {
            report.interrupted(context, &run, input.is_replayable());
            Ok(code)
        }
    }
}

/// Sends until everything is durable, over as many connections as it takes.
async fn until_done(
    context: &Context<'_>,
    run: &mut Run,
    input: &mut Input,
    report: &mut Report,
) -> Result<(), Failure> {
    let patience = context.settings.timeout.unwrap_or(AGENT_WAIT);
    let mut silent_since = None;
    // How far it was at its best: a connection that takes nothing further is no progress.
    let mut best = (0, 0);
    loop {
        let lost = match session::attempt(&context.platform, run, input, report).await {
            Ok(()) => return Ok(()),
            Err(Lost::ForGood(failure)) => return Err(failure),
            Err(Lost::ForNow(problem)) => problem,
        };
        let never_there = run.sessions == 0 && lost.code == "platform.not_running";
        if never_there && !crate::up::is_supervised(&context.platform) {
            // Nobody will start it: waiting would only hide that.
            return Err(lost.into());
        }
        if run.durable_offset > best.0 || run.rows_total > best.1 {
            best = (best.0.max(run.durable_offset), best.1.max(run.rows_total));
            silent_since = None;
        }
        let since = *silent_since.get_or_insert_with(tokio::time::Instant::now);
        if since.elapsed() >= patience {
            // The agent is there, and another command has the run, or an operator drains the node.
            let is_busy = matches!(lost.code.as_str(), "ingest.under_way" | "ingest.draining");
            return Err(if is_busy { lost } else { gave_up(run, &lost, patience) }.into());
        }
        report.waiting(&lost);
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

fn gave_up(run: &Run, lost: &Problem, patience: Duration) -> Problem {
    let message = format!(
        "the agent did not come back within {} s; {} rows of this run are durable",
        patience.as_secs(),
        run.rows_total
    );
    let mut problem = Problem::new("ingest.agent_gone", ExitCode::Unavailable, message).cause(&lost.message);
    problem.causes.extend(lost.causes.iter().cloned());
    problem
        .hint("the same command continues where it stopped")
        .hint_command("start the platform", "aap up --detach")
        .retry_after_ms(1000)
}
