//! One module per noun, one function per verb.

mod access_views;
mod audit;
mod auth;
mod backup;
mod buffer;
mod ca;
mod cluster;
mod contexts;
mod dead_letters;
mod decisions;
mod doctor;
mod external;
mod help;
mod init;
pub(crate) mod logs;
mod node;
mod program;
mod query;
mod resource;
mod role;
mod secret;
mod session;
mod sink;
mod site;
mod source;
mod status;
mod stream;
mod token;
mod user;
pub(crate) mod views;

use aap_client::operations::{Id, Operation, Output};
use aap_types::ExitCode;
use clap::ArgMatches;

use crate::arguments::format_for;
use crate::context::Context;
use crate::failure::Failure;
use crate::{guard, ingest, up};

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
    guard::pass(context, operation, arguments)?;
    match operation.id {
        Id::Init => init::run(context, operation, arguments),
        Id::Up => Box::pin(up::up(context, arguments)).await,
        Id::Down => Box::pin(up::down(context)).await,
        Id::Backup => backup::backup(context, arguments).await,
        Id::Restore => backup::restore(context, arguments).await,
        Id::Logs => logs::show(context, arguments).await,
        Id::Status => status::show(context, arguments).await,
        Id::Doctor => Box::pin(doctor::examine(context, arguments)).await,
        Id::Version => help::version(context),
        Id::Completion => help::completion(context, arguments),
        Id::Help => help::show(context, arguments),
        Id::Man => help::man(context, arguments),
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
        Id::NodeLs => node::ls(context, arguments).await,
        Id::NodeShow => node::show(context, arguments).await,
        Id::NodeRecover => node::recover(context, arguments).await,
        Id::NodeApprove => node::set_state(context, operation.id, "approved", arguments).await,
        Id::NodeCordon => node::set_state(context, operation.id, "cordoned", arguments).await,
        Id::NodeBan => node::set_state(context, operation.id, "banned", arguments).await,
        Id::NodeDrain => node::drain(context, arguments).await,
        Id::NodeResume => node::set_state(context, operation.id, "resumed", arguments).await,
        Id::NodeLabel => node::label(context, arguments).await,
        Id::SiteLs => site::ls(context).await,
        Id::SiteShow => site::show(context, arguments).await,
        Id::TokenCreate => token::create(context, arguments).await,
        Id::TokenLs => token::ls(context).await,
        Id::TokenRevoke => token::revoke(context, arguments).await,
        Id::CaShow => ca::show(context).await,
        Id::CaRotate => ca::rotate(context, arguments).await,
        Id::CaExport => ca::export(context, arguments).await,
        Id::AuditTail => Box::pin(audit::tail(context, arguments)).await,
        Id::AuditSearch => Box::pin(audit::search(context, arguments)).await,
        Id::AuditVerify => audit::verify(context, arguments).await,
        Id::AuditExport => audit::export(context, arguments).await,
        Id::AuthLogin => auth::login(context, arguments).await,
        Id::AuthLogout => auth::logout(context).await,
        Id::AuthStatus => auth::status(context),
        Id::AuthWhoami => auth::whoami(context).await,
        Id::AuthPassword => auth::change_password(context, arguments).await,
        Id::AuthSessionLs => session::ls(context, arguments).await,
        Id::AuthSessionEnd => session::end(context, arguments).await,
        Id::UserLs => user::ls(context).await,
        Id::UserShow => user::show(context, arguments).await,
        Id::UserCreate => user::create(context, arguments).await,
        Id::UserSet => user::set(context, arguments).await,
        Id::UserDelete => user::delete(context, arguments).await,
        Id::RoleLs => role::ls(context).await,
        Id::RoleShow => role::show(context, arguments).await,
        Id::RoleCreate => role::create(context, arguments).await,
        Id::RoleDelete => role::delete(context, arguments).await,
        Id::SecretSet => secret::set(context, arguments).await,
        Id::SecretLs => secret::ls(context).await,
        Id::SecretRm => secret::rm(context, arguments).await,
        Id::CanI => decisions::can_i(context, arguments).await,
        Id::WhoCan => decisions::who_can(context, arguments).await,
        Id::ContextAdd => contexts::add(context, arguments),
        Id::ContextLs => contexts::ls(context),
        Id::ContextShow => contexts::show(context, arguments),
        Id::ContextUse => contexts::use_it(context, arguments),
        Id::ContextRename => contexts::rename(context, arguments),
        Id::ContextRm => contexts::rm(context, arguments),
        Id::ContextExport => contexts::export(context, arguments),
        Id::ContextUnlock => contexts::unlock(context, arguments),
        Id::ContextLock => contexts::lock(context, arguments),
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

/// Every text of an argument that may be given several times.
fn texts(arguments: &ArgMatches, name: &str) -> Vec<String> {
    arguments.get_many::<String>(name).into_iter().flatten().cloned().collect()
}
