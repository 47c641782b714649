//! `aap backup` and `aap restore`: the work is done on a thread beside, so that progress is shown and Ctrl-C is heard.

use std::sync::Arc;
use std::time::Duration;

use aap_backup::{Error, Progress, Summary};
use aap_client::Home;
use aap_client::operations::Id;
use aap_types::{ExitCode, Problem};
use camino::Utf8PathBuf;
use clap::ArgMatches;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::text;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::listing::{object, print_item};

/// How often the bar moves.
const SHOWN_EVERY: Duration = Duration::from_millis(100);

pub(super) async fn backup(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let clock = context.clock.clone();
    let work = move |home: &Home, file: Utf8PathBuf, progress: &Progress| {
        aap_backup::pack(home, &file, env!("CARGO_PKG_VERSION"), &clock, progress)
    };
    run(context, arguments, Id::Backup, work).await
}

pub(super) async fn restore(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let work =
        |home: &Home, file: Utf8PathBuf, progress: &Progress| aap_backup::unpack(home, &file, progress);
    run(context, arguments, Id::Restore, work).await
}

async fn run(
    context: &mut Context<'_>,
    arguments: &ArgMatches,
    id: Id,
    work: impl FnOnce(&Home, Utf8PathBuf, &Progress) -> Result<Summary, Error> + Send + 'static,
) -> Result<ExitCode, Failure> {
    let (file, home) = (Utf8PathBuf::from(text(arguments, "file")), context.platform.home()?.clone());
    let progress = Arc::new(Progress::default());
    let (shared, of, into) = (progress.clone(), home.clone(), file.clone());
    let mut working = tokio::task::spawn_blocking(move || work(&of, into, &shared));
    let bar = context.printer.draws_progress().then(bar);
    let mut interrupts = Interrupts::new()?;
    let mut code = ExitCode::Interrupted;
    let mut ticks = tokio::time::interval(SHOWN_EVERY);
    let ended = loop {
        tokio::select! {
            ended = &mut working => break ended,
            _ = ticks.tick() => show(bar.as_ref(), &progress),
            which = interrupts.next() => {
                // It ends soon, and leaves nothing.
                code = which;
                progress.cancel();
            }
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let ended = ended.map_err(|error| {
        Problem::new("cli.task", ExitCode::Bug, "the work ended by a bug of ours").caused_by(&error)
    })?;
    match ended {
        Ok(summary) => {
            print(context, id, &home, &file, &summary)?;
            Ok(ExitCode::Ok)
        }
        Err(Error::Cancelled) => {
            context.printer.note("cancelled; nothing is left of it");
            Ok(code)
        }
        Err(error) => Err(error.problem().into()),
    }
}

fn print(
    context: &mut Context<'_>,
    id: Id,
    home: &Home,
    file: &Utf8PathBuf,
    summary: &Summary,
) -> Result<(), Failure> {
    let item = object(json!({
        "file": file,
        "home": home.root(),
        "created": summary.created,
        "aap_version": summary.aap_version,
        "files": summary.files,
        "bytes": summary.bytes,
    }));
    let as_of_us = context.now_us();
    print_item(context, id, &item, as_of_us, |_| Ok(()))?;
    context.printer.flush()?;
    match id {
        Id::Backup => context.printer.note("the file holds private keys: keep it as safe as the home"),
        _ => context.printer.note("next: aap up --detach"),
    }
    Ok(())
}

fn bar() -> ProgressBar {
    let template = "{bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(0);
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.with_style(style)
}

fn show(bar: Option<&ProgressBar>, progress: &Progress) {
    if let Some(bar) = bar {
        bar.set_length(progress.total());
        bar.set_position(progress.done());
    }
}
