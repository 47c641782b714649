//! A look that changes nothing.

use mongodb::bson::{Document, doc};

use crate::fail::MongoError;
use crate::ledger::Ledger;
use crate::link::{Link, within};
use crate::rows;
use crate::spec::{LEDGER, MongoDbSpec};

/// What was found, a line each.
pub(crate) async fn look(
    link: &Link,
    spec: &MongoDbSpec,
    ledger: &Ledger<'_>,
) -> Result<Vec<String>, MongoError> {
    let server = link.command(doc! { "buildInfo": 1 }).await?;
    let version = server.get_str("version").unwrap_or("of an unknown version");
    let tls = if spec.tls.is_some() { "TLS" } else { "no TLS" };
    let mut lines = vec![format!("server: MongoDB {version}, {tls}")];
    lines.push(format!("copies: {}", copies(&link.command(doc! { "hello": 1 }).await?)));
    lines.push(match spec.collection.is_fixed() {
        false => format!("collections: {}, one for each stream", spec.collection),
        true => collection(link, &spec.collection.to_string()).await?,
    });
    lines.push(format!("ledger: {LEDGER}, {} keys of this sink", ledger.positions().await?.len()));
    Ok(lines)
}

/// What answers, as `hello` says.
fn copies(hello: &Document) -> String {
    match (hello.get_str("setName"), hello.get_str("msg")) {
        (Ok(set), _) => {
            let members = hello.get_array("hosts").map_or(0, Vec::len);
            format!("replica set {set}, {members} members")
        }
        (_, Ok("isdbgrid")) => "shards".to_owned(),
        _ => "one server: what it acknowledges is as safe as its disk".to_owned(),
    }
}

async fn collection(link: &Link, name: &str) -> Result<String, MongoError> {
    if let Some(why) = rows::unfit(link, name).await? {
        return Ok(format!("collection: {name} is {why}"));
    }
    let documents = within(link.collection(name).estimated_document_count()).await?;
    Ok(match documents {
        0 => format!("collection: {name} is empty, or would be made"),
        documents => format!("collection: {name}, about {documents} documents"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_servers_is_told_from_a_single_one() {
        let set = doc! { "setName": "rs0", "hosts": ["a:27017", "b:27017", "c:27017"] };
        assert_eq!(copies(&set), "replica set rs0, 3 members");
        assert_eq!(copies(&doc! { "msg": "isdbgrid" }), "shards");
        assert!(copies(&doc! {}).starts_with("one server"));
    }
}
