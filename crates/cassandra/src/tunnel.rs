//! TLS to the nodes: each behind a port on the loopback address, from which everything goes on encrypted.
//!
//! ```text
//!  driver ──plain──► 127.0.0.1:port of this process ──TLS──► node
//! ```
//! The driver can do TLS itself, but only with a cryptographic library that this project does without. So it believes that
//! the nodes are here. A port belongs to one node, and its certificate must have the node's name. Whoever else connects to
//! such a port on this machine has reached the node and is nobody there: the password is the driver's.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use rustls_pki_types::ServerName;
use scylla::errors::{CustomTranslationError, TranslationError};
use scylla::policies::address_translator::{AddressTranslator, UntranslatedPeer};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::spec::{Tls, split};

/// Reaching a node and shaking hands with it. Shorter than what the driver gives a connection, so that the cause is known then.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(4);

/// All of a session. They end with it.
#[derive(Clone)]
pub(crate) struct Tunnels(Arc<Shared>);

struct Shared {
    connector: TlsConnector,
    /// By node as it is written in the settings, or as the cluster calls it.
    local: tokio::sync::Mutex<HashMap<String, SocketAddr>>,
    /// What the settings call the nodes at these addresses: the names in their certificates.
    written: Mutex<HashMap<SocketAddr, String>>,
    listening: Mutex<JoinSet<()>>,
    /// What the last handshake that was refused was refused for.
    refusal: Arc<Mutex<Option<String>>>,
}

impl Tunnels {
    /// Reads the authorities: blocks for a file.
    pub(crate) fn with(tls: &Tls) -> io::Result<Self> {
        let config = aap_sinks::tls::client_config(Some(&tls.ca))?;
        Ok(Self(Arc::new(Shared {
            connector: TlsConnector::from(Arc::new(config)),
            local: tokio::sync::Mutex::default(),
            written: Mutex::default(),
            listening: Mutex::default(),
            refusal: Arc::default(),
        })))
    }

    /// The same for a node of the settings.
    pub(crate) async fn to_written(&self, node: &str) -> io::Result<SocketAddr> {
        // A name that nobody knows is found out, and told, where the tunnel ends.
        if let Ok(Ok(addresses)) = tokio::time::timeout(HANDSHAKE_DEADLINE, lookup_host(node)).await {
            let mut written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
            written.extend(addresses.map(|address| (address, node.to_owned())));
        }
        self.to(node).await
    }

    /// Which node the driver means. The cluster tells no ports, so the driver takes each node to have that of its first
    /// connection, which was to a tunnel: that node's own is meant.
    async fn meant(&self, told: SocketAddr) -> String {
        let local = self.0.local.lock().await;
        let through = local.iter().find(|(_, address)| address.port() == told.port());
        let port = through.and_then(|(node, _)| split(node)).map_or(told.port(), |(_, port)| port);
        let address = SocketAddr::new(told.ip(), port);
        let written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(&address).cloned().unwrap_or_else(|| address.to_string())
    }

    /// The address here that leads to a node.
    pub(crate) async fn to(&self, node: &str) -> io::Result<SocketAddr> {
        let mut local = self.0.local.lock().await;
        if let Some(known) = local.get(node) {
            return Ok(*known);
        }
        let (host, _port) = split(node).ok_or_else(|| io::Error::other("it is not HOST:PORT"))?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let far = Far {
            node: node.to_owned(),
            name,
            connector: self.0.connector.clone(),
            refusal: self.0.refusal.clone(),
        };
        self.0.listening.lock().unwrap_or_else(PoisonError::into_inner).spawn(listen(listener, far));
        local.insert(node.to_owned(), address);
        Ok(address)
    }

    /// For the nodes that the cluster tells of.
    pub(crate) fn translator(&self) -> Arc<dyn AddressTranslator> {
        Arc::new(Translator(Arc::downgrade(&self.0)))
    }

    /// Why a handshake was refused, if one was.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.0.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Holds nothing up: the session has it, and the tunnels are to end with the session.
struct Translator(std::sync::Weak<Shared>);

impl AddressTranslator for Translator {
    fn translate_address<'a: 'f, 'b: 'f, 'f>(
        &'a self,
        peer: &'b UntranslatedPeer<'_>,
    ) -> BoxFuture<'f, Result<SocketAddr, TranslationError>> {
        let told = peer.untranslated_address();
        Box::pin(async move {
            let failed = |error: io::Error| TranslationError::Custom(CustomTranslationError::new(error));
            let shared = self.0.upgrade().ok_or_else(|| failed(io::Error::other("the session has ended")))?;
            let tunnels = Tunnels(shared);
            let node = tunnels.meant(told).await;
            tunnels.to(&node).await.map_err(failed)
        })
    }
}

/// The other end.
struct Far {
    node: String,
    name: ServerName<'static>,
    connector: TlsConnector,
    refusal: Arc<Mutex<Option<String>>>,
}

/// Takes connections as long as the session lives. The driver bounds them: a few to a node.
async fn listen(listener: TcpListener, far: Far) {
    let far = Arc::new(far);
    let mut lines = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => {
                    let far = far.clone();
                    lines.spawn(async move { carry(near, &far).await });
                }
                Err(error) => {
                    tracing::warn!(%error, node = far.node, "a tunnel to a node takes no more connections");
                    return;
                }
            },
            Some(_ended) = lines.join_next() => {}
        }
    }
}

/// Both ways, until either side ends.
async fn carry(mut near: TcpStream, far: &Far) {
    let reached = tokio::time::timeout(HANDSHAKE_DEADLINE, async {
        let stream = TcpStream::connect(far.node.as_str()).await?;
        stream.set_nodelay(true)?;
        near.set_nodelay(true)?;
        far.connector.connect(far.name.clone(), stream).await
    });
    // A drop of `near` tells the driver.
    let Ok(reached) = reached.await else { return };
    match reached {
        Ok(mut stream) => {
            if let Err(error) = tokio::io::copy_bidirectional(&mut near, &mut stream).await {
                tracing::debug!(%error, node = far.node, "a line to a node broke off");
            }
        }
        Err(error) => {
            // Whatever rustls has against the other side; a line that broke off is no refusal.
            let is_refusal = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
            if is_refusal {
                let why = format!("{}: {error}", far.node);
                *far.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
            }
        }
    }
}
