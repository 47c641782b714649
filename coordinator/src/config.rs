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
//!   gateway:   { limits: { per_principal: 50/s burst 100 } }
//!   sessions:  { redis: { url: 'rediss://redis:6379', password: env:REDIS_PASSWORD } }       # default: with the metadata
//!   discovery: { consul: { address: 'http://127.0.0.1:8500' } }                            # default: nowhere
//!   spark:     { url: 'sc://spark:15002' }                                                 # default: none
//!   vault:     { address: 'https://vault:8200', auth: { token: file:/etc/aap/vault-token } } # default: none
//!   oidc:      { issuer: 'https://id.example/realms/aap', client_id: aap, roles: { admins: [admin] } }  # default: none
//!   cluster:   { landing: { brokers: ['k:9092'] }, lake: { url: 's3://lake/aap' } }         # default: one machine
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aap_buffer::Durability;
use aap_lake::LakeConfig;
use aap_redis::RedisServer;
use aap_runtime::{SecretPlace, SecretRef};
use aap_spark::SparkSpec;
use aap_sql::ServingLimits;
use aap_types::{ByteCount, ExitCode, Problem};
use aap_vault::VaultSpec;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::cluster::ClusterConfig;
use crate::daemon::Endpoints;
use crate::discovery::DiscoveryConfig;
use crate::gateway::GatewayConfig;
use crate::kept_sessions::SessionsConfig;
use crate::metadata::MetadataConfig;
use crate::oidc::OidcConfig;
use crate::secrets::SecretsConfig;

/// Default of `agents.bind`.
pub const AGENTS_PORT: u16 = 7400;
/// Default of `operators.bind`.
pub const OPERATORS_PORT: u16 = 7401;

/// A certificate of a shorter life would be renewed all the time.
const CERTIFICATE_SECONDS_MIN: u64 = 5;

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
    /// How often somebody may call.
    pub gateway: GatewayConfig,
    /// Where sessions of people lie.
    pub sessions: SessionsConfig,
    /// Where this coordinator says where it is.
    pub discovery: DiscoveryConfig,
    /// The Spark cluster for `aap query --engine spark`. Default: none.
    pub spark: Option<SparkSpec>,
    /// Secrets that the platform keeps.
    pub secrets: SecretsConfig,
    /// Vault, which is asked for `vault:…`. Default: none.
    pub vault: Option<VaultSpec>,
    /// Where people log in who are not users of the platform itself. Default: nowhere.
    pub oidc: Option<OidcConfig>,
}

/// The listener for agents: client certificates only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentsConfig {
    /// Address of both UDP and TCP. Default: 127.0.0.1:7400, or a free port when that is taken.
    pub bind: Option<SocketAddr>,
    /// `HOST:PORT` at which agents elsewhere find this coordinator; what nodes that enrol are told. Default: in a cluster
    /// `cluster.advertise`, else the first of `names`, else this host's name where `bind` is not loopback, else where it listens.
    pub endpoint: Option<String>,
    /// Host names and addresses that agents use beside `localhost`: they go into the certificate. Default: none; where
    /// `bind` is not loopback, this host's name and, unless it is `0.0.0.0`, that address are always among them; in a cluster
    /// also the host of `cluster.advertise`.
    pub names: Vec<String>,
    /// How long the certificate of a node holds that enrolled; it is renewed at half of it. Default: 86400, a day.
    pub certificate_seconds: u64,
    /// Most unacknowledged payload that one agent may have under way. Default: 32 MiB.
    pub credit: ByteCount,
    /// Memory meant for what all agents together have on its way to the disk: each session gets its share of it, at most
    /// `credit` and at least 1 MiB. Default: 256 MiB.
    pub room: ByteCount,
}

impl Default for AgentsConfig {
    fn default() -> Self {
        Self {
            bind: None,
            endpoint: None,
            names: vec![],
            certificate_seconds: 86_400,
            credit: ByteCount::mib(32),
            room: ByteCount::mib(256),
        }
    }
}

/// The listener for operators: TLS, and a token with each call. On loopback monitoring is answered without TLS too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OperatorsConfig {
    /// Address. Default: 127.0.0.1:7401, or a free port when that is taken.
    pub bind: Option<SocketAddr>,
    /// `HOST:PORT` at which operators elsewhere, and machines that enrol, find this coordinator. Default: as for `agents`.
    pub endpoint: Option<String>,
    /// Host names and addresses that operators use beside those of `agents.names`: they go into the same certificate.
    pub names: Vec<String>,
    /// A certificate of your own for those who come by a host's name. Default: that of the embedded authority.
    pub tls: Option<OwnCertificate>,
}

