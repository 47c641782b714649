//! Peers that do not play by the rules.

use std::io::Error;
use std::sync::Arc;

use aap_proto::MESSAGE_BYTES_MAX;
use aap_proto::v1::AgentMessage;
use aap_proto::v1::agent_message::Kind;
use aap_proto::v1::uplink_client::UplinkClient;
use aap_transport::{LiveTls, Prefer, Server, ServerConfig, connect};
use hyper_util::rt::TokioIo;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;

use crate::support::{Platform, greet, hello, make_batch, node, within};

/// A TLS client as a stranger would set it up: with or without the node's certificate.
pub(crate) fn tls(
    platform: &Platform,
    with_identity: bool,
    version: &'static SupportedProtocolVersion,
    alpn: &[u8],
) -> ClientConfig {
    let files = platform.authority.node_files(&node()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.root).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = if with_identity {
        let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap();
        let chain = chain.collect::<Result<_, _>>().unwrap();
        builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap()).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// Whether a TLS session gets as far as reading a byte from the server.
pub(crate) async fn tcp_answers(platform: &Platform, config: ClientConfig) -> bool {
    let stream = TcpStream::connect(platform.serving.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let answer = async {
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        stream.read_u8().await
    };
    within(answer).await.is_ok()
}

pub(crate) async fn quic_connection(platform: &Platform, config: ClientConfig) -> quinn::Connection {
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let connecting = endpoint.connect_with(config, platform.serving.address(), "localhost").unwrap();
    within(connecting).await.unwrap()
}

async fn still_serves(platform: &Platform) {
    for prefer in [Prefer::Grpc, Prefer::Quic] {
        let mut session = connect(&platform.client(prefer)).await.unwrap();
        greet(&mut session, 1).await;
    }
}

#[tokio::test]
async fn tls_1_3_with_a_certificate_gets_in_and_nothing_less() {
    let platform = Platform::start().await;
    let (old, new) = (&rustls::version::TLS12, &rustls::version::TLS13);
    assert!(tcp_answers(&platform, tls(&platform, true, new, b"h2")).await, "the harness itself works");
    assert!(!tcp_answers(&platform, tls(&platform, false, new, b"h2")).await, "no certificate");
    assert!(!tcp_answers(&platform, tls(&platform, true, old, b"h2")).await, "TLS 1.2");
    assert!(!tcp_answers(&platform, tls(&platform, true, new, b"http/1.1")).await, "another protocol");
    let connection = quic_connection(&platform, tls(&platform, false, new, b"aap/1")).await;
    let closed = within(connection.closed()).await;
    assert!(matches!(closed, quinn::ConnectionError::ConnectionClosed(_)), "no certificate: {closed}");
    assert!(platform.checker.peers.lock().unwrap().is_empty());
    still_serves(&platform).await;
}

#[tokio::test]
async fn garbage_on_the_port_hurts_nobody() {
    let platform = Platform::start().await;
    let address = platform.serving.address();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut open = Vec::new();
    for round in 0..30_u8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let bytes: Vec<u8> = match round % 4 {
            0 => b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            1 => (0..5000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ round).collect(),
            2 => vec![0x16, 0x03, 0x01, 0xFF, 0xFF, 0x01],
            _ => vec![],
        };
        drop(stream.write_all(&bytes).await);
        for datagram in [&bytes[..bytes.len().min(1200)], &[0xC0; 1200], &[round; 40]] {
            udp.send_to(datagram, address).await.unwrap();
        }
        open.push(stream);
    }
    still_serves(&platform).await;
    // What does not shake hands is dropped.
    let mut byte = [0];
    for mut stream in open {
        within(async { while matches!(stream.read(&mut byte).await, Ok(read) if read > 0) {} }).await;
    }
    assert_eq!(platform.checker.peers.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn frames_and_prefaces_that_break_the_protocol_end_that_session_only() {
    let platform = Platform::start().await;
    let new = &rustls::version::TLS13;
    for (case, preface, frame) in [
        ("another protocol", &b"HTTP/"[..], &b""[..]),
        ("unknown kind", b"AAP1Z", b""),
        ("a frame of 4 GiB", b"AAP1S", b"\xFF\xFF\xFF\xFF"),
        ("a frame that is no message", b"AAP1S", b"\x03\0\0\0\xFF\xFF\xFF"),
        ("a frame that is cut off", b"AAP1S", b"\x20\0\0\0\x0A"),
    ] {
        let connection = quic_connection(&platform, tls(&platform, true, new, b"aap/1")).await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(preface).await.unwrap();
        send.write_all(frame).await.unwrap();
        send.finish().unwrap();
        within(connection.closed()).await;
        if preface == b"AAP1S" {
            let ends = platform.checker.ended().await;
            assert!(matches!(&ends[..], [Err(reason)] if reason.contains("protocol")), "{case}: {ends:?}");
        }
    }
    still_serves(&platform).await;
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_that_session_only() {
    let platform = Platform::start().await;
    let config = tls(&platform, true, &rustls::version::TLS13, b"h2");
    let stream = TcpStream::connect(platform.serving.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let mut once = Some(TokioIo::new(stream));
    let connector =
        tower::service_fn(move |_| std::future::ready(once.take().ok_or_else(|| Error::other("once"))));
    let channel =
        Endpoint::from_static("http://coordinator").connect_with_connector(connector).await.unwrap();
    // A client without our limits.
    let mut client = UplinkClient::new(channel).max_encoding_message_size(usize::MAX);
    let large = AgentMessage { kind: Some(Kind::Batch(make_batch("logs", 1, MESSAGE_BYTES_MAX))) };
    let reply = client.session(futures::stream::iter([hello(1), large])).await.unwrap();
    let mut reply = reply.into_inner();
    within(async { while let Ok(Some(_)) = reply.message().await {} }).await;
    let ends = platform.checker.ended().await;
    assert!(matches!(&ends[..], [Err(reason)] if reason.contains("too large")), "{ends:?}");
    still_serves(&platform).await;
}

#[tokio::test]
async fn a_port_that_is_taken_for_udp_or_tcp_is_refused() {
    let platform = Platform::start().await;
    let tls = LiveTls::open(platform.authority.server_files(&[]).unwrap(), None).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for bind in [udp.local_addr().unwrap(), platform.serving.address()] {
        let error = Server::bind(&ServerConfig { bind, tls: tls.clone() }).await.unwrap_err();
        assert!(error.to_string().contains(&bind.to_string()), "{error}");
        assert_eq!(error.problem().code, "transport.listen");
    }
}
