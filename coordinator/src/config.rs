//! The coordinator's configuration: one YAML document of kind `Coordinator`.
//!
//! ```yaml
//! apiVersion: aap/v1
//! kind: Coordinator
//! metadata: { name: coordinator }
//! spec:
//!   agents:    { bind: 127.0.0.1:7400 }
//!   operators: { bind: 127.0.0.1:7401 }
//!   landing:   { budget: 10GiB, retain: 1GiB }
//!   lake:      { streams: { logs: { hours: 720 } } }
//!   metadata:  { postgres: { url: 'postgres://aap@db/aap', password: env:PGPASSWORD } }   # default: a file
//!   spark:     { url: 'sc://spark:15002' }                                                 # default: none
//!   cluster:   { landing: { brokers: ['k:9092'] }, lake: { url: 's3://lake/aap' } }         # default: one machine
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aap_buffer::Durability;
use aap_lake::LakeConfig;
use aap_spark::SparkSpec;
use aap_sql::ServingLimits;
use aap_types::{ByteCount, ExitCode, Problem};
use camino::Utf8Path;
use serde::{Deserialize, Serialize};

use crate::cluster::ClusterConfig;
use crate::metadata::MetadataConfig;

/// Default of `agents.bind`.
pub const AGENTS_PORT: u16 = 7400;
/// Default of `operators.bind`.
pub const OPERATORS_PORT: u16 = 7401;

/// Everything that can be set. Unknown keys are errors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The listener for agents.
    pub agents: AgentsConfig,
    /// The listener for operators.
    pub operators: OperatorsConfig,
    /// The landing buffer.
    pub landing: LandingConfig,
    /// The lake.
    pub lake: LakeConfig,
    /// Where metadata lies.
    pub metadata: MetadataConfig,
    /// Makes this one of several coordinators: landing in Kafka, the lake in an object store. Needs `metadata.postgres`.
    pub cluster: Option<ClusterConfig>,
    /// Queries.
    pub query: QueryConfig,
    /// The Spark cluster for `aap query --engine spark`. Default: none.
    pub spark: Option<SparkSpec>,
}

/// The listener for agents: client certificates only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentsConfig {
    /// Address of both UDP and TCP. Default: 127.0.0.1:7400, or a free port when that is taken.
    pub bind: Option<SocketAddr>,
    /// Host names and addresses that agents use beside `localhost`: they go into the certificate. Default: none; where
    /// `bind` is not loopback, this host's name and, unless it is `0.0.0.0`, that address are always among them; in a cluster
    /// also the host of `cluster.advertise`.
    pub names: Vec<String>,
    /// Most unacknowledged payload that one agent may have under way. Default: 32 MiB.
    pub credit: ByteCount,
    /// Memory meant for what all agents together have on its way to the disk: each session gets its share of it, at most
    /// `credit` and at least 1 MiB. Default: 256 MiB.
    pub room: ByteCount,
}

impl AgentsConfig {
    /// The names for the certificate. Beyond loopback agents on other machines dial, by what was set, by this host's name,
    /// or by the address that is listened on.
    pub fn certificate_names(&self, host: Option<&str>) -> Vec<String> {
        let mut names = self.names.clone();
        let beyond = self.bind.map(|bind| bind.ip()).filter(|ip| !ip.is_loopback());
        if let Some(ip) = beyond {
            names.extend(host.map(str::to_owned));
            names.extend((!ip.is_unspecified()).then(|| ip.to_string()));
        }
        names
    }
}

impl Default for AgentsConfig {
    fn default() -> Self {
        Self { bind: None, names: vec![], credit: ByteCount::mib(32), room: ByteCount::mib(256) }
    }
}

/// The listener for operators: bearer token, plain TCP, therefore loopback only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OperatorsConfig {
    /// Address. Default: 127.0.0.1:7401, or a free port when that is taken. Another address than loopback is refused.
    pub bind: Option<SocketAddr>,
}

/// The landing buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LandingConfig {
    /// Most bytes on disk. When what waits for the lake reaches it, agents wait. Default: 10 GiB.
    pub budget: ByteCount,
    /// Data already in the lake that is kept here too, within `budget`. Default: 1 GiB.
    pub retain: ByteCount,
    /// When a batch counts as landed. Default: fsync.
    pub durability: Durability,
}

impl Default for LandingConfig {
    fn default() -> Self {
        Self { budget: ByteCount::gib(10), retain: ByteCount::gib(1), durability: Durability::default() }
    }
}

/// What queries may use, whatever they ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueryConfig {
    /// Memory of one query. Default: 1 GiB.
    pub memory: ByteCount,
    /// Deadline of a query that names none. Default: 60.
    pub deadline_seconds: u64,
    /// Longest deadline a query may ask for. Default: 3600.
    pub deadline_seconds_max: u64,
    /// Queries at once; others wait. Default: 4.
    pub concurrency: usize,
    /// Most bytes that the answers of all nodes to one query may take on disk. Default: 4 GiB.
    pub node_answers: ByteCount,
    /// Most bytes of rows that one query may fetch from other systems. They lie on disk while it runs. Default: 4 GiB.
    pub fetched: ByteCount,
}

impl Default for QueryConfig {
    fn default() -> Self {
        Self {
            memory: ByteCount::gib(1),
            deadline_seconds: 60,
            deadline_seconds_max: 3600,
            concurrency: 4,
            node_answers: ByteCount::gib(4),
            fetched: ByteCount::gib(4),
        }
    }
}

