//! The nodes: which exist, which hold a session, what they reported last.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_proto::v1::{self, CoordinatorMessage, coordinator_message};
use aap_runtime::Shutdown;
use aap_store::NodeRecord;
use aap_transport::CoordinatorSender;
use aap_types::NodeId;
use tokio::sync::{mpsc, oneshot, watch};

/// Parts of a node's answer that may wait for the disk: what [`ANSWER_WINDOW`] allows, and more from an agent that does not
/// know of it. A part has 256 KiB at most, in practice 64.
const ANSWER_PARTS: usize = 256;
/// Parts that an agent may send before some are taken: 4 MiB, 80 MB/s at a round trip of 50 ms.
const ANSWER_WINDOW: u32 = 64;
/// How long a session may take to end when a newer one of its node replaces it.
const REPLACE_DEADLINE: Duration = Duration::from_secs(5);

/// All nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Nodes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<BTreeMap<NodeId, NodeState>>,
    next_session: AtomicU64,
    changes: watch::Sender<u64>,
}

/// What is known about a node now.
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    /// From the metadata store; absent before its first hello is recorded.
    pub record: Option<NodeRecord>,
    /// Its session, if it holds one.
    pub session: Option<Session>,
    /// What it reported last, and when.
    pub report: Option<(v1::NodeReport, i64)>,
    /// Its clock minus ours.
    pub clock_offset_us: i64,
    /// When the newest of its batches was sealed.
    pub newest_sealed_us: i64,
    /// What the coordinator found wrong about its store.
    pub complaint: Option<String>,
}

/// An open session. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Session {
    /// Unique in this process.
    pub number: u64,
    /// "quic", "grpc" or "memory".
    pub carrier: String,
    /// Asks the session to end.
    pub close: Shutdown,
    tx: CoordinatorSender,
    /// Whether its welcome was sent: nothing may go to the node before.
    ready: Arc<AtomicBool>,
    ended: watch::Receiver<bool>,
    calls: Arc<Calls>,
}

/// Calls that wait for an answer of the node.
#[derive(Debug, Default)]
struct Calls {
    next_barrier: AtomicU64,
    barriers: Mutex<HashMap<u64, oneshot::Sender<Vec<v1::StreamTail>>>>,
    queries: Mutex<HashMap<String, mpsc::Sender<v1::query_output::Kind>>>,
}

/// The session's own end of its entry in [`Nodes`]. Dropping it says that the session has ended.
#[derive(Debug)]
pub struct Attached {
    nodes: Nodes,
    node: NodeId,
    /// The entry.
    pub session: Session,
    ended: watch::Sender<bool>,
}

impl Nodes {
    /// The nodes that the metadata store knows.
    pub fn new(records: Vec<NodeRecord>) -> Self {
        let known = records
            .into_iter()
            .map(|record| (record.node.clone(), NodeState { record: Some(record), ..NodeState::default() }));
        let state = Mutex::new(known.collect());
        Self {
            inner: Arc::new(Inner { state, next_session: AtomicU64::new(1), changes: watch::Sender::new(0) }),
        }
    }

    /// Nodes whose data has landed are known, also where the metadata store forgot them.
    pub fn expect(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let mut state = self.state();
        for node in nodes {
            state.entry(node).or_default();
        }
    }

    /// Takes up what other coordinators wrote down of nodes since. Of one whose session is here, this one knows best.
    pub fn learn(&self, records: Vec<NodeRecord>) {
        let mut state = self.state();
        for record in records {
            let known = state.entry(record.node.clone()).or_default();
            let is_newer = known.record.as_ref().is_none_or(|known| known.last_seen_us < record.last_seen_us);
            if known.session.is_none() && is_newer {
                known.record = Some(record);
            }
        }
    }

    /// Takes a session up. An older one of the same node is asked to end, and has ended when this returns.
    pub async fn attach(
        &self,
        node: &NodeId,
        carrier: String,
        tx: CoordinatorSender,
        close: Shutdown,
    ) -> Attached {
        let (ended, ended_rx) = watch::channel(false);
        let number = self.inner.next_session.fetch_add(1, Ordering::Relaxed);
        let (ready, calls) = Default::default();
        let session = Session { number, carrier, close, tx, ready, ended: ended_rx, calls };
        let older = self.state().entry(node.clone()).or_default().session.replace(session.clone());
        if let Some(mut older) = older {
            tracing::info!(%node, "a newer session of this node replaces an older one");
            older.close.request();
            // Past the deadline the ledger still takes turns per node; nothing can go wrong but a late log line.
            let waited = tokio::time::timeout(REPLACE_DEADLINE, older.ended.wait_for(|ended| *ended)).await;
            if waited.is_err() {
                tracing::warn!(%node, "the older session has not ended yet");
            }
        }
        Attached { nodes: self.clone(), node: node.clone(), session, ended }
    }

    /// Changes what is known about a node.
    pub fn update(&self, node: &NodeId, change: impl FnOnce(&mut NodeState)) {
        change(self.state().entry(node.clone()).or_default());
    }

    /// All nodes as they are now.
    pub fn all(&self) -> BTreeMap<NodeId, NodeState> {
        self.state().clone()
    }

    /// Whether a node reports that it takes no new rows, and that none are on their way into its buffer.
    pub fn is_draining(&self, node: &NodeId) -> bool {
        let state = self.state();
        state.get(node).and_then(|known| known.report.as_ref()).is_some_and(|(report, _)| report.draining)
    }

