//! `--wait-for-ingest`: everything that was acknowledged by any node before the query began has landed.

use std::pin::Pin;
use std::time::Duration;

use aap_proto::v1;
use aap_types::{Epoch, NodeId, StreamKey};
use futures::future::join_all;
use tokio::time::{Sleep, sleep};

use crate::landing::Landing;
use crate::reach::Reach;

/// How long a node may be away, or bring nothing new; then it is named as late.
const REACH_DEADLINE: Duration = Duration::from_secs(30);

/// Waits until what each known node has acknowledged to its sources by now has landed, and is in this coordinator's view. A node that
/// is away, or does not get on, for 30 s is late.
pub async fn wait_for_ingest(reach: &Reach, landing: &Landing) -> v1::Coverage {
    let known = reach.known().await;
    let results = join_all(known.iter().map(|node| wait_for_node(reach, landing, node))).await;
    let mut coverage = v1::Coverage::default();
    for (node, landed) in known.iter().zip(results) {
        coverage.asked.push(node.to_string());
        match landed {
            Ok(()) => coverage.answered.push(node.to_string()),
            Err(reason) => {
                coverage.late.push(node.to_string());
                coverage.late_reasons.push(reason);
            }
        }
    }
    coverage
}

/// Waits until the node has caught up; where it has not in time, says why.
async fn wait_for_node(reach: &Reach, landing: &Landing, node: &NodeId) -> Result<(), String> {
    let mut patience = Box::pin(sleep(REACH_DEADLINE));
    let mut reason = String::new();
    let tails = tokio::select! {
        tails = durable_ends(reach, node, &mut reason) => tails,
        () = &mut patience => return Err(reason),
    };
    match caught_up(landing, node, &tails, patience.as_mut()).await {
        true => Ok(()),
        false => {
            let seconds = REACH_DEADLINE.as_secs();
            Err(format!(
                "what it had acknowledged has not landed, and nothing more of it did for {seconds} s"
            ))
        }
    }
}

/// What the node has acknowledged. What counts is what it had when the query came, as far as its first answer tells: it is asked until
/// it answers, and `reason` says meanwhile why it does not.
async fn durable_ends(reach: &Reach, node: &NodeId, reason: &mut String) -> Vec<v1::StreamTail> {
    let mut changes = reach.changes();
    loop {
        changes.mark_unchanged();
        let asked = match reach.way(node).await {
            Ok(way) => way.barrier().await,
            Err(reason) => Err(reason),
        };
        match asked {
            Ok(tails) => return tails,
            Err(why) => *reason = why,
        }
        reach.changed(&mut changes).await;
    }
}

/// Whether what the node had is in the ledger, waiting for it while it gets on, in whichever session.
async fn caught_up(
    landing: &Landing,
    node: &NodeId,
    tails: &[v1::StreamTail],
    mut patience: Pin<&mut Sleep>,
) -> bool {
    let mut changes = landing.buffer().changes();
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
            () = &mut patience => return false,
        }
    }
}

/// Batches that the ledger lacks up to this tail.
fn missing_of(landing: &Landing, node: &NodeId, tail: &v1::StreamTail) -> u64 {
    let Ok(stream) = tail.stream.parse() else { return 0 };
    let key = StreamKey { node: node.clone(), epoch: Epoch(tail.epoch), stream };
    tail.sequence.saturating_sub(landing.through(&key).0)
}