impl QueryConfig {
    /// What one query may take.
    pub fn serving_limits(&self) -> ServingLimits {
        ServingLimits {
            deadline: Duration::from_secs(self.deadline_seconds),
            deadline_max: Duration::from_secs(self.deadline_seconds_max),
            memory_bytes: self.memory.0,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: Metadata,
    #[serde(default)]
    spec: Config,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    #[serde(default, rename = "name")]
    _name: String,
}

impl Config {
    /// Reads `path`.
    pub fn read(path: &Utf8Path) -> Result<Self, Problem> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Problem::new("config.unreadable", ExitCode::Usage, format!("cannot read configuration `{path}`"))
                .caused_by(&error)
        })?;
        Self::parse(&text).map_err(|cause| {
            Problem::new("config.invalid", ExitCode::Usage, format!("configuration `{path}` is not valid"))
                .cause(cause)
                .hint_command(
                    "check it after changing it",
                    format!("aap-coordinator --config {path} validate"),
                )
        })
    }

    /// Reads a document from text; the error says where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let document: Document = serde_norway::from_str(text).map_err(|error| error.to_string())?;
        if document.api_version != "aap/v1" {
            return Err(format!("apiVersion is `{}`, and this build knows `aap/v1`", document.api_version));
        }
        if document.kind != "Coordinator" {
            return Err(format!("kind is `{}`, and this program wants `Coordinator`", document.kind));
        }
        document.spec.check()?;
        Ok(document.spec)
    }

    fn check(&self) -> Result<(), String> {
        self.metadata.check()?;
        if let Some(cluster) = &self.cluster {
            cluster.check()?;
            if self.metadata.postgres.is_none() {
                return Err(
                    "`cluster` needs `metadata.postgres`: that is where coordinators find each other"
                        .to_owned(),
                );
            }
        }
        if let Some(spark) = &self.spark {
            spark.check().map_err(|why| format!("spark: {why}"))?;
        }
        if let Some(bind) = self.operators.bind.filter(|bind| !bind.ip().is_loopback()) {
            return Err(format!(
                "operators.bind is {bind}: without TLS operators are served on loopback only; use 127.0.0.1 and a tunnel"
            ));
        }
        for name in &self.agents.names {
            check_name(name).map_err(|why| format!("agents.names has `{name}`, {why}"))?;
        }
        if self.lake.file_bytes.0 == 0 {
            return Err("lake.file_bytes must be larger than 0".to_owned());
        }
        Ok(())
    }
}

/// A name that agents can dial and a certificate can carry.
fn check_name(name: &str) -> Result<(), &'static str> {
    match name.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Err("which nobody can dial: name the host or an address of it"),
        Ok(_) => Ok(()),
        Err(_) if aap_transport::is_host_name(name) => Ok(()),
        Err(_) => Err("which is no host name and no address (no port, no spaces, ASCII only)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_names_what_other_machines_can_dial() {
        let names = |spec: &str| parse(spec).unwrap().agents.certificate_names(Some("hub"));
        assert_eq!(names("{}"), Vec::<String>::new());
        assert_eq!(names("{agents: {bind: '127.0.0.1:7400', names: [a]}}"), ["a"]);
        assert_eq!(names("{agents: {bind: '0.0.0.0:7400'}}"), ["hub"]);
        assert_eq!(
            names("{agents: {bind: '10.1.2.3:7400', names: [a.example]}}"),
            ["a.example", "hub", "10.1.2.3"]
        );
    }

    fn parse(spec: &str) -> Result<Config, String> {
        Config::parse(&format!(
            "apiVersion: aap/v1\nkind: Coordinator\nmetadata: {{name: c}}\nspec: {spec}\n"
        ))
    }

    #[test]
    fn what_is_not_said_has_its_default_and_what_is_unknown_is_refused() {
        assert_eq!(parse("{}").unwrap(), Config::default());
        let config = parse("{landing: {budget: 1GiB}, lake: {streams: {logs: {hours: 5}}}}").unwrap();
        assert_eq!((config.landing.budget, config.landing.retain), (ByteCount::gib(1), ByteCount::gib(1)));
        assert_eq!(config.lake.streams[&"logs".parse().unwrap()].hours, 5);
        for (bad, named) in [
            ("{landing: {bugdet: 1}}", "bugdet"),
            ("{operators: {bind: '0.0.0.0:7401'}}", "loopback"),
            ("{lake: {file_bytes: 0}}", "file_bytes"),
            ("{cluster: {landing: {brokers: ['k:1']}, lake: {url: 's3://a'}}}", "metadata.postgres"),
            ("{cluster: {name: 'A B', landing: {brokers: ['k:1']}, lake: {url: 's3://a'}}}", "cluster.name"),
            ("{cluster: {landing: {brokers: []}, lake: {url: 's3://a'}}}", "cluster.landing"),
            (
                "{cluster: {advertise: nowhere, landing: {brokers: ['k:1']}, lake: {url: 's3://a'}}}",
                "advertise",
            ),
            ("{spark: {url: 'sc://spark', token: env:T}}", "spark: `token` needs TLS"),
            ("{agents: {bind: nowhere}}", "bind"),
            ("{agents: {names: ['a b']}}", "`a b`"),
            ("{agents: {names: ['0.0.0.0']}}", "`0.0.0.0`"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(named), "{bad}: {error}");
        }
        assert!(Config::parse("apiVersion: aap/v1\nkind: Agent\nspec: {}").unwrap_err().contains("Agent"));
    }
}
