//! The two ends of a session, the same for every carrier.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use aap_proto::MESSAGE_BYTES_MAX;
use aap_proto::v1::{AgentMessage, Batch, CoordinatorMessage, Schema, agent_message};
use aap_types::NodeId;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::inbox::Inbox;
use crate::quic::Lanes;
use crate::{Error, STALL_DEADLINE};

/// What moves the messages of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// QUIC over UDP.
    Quic,
    /// gRPC over TLS over TCP.
    Grpc,
    /// A pair in memory, in tests.
    Memory,
}

impl std::fmt::Display for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::Grpc => "grpc",
            Self::Memory => "memory",
        })
    }
}

/// An open session, seen from the agent. Dropping `tx` (all clones) and `rx` ends it.
#[derive(Debug)]
pub struct AgentSession {
    /// To the coordinator.
    pub tx: AgentSender,
    /// From the coordinator.
    pub rx: CoordinatorReceiver,
    /// What carries it.
    pub carrier: Carrier,
    /// Tells when a better carrier can be had.
    pub better: BetterCarrier,
}

/// Tells when a session that fell back could move to its preferred carrier.
#[derive(Debug)]
pub struct BetterCarrier(Option<Probing>);

#[derive(Debug)]
struct Probing {
    found: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

impl BetterCarrier {
    /// There is none.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// There is one as soon as `probe` ends, which is given up with this value.
    pub(crate) fn after(probe: impl Future<Output = ()> + Send + 'static) -> Self {
        let (tell, found) = watch::channel(false);
        let task = TaskTracker::new().spawn(async move {
            probe.await;
            tell.send_replace(true);
        });
        Self(Some(Probing { found, _task: AbortOnDropHandle::new(task) }))
    }

    /// Waits until dialling again would give a better carrier; for ever if this one is the best. Cancel-safe.
    /// Then end this session at a batch boundary and dial again: batch ids make it safe at any moment.
    pub async fn available(&mut self) {
        if let Some(probing) = &mut self.0
            && probing.found.wait_for(|found| *found).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// One message and the schema that must stand before it on the same lane.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) schema: Option<Schema>,
    pub(crate) message: AgentMessage,
}

/// The messages of one lane: each schema once, right before the first batch that names it.
pub(crate) fn messages(
    queued: mpsc::Receiver<Outgoing>,
) -> impl Stream<Item = AgentMessage> + Send + 'static {
    let mut sent = HashSet::new();
    ReceiverStream::new(queued).flat_map(move |Outgoing { schema, message }| {
        let schema = schema.filter(|schema| sent.insert(schema.fingerprint));
        let schema = schema.map(|schema| AgentMessage { kind: Some(agent_message::Kind::Schema(schema)) });
        futures::stream::iter(schema.into_iter().chain([message]))
    })
}

/// Where an agent's messages go.
#[derive(Debug, Clone)]
pub(crate) enum Outbox {
    /// All in one queue.
    Queue(mpsc::Sender<Outgoing>),
    /// Each data stream in its lane.
    Quic(Arc<Lanes>),
}

/// The agent's sending half. Clones send on the same session.
#[derive(Debug, Clone)]
pub struct AgentSender {
    outbox: Outbox,
    /// Every schema given so far; each lane gets it before the first batch that names it.
    schemas: Arc<Mutex<HashMap<u64, Schema>>>,
}

impl AgentSender {
    pub(crate) fn new(outbox: Outbox) -> Self {
        Self { outbox, schemas: Arc::default() }
    }

    /// Sends a message; waits while the peer is not reading. Returns when it is queued, not when it has arrived.
    ///
    /// A `Schema` is remembered, and sent right before the first batch that names it, on the same lane as that
    /// batch (so more than once, if several data streams use it). Give it before the batch; giving it again does
    /// no harm. Batches and skips of one data stream keep their order, so do parts of answers, and all other messages.
    ///
    /// Cancel-safe in that a message is either queued or not.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::UnknownSchema`] leave the session as it was; after any other it is over.
    pub async fn send(&self, message: AgentMessage) -> Result<(), Error> {
        let bytes = message.encoded_len();
        if bytes > MESSAGE_BYTES_MAX {
            return Err(Error::TooLarge { bytes, limit: MESSAGE_BYTES_MAX });
        }
        let schema = match &message.kind {
            Some(agent_message::Kind::Schema(schema)) => {
                self.lock().insert(schema.fingerprint, schema.clone());
                return Ok(());
            }
            Some(agent_message::Kind::Batch(batch)) => Some(self.schema_of(batch)?),
            _ => None,
        };
        self.outbox.send(Outgoing { schema, message }).await
    }

