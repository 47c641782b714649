//! A session after its welcome: batches in, acknowledgements out, calls both ways.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aap_buffer::{FrameSchema, mutant};
use aap_proto::v1::{self, AgentMessage, CoordinatorMessage, agent_message, coordinator_message};
use aap_runtime::{Shutdown, failpoint};
use aap_transport::{AgentReceiver, CoordinatorSender};
use aap_types::{NodeId, Sequence, StreamKey};
use futures::StreamExt;
use futures::future::{Fuse, FutureExt};
use futures::stream::FuturesOrdered;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, warn};

use super::{End, Sessions, message, refuse, wire_tail};
use crate::arrival::{Arrival, chain, check_batch, check_skip};
use crate::landing::Outcome;
use crate::nodes::Attached;

/// Schemas of one session. A stream has a handful of forms, a node some hundred streams.
const SCHEMAS_MAX: usize = 16_384;
/// Bytes of one group: what a disk writes in some ten milliseconds.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Batches being checked or waiting for their turn, for one session; the pool bounds how many run at once.
const CHECKS_MAX: usize = 64;
/// By how much the mutant `ackfirst` acknowledges too early: the agent has heard of it before a crash point is passed.
const ACKNOWLEDGED_FIRST: Duration = Duration::from_millis(300);

fn ack(through: &HashMap<StreamKey, Sequence>) -> CoordinatorMessage {
    let through = through.iter().map(|(key, to)| wire_tail(key, *to)).collect();
    message(coordinator_message::Kind::Ack(v1::Ack { through }))
}

/// Tells the agent what it did wrong; the session ends with it.
async fn protocol_error(tx: &CoordinatorSender, what: &str) -> Result<(), End> {
    refuse(tx, "PROTOCOL", what.to_owned(), None).await?;
    Err(End::Protocol(what.to_owned()))
}

type Checked = Result<Arrival, String>;
type LandTask = JoinHandle<Result<Vec<Outcome>, crate::landing::Error>>;

/// The session after its welcome.
pub(super) struct Flow<'a> {
    sessions: &'a Sessions,
    node: NodeId,
    /// Of the newest certificate that the node is known to have: the one that it showed, or one that it got since.
    generation: u64,
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
    pub(super) fn new(
        sessions: &'a Sessions,
        (node, generation): (NodeId, u64),
        attached: Attached,
        tx: CoordinatorSender,
    ) -> Self {
        Self {
            sessions,
            node,
            generation,
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

    pub(super) async fn run(mut self, rx: AgentReceiver, close: Shutdown) -> Result<(), End> {
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
            agent_message::Kind::Renew(request) => self.renew(request).await?,
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

    /// Takes some milliseconds, twice a day.
    async fn renew(&mut self, request: v1::RenewCertificate) -> Result<(), End> {
        // Issued by hand: it is renewed by hand.
        let Some(identities) = self.sessions.identities.as_ref().filter(|_| self.generation > 0) else {
            return Ok(());
        };
        let v1::RenewCertificate { csr, renewal } = request;
        let renewed = identities.renew(&self.node, csr.to_vec(), self.generation, renewal).await;
        let answer = renewed.and_then(|renewed| {
            let certificate = renewed.certificate.unwrap_or_default().into_bytes().into();
            let authorities = identities.authorities()?.into();
            Ok((renewed.identity.generation, v1::RenewedCertificate { certificate, authorities }))
        });
        match answer {
            Ok((generation, renewed)) => {
                self.tx.send(message(coordinator_message::Kind::Renewed(renewed))).await?;
                self.generation = generation;
            }
            // The node asks again; one that is shut out is cut off elsewhere.
            Err(problem) => warn!(node = %self.node, %problem, "a certificate is not renewed"),
        }
        Ok(())
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
