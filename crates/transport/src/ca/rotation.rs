//! Another root in the place of the former, while everything goes on.
//!
//! ```text
//! begun      root.pem: new, former     certificates are issued below the new root, with cross.pem in their chain: whoever trusts
//!                                      either root believes them, and gets both roots with the next certificate
//! finished   root.pem: new             whoever trusts only the former one is not served any more
//! ```
//! Each step is one write of `root.pem`. What stands before it is undone, and what stands behind it is done, at the next opening.

use camino::Utf8Path;
use rcgen::{Issuer, PublicKeyData};
use tracing::info;
use x509_parser::prelude::X509Certificate;

use super::params::{self, common_name};
use super::signing::{blocks, keep_identity, new_key, text};
use super::{Authority, issue_error, lock, parse, read_key, remove, write};
use crate::Error;
use crate::request::fingerprint;
use crate::tls::certificates;

/// One certificate of the authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its name.
    pub name: String,
    /// BLAKE3 over its public key.
    pub fingerprint: [u8; 32],
    /// From when on it holds, in microseconds since 1970.
    pub begins_us: i64,
    /// Until when.
    pub ends_us: i64,
}

/// What there is of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityFacts {
    /// The newest root first; two during a rotation.
    pub roots: Vec<CertificateFacts>,
    /// What signs.
    pub intermediate: CertificateFacts,
    /// Whether the key of the newest root is here.
    pub has_root_key: bool,
}

impl Authority {
    /// What there is.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn facts(&self) -> Result<AuthorityFacts, Error> {
        let _lock = lock(&self.directory)?;
        let intermediate = self.directory.join("intermediate.pem");
        Ok(AuthorityFacts {
            roots: facts(&self.root_path())?,
            intermediate: facts(&intermediate)?.remove(0),
            has_root_key: self.directory.join("root.key").exists(),
        })
    }

    /// Begins a rotation: a new root, which the former one signs, too. From now on it is what everything is issued below.
    ///
    /// # Errors
    /// [`Error::RotationUnderWay`]; [`Error::RootOffline`]: the former root has to sign the new one.
    pub fn rotate(&self) -> Result<(), Error> {
        let _lock = lock(&self.directory)?;
        let (path, key_path) = (self.root_path(), self.directory.join("root.key"));
        let former = certificates(&path)?;
        if former.len() > 1 {
            return Err(Error::RotationUnderWay);
        }
        if !key_path.exists() {
            return Err(Error::RootOffline { path: key_path });
        }
        let certificate = parse(&path, &former[0])?;
        let name = next_name(common_name(&certificate));
        let issuer =
            Issuer::from_ca_cert_der(&former[0], read_key(&key_path)?).map_err(issue_error("root"))?;
        let key = new_key(&self.directory.join("next.key"), &name)?;
        let mut params = params::root(&name, self.clock.as_ref());
        let root = params.self_signed(&key).map_err(issue_error(&name))?;
        params.use_authority_key_identifier_extension = true;
        let cross = params.signed_by(&key, &issuer).map_err(issue_error(&name))?;
        write(&self.directory.join("cross.pem"), cross.pem().as_bytes())?;
        keep_identity(&self.directory)?;
        write(&path, (root.pem() + &text(&path)?).as_bytes())?;
        info!(root = name, "a rotation of the authority begins");
        self.take_up()
    }

    /// Ends a rotation: the former root is trusted no more.
    ///
    /// # Errors
    /// [`Error::NoRotation`].
    pub fn finish_rotation(&self) -> Result<(), Error> {
        let _lock = lock(&self.directory)?;
        let path = self.root_path();
        let roots = blocks(&text(&path)?);
        let [newest, _former, ..] = &roots[..] else { return Err(Error::NoRotation) };
        write(&path, newest.as_bytes())?;
        info!("the rotation of the authority is finished");
        self.take_up()
    }
}

/// Does what a rotation that was cut off left to do, or takes away what it left behind.
pub(super) fn complete(directory: &Utf8Path) -> Result<(), Error> {
    let (path, next, key) =
        (directory.join("root.pem"), directory.join("next.key"), directory.join("root.key"));
    let former = directory.join("former.key");
    if !path.exists() {
        return Ok(());
    }
    let roots = certificates(&path)?;
    if next.exists() {
        let has_begun =
            parse(&path, &roots[0])?.public_key().raw == read_key(&next)?.subject_public_key_info();
        if has_begun {
            if key.exists() {
                std::fs::rename(&key, &former).map_err(Error::file("rename", &key))?;
            }
            std::fs::rename(&next, &key).map_err(Error::file("rename", &next))?;
        } else {
            remove(&next);
        }
    }
    if roots.len() == 1 {
        remove(&directory.join("cross.pem"));
        remove(&former);
    }
    Ok(())
}

/// `AAP authority`, `AAP authority 2`, …: another name than the former one has, so that each certificate says which root it is of.
fn next_name(former: &str) -> String {
    match former.rsplit_once(' ').and_then(|(name, number)| Some((name, number.parse::<u32>().ok()?))) {
        Some((name, number)) => format!("{name} {}", number.saturating_add(1)),
        None => format!("{former} 2"),
    }
}

fn facts(path: &Utf8Path) -> Result<Vec<CertificateFacts>, Error> {
    let found = certificates(path)?;
    found.iter().map(|der| parse(path, der).map(|certificate| facts_of(&certificate))).collect()
}

fn facts_of(certificate: &X509Certificate<'_>) -> CertificateFacts {
    let micros = |time: &x509_parser::time::ASN1Time| time.timestamp().saturating_mul(1_000_000);
    CertificateFacts {
        name: common_name(certificate).to_owned(),
        fingerprint: fingerprint(certificate.public_key().raw),
        begins_us: micros(&certificate.validity().not_before),
        ends_us: micros(&certificate.validity().not_after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_root_has_a_name_of_its_own() {
        for (former, next) in
            [("AAP authority", "AAP authority 2"), ("AAP authority 2", "AAP authority 3"), ("x", "x 2")]
        {
            assert_eq!(next_name(former), next);
        }
    }
}
