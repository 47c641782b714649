//! Requests for certificates (PKCS #10, RFC 2986): a node makes its key, which never leaves it, and asks for a certificate. Of what it
//! asks for, its key counts and nothing else: who it is, for how long and for what stands in what the authority knows.

use std::time::Duration;

use aap_runtime::write_durably;
use aap_types::NodeId;
use camino::Utf8Path;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData,
};
use rustls_pki_types::CertificateSigningRequestDer;

use crate::Error;
use crate::ca::{Authority, issue_error, read_key};

/// A request is a key, a name and a signature: half a kilobyte.
pub(crate) const CSR_BYTES_MAX: usize = 2048;

/// The key of a node, on the node.
pub struct NodeKey(KeyPair);

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey(…)")
    }
}

impl NodeKey {
    /// The key in `path`, or a new one that is put there, for its owner alone.
    ///
    /// # Errors
    /// The file is damaged, exposed, or cannot be written.
    pub fn read_or_make(path: &Utf8Path) -> Result<Self, Error> {
        if path.exists() {
            return read_key(path).map(Self);
        }
        let key = KeyPair::generate().map_err(issue_error("node"))?;
        write_durably(path, key.serialize_pem().as_bytes(), 0o600).map_err(Error::file("write", path))?;
        Ok(Self(key))
    }

    /// What is sent to the authority, DER.
    ///
    /// # Errors
    /// Signing fails.
    pub fn request(&self, node: &NodeId) -> Result<Vec<u8>, Error> {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, node.as_str());
        params.distinguished_name = name;
        let request = params.serialize_request(&self.0).map_err(issue_error(node.as_str()))?;
        Ok(request.der().to_vec())
    }
}

/// A request whose signature is that of its key.
#[derive(Debug)]
pub struct CertificateRequest {
    key: rcgen::PublicKey,
    fingerprint: [u8; 32],
}

impl CertificateRequest {
    /// Reads what a node sent.
    ///
    /// # Errors
    /// It is none, is signed by another key, or its key is of a kind that is not taken: RSA, or a curve below 128 bits of security.
    pub fn read(der: &[u8]) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadRequest { reason };
        if der.len() > CSR_BYTES_MAX {
            return Err(bad(format!("it has {} bytes, and {CSR_BYTES_MAX} are enough", der.len())));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(|error| bad(error.to_string()))?;
        let key = request.public_key;
        let taken = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
        if !taken.iter().any(|algorithm| *algorithm == key.algorithm()) {
            return Err(bad("its key is not ECDSA P-256, P-384 or Ed25519".to_owned()));
        }
        let fingerprint = fingerprint(&key.subject_public_key_info());
        Ok(Self { key, fingerprint })
    }

    /// What its key is known by: BLAKE3 over its SubjectPublicKeyInfo (RFC 5280).
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }
}

/// What a public key is known by: BLAKE3 over its SubjectPublicKeyInfo (RFC 5280), DER.
pub(crate) fn fingerprint(public_key_info: &[u8]) -> [u8; 32] {
    blake3::hash(public_key_info).into()
}

/// A certificate that was just issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The certificate and what leads to the authority, PEM.
    pub chain: String,
    /// Its serial number.
    pub serial: Serial,
    /// Microseconds since 1970 at which it ends.
    pub expires_us: i64,
    /// The fingerprint of the root that the chain leads to.
    pub root: [u8; 32],
}

/// The serial number of a node's certificate: 16 bytes, in which the generation stands for whoever sees the certificate.
///
/// ```text
/// 'A'  generation, 8 bytes big endian  7 random bytes
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serial(pub(crate) [u8; 16]);

/// What a serial number of ours begins with: positive in ASN.1, and not what others begin with by chance and then have 16 bytes.
const MARK: u8 = b'A';

impl Serial {
    fn new(generation: u64) -> Result<Self, Error> {
        let mut bytes = [MARK; 16];
        bytes[1..9].copy_from_slice(&generation.to_be_bytes());
        let random = ring::rand::SystemRandom::new();
        ring::rand::SecureRandom::fill(&random, &mut bytes[9..]).map_err(Error::tls)?;
        Ok(Self(bytes))
    }

    /// The generation in the serial number of a certificate; 0 where it was issued without one.
    pub(crate) fn generation_in(raw: &[u8]) -> u64 {
        match raw {
            [MARK, rest @ ..] if rest.len() == 15 => {
                rest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
            }
            _ => 0,
        }
    }
}

impl std::fmt::Display for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Authority {
    /// A certificate of `node` for the key of `request`, which holds for `life`.
    ///
    /// # Errors
    /// Signing fails.
    pub fn sign_node(
        &self,
        request: &CertificateRequest,
        node: &NodeId,
        generation: u64,
        life: Duration,
    ) -> Result<IssuedCertificate, Error> {
        let serial = Serial::new(generation)?;
        let (mut params, expires_us) = self.node_params(node, life)?;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial.0));
        let (chain, root) = self.sign(node.as_str(), &params, &request.key)?;
        Ok(IssuedCertificate { chain, serial, expires_us, root })
    }
}