    /// How many nodes have a session, ready or not.
    pub fn connected(&self) -> usize {
        self.state().values().filter(|node| node.session.is_some()).count()
    }

    /// Its session, once it may be called: after its welcome.
    pub fn session(&self, node: &NodeId) -> Option<Session> {
        let session = self.state().get(node)?.session.clone()?;
        session.is_ready().then_some(session)
    }

    /// Its session, ready or not.
    pub fn any_session(&self, node: &NodeId) -> Option<Session> {
        self.state().get(node)?.session.clone()
    }

    /// Whether it has ever been here.
    pub fn is_known(&self, node: &NodeId) -> bool {
        self.state().contains_key(node)
    }

    /// Changes when a session is ready or has ended.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Says that a session is ready or has ended.
    pub fn changed(&self) {
        self.inner.changes.send_modify(|count| *count += 1);
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<NodeId, NodeState>> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attached {
    /// Its welcome was sent: the node may be called.
    pub fn ready(&self) {
        self.session.ready.store(true, Ordering::Release);
        self.nodes.changed();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.nodes.update(&self.node, |state| {
            if state.session.as_ref().is_some_and(|session| session.number == self.session.number) {
                state.session = None;
            }
        });
        self.session.calls.fail();
        self.ended.send_replace(true);
        self.nodes.changed();
    }
}

impl Session {
    /// Whether its welcome was sent.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Turns true when the session has ended.
    pub fn ended(&self) -> watch::Receiver<bool> {
        self.ended.clone()
    }

    /// Asks the node for its durable ends. `None` if the session ends first.
    pub async fn barrier(&self) -> Option<Vec<v1::StreamTail>> {
        let id = self.calls.next_barrier.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        lock(&self.calls.barriers).insert(id, reply);
        let sent = self.send(coordinator_message::Kind::Barrier(v1::Barrier { id })).await;
        let tails = if sent { answer.await.ok() } else { None };
        lock(&self.calls.barriers).remove(&id);
        tails
    }

    /// Tells the node what was deleted of what it delivered. `false` if the session has ended.
    pub async fn deleted(&self, through: Vec<v1::StreamTail>) -> bool {
        self.send(coordinator_message::Kind::Deleted(v1::Deleted { through })).await
    }

    /// Asks the node to renew its certificate at once. `false` if the session has ended.
    pub async fn renew_now(&self) -> bool {
        self.send(coordinator_message::Kind::RenewNow(v1::RenewNow {})).await
    }

    /// Tells the node whether it takes new rows. `false` if the session has ended.
    pub async fn drain(&self, draining: bool) -> bool {
        self.send(coordinator_message::Kind::Drain(v1::Drain { draining })).await
    }

    /// Asks the node to answer a query. The channel ends with `end` or `problem`, or closed when the session ends.
    pub async fn query(
        &self,
        id: &str,
        sql: &str,
        limits: v1::QueryLimits,
    ) -> Option<mpsc::Receiver<v1::query_output::Kind>> {
        let (parts, answer) = mpsc::channel(ANSWER_PARTS);
        lock(&self.calls.queries).insert(id.to_owned(), parts);
        let (id, sql) = (id.to_owned(), sql.to_owned());
        let call = v1::RunQuery { id, sql, limits: Some(limits), window: ANSWER_WINDOW };
        self.send(coordinator_message::Kind::RunQuery(call)).await.then_some(answer)
    }

    /// Counts a part of an answer that was taken, and lets the node send more where it is time to.
    pub async fn query_taken(&self, id: &str, taken: &mut u32) {
        *taken += 1;
        // Half a window at a time: the node never waits for a reader that keeps up, and hears from it rarely.
        if *taken >= ANSWER_WINDOW / 2 {
            let credit = v1::QueryCredit { id: id.to_owned(), messages: std::mem::take(taken) };
            // A session that has ended says so where the parts come from.
            self.send(coordinator_message::Kind::QueryCredit(credit)).await;
        }
    }

    /// Tells the node that nobody waits for this answer any more.
    pub async fn cancel_query(&self, id: &str) {
        lock(&self.calls.queries).remove(id);
        self.send(coordinator_message::Kind::CancelQuery(v1::CancelQuery { id: id.to_owned() })).await;
    }

    /// Forgets a query that has been answered.
    pub fn query_done(&self, id: &str) {
        lock(&self.calls.queries).remove(id);
    }

    /// Hands a barrier's answer to whoever waits for it.
    pub fn barrier_answered(&self, reply: v1::BarrierReply) {
        if let Some(waiting) = lock(&self.calls.barriers).remove(&reply.id) {
            // Whoever asked may have stopped waiting.
            drop(waiting.send(reply.tails));
        }
    }

    /// Hands a part of an answer on, without ever waiting: data of this node must not wait for a slow reader. Returns
    /// the query to cancel if its reader is gone or too slow.
    pub fn query_answered(&self, output: v1::QueryOutput) -> Option<String> {
        let mut queries = lock(&self.calls.queries);
        let kind = output.kind?;
        let reader = queries.get(&output.id)?;
        if reader.try_send(kind).is_ok() {
            return None;
        }
        queries.remove(&output.id);
        Some(output.id)
    }

    async fn send(&self, kind: coordinator_message::Kind) -> bool {
        self.tx.send(CoordinatorMessage { kind: Some(kind) }).await.is_ok()
    }
}

impl Calls {
    /// Ends every wait: dropping a sender closes its channel.
    fn fail(&self) {
        lock(&self.barriers).clear();
        lock(&self.queries).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
