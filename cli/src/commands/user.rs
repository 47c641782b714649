//! `aap user`.

use aap_client::call;
use aap_client::operations::Id;
use aap_client::v1::{
    ChangeUserRequest, CreateUserRequest, DeleteUserRequest, ListUsersRequest, User, UserReply,
};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde_json::json;

use super::{access_views, text, texts};
use crate::confirm::{Answer, Question, confirm};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{object, print_item, print_list};
use crate::password;

pub(super) async fn ls(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let users = fetch(context, "").await?;
    let as_of_us = context.now_us();
    print_list(context, Id::UserLs, users.iter().map(access_views::user).collect(), as_of_us)?;
    if users.is_empty() {
        context.printer.note("no user yet; `aap user create NAME --role ROLE` makes one");
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn show(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let user = fetch_one(context, text(arguments, "user")).await?;
    let as_of_us = context.now_us();
    print_item(context, Id::UserShow, &access_views::user(&user), as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

pub(super) async fn create(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let request = CreateUserRequest {
        name: text(arguments, "user").to_owned(),
        display: text(arguments, "display").to_owned(),
        roles: texts(arguments, "role"),
        password: password_of(text(arguments, "password-file"))?,
    };
    let mut api = context.platform.access().await?;
    let reply = call(context.call_timeout(), api.create_user(request)).await?;
    print(context, Id::UserCreate, &reply)
}

pub(super) async fn set(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let request = changes(arguments)?;
    let mut api = context.platform.access().await?;
    let reply = call(context.call_timeout(), api.change_user(request)).await?;
    print(context, Id::UserSet, &reply)
}

/// What is to be changed, which must be something, and no contradiction.
fn changes(arguments: &ArgMatches) -> Result<ChangeUserRequest, Problem> {
    let name = text(arguments, "user");
    let usage = |message: &str| {
        Problem::new("cli.usage", ExitCode::Usage, message)
            .hint_command("see what can be set", "aap user set --help")
    };
    let disabled = match (arguments.get_flag("disable"), arguments.get_flag("enable")) {
        (true, true) => return Err(usage("give --disable or --enable, not both")),
        (disable, enable) => (disable || enable).then_some(disable),
    };
    let (file, reset_password) = (text(arguments, "password-file"), arguments.get_flag("reset-password"));
    if !file.is_empty() && !reset_password {
        return Err(usage("--password-file goes with --reset-password"));
    }
    let request = ChangeUserRequest {
        name: name.to_owned(),
        display: arguments.get_one::<String>("display").cloned(),
        add_roles: texts(arguments, "add-role"),
        remove_roles: texts(arguments, "remove-role"),
        disabled,
        reset_password,
        password: password_of(file)?,
    };
    let nothing = ChangeUserRequest { name: name.to_owned(), ..ChangeUserRequest::default() };
    if request == nothing {
        Err(usage(&format!("nothing of `{name}` is to be changed")))
    } else {
        Ok(request)
    }
}

pub(super) async fn delete(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let user = fetch_one(context, text(arguments, "user")).await?;
    let question = Question {
        loss: format!("This deletes the user `{}`, with their sessions and API tokens.", user.name),
        answer: Answer::Name(&user.name),
        command: format!("aap user delete {} --yes", user.name),
    };
    confirm(context, &question)?;
    let mut api = context.platform.access().await?;
    let request = DeleteUserRequest { name: user.name.clone() };
    let reply = call(context.call_timeout(), api.delete_user(request)).await?;
    let item = object(json!({
        "user": user.name, "sessions_ended": reply.sessions_ended, "tokens_revoked": reply.tokens_revoked,
    }));
    let as_of_us = context.now_us();
    print_item(context, Id::UserDelete, &item, as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

fn print(context: &mut Context<'_>, id: Id, reply: &UserReply) -> Result<ExitCode, Failure> {
    let as_of_us = context.now_us();
    print_item(context, id, &access_views::user_with_password(reply), as_of_us, |_| Ok(()))?;
    context.printer.flush()?;
    if !reply.password.is_empty() {
        context.printer.note("the password is shown this once, and has to be changed at the first log-in");
    }
    Ok(ExitCode::Ok)
}

async fn fetch_one(context: &Context<'_>, name: &str) -> Result<User, Problem> {
    let found = fetch(context, name).await?.into_iter().find(|user| user.name == name);
    found.ok_or_else(|| {
        Problem::new("user.unknown", ExitCode::NotFound, format!("there is no user `{name}`"))
            .hint_command("see which there are", "aap user ls")
    })
}

async fn fetch(context: &Context<'_>, name: &str) -> Result<Vec<User>, Problem> {
    let mut api = context.platform.access().await?;
    let request = ListUsersRequest { name: name.to_owned() };
    Ok(call(context.call_timeout(), api.list_users(request)).await?.users)
}

/// The password in a file; none without one.
fn password_of(file: &str) -> Result<String, Problem> {
    if file.is_empty() { Ok(String::new()) } else { Ok(password::from_file(file)?.reveal().to_owned()) }
}
