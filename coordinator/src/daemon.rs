//! The daemon: opens its parts, says where it listens, serves, and stops in the order in which data flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aap_buffer::{Buffer, BufferConfig, RealFileSystem, SCRUB_PAUSE, scrub_for_ever};
use aap_lake::{CONSUMER, Lake, LakeDependencies};
use aap_runtime::{Clock, Home, Shutdown, Supervisor, TaskKind, notify_ready, write_durably};
use aap_sql::{Engine, EngineConfig, Serving};
use aap_store::{MetadataStore, ResourceStore};
use aap_transport::{Server, ServerConfig, TlsFiles};
use aap_types::NodeId;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::catalog::LakeAndLanding;
use crate::catalogs::Catalogs;
use crate::config::{AGENTS_PORT, Config, OPERATORS_PORT};
use crate::http;
use crate::init::{self, operator_token, prepare_home};
use crate::landing::Landing;
use crate::metadata::Metadata;
use crate::nodes::Nodes;
use crate::operator::OperatorService;
use crate::queries::{self, Queries};
use crate::resources::ResourceService;
use crate::second_copy::SecondCopy;
use crate::session::Sessions;
use crate::sinks::{SinkDependencies, Sinks};
use crate::sources::{SourceDependencies, Sources};
use crate::status::Board;

/// The coordinator as the sealer of its own batches: dead letters.
const OWN_NODE: &str = "aap-coordinator";
/// Sessions get five seconds of this, running queries what is left.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Where a coordinator listens: `run/coordinator.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// For operators.
    pub operator: SocketAddr,
    /// For agents on this machine: never the unspecified address, which nobody can dial.
    pub agents: SocketAddr,
}

/// Runs until `shutdown`.
pub async fn run(home: Home, config: Config, clock: Arc<dyn Clock>, shutdown: Shutdown) -> Result<()> {
    let (prepared, time) = (home.clone(), clock.clone());
    let names = config.agents.certificate_names(init::local_host().as_deref());
    let (tls, token) = spawn_blocking(move || -> Result<(TlsFiles, String)> {
        let authority = prepare_home(&prepared, time)?;
        let tls = authority.server_files(&names).context("issue the coordinator's certificate")?;
        init::renew_nodes(&authority)?;
        Ok((tls, operator_token(&prepared)?))
    })
    .await??;
    let parts = Parts::open(&home, &config, clock.clone()).await?;
    let stopped = Box::pin(serve(&home, &config, clock, &parts, tls, token, shutdown)).await;
    let buffer = parts.buffer;
    spawn_blocking(move || buffer.close()).await.context("close the landing buffer")?;
    info!("landing buffer closed");
    stopped
}

/// What stays open from start to stop.
struct Parts {
    store: Arc<dyn MetadataStore>,
    resources: Arc<dyn ResourceStore>,
    copy: SecondCopy,
    buffer: Buffer,
    lake: Lake,
}

impl Parts {
    async fn open(home: &Home, config: &Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let node: NodeId = OWN_NODE.parse().context("name this store")?;
        let landing = BufferConfig {
            budget: config.landing.budget,
            retain: config.landing.retain,
            durability: config.landing.durability,
            landing_consumer: CONSUMER.to_owned(),
            ..BufferConfig::new(home.coordinator().join("landing"), node)
        };
        if let Some(window) = landing.durability.loss_window() {
            warn!(durability = ?landing.durability, "{window}");
        }
        let (fs, time) = (Arc::new(RealFileSystem), clock.clone());
        let opened = spawn_blocking(move || Buffer::open(fs, time, landing))
            .await?
            .context("open the landing buffer")?;
        for problem in &opened.recovery.problems {
            warn!(%problem, "landing buffer recovered with a problem");
        }
        info!(
            segments = opened.recovery.segments,
            torn_bytes = opened.recovery.torn_bytes,
            "landing buffer open"
        );
        let buffer = opened.buffer;
        let owner: String = buffer.identity().store_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let (wanted, folder) = (config.metadata.clone(), home.coordinator());
        let opened = spawn_blocking(move || Metadata::open(&wanted, &folder, &owner));
        let Metadata { store, resources, damaged } = opened.await?.context("open the metadata store")?;
        let copy = SecondCopy::new(resources.clone(), &home.coordinator());
        let lost = copy.clone();
        let restored = spawn_blocking(move || lost.restore()).await?.context("restore what was declared")?;
        if restored > 0 {
            warn!(
                objects = restored,
                "the metadata was lost; what was declared is back from its second copy"
            );
        }
        let dependencies =
            LakeDependencies { buffer: buffer.clone(), store: store.clone(), clock, root: home.lake() };
        let lake = Lake::open(dependencies, config.lake.clone()).await.context("open the lake")?;
        if let Some(damaged) = damaged {
            lake.note(format!(
                "the metadata was damaged and was rebuilt from the lake's manifest; the damaged file is `{damaged}`"
            ));
        }
        Ok(Self { store, resources, copy, buffer, lake })
    }
}

