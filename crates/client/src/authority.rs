//! The certificate authority of a platform, as whoever wants to reach it has it: certificates in PEM.

use aap_types::{ExitCode, Problem};
use camino::Utf8Path;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// One certificate or several, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    pem: String,
    /// Of each, the first one at least.
    fingerprints: Vec<String>,
}

impl Authority {
    /// The certificates in a text. What else stands there, such as a key, is left out: this gets into files that are shared.
    ///
    /// # Errors
    /// `context.bad_authority` (2): `what` holds none.
    pub fn of(text: &str, what: &str) -> Result<Self, Problem> {
        let pem = certificates(text);
        let mut fingerprints = vec![];
        for found in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let found = found.map_err(|error| bad(what).caused_by(&error))?;
            let (_, certificate) =
                x509_parser::parse_x509_certificate(&found).map_err(|error| bad(what).caused_by(&error))?;
            fingerprints.push(blake3::hash(certificate.public_key().raw).to_hex().to_string());
        }
        match fingerprints.is_empty() {
            true => Err(bad(what).cause("no certificate stands in it")),
            false => Ok(Self { pem, fingerprints }),
        }
    }

    /// The certificates in a file.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn read(path: &Utf8Path) -> Result<Self, Problem> {
        let text =
            std::fs::read_to_string(path).map_err(|error| bad(&format!("`{path}`")).caused_by(&error))?;
        Self::of(&text, &format!("`{path}`"))
    }

    /// As PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// BLAKE3 over the public key of the first certificate, in hexadecimal digits: it stays the same when that is signed anew.
    pub fn fingerprint(&self) -> &str {
        self.fingerprints.first().map_or("", String::as_str)
    }

    /// The same of every certificate: several while the root is being replaced, the newest first.
    pub fn fingerprints(&self) -> &[String] {
        &self.fingerprints
    }
}

fn bad(what: &str) -> Problem {
    let message = format!("{what} holds no certificate authority that can be used");
    Problem::new("context.bad_authority", ExitCode::Usage, message)
        .hint("it is `tls/root.pem` of the coordinator's home, in PEM; `aap context export` writes it, too")
}

/// The blocks of certificates in a text.
fn certificates(text: &str) -> String {
    let mut pem = String::new();
    let mut is_within = false;
    for line in text.lines().map(str::trim) {
        is_within |= line == BEGIN;
        if is_within {
            pem.push_str(line);
            pem.push('\n');
        }
        is_within &= line != END;
    }
    pem
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A certificate of nobody's.
    pub(crate) const PEM: &str = include_str!("authority/test.pem");

    #[test]
    fn certificates_are_taken_and_keys_left_where_they_are() {
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        let authority = Authority::of(&format!("# ours\n{key}{PEM}"), "x").unwrap();
        assert_eq!(authority.pem(), PEM);
        let of_twice = Authority::of(&format!("{PEM}{PEM}"), "x").unwrap();
        assert_eq!((authority.fingerprint().len(), authority.fingerprint()), (64, of_twice.fingerprint()));
        let of = |inner: &str| format!("-----BEGIN CERTIFICATE-----\n{inner}\n-----END CERTIFICATE-----\n");
        for wrong in ["", key, &of("???"), &of("AAECAwQFBgc=")] {
            assert_eq!(Authority::of(wrong, "x").unwrap_err().code, "context.bad_authority", "{wrong}");
        }
    }
}
