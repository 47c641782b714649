//! Strangers who begin handshakes and never become anybody: TLS without a certificate, again and again, from addresses of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::site::Site;

/// Addresses that they come from, beside the one of agents.
const ADDRESSES: u8 = 4;
/// Handshakes that each address has under way.
const AT_ONCE: usize = 16;
/// Nobody waits longer for an answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// A flood that goes on until it is dropped.
#[derive(Debug)]
pub(crate) struct Flood {
    _runtime: Runtime,
    begun: Arc<AtomicU64>,
}

impl Flood {
    /// Against the agents' port of a site's coordinator.
    pub(crate) fn of(site: &Site) -> Self {
        let root = std::fs::read(site.home().join("tls/root.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&root) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        // One thread: the machine belongs to those who are measured.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (begun, to) = (Arc::new(AtomicU64::new(0)), site.coordinator_address());
        for address in 0..ADDRESSES {
            for _ in 0..AT_ONCE {
                let (connector, begun) = (connector.clone(), begun.clone());
                let from = SocketAddr::from((Ipv4Addr::new(127, 0, 9, address + 1), 0));
                runtime.spawn(async move {
                    loop {
                        let _refused = tokio::time::timeout(DEADLINE, shake(&connector, from, to)).await;
                        begun.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        Self { _runtime: runtime, begun }
    }

    /// Handshakes that ended so far.
    pub(crate) fn handshakes(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }
}

/// One of them, up to the refusal.
async fn shake(connector: &TlsConnector, from: SocketAddr, to: SocketAddr) -> std::io::Result<()> {
    use tokio::io::AsyncReadExt;
    let socket = TcpSocket::new_v4()?;
    socket.bind(from)?;
    let stream = socket.connect(to).await?;
    let name = ServerName::from(to.ip());
    let mut stream = connector.connect(name, stream).await?;
    // The refusal comes after the client's own end of the handshake.
    stream.read_u8().await.map(drop)
}
