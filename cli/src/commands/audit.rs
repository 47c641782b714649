//! `aap audit`.

use std::io::Write;
use std::time::Duration;

use aap_client::operations::{self, Format, Id};
use aap_client::v1::{
    AuditRecord, ExportAuditRequest, ReadAuditRequest, VerifyAuditReply, VerifyAuditRequest,
};
use aap_client::{audit, call, problem_of};
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use clap::ArgMatches;
use serde_json::{Value, json};
use tonic::Streaming;

use super::{text, views};
use crate::arguments::format_for;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::listing::{Object, object, print_item, print_list_of, print_table, shown};

/// Verification reads every byte: a minute for some ten million records.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(300);
/// The key, in the directory of what is kept.
const KEY_FILE: &str = "audit-key.pub";
/// Checkpoints, one a line, the newest last.
const CHECKPOINTS_FILE: &str = "checkpoints";

pub(super) async fn tail(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let follow = arguments.get_flag("follow");
    let request = ReadAuditRequest {
        // The oldest of them come first, so what a limit cuts must not come at all.
        limit: tail_records(arguments.get_one("rows").copied(), context.settings.limit),
        tail: true,
        follow,
        ..conditions(arguments)
    };
    let records = open(context, request).await?;
    if follow {
        return print_as_they_come(context, records).await;
    }
    print_all(context, Id::AuditTail, records).await
}

/// How many of the newest records: `--rows`, and no more than `--limit`, where 0 means all.
fn tail_records(rows: Option<u64>, limit: u64) -> u64 {
    match (rows.unwrap_or_default(), limit) {
        (0, limit) => limit,
        (rows, 0) => rows,
        (rows, limit) => rows.min(limit),
    }
}

pub(super) async fn search(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let now_us = context.now_us();
    let ago = |name: &str| {
        let ago = arguments.get_one::<Duration>(name);
        ago.map_or(0, |ago| now_us.saturating_sub(i64::try_from(ago.as_micros()).unwrap_or(i64::MAX)))
    };
    let request = ReadAuditRequest {
        since_us: ago("since"),
        until_us: ago("until"),
        // All of them, so that it can be said how many there are; those beyond the limit are only counted.
        ..conditions(arguments)
    };
    let records = open(context, request).await?;
    print_all(context, Id::AuditSearch, records).await
}

/// What is common to both.
fn conditions(arguments: &ArgMatches) -> ReadAuditRequest {
    let (kind, name) = text(arguments, "object").split_once('/').unwrap_or((text(arguments, "object"), ""));
    ReadAuditRequest {
        actor: text(arguments, "actor").to_owned(),
        action: text(arguments, "action").to_owned(),
        outcome: text(arguments, "outcome").to_owned(),
        object_kind: kind.to_owned(),
        object_name: name.to_owned(),
        ..ReadAuditRequest::default()
    }
}

async fn open(
    context: &mut Context<'_>,
    request: ReadAuditRequest,
) -> Result<Streaming<AuditRecord>, Failure> {
    let mut api = context.platform.audit().await?;
    Ok(api.read(request).await.map_err(|status| problem_of(&status))?.into_inner())
}

async fn print_all(
    context: &mut Context<'_>,
    id: Id,
    mut records: Streaming<AuditRecord>,
) -> Result<ExitCode, Failure> {
    let most = usize::try_from(context.settings.limit).ok().filter(|limit| *limit != 0).unwrap_or(usize::MAX);
    let (mut items, mut total) = (Vec::new(), 0);
    while let Some(record) = records.message().await.map_err(|status| problem_of(&status))? {
        total += 1;
        if items.len() < most {
            items.push(views::audit_record(&record));
        }
    }
    let as_of_us = context.now_us();
    print_list_of(context, id, items, total, as_of_us)?;
    if total == 0 {
        context.printer.note("no such record");
    }
    Ok(ExitCode::Ok)
}

/// Prints each record at once, until whoever looks has seen enough.
async fn print_as_they_come(
    context: &mut Context<'_>,
    mut records: Streaming<AuditRecord>,
) -> Result<ExitCode, Failure> {
    let format = format_for(Id::AuditTail, &context.settings, context.printer.stdout_is_terminal())?;
    if !matches!(format, Format::Table | Format::Plain | Format::Ndjson) {
        let message = format!("records that are followed cannot be printed as {}", format.name());
        return Err(Problem::new("cli.usage", ExitCode::Usage, message)
            .hint_command("take one record a line", "aap audit tail --follow -o ndjson")
            .into());
    }
    let mut interrupts = Interrupts::new()?;
    loop {
        let record = tokio::select! {
            record = records.message() => record.map_err(|status| problem_of(&status))?,
            code = interrupts.next() => {
                context.printer.flush()?;
                return Ok(code);
            }
        };
        let Some(record) = record else { return Ok(ExitCode::Ok) };
        let item = views::audit_record(&record);
        let line = match format {
            Format::Ndjson => Value::Object(item).to_string(),
            Format::Plain => line_of(&item, "\t", crate::text::escape_plain),
            _ => line_of(&item, "  ", crate::text::clean),
        };
        context.printer.line(&line)?;
        context.printer.flush()?;
    }
}

/// A record on a line of its own; columns would have to be known beforehand.
fn line_of(item: &Object, separator: &str, cleaned: fn(&str) -> String) -> String {
    let fields = shown(operations::of(Id::AuditTail).output.fields());
    let cells = fields.iter().map(|field| match item.get(field.name) {
        Some(Value::String(text)) if !text.is_empty() => cleaned(text),
        Some(Value::Number(number)) => number.to_string(),
        _ => "-".to_owned(),
    });
    cells.collect::<Vec<_>>().join(separator)
}

