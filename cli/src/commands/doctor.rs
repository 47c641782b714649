//! `aap doctor`.

use aap_client::contexts::Contexts;
use aap_client::operations::{Format, Id};
use aap_client::{SystemClock, select};
use aap_types::ExitCode;
use camino::Utf8Path;
use clap::ArgMatches;

use super::{text, texts};
use crate::arguments::format_for;
use crate::context::Context;
use crate::doctor::{self, Finding, Subject, Verdict, bundle};
use crate::failure::Failure;
use crate::listing::print_list;
use crate::text::clean;

pub(super) async fn examine(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (settings, environment) = (&context.settings, context.environment.clone());
    let contexts = || Contexts::read(&environment.config_folder());
    let named = select(settings.on_line.clone(), settings.in_environment.clone(), contexts)
        .and_then(|target| aap_client::Platform::find(target, &environment));
    let subject = Subject {
        platform: context.platform.clone(),
        environment: environment.clone(),
        lost: named.err(),
        fix: arguments.get_flag("fix"),
        clock: SystemClock::default(),
    };
    let found = doctor::examine(&subject, &texts(arguments, "only")).await;
    let as_of_us = context.now_us();
    print_list(context, Id::Doctor, found.findings.iter().map(Finding::item).collect(), as_of_us)?;
    // Under the data, also where both go to one terminal.
    context.printer.flush()?;
    let format = format_for(Id::Doctor, &context.settings, context.printer.stdout_is_terminal())?;
    if matches!(format, Format::Table | Format::Plain) {
        found.findings.iter().for_each(|finding| advise(context, finding));
    }
    let file = text(arguments, "bundle");
    if !file.is_empty() {
        bundle::write(Utf8Path::new(file), &subject, &found, as_of_us)?;
        context
            .printer
            .note(&format!("written: {file}; secrets are left out, but look at it before you send it"));
    }
    Ok(if found.has_failed() { ExitCode::CheckFailed } else { ExitCode::Ok })
}

/// Cause, and what to do, of what is not well.
fn advise(context: &mut Context<'_>, finding: &Finding) {
    if let Some(fixed) = &finding.fixed {
        context.printer.note(&format!("fixed {}: {}", finding.check, clean(fixed)));
        return;
    }
    if finding.verdict < Verdict::Warn {
        return;
    }
    let style = context.printer.error_style();
    let head = format!("{} {}", finding.verdict.word(), finding.check);
    let head = if finding.verdict == Verdict::Fail { style.red(&head) } else { style.yellow(&head) };
    let mut advice = format!("{head}: {}", clean(&finding.text));
    if let Some(cause) = &finding.cause {
        advice.push_str(&format!("\n  cause: {}", clean(cause)));
    }
    if let Some(hint) = &finding.hint {
        advice.push_str(&format!("\n  {}: {}", style.green("hint"), clean(hint)));
    }
    if let Some(command) = &finding.command {
        advice.push_str(&format!(": `{}`", clean(command)));
    }
    context.printer.note(&advice);
}
