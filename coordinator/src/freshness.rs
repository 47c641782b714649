//! `--wait-for-ingest`: everything that was acknowledged by any node before the query began has landed.

use std::pin::Pin;
use std::time::Duration;

use aap_proto::v1;
use aap_types::{Epoch, NodeId, Sequence, StreamKey};
use futures::future::join_all;
use tokio::time::{Sleep, sleep};

use crate::landing::Landing;
use crate::nodes::{Nodes, Session};

/// How long a node may be away, or bring nothing new; then it is named as late.
const REACH_DEADLINE: Duration = Duration::from_secs(30);

/// Waits until what each known node has acknowledged to its sources by now has landed. A node that is away, or does not
/// get on, for 30 s is late.
pub async fn wait_for_ingest(nodes: &Nodes, landing: &Landing) -> v1::Coverage {
    let known: Vec<NodeId> = nodes.all().into_keys().collect();
    let results = join_all(known.iter().map(|node| wait_for_node(nodes, landing, node))).await;
    let mut coverage = v1::Coverage::default();
    for (node, landed) in known.iter().zip(results) {
        coverage.asked.push(node.to_string());
        match landed {
            true => coverage.answered.push(node.to_string()),
            false => coverage.late.push(node.to_string()),
        }
    }
    coverage
}

/// Whether the node has caught up in time.
async fn wait_for_node(nodes: &Nodes, landing: &Landing, node: &NodeId) -> bool {
    let mut sessions = nodes.changes();
    let mut patience = Box::pin(sleep(REACH_DEADLINE));
    let mut wanted = None;
    loop {
        sessions.mark_unchanged();
        if let Some(session) = nodes.session(node) {
            // What counts is what was acknowledged when the query came, as far as the first answer tells.
            if wanted.is_none() {
                tokio::select! {
                    tails = session.barrier() => wanted = tails,
                    () = &mut patience => return false,
                }
            }
            if let Some(tails) = &wanted
                && caught_up(&session, landing, node, tails, patience.as_mut()).await
            {
                return true;
            }
        }
        // The sender lives as long as `nodes`, so this waits for a session to come.
        tokio::select! {
            _ = sessions.changed() => {}
            () = &mut patience => return false,
        }
    }
}

/// Whether what the node had is in the ledger, waiting for it while the session lasts and it gets on.
async fn caught_up(
    session: &Session,
    landing: &Landing,
    node: &NodeId,
    tails: &[v1::StreamTail],
    mut patience: Pin<&mut Sleep>,
) -> bool {
    let mut changes = landing.buffer().changes();
    let mut closed = session.ended();
    let mut missing = u64::MAX;
    loop {
        changes.mark_unchanged();
        let now_missing = tails.iter().map(|tail| missing_of(landing, node, tail)).sum();
        if now_missing == 0 {
            return true;
        }
        if now_missing < missing {
            missing = now_missing;
            patience.as_mut().reset(tokio::time::Instant::now() + REACH_DEADLINE);
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return false },
            _ = closed.wait_for(|ended| *ended) => return false,
            () = &mut patience => return false,
        }
    }
}

/// Batches that the ledger lacks up to this tail.
fn missing_of(landing: &Landing, node: &NodeId, tail: &v1::StreamTail) -> u64 {
    let Ok(stream) = tail.stream.parse() else { return 0 };
    let key = StreamKey { node: node.clone(), epoch: Epoch(tail.epoch), stream };
    let landed = landing.buffer().tail(&key).map_or(Sequence::ZERO, |landed| landed.sequence);
    tail.sequence.saturating_sub(landed.0)
}
