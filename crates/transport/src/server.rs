//! The listener for agents: one port number, its limits, and the sessions that come out of it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use aap_proto::v1::peer_server::Peer;
use aap_runtime::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tracing::{debug, warn};

use crate::gate::Gate;
use crate::grpc::{self, AcceptedStream};
use crate::identity::Identity;
use crate::limits::{
    ACCEPT_PAUSE, CLOSE_DEADLINE, HANDSHAKE_DEADLINE, HTTP2_STREAMS_MAX, PEER_STREAMS_MAX, PORT_TRIES,
};
use crate::tls::ALPN_GRPC;
use crate::{Error, LiveTls, SessionHandler, quic};

/// Where a coordinator listens for agents, and as whom.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Address of both UDP and TCP; port 0 takes one that is free for both.
    pub bind: SocketAddr,
    /// Identity of the coordinator and roots of the authority.
    pub tls: LiveTls,
}

/// A bound listener that does not accept yet.
#[derive(Debug)]
pub struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
    address: SocketAddr,
    tls: LiveTls,
    /// What other coordinators call, where this is one of several.
    peers: Option<Routes>,
}

/// A running listener.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    task: JoinHandle<Result<(), Error>>,
}

impl Serving {
    /// Where it listens, with UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for its end, which the request to stop brings.
    pub async fn finished(self) -> Result<(), Error> {
        self.task.await.unwrap_or_else(|panic| Err(Error::broken(panic)))
    }
}

/// Binds and serves until `shutdown`, in a task of its own.
pub async fn serve(
    config: ServerConfig,
    handler: Arc<dyn SessionHandler>,
    shutdown: Shutdown,
) -> Result<Serving, Error> {
    let server = Server::bind(&config).await?;
    let address = server.address();
    #[expect(
        clippy::disallowed_methods,
        reason = "owned by the returned value, which hands its end to the caller"
    )]
    let task = tokio::spawn(server.run(handler, shutdown));
    Ok(Serving { address, task })
}

/// What the two carriers share.
#[derive(Clone)]
pub(crate) struct Listening {
    pub(crate) handler: Arc<dyn SessionHandler>,
    /// The sessions that run.
    pub(crate) tasks: TaskTracker,
    pub(crate) gate: Gate,
}

impl Server {
    /// Takes the port. Agents that dial before [`Server::run`] wait.
    pub async fn bind(config: &ServerConfig) -> Result<Self, Error> {
        let fail = |source| Error::Bind { address: config.bind, source: Arc::new(source) };
        let (tcp, udp) = bind_both(config.bind).await.map_err(fail)?;
        let address = tcp.local_addr().map_err(fail)?;
        Ok(Self { tcp, udp, address, tls: config.tls.clone(), peers: None })
    }

    /// Answers other coordinators of the cluster too, over TCP: `service` gets calls of those whose certificate names a
    /// coordinator, and finds the [`aap_types::CoordinatorName`] among the extensions of the request. Without this they are not let in.
    #[must_use]
    pub fn with_peers(self, service: impl Peer) -> Self {
        Self { peers: Some(grpc::peers(service)), ..self }
    }

    /// Where it listens, with UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`; then sessions get their end (`recv` gives `None`) and five seconds to finish.
    pub async fn run(self, handler: Arc<dyn SessionHandler>, shutdown: Shutdown) -> Result<(), Error> {
        let listening = Listening { handler, tasks: TaskTracker::new(), gate: Gate::default() };
        let tls = self.tls.agents(ALPN_GRPC)?;
        let tcp = run_tcp(self.tcp, tls, self.peers, listening.clone(), shutdown.clone());
        let udp = quic::run(self.udp, &self.tls, listening.clone(), shutdown.clone());
        let too_late = async {
            shutdown.requested().await;
            sleep(CLOSE_DEADLINE).await;
        };
        tokio::select! {
            result = async { tokio::try_join!(tcp, udp) } => result.map(drop),
            () = too_late => {
                warn!(sessions = listening.tasks.len(), "agent sessions did not end in time and are cut");
                Ok(())
            }
        }
    }
}

