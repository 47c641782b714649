//! `--wait-for-ingest`: everything that was acknowledged by any node before the query began has landed.

use std::time::Duration;

use aap_proto::v1;
use aap_types::{Epoch, NodeId, Sequence, StreamKey};
use futures::future::join_all;
use tokio::time::timeout;

use crate::landing::Landing;
use crate::nodes::{Nodes, Session};

/// How long a node may be away; then it is named as late.
const REACH_DEADLINE: Duration = Duration::from_secs(30);

/// Waits until what each known node has acknowledged to its sources by now has landed. Nodes that do not make it
/// within 30 s are late.
pub async fn wait_for_ingest(nodes: &Nodes, landing: &Landing) -> v1::Coverage {
    let known: Vec<NodeId> = nodes.all().into_keys().collect();
    let waits = known.iter().map(|node| timeout(REACH_DEADLINE, wait_for_node(nodes, landing, node)));
    let results = join_all(waits).await;
    let mut coverage = v1::Coverage::default();
    for (node, result) in known.iter().zip(results) {
        coverage.asked.push(node.to_string());
        match result {
            Ok(()) => coverage.answered.push(node.to_string()),
            Err(_elapsed) => coverage.late.push(node.to_string()),
        }
    }
    coverage
}

async fn wait_for_node(nodes: &Nodes, landing: &Landing, node: &NodeId) {
    let mut sessions = nodes.changes();
    loop {
        sessions.mark_unchanged();
        if let Some(session) = nodes.session(node)
            && caught_up(&session, landing, node).await
        {
            return;
        }
        // The sender lives as long as `nodes`, so this waits for a session to come.
        if sessions.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Whether everything the node has now is in the ledger, waiting for it as long as the session lasts.
async fn caught_up(session: &Session, landing: &Landing, node: &NodeId) -> bool {
    let Some(tails) = session.barrier().await else { return false };
    let mut changes = landing.buffer().changes();
    let mut closed = session.ended();
    loop {
        changes.mark_unchanged();
        if tails.iter().all(|tail| has_landed(landing, node, tail)) {
            return true;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return false },
            _ = closed.wait_for(|ended| *ended) => return false,
        }
    }
}

fn has_landed(landing: &Landing, node: &NodeId, tail: &v1::StreamTail) -> bool {
    let Ok(stream) = tail.stream.parse() else { return true };
    let key = StreamKey { node: node.clone(), epoch: Epoch(tail.epoch), stream };
    landing.buffer().tail(&key).map_or(Sequence::ZERO, |landed| landed.sequence).0 >= tail.sequence
}
