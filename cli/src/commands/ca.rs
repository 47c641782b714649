//! `aap ca`.

use std::os::unix::fs::OpenOptionsExt;

use aap_client::call;
use aap_client::operations::{Field, FieldType, Id};
use aap_client::v1::{
    AuthorityCertificate, AuthorityReply, ListRootsRequest, RotateAuthorityRequest, ShowAuthorityRequest,
};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::{Value, json};

use super::{text, views};
use crate::confirm::{Answer, Question, confirm};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{Object, object, print_item, print_table};

const CERTIFICATES: &[Field] = &[
    Field::shown("role", "role", FieldType::Text),
    Field::shown("name", "name", FieldType::Text),
    Field::shown("fingerprint", "fingerprint", FieldType::Text),
    Field::shown("expires", "expires", FieldType::Time),
];

pub(super) async fn show(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let mut api = context.platform.access().await?;
    let reply = call(context.call_timeout(), api.show_authority(ShowAuthorityRequest {})).await?;
    print(context, Id::CaShow, &reply)
}

pub(super) async fn rotate(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let (finish, force) = (arguments.get_flag("finish"), arguments.get_flag("force"));
    if force && !finish {
        let problem = Problem::new("cli.usage", ExitCode::Usage, "--force is for the end of a rotation");
        return Err(problem.hint_command("end it", "aap ca rotate --finish --force").into());
    }
    if force {
        let mut api = context.platform.access().await?;
        let reply = call(context.call_timeout(), api.show_authority(ShowAuthorityRequest {})).await?;
        let waiting = usize::try_from(reply.nodes.saturating_sub(reply.confirmed)).unwrap_or(usize::MAX);
        if waiting > 0 {
            let question = Question {
                loss: format!(
                    "{waiting} nodes have not confirmed the new root and must be enrolled again afterwards."
                ),
                answer: Answer::Count(waiting),
                command: "aap ca rotate --finish --force --yes".to_owned(),
            };
            confirm(context, &question)?;
        }
    }
    let mut api = context.platform.access().await?;
    let step = if finish { "finish" } else { "begin" };
    let request = RotateAuthorityRequest { step: step.to_owned(), force };
    let reply = call(context.call_timeout(), api.rotate_authority(request)).await?;
    print(context, Id::CaRotate, &reply)?;
    context.printer.note(match finish {
        true => "the former root is trusted no more; in a cluster, copy `tls/` to the other coordinators now",
        false => {
            "nodes get the new root with their next certificate, which they ask for now; in a cluster, copy `tls/` to the other coordinators; \
             then, when `aap ca show` says that all have confirmed: aap ca rotate --finish"
        }
    });
    Ok(ExitCode::Ok)
}

pub(super) async fn export(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    match text(arguments, "root-key") {
        "" => {
            let mut api = context.platform.access().await?;
            let reply = call(context.call_timeout(), api.list_roots(ListRootsRequest {})).await?;
            context.printer.write(&reply.roots)?;
        }
        file => export_root_key(context, file)?,
    }
    Ok(ExitCode::Ok)
}

/// Works on the files of the home, whose modes decide who may.
fn export_root_key(context: &mut Context<'_>, file: &str) -> Result<(), Failure> {
    let key = context.platform.home()?.tls().join("root.key");
    let failed = |what: String| Problem::new("ca.export", ExitCode::Failed, what);
    let bytes = std::fs::read(&key).map_err(|error| {
        failed(format!("the root's key cannot be read: `{key}`"))
            .caused_by(&error)
            .hint("it is in the coordinator's home, unless it was taken away already")
            .hint_command("see whether it is", "aap ca show")
    })?;
    let written = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).and_then(
        |mut opened| {
            std::io::Write::write_all(&mut opened, &bytes)?;
            opened.sync_all()
        },
    );
    written.map_err(|error| {
        failed(format!("the root's key cannot be written into `{file}`"))
            .caused_by(&error)
            .hint("name a file that is not there yet")
    })?;
    context.printer.line(file)?;
    context.printer.flush()?;
    context.printer.note(&format!(
        "take it offline: move `{file}` where no machine of the platform reads it, then `rm {key}`. For a rotation, and within half a year \
         for a new intermediate, put it back as `{key}`, mode 0600, and restart the coordinator or wait a minute"
    ));
    Ok(())
}

fn print(context: &mut Context<'_>, id: Id, reply: &AuthorityReply) -> Result<ExitCode, Failure> {
    let item = authority(reply);
    let as_of_us = context.now_us();
    print_item(context, id, &item, as_of_us, |context| {
        context.printer.line("")?;
        let rows: Vec<Object> = reply.certificates.iter().map(|known| object(certificate(known))).collect();
        print_table(context, CERTIFICATES, &rows)
    })?;
    Ok(ExitCode::Ok)
}

/// What there is of the authority.
pub(super) fn authority(reply: &AuthorityReply) -> Object {
    let of = |role: &str| reply.certificates.iter().find(|known| known.role == role);
    let root = of("root").cloned().unwrap_or_default();
    object(json!({
        "root": root.fingerprint,
        "root_expires": views::until(root.expires_us),
        "root_key": if reply.has_root_key { "here" } else { "away" },
        "intermediate_expires": of("intermediate").and_then(|known| views::until(known.expires_us)),
        "rotating": of("former root").is_some(),
        "nodes": reply.nodes,
        "confirmed": reply.confirmed,
        "waiting": reply.waiting,
        "by_hand": reply.by_hand,
        "certificates": reply.certificates.iter().map(certificate).collect::<Vec<_>>(),
    }))
}

fn certificate(known: &AuthorityCertificate) -> Value {
    json!({
        "role": known.role,
        "name": known.name,
        "fingerprint": known.fingerprint,
        "begins": views::until(known.begins_us),
        "expires": views::until(known.expires_us),
    })
}