/// Binds TCP and UDP to one port number.
async fn bind_both(address: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    let mut tries = PORT_TRIES;
    loop {
        let tcp = TcpListener::bind(address).await?;
        match quic::bind(tcp.local_addr()?) {
            Ok(udp) => return Ok((tcp, udp)),
            // Any port will do, and this one is taken for UDP.
            Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {
                tries -= 1
            }
            Err(error) => return Err(error),
        }
    }
}

/// Where accepted connections go. Nodes and coordinators are served apart, because one call at a time is enough for a node.
struct Accepted {
    nodes: mpsc::Sender<AcceptedStream>,
    /// Absent where no coordinator is let in.
    coordinators: Option<mpsc::Sender<AcceptedStream>>,
}

async fn run_tcp(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    peers: Option<Routes>,
    listening: Listening,
    stop: Shutdown,
) -> Result<(), Error> {
    // One place: an accepted connection is taken up at once.
    let (nodes, queued_nodes) = mpsc::channel(1);
    let (coordinators, queued_coordinators) = mpsc::channel(1);
    let accepted = Accepted { nodes, coordinators: peers.is_some().then_some(coordinators) };
    let tls = TlsAcceptor::from(Arc::new(tls));
    let accept = accept_tcp(listener, tls, accepted, listening.gate.clone());
    // Both services on both, so that whoever calls the wrong one is told that it may not.
    let routes = grpc::with_sessions(peers.unwrap_or_default(), listening, stop.clone());
    let ((), served_nodes, served_coordinators) = tokio::join!(
        until(&stop, accept),
        grpc::run(queued_nodes, routes.clone(), HTTP2_STREAMS_MAX, stop.clone()),
        grpc::run(queued_coordinators, routes, PEER_STREAMS_MAX, stop.clone()),
    );
    served_nodes.and(served_coordinators)
}

/// Runs `work` until `shutdown`.
async fn until(shutdown: &Shutdown, work: impl Future<Output = ()>) {
    tokio::select! {
        () = shutdown.requested() => {}
        () = work => {}
    }
}

/// Accepts for ever. No error of a peer or of the descriptor table ends it.
async fn accept_tcp(listener: TcpListener, tls: TlsAcceptor, accepted: Accepted, gate: Gate) {
    let accepted = Arc::new(accepted);
    let tasks = TaskTracker::new();
    let mut failing = false;
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "accepting agents failed; trying on");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        let Some((turn, place)) = gate.admit(address.ip()) else {
            debug!(%address, "connection refused: limit reached");
            continue;
        };
        let (tls, accepted) = (tls.clone(), accepted.clone());
        tasks.spawn(async move {
            let handshake = AcceptedStream::accept(&tls, stream, address, place);
            let result = timeout(HANDSHAKE_DEADLINE, handshake).await;
            drop(turn);
            match result {
                Ok(Ok(stream)) => accepted.take(stream, address).await,
                Ok(Err(error)) => debug!(%address, error = %chain(&error), "handshake refused"),
                Err(_) => debug!(%address, "handshake took too long"),
            }
        });
    }
}

impl Accepted {
    async fn take(&self, stream: AcceptedStream, address: SocketAddr) {
        let queue = match stream.identity() {
            Identity::Node(node, _) => {
                debug!(%address, %node, "node connected");
                &self.nodes
            }
            Identity::Coordinator(coordinator) => {
                let Some(queue) = &self.coordinators else {
                    debug!(%address, %coordinator, "handshake refused: this coordinator is in no cluster");
                    return;
                };
                debug!(%address, %coordinator, "coordinator connected");
                queue
            }
        };
        // The receiver is gone only when the listener stops.
        drop(queue.send(stream).await);
    }
}

/// An error with its sources on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
