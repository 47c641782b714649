//! The daemon's life: what it opens, in which order it starts and stops, and how it takes a new configuration.
//!
//! Start: state directory → buffer → socket → uplink → first welcome, or a while without → sources → `run/agent.json` → ready. Stop, in the order of the data: sources → uplink →
//! buffer. Configuration is looked at every second and on SIGHUP; only sources that changed are started anew.

use std::sync::Arc;
use std::time::Duration;

use aap_buffer::{Buffer, BufferConfig, Opened, RealFileSystem, SCRUB_PAUSE, scrub_for_ever};
use aap_runtime::{Clock, Home, Shutdown, Supervisor, SystemClock, TaskKind, notify_ready, write_durably};
use aap_sql::{Engine, EngineConfig, Serving, ServingLimits};
use aap_types::{NodeId, Problem};
use anyhow::Context;
use camino::{Utf8Path, Utf8PathBuf};
use tokio::sync::Semaphore;

use crate::board::Board;
use crate::config::{self, AgentSpec, Config};
use crate::counters::Counters;
use crate::deletions::Deletions;
use crate::drain::Drain;
use crate::failpoint::Failpoints;
use crate::ingress::Ingress;
use crate::node::{self, NodeService};
use crate::operator::OperatorService;
use crate::query::NodeQueries;
use crate::source::{Listening, SourceDeps};
use crate::sources::{Sources, watch_configuration};
use crate::uplink::{self, RealDial, Renewal, UplinkDeps, landing_consumer};
use crate::welcome::FirstWelcome;

/// Version of the layout of the agent's state directory.
const STATE_VERSION: u32 = 1;
/// How long the uplink may take to end; it flushes for three of them.
const UPLINK_STOP: Duration = Duration::from_secs(5);

/// After this the first connection stands and every source has begun.
const START_UP_OVER: Duration = Duration::from_secs(5);

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where state, sockets and configuration are.
    pub home: Home,
    /// Configuration instead of the home's own: files, and folders that are laid out as `config` of a home.
    pub config: Vec<Utf8PathBuf>,
}

impl Options {
    /// The files to read now.
    pub fn files(&self) -> Vec<Utf8PathBuf> {
        if self.config.is_empty() {
            return config::config_files(&self.home.config());
        }
        let files = |path: &Utf8PathBuf| match path.is_dir() {
            true => config::config_files(path),
            false => vec![path.clone()],
        };
        self.config.iter().flat_map(files).collect()
    }
}

/// Runs the agent until it is asked to stop.
pub async fn run(options: Options, shutdown: Shutdown) -> anyhow::Result<()> {
    let loaded = config::load(&options.files()).map_err(|error| error.problem())?;
    let node = node_name(&loaded);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    prepare_state(&options.home)?;
    let opened = open_buffer(&options.home, &loaded.agent, &node, clock.clone()).await?;
    let buffer = opened.buffer.clone();
    let result = serve(&options, loaded, node, clock, opened, shutdown).await;
    tracing::info!("closing the buffer");
    tokio::task::spawn_blocking(move || buffer.close()).await.context("close the buffer")?;
    tracing::info!("agent stopped");
    result
}

