//! Opening sessions: the seam behind which tests have coordinators in memory, and the real thing.

use std::collections::BTreeMap;
use std::sync::Arc;

use aap_runtime::Shutdown;
use aap_services::Directory;
use aap_transport::{AgentSession, ClientConfig, Dialer, Error, Prefer, TlsFiles};
use aap_types::NodeId;
use camino::Utf8PathBuf;
use futures::future::BoxFuture;

use crate::config::{AUTO, CarrierChoice, CoordinatorSpec};

/// Dialers kept of addresses that the configuration does not name: coordinators that others sent this node to, and former
/// ports of `auto`. A cluster has a handful; one that names ever new ones shall not fill the memory.
const UNLISTED_MAX: usize = 8;

/// Opens sessions; the seam behind which tests have a coordinator in memory.
pub trait Dial: Send + Sync + 'static {
    /// The addresses that the configuration names, or that were found where it says. Empty only while none was found yet.
    fn addresses(&self) -> Vec<String>;

    /// No address answers. Those that can be looked for may have changed.
    fn look_again(&self) {}

    /// Why nothing is found where it is looked for.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Opens one session with the coordinator at `address`: one of [`Dial::addresses`], or where a coordinator sent this node.
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<AgentSession, Error>>;
}

/// Dials real coordinators. `auto` is looked up anew each time, because it follows `run/coordinator.json`.
#[derive(Debug)]
pub struct RealDial {
    spec: CoordinatorSpec,
    node: NodeId,
    home: Utf8PathBuf,
    directory: Arc<Directory>,
    /// By address: each remembers which carrier works there.
    dialers: tokio::sync::Mutex<BTreeMap<String, Arc<Dialer>>>,
}

impl RealDial {
    /// Dials what `spec` says; relative paths are below `home`.
    ///
    /// # Errors
    /// The first of its addresses that is none.
    pub fn new(spec: CoordinatorSpec, node: NodeId, home: Utf8PathBuf) -> Result<Self, String> {
        let directory = Arc::new(Directory::new(&spec.all(), node.as_str())?);
        Ok(Self { spec, node, home, directory, dialers: tokio::sync::Mutex::default() })
    }

    /// Looks for coordinators, where the configuration says so, until `shutdown`.
    pub fn keep_looking(
        &self,
        shutdown: Shutdown,
    ) -> impl Future<Output = Result<(), std::convert::Infallible>> + Send + use<> {
        let directory = self.directory.clone();
        async move { directory.keep(shutdown).await }
    }

    /// What stands in `run/coordinator.json`.
    fn own_coordinator(&self) -> Option<String> {
        let text = std::fs::read(self.home.join("run").join("coordinator.json")).ok()?;
        let endpoints: serde_json::Value = serde_json::from_slice(&text).ok()?;
        endpoints.get("agents")?.as_str().map(str::to_owned)
    }

    async fn dialer(&self, address: &str) -> Result<Arc<Dialer>, Error> {
        let address = match address {
            AUTO => self.own_coordinator().ok_or_else(|| Error::Connect {
                address: AUTO.to_owned(),
                carrier: "any carrier",
                source: Arc::new(std::io::Error::other(
                    "the coordinator has not written `run/coordinator.json` yet",
                )),
            })?,
            address => address.to_owned(),
        };
        let mut dialers = self.dialers.lock().await;
        if let Some(known) = dialers.get(&address) {
            return Ok(known.clone());
        }
        let config = self.client_config(address.clone());
        let dialer = Arc::new(match dialers.values().next() {
            Some(other) => other.beside(config)?,
            None => Dialer::new(config)?,
        });
        let listed = self.directory.addresses();
        if dialers.keys().filter(|known| !listed.contains(known)).count() >= UNLISTED_MAX {
            dialers.retain(|known, _| listed.contains(known));
        }
        dialers.insert(address, dialer.clone());
        Ok(dialer)
    }

    /// Where this node's certificate lies.
    pub fn files(&self) -> TlsFiles {
        let own = |path: &Option<Utf8PathBuf>, kind| match path {
            Some(path) => self.home.join(path),
            None => self.home.join("tls").join("nodes").join(format!("{}.{kind}", self.node)),
        };
        TlsFiles {
            root: self.home.join(&self.spec.ca),
            certificate: own(&self.spec.certificate, "pem"),
            key: own(&self.spec.key, "key"),
        }
    }

    fn client_config(&self, address: String) -> ClientConfig {
        let prefer = match self.spec.carrier {
            CarrierChoice::Auto => Prefer::Auto,
            CarrierChoice::Quic => Prefer::Quic,
            CarrierChoice::Grpc => Prefer::Grpc,
        };
        ClientConfig { address, tls: self.files(), prefer }
    }
}

impl Dial for RealDial {
    fn addresses(&self) -> Vec<String> {
        self.directory.addresses()
    }

    fn look_again(&self) {
        self.directory.look_again();
    }

    fn trouble(&self) -> Option<String> {
        self.directory.trouble()
    }

    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<AgentSession, Error>> {
        Box::pin(async move { self.dialer(address).await?.connect().await })
    }
}
