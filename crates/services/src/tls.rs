//! Whom to believe on an encrypted line to a service.

use std::io;
use std::sync::Arc;

use camino::Utf8Path;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Where Linux distributions and the BSDs keep the authorities that the machine trusts.
const MACHINE_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Believes the authorities in a PEM file, or those of the machine. Blocks for a file.
pub(crate) fn client_config(ca: Option<&Utf8Path>) -> io::Result<ClientConfig> {
    let found = || MACHINE_AUTHORITIES.iter().map(Utf8Path::new).find(|path| path.exists());
    let path = ca
        .or_else(found)
        .ok_or_else(|| io::Error::other("this machine has no file of trusted authorities"))?;
    let wrong = |why: String| io::Error::other(format!("read authorities in `{path}`: {why}"));
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let mut roots = RootCertStore::empty();
    let (usable, _) =
        roots.add_parsable_certificates(certificates.map_err(|error| wrong(error.to_string()))?);
    if usable == 0 {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth())
}
