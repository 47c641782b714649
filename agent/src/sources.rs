//! The running sources, and how a new configuration reaches only those that it changes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aap_runtime::Shutdown;
use camino::Utf8PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::board::{SourceEntry, SourceState};
use crate::config::{self, Config, SourceConfig, SourceSpec};
use crate::daemon::{Options, write_endpoints};
use crate::source::{self, SourceDeps};

/// How often the configuration files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between attempts to start a source that cannot run.
const RETRY: Duration = Duration::from_secs(2);
/// How long a source may take to stop: a file source lets its appends come home.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

struct Running {
    config: SourceConfig,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

/// All sources that run.
pub(crate) struct Sources {
    deps: SourceDeps,
    running: BTreeMap<String, Running>,
    /// Former selves that may still have appends under way, by name.
    stopping: BTreeMap<String, JoinHandle<()>>,
}

impl Sources {
    pub(crate) fn new(deps: SourceDeps) -> Self {
        Self { deps, running: BTreeMap::new(), stopping: BTreeMap::new() }
    }

    /// Starts what is new, stops what is gone, starts anew what changed, and leaves the rest alone. While the node is being drained, only
    /// sources run that tell whoever asks them so.
    pub(crate) fn apply(&mut self, mut wanted: Vec<SourceConfig>) {
        if self.deps.ingress.drain.is_draining() {
            wanted.retain(|config| refuses(&config.spec));
        }
        let gone = self.running.iter().filter(|(_, running)| !wanted.contains(&running.config));
        let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
        gone.iter().for_each(|name| self.stop(name));
        for config in wanted {
            if !self.running.contains_key(&config.name) {
                self.start(config);
            }
        }
        self.stopping.retain(|_, task| !task.is_finished());
    }

    /// Lets those that remember how far they read look again: positions came back from the coordinator.
    pub(crate) fn restart_replayable(&mut self) {
        let is_replayable = |spec: &SourceSpec| matches!(spec, SourceSpec::File(_) | SourceSpec::Journald(_));
        let files = self.running.values().filter(|running| is_replayable(&running.config.spec));
        let configs: Vec<SourceConfig> = files.map(|running| running.config.clone()).collect();
        for config in configs {
            self.stop(&config.name);
            self.start(config);
        }
    }

    fn stop(&mut self, name: &str) {
        let Some(running) = self.running.remove(name) else { return };
        tracing::info!(source = name, "stopping source");
        running.shutdown.request();
        self.deps.board.remove_source(name);
        self.stopping.insert(name.to_owned(), running.task);
    }

    /// Starts one source, after its former self has ended: two readers of one file would take its bytes twice.
    fn start(&mut self, config: SourceConfig) {
        let before = self.stopping.remove(&config.name);
        let shutdown = Shutdown::default();
        let entry = SourceEntry {
            kind: config.spec.type_name(),
            stream: config.spec.streams_text(),
            guarantee: config.spec.guarantee(),
            state: SourceState::Running,
            detail: String::new(),
            problems: BTreeMap::new(),
        };
        self.deps.board.add_source(&config.name, entry);
        if matches!(config.spec, SourceSpec::Http(_)) {
            self.deps.listening.expect();
        }
        let (deps, own, stop) = (self.deps.clone(), config.clone(), shutdown.clone());
        let taking = (!refuses(&config.spec)).then(|| deps.ingress.drain.taking());
        #[expect(clippy::disallowed_methods, reason = "kept here, which stops it and waits for it")]
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                follow_on(&own.name, before, &deps).await;
            }
            keep_running(own, deps, stop).await;
            drop(taking);
        });
        self.running.insert(config.name.clone(), Running { config, shutdown, task });
    }

    /// Stops all and waits for them.
    pub(crate) async fn stop_all(&mut self) {
        let running = std::mem::take(&mut self.running);
        running.values().for_each(|running| running.shutdown.request());
        let tasks = running.into_values().map(|running| running.task);
        let tasks = tasks.chain(std::mem::take(&mut self.stopping).into_values());
        let all = futures::future::join_all(tasks);
        if tokio::time::timeout(STOP_DEADLINE, all).await.is_err() {
            tracing::warn!("sources were abandoned; what they had not stored is read again");
        }
    }
}