async fn serve(
    home: &Home,
    config: &Config,
    clock: Arc<dyn Clock>,
    parts: &Parts,
    tls: TlsFiles,
    token: String,
    shutdown: Shutdown,
) -> Result<()> {
    let before = read_endpoints(home);
    let agents = bind_agents(config, before.as_ref(), tls).await?;
    let operators = bind_operators(config, before.as_ref()).await?;
    let endpoints = Endpoints { operator: operators.local_addr()?, agents: dialable(agents.address()) };

    // Agents stop first; queries and the lake go on until the sessions have landed what they had.
    let late = Shutdown::default();
    let tasks = Supervisor::new(late.clone());
    let store = parts.store.clone();
    let nodes = Nodes::new(spawn_blocking(move || store.nodes()).await??);
    nodes.expect(
        parts.buffer.tails().into_iter().map(|(key, _)| key.node).filter(|node| node.as_str() != OWN_NODE),
    );
    let landing = Landing::new(parts.buffer.clone(), parts.lake.waiting().clone(), clock.clone());
    let engine = EngineConfig {
        memory_bytes: config.query.memory.0,
        deadline: config.query.serving_limits().deadline,
        concurrency: config.query.concurrency,
        ..EngineConfig::new(home.tmp().join("coordinator"))
    };
    let serving =
        Serving::new(Engine::new(engine), clock.clone(), config.query.serving_limits(), tasks.clone());
    let catalogs = Catalogs::default();
    let declared = parts.resources.clone();
    let declared = spawn_blocking(move || declared.resources()).await??;
    catalogs.start_all(&declared);
    let queries = Queries::new(queries::Inner {
        serving,
        tables: Arc::new(LakeAndLanding { lake: parts.lake.clone(), buffer: parts.buffer.clone() }),
        nodes: nodes.clone(),
        landing: landing.clone(),
        scratch: home.tmp().join("coordinator"),
        node_answers_bytes: config.query.node_answers.0,
        catalogs: catalogs.clone(),
        fetched_bytes: config.query.fetched.0,
    });
    let sinks = Sinks::new(SinkDependencies {
        lake: parts.lake.clone(),
        buffer: parts.buffer.clone(),
        store: parts.resources.clone(),
        clock: clock.clone(),
        tasks: tasks.clone(),
    });
    let sources = Sources::new(SourceDependencies {
        landing: landing.clone(),
        clock: clock.clone(),
        tasks: tasks.clone(),
    });
    let board = Board::new(
        landing.clone(),
        parts.lake.clone(),
        nodes.clone(),
        queries.clone(),
        sinks.clone(),
        sources.clone(),
        clock.clone(),
    );
    let service = OperatorService {
        board: board.clone(),
        queries,
        lake: parts.lake.clone(),
        nodes: nodes.clone(),
        store: parts.store.clone(),
    };
    sinks.start_all().await.context("start the sinks")?;
    sources.start_all(&declared).await;
    let resources = ResourceService {
        store: parts.resources.clone(),
        copy: parts.copy.clone(),
        sinks,
        sources,
        catalogs,
        clock: clock.clone(),
        turn: Arc::default(),
    };
    let sessions = Sessions {
        landing,
        nodes,
        store: parts.store.clone(),
        clock,
        credit_bytes: config.agents.credit.0,
        room_bytes: config.agents.room.0,
        shutdown: shutdown.clone(),
    };
    tasks.spawn(TaskKind::vital("landing"), until_writer_ends(parts.buffer.clone(), late.clone()));
    tasks.spawn(TaskKind::vital("lake"), parts.lake.clone().run(late.clone()));
    let scrubber = scrub_for_ever(parts.buffer.clone(), SCRUB_PAUSE, late.clone());
    tasks.spawn(TaskKind::optional("scrubber"), scrubber);
    tasks.spawn(TaskKind::optional("rates"), board.sample(late.clone()));
    tasks
        .spawn(TaskKind::vital("operators"), http::serve(operators, service, resources, token, late.clone()));

    write_endpoints(home, &endpoints)?;
    notify_ready().context("tell the service manager")?;
    info!(agents = %agents.address(), operators = %endpoints.operator, "coordinator ready");
    let served = tokio::select! {
        served = agents.run(Arc::new(sessions), shutdown.clone()) => served.context("serve agents"),
        () = late.requested() => Err(anyhow::anyhow!("a task that is needed ended")),
    };
    info!("agent sessions ended");
    late.request();
    let abandoned = tasks.finish(STOP_DEADLINE).await;
    info!(abandoned, "queries and lake stopped");
    served
}

