//! The certificates by which a coordinator shows who it is, for whoever looks after them.

use std::sync::Arc;
use std::time::Duration;

use aap_types::{ExitCode, Problem};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::platform::innermost;
use crate::{Authority, Platform};

/// What stands in one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whom it names.
    pub subject: String,
    /// From when it holds, in microseconds since 1970.
    pub from_us: i64,
    /// Until when.
    pub until_us: i64,
}

impl Platform {
    /// Opens a connection as operators do, and tells by what the coordinator is known: its own certificate first, the authority last.
    ///
    /// # Errors
    /// `platform.not_running`, `platform.authority`, `context.bad_authority` as for every call; `platform.certificate` (7): nobody is
    /// there, or not who should be.
    pub async fn certificates(&self, within: Duration) -> Result<Vec<CertificateFacts>, Problem> {
        let (address, authority) = (self.operator_endpoint()?, self.authority()?);
        let refused = |cause: String| refused(&address, cause);
        let shaken = tokio::time::timeout(within, shake_hands(&address, &authority)).await;
        let shown = shaken.map_err(|_late| refused(format!("no answer within {} s", within.as_secs())))?;
        let shown = shown.map_err(|error| refused(innermost(error.as_ref())))?;
        let authority = CertificateDer::pem_slice_iter(authority.pem().as_bytes()).filter_map(Result::ok);
        let facts = shown.into_iter().chain(authority.take(1)).map(|certificate| facts_of(&certificate));
        facts.collect::<Option<_>>().ok_or_else(|| refused("a certificate cannot be read".to_owned()))
    }
}

async fn shake_hands(
    address: &str,
    authority: &Authority,
) -> Result<Vec<CertificateDer<'static>>, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.pem().as_bytes()) {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    let stream = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (_, connection) = stream.get_ref();
    let shown = connection.peer_certificates().unwrap_or_default();
    Ok(shown.iter().map(|certificate| certificate.clone().into_owned()).collect())
}

fn facts_of(certificate: &CertificateDer<'_>) -> Option<CertificateFacts> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let (validity, us) = (certificate.validity(), |seconds: i64| seconds.saturating_mul(1_000_000));
    Some(CertificateFacts {
        subject: certificate.subject().to_string(),
        from_us: us(validity.not_before.timestamp()),
        until_us: us(validity.not_after.timestamp()),
    })
}

fn refused(address: &str, cause: String) -> Problem {
    let message = format!("the coordinator at {address} did not show a certificate that is believed");
    Problem::new("platform.certificate", ExitCode::Unavailable, message)
        .cause(cause)
        .hint_command("see by which authority it should be known", "aap context show")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_until_when_it_holds() {
        let der = CertificateDer::from_pem_slice(crate::authority::tests::PEM.as_bytes()).unwrap();
        let facts = facts_of(&der).unwrap();
        assert!(facts.from_us > 0 && facts.until_us > facts.from_us, "{facts:?}");
        assert_eq!(facts_of(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
