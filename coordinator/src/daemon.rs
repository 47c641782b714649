//! The daemon: opens its parts, says where it listens, serves, and stops in the order in which data flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aap_access::{Address, HashKey};
use aap_buffer::{Buffer, SCRUB_PAUSE, scrub_for_ever};
use aap_runtime::{
    Clock, Home, SecretSource, Shutdown, Supervisor, TaskKind, notify_ready, resolve_secrets, write_durably,
};
use aap_sql::{Engine, EngineConfig, Serving};
use aap_store::AccessStore;
use aap_transport::{HttpListener, LiveTls, OwnFiles, Security, Server, ServerConfig};
use aap_types::{CoordinatorName, NodeId};
use aap_vault::Vault;
use anyhow::{Context, Result};
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tracing::info;

use crate::access::{AccessService, Denials, Gate, Guard, People};
use crate::audit::AuditService;
use crate::beside::Beside;
use crate::catalog::LakeAndLanding;
use crate::catalogs::Catalogs;
use crate::certificates::Certificates;
use crate::cluster::{self, Answering, ClusterConfig, Joined, Peers};
use crate::config::{AGENTS_PORT, Config, OPERATORS_PORT};
use crate::enrolment::EnrolmentService;
use crate::gateway::{Front, Hops, Limits, Routes, serve_routes};
use crate::http::{self, Services};
use crate::identities::Identities;
use crate::init::{self, installation_key, operator_token, prepare_home};
use crate::kept_sessions::SessionsElsewhere;
use crate::landing::{Landed, Landing};
use crate::nodes::Nodes;
use crate::oidc::ExternalLogins;
use crate::operator::OperatorService;
use crate::parts::{Parts, store_id};
use crate::queries::{self, Queries};
use crate::reach::Reach;
use crate::resources::ResourceService;
use crate::secrets::{Secrets, SecretsService};
use crate::session::Sessions;
use crate::sinks::{SinkDependencies, Sinks};
use crate::sources::{SourceDependencies, Sources};
use crate::status::Board;

/// The coordinator as the sealer of its own batches: dead letters.
pub(crate) const OWN_NODE: &str = "aap-coordinator";
/// Sessions get five seconds of this, running queries what is left.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Where a coordinator listens: `run/coordinator.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// For operators.
    pub operator: SocketAddr,
    /// The authority of the certificate there, from the home on. Earlier versions had none: they spoke without TLS.
    #[serde(default)]
    pub operator_ca: Option<Utf8PathBuf>,
    /// For agents on this machine: never the unspecified address, which nobody can dial.
    pub agents: SocketAddr,
}

/// Runs until `shutdown`.
pub async fn run(home: Home, config: Config, clock: Arc<dyn Clock>, shutdown: Shutdown) -> Result<()> {
    let (prepared, time) = (home.clone(), clock.clone());
    let mut names = config.certificate_names(init::local_host().as_deref());
    let cluster = config.cluster.as_ref();
    names.extend(cluster.and_then(ClusterConfig::advertised_host).map(str::to_owned));
    let name = cluster.map(|cluster| cluster.coordinator.parse::<CoordinatorName>()).transpose()?;
    let elsewhere = config.operators.tls.as_ref().map(|own| OwnFiles {
        certificate: home.root().join(&own.certificate),
        key: home.root().join(&own.key),
    });
    let own = spawn_blocking(move || -> Result<Own> {
        let authority = prepare_home(&prepared, time)?;
        let certificates = Certificates::issue(authority, names, name, elsewhere)?;
        let (token, key) = (operator_token(&prepared)?, installation_key(&prepared)?);
        Ok(Own { certificates, token, key, vault: None })
    })
    .await??;
    let vault = config.vault.clone().map(|spec| Vault::new(spec, home.root(), clock.clone()));
    let vault = vault.transpose().map_err(anyhow::Error::msg).context("use `vault` of the configuration")?;
    if let Some(vault) = &vault {
        resolve_secrets(&config.secrets(), vault)
            .await
            .context("read the secrets that the configuration refers to")?;
    }
    let own = Own { vault, ..own };
    if !config.metadata.reachable(&shutdown).await? {
        return Ok(());
    }
    let parts = Parts::open(&home, &config, clock.clone()).await?;
    let stopped = Box::pin(serve(&home, &config, clock, &parts, own, shutdown)).await;
    parts.close().await?;
    stopped
}