async fn serve(
    options: &Options,
    config: Config,
    node: NodeId,
    clock: Arc<dyn Clock>,
    opened: Opened,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let Opened { buffer, recovery } = opened;
    let first_welcome = Arc::new(FirstWelcome::default());
    let board = Arc::new(Board::default());
    let failpoints = Failpoints::from_environment();
    let counters = Arc::new(Counters::default());
    let drain = Arc::new(Drain::of(&options.home));
    let ingress = Ingress {
        buffer: buffer.clone(),
        clock: clock.clone(),
        counters: counters.clone(),
        failpoints: failpoints.clone(),
        drain: drain.clone(),
    };
    let deletions = Arc::new(Deletions::default());
    let deps = SourceDeps {
        ingress,
        board: board.clone(),
        decoding: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, |n| n.get()))),
        first_welcome: first_welcome.clone(),
        deletions: deletions.clone(),
        home: options.home.clone(),
        listening: Arc::new(Listening::default()),
    };
    let services = Supervisor::new(Shutdown::default());
    let uplink_state = Arc::new(uplink::State::default());
    let service = NodeService::new(deps.clone(), node.clone(), uplink_state.clone(), services.shutdown());
    let serving = serving(&options.home, &config.agent, clock.clone(), services.clone());
    let operator =
        OperatorService::new(deps.clone(), node.clone(), serving.clone(), config.agent.coordinator.is_some());
    let socket = node::bind(&options.home).await?;
    services.spawn(TaskKind::vital("socket"), node::serve(socket, service, operator, services.shutdown()));

    let uplinks = Supervisor::new(Shutdown::default());
    if let Some(spec) = config.agent.coordinator.clone() {
        let dial = RealDial::new(spec, node.clone(), options.home.root().to_owned());
        let dial = Arc::new(dial.map_err(anyhow::Error::msg).context("read where coordinators are")?);
        uplinks.spawn(TaskKind::optional("discovery"), dial.keep_looking(uplinks.shutdown()));
        let renewal = Renewal::new(dial.files(), node.clone(), options.home.root().to_owned(), clock.clone());
        let queries = NodeQueries::new(serving.engine().clone(), buffer.clone());
        let uplink_deps = UplinkDeps {
            buffer: buffer.clone(),
            clock: clock.clone(),
            counters,
            board: board.clone(),
            failpoints,
            state: uplink_state,
            first_welcome: first_welcome.clone(),
            deletions,
            drain,
            queries: Some(queries),
            renewal: Some(renewal),
        };
        uplinks.spawn(TaskKind::vital("uplink"), uplink::run(dial, uplink_deps, uplinks.shutdown()));
    }

    if config.agent.coordinator.is_some() {
        tokio::select! {
            () = first_welcome.wait(recovery.created) => {}
            () = shutdown.requested() => {}
        }
    }
    first_welcome.came();
    let mut sources = Sources::new(deps.clone());
    sources.apply(config.sources.clone());
    deps.listening.settled(Duration::from_secs(2)).await;
    write_endpoints(&options.home, &deps.listening)?;
    if let Err(error) = notify_ready() {
        tracing::warn!(%error, "the service manager was not told that the agent is ready");
    }
    tracing::info!(%node, sources = config.sources.len(), coordinator = config.agent.coordinator.is_some(), "agent is ready");

    services.spawn(TaskKind::optional("memory"), release_start_up(services.shutdown()));
    let scrubber = scrub_for_ever(buffer.clone(), SCRUB_PAUSE, services.shutdown());
    services.spawn(TaskKind::optional("scrubber"), scrubber);
    let failed = services.shutdown();
    let uplink_failed = uplinks.shutdown();
    tokio::select! {
        () = watch_configuration(options, config, &mut sources, &deps) => {}
        () = shutdown.requested() => {}
        () = failed.requested() => tracing::error!("the agent's socket failed"),
        () = uplink_failed.requested() => tracing::error!("the uplink failed"),
    }
    tracing::info!("stopping sources");
    sources.stop_all().await;
    tracing::info!("stopping the uplink");
    uplinks.shutdown().request();
    let abandoned = uplinks.finish(UPLINK_STOP).await;
    services.shutdown().request();
    let left = services.finish(Duration::from_secs(2)).await;
    if abandoned + left > 0 {
        tracing::warn!(tasks = abandoned + left, "tasks were abandoned");
    }
    Ok(())
}

/// Once things have settled, what only the start needed goes back to the machine.
async fn release_start_up(shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
    tokio::select! {
        () = tokio::time::sleep(START_UP_OVER) => {}
        () = shutdown.requested() => return Ok(()),
    }
    tokio::task::spawn_blocking(aap_runtime::memory::release_start_up).await.ok();
    Ok(())
}

fn node_name(config: &Config) -> NodeId {
    config.node.clone().unwrap_or_else(|| {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        NodeId::from_host_name(&host)
    })
}

