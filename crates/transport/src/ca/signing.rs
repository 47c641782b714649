//! Root and intermediate as they lie on disk: what is wanting is made, what is near its end is renewed, and a root whose key is away is left
//! as it is.

use aap_runtime::Clock;
use camino::Utf8Path;
use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use tracing::info;

use super::params::{
    self, INTERMEDIATE_LEFT_SECONDS_MIN, ROOT_LEFT_SECONDS_MIN, authority_key_id, common_name, ends,
    ends_within, has_begun, may_have_authorities, subject_key_id,
};
use super::{Signer, issue_error, parse, read_key, rotation, write};
use crate::Error;
use crate::request::fingerprint;
use crate::tls::{certificates, refuse_exposed};

/// The name of the first root.
const FIRST: &str = "AAP authority";

/// What certificates are signed with.
pub(super) struct Signing {
    /// The intermediate.
    pub(super) issuer: Signer,
    /// By which its certificates name it.
    pub(super) key_id: Vec<u8>,
    /// What leads from its certificates to a root, PEM.
    pub(super) chain: String,
    /// The second at which it ends.
    pub(super) ends: u64,
    /// The fingerprint of its root's key.
    pub(super) root: [u8; 32],
    /// Whether a former root is still trusted.
    pub(super) is_rotating: bool,
    /// Whether half of the life of the intermediate is over, and the key that would issue the next one is away.
    pub(super) is_ageing: bool,
}

/// The newest root.
struct Root {
    der: CertificateDer<'static>,
    /// None: it is away.
    key: Option<KeyPair>,
}

impl Signing {
    /// Opens what lies in `directory`, whose lock the caller holds.
    pub(super) fn open(directory: &Utf8Path, clock: &dyn Clock) -> Result<Self, Error> {
        rotation::complete(directory)?;
        let root = Root::open(directory, clock)?;
        let path = directory.join("intermediate.pem");
        let standing = Standing::of(directory, &root, clock)?;
        let is_ageing = standing == Standing::Ageing && root.key.is_none();
        let der = match (standing, root.key) {
            (Standing::Good, _) | (Standing::Ageing, None) => certificates(&path)?.remove(0),
            (Standing::Unusable(_), None) => {
                return Err(Error::RootOffline { path: directory.join("root.key") });
            }
            (Standing::Ageing, Some(key)) => {
                issue(directory, &root.der, key, clock, "half of its life was over")?
            }
            (Standing::Unusable(reason), Some(key)) => issue(directory, &root.der, key, clock, reason)?,
        };
        let certificate = parse(&path, &der)?;
        let (key_id, ends) = (subject_key_id(&certificate).unwrap_or_default(), ends(&certificate));
        let root = fingerprint(parse(&path, &root.der)?.public_key().raw);
        let mut chain = text(&path)?;
        let cross = directory.join("cross.pem");
        if cross.exists() {
            chain += &text(&cross)?;
        }
        let is_rotating = certificates(&directory.join("root.pem"))?.len() > 1;
        let key = read_key(&directory.join("intermediate.key"))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(issue_error("intermediate"))?;
        Ok(Self { issuer, key_id, chain, ends, root, is_rotating, is_ageing })
    }
}

impl Root {
    fn open(directory: &Utf8Path, clock: &dyn Clock) -> Result<Self, Error> {
        let (path, key_path) = (directory.join("root.pem"), directory.join("root.key"));
        let key = match (key_path.exists(), path.exists()) {
            (true, _) => Some(read_key(&key_path)?),
            (false, true) => None,
            // A certificate that was lost is no reason to begin another authority.
            (false, false) if directory.join("intermediate.pem").exists() => {
                return Err(Error::RootMismatch { path });
            }
            (false, false) => Some(new_key(&key_path, "root")?),
        };
        if let (Some(key), false) = (&key, path.exists()) {
            let root = params::root(FIRST, clock).self_signed(key).map_err(issue_error(FIRST))?;
            write(&path, root.pem().as_bytes())?;
        }
        let root = Self { der: certificates(&path)?.remove(0), key };
        let Some(key) = &root.key else { return Ok(root) };
        let (is_good, name) = {
            let certificate = parse(&path, &root.der)?;
            if certificate.public_key().raw != key.subject_public_key_info() {
                return Err(Error::RootMismatch { path: key_path });
            }
            let has_life = !ends_within(&certificate, ROOT_LEFT_SECONDS_MIN, clock);
            (has_life && may_have_authorities(&certificate), common_name(&certificate).to_owned())
        };
        if is_good {
            return Ok(root);
        }
        // Whoever trusts the former one trusts what either has signed: key and name stay.
        let anew = params::root(&name, clock).self_signed(key).map_err(issue_error(&name))?;
        let others: String = blocks(&text(&path)?).into_iter().skip(1).collect();
        keep_identity(directory)?;
        write(&path, (anew.pem() + &others).as_bytes())?;
        info!(certificate = %path, "the root is signed anew, with the same key");
        Ok(Self { der: anew.der().clone(), ..root })
    }
}