/// A certificate that somebody else's authority issued. Paths start at the home directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnCertificate {
    /// Certificate and what leads to its authority, PEM.
    pub certificate: Utf8PathBuf,
    /// Private key, PEM, mode 0600.
    pub key: Utf8PathBuf,
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

    /// The names for the certificate of both listeners. Beyond loopback others dial by what was set, by this host's name, or by the
    /// address that is listened on.
    pub fn certificate_names(&self, host: Option<&str>) -> Vec<String> {
        let endpoints = [&self.agents.endpoint, &self.operators.endpoint].into_iter().flatten();
        let hosts = endpoints.filter_map(|endpoint| host_of(endpoint)).map(str::to_owned);
        let named = self.agents.names.iter().chain(&self.operators.names).cloned();
        let mut names: Vec<String> = hosts.chain(named).collect();
        let bound = [self.agents.bind, self.operators.bind].into_iter().flatten().map(|bind| bind.ip());
        for ip in bound.filter(|ip| !ip.is_loopback()) {
            names.extend(host.map(str::to_owned));
            names.extend((!ip.is_unspecified()).then(|| ip.to_string()));
        }
        names
    }

    /// Every secret that it refers to, but for what is shown to Vault.
    pub(crate) fn secrets(&self) -> Vec<SecretRef> {
        let metadata = self.metadata.postgres.iter().flat_map(|spec| spec.secrets());
        let spark = self.spark.iter().flat_map(SparkSpec::secrets);
        let cluster =
            self.cluster.iter().flat_map(|cluster| [cluster.landing.secrets(), cluster.lake.secrets()]);
        let limits = self.gateway.redis.iter().flat_map(RedisServer::secrets);
        let beside = self.sessions.secrets().into_iter().chain(self.discovery.secrets());
        metadata.chain(spark).chain(limits).chain(beside).chain(cluster.flatten()).collect()
    }

    /// Files and folders whose contents are this coordinator's alone: its home, its credentials, keys, and what it refers to itself.
    pub(crate) fn own_files(&self, home: &Utf8Path) -> Vec<Utf8PathBuf> {
        let credentials = std::env::var("CREDENTIALS_DIRECTORY").ok().filter(|folder| !folder.is_empty());
        let keys = [&self.operators.tls, &self.gateway.tls].into_iter().flatten().map(|own| &own.key);
        let keys = keys.chain(&self.secrets.key_file).map(|path| home.join(path));
        let shown = self.vault.iter().flat_map(VaultSpec::secrets);
        let files = self.secrets().into_iter().chain(shown).filter_map(|reference| match reference {
            SecretRef::File(path) => Some(home.join(path)),
            _ => None,
        });
        let own = [home.to_owned()].into_iter().chain(credentials.map(Into::into));
        own.chain(keys).chain(files).collect()
    }

    /// Where others find this coordinator, which listens as `bound` says.
    pub(crate) fn advertised(&self, bound: &Endpoints) -> Advertised {
        let host = crate::init::local_host();
        let found = |set: &Option<String>, names: &[String], bind: Option<SocketAddr>, bound: SocketAddr| {
            let beyond = bind.is_some_and(|bind| !bind.ip().is_loopback());
            let name = names.first().or(host.as_ref().filter(|_| beyond));
            let by_name = name.map(|name| match name.parse::<IpAddr>() {
                Ok(ip) => SocketAddr::new(ip, bound.port()).to_string(),
                Err(_) => format!("{name}:{}", bound.port()),
            });
            set.clone().or(by_name).unwrap_or_else(|| bound.to_string())
        };
        let (agents, operators) = (&self.agents, &self.operators);
        let advertise = self.cluster.as_ref().and_then(|cluster| cluster.advertise.clone());
        Advertised {
            agents: found(&agents.endpoint.clone().or(advertise), &agents.names, agents.bind, bound.agents),
            operators: found(&operators.endpoint, &operators.names, operators.bind, bound.operator),
        }
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
        if let Some(vault) = &self.vault {
            vault.check()?;
        }
        self.check_secrets()?;
        self.gateway.check()?;
        self.sessions.check()?;
        self.discovery.check()?;
        if let Some(spark) = &self.spark {
            spark.check().map_err(|why| format!("spark: {why}"))?;
        }
        if let Some(oidc) = &self.oidc {
            oidc.check().map_err(|why| format!("oidc.{why}"))?;
        }
        for (field, endpoint) in
            [("agents.endpoint", &self.agents.endpoint), ("operators.endpoint", &self.operators.endpoint)]
        {
            if let Some(endpoint) = endpoint.as_ref().filter(|endpoint| !aap_transport::is_address(endpoint))
            {
                return Err(format!("{field} is `{endpoint}`, and not HOST:PORT"));
            }
        }
        for (list, names) in
            [("agents.names", &self.agents.names), ("operators.names", &self.operators.names)]
        {
            for name in names {
                check_name(name).map_err(|why| format!("{list} has `{name}`, {why}"))?;
            }
        }
        if self.agents.certificate_seconds < CERTIFICATE_SECONDS_MIN {
            return Err(format!("agents.certificate_seconds must be {CERTIFICATE_SECONDS_MIN} or more"));
        }
        if self.lake.file_bytes.0 == 0 {
            return Err("lake.file_bytes must be larger than 0".to_owned());
        }
        Ok(())
    }
}

