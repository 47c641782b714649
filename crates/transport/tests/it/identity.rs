//! Who gets in and who does not.

use aap_transport::{AgentSession, Authority, ClientConfig, Error, Prefer, TlsFiles, connect};

use crate::support::{Platform, authority, greet, node, path, within};

const CARRIERS: [Prefer; 1] = [Prefer::Grpc];

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
