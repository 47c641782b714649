//! Who gets in and who does not.

use std::sync::Arc;

use aap_runtime::{Clock, ManualClock, SystemClock};
use aap_transport::{AgentSession, Authority, ClientConfig, Error, Prefer, TlsFiles, connect};

use crate::hostile::{quic_connection, tcp_answers, tls};
use crate::support::{Platform, authority, greet, node, path, within};

const CARRIERS: [Prefer; 2] = [Prefer::Grpc, Prefer::Quic];

async fn refused(platform: &Platform, config: ClientConfig, why: &str) {
    let error = within(connect(&config)).await.err().unwrap_or_else(|| panic!("{why} was let in"));
    assert!(matches!(error, Error::Connect { .. } | Error::Tls(_)), "{why}: {error:?}");
    assert!(platform.checker.peers.lock().unwrap().is_empty(), "{why} reached the handler");
}

fn write(platform: &Platform, name: &str, text: &str) -> camino::Utf8PathBuf {
    let path = path(&platform.directory).join(name);
    aap_runtime::write_durably(&path, text.as_bytes(), 0o600).unwrap();
    path
}

fn identity_of(platform: &Platform, name: &str, issued: (String, String)) -> TlsFiles {
    TlsFiles {
        root: platform.authority.root_path(),
        certificate: write(platform, &format!("{name}.pem"), &issued.0),
        key: write(platform, &format!("{name}.key"), &issued.1),
    }
}

#[tokio::test]
async fn a_node_with_its_certificate_is_known_by_name() {
    for carrier in CARRIERS {
        let platform = Platform::start().await;
        let mut session: AgentSession = connect(&platform.client(carrier)).await.unwrap();
        greet(&mut session, 1).await;
        assert_eq!(platform.checker.peers.lock().unwrap()[0].node, node());
    }
}

#[tokio::test]
async fn t1_certificates_that_are_no_nodes_are_refused() {
    for carrier in CARRIERS {
        let platform = Platform::start().await;
        let other = tempfile::tempdir().unwrap();
        let foreign = identity_of(&platform, "foreign", authority(&other).issue_node(&node()).unwrap());
        // Its root and its intermediate have the names that ours have.
        refused(&platform, platform.client_as(foreign, carrier), "a node of another authority").await;
        let of_stranger = authority(&other).issue_node(&node()).unwrap();
        let ours = std::fs::read_to_string(path(&platform.directory).join("tls/intermediate.pem")).unwrap();
        let mixed = (of_stranger.0 + &ours, of_stranger.1);
        let mixed = identity_of(&platform, "mixed", mixed);
        refused(&platform, platform.client_as(mixed, carrier), "a stranger's node with our intermediate")
            .await;
        let (chain, key) = platform.authority.issue_node(&node()).unwrap();
        let alone: String = chain.split_inclusive("-----END CERTIFICATE-----\n").take(1).collect();
        let alone = identity_of(&platform, "alone", (alone, key));
        refused(&platform, platform.client_as(alone, carrier), "a node without the intermediate").await;
        let long_ago = Arc::new(ManualClock::at(1_600_000_000_000));
        let past =
            Authority::create_or_open(&platform.authority.root_path().with_file_name(""), long_ago).unwrap();
        let expired = identity_of(&platform, "expired", past.issue_node(&node()).unwrap());
        refused(&platform, platform.client_as(expired, carrier), "an expired node").await;
        let soon = Arc::new(ManualClock::at(SystemClock::default().unix_ms() + 86_400_000));
        let early =
            Authority::create_or_open(&platform.authority.root_path().with_file_name(""), soon).unwrap();
        let future = identity_of(&platform, "future", early.issue_node(&node()).unwrap());
        refused(&platform, platform.client_as(future, carrier), "a node of tomorrow").await;
        let server = identity_of(&platform, "server", platform.authority.issue_server(&[]).unwrap());
        refused(&platform, platform.client_as(server, carrier), "the server's certificate").await;
        let intermediate = TlsFiles {
            root: platform.authority.root_path(),
            certificate: path(&platform.directory).join("tls/intermediate.pem"),
            key: path(&platform.directory).join("tls/intermediate.key"),
        };
        refused(&platform, platform.client_as(intermediate, carrier), "the intermediate itself").await;
        let mut session = connect(&platform.client(carrier)).await.unwrap();
        greet(&mut session, 1).await;
    }
}

