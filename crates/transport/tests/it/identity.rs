//! Who gets in and who does not.

use std::sync::Arc;

use aap_runtime::{Clock, ManualClock, SystemClock};
use aap_transport::{AgentSession, Authority, ClientConfig, Error, Prefer, TlsFiles, connect};

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
async fn certificates_that_are_no_nodes_are_refused() {
    for carrier in CARRIERS {
        let platform = Platform::start().await;
        let other = tempfile::tempdir().unwrap();
        let foreign = identity_of(&platform, "foreign", authority(&other).issue_node(&node()).unwrap());
        refused(&platform, platform.client_as(foreign, carrier), "a node of another authority").await;
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
        let mut session = connect(&platform.client(carrier)).await.unwrap();
        greet(&mut session, 1).await;
    }
}

#[tokio::test]
async fn an_agent_refuses_a_coordinator_of_another_authority() {
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
