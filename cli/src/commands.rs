//! One module per noun, one function per verb.

mod audit;
mod backup;
mod buffer;
mod cluster;
mod dead_letters;
mod help;
pub(crate) mod logs;
mod node;
mod program;
mod query;
mod resource;
mod sink;
mod source;
mod status;
mod stream;
mod token;
pub(crate) mod views;

use aap_client::operations::{Id, Operation, Output};
use aap_types::ExitCode;
use clap::ArgMatches;

use crate::arguments::format_for;
use crate::context::Context;
use crate::failure::Failure;
use crate::{ingest, up};

/// Runs one operation. The match is whole: an operation without a handler does not compile.
pub(crate) async fn dispatch(
    operation: &'static Operation,
    arguments: &ArgMatches,
    context: &mut Context<'_>,
) -> Result<ExitCode, Failure> {
    if !matches!(operation.output, Output::Text | Output::Program) {
        // Before anything is done: a format that cannot be printed must not be found out afterwards.
        format_for(operation.id, &context.settings, context.printer.stdout_is_terminal())?;
    }
    match operation.id {
        Id::Up => Box::pin(up::up(context, arguments)).await,
        Id::Down => Box::pin(up::down(context)).await,
        Id::Backup => backup::backup(context, arguments).await,
        Id::Restore => backup::restore(context, arguments).await,
        Id::Logs => logs::show(context, arguments).await,
        Id::Status => status::show(context, arguments).await,
        Id::Version => help::version(context),
        Id::Completion => help::completion(context, arguments),
        Id::Help => help::show(context, arguments),
        Id::Apply => resource::apply(context, arguments).await,
        Id::Diff => resource::diff(context, arguments).await,
        Id::Get => resource::get(context, arguments).await,
        Id::Delete => resource::delete(context, arguments).await,
        Id::QueryRun => Box::pin(query::run(context, arguments)).await,
        Id::QueryExplain => Box::pin(query::explain(context, arguments)).await,
        Id::QueryLs => query::ls(context).await,
        Id::QueryCancel => query::cancel(context, arguments).await,
        Id::Ingest => Box::pin(ingest::run(context, arguments)).await,
        Id::StreamLs => stream::ls(context).await,
        Id::StreamShow => stream::show(context, arguments).await,
        Id::StreamTail => Box::pin(stream::tail(context, arguments)).await,
        Id::StreamFiles => stream::files(context, arguments).await,
        Id::StreamDelete => stream::delete(context, arguments).await,
        Id::NodeLs => node::ls(context).await,
        Id::NodeShow => node::show(context, arguments).await,
        Id::NodeRecover => node::recover(context, arguments).await,
        Id::NodeApprove => node::set_state(context, operation.id, "approved", arguments).await,
        Id::NodeCordon => node::set_state(context, operation.id, "cordoned", arguments).await,
        Id::NodeBan => node::set_state(context, operation.id, "banned", arguments).await,
        Id::NodeLabel => node::label(context, arguments).await,
        Id::TokenCreate => token::create(context, arguments).await,
        Id::TokenLs => token::ls(context).await,
        Id::TokenRevoke => token::revoke(context, arguments).await,
        Id::AuditTail => Box::pin(audit::tail(context, arguments)).await,
        Id::AuditSearch => Box::pin(audit::search(context, arguments)).await,
        Id::AuditVerify => audit::verify(context, arguments).await,
        Id::AuditExport => audit::export(context, arguments).await,
        Id::SinkLs => sink::ls(context).await,
        Id::SinkShow => sink::show(context, arguments).await,
        Id::SinkTest => sink::test(context, arguments).await,
        Id::SinkPause => sink::pause(context, arguments).await,
        Id::SinkResume => sink::resume(context, arguments).await,
        Id::SinkDlqLs => dead_letters::ls(context, arguments).await,
        Id::SinkDlqShow => dead_letters::show(context, arguments).await,
        Id::SinkDlqReplay => dead_letters::replay(context, arguments).await,
        Id::SinkDlqPurge => dead_letters::purge(context, arguments).await,
        Id::SourceTypes | Id::SourceTest => source::run(context, operation, arguments),
        Id::ClusterStatus => cluster::status(context).await,
        Id::ClusterConfig => cluster::config(context).await,
        Id::ClusterMigrate => cluster::migrate(context, operation, arguments),
        Id::BufferLs
        | Id::BufferShow
        | Id::BufferVerify
        | Id::BufferSalvage
        | Id::BufferExport
        | Id::BufferReplay => buffer::run(context, operation, arguments),
    }
}

/// A text argument that clap made sure is there, or nothing.
pub(crate) fn text<'a>(arguments: &'a ArgMatches, name: &str) -> &'a str {
    arguments.get_one::<String>(name).map_or("", String::as_str)
}
