//! A coordinator's certificate is replaced while it listens: whoever shakes hands afterwards sees the new one.

use std::sync::Arc;
use std::time::Duration;

use aap_runtime::{Clock, ManualClock, Shutdown, SystemClock, write_durably};
use aap_transport::{
    Authority, HttpListener, LiveTls, OwnFiles, Prefer, Security, ServerConfig, connect, serve,
};
use camino::{Utf8Path, Utf8PathBuf};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{Checker, greet, node, path, within};

fn client(authority: &Authority, protocol: &[u8]) -> ClientConfig {
    let files = authority.node_files(&node()).unwrap();
    let of = |path: &Utf8Path| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
    };
    let mut roots = RootCertStore::empty();
    of(&files.root).into_iter().for_each(|root| roots.add(root).unwrap());
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let mut config = builder.with_client_auth_cert(of(&files.certificate), key).unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

async fn shown_over_tcp(address: std::net::SocketAddr, config: ClientConfig, name: &str) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn shown_over_quic(address: std::net::SocketAddr, config: ClientConfig) -> Vec<u8> {
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let connection = within(endpoint.connect_with(config, address, "localhost").unwrap()).await.unwrap();
    let shown = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
    shown[0].to_vec()
}

fn leaf(path: &Utf8Path) -> Vec<u8> {
    CertificateDer::from_pem_file(path).unwrap().to_vec()
}

#[tokio::test]
async fn a_new_certificate_is_seen_by_every_new_connection_and_disturbs_none() {
    let directory = tempfile::tempdir().unwrap();
    // Seventeen days ago it was started: half of thirty days is over.
    let clock = Arc::new(ManualClock::at(SystemClock::default().unix_ms() - 17 * 86_400_000));
    let authority = Authority::create_or_open(&path(&directory).join("tls"), clock.clone()).unwrap();
    let files = authority.server_files(&[]).unwrap();
    let own = of_elsewhere(&directory, "first");
    let live = LiveTls::open(files.clone(), Some(own.clone())).unwrap();
    let config = ServerConfig { bind: "127.0.0.1:0".parse().unwrap(), tls: live.clone() };
    let shutdown = Shutdown::default();
    let serving = serve(config, Arc::new(Checker::default()), shutdown.clone()).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let operators = listener.local_addr().unwrap();
    let http = HttpListener::new(listener, Security::Tls(live.operators(&[b"http/1.1"]).unwrap()));
    tokio::spawn(aap_transport::serve_http(http, axum::Router::new(), shutdown.clone()));
    clock.advance(Duration::from_secs(17 * 86_400));
    let as_node = authority.node_files(&node()).unwrap();
    let dial = |prefer| aap_transport::ClientConfig {
        address: serving.address().to_string(),
        tls: as_node.clone(),
        prefer,
    };
    let mut standing = connect(&dial(Prefer::Quic)).await.unwrap();
    greet(&mut standing, 1).await;

    let shown = async || {
        [
            shown_over_tcp(serving.address(), client(&authority, b"h2"), "localhost").await,
            shown_over_quic(serving.address(), client(&authority, b"aap/1")).await,
            shown_over_tcp(operators, client(&authority, b"http/1.1"), "localhost").await,
        ]
    };
    let first = leaf(&files.certificate);
    assert_eq!(shown().await, [first.clone(), first.clone(), first.clone()]);
    assert!(!live.reload().unwrap(), "nothing has changed");
    authority.server_files(&[]).unwrap();
    let second = leaf(&files.certificate);
    assert_ne!(second, first);
    assert!(live.reload().unwrap());
    assert_eq!(shown().await, [second.clone(), second.clone(), second.clone()]);
    greet(&mut standing, 2).await;

    // A certificate from elsewhere is taken up when its files change, and what cannot be used leaves the former one.
    let by_name = async || {
        let mut config = client(&authority, b"http/1.1");
        config.dangerous().set_certificate_verifier(Arc::new(Anybody));
        shown_over_tcp(operators, config, "aap.example").await
    };
    assert_eq!(by_name().await, leaf(&own.certificate));
    let next = of_elsewhere(&directory, "second");
    std::fs::copy(&next.certificate, &own.certificate).unwrap();
    assert!(live.reload().is_err(), "the key is not that of the certificate yet");
    std::fs::copy(&next.key, &own.key).unwrap();
    assert!(live.reload().unwrap());
    assert_eq!(by_name().await, leaf(&next.certificate));
    write_durably(&own.certificate, b"garbage", 0o600).unwrap();
    assert!(live.reload().is_err());
    assert_eq!(by_name().await, leaf(&next.certificate));
    assert_eq!(shown().await, [second.clone(), second.clone(), second.clone()]);

    // It keeps nothing else from being taken up.
    authority.server_files(&["more.example".to_owned()]).unwrap();
    let third = leaf(&files.certificate);
    assert_ne!(third, second);
    assert!(live.reload().is_err());
    assert_eq!(shown().await, [third.clone(), third.clone(), third]);
    std::fs::copy(&next.certificate, &own.certificate).unwrap();
    assert!(!live.reload().unwrap());

    // A listener beside it has its own taken up with this one.
    let routes = of_elsewhere(&directory, "routes");
    let _beside = live.beside(routes.clone()).unwrap();
    assert!(!live.reload().unwrap());
    std::fs::copy(&own.certificate, &routes.certificate).unwrap();
    std::fs::copy(&own.key, &routes.key).unwrap();
    assert!(live.reload().unwrap());
    shutdown.request();
    within(serving.finished()).await.unwrap();
}

/// A certificate of somebody else's authority.
fn of_elsewhere(directory: &tempfile::TempDir, name: &str) -> OwnFiles {
    let folder: Utf8PathBuf = path(directory).join(name);
    let other = Authority::create_or_open(&folder, Arc::new(SystemClock::default())).unwrap();
    let files = other.server_files(&["aap.example".to_owned()]).unwrap();
    OwnFiles { certificate: files.certificate, key: files.key }
}

/// Believes whatever it is shown: it only looks.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
