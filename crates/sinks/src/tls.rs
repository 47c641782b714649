//! TLS of the drivers: whom they believe, and the configuration that follows from it. rustls with `ring`; nothing else.

use std::io;
use std::sync::Arc;

use camino::Utf8Path;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Where Linux distributions and the BSDs keep the authorities that the machine trusts.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The versions that are spoken.
pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// The one provider of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The PEM file itself, or that of the machine without one. Looks at the disk.
///
/// # Errors
/// The machine has no file of authorities.
pub fn authorities_file(file: Option<&Utf8Path>) -> io::Result<&Utf8Path> {
    let found = || SYSTEM_ROOTS.iter().map(Utf8Path::new).find(|path| path.exists());
    file.or_else(found).ok_or_else(|| io::Error::other("this machine has no file of trusted authorities"))
}

/// The authorities in a PEM file, or those of the machine without one. Blocks for a file.
///
/// # Errors
/// The file cannot be read or has no certificate; the machine has no file of authorities. The message names the file.
pub fn authorities(file: Option<&Utf8Path>) -> io::Result<RootCertStore> {
    let path = authorities_file(file)?;
    let wrong = |why: String| io::Error::other(format!("read authorities in `{path}`: {why}"));
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        // One of many that this build cannot read must not take the others with it.
        if let Err(error) = store.add(certificate) {
            tracing::debug!(%path, %error, "skipped an authority");
        }
    }
    if store.is_empty() { Err(wrong("there is no certificate in it".to_owned())) } else { Ok(store) }
}

/// A client that believes servers whose certificates these authorities signed, under the names that they were connected by, and
/// has no certificate of its own. `file` as in [`authorities`]. Blocks for a file.
///
/// # Errors
/// As [`authorities`].
pub fn client_config(file: Option<&Utf8Path>) -> io::Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)
        .map_err(io::Error::other)?
        .with_root_certificates(authorities(file)?)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let message = |path: &str| authorities(Some(Utf8Path::new(path))).unwrap_err().to_string();
        assert!(message("/no/such/ca.pem").starts_with("read authorities in `/no/such/ca.pem`: "));
        assert_eq!(message("/dev/null"), "read authorities in `/dev/null`: there is no certificate in it");
    }
}
