//! Sources: each states what it promises, and is answered only after its rows are durable.
//!
//! | file | source | promise |
//! |---|---|---|
//! | `source/file.rs` | followed files | exactly once |
//! | `source/journald.rs` | the journal of systemd | exactly once |
//! | `source/http.rs` | HTTP requests | exactly once with `Idempotency-Key` |
//! | `source/otlp.rs` | OpenTelemetry's logs, metrics, traces | once from the answer on |
//! | `source/remote_write.rs` | what Prometheus writes | once from the answer on |
//! | `source/scrape.rs` | targets of Prometheus | once from the moment it is durable |
//! | `source/mqtt.rs` | messages of an MQTT broker | sent again until they are acknowledged, when they are durable |
//! | `source/exec.rs` | output of commands | once from the moment it is durable |
//! | `source/syslog.rs` | syslog | once from the moment it is durable; drops counted |
//! | `source/stdin.rs` | standard input | once from the moment it is durable |
//! | `source/host_metrics.rs` | figures of the machine | once from the moment it is durable |
//! | `source/lines.rs` | what the unacknowledged ones share | |
//! | `source/requests.rs` | what those share that answer requests | |

mod exec;
mod file;
mod host_metrics;
mod http;
mod journald;
mod lines;
mod mqtt;
mod otlp;
mod remote_write;
mod requests;
mod scrape;
mod stdin;
mod syslog;

use std::sync::Arc;

use aap_runtime::{Home, Shutdown};
use tokio::sync::Semaphore;

use crate::board::Board;
use crate::config::{SourceConfig, SourceSpec};
use crate::deletions::Deletions;
use crate::ingress::Ingress;
use crate::welcome::FirstWelcome;

pub use http::Listening;

/// What every source needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SourceDeps {
    /// The way into the buffer.
    pub ingress: Ingress,
    /// Where they say how they are.
    pub board: Arc<Board>,
    /// Passes that decode at the same time: as many as there are cores, so that queries and the uplink get their share.
    pub decoding: Arc<Semaphore>,
    /// When they may begin to read.
    pub first_welcome: Arc<FirstWelcome>,
    /// What was deleted of what this node delivered.
    pub deletions: Arc<Deletions>,
    /// Where files are.
    pub home: Home,
    /// Where the HTTP source says where it listens.
    pub listening: Arc<Listening>,
}

/// Why a source cannot run. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The configuration was checked, but does not work here.
    #[error("{0}")]
    Config(String),
    /// A socket or a file that the source needs from its start.
    #[error("{what}")]
    Io {
        /// What was being attempted, on what.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl SourceError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Runs one source until it ends by itself, fails, or is asked to stop.
pub async fn run(config: SourceConfig, deps: SourceDeps, shutdown: Shutdown) -> Result<(), SourceError> {
    let SourceConfig { name, spec } = config;
    match spec {
        SourceSpec::File(spec) => Box::pin(file::run(name, spec, deps, shutdown)).await,
        SourceSpec::Http(spec) => Box::pin(http::run(name, spec, deps, shutdown)).await,
        SourceSpec::Journald(spec) => Box::pin(journald::run(name, spec, deps, shutdown)).await,
        SourceSpec::Otlp(spec) => Box::pin(otlp::run(name, spec, deps, shutdown)).await,
        SourceSpec::RemoteWrite(spec) => Box::pin(remote_write::run(name, spec, deps, shutdown)).await,
        SourceSpec::Scrape(spec) => Box::pin(scrape::run(name, spec, deps, shutdown)).await,
        SourceSpec::Mqtt(spec) => Box::pin(mqtt::run(name, spec, deps, shutdown)).await,
        SourceSpec::Exec(spec) => Box::pin(exec::run(name, spec, deps, shutdown)).await,
        SourceSpec::Stdin(spec) => Box::pin(stdin::run(name, spec, deps, shutdown)).await,
        SourceSpec::Syslog(spec) => Box::pin(syslog::run(name, spec, deps, shutdown)).await,
        SourceSpec::HostMetrics(spec) => Box::pin(host_metrics::run(name, spec, deps, shutdown)).await,
    }
}
