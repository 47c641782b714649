//! Dialling over UDP, and the agent's lanes.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_proto::v1::AgentMessage;
use aap_proto::v1::agent_message::Kind;
use aap_runtime::Shutdown;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{DONE, MAGIC, PROBE, SESSION, receive, wire};
use crate::client::Target;
use crate::inbox::Inbox;
use crate::limits::{CLOSE_DEADLINE, QUEUE_MESSAGES, QUIC_CONTROL_PRIORITY, QUIC_LANES_MAX};
use crate::session::{AgentSender, BetterCarrier, Outbox, Outgoing, enqueue, messages};
use crate::tls::ALPN_QUIC;
use crate::{AgentSession, Carrier, CoordinatorReceiver, Error, TlsFiles};

/// What the error messages call this carrier.
const NAME: &str = "quic";

/// Opens a session with the coordinator at `target`. `lost` is set if it later dies of silence.
pub(crate) async fn connect(
    target: &Target,
    files: &TlsFiles,
    deadline: Duration,
    lost: Arc<AtomicBool>,
) -> Result<AgentSession, Error> {
    let (connection, send, recv) = open(target, files, SESSION, deadline).await?;
    let (received, reading) = receive::receive(connection.clone(), recv, lost);
    let (control, queued) = mpsc::channel(QUEUE_MESSAGES);
    let lanes = Arc::new(Lanes { connection, control, open: Mutex::default(), tasks: TaskTracker::new() });
    // These end with the session's halves: the reader when nobody receives, the writers when nobody sends.
    let tasks = TaskTracker::new();
    tasks.spawn(reading);
    tasks.spawn(write_control(send, queued, lanes.tasks.clone()));
    Ok(AgentSession {
        tx: AgentSender::new(Outbox::Quic(lanes)),
        rx: CoordinatorReceiver(Inbox::stream(received, Shutdown::default())),
        carrier: Carrier::Quic,
        better: BetterCarrier::none(),
    })
}

/// Asks whether a session could be opened over QUIC.
pub(crate) async fn probe(target: &Target, files: &TlsFiles, deadline: Duration) -> Result<(), Error> {
    let (connection, ..) = open(target, files, PROBE, deadline).await?;
    connection.close(DONE, b"");
    Ok(())
}

async fn open(
    target: &Target,
    files: &TlsFiles,
    kind: u8,
    deadline: Duration,
) -> Result<(Connection, SendStream, RecvStream), Error> {
    let tls = QuicClientConfig::try_from(files.client(ALPN_QUIC)?).map_err(Error::tls)?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(super::transport());
    let opened = timeout(deadline, async {
        let connection = shake_hands(target, config).await?;
        let (send, recv) = greet(&connection, kind).await?;
        Ok::<_, io::Error>((connection, send, recv))
    });
    match opened.await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error)) => Err(target.failed(NAME, error)),
        Err(_) => Err(target.timed_out(NAME, deadline)),
    }
}

/// Dials every address of the coordinator at once; the first that answers wins.
async fn shake_hands(target: &Target, config: quinn::ClientConfig) -> io::Result<Connection> {
    let addresses = tokio::net::lookup_host(target.text()).await?;
    let mut attempts: FuturesUnordered<_> =
        addresses.map(|address| dial(address, target, config.clone())).collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial(address: SocketAddr, target: &Target, config: quinn::ClientConfig) -> io::Result<Connection> {
    let endpoint = target.endpoints.for_address(address)?;
    let connecting = endpoint
        .connect_with(config, address, &target.name().to_str())
        .inspect_err(|_| target.endpoints.forget(address))
        .map_err(io::Error::other)?;
    connecting.await.map_err(io::Error::other)
}

/// Where dials start from: one socket for each family of addresses, as each takes megabytes for what it receives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Endpoints(Arc<Mutex<HashMap<IpAddr, Endpoint>>>);

impl Endpoints {
    fn for_address(&self, address: SocketAddr) -> io::Result<Endpoint> {
        let any = any_of(address);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = open.get(&any) {
            return Ok(endpoint.clone());
        }
        let socket = super::bind(SocketAddr::new(any, 0))?;
        let endpoint = super::endpoint(socket, EndpointConfig::default(), None)?;
        open.insert(any, endpoint.clone());
        Ok(endpoint)
    }

    /// The next dial takes a new socket: this one no longer works.
    fn forget(&self, address: SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&any_of(address));
    }
}

