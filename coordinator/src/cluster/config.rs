//! The section `cluster` of the configuration.
//!
//! ```yaml
//! cluster:
//!   name: prod
//!   coordinator: c1
//!   advertise: c1.example:7400
//!   landing: { brokers: ['k1:9092', 'k2:9092', 'k3:9092'] }
//!   lake: { url: s3://lake/aap, endpoint: https://minio.example:9000, access_key: env:S3_KEY, secret_key: file:/etc/aap/s3 }
//! ```

use aap_kafka::LandingSpec;
use aap_lake::LakeStoreSpec;
use aap_types::{CoordinatorName, StreamName};
use serde::{Deserialize, Serialize};

/// The section `cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// The cluster. All its coordinators have the same. Default: `aap`.
    #[serde(default = "name")]
    pub name: String,
    /// This coordinator: each has a name of its own. Default: this machine's.
    #[serde(default = "machine")]
    pub coordinator: String,
    /// `HOST:PORT` that other coordinators send agents to, and call themselves. Default: the address that is listened on, where it is one that others can
    /// dial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Where data lands: a topic of Kafka.
    pub landing: LandingSpec,
    /// Where the lake lies.
    pub lake: LakeStoreSpec,
}

fn name() -> String {
    "aap".to_owned()
}

fn machine() -> String {
    crate::init::local_node().to_string()
}

impl ClusterConfig {
    /// The host that others dial, which the certificate must name; `None`: the address that is listened on.
    pub fn advertised_host(&self) -> Option<&str> {
        let (host, _) = self.advertise.as_ref()?.rsplit_once(':')?;
        Some(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))
    }

    /// Whether it makes sense, as far as that can be told without servers.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        let bad = |what: &str, name: &str| {
            format!("cluster.{what} is `{name}`: use 1 to 63 of a-z, 0-9, `_`, `-`, `.`")
        };
        self.name.parse::<StreamName>().map_err(|_| bad("name", &self.name))?;
        self.coordinator.parse::<CoordinatorName>().map_err(|_| bad("coordinator", &self.coordinator))?;
        if let Some(address) = &self.advertise {
            let port = address
                .rsplit_once(':')
                .and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok()).flatten());
            port.ok_or_else(|| format!("cluster.advertise is `{address}`: it should be HOST:PORT"))?;
        }
        self.landing.check().map_err(|why| format!("cluster.landing: {why}"))?;
        self.lake.check().map_err(|why| format!("cluster.lake: {why}"))
    }
}
