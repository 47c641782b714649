//! The `Agent` document.

use aap_types::ByteCount;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::Period;

/// `spec` of kind `Agent`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSpec {
    /// Where data is delivered. Without it the node buffers and answers its own queries.
    pub coordinator: Option<CoordinatorSpec>,
    /// The durable buffer.
    pub buffer: BufferSpec,
    /// SQL over the node's own buffer.
    pub query: QuerySpec,
}

/// The coordinator, and who this node is to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoordinatorSpec {
    /// `host:port`, UDP and TCP. `auto` takes what `run/coordinator.json` of the same home says.
    pub address: String,
    /// Certificate authority (PEM). Relative to the home directory. Default: `tls/root.pem`.
    #[serde(default = "default_root", alias = "root")]
    pub ca: Utf8PathBuf,
    /// This node's certificate chain (PEM). Default: `tls/nodes/NODE.pem`.
    #[serde(default)]
    pub certificate: Option<Utf8PathBuf>,
    /// Its private key (PEM, mode 0600). Default: `tls/nodes/NODE.key`.
    #[serde(default)]
    pub key: Option<Utf8PathBuf>,
    /// Which carrier to use. Default: auto.
    #[serde(default)]
    pub carrier: CarrierChoice,
}

fn default_root() -> Utf8PathBuf {
    "tls/root.pem".into()
}

/// QUIC first and gRPC where UDP does not pass, or one of them only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CarrierChoice {
    /// QUIC, and gRPC while it does not answer.
    #[default]
    Auto,
    /// QUIC only.
    Quic,
    /// gRPC only.
    Grpc,
}

/// The durable buffer of the node. Fields that are absent take the buffer's own defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BufferSpec {
    /// Largest unsent data kept on disk. Default: 10 GiB. At least four segments.
    pub budget: Option<ByteCount>,
    /// Delivered data kept for queries on the node. Default: 1 GiB.
    pub retain: Option<ByteCount>,
    /// Size of one segment file. Default: 16 MiB.
    pub segment_bytes: Option<ByteCount>,
    /// `fsync` (default), `os` or `memory`: what a source's answer promises.
    pub durability: Option<String>,
    /// `block` (default) or `drop-oldest`: what happens when the budget is used up.
    pub when_full: Option<String>,
}

/// Limits of the queries that run on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuerySpec {
    /// Memory of one query. Default: 512 MiB.
    pub memory: ByteCount,
    /// Longest run of one query. Default: 60 s.
    pub deadline: Period,
    /// Queries at a time; others wait. Default: 2.
    pub concurrency: usize,
}

impl Default for QuerySpec {
    fn default() -> Self {
        Self {
            memory: ByteCount::mib(512),
            deadline: Period(std::time::Duration::from_secs(60)),
            concurrency: 2,
        }
    }
}
