//! The beginning of a session: what the node says of itself, and what it is told of where the ledger stands.

use std::collections::HashMap;
use std::time::Duration;

use aap_buffer::mutant;
use aap_proto::v1;
use aap_store::NodeRecord;
use aap_types::{BatchId, Epoch, NodeId, Sequence, SourceKind, SourcePosition, StreamKey};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;

use super::{End, Sessions, wire_tail};
use crate::arrival::chain;
use crate::{deletions, ledger};

/// How long a session may take to show that its agent lives: a round trip, and a busy machine.
const ALIVE_DEADLINE: Duration = Duration::from_secs(2);
/// Least credit of a session: a batch or two, so that the link is not idle between acknowledgements.
const CREDIT_BYTES_MIN: u64 = 1 << 20;
/// Bytes of positions in a welcome; a message may have 20 MiB.
const POSITION_BYTES_MAX: usize = 8 << 20;

impl Sessions {
    /// Two stores with one identity: the one that speaks now looks rolled back, and the other one still answers.
    pub(super) async fn clone_of_a_living_store(&self, node: &NodeId, hello: &v1::Hello) -> Option<String> {
        let other = self.nodes.session(node)?;
        let reason = ledger::went_back_reason(hello, self.recorded(node).as_ref())?;
        let alive = timeout(ALIVE_DEADLINE, other.barrier()).await.ok().flatten().is_some();
        alive.then(|| {
            format!("another agent with this identity and a copy of this store is connected: {reason}")
        })
    }

    /// What is known of the node from before.
    fn recorded(&self, node: &NodeId) -> Option<NodeRecord> {
        self.nodes.all().remove(node)?.record
    }

    /// The same; in a cluster another coordinator may have recorded it since.
    async fn recorded_anywhere(&self, node: &NodeId) -> Option<NodeRecord> {
        if self.landing.shards().is_some() {
            let (store, wanted) = (self.store.clone(), node.clone());
            if let Ok(Ok(Some(record))) = spawn_blocking(move || store.node(&wanted)).await {
                return Some(record);
            }
        }
        self.recorded(node)
    }

    /// Checks what the node says against the ledger, records it, and says where the ledger stands.
    pub(super) async fn welcome(&self, node: &NodeId, hello: &v1::Hello) -> Result<v1::Welcome, End> {
        let now_us = self.clock.unix_us();
        let known = self.recorded_anywhere(node).await;
        let tails = self.landing.tails(node).await?;
        let reason = ledger::new_epoch_reason(hello, known.as_ref(), &tails);
        if let Some(reason) = &reason {
            warn!(%node, %reason, "the node is told to begin a new epoch");
        }
        let replaced = ledger::replaced_store(hello, known.as_ref());
        if let Some(replaced) = &replaced {
            warn!(%node, %replaced, "the store of the node was replaced");
        }
        let record = NodeRecord {
            node: node.clone(),
            first_seen_us: known.map_or(now_us, |known| known.first_seen_us),
            last_seen_us: now_us,
            store_id: hello.store_id.to_vec(),
            generation: hello.generation,
            epoch: Epoch(hello.epoch),
            agent_version: hello.agent_version.clone(),
        };
        self.nodes.update(node, |state| {
            state.record = Some(record.clone());
            state.clock_offset_us = hello.clock_unix_us - now_us;
            if replaced.is_some() {
                state.complaint = replaced;
            }
        });
        self.record(record).await?;
        let positions = match ledger::needs_positions(hello, reason.is_some(), &tails) {
            true => wire_positions(self.landing.positions_of(node).await?),
            false => vec![],
        };
        Ok(v1::Welcome {
            protocol_version: aap_proto::PROTOCOL_VERSION.min(hello.protocol_version),
            coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
            clock_unix_us: now_us,
            credit_bytes: self.share_of_room(),
            landed: match mutant::is("nodedupe") {
                true => vec![],
                false => self.landed_for(hello, tails).await?,
            },
            positions,
            new_epoch: reason.is_some(),
            new_epoch_reason: reason.unwrap_or_default(),
            deleted: deletions::of_node(&self.store, node).await,
            draining: false,
        })
    }