impl Config {
    /// It is read before the metadata is there, in which the platform keeps its own.
    fn check_secrets(&self) -> Result<(), String> {
        for reference in self.secrets() {
            match reference.place() {
                Some(SecretPlace::Kept(_)) => {
                    return Err(format!(
                        "`{reference}` is kept by the platform, for what is applied; the configuration \
                                        itself refers to `env:NAME`, `file:PATH` or `vault:MOUNT/PATH#FIELD`"
                    ));
                }
                Some(SecretPlace::Vault(_)) if self.vault.is_none() => {
                    return Err(format!("`{reference}` is of Vault: `vault` must say where that is"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Where others find a coordinator, `HOST:PORT` each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Advertised {
    pub(crate) agents: String,
    /// For machines that enrol too.
    pub(crate) operators: String,
}

/// The host of `HOST:PORT`.
fn host_of(endpoint: &str) -> Option<&str> {
    let (host, _) = endpoint.rsplit_once(':')?;
    Some(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))
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
        let names = |spec: &str| parse(spec).unwrap().certificate_names(Some("hub"));
        assert_eq!(names("{}"), Vec::<String>::new());
        assert_eq!(names("{agents: {bind: '127.0.0.1:7400', names: [a]}}"), ["a"]);
        assert_eq!(names("{agents: {bind: '0.0.0.0:7400'}}"), ["hub"]);
        assert_eq!(
            names("{agents: {bind: '10.1.2.3:7400', names: [a.example]}}"),
            ["a.example", "hub", "10.1.2.3"]
        );
        assert_eq!(names("{operators: {bind: '10.1.2.4:7401', names: [b]}}"), ["b", "hub", "10.1.2.4"]);
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
        assert!(parse("{operators: {bind: '0.0.0.0:7401'}}").is_ok());
        assert_eq!((config.landing.budget, config.landing.retain), (ByteCount::gib(1), ByteCount::gib(1)));
        assert_eq!(config.lake.streams[&"logs".parse().unwrap()].hours, 5);
        for (bad, named) in [
            ("{landing: {bugdet: 1}}", "bugdet"),
            ("{operators: {names: ['0.0.0.0']}}", "operators.names"),
            ("{operators: {tls: {certificate: c.pem}}}", "key"),
            ("{lake: {file_bytes: 0}}", "file_bytes"),
            ("{spark: {url: 'sc://127.0.0.1:1', token: 'secret:x'}}", "`secret:x`"),
            ("{spark: {url: 'sc://127.0.0.1:1', token: 'vault:kv/a#b'}}", "`vault`"),
            ("{vault: {address: 'http://vault:8200', auth: {token: 'env:T'}}}", "vault.address"),
            ("{cluster: {landing: {brokers: ['k:1']}, lake: {url: 's3://a'}}}", "metadata.postgres"),
            ("{cluster: {name: 'A B', landing: {brokers: ['k:1']}, lake: {url: 's3://a'}}}", "cluster.name"),
            ("{cluster: {landing: {brokers: []}, lake: {url: 's3://a'}}}", "cluster.landing"),
            (
                "{cluster: {advertise: nowhere, landing: {brokers: ['k:1']}, lake: {url: 's3://a'}}}",
                "advertise",
            ),
            ("{spark: {url: 'sc://spark', token: env:T}}", "spark: `token` needs TLS"),
            ("{oidc: {issuer: 'https://i', client_id: a, roles: {g: [admin]}, scope: [openid]}}", "scope"),
            ("{oidc: {issuer: 'https://i', client_id: a}}", "roles"),
            ("{oidc: {issuer: 'https://i', client_id: a, roles: {}}}", "oidc.roles"),
            ("{oidc: {issuer: 'https://i', client_id: a, roles: {g: []}}}", "`g`"),
            ("{oidc: {issuer: 'http://i', client_id: a, roles: {g: [admin]}}}", "oidc.issuer"),
            ("{oidc: {issuer: 'https://i', client_id: '', roles: {g: [admin]}}}", "oidc.client_id"),
            ("{oidc: {issuer: 'https://i', client_id: a, scopes: [email], roles: {g: [admin]}}}", "openid"),
            ("{agents: {bind: nowhere}}", "bind"),
            ("{gateway: {limits: {log_in: fast}}}", "`fast` is no rate"),
            ("{gateway: {limits: {per_user: 1/s}}}", "per_user"),
            ("{gateway: {redis: {url: 'http://r'}}}", "gateway.redis"),
            ("{sessions: {redis: {url: 'http://r'}}}", "sessions.redis"),
            ("{discovery: {consul: {address: 'consul:8500'}}}", "discovery.consul: `address`"),
            ("{gateway: {listen: '0.0.0.0:80'}}", "needs `gateway.tls"),
            ("{gateway: {trusted_hops: ['10.0.0.1/8']}}", "10.0.0.1/8"),
            ("{gateway: {proxy_protocol: true}}", "gateway.trusted_hops"),
            ("{gateway: {redis: {url: 'redis://r', password: hunter2}}}", "never written down here"),
            ("{agents: {names: ['a b']}}", "`a b`"),
            ("{agents: {names: ['0.0.0.0']}}", "`0.0.0.0`"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(named), "{bad}: {error}");
        }
        assert!(Config::parse("apiVersion: aap/v1\nkind: Agent\nspec: {}").unwrap_err().contains("Agent"));
    }
}