/// What the intermediate on disk is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    /// It counts, and half of its life is over.
    Ageing,
    Unusable(&'static str),
}

impl Standing {
    /// An exposed key is an error and not a reason to issue a new one: somebody must learn of it.
    fn of(directory: &Utf8Path, root: &Root, clock: &dyn Clock) -> Result<Self, Error> {
        let (path, key_path) = (directory.join("intermediate.pem"), directory.join("intermediate.key"));
        if !path.exists() || !key_path.exists() {
            return Ok(Self::Unusable("there was none"));
        }
        let (Ok(key), Ok(found)) = (read_key(&key_path), certificates(&path)) else {
            refuse_exposed(&key_path)?;
            return Ok(Self::Unusable("it could not be read"));
        };
        let root = parse(&path, &root.der)?;
        let Ok(certificate) = parse(&path, &found[0]) else {
            return Ok(Self::Unusable("it could not be read"));
        };
        let checks = [
            (certificate.public_key().raw == key.subject_public_key_info(), "it was not of its key"),
            (authority_key_id(&certificate) == subject_key_id(&root), "another root had issued it"),
            (has_begun(&certificate, clock), "it did not count yet"),
            (!ends_within(&certificate, 0, clock), "it was over"),
        ];
        Ok(match checks.into_iter().find(|(is_good, _)| !is_good) {
            Some((_, fault)) => Self::Unusable(fault),
            None if ends_within(&certificate, INTERMEDIATE_LEFT_SECONDS_MIN, clock) => Self::Ageing,
            None => Self::Good,
        })
    }
}

/// A new intermediate in the place of the former.
fn issue(
    directory: &Utf8Path,
    root: &CertificateDer<'static>,
    root_key: KeyPair,
    clock: &dyn Clock,
    reason: &str,
) -> Result<CertificateDer<'static>, Error> {
    let path = directory.join("intermediate.pem");
    let root_ends = ends(&parse(&path, root)?);
    let issuer = Issuer::from_ca_cert_der(root, root_key).map_err(issue_error("root"))?;
    let key = new_key(&directory.join("intermediate.key"), "intermediate")?;
    let issued = params::intermediate(root_ends, clock).signed_by(&key, &issuer);
    let issued = issued.map_err(issue_error("intermediate"))?;
    write(&path, issued.pem().as_bytes())?;
    info!(certificate = %path, reason, "the root issued an intermediate");
    Ok(issued.der().clone())
}

pub(super) fn new_key(path: &Utf8Path, subject: &str) -> Result<KeyPair, Error> {
    let key = KeyPair::generate().map_err(issue_error(subject))?;
    write(path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

/// Coordinators of a cluster know their authority by the digest of the file with its first root. Before that file changes, the digest is
/// written down.
pub(super) fn keep_identity(directory: &Utf8Path) -> Result<(), Error> {
    let path = directory.join("authority.id");
    if path.exists() {
        return Ok(());
    }
    let digest = blake3::hash(text(&directory.join("root.pem"))?.as_bytes());
    write(&path, digest.to_hex().as_bytes())
}

/// A file with certificates.
pub(super) fn text(path: &Utf8Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(Error::file("read", path))
}

/// The certificates in a text, each as it stands there.
pub(super) fn blocks(text: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let blocks = text.split_inclusive(END).filter(|block| block.trim_end().ends_with(END));
    blocks.map(|block| format!("{}\n", block.trim())).collect()
}
