//! The first connection of a node: it knows the authority by its fingerprint, which stood in its enrolment token, and nothing else. It does
//! not trust on first use: a coordinator whose certificate does not lead to that authority is refused.

use std::sync::Arc;
use std::time::Duration;

use aap_proto::v1::enrolment_client::EnrolmentClient;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::client::Target;
use crate::request::fingerprint;
use crate::tls::{ALPN_ENROL, provider};
use crate::{Error, grpc};

/// How long TCP and TLS may take: somebody waits at a terminal.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// What errors call this connection.
const NAME: &str = "TLS";
/// Bytes of a message there: a token and a key one way, a few certificates the other.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// What a node that is not one yet calls.
pub type EnrolmentApi = EnrolmentClient<Channel>;

/// Connects to the operators' port of the coordinator at `address` (`HOST:PORT`), if its certificate leads to an authority whose public
/// key has one of these fingerprints.
///
/// # Errors
/// Nobody answers, or it is another platform's coordinator.
pub async fn enrolment(address: &str, authorities: &[[u8; 32]]) -> Result<EnrolmentApi, Error> {
    let target = Target::parse(address)?;
    let tls = Arc::new(client(authorities.to_vec())?);
    let connect = async {
        let stream = grpc::dial(&target, tls).await.map_err(|error| target.failed(NAME, error))?;
        grpc::http2(stream).await.map_err(|error| target.failed(NAME, error))
    };
    let channel = timeout(CONNECT_DEADLINE, connect)
        .await
        .unwrap_or_else(|_elapsed| Err(target.timed_out(NAME, CONNECT_DEADLINE)))?;
    let client = EnrolmentClient::new(channel);
    Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
}

fn client(authorities: Vec<[u8; 32]>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { authorities }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_ENROL.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// Takes chains that lead to one of some authorities, which they contain.
#[derive(Debug)]
struct Pinned {
    authorities: Vec<[u8; 32]>,
}

impl Pinned {
    fn is_it(&self, certificate: &CertificateDer<'_>) -> bool {
        let parsed = x509_parser::parse_x509_certificate(certificate);
        parsed.is_ok_and(|(_, parsed)| self.authorities.contains(&fingerprint(parsed.public_key().raw)))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let other = || {
            rustls::Error::General(
            "this coordinator belongs to another authority than the one in the token; ask for a new token".to_owned(),
        )
        };
        let root = intermediates.iter().find(|certificate| self.is_it(certificate)).ok_or_else(other)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