/// The landing buffer's writer ends only when the buffer is closed, or by a bug of ours: then nothing can land, and a new
/// start helps.
async fn until_writer_ends(buffer: Buffer, shutdown: Shutdown) -> Result<()> {
    let mut changes = buffer.changes();
    tokio::select! {
        () = async { while changes.changed().await.is_ok() {} } => {
            anyhow::bail!("the landing buffer's writer has ended")
        }
        () = shutdown.requested() => Ok(()),
    }
}

async fn bind_agents(config: &Config, before: Option<&Endpoints>, tls: TlsFiles) -> Result<Server> {
    let wanted = candidates(config.agents.bind, before.map(|e| e.agents), AGENTS_PORT);
    let mut failure = None;
    for bind in wanted {
        match Server::bind(&ServerConfig { bind, tls: tls.clone() }).await {
            Ok(server) => return Ok(server),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.map_or_else(|| anyhow::anyhow!("no address to listen on"), Into::into))
}

async fn bind_operators(config: &Config, before: Option<&Endpoints>) -> Result<TcpListener> {
    let wanted = candidates(config.operators.bind, before.map(|e| e.operator), OPERATORS_PORT);
    let mut failure = None;
    for bind in wanted {
        match TcpListener::bind(bind).await {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = Some((bind, error)),
        }
    }
    let (bind, error) = failure.context("no address to listen on")?;
    Err(anyhow::Error::new(error).context(format!("listen for operators on {bind}")))
}

/// What was set, and nothing else; or where it listened before, the default, any free port.
fn candidates(set: Option<SocketAddr>, before: Option<SocketAddr>, default_port: u16) -> Vec<SocketAddr> {
    if let Some(set) = set {
        return vec![set];
    }
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut wanted: Vec<SocketAddr> =
        before.filter(|address| address.ip().is_loopback()).into_iter().collect();
    wanted.extend([loopback(default_port), loopback(0)]);
    wanted
}

/// Where an agent of this machine dials a listener on `bound`.
fn dialable(bound: SocketAddr) -> SocketAddr {
    match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, bound.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, bound.port())),
        _ => bound,
    }
}

fn read_endpoints(home: &Home) -> Option<Endpoints> {
    let bytes = std::fs::read(home.run().join("coordinator.json")).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn write_endpoints(home: &Home, endpoints: &Endpoints) -> Result<()> {
    let path = home.run().join("coordinator.json");
    let json = serde_json::to_vec(endpoints).context("write down where it listens")?;
    write_durably(&path, &json, 0o644).with_context(|| format!("write `{path}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_of_this_machine_never_dial_the_unspecified_address() {
        for (bound, dialled) in [
            ("0.0.0.0:7400", "127.0.0.1:7400"),
            ("[::]:7400", "[::1]:7400"),
            ("10.1.2.3:7400", "10.1.2.3:7400"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(dialable(bound.parse().unwrap()), dialled.parse().unwrap());
        }
    }
}
