//! `aap role`: roles are declared objects, and these commands write their documents.

use std::collections::BTreeMap;

use aap_client::operations::Id;
use aap_client::v1::apply_request::File;
use aap_client::v1::{AccessRule, ApplyRequest, DeleteRequest, GetRequest, ListRolesRequest, Role};
use aap_client::{call, rules};
use aap_types::{ExitCode, Problem};
use clap::ArgMatches;
use serde::Serialize;
use serde_json::json;

use super::{access_views, text, texts};
use crate::confirm::{Answer, Question, confirm};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{object, print_item, print_list};

/// The kind of the documents.
const KIND: &str = "Role";

/// A document of kind Role.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    spec: Spec,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Spec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<Rule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny: Vec<Rule>,
}

#[derive(Serialize)]
struct Rule {
    resources: Vec<String>,
    verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, Vec<String>>,
}

impl From<&AccessRule> for Rule {
    fn from(rule: &AccessRule) -> Self {
        let values = |list: &String| list.split(',').map(str::to_owned).collect();
        Self {
            resources: rule.resources.clone(),
            verbs: rule.verbs.clone(),
            names: rule.names.clone(),
            labels: rule.labels.iter().map(|(key, list)| (key.clone(), values(list))).collect(),
        }
    }
}

pub(super) async fn ls(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let roles = fetch(context, "").await?;
    let as_of_us = context.now_us();
    print_list(context, Id::RoleLs, roles.iter().map(access_views::role).collect(), as_of_us)?;
    Ok(ExitCode::Ok)
}

pub(super) async fn show(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "role");
    let role = fetch(context, name).await?.into_iter().find(|role| role.name == name);
    let role = role.ok_or_else(|| unknown(name))?;
    let as_of_us = context.now_us();
    print_item(context, Id::RoleShow, &access_views::role(&role), as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

pub(super) async fn create(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "role");
    let role = Role { name: name.to_owned(), rules: rules_of(arguments)?, ..Role::default() };
    if is_declared(context, name).await? {
        return Err(Problem::new(
            "role.exists",
            ExitCode::Conflict,
            format!("there is a role `{name}` already"),
        )
        .hint_command("to change it, edit its document and apply it", format!("aap get role {name}"))
        .into());
    }
    let file = File { path: format!("role {name}"), text: document(&role) };
    let mut api = context.platform.resources().await?;
    call(context.call_timeout(), api.apply(ApplyRequest { files: vec![file], dry_run: false })).await?;
    let as_of_us = context.now_us();
    print_item(context, Id::RoleCreate, &access_views::role(&role), as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

fn rules_of(arguments: &ArgMatches) -> Result<Vec<AccessRule>, Problem> {
    let read = |option: &str, deny: bool| -> Result<Vec<AccessRule>, Problem> {
        texts(arguments, option).iter().map(|text| rules::parse(text, deny)).collect()
    };
    let all = [read("allow", false)?, read("deny", true)?].concat();
    if all.is_empty() {
        return Err(Problem::new("cli.usage", ExitCode::Usage, "a role has at least one rule")
            .hint("give --allow RULE or --deny RULE, such as --allow stream:read,query:logs"));
    }
    Ok(all)
}

fn document(role: &Role) -> String {
    let rules = |deny: bool| role.rules.iter().filter(|rule| rule.deny == deny).map(Rule::from).collect();
    let document = Document {
        api_version: "aap/v1",
        kind: KIND,
        metadata: Metadata { name: &role.name },
        spec: Spec { allow: rules(false), deny: rules(true) },
    };
    serde_norway::to_string(&document).expect("texts and lists are YAML")
}

pub(super) async fn delete(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "role");
    if !is_declared(context, name).await? {
        return Err(unknown(name).hint("roles that are built in cannot be deleted").into());
    }
    let question = Question {
        loss: format!("This deletes the role `{name}`; who has it may no longer what it allowed."),
        answer: Answer::Name(name),
        command: format!("aap role delete {name} --yes"),
    };
    confirm(context, &question)?;
    let mut api = context.platform.resources().await?;
    let request = DeleteRequest { kind: KIND.to_owned(), name: name.to_owned() };
    let reply = call(context.call_timeout(), api.delete(request)).await?;
    let as_of_us = context.now_us();
    print_item(context, Id::RoleDelete, &object(json!({"role": reply.name})), as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

async fn is_declared(context: &Context<'_>, name: &str) -> Result<bool, Problem> {
    let mut api = context.platform.resources().await?;
    let request = GetRequest { kind: KIND.to_owned(), name: name.to_owned() };
    match call(context.call_timeout(), api.get(request)).await {
        Ok(reply) => Ok(!reply.resources.is_empty()),
        Err(problem) if problem.exit == ExitCode::NotFound => Ok(false),
        Err(problem) => Err(problem),
    }
}

async fn fetch(context: &Context<'_>, name: &str) -> Result<Vec<Role>, Problem> {
    let mut api = context.platform.access().await?;
    let request = ListRolesRequest { name: name.to_owned() };
    Ok(call(context.call_timeout(), api.list_roles(request)).await?.roles)
}

fn unknown(name: &str) -> Problem {
    Problem::new("role.unknown", ExitCode::NotFound, format!("there is no role `{name}` that was declared"))
        .hint_command("see which there are", "aap role ls")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_of_a_role_says_what_was_typed() {
        let rules = ["node:read,query@site=lyon,paris", "stream:query:logs,web.*"]
            .map(|text| rules::parse(text, false));
        let mut rules: Vec<AccessRule> = rules.into_iter().map(Result::unwrap).collect();
        rules.push(rules::parse("*:delete", true).unwrap());
        let text = document(&Role { name: "web".into(), rules, ..Role::default() });
        assert_eq!(
            text,
            "apiVersion: aap/v1\nkind: Role\nmetadata:\n  name: web\nspec:\n  allow:\n  - resources:\n    - node\n    verbs:\n    - read\n    \
             - query\n    labels:\n      site:\n      - lyon\n      - paris\n  - resources:\n    - stream\n    verbs:\n    - query\n    names:\n    \
             - logs\n    - web.*\n  deny:\n  - resources:\n    - '*'\n    verbs:\n    - delete\n"
        );
    }
}
