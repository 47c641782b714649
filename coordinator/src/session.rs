//! One session of a node: hello, then batches in, acknowledgements out, calls both ways.
//!
//! ```text
//! receive ──▶ check (pool, in order) ──▶ ready ──▶ land (one group at a time) ──▶ acknowledge
//!    ▲ waits while more than the window is on its way
//! ```
//! While one group is being synced the next one gathers, so that a slow disk makes larger groups, not more waiting.

mod flow;
mod welcome;

use std::sync::Arc;
use std::time::Duration;

use aap_proto::v1::{self, AgentMessage, CoordinatorMessage, agent_message, coordinator_message};
use aap_runtime::{Clock, Shutdown, failpoint};
use aap_store::MetadataStore;
use aap_transport::{AgentReceiver, CoordinatorSender, Peer, SessionHandler};
use aap_types::{NodeId, Sequence, StreamKey};
use futures::future::{BoxFuture, FutureExt};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use self::flow::Flow;
use self::welcome::check_hello;
use crate::arrival::chain;
use crate::cluster::Place;
use crate::deletions;
use crate::identities::{Admitted, Identities, Refused};
use crate::landing::Landing;
use crate::nodes::Nodes;

/// A peer that connects says hello at once.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// What every session needs.
#[derive(Debug)]
pub struct Sessions {
    /// Where data goes.
    pub landing: Landing,
    /// Who is here.
    pub nodes: Nodes,
    /// Who ever was.
    pub store: Arc<dyn MetadataStore>,
    /// Which machines are nodes. Without it every node with a certificate of the authority is.
    pub(crate) identities: Option<Identities>,
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
    #[error("not admitted: {0}")]
    NotAdmitted(String),
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
        let Peer { node, generation, carrier, .. } = peer;
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
        // Only now, so that whoever shuts the node out from here on finds its session.
        let admitted = match &self.identities {
            Some(identities) => identities.admit(&node, generation).await,
            None => Ok(Admitted::default()),
        };
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(Refused { code, message }) => {
                refuse(&tx, code, message.clone(), None).await?;
                return Err(End::NotAdmitted(message));
            }
        };
        let welcome = tokio::select! {
            welcome = self.welcome(&node, &hello) => v1::Welcome { draining: admitted.draining, ..welcome? },
            () = close.requested() => return Ok(()),
        };
        info!(%node, %carrier, version = hello.agent_version, epoch = hello.epoch, new_epoch = welcome.new_epoch, "session begins");
        let deleted = welcome.deleted.clone();
        tx.send(message(coordinator_message::Kind::Welcome(welcome))).await?;
        attached.ready();
        if admitted.renews {
            tx.send(message(coordinator_message::Kind::RenewNow(v1::RenewNow {}))).await?;
        }
        // Whoever drained it between the welcome and now found nobody here to tell either.
        if let Some(identities) = &self.identities {
            let draining = identities.is_draining(&node).await.unwrap_or(admitted.draining);
            if draining != admitted.draining {
                tx.send(message(coordinator_message::Kind::Drain(v1::Drain { draining }))).await?;
            }
        }
        // Whoever deleted something between the welcome and now found nobody here to tell.
        let now_deleted = deletions::of_node(&self.store, &node).await;
        if now_deleted != deleted {
            let through = now_deleted;
            tx.send(message(coordinator_message::Kind::Deleted(v1::Deleted { through }))).await?;
        }
        Flow::new(self, (node, generation), attached, tx).run(rx, close).await
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

fn wire_tail(key: &StreamKey, tail: Sequence) -> v1::StreamTail {
    let stream = key.stream.to_string();
    v1::StreamTail { epoch: key.epoch.0, stream, sequence: tail.0, ..v1::StreamTail::default() }
}

fn message(kind: coordinator_message::Kind) -> CoordinatorMessage {
    CoordinatorMessage { kind: Some(kind) }
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