/// Shows what cannot be read as a certificate, with a key that signs.
#[derive(Debug)]
struct Garbage(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Garbage {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn t1_no_certificate_and_garbage_in_its_place_are_refused_in_the_handshake() {
    let platform = Platform::start().await;
    let key = platform.authority.node_files(&node()).unwrap().key;
    let key = <rustls_pki_types::PrivateKeyDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_file(&key);
    let key = rustls::crypto::ring::sign::any_supported_type(&key.unwrap()).unwrap();
    let new = &rustls::version::TLS13;
    for (what, bytes) in [
        ("nothing", vec![]),
        ("bytes", vec![0x30, 0x82, 0xFF, 0xFF, 0x00]),
        ("text", b"-----BEGIN CERTIFICATE-----".to_vec()),
        ("a kilobyte of zeros", vec![0; 1024]),
    ] {
        let chain = vec![rustls_pki_types::CertificateDer::from(bytes)];
        let garbage = Arc::new(Garbage(Arc::new(rustls::sign::CertifiedKey::new(chain, key.clone()))));
        let config = |protocol: &[u8]| {
            let mut config = tls(&platform, false, new, protocol);
            config.client_auth_cert_resolver = garbage.clone();
            config
        };
        assert!(!tcp_answers(&platform, config(b"h2")).await, "{what}");
        within(quic_connection(&platform, config(b"aap/1")).await.closed()).await;
    }
    assert!(!tcp_answers(&platform, tls(&platform, false, new, b"h2")).await, "no certificate");
    within(quic_connection(&platform, tls(&platform, false, new, b"aap/1")).await.closed()).await;
    assert!(platform.checker.peers.lock().unwrap().is_empty());
    assert!(tcp_answers(&platform, tls(&platform, true, new, b"h2")).await, "the harness itself works");
}

#[tokio::test]
async fn t1_an_agent_refuses_a_coordinator_that_shows_a_nodes_certificate() {
    let platform = Platform::start().await;
    let as_node = platform.authority.node_files(&node()).unwrap();
    let rogue = crate::support::listen("127.0.0.1:0", as_node, &platform.checker, &platform.shutdown).await;
    for carrier in CARRIERS {
        let config = ClientConfig { address: rogue.address().to_string(), ..platform.client(carrier) };
        refused(&platform, config, "a node that plays the coordinator").await;
    }
}

#[tokio::test]
async fn t1_an_agent_refuses_a_coordinator_of_another_authority() {
    for carrier in CARRIERS {
        let platform = Platform::start().await;
        let other = tempfile::tempdir().unwrap();
        let elsewhere: Authority = authority(&other);
        let mut config = platform.client(carrier);
        config.tls.root = elsewhere.root_path();
        refused(&platform, config, "an agent that trusts another authority").await;
    }
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused_with_the_remedy() {
    let platform = Platform::start().await;
    let config = platform.client(Prefer::Auto);
    std::fs::set_permissions(&config.tls.key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let error = connect(&config).await.unwrap_err();
    assert!(matches!(error, Error::KeyExposed { mode: 0o640, .. }), "{error:?}");
    let command = error.problem().hints[0].command.clone().unwrap();
    assert_eq!(command, format!("chmod 600 {}", config.tls.key));
}

#[tokio::test]
async fn an_address_that_is_none_is_refused() {
    let platform = Platform::start().await;
    for bad in ["", "localhost", "localhost:", "localhost:70000", "a b:1", ":7400"] {
        let config = ClientConfig { address: bad.to_owned(), ..platform.client(Prefer::Auto) };
        assert!(matches!(connect(&config).await, Err(Error::BadAddress { .. })), "{bad:?}");
    }
}

#[tokio::test]
async fn nobody_there_is_said_with_address_and_carrier() {
    let platform = Platform::start().await;
    for carrier in CARRIERS {
        let config = ClientConfig { address: "127.0.0.1:1".to_owned(), ..platform.client(carrier) };
        let error = within(connect(&config)).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("127.0.0.1:1")
                && text.contains(if carrier == Prefer::Quic { "quic" } else { "grpc" })
        );
        assert_eq!(error.problem().exit, aap_types::ExitCode::Unavailable);
    }
}
