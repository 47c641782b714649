//! One session of a node: hello, then batches in, acknowledgements out, calls both ways.
//!
//! ```text
//! receive ──▶ check (pool, in order) ──▶ ready ──▶ land (one group at a time) ──▶ acknowledge
//!    ▲ waits while more than the window is on its way
//! ```
//! While one group is being synced the next one gathers, so that a slow disk makes larger groups, not more waiting.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aap_buffer::{FrameSchema, mutant};
use aap_proto::v1::{self, AgentMessage, CoordinatorMessage, agent_message, coordinator_message};
use aap_runtime::{Clock, Shutdown, failpoint};
use aap_store::{MetadataStore, NodeRecord};
use aap_transport::{AgentReceiver, CoordinatorSender, Peer, SessionHandler};
use aap_types::{BatchId, Epoch, NodeId, Sequence, SourceKind, SourcePosition, StreamKey};
use futures::StreamExt;
use futures::future::{BoxFuture, Fuse, FutureExt};
use futures::stream::FuturesOrdered;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::arrival::{Arrival, chain, check_batch, check_skip};
use crate::cluster::Place;
use crate::deletions;
use crate::landing::{Landing, Outcome};
use crate::ledger;
use crate::nodes::{Attached, Nodes};

/// A peer that connects says hello at once.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// How long a session may take to show that its agent lives: a round trip, and a busy machine.
const ALIVE_DEADLINE: Duration = Duration::from_secs(2);
/// Schemas of one session. A stream has a handful of forms, a node some hundred streams.
const SCHEMAS_MAX: usize = 16_384;
/// Bytes of one group: what a disk writes in some ten milliseconds.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Batches being checked or waiting for their turn, for one session; the pool bounds how many run at once.
const CHECKS_MAX: usize = 64;
/// By how much the mutant `ackfirst` acknowledges too early: the agent has heard of it before a crash point is passed.
const ACKNOWLEDGED_FIRST: Duration = Duration::from_millis(300);
/// Least credit of a session: a batch or two, so that the link is not idle between acknowledgements.
const CREDIT_BYTES_MIN: u64 = 1 << 20;
/// Bytes of positions in a welcome; a message may have 20 MiB.
const POSITION_BYTES_MAX: usize = 8 << 20;

/// What every session needs.
#[derive(Debug)]
pub struct Sessions {
    /// Where data goes.
    pub landing: Landing,
    /// Who is here.
    pub nodes: Nodes,
    /// Who ever was.
    pub store: Arc<dyn MetadataStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Most unacknowledged payload of one agent.
    pub credit_bytes: u64,
    /// Memory for what all agents together have on its way: each gets its share of it as credit.
    pub room_bytes: u64,
    /// The process's request to stop.
    pub shutdown: Shutdown,
}