/// Whether a source answers those who bring it rows, so that it can refuse them.
fn refuses(spec: &SourceSpec) -> bool {
    matches!(spec, SourceSpec::Http(_) | SourceSpec::Otlp(_) | SourceSpec::RemoteWrite(_))
}

/// Waits for a source's former self, and for what that left in the queue of the buffer: it commits, and counts as read.
async fn follow_on(name: &str, before: JoinHandle<()>, deps: &SourceDeps) {
    if let Err(error) = before.await {
        tracing::error!(source = name, %error, "the source's former self failed");
    }
    if let Err(error) = deps.ingress.buffer.adopt_positions(vec![]).await {
        tracing::error!(source = name, %error, "the buffer does not answer");
    }
}

/// Runs one source, and again when it failed, until it is asked to stop.
async fn keep_running(config: SourceConfig, deps: SourceDeps, shutdown: Shutdown) {
    let name = config.name.clone();
    deps.board.source(&name, |entry| entry.state = SourceState::Running);
    while !shutdown.is_requested() {
        let (own, stop) = (config.clone(), shutdown.clone());
        #[expect(clippy::disallowed_methods, reason = "awaited here; apart only so that a panic is its own")]
        let run = tokio::spawn(source::run(own, deps.clone(), stop));
        let failure = match run.await {
            Ok(Ok(())) => {
                deps.board.source(&name, |entry| entry.state = SourceState::Stopped);
                return;
            }
            Ok(Err(error)) => match std::error::Error::source(&error) {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            },
            Err(error) => format!("failed unexpectedly: {error}"),
        };
        deps.board.source(&name, |entry| entry.state = SourceState::Failed);
        if deps.board.source_problem(&name, "start", Some(failure.clone())) {
            tracing::error!(source = name, error = failure, "source cannot run; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.requested() => return,
        }
        deps.board.source(&name, |entry| entry.state = SourceState::Running);
        deps.board.source_problem(&name, "start", None);
    }
}

/// What the configuration files look like from outside.
type Look = Vec<(Utf8PathBuf, Option<(SystemTime, u64)>)>;

fn look(options: &Options) -> Look {
    let seen = |path: Utf8PathBuf| {
        let metadata = std::fs::metadata(&path).ok();
        let stamp = metadata.and_then(|m| m.modified().ok().map(|time| (time, m.len())));
        (path, stamp)
    };
    options.files().into_iter().map(seen).collect()
}

/// Applies the configuration whenever its files change or SIGHUP asks for it. Never returns.
pub(crate) async fn watch_configuration(
    options: &Options,
    mut current: Config,
    sources: &mut Sources,
    deps: &SourceDeps,
) {
    let mut hangup = signal(SignalKind::hangup()).ok();
    let mut seen = look(options);
    let mut adoptions = deps.first_welcome.adoptions();
    // What was decided until now is followed at once.
    let mut drained = deps.ingress.drain.changes();
    sources.apply(current.sources.clone());
    loop {
        let asked = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let forced = tokio::select! {
            _ = asked => true,
            Ok(()) = adoptions.changed() => {
                tracing::info!("positions came back from the coordinator; file sources begin again");
                sources.restart_replayable();
                continue;
            }
            Ok(()) = drained.changed() => {
                sources.apply(current.sources.clone());
                continue;
            }
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        let now = look(options);
        if now == seen && !forced {
            continue;
        }
        seen = now;
        match config::load(&options.files()) {
            Ok(loaded) => {
                deps.board.note("config", None);
                if loaded.agent != current.agent || loaded.node != current.node {
                    let text =
                        "the `Agent` document changed; that takes effect at the next start of the agent";
                    tracing::warn!("{text}");
                    deps.board.note("agent", Some(text.to_owned()));
                }
                tracing::info!(sources = loaded.sources.len(), "configuration read again");
                sources.apply(loaded.sources.clone());
                current = Config { sources: loaded.sources, ..current };
                deps.listening.settled(Duration::from_secs(2)).await;
                if let Err(error) = write_endpoints(&options.home, &deps.listening) {
                    tracing::warn!(%error, "endpoints are not written");
                }
            }
            Err(error) => {
                tracing::error!(%error, "the configuration is wrong; the former one stays in force");
                deps.board.note(
                    "config",
                    Some(format!("the configuration is wrong, the former one is in force: {error}")),
                );
            }
        }
    }
}
