//! Configuration: YAML documents of the kinds `Agent` and `Source`, one or more a file.
//!
//! ```yaml
//! apiVersion: aap/v1
//! kind: Agent
//! metadata: { name: web-01 }          # the node; the host's name if there is no such document
//! spec:
//!   coordinator:                      # without it the node works alone
//!     address: 127.0.0.1:7400         # or addresses: [HOST:PORT, …] of a cluster
//!     ca: tls/root.pem                # paths are relative to the home directory; these are the defaults
//!     certificate: tls/nodes/web-01.pem
//!     key: tls/nodes/web-01.key
//!     carrier: auto                   # auto | quic | grpc
//!   buffer: { budget: 10GiB, retain: 1GiB, segment_bytes: 16MiB, durability: fsync, when_full: block }
//! ---
//! apiVersion: aap/v1
//! kind: Source
//! metadata: { name: tail }
//! spec: { type: file, stream: logs, include: ['/var/log/*.log'] }
//! ```
//!
//! Unknown keys are errors that name file, line and the nearest valid key. Each component owns its section and
//! the defaults in it.
//!
//! | file | owns |
//! |---|---|
//! | `config/agent.rs` | [`AgentSpec`]: node, coordinator, buffer, queries |
//! | `config/source.rs` | [`SourceSpec`] and the sections of most types of source |
//! | `config/otlp.rs`, `config/exec.rs`, `config/prometheus.rs`, `config/mqtt.rs`, `config/journald.rs` | the sections of OTLP, commands, Prometheus, MQTT, the journal |
//! | `config/listen.rs` | what listeners share: TLS, who may connect |
//! | `config/types.rs` | [`SOURCE_TYPES`]: every type, and what it promises |
//! | `config/load.rs` | reading files, documents, and errors with their place |

mod agent;
mod exec;
mod journald;
mod listen;
mod load;
mod mqtt;
mod otlp;
mod prometheus;
mod source;
mod types;

pub(crate) use agent::AUTO;
pub use agent::{AgentSpec, BufferSpec, CarrierChoice, CoordinatorSpec, QuerySpec};
pub use exec::ExecSpec;
pub use journald::JournaldSpec;
pub use listen::TlsSpec;
pub use load::{ConfigError, check_file, config_files, load, load_text};
pub use mqtt::{MqttSpec, MqttVersion, PayloadSpec, TopicSpec};
pub use otlp::OtlpSpec;
pub use prometheus::{RemoteWriteSpec, ScrapeSpec};
pub use source::{
    FileSpec, FormatSpec, HostMetricsSpec, HttpSpec, MultilineSpec, SourceSpec, Start, StdinSpec, SyslogSpec,
};
pub use types::{SOURCE_TYPES, SourceType};

use std::time::Duration;

use aap_types::NodeId;
use serde::{Deserialize, Serialize};

/// Everything an agent was told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The node's name, if a document gave it.
    pub node: Option<NodeId>,
    /// The `Agent` document, or its defaults.
    pub agent: AgentSpec,
    /// The `Source` documents.
    pub sources: Vec<SourceConfig>,
}

/// One source, as it was configured.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceConfig {
    /// `metadata.name`: part of the keys of its positions, so that renaming a source reads its files again.
    pub name: String,
    /// What it does.
    pub spec: SourceSpec,
}

impl SourceConfig {
    /// The same for a trial, which takes nothing from anybody.
    #[must_use]
    pub fn trial(&self) -> Self {
        let mut own = self.clone();
        if let SourceSpec::Mqtt(spec) = &mut own.spec {
            spec.is_trial = true;
        }
        own
    }
}

/// A span of time as people write it: `500ms`, `10s`, `1h 30m`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period(pub Duration);

impl TryFrom<String> for Period {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        // Days are not a unit of `SignedDuration`, and everyone writes them.
        let days = text.trim().strip_suffix('d').and_then(|days| days.trim().parse::<u32>().ok());
        if let Some(days) = days {
            return Ok(Self(Duration::from_secs(u64::from(days) * 86_400)));
        }
        let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
        parsed.map(Self).ok_or_else(|| {
            format!(
                "`{text}` is not a span of time: write a number with its unit, such as 500ms, 10s, 24h or 7d"
            )
        })
    }
}

impl From<Period> for String {
    fn from(period: Period) -> String {
        format!("{}ms", period.0.as_millis())
    }
}

#[cfg(test)]
mod tests;
