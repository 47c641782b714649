//! `aap cluster`.

use std::process::Command;

use aap_client::call;
use aap_client::operations::{Field, FieldType, Id, Operation};
use aap_client::v1::{ClusterCoordinator, ShowClusterReply, ShowClusterRequest};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::json;

use super::{program, text};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{Object, object, print_item, print_table};
use crate::text::clean;
use crate::up::programs;

pub(super) async fn status(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let reply = fetch(context).await?;
    let coordinators: Vec<Object> = reply.coordinators.iter().map(coordinator).collect();
    let item = object(json!({
        "cluster": reply.cluster,
        "metadata": reply.metadata,
        "landing": reply.landing,
        "lake": reply.lake,
        "coordinators": coordinators,
        "unowned_shards": reply.unowned_shards.len(),
        "problems": reply.problems,
    }));
    let as_of_us = context.now_us();
    print_item(context, Id::ClusterStatus, &item, as_of_us, |context| {
        print_coordinators(context, &reply, &coordinators)
    })?;
    if reply.cluster.is_empty() {
        context.printer.note("this platform is one machine; docs/cluster.md says how it becomes a cluster");
    }
    Ok(ExitCode::Ok)
}

fn print_coordinators(
    context: &mut Context<'_>,
    reply: &ShowClusterReply,
    coordinators: &[Object],
) -> Result<(), Failure> {
    const FIELDS: &[Field] = &[
        Field::shown("coordinator", "coordinator", FieldType::Text),
        Field::shown("agents", "agents", FieldType::Text),
        Field::shown("version", "version", FieldType::Text),
        Field::shown("leads", "leads", FieldType::Boolean),
        Field::shown("shard_count", "shards", FieldType::Count),
        Field::shown("lease", "lease", FieldType::Text),
    ];
    if !coordinators.is_empty() {
        context.printer.line("")?;
        print_table(context, FIELDS, coordinators)?;
    }
    for problem in &reply.problems {
        context.printer.line(&format!("problem: {}", clean(problem)))?;
    }
    Ok(())
}

fn coordinator(coordinator: &ClusterCoordinator) -> Object {
    let ClusterCoordinator { name, agents, version, is_this, leads, shards, lease_left_ms } = coordinator;
    let lease = match lease_left_ms {
        0 => "over".to_owned(),
        left => format!("{:.0} s", (*left as f64 / 1000.0).ceil()),
    };
    object(json!({
        "coordinator": name,
        "agents": agents,
        "version": version,
        "is_this": is_this,
        "leads": leads,
        "shards": shards,
        "shard_count": shards.len(),
        "lease": lease,
        "lease_left_ms": lease_left_ms,
    }))
}

pub(super) async fn config(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let reply = fetch(context).await?;
    match reply.config.as_str() {
        "" => context.printer.note("this platform is one machine: it has no settings of a cluster"),
        config => {
            for line in config.lines() {
                context.printer.line(&clean(line))?;
            }
        }
    }
    Ok(ExitCode::Ok)
}

/// `aap-coordinator migrate` in our place: it opens what a coordinator alone had, and needs none that runs.
pub(super) fn migrate(
    context: &Context<'_>,
    operation: &Operation,
    arguments: &ArgMatches,
) -> Result<ExitCode, Failure> {
    // Through a context that leads elsewhere there is none to migrate; the default one is not meant then.
    context.platform.home()?;
    let mut command = Command::new(programs::beside("aap-coordinator")?);
    match text(arguments, "config") {
        "" => {}
        file => drop(command.args(["--config", file])),
    }
    command.arg("migrate");
    program::become_it(context, operation, command)
}

async fn fetch(context: &Context<'_>) -> Result<ShowClusterReply, Problem> {
    let mut api = context.platform.resources().await?;
    call(context.call_timeout(), api.show_cluster(ShowClusterRequest {})).await
}