    /// The credit of one more session: the room by the number of sessions, so that a thousand that come one by one have a few
    /// times the room together, not a thousand times one credit. What an agent was given it keeps; control messages are
    /// always read.
    fn share_of_room(&self) -> u64 {
        let sessions = self.nodes.connected().max(1) as u64;
        (self.room_bytes / sessions).clamp(CREDIT_BYTES_MIN.min(self.credit_bytes), self.credit_bytes)
    }

    /// Writes a record down. Data must land even where this fails, on a full disk for example: the ledger is elsewhere.
    pub(super) async fn record(&self, record: NodeRecord) -> Result<(), End> {
        let store = self.store.clone();
        let node = record.node.clone();
        if let Err(error) = spawn_blocking(move || store.record_node(&record)).await? {
            warn!(%node, error = %chain(&error), "the node is not recorded");
        }
        Ok(())
    }

    /// The ledger's ends of every life that the store still speaks of, with the digest of the newest batch that both have.
    async fn landed_for(
        &self,
        hello: &v1::Hello,
        tails: Vec<(StreamKey, Sequence)>,
    ) -> Result<Vec<v1::StreamTail>, End> {
        let told: HashMap<(u64, String), u64> =
            hello.tails.iter().map(|tail| ((tail.epoch, tail.stream.clone()), tail.sequence)).collect();
        let mut epochs: Vec<u64> = hello.tails.iter().chain(&hello.heads).map(|tail| tail.epoch).collect();
        epochs.push(hello.epoch);
        let buffer = self.landing.buffer().clone();
        // Digests that memory no longer holds are read from disk.
        let landed = spawn_blocking(move || {
            let of_this_store = tails.into_iter().filter(|(key, _)| epochs.contains(&key.epoch.0));
            let with_digest = of_this_store.map(|(key, landed)| {
                let theirs = told.get(&(key.epoch.0, key.stream.to_string())).copied().unwrap_or(0);
                let common = BatchId { key: key.clone(), sequence: landed.min(Sequence(theirs)) };
                let digest = buffer.digest_of(&common).map(|digest| digest.0.to_vec().into());
                v1::StreamTail { digest: digest.unwrap_or_default(), ..wire_tail(&key, landed) }
            });
            with_digest.collect()
        });
        Ok(landed.await?)
    }
}

pub(super) fn check_hello(node: &NodeId, hello: &v1::Hello) -> Result<(), (&'static str, String)> {
    if hello.protocol_version == 0 {
        return Err(("PROTOCOL_VERSION", "protocol version 0 is no version".to_owned()));
    }
    if hello.node != node.as_str() {
        let message = format!("the certificate names node `{node}`, and the hello says `{}`", hello.node);
        return Err(("NODE", message));
    }
    if hello.store_id.len() != 16 || hello.epoch == 0 {
        return Err(("PROTOCOL", "the hello names no store".to_owned()));
    }
    Ok(())
}

/// Positions that fit into a welcome; those of HTTP keys, which are many and expire, last.
fn wire_positions(mut positions: Vec<SourcePosition>) -> Vec<v1::Position> {
    positions.sort_by_key(|position| position.kind == SourceKind::HttpKey);
    let mut room = POSITION_BYTES_MAX;
    let all = positions.len();
    let fitting: Vec<v1::Position> = positions
        .into_iter()
        .take_while(|position| {
            let bytes = position.key.len() + position.detail.len() + 32;
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        })
        .map(|p| v1::Position { kind: p.kind as u32, key: p.key, offset: p.offset, detail: p.detail })
        .collect();
    if fitting.len() < all {
        warn!(given = fitting.len(), all, "not all source positions fit into the welcome");
    }
    fitting
}
