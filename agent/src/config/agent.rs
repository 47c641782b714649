//! The `Agent` document.

use aap_services::Locator;
use aap_transport::is_address;
use aap_types::ByteCount;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::Period;
use super::load::Complaint;

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

/// The coordinator, or those of a cluster, and who this node is to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoordinatorSpec {
    /// `host:port`, UDP and TCP; or where to look: `srv+NAME`, `consul+http://HOST:PORT/SERVICE`. `auto` takes what
    /// `run/coordinator.json` of the same home says. Either this or `addresses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The coordinators of a cluster, `host:port` or where to look each: one of them at a time, and another when it fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
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

/// What stands for the address of the coordinator that runs in the same home.
pub(crate) const AUTO: &str = "auto";

/// Most addresses of an agent: a cluster has a handful of coordinators, and a round of dead ones should end some time.
const ADDRESSES_MAX: usize = 32;

impl CoordinatorSpec {
    /// Every address that it may dial, `auto`, and every place to look. Not empty.
    pub fn all(&self) -> Vec<String> {
        self.address.iter().chain(&self.addresses).cloned().collect()
    }

    pub(super) fn check(&self) -> Result<(), Complaint> {
        let check = |address: &str| match Locator::is_meant(address) {
            true => address.parse::<Locator>().map(drop),
            false if is_address(address) => Ok(()),
            false => Err(format!("`{address}` is not an address of the form HOST:PORT")),
        };
        match (&self.address, self.addresses.as_slice()) {
            (None, []) => {
                let message = "a coordinator needs `address: HOST:PORT` (`auto`: that of the same home), or `addresses:` with several";
                Err(("coordinator", message.to_owned()))
            }
            (Some(_), [_, ..]) => {
                Err(("addresses", "a coordinator has either `address` or `addresses`, not both".to_owned()))
            }
            (Some(address), []) if address == AUTO => Ok(()),
            (Some(address), []) => check(address).map_err(|message| ("address", message)),
            (None, several) => check_several(several, check).map_err(|message| ("addresses", message)),
        }
    }
}

fn check_several(addresses: &[String], check: impl Fn(&str) -> Result<(), String>) -> Result<(), String> {
    if addresses.len() > ADDRESSES_MAX {
        return Err(format!("{} addresses are more than {ADDRESSES_MAX}", addresses.len()));
    }
    for (at, address) in addresses.iter().enumerate() {
        if address == AUTO {
            return Err("`auto` stands in `address` alone, not in `addresses`".to_owned());
        }
        check(address)?;
        if addresses[..at].contains(address) {
            return Err(format!("`{address}` stands there twice"));
        }
    }
    Ok(())
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