/// As whom it is there, and what it knows others by.
struct Own {
    certificates: Certificates,
    /// What operators of this machine show.
    token: String,
    /// Under which secrets that it issues are hashed.
    key: HashKey,
    /// Whom it asks for secrets of Vault.
    vault: Option<Vault>,
}

async fn serve(
    home: &Home,
    config: &Config,
    clock: Arc<dyn Clock>,
    parts: &Parts,
    own: Own,
    shutdown: Shutdown,
) -> Result<()> {
    let before = read_endpoints(home);
    let Own { certificates, token, key, vault } = own;
    let security = operators_security(config, certificates.live())?;
    let mut agents = bind_agents(config, before.as_ref(), certificates.live()).await?;
    let operators = bind_operators(config, before.as_ref()).await?;
    let endpoints = Endpoints {
        operator: dialable(operators.local_addr()?),
        operator_ca: Some(init::AUTHORITY.into()),
        agents: dialable(agents.address()),
    };
    let hops = Hops::new(&config.gateway.trusted_hops);
    let behind = |listener: HttpListener| {
        let (trusted, believed) = (hops.clone(), hops.clone());
        let listener = listener.with_hops(move |address| address.is_loopback() || trusted.trusts(address));
        match config.gateway.proxy_protocol {
            true => listener.behind_proxies(move |address| believed.trusts(address)),
            false => listener,
        }
    };
    let operators = behind(HttpListener::new(operators, security).telling_strangers());
    let routed = bind_gateway(home, config, certificates.live()).await?.map(behind);

    // Agents stop first; queries and the lake go on until the sessions have landed what they had.
    let late = Shutdown::default();
    let tasks = Supervisor::new(late.clone());
    // What sinks, sources and the lake of a cluster stand on ends after them.
    let base = Supervisor::new(Shutdown::default());
    let store = parts.store.clone();
    let nodes = Nodes::new(spawn_blocking(move || store.nodes()).await??);
    let is_node = |node: &NodeId| node.as_str() != OWN_NODE && !cluster::is_sealer(node);
    nodes.expect(parts.buffer.tails().into_iter().map(|(key, _)| key.node).filter(is_node));
    let landed = Landed::new(parts.lake.waiting().clone());
    let joined = match &parts.shared {
        None => None,
        Some(shared) => {
            let own = (parts.buffer.clone(), parts.lake.clone());
            let address = endpoints.agents.to_string();
            let joined =
                Joined::new(shared.clone(), own, &address, landed.clone(), clock.clone(), &shutdown).await?;
            let Some(joined) = joined else { return Ok(()) };
            Some(joined)
        }
    };
    let landing = match &joined {
        None => Landing::new(parts.buffer.clone(), landed, clock.clone()),
        Some(joined) => {
            let shards = joined.shards.clone();
            Landing::in_cluster(parts.buffer.clone(), shards, landed, clock.clone())
        }
    };
    let engine = EngineConfig {
        memory_bytes: config.query.memory.0,
        deadline: config.query.serving_limits().deadline,
        concurrency: config.query.concurrency,
        ..EngineConfig::new(home.tmp().join("coordinator"))
    };
    let serving =
        Serving::new(Engine::new(engine), clock.clone(), config.query.serving_limits(), tasks.clone());
    if let Some(vault) = &vault {
        tasks.spawn(TaskKind::optional("token for Vault"), vault.clone().keep(late.clone()));
    }
    let secrets = Secrets::new(parts.access.clone(), (home, &config.secrets), vault, clock.clone());
    secrets.reseal().await;
    let secret_source: Arc<dyn SecretSource> = Arc::new(secrets.clone());
    let catalogs = Catalogs::new(secret_source.clone());
    let declared = parts.resources.clone();
    let declared = spawn_blocking(move || declared.resources()).await??;
    let routes = Routes::new(clock.clone(), tasks.clone(), secret_source.clone());
    if joined.is_none() {
        catalogs.start_all(&declared);
        routes.start_all(&declared);
    }
    let reach = match (&joined, certificates.caller()) {
        (Some(joined), Some(caller)) => {
            let peers = Peers::new(joined.leases.clone(), caller, clock.clone());
            Reach::in_cluster(nodes.clone(), peers, parts.store.clone())
        }
        _ => Reach::alone(nodes.clone()),
    };
    let queries = Queries::new(queries::Inner {
        serving,
        tables: Arc::new(LakeAndLanding { lake: parts.lake.clone(), buffer: parts.buffer.clone() }),
        reach,
        landing: landing.clone(),
        scratch: home.tmp().join("coordinator"),
        node_answers_bytes: config.query.node_answers.0,
        catalogs: catalogs.clone(),
        fetched_bytes: config.query.fetched.0,
        spark: config.spark.clone(),
    });
    let sinks = Sinks::new(SinkDependencies {
        lake: parts.lake.clone(),
        buffer: parts.buffer.clone(),
        store: parts.resources.clone(),
        clock: clock.clone(),
        tasks: tasks.clone(),
        secrets: secret_source.clone(),
    });
    let sources = Sources::new(SourceDependencies {
        landing: landing.clone(),
        clock: clock.clone(),
        tasks: tasks.clone(),
        secrets: secret_source.clone(),
    });
    let advertised = config.advertised(&endpoints);
    let who = config.cluster.as_ref().map_or_else(|| store_id(&parts.buffer), |own| own.coordinator.clone());
    let consul = config.discovery.registration(&who, &advertised).map_err(anyhow::Error::msg)?;
    let beside = Beside { sessions: config.sessions.open(&key), consul };
    let board = Board::new(
        landing.clone(),
        parts.lake.clone(),
        nodes.clone(),
        queries.clone(),
        (sinks.clone(), sources.clone()),
        beside.clone(),
        clock.clone(),
    );
    let lead = joined.as_ref().map(|joined| {
        let routes = routes.clone();
        joined.lead(sinks.clone(), sources.clone(), catalogs.clone(), routes, clock.clone())
    });
    let life = Duration::from_secs(config.agents.certificate_seconds);
    let issuer = (certificates.authority().clone(), key);
    let access: Arc<dyn AccessStore> = match &beside.sessions {
        Some(sessions) => Arc::new(SessionsElsewhere::new(parts.access.clone(), sessions.clone())),
        None => parts.access.clone(),
    };
    let identities = Identities::new(access, issuer, life, nodes.clone(), clock.clone());
    if joined.is_some() {
        tasks.spawn(TaskKind::vital("standing of nodes"), identities.clone().watch(late.clone()));
    }
    let operators_at: Address =
        advertised.operators.parse().context("say where operators find this coordinator")?;
    let guard = Guard::new(token, identities.clone(), parts.resources.clone());
    let people = People::new(identities.clone(), guard.clone()).context("get random numbers")?;
    tasks.spawn(TaskKind::optional("records of access"), people.clone().tidy(late.clone()));
    let limits = Limits::new(&config.gateway, clock.clone());
    let denials = Denials::new(parts.audit.clone(), clock.clone());
    let gate = Gate::new(guard.clone(), parts.audit.clone(), limits.clone(), denials.clone());
    let logins = config.oidc.as_ref().map(|oidc| ExternalLogins::new(oidc, home.root(), clock.clone()));
    let logins = logins.transpose().context("open the authority of the provider of identities")?;
    let access = AccessService::new(
        identities.clone(),
        people.clone(),
        logins,
        certificates.clone(),
        vec![operators_at],
    );
    let enrolment =
        EnrolmentService::new(identities.clone(), advertised.agents, joined.clone(), denials.clone());
    let service = OperatorService {
        board: board.clone(),
        queries,
        lake: parts.lake.clone(),
        nodes: nodes.clone(),
        store: parts.store.clone(),
        identities: identities.clone(),
        lead: lead.clone(),
    };
    match (&joined, &lead) {
        (Some(joined), Some(lead)) => {
            joined.start(&tasks, &base, lead.clone());
            let (nodes, board, tasks) = (nodes.clone(), board.clone(), tasks.clone());
            agents = agents.with_peers(Answering { nodes, board, tasks });
        }
        _ => {
            sinks.start_all(&declared).await;
            sources.start_all(&declared).await;
        }
    }
    let secrets = SecretsService { secrets, resources: parts.resources.clone(), sinks: sinks.clone() };
    let resources = ResourceService {
        store: parts.resources.clone(),
        copy: parts.copy.clone(),
        sinks,
        sources,
        catalogs,
        routes: routes.clone(),
        clock: clock.clone(),
        guard: guard.clone(),
        people,
        lead,
        joined: joined.clone(),
        secrets: secret_source,
        own: config.own_files(home.root()),
        turn: Arc::default(),
    };
    let sessions = Sessions {
        landing,
        nodes,
        store: parts.store.clone(),
        identities: Some(identities),
        clock,
        credit_bytes: config.agents.credit.0,
        room_bytes: config.agents.room.0,
        shutdown: shutdown.clone(),
    };
    tasks.spawn(TaskKind::optional("certificates"), certificates.run(late.clone()));
    tasks.spawn(TaskKind::vital("landing"), until_writer_ends(parts.buffer.clone(), late.clone()));
    tasks.spawn(TaskKind::vital("lake"), parts.lake.clone().run(late.clone()));
    let scrubber = scrub_for_ever(parts.buffer.clone(), SCRUB_PAUSE, late.clone());
    tasks.spawn(TaskKind::optional("scrubber"), scrubber);
    tasks.spawn(TaskKind::optional("rates"), board.sample(late.clone()));
    let audit = AuditService::new(parts.audit.clone(), late.clone());
    let services = Services { operator: service, resources, access, audit, enrolment, secrets };
    let operators_served =
        http::serve(operators, services, (gate, routes.clone(), hops.clone()), late.clone());
    tasks.spawn(TaskKind::vital("operators"), operators_served);
    if let Some(listener) = routed {
        info!(address = %listener.address()?, "routes are served");
        let front = Front { routes, guard, limits, denials };
        tasks.spawn(TaskKind::vital("routes"), serve_routes(listener, front, hops, late.clone()));
    }

    if let Some(consul) = beside.consul {
        // Taken back as soon as the stop begins: whoever looks then goes elsewhere.
        let until = shutdown.clone();
        tasks.spawn(TaskKind::optional("registration in Consul"), async move { consul.keep(until).await });
    }
    write_endpoints(home, &endpoints)?;
    notify_ready().context("tell the service manager")?;
    info!(agents = %agents.address(), operators = %endpoints.operator, "coordinator ready");
    let gone = base.shutdown();
    let served = tokio::select! {
        served = agents.run(Arc::new(sessions), shutdown.clone()) => served.context("serve agents"),
        () = late.requested() => Err(anyhow::anyhow!("a task that is needed ended")),
        () = gone.requested() => Err(anyhow::anyhow!("a task that the cluster needs ended")),
    };
    info!("agent sessions ended");
    late.request();
    let abandoned = tasks.finish(STOP_DEADLINE).await;
    info!(abandoned, "queries and lake stopped");
    base.shutdown().request();
    base.finish(STOP_DEADLINE).await;
    if let Some(joined) = joined {
        // Nothing is done under them any more: whoever needs them has them at once.
        joined.leases.give_all_up().await;
    }
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

async fn bind_agents(config: &Config, before: Option<&Endpoints>, tls: &LiveTls) -> Result<Server> {
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

/// Operators' clients come with TLS. On loopback also those come who monitor: they show no token, and get no secrets.
fn operators_security(config: &Config, tls: &LiveTls) -> Result<Security> {
    let server = tls.operators(&http::PROTOCOLS).context("open the certificate for operators")?;
    let is_remote = config.operators.bind.is_some_and(|bind| !bind.ip().is_loopback());
    Ok(if is_remote { Security::Tls(server) } else { Security::Offered(server) })
}

/// Where routes are served, if they are.
async fn bind_gateway(home: &Home, config: &Config, tls: &LiveTls) -> Result<Option<HttpListener>> {
    let Some(listen) = config.gateway.listen else { return Ok(None) };
    let own = config.gateway.tls.as_ref();
    let own = own.map(|own| OwnFiles {
        certificate: home.root().join(&own.certificate),
        key: home.root().join(&own.key),
    });
    let security = match own {
        None => Security::Plain,
        Some(own) => {
            let server = tls.beside(own).and_then(|tls| tls.operators(&http::PROTOCOLS[..2]));
            Security::Tls(server.context("open the certificate of the gateway")?)
        }
    };
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("listen for routes on {listen}"))?;
    Ok(Some(HttpListener::new(listener, security)))
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
