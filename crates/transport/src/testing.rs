//! Sessions without a network, and sessions that break where a test wants it.

use std::io;

use aap_proto::v1::agent_message::Kind;
use aap_proto::v1::{AgentMessage, CoordinatorMessage};
use aap_runtime::Shutdown;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::inbox::Inbox;
use crate::limits::QUEUE_MESSAGES;
use crate::session::{BetterCarrier, Outbox, Outgoing, enqueue, messages};
use crate::{
    AgentReceiver, AgentSender, AgentSession, Carrier, CoordinatorReceiver, CoordinatorSender, Error,
};

/// Both ends of a session in memory: the agent's, and what a [`crate::SessionHandler`] gets.
pub fn pair() -> (AgentSession, CoordinatorSender, AgentReceiver) {
    let (up, from_agent) = mpsc::channel(QUEUE_MESSAGES);
    let (down, from_coordinator) = mpsc::channel(QUEUE_MESSAGES);
    let received = messages(from_agent).map(Ok).boxed();
    let session = AgentSession {
        tx: AgentSender::new(Outbox::Queue(up)),
        rx: CoordinatorReceiver(queue(from_coordinator, Ok)),
        carrier: Carrier::Memory,
        better: BetterCarrier::none(),
    };
    (session, CoordinatorSender(down), AgentReceiver(Inbox::stream(received, Shutdown::default())))
}

/// Where a [`faulty`] session breaks. A schema does not count as a message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cut {
    /// After this many messages of the agent have passed; the next one breaks it. `None`: never.
    pub after_from_agent: Option<u64>,
    /// After this many messages of the coordinator have passed; the next one breaks it. `None`: never.
    pub after_from_coordinator: Option<u64>,
}

/// `session`, but it breaks at `cut`: the message in question is lost, and so is all that follows, both ways.
/// What passed before may still arrive. Spawns two tasks that end with the session.
pub fn faulty(session: AgentSession, cut: Cut) -> AgentSession {
    let AgentSession { tx, rx, carrier, better } = session;
    let (up, from_agent) = mpsc::channel(QUEUE_MESSAGES);
    let (down, to_agent) = mpsc::channel(QUEUE_MESSAGES);
    let broken = CancellationToken::new();
    spawn(relay_up(from_agent, tx, cut.after_from_agent, broken.clone()));
    spawn(relay_down(rx, down, cut.after_from_coordinator, broken));
    let tx = AgentSender::new(Outbox::Queue(up));
    AgentSession { tx, rx: CoordinatorReceiver(queue(to_agent, |message| message)), carrier, better }
}

async fn relay_up(
    mut from_agent: mpsc::Receiver<Outgoing>,
    tx: AgentSender,
    after: Option<u64>,
    broken: CancellationToken,
) {
    let mut passed = 0;
    while let Some(Some(Outgoing { schema, message })) = broken.run_until_cancelled(from_agent.recv()).await {
        if after.is_some_and(|after| passed >= after) {
            broken.cancel();
            return;
        }
        passed += 1;
        if let Some(schema) = schema {
            drop(tx.send(AgentMessage { kind: Some(Kind::Schema(schema)) }).await);
        }
        if tx.send(message).await.is_err() {
            return;
        }
    }
}

async fn relay_down(
    mut rx: CoordinatorReceiver,
    down: mpsc::Sender<Result<CoordinatorMessage, Error>>,
    after: Option<u64>,
    broken: CancellationToken,
) {
    let mut passed = 0;
    loop {
        let message = match broken.run_until_cancelled(rx.recv()).await {
            // Breaking the way up makes the coordinator end its side, which must not look polite here.
            Some(Ok(None)) if !broken.is_cancelled() => return,
            Some(Ok(Some(message))) if after.is_none_or(|after| passed < after) => Ok(message),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => Err(Error::broken(io::Error::other("cut by the test"))),
        };
        passed += 1;
        let over = message.is_err();
        if enqueue(&down, message).await.is_err() || over {
            broken.cancel();
            return;
        }
    }
}

fn queue<T: Send + 'static, M: Send + 'static>(
    receiver: mpsc::Receiver<T>,
    result: impl FnMut(T) -> Result<M, Error> + Send + 'static,
) -> Inbox<M> {
    Inbox::stream(ReceiverStream::new(receiver).map(result).boxed(), Shutdown::default())
}

#[expect(clippy::disallowed_methods, reason = "relays of a test end with the session they carry")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}