pub(super) async fn verify(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let path = |name: &str| arguments.get_one::<String>(name).map(Utf8PathBuf::from);
    let files = arguments.get_many::<String>("checkpoint").into_iter().flatten();
    let mut checkpoints = Vec::new();
    for file in files {
        checkpoints.extend(audit::read_kept(Utf8Path::new(file))?);
    }
    let key = path("key").map(|path| audit::read_kept(&path)).transpose()?;
    let key = key.map(|lines| lines.concat());
    let verified = match (path("dir"), key) {
        (Some(directory), Some(key)) => verify_here(directory, key, checkpoints).await?,
        (Some(_), None) => return Err(key_missing().into()),
        (None, key) => {
            let request = VerifyAuditRequest { checkpoints, public_key: key.unwrap_or_default() };
            let timeout = context.settings.timeout.unwrap_or(VERIFY_TIMEOUT);
            let mut api = context.platform.audit().await?;
            call(timeout, api.verify(request)).await?
        }
    };
    print_verified(context, &verified)
}

async fn verify_here(
    directory: Utf8PathBuf,
    key: String,
    checkpoints: Vec<String>,
) -> Result<VerifyAuditReply, Problem> {
    let verified = tokio::task::spawn_blocking(move || audit::verify(&directory, &key, &checkpoints)).await;
    verified.map_err(|error| {
        Problem::new("cli.task", ExitCode::Bug, "the work ended by a bug of ours").caused_by(&error)
    })?
}

fn key_missing() -> Problem {
    Problem::new(
        "cli.usage",
        ExitCode::Usage,
        "a copy of the log is checked by a key that was kept: `--key FILE`",
    )
    .hint_command("keep key and checkpoint", "aap audit export --to DIR")
}

fn print_verified(context: &mut Context<'_>, verified: &VerifyAuditReply) -> Result<ExitCode, Failure> {
    let as_of_us = context.now_us();
    let item = views::audit_verification(verified);
    print_item(context, Id::AuditVerify, &item, as_of_us, |context| print_findings(context, verified))?;
    context.printer.flush()?;
    if verified.found == 0 {
        context.printer.note("the audit log is what was written");
        return Ok(ExitCode::Ok);
    }
    let shown = verified.findings.len() as u64;
    if shown < verified.found {
        context.printer.note(&format!("note: the first {shown} of {} findings are shown", verified.found));
    }
    context
        .printer
        .note("the audit log is not what was written; `docs/audit.md` says what each finding means");
    Ok(ExitCode::CheckFailed)
}

fn print_findings(context: &mut Context<'_>, verified: &VerifyAuditReply) -> Result<(), Failure> {
    use aap_client::operations::{Field, FieldType};
    const FIELDS: &[Field] = &[
        Field::shown("fault", "finding", FieldType::Text),
        Field::shown("file", "file", FieldType::Text),
        Field::shown("line", "line", FieldType::Count),
        Field::shown("seq", "seq", FieldType::Count),
        Field::shown("detail", "what", FieldType::Text),
    ];
    if verified.findings.is_empty() {
        return Ok(());
    }
    let rows: Vec<Object> = verified.findings.iter().map(views::audit_finding).map(object).collect();
    context.printer.line("")?;
    print_table(context, FIELDS, &rows)
}

pub(super) async fn export(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let mut api = context.platform.audit().await?;
    let kept = call(context.call_timeout(), api.export(ExportAuditRequest {})).await?;
    if let Some(directory) = arguments.get_one::<String>("to") {
        keep(Utf8Path::new(directory), &kept.public_key, &kept.checkpoint)?;
    }
    let as_of_us = context.now_us();
    let item = object(json!({ "public_key": kept.public_key, "checkpoint": kept.checkpoint }));
    print_item(context, Id::AuditExport, &item, as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

/// Adds the checkpoint to those that are kept; the key must be the one that is.
fn keep(directory: &Utf8Path, key: &str, checkpoint: &str) -> Result<(), Problem> {
    let path = directory.join(KEY_FILE);
    let failed = |path: &Utf8Path, error: &std::io::Error| {
        Problem::new("audit.not_written", ExitCode::Failed, format!("`{path}` cannot be written"))
            .caused_by(error)
    };
    std::fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    match audit::read_kept(&path) {
        Ok(kept) if kept.concat() == key => {}
        Ok(_) => {
            let message = format!("`{path}` holds another key than the audit log is signed with");
            return Err(Problem::new("audit.other_key", ExitCode::Conflict, message)
                .hint("find out who changed the key; move the file away only if you know"));
        }
        Err(_) if path.exists() => {
            return Err(failed(&path, &std::io::Error::other("it is there, and holds no key")));
        }
        Err(_) => std::fs::write(&path, format!("{key}\n")).map_err(|error| failed(&path, &error))?,
    }
    let path = directory.join(CHECKPOINTS_FILE);
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| {
        file.write_all(format!("{checkpoint}\n").as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| failed(&path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_add_up_and_another_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Utf8Path::from_path(folder.path()).unwrap();
        keep(directory, "ed25519:aa", "one").unwrap();
        keep(directory, "ed25519:aa", "two").unwrap();
        assert_eq!(audit::read_kept(&directory.join(CHECKPOINTS_FILE)).unwrap(), ["one", "two"]);
        assert_eq!(keep(directory, "ed25519:bb", "three").unwrap_err().code, "audit.other_key");
    }
}
