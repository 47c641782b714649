//! Nodes hear what was deleted of what they delivered, so that `aap ingest` takes it again when it is asked to.
//!
//! A node that is away hears it with its next welcome. One that is here is told at once, and answers, so that whoever deleted a
//! stream can ingest into it right after.

use std::sync::Arc;
use std::time::Duration;

use aap_proto::v1;
use aap_store::MetadataStore;
use aap_types::{NodeId, StreamName};
use futures::future::join_all;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::arrival::chain;
use crate::nodes::{Nodes, Session};

/// How long a node may take to say that it heard: a round trip. One that does not is told again in its next welcome.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// All deletions that concern `node`. Where they cannot be read, data must flow all the same.
pub async fn of_node(store: &Arc<dyn MetadataStore>, node: &NodeId) -> Vec<v1::StreamTail> {
    let (store, of) = (store.clone(), node.clone());
    let read = match spawn_blocking(move || store.deletions_of(&of)).await {
        Ok(read) => read,
        Err(panic) => {
            warn!(%node, error = %panic, "deletions are not told to the node");
            return vec![];
        }
    };
    let deleted = read.unwrap_or_else(|error| {
        warn!(%node, error = %chain(&error), "deletions are not told to the node");
        vec![]
    });
    let tail = |(key, through): (aap_types::StreamKey, aap_types::Sequence)| v1::StreamTail {
        epoch: key.epoch.0,
        stream: key.stream.to_string(),
        sequence: through.0,
        ..v1::StreamTail::default()
    };
    deleted.into_iter().map(tail).collect()
}

/// Tells every node that is here of the deletion of `stream`, and returns when they have heard it.
pub async fn tell(nodes: &Nodes, store: &Arc<dyn MetadataStore>, stream: &StreamName) {
    let here = nodes.all().into_keys().filter_map(|node| Some((nodes.session(&node)?, node)));
    join_all(here.map(async |(session, node)| {
        let mut through = of_node(store, &node).await;
        through.retain(|tail| tail.stream == stream.as_str());
        if !through.is_empty() && !heard(&session, through).await {
            info!(%node, %stream, "the node has not heard of the deletion yet; its next welcome says it");
        }
    }))
    .await;
}

async fn heard(session: &Session, through: Vec<v1::StreamTail>) -> bool {
    let told = async {
        // A node takes messages in order, so its answer to a barrier comes after it.
        session.deleted(through).await && session.barrier().await.is_some()
    };
    tokio::time::timeout(HEARD_WITHIN, told).await.unwrap_or(false)
}