    /// Sends a batch whose schema is `schema`: the same as sending both.
    pub async fn send_batch(&self, schema: &Schema, batch: Batch) -> Result<(), Error> {
        self.lock().entry(schema.fingerprint).or_insert_with(|| schema.clone());
        self.send(AgentMessage { kind: Some(agent_message::Kind::Batch(batch)) }).await
    }

    fn schema_of(&self, batch: &Batch) -> Result<Schema, Error> {
        let fingerprint = batch.schema_fingerprint;
        let known = self.lock().get(&fingerprint).cloned();
        known.ok_or_else(|| Error::UnknownSchema { stream: batch.stream.clone(), fingerprint })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Schema>> {
        self.schemas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    async fn send(&self, outgoing: Outgoing) -> Result<(), Error> {
        match self {
            Self::Queue(queue) => enqueue(queue, outgoing).await,
            Self::Quic(lanes) => lanes.send(outgoing).await,
        }
    }
}

/// Queues within the stall deadline.
pub(crate) async fn enqueue<T>(queue: &mpsc::Sender<T>, item: T) -> Result<(), Error> {
    match timeout(STALL_DEADLINE, queue.send(item)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Error::Closed),
        Err(_) => Err(Error::Stalled { deadline: STALL_DEADLINE }),
    }
}

/// The coordinator's sending half. Clones send on the same session.
#[derive(Debug, Clone)]
pub struct CoordinatorSender(pub(crate) mpsc::Sender<CoordinatorMessage>);

impl CoordinatorSender {
    /// Sends a message, in order; waits while the peer is not reading. Returns when it is queued. Cancel-safe.
    pub async fn send(&self, message: CoordinatorMessage) -> Result<(), Error> {
        let bytes = message.encoded_len();
        if bytes > MESSAGE_BYTES_MAX {
            return Err(Error::TooLarge { bytes, limit: MESSAGE_BYTES_MAX });
        }
        enqueue(&self.0, message).await
    }
}

/// The agent's receiving half.
#[derive(Debug)]
pub struct CoordinatorReceiver(pub(crate) Inbox<CoordinatorMessage>);

impl CoordinatorReceiver {
    /// The next message; `None` when the coordinator ended the session. An error is the end too. Cancel-safe.
    pub async fn recv(&mut self) -> Result<Option<CoordinatorMessage>, Error> {
        self.0.recv().await
    }
}

/// The coordinator's receiving half.
#[derive(Debug)]
pub struct AgentReceiver(pub(crate) Inbox<AgentMessage>);

impl AgentReceiver {
    /// The next message; `None` when the agent ended the session or the listener was asked to stop. An error is
    /// the end too. Over gRPC a vanished agent may look like one that ended: neither says anything about what
    /// it still had to send. Cancel-safe. A schema may come more than once: with each data stream that uses it.
    pub async fn recv(&mut self) -> Result<Option<AgentMessage>, Error> {
        self.0.recv().await
    }
}

/// Who opened a session.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The node, from its verified certificate.
    pub node: NodeId,
    /// The generation of its certificate; 0 where it was issued without one.
    pub generation: u64,
    /// What carries the session.
    pub carrier: Carrier,
    /// Where it comes from.
    pub address: SocketAddr,
}

/// What a coordinator does with a session.
pub trait SessionHandler: Send + Sync + 'static {
    /// Serves one session to its end. The session ends when this future does, or drops both halves; what was
    /// sent by then still goes out. A panic ends the session and nothing else.
    fn session(
        self: Arc<Self>,
        peer: Peer,
        tx: CoordinatorSender,
        rx: AgentReceiver,
    ) -> BoxFuture<'static, ()>;
}
