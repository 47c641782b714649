//! `aap site`: made of what nodes and enrolment tokens say of where they belong.

use std::collections::BTreeMap;

use aap_client::call;
use aap_client::operations::{Field, FieldType, Id};
use aap_client::v1::{EnrolmentToken, ListEnrolmentTokensRequest, NodeStatus};
use aap_types::{ExitCode, Problem, nearest};
use clap::ArgMatches;
use serde_json::json;

use super::{node, text, views};
use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{Object, object, print_item, print_list, print_table};

/// The site of nodes that were never told theirs.
const DEFAULT: &str = "default";

/// What there is of one site.
#[derive(Debug, Default)]
pub(super) struct Site {
    nodes: Vec<NodeStatus>,
    /// Tokens that are still good.
    tokens: usize,
}

pub(super) async fn ls(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let sites = fetch(context).await?;
    let as_of_us = context.now_us();
    print_list(context, Id::SiteLs, sites.iter().map(|(name, site)| view(name, site)).collect(), as_of_us)?;
    if sites.is_empty() {
        context.printer.note("no site yet; `aap token create --site SITE` names one");
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn show(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = text(arguments, "site");
    let sites = fetch(context).await?;
    let Some(site) = sites.get(name) else {
        let problem = Problem::new("site.unknown", ExitCode::NotFound, format!("there is no site `{name}`"));
        let names: Vec<&str> = sites.keys().map(String::as_str).collect();
        let problem = match nearest(name, &names).first() {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem,
        };
        return Err(problem.hint_command("see which there are", "aap site ls").into());
    };
    let item = view_with_nodes(name, site);
    let as_of_us = context.now_us();
    print_item(context, Id::SiteShow, &item, as_of_us, |context| {
        const NODES: &[Field] = &[
            Field::shown("node", "node", FieldType::Text),
            Field::shown("state", "state", FieldType::Text),
            Field::shown("connected", "connected", FieldType::Boolean),
            Field::shown("waiting_batches", "waiting", FieldType::Count),
        ];
        context.printer.line("")?;
        let rows: Vec<Object> = site.nodes.iter().map(views::node).collect();
        print_table(context, NODES, &rows)
    })?;
    Ok(ExitCode::Ok)
}

/// The site that a node belongs to.
pub(super) fn of(node: &NodeStatus) -> &str {
    node.identity.as_ref().map(|known| known.site.as_str()).filter(|site| !site.is_empty()).unwrap_or(DEFAULT)
}

async fn fetch(context: &Context<'_>) -> Result<BTreeMap<String, Site>, Problem> {
    let nodes = node::fetch(context, "").await?;
    let mut api = context.platform.access().await?;
    let request = ListEnrolmentTokensRequest {};
    let tokens = call(context.call_timeout(), api.list_enrolment_tokens(request)).await?.tokens;
    Ok(by_name(nodes, &tokens))
}

fn by_name(nodes: Vec<NodeStatus>, tokens: &[EnrolmentToken]) -> BTreeMap<String, Site> {
    let mut sites: BTreeMap<String, Site> = BTreeMap::new();
    for node in nodes {
        sites.entry(of(&node).to_owned()).or_default().nodes.push(node);
    }
    for token in tokens.iter().filter(|token| token.state == "valid") {
        sites.entry(token.site.clone()).or_default().tokens += 1;
    }
    sites
}

pub(super) fn view(name: &str, site: &Site) -> Object {
    let sum = |of: fn(&NodeStatus) -> u64| site.nodes.iter().map(of).sum::<u64>();
    object(json!({
        "site": name,
        "nodes": site.nodes.len(),
        "connected": site.nodes.iter().filter(|node| node.connected).count(),
        "waiting_batches": sum(|node| node.waiting_batches),
        "waiting_bytes": sum(|node| node.waiting_bytes),
        "tokens": site.tokens,
    }))
}

pub(super) fn view_with_nodes(name: &str, site: &Site) -> Object {
    let mut item = view(name, site);
    item.insert("members".into(), json!(site.nodes.iter().map(views::node).collect::<Vec<_>>()));
    item
}

#[cfg(test)]
mod tests {
    use aap_client::v1::NodeIdentity;

    use super::*;

    #[test]
    fn a_site_is_there_as_soon_as_a_node_or_a_good_token_names_it() {
        let node = |name: &str, site: Option<&str>| NodeStatus {
            node: name.to_owned(),
            connected: name == "n1",
            waiting_batches: 2,
            identity: site.map(|site| NodeIdentity { site: site.to_owned(), ..NodeIdentity::default() }),
            ..NodeStatus::default()
        };
        let token = |site: &str, state: &str| EnrolmentToken {
            site: site.to_owned(),
            state: state.to_owned(),
            ..EnrolmentToken::default()
        };
        let nodes = vec![node("n1", Some("lyon")), node("n2", Some("lyon")), node("n3", None)];
        let sites = by_name(nodes, &[token("paris", "valid"), token("rome", "used"), token("lyon", "valid")]);
        let shown: Vec<_> = sites.iter().map(|(name, site)| view(name, site)).collect();
        let of = |at: usize, field: &str| shown[at][field].clone();
        assert_eq!(sites.keys().collect::<Vec<_>>(), ["default", "lyon", "paris"]);
        assert_eq!(
            (of(1, "nodes"), of(1, "connected"), of(1, "waiting_batches")),
            (2.into(), 1.into(), 4.into())
        );
        assert_eq!((of(2, "nodes"), of(2, "tokens"), of(1, "tokens")), (0.into(), 1.into(), 1.into()));
    }
}