fn any_of(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

async fn greet(connection: &Connection, kind: u8) -> io::Result<(SendStream, RecvStream)> {
    let (mut send, mut recv) = connection.open_bi().await?;
    let [a, b, c, d] = MAGIC;
    let preface = [a, b, c, d, kind];
    send.write_all(&preface).await?;
    let mut answer = [0; 5];
    recv.read_exact(&mut answer).await.map_err(io::Error::other)?;
    if answer != preface {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks another protocol"));
    }
    Ok((send, recv))
}

/// The streams of one session, opened as their data streams appear.
#[derive(Debug)]
pub(crate) struct Lanes {
    connection: Connection,
    control: mpsc::Sender<Outgoing>,
    open: Mutex<OpenLanes>,
    tasks: TaskTracker,
}

/// Data streams have a lane each; once there are too many of them, the others share by hash. Answers of queries have one, so
/// that megabytes of them never go before batches as control does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum LaneKey {
    Own(String),
    Shared(u64),
    Answers,
}

impl Lanes {
    pub(crate) async fn send(&self, outgoing: Outgoing) -> Result<(), Error> {
        let lane = match &outgoing.message.kind {
            Some(Kind::Batch(batch)) => self.lane_of(&batch.stream),
            Some(Kind::Skip(skip)) => self.lane_of(&skip.stream),
            Some(Kind::QueryOutput(_)) => self.lane(LaneKey::Answers, &mut self.lanes()),
            _ => self.control.clone(),
        };
        enqueue(&lane, outgoing).await
    }

    fn lane_of(&self, stream: &str) -> mpsc::Sender<Outgoing> {
        /// Half of the lanes belong to one data stream each.
        const OWN: usize = QUIC_LANES_MAX as usize / 2;
        /// The others share the rest, but for that of the answers.
        const SHARED: u64 = QUIC_LANES_MAX as u64 / 2 - 1;
        let mut open = self.lanes();
        let mut key = LaneKey::Own(stream.to_owned());
        if open.len() >= OWN && !open.contains_key(&key) {
            let mut hasher = DefaultHasher::new();
            stream.hash(&mut hasher);
            key = LaneKey::Shared(hasher.finish() % SHARED);
        }
        self.lane(key, &mut open)
    }

    fn lane(&self, key: LaneKey, open: &mut OpenLanes) -> mpsc::Sender<Outgoing> {
        match open.entry(key) {
            Entry::Occupied(lane) => lane.get().clone(),
            Entry::Vacant(vacant) => {
                let (lane, queued) = mpsc::channel(QUEUE_MESSAGES);
                self.tasks.spawn(write_lane(self.connection.clone(), queued));
                vacant.insert(lane).clone()
            }
        }
    }

    fn lanes(&self) -> MutexGuard<'_, OpenLanes> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type OpenLanes = HashMap<LaneKey, mpsc::Sender<Outgoing>>;

async fn write_lane(connection: Connection, queued: mpsc::Receiver<Outgoing>) {
    let written = async {
        let mut stream = connection.open_uni().await.map_err(io::Error::from)?;
        write_messages(&mut stream, queued).await?;
        finish(stream).await
    };
    if let Err(error) = written.await {
        // The receiving half reports the end of the session; senders see the closed queue.
        debug!(%error, "lane of a session ended early");
    }
}

/// Ends the control stream only when every lane has arrived.
async fn write_control(mut stream: SendStream, queued: mpsc::Receiver<Outgoing>, lanes: TaskTracker) {
    let written = async {
        stream.set_priority(QUIC_CONTROL_PRIORITY)?;
        write_messages(&mut stream, queued).await?;
        lanes.close();
        lanes.wait().await;
        finish(stream).await
    };
    if let Err(error) = written.await {
        debug!(%error, "control stream of a session ended early");
    }
}

async fn write_messages(stream: &mut SendStream, queued: mpsc::Receiver<Outgoing>) -> io::Result<()> {
    let mut messages = std::pin::pin!(messages(queued));
    while let Some(message) = messages.next().await {
        write(stream, message).await?;
    }
    Ok(())
}

async fn write(stream: &mut SendStream, message: AgentMessage) -> io::Result<()> {
    Ok(stream.write_all_chunks(&mut wire::agent_frame(message)).await?)
}

/// Ends a stream and waits until the peer has all of it.
pub(super) async fn finish(mut stream: SendStream) -> io::Result<()> {
    stream.finish()?;
    match timeout(CLOSE_DEADLINE, stream.stopped()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