/// Why a session ended, other than by the agent's wish.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("no hello within {} s", HELLO_DEADLINE.as_secs())]
    NoHello,
    #[error("the agent broke the protocol: {0}")]
    Protocol(String),
    #[error("carry messages")]
    Transport(#[from] aap_transport::Error),
    #[error("land data")]
    Landing(#[from] crate::landing::Error),
    #[error("record the node")]
    Store(#[from] aap_store::Error),
    #[error("a worker panicked")]
    Worker(#[from] tokio::task::JoinError),
    #[error("cut the session before its acknowledgement")]
    Injected(#[from] failpoint::Injected),
}

impl SessionHandler for Sessions {
    fn session(
        self: Arc<Self>,
        peer: Peer,
        tx: CoordinatorSender,
        rx: AgentReceiver,
    ) -> BoxFuture<'static, ()> {
        async move {
            let node = peer.node.clone();
            match self.serve(peer, tx, rx).await {
                Ok(()) => info!(%node, "session ended"),
                Err(End::Transport(error)) => info!(%node, error = %chain(&error), "session broke"),
                Err(error) => warn!(%node, error = %chain(&error), "session ended"),
            }
        }
        .boxed()
    }
}

impl Sessions {
    async fn serve(&self, peer: Peer, tx: CoordinatorSender, mut rx: AgentReceiver) -> Result<(), End> {
        let Peer { node, carrier, .. } = peer;
        let hello = match timeout(HELLO_DEADLINE, rx.recv()).await.map_err(|_| End::NoHello)?? {
            Some(AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) }) => hello,
            Some(_) => return Err(End::Protocol("the first message is no hello".to_owned())),
            None => return Ok(()),
        };
        if let Err((code, message)) = check_hello(&node, &hello) {
            refuse(&tx, code, message.clone(), None).await?;
            return Err(End::Protocol(message));
        }
        if let Some(message) = self.clone_of_a_living_store(&node, &hello).await {
            refuse(&tx, "CLONED", message.clone(), None).await?;
            return Err(End::Protocol(message));
        }
        let lost = match self.landing.place(&node).await {
            Ok(Place::Here { lost }) => lost,
            Ok(Place::Elsewhere(address)) => return self.redirect(&tx, &node, address).await,
            Err(error) => {
                // It is told before the line closes, so that its agent says why.
                refuse(&tx, "UNAVAILABLE", chain(&error), None).await?;
                return Err(error.into());
            }
        };
        let close = self.shutdown.child();
        let _watch = close_with(&close, lost);
        let attached = self.nodes.attach(&node, carrier.to_string(), tx.clone(), close.clone()).await;
        let welcome = tokio::select! {
            welcome = self.welcome(&node, &hello) => welcome?,
            () = close.requested() => return Ok(()),
        };
        info!(%node, %carrier, version = hello.agent_version, epoch = hello.epoch, new_epoch = welcome.new_epoch, "session begins");
        let deleted = welcome.deleted.clone();
        tx.send(message(coordinator_message::Kind::Welcome(welcome))).await?;
        attached.ready();
        // Whoever deleted something between the welcome and now found nobody here to tell.
        let now_deleted = deletions::of_node(&self.store, &node).await;
        if now_deleted != deleted {
            let through = now_deleted;
            tx.send(message(coordinator_message::Kind::Deleted(v1::Deleted { through }))).await?;
        }
        Flow::new(self, node, attached, tx).run(rx, close).await
    }

    /// The node's shard is another coordinator's: it is told which.
    async fn redirect(&self, tx: &CoordinatorSender, node: &NodeId, address: String) -> Result<(), End> {
        debug!(%node, address, "a node belongs to another coordinator");
        let refusal = v1::Refusal {
            code: "REDIRECT".to_owned(),
            message: format!("this node belongs to the coordinator at {address}"),
            address,
            ..v1::Refusal::default()
        };
        tx.send(message(coordinator_message::Kind::Refusal(refusal))).await?;
        Ok(())
    }

    /// Two stores with one identity: the one that speaks now looks rolled back, and the other one still answers.
    async fn clone_of_a_living_store(&self, node: &NodeId, hello: &v1::Hello) -> Option<String> {
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
    async fn welcome(&self, node: &NodeId, hello: &v1::Hello) -> Result<v1::Welcome, End> {
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
    async fn record(&self, record: NodeRecord) -> Result<(), End> {
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

/// Closes a session when its shard is lost. Dropping what this returns ends the watch.
fn close_with(close: &Shutdown, lost: Shutdown) -> tokio_util::task::AbortOnDropHandle<()> {
    let close = close.clone();
    #[expect(clippy::disallowed_methods, reason = "ends with the session that it watches for")]
    let watch = tokio::spawn(async move {
        lost.requested().await;
        close.request();
    });
    tokio_util::task::AbortOnDropHandle::new(watch)
}

fn check_hello(node: &NodeId, hello: &v1::Hello) -> Result<(), (&'static str, String)> {
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

fn wire_tail(key: &StreamKey, tail: Sequence) -> v1::StreamTail {
    let stream = key.stream.to_string();
    v1::StreamTail { epoch: key.epoch.0, stream, sequence: tail.0, ..v1::StreamTail::default() }
}

fn message(kind: coordinator_message::Kind) -> CoordinatorMessage {
    CoordinatorMessage { kind: Some(kind) }
}

fn ack(through: &HashMap<StreamKey, Sequence>) -> CoordinatorMessage {
    let through = through.iter().map(|(key, to)| wire_tail(key, *to)).collect();
    message(coordinator_message::Kind::Ack(v1::Ack { through }))
}

async fn refuse(
    tx: &CoordinatorSender,
    code: &str,
    text: String,
    at: Option<(&StreamKey, Sequence)>,
) -> Result<(), aap_transport::Error> {
    let mut refusal = v1::Refusal { code: code.to_owned(), message: text, ..Default::default() };
    if let Some((key, sequence)) = at {
        refusal.stream = key.stream.to_string();
        refusal.epoch = key.epoch.0;
        refusal.sequence = sequence.0;
    }
    tx.send(message(coordinator_message::Kind::Refusal(refusal))).await
}

/// Tells the agent what it did wrong; the session ends with it.
async fn protocol_error(tx: &CoordinatorSender, what: &str) -> Result<(), End> {
    refuse(tx, "PROTOCOL", what.to_owned(), None).await?;
    Err(End::Protocol(what.to_owned()))
}

type Checked = Result<Arrival, String>;
type LandTask = JoinHandle<Result<Vec<Outcome>, crate::landing::Error>>;

/// The session after its welcome.
struct Flow<'a> {
    sessions: &'a Sessions,
    node: NodeId,
    attached: Attached,
    tx: CoordinatorSender,
    schemas: HashMap<u64, Arc<FrameSchema>>,
    checks: FuturesOrdered<JoinHandle<Checked>>,
    ready: Vec<Arrival>,
    landing: Fuse<LandTask>,
    /// Payload that was received and is not landed yet.
    bytes_on_their_way: u64,
    bytes_landing: u64,
    /// What each arrival of the group took of the credit.
    credit_landing: Vec<u64>,
    /// Streams that forked in this session: nothing more of them lands, however it may follow on the ledger's end.
    forked: HashSet<StreamKey>,
    /// Refusals told already, so that each batch behind a gap does not repeat it.
    told: HashMap<StreamKey, Sequence>,
}

/// What happened next.
enum Event {
    Received(Option<AgentMessage>),
    Checked(Checked),
    Landed(Vec<Outcome>),
    Closed,
}

impl<'a> Flow<'a> {
    fn new(sessions: &'a Sessions, node: NodeId, attached: Attached, tx: CoordinatorSender) -> Self {
        Self {
            sessions,
            node,
            attached,
            tx,
            schemas: HashMap::new(),
            checks: FuturesOrdered::new(),
            ready: vec![],
            landing: Fuse::terminated(),
            bytes_on_their_way: 0,
            bytes_landing: 0,
            credit_landing: vec![],
            forked: HashSet::new(),
            told: HashMap::new(),
        }
    }

    async fn run(mut self, rx: AgentReceiver, close: Shutdown) -> Result<(), End> {
        let ended = self.until_end(rx, close).await;
        if self.sessions.landing.is_ours(&self.node) {
            self.record_last_seen().await?;
        }
        ended
    }

    async fn until_end(&mut self, mut rx: AgentReceiver, close: Shutdown) -> Result<(), End> {
        loop {
            self.start_landing();
            match self.next_event(&mut rx, &close).await? {
                Event::Received(Some(AgentMessage { kind: Some(kind) })) => self.receive(kind).await?,
                Event::Received(Some(_)) => debug!("a message of a later version is passed over"),
                Event::Received(None) | Event::Closed => return self.drain().await,
                Event::Checked(Ok(arrival)) => self.ready.push(arrival),
                Event::Checked(Err(reason)) => {
                    refuse(&self.tx, "PROTOCOL", reason.clone(), None).await?;
                    return Err(End::Protocol(reason));
                }
                Event::Landed(outcomes) => self.answer(outcomes).await?,
            }
        }
    }

    async fn next_event(&mut self, rx: &mut AgentReceiver, close: &Shutdown) -> Result<Event, End> {
        // An honest agent keeps its credit; one that does not is simply not read.
        let has_room =
            self.bytes_on_their_way < 2 * self.sessions.credit_bytes && self.checks.len() < CHECKS_MAX;
        tokio::select! {
            biased;
            () = close.requested() => Ok(Event::Closed),
            outcomes = &mut self.landing => Ok(Event::Landed(outcomes??)),
            Some(checked) = self.checks.next(), if !self.checks.is_empty() => Ok(Event::Checked(checked?)),
            received = rx.recv(), if has_room => Ok(Event::Received(received?)),
        }
    }

    /// What is on its way still lands and is acknowledged, if the agent still listens.
    async fn drain(&mut self) -> Result<(), End> {
        while !self.checks.is_empty() || !self.ready.is_empty() || !is_idle(&self.landing) {
            self.start_landing();
            tokio::select! {
                outcomes = &mut self.landing => self.answer(outcomes??).await?,
                Some(checked) = self.checks.next(), if !self.checks.is_empty() => {
                    if let Ok(arrival) = checked? {
                        self.ready.push(arrival);
                    }
                }
            }
        }
        Ok(())
    }

    async fn record_last_seen(&self) -> Result<(), End> {
        let last_seen_us = self.sessions.clock.unix_us();
        let mut record = None;
        self.sessions.nodes.update(&self.node, |state| {
            if let Some(known) = &mut state.record {
                known.last_seen_us = last_seen_us;
                record = Some(known.clone());
            }
        });
        match record {
            Some(record) => self.sessions.record(record).await,
            None => Ok(()),
        }
    }

    async fn receive(&mut self, kind: agent_message::Kind) -> Result<(), End> {
        match kind {
            agent_message::Kind::Batch(batch) => self.receive_batch(batch).await?,
            agent_message::Kind::Skip(skip) => {
                self.note_lost(&skip);
                let checked = check_skip(&self.node, skip);
                // Through the same queue as batches, so that it keeps its place among them.
                self.checks.push_back(spawn_blocking(move || checked));
            }
            agent_message::Kind::Schema(schema) => self.receive_schema(schema).await?,
            agent_message::Kind::BarrierReply(reply) => self.attached.session.barrier_answered(reply),
            agent_message::Kind::QueryOutput(output) => {
                if let Some(id) = self.attached.session.query_answered(output) {
                    let cancel = coordinator_message::Kind::CancelQuery(v1::CancelQuery { id });
                    self.tx.send(message(cancel)).await?;
                }
            }
            agent_message::Kind::Report(report) => self.receive_report(report),
            agent_message::Kind::Hello(_) => return Err(End::Protocol("a second hello".to_owned())),
        }
        Ok(())
    }

    /// A node lets go of a batch only when we said that we have it. One that it no longer has, and that we lack, was lost here.
    fn note_lost(&self, skip: &v1::Skip) {
        if skip.reason == aap_buffer::RECLAIMED {
            let lost = format!(
                "batches {} to {} of `{}` had landed, and neither the coordinator nor the node has them now",
                skip.from, skip.to, skip.stream
            );
            warn!(node = %self.node, lost, "the ledger has lost batches that had landed");
            self.sessions.nodes.update(&self.node, |state| state.complaint = Some(lost));
        }
    }

    async fn receive_schema(&mut self, schema: v1::Schema) -> Result<(), End> {
        if self.schemas.contains_key(&schema.fingerprint) {
            return Ok(());
        }
        let known = match FrameSchema::from_ipc(schema.ipc) {
            Ok(known) if known.fingerprint() == schema.fingerprint => known,
            Ok(_) => return protocol_error(&self.tx, "a schema whose fingerprint does not hold").await,
            Err(error) => {
                return protocol_error(&self.tx, &format!("a schema that is none: {}", chain(&error))).await;
            }
        };
        if self.schemas.len() >= SCHEMAS_MAX {
            return protocol_error(&self.tx, &format!("more than {SCHEMAS_MAX} schemas")).await;
        }
        self.schemas.insert(schema.fingerprint, known);
        Ok(())
    }

    async fn receive_batch(&mut self, batch: v1::Batch) -> Result<(), End> {
        let Some(schema) = self.schemas.get(&batch.schema_fingerprint).cloned() else {
            return protocol_error(&self.tx, "a batch whose schema was not sent").await;
        };
        self.bytes_on_their_way += batch.payload.len() as u64;
        let node = self.node.clone();
        let sealed_us = batch.sealed_us;
        self.sessions.nodes.update(&self.node, |state| {
            state.newest_sealed_us = state.newest_sealed_us.max(sealed_us);
        });
        let checked =
            spawn_blocking(move || check_batch(&node, batch, schema).map_err(|error| chain(&error)));
        self.checks.push_back(checked);
        Ok(())
    }

    fn receive_report(&mut self, report: v1::NodeReport) {
        let now_us = self.sessions.clock.unix_us();
        self.sessions.nodes.update(&self.node, |state| {
            state.clock_offset_us = report.clock_unix_us - now_us;
            state.report = Some((report, now_us));
        });
    }

    fn start_landing(&mut self) {
        self.leave_out_forked();
        if self.ready.is_empty() || !is_idle(&self.landing) {
            return;
        }
        let mut bytes = 0;
        let fitting = self.ready.iter().take_while(|arrival| {
            let fits = bytes == 0 || bytes + arrival.stored_bytes() <= GROUP_BYTES_MAX;
            bytes += arrival.stored_bytes();
            fits
        });
        let group: Vec<Arrival> = {
            let count = fitting.count();
            self.ready.drain(..count).collect()
        };
        self.bytes_landing = group.iter().map(|arrival| arrival.bytes() as u64).sum();
        self.credit_landing = group.iter().map(Arrival::credit_bytes).collect();
        let (landing, node) = (self.sessions.landing.clone(), self.node.clone());
        let too_early = mutant::is("ackfirst").then(|| (self.tx.clone(), ack(&ends_of(&group))));
        // A task of its own: what is queued commits even if the session breaks, and must then be counted too.
        #[expect(
            clippy::disallowed_methods,
            reason = "the session takes its result; without it, it ends by itself"
        )]
        let task = tokio::spawn(async move {
            if let Some((tx, ack)) = too_early {
                drop(tx.send(ack).await);
                tokio::time::sleep(ACKNOWLEDGED_FIRST).await;
            }
            landing.land(&node, group).await
        });
        self.landing = task.fuse();
    }

    /// The agent was told, and takes its credit back by itself.
    fn leave_out_forked(&mut self) {
        if self.forked.is_empty() {
            return;
        }
        let (out, stay) = std::mem::take(&mut self.ready)
            .into_iter()
            .partition::<Vec<_>, _>(|arrival| self.forked.contains(arrival.key()));
        self.ready = stay;
        let bytes: u64 = out.iter().map(|arrival| arrival.bytes() as u64).sum();
        self.bytes_on_their_way = self.bytes_on_their_way.saturating_sub(bytes);
    }

    async fn answer(&mut self, outcomes: Vec<Outcome>) -> Result<(), End> {
        self.bytes_on_their_way = self.bytes_on_their_way.saturating_sub(self.bytes_landing);
        let mut through: HashMap<StreamKey, Sequence> = HashMap::new();
        let mut refusals = vec![];
        let mut freed = 0;
        for (outcome, credit) in outcomes.into_iter().zip(std::mem::take(&mut self.credit_landing)) {
            match outcome {
                Outcome::Durable { key, through: to } => {
                    freed += credit;
                    self.told.remove(&key);
                    let end = through.entry(key).or_default();
                    *end = (*end).max(to);
                }
                Outcome::Gap { key, expected } => refusals.push(("GAP", key, expected)),
                Outcome::Forked { id } => {
                    self.forked.insert(id.key.clone());
                    refusals.push(("FORKED", id.key, id.sequence));
                }
            }
        }
        if !through.is_empty() {
            failpoint::pass("session.before_ack")?;
            self.tx.send(ack(&through)).await?;
        }
        // What is refused the agent takes back by itself.
        if freed > 0 {
            self.tx.send(message(coordinator_message::Kind::Credit(v1::Credit { bytes: freed }))).await?;
        }
        for (code, key, sequence) in refusals {
            self.refuse_once(code, key, sequence).await?;
        }
        Ok(())
    }

    async fn refuse_once(&mut self, code: &str, key: StreamKey, sequence: Sequence) -> Result<(), End> {
        if self.told.get(&key) == Some(&sequence) {
            return Ok(());
        }
        warn!(node = %self.node, stream = %key.stream, epoch = %key.epoch, %sequence, code, "batch refused");
        let text = match code {
            "GAP" => format!("batch {sequence} of `{}` comes next", key.stream),
            _ => format!("another batch {sequence} of `{}` has landed", key.stream),
        };
        refuse(&self.tx, code, text, Some((&key, sequence))).await?;
        self.told.insert(key, sequence);
        Ok(())
    }
}

/// Where the streams of a group will end, if all of it lands.
fn ends_of(group: &[Arrival]) -> HashMap<StreamKey, Sequence> {
    group.iter().map(|arrival| (arrival.key().clone(), arrival.sequence())).collect()
}

fn is_idle(landing: &Fuse<LandTask>) -> bool {
    use futures::future::FusedFuture;
    landing.is_terminated()
}