/// Makes the directories and refuses a layout of a newer version.
fn prepare_state(home: &Home) -> anyhow::Result<()> {
    aap_runtime::refuse_exposed(home)?;
    for directory in [home.root().to_owned(), home.run(), home.agent(), home.tmp().join("agent")] {
        make_private(&directory)?;
    }
    let version_file = home.agent().join("version");
    match std::fs::read_to_string(&version_file) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(version) if version <= STATE_VERSION => Ok(()),
            Ok(version) => Err(newer_state(home, version).into()),
            Err(_) => anyhow::bail!("`{version_file}` does not hold a version number"),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_durably(&version_file, format!("{STATE_VERSION}\n").as_bytes(), 0o600)
                .with_context(|| format!("write `{version_file}`"))
        }
        Err(error) => Err(error).with_context(|| format!("read `{version_file}`")),
    }
}

fn newer_state(home: &Home, version: u32) -> Problem {
    let message = format!(
        "the state in `{}` has version {version}; this agent knows versions up to {STATE_VERSION}",
        home.agent()
    );
    Problem::new("agent.newer_state", aap_types::ExitCode::Conflict, message)
        .hint("start the newer agent that wrote it, or choose another directory with `--home`")
}

fn make_private(directory: &Utf8Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("create directory `{directory}`"))
}

async fn open_buffer(
    home: &Home,
    spec: &AgentSpec,
    node: &NodeId,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Opened> {
    let config = buffer_config(home, spec, node)?;
    let directory = config.directory.clone();
    let durability = config.durability;
    let opened = tokio::task::spawn_blocking(move || Buffer::open(Arc::new(RealFileSystem), clock, config))
        .await
        .context("open the buffer")?
        .map_err(|error| buffer_problem(&directory, &error))?;
    if let Some(window) = durability.loss_window() {
        tracing::warn!(window, "the buffer does not sync before it answers");
    }
    for problem in &opened.recovery.problems {
        tracing::warn!(problem, "recovery of the buffer");
    }
    let recovery = &opened.recovery;
    tracing::info!(
        created = recovery.created,
        segments = recovery.segments,
        torn_bytes = recovery.torn_bytes,
        "buffer is open"
    );
    Ok(opened)
}

fn buffer_problem(directory: &Utf8Path, error: &aap_buffer::Error) -> Problem {
    let problem = error.problem();
    match error {
        aap_buffer::Error::Locked { .. } => problem
            .hint(format!(
                "another agent runs with this home; its process id is in `{directory}/../../run/agent.pid`"
            ))
            .hint("give each agent a home of its own with `--home`"),
        _ => problem,
    }
}

fn buffer_config(home: &Home, spec: &AgentSpec, node: &NodeId) -> anyhow::Result<BufferConfig> {
    let mut settings = serde_json::json!({
        "directory": home.agent().join("buffer"),
        "node": node,
        "landing_consumer": landing_consumer(),
    });
    let own = serde_json::to_value(&spec.buffer).context("read buffer settings")?;
    for (key, value) in own.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        settings[key] = value.clone();
    }
    serde_json::from_value(settings).context("read buffer settings")
}

fn serving(home: &Home, spec: &AgentSpec, clock: Arc<dyn Clock>, tasks: Supervisor) -> Serving {
    let mut config = EngineConfig::new(home.tmp().join("agent"));
    config.memory_bytes = spec.query.memory.0;
    config.deadline = spec.query.deadline.0;
    config.concurrency = spec.query.concurrency;
    let limits = ServingLimits {
        deadline: spec.query.deadline.0,
        deadline_max: spec.query.deadline.0,
        memory_bytes: spec.query.memory.0,
    };
    Serving::new(Engine::new(config), clock, limits, tasks)
}

/// Says where the agent listens, for `aap` and for whoever posts to it.
pub(crate) fn write_endpoints(home: &Home, listening: &Listening) -> anyhow::Result<()> {
    let endpoints = serde_json::json!({
        "socket": home.agent_socket(),
        "http": listening.address().map(|address| address.to_string()),
        "pid": std::process::id(),
    });
    let path = home.run().join("agent.json");
    write_durably(&path, format!("{endpoints}\n").as_bytes(), 0o600)
        .with_context(|| format!("write `{path}`"))
}
