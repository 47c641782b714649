//! TLS of both sides: 1.3 only, `ring`, certificates of the embedded authority and no others.

use std::sync::Arc;

use aap_runtime::exposed_mode;
use camino::{Utf8Path, Utf8PathBuf};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::request::{Serial, fingerprint};

/// Application protocol of the gRPC carrier.
pub(crate) const ALPN_GRPC: &[u8] = b"h2";
/// Application protocol of the QUIC carrier.
pub(crate) const ALPN_QUIC: &[u8] = b"aap/1";

/// Application protocol of machines that want to become nodes, on the operators' port.
pub const ALPN_ENROL: &[u8] = b"aap-enrol/1";

/// Where the identity of one side lies. Read at every connect, so that a re-issued certificate is taken up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificate of the authority that the peer must come from, PEM.
    pub root: Utf8PathBuf,
    /// Own certificate, PEM.
    pub certificate: Utf8PathBuf,
    /// Own private key, PEM, mode 0600.
    pub key: Utf8PathBuf,
}

/// How long a certificate holds, in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From when on.
    pub begins_us: i64,
    /// Until when.
    pub ends_us: i64,
    /// Of a node's: how many it had before; 0 where it was issued by hand, and is renewed by hand.
    pub generation: u64,
}

/// A loaded [`TlsFiles`].
pub(crate) struct Loaded {
    pub(crate) roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl TlsFiles {
    pub(crate) fn load(&self) -> Result<Loaded, Error> {
        refuse_exposed(&self.key)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.root)? {
            roots.add(certificate).map_err(|error| unreadable(&self.root, &error))?;
        }
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|error| unreadable(&self.key, &error))?;
        Ok(Loaded { roots: Arc::new(roots), chain: certificates(&self.certificate)?, key })
    }

    /// What the roots are known by: BLAKE3 over their public keys.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn root_fingerprints(&self) -> Result<Vec<[u8; 32]>, Error> {
        let of = |der: &CertificateDer<'_>| match x509_parser::parse_x509_certificate(der) {
            Ok((_, root)) => Ok(fingerprint(root.public_key().raw)),
            Err(error) => Err(unreadable(&self.root, &error)),
        };
        certificates(&self.root)?.iter().map(of).collect()
    }

    /// How long the own certificate holds.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn validity(&self) -> Result<Validity, Error> {
        let der = certificates(&self.certificate)?.remove(0);
        let (_, leaf) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| unreadable(&self.certificate, &error))?;
        let micros = |time: &x509_parser::time::ASN1Time| time.timestamp().saturating_mul(1_000_000);
        let generation = Serial::generation_in(leaf.raw_serial());
        let (begins, ends) = (&leaf.validity().not_before, &leaf.validity().not_after);
        Ok(Validity { begins_us: micros(begins), ends_us: micros(ends), generation })
    }

    /// A secret that outlives the process, for resets of connections of its predecessor.
    pub(crate) fn reset_secret(&self) -> Result<[u8; 32], Error> {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &read(&self.key)?);
        let tag = ring::hmac::sign(&key, b"aap quic stateless reset");
        Ok(tag.as_ref().try_into().expect("a SHA-256 tag has 32 bytes"))
    }

    /// What an agent dials with.
    pub(crate) fn client(&self, protocol: &[u8]) -> Result<ClientConfig, Error> {
        let loaded = self.load()?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(Error::tls)?
            .with_root_certificates(loaded.roots)
            .with_client_auth_cert(loaded.chain, loaded.key)
            .map_err(Error::tls)?;
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }
}

/// A certificate and its key, ready to be shown.
pub(crate) fn certified(certificate: &Utf8Path, key: &Utf8Path) -> Result<Arc<CertifiedKey>, Error> {
    refuse_exposed(key)?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| unreadable(key, &error))?;
    let pair = CertifiedKey::from_der(certificates(certificate)?, private, &provider());
    pair.map(Arc::new).map_err(|error| unreadable(certificate, &error))
}

/// Where the identity of a listener for programs that are not ours lies: senders of telemetry, say. Certificates of any authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// Certificate and what leads to its authority, PEM.
    pub certificate: Utf8PathBuf,
    /// Private key, PEM, mode 0600.
    pub key: Utf8PathBuf,
    /// Authority of the certificates that clients must show, PEM. `None`: they show none.
    pub client_ca: Option<Utf8PathBuf>,
}

impl ListenerTls {
    /// What the listener accepts with: TLS 1.2 or 1.3, and the application protocols `protocols`, the preferred one first.
    pub fn server(&self, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, Error> {
        refuse_exposed(&self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|error| unreadable(&self.key, &error))?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(Error::tls)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider());
                builder.with_client_cert_verifier(verifier.build().map_err(Error::tls)?)
            }
        };
        let mut config =
            builder.with_single_cert(certificates(&self.certificate)?, key).map_err(Error::tls)?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// How to reach servers that are not ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutwardTls {
    /// Authority of the server's certificate, PEM. `None`: those of the machine.
    pub ca: Option<Utf8PathBuf>,
    /// Own certificate and key, PEM, where the server wants one.
    pub identity: Option<(Utf8PathBuf, Utf8PathBuf)>,
}

/// Where the machines keep the authorities that they trust.
const MACHINE_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

impl OutwardTls {
    /// What to connect with.
    pub fn client(&self, protocols: &[&[u8]]) -> Result<Arc<ClientConfig>, Error> {
        let authority = match &self.ca {
            Some(authority) => authority.clone(),
            None => {
                let found = MACHINE_AUTHORITIES.iter().find(|path| Utf8Path::new(path).exists());
                Utf8PathBuf::from(*found.unwrap_or(&MACHINE_AUTHORITIES[0]))
            }
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(Error::tls)?
            .with_root_certificates(roots(&authority)?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                refuse_exposed(key)?;
                let own =
                    PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| unreadable(key, &error))?;
                builder.with_client_auth_cert(certificates(certificate)?, own).map_err(Error::tls)?
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// The authorities in a PEM file. Those that cannot be used are left out, as bundles of machines have such.
fn roots(path: &Utf8Path) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates(path)?);
    match usable {
        0 => Err(Error::Unreadable {
            path: path.to_owned(),
            reason: "no authority in it can be used".to_owned(),
        }),
        _ => Ok(Arc::new(roots)),
    }
}

/// The one cryptography, named here so that no process default decides.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Refuses a private key that somebody beside its owner can read.
pub(crate) fn refuse_exposed(path: &Utf8Path) -> Result<(), Error> {
    match exposed_mode(path).map_err(Error::file("read private key", path))? {
        Some(mode) => Err(Error::KeyExposed { path: path.to_owned(), mode }),
        None => Ok(()),
    }
}

/// Every certificate in a PEM file, at least one.
pub(crate) fn certificates(path: &Utf8Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Error::Unreadable {
            path: path.to_owned(),
            reason: "there is no certificate in it".to_owned(),
        }),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn read(path: &Utf8Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(Error::file("read", path))
}

fn unreadable(path: &Utf8Path, error: &dyn std::error::Error) -> Error {
    Error::Unreadable { path: path.to_owned(), reason: error.to_string() }
}
