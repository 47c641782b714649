//! The identity of a coordinator's listeners, which is taken up anew while they listen: certificates live for weeks, coordinators for longer.
//! Connections that stand are not touched; whoever shakes hands from then on sees the new one, over QUIC, over TCP and on the operators' port.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use camino::Utf8PathBuf;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::tls::{ALPN_ENROL, certificates, certified, provider};
use crate::{Error, TlsFiles};

/// A certificate for operators from elsewhere, which a public authority may have issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnFiles {
    /// Certificate and what leads to its authority, PEM.
    pub certificate: Utf8PathBuf,
    /// Private key, PEM, mode 0600.
    pub key: Utf8PathBuf,
}

/// The identity of listeners. Cheap to clone; clones are the same one.
#[derive(Debug, Clone)]
pub struct LiveTls {
    files: TlsFiles,
    own: Option<OwnFiles>,
    current: Current,
    /// Of listeners of their own, which are taken up anew with this one.
    beside: Arc<Mutex<Vec<LiveTls>>>,
}

/// What counts now.
#[derive(Debug, Clone)]
struct Current(Arc<RwLock<Arc<Identity>>>);

#[derive(Debug)]
struct Identity {
    /// Judges the certificates of nodes and coordinators.
    verifier: Arc<dyn ClientCertVerifier>,
    embedded: Arc<CertifiedKey>,
    /// With the roots at its end, for who knows one of them by its fingerprint alone.
    with_roots: Arc<CertifiedKey>,
    own: Option<Arc<CertifiedKey>>,
}

impl LiveTls {
    /// Reads the files: `files` for agents and operators, `own` for operators who ask for a host by name.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn open(files: TlsFiles, own: Option<OwnFiles>) -> Result<Self, Error> {
        let identity = Identity::read(&files, own.as_ref().map(OwnFiles::read).transpose()?)?;
        let current = Current(Arc::new(RwLock::new(Arc::new(identity))));
        Ok(Self { files, own, current, beside: Arc::default() })
    }

    /// Reads them again. Whether anything has changed.
    ///
    /// # Errors
    /// A file cannot be used; what it held before goes on. A certificate of `own` that cannot be used keeps nothing else from being taken up.
    pub fn reload(&self) -> Result<bool, Error> {
        let read = self.own.as_ref().map(OwnFiles::read).transpose();
        let (own, broken) = match read {
            Ok(own) => (own, None),
            Err(error) => (self.current.get().own.clone(), Some(error)),
        };
        let identity = Identity::read(&self.files, own)?;
        let chain = |key: Option<&Arc<CertifiedKey>>| key.map(|key| key.cert.clone());
        let before = self.current.get();
        let mut is_other = chain(Some(&before.with_roots)) != chain(Some(&identity.with_roots))
            || chain(before.own.as_ref()) != chain(identity.own.as_ref());
        if is_other {
            *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
        }
        for other in self.beside.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            is_other |= other.reload()?;
        }
        broken.map_or(Ok(is_other), Err)
    }

    /// The same with another certificate for operators, for a listener of its own. It is taken up anew with this one.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn beside(&self, own: OwnFiles) -> Result<Self, Error> {
        let other = Self::open(self.files.clone(), Some(own))?;
        self.beside.lock().unwrap_or_else(PoisonError::into_inner).push(other.clone());
        Ok(other)
    }

    pub(crate) fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// What the coordinator accepts agents with: the client must have a certificate of the authority.
    pub(crate) fn agents(&self, protocol: &[u8]) -> Result<ServerConfig, Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(Error::tls)?
            .with_client_cert_verifier(Arc::new(self.current.clone()))
            .with_cert_resolver(Arc::new(ForAgents(self.current.clone())));
        config.alpn_protocols = vec![protocol.to_vec()];
        // No resumption: every session shows its certificate again, and a ticket is state an attacker can ask for.
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// What operators' clients are answered with: the own certificate to those who ask for a host by name, which a public authority may
    /// have certified; the embedded authority's to all others, such as the programs of this machine, which come by address.
    /// No client shows a certificate here.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn operators(&self, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(Error::tls)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ForOperators(self.current.clone())));
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }
}

impl OwnFiles {
    fn read(&self) -> Result<Arc<CertifiedKey>, Error> {
        certified(&self.certificate, &self.key)
    }
}

impl Identity {
    fn read(files: &TlsFiles, own: Option<Arc<CertifiedKey>>) -> Result<Self, Error> {
        let roots = files.load()?.roots;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(Error::tls)?;
        let embedded = certified(&files.certificate, &files.key)?;
        let mut with_roots = CertifiedKey::clone(&embedded);
        with_roots.cert.extend(certificates(&files.root)?);
        Ok(Self { verifier, embedded, with_roots: Arc::new(with_roots), own })
    }
}

impl Current {
    fn get(&self) -> Arc<Identity> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What agents and other coordinators see.
#[derive(Debug)]
struct ForAgents(Current);

impl ResolvesServerCert for ForAgents {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get().embedded.clone())
    }
}

/// Which certificate a client of operators gets.
#[derive(Debug)]
struct ForOperators(Current);

impl ResolvesServerCert for ForOperators {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let identity = self.0.get();
        if hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ALPN_ENROL)) {
            return Some(identity.with_roots.clone());
        }
        let by_name = hello.server_name().is_some_and(|name| name != "localhost");
        let own = identity.own.as_ref().filter(|_| by_name);
        Some(own.unwrap_or(&identity.embedded).clone())
    }
}

impl ClientCertVerifier for Current {
    /// No hints: agents have one certificate, and strangers need not learn the names of authorities.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.get().verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.get().verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.get().verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.get().verifier.supported_verify_schemes()
    }
}
