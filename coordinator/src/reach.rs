//! The way to a node, wherever its session is: here, or, in a cluster, at the coordinator that owns its shard.

use std::sync::Arc;
use std::time::Duration;

use aap_proto::v1::{self, query_output};
use aap_store::MetadataStore;
use aap_types::NodeId;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tonic::codec::Streaming;

use crate::cluster::{OtherCoordinator, Peers, Told};
use crate::nodes::{Nodes, Session};

/// How long the metadata store may take to say which nodes came elsewhere; then those that are known here count.
const RECORDS_DEADLINE: Duration = Duration::from_secs(2);
/// How often it is looked whether another coordinator has a session that is waited for. Nobody tells.
const LOOK: Duration = Duration::from_secs(1);

/// Ways to all nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reach {
    nodes: Nodes,
    elsewhere: Option<Elsewhere>,
}

#[derive(Debug, Clone)]
struct Elsewhere {
    peers: Peers,
    /// Nodes that only others have met stand here.
    store: Arc<dyn MetadataStore>,
}

/// The way to one node, as long as its session stays where it is.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// Its session is here.
    Here(Session),
    /// Its session is at another coordinator.
    There(OtherCoordinator, NodeId),
}

/// The answer of one node, part by part.
#[derive(Debug)]
pub(crate) enum Parts {
    /// Whoever asks for a part has taken the one before, of which the node is told.
    Here {
        session: Session,
        id: String,
        parts: mpsc::Receiver<query_output::Kind>,
        begun: bool,
        taken: u32,
    },
    There {
        from: OtherCoordinator,
        parts: Box<Streaming<v1::QueryOutput>>,
    },
}

/// What other coordinators tell of nodes; nothing outside of a cluster.
#[derive(Debug, Default)]
pub struct FromOthers {
    /// Those with a session there.
    pub nodes: Vec<v1::NodeStatus>,
    /// Nodes of which nothing is known, because their coordinator does not answer, with the reason.
    pub unknown: Vec<(NodeId, String)>,
    /// What is wrong, a line each.
    pub problems: Vec<String>,
}

impl Reach {
    /// Of a coordinator that is alone.
    pub fn alone(nodes: Nodes) -> Self {
        Self { nodes, elsewhere: None }
    }

    /// Of one of several.
    pub(crate) fn in_cluster(nodes: Nodes, peers: Peers, store: Arc<dyn MetadataStore>) -> Self {
        Self { nodes, elsewhere: Some(Elsewhere { peers, store }) }
    }

    /// Every node that ever came, here or elsewhere, in order.
    pub(crate) async fn known(&self) -> Vec<NodeId> {
        if let Some(Elsewhere { store, .. }) = &self.elsewhere {
            let store = store.clone();
            let read = timeout(RECORDS_DEADLINE, spawn_blocking(move || store.nodes())).await;
            if let Ok(Ok(Ok(records))) = read {
                self.nodes.learn(records);
            }
        }
        self.nodes.all().into_keys().collect()
    }

    /// The way to a node now.
    ///
    /// # Errors
    /// Why there is none; empty where it is just not connected.
    pub(crate) async fn way(&self, node: &NodeId) -> Result<Way, String> {
        if let Some(session) = self.nodes.session(node) {
            return Ok(Way::Here(session));
        }
        let Some(Elsewhere { peers, .. }) = &self.elsewhere else { return Err(String::new()) };
        let owner = peers.owner(node).await?;
        owner.map(|owner| Way::There(owner, node.clone())).ok_or_else(String::new)
    }

    /// Changes when a session that is here is ready or has ended.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.nodes.changes()
    }

    /// Waits until a node that could not be reached may be there: `changes` says it of this coordinator.
    pub(crate) async fn changed(&self, changes: &mut watch::Receiver<u64>) {
        let look = async {
            match &self.elsewhere {
                Some(_) => sleep(LOOK).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The sender lives as long as `nodes`.
            _ = changes.changed() => {}
            () = look => {}
        }
    }

    /// Tells nodes whose session is here that nobody waits for an answer any more. Others are told by whoever drops it.
    pub(crate) async fn cancel(&self, nodes: &[NodeId], id: &str) {
        for session in nodes.iter().filter_map(|node| self.nodes.session(node)) {
            session.cancel_query(id).await;
        }
    }

    /// What other coordinators tell of nodes.
    pub(crate) async fn told_by_others(&self) -> FromOthers {
        let Some(Elsewhere { peers, .. }) = &self.elsewhere else { return FromOthers::default() };
        let (known, Told { nodes, silent }) = tokio::join!(self.known(), peers.nodes());
        let mut unknown = vec![];
        if !silent.is_empty() {
            for node in known.into_iter().filter(|node| self.nodes.session(node).is_none()) {
                let reason = peers.name_of_owner(&node).await.and_then(|name| silent.get(&name).cloned());
                unknown.extend(reason.map(|reason| (node, reason)));
            }
        }
        let problems = silent.into_keys().map(|name| {
            format!(
                "coordinator `{name}` does not answer; nothing is known of the nodes with a session there"
            )
        });
        FromOthers { nodes, unknown, problems: problems.collect() }
    }
}

impl Way {
    /// Asks the node for its durable ends.
    ///
    /// # Errors
    /// Why there are none; empty where it is just not connected any more.
    pub(crate) async fn barrier(self) -> Result<Vec<v1::StreamTail>, String> {
        match self {
            Self::Here(session) => session.barrier().await.ok_or_else(String::new),
            Self::There(mut owner, node) => owner.barrier(&node).await,
        }
    }

    /// Asks the node to answer a query.
    ///
    /// # Errors
    /// Why it cannot be asked; empty where it is just not connected any more.
    pub(crate) async fn query(&self, id: &str, sql: &str, limits: v1::QueryLimits) -> Result<Parts, String> {
        match self {
            Self::Here(session) => {
                let parts = session.query(id, sql, limits).await.ok_or_else(String::new)?;
                let (session, id) = (session.clone(), id.to_owned());
                Ok(Parts::Here { session, id, parts, begun: false, taken: 0 })
            }
            Self::There(owner, node) => {
                let mut from = owner.clone();
                let parts = Box::new(from.query(node, id, sql, limits).await?);
                Ok(Parts::There { from, parts })
            }
        }
    }

    /// Tells the node, where it is here, that a query was answered, or that nobody waits for it any more. Elsewhere it is told when its
    /// [`Parts`] are dropped.
    pub(crate) async fn end(&self, id: &str, answered: bool) {
        match self {
            Self::Here(session) if answered => session.query_done(id),
            Self::Here(session) => session.cancel_query(id).await,
            Self::There(..) => {}
        }
    }
}

impl Parts {
    /// The next part; the last one is `End` or `Problem`.
    ///
    /// # Errors
    /// Why it ended before.
    pub(crate) async fn next(&mut self) -> Result<query_output::Kind, String> {
        const ENDED: &str = "the session of the node ended before it had answered";
        match self {
            Self::Here { session, id, parts, begun, taken } => {
                if std::mem::replace(begun, true) {
                    session.query_taken(id, taken).await;
                }
                parts.recv().await.ok_or_else(|| ENDED.to_owned())
            }
            Self::There { from, parts } => match parts.message().await {
                Ok(output) => output.and_then(|output| output.kind).ok_or_else(|| ENDED.to_owned()),
                Err(status) => Err(from.reason(&status)),
            },
        }
    }
}
