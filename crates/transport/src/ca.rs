//! The embedded certificate authority: a root key in a directory, and the certificates it issues.
//!
//! ```text
//! DIR/.lock                 held while the directory is changed
//! DIR/root.pem  root.key    the authority: ECDSA P-256, self-signed
//! DIR/server.pem .key       the coordinator: server authentication only, its DNS names and addresses
//! DIR/nodes/ID.pem .key     a node: client authentication only, one URI name `spiffe://aap/node/ID`
//! DIR/coordinator.pem .key  the coordinator as it calls others of its cluster: client authentication only, one URI name
//!                           `spiffe://aap/coordinator/NAME`
//! ```
//!
//! Every file has mode 0600 and is replaced whole. The key is written before its certificate; a pair that does
//! not belong together, as a crash between the two leaves it, is issued again.
//!
//! Lifetimes: the design aims at 30 days for the coordinator and 24 hours for a node, with renewal over the
//! session. Until there is such renewal, both get [`LEAF_DAYS`], so that a platform that runs for months without a
//! restart does not lock its own agent out; a start past half of that issues them again. The root is signed anew, with
//! the same key and name, before it would end earlier than what it issues: whoever trusts the former one trusts
//! what either has signed.

use std::fs::{DirBuilder, File};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use aap_runtime::{Clock, write_durably};
use aap_types::{CoordinatorName, NodeId};
use camino::{Utf8Path, Utf8PathBuf};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use tracing::info;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::X509Certificate;

use crate::request::fingerprint;
use crate::tls::{TlsFiles, certificates, refuse_exposed};
use crate::{Error, identity};

/// Life of the root (reliability-security 4.4: ten years).
const ROOT_DAYS: u64 = 3653;
/// A root with less life left is signed anew: what it issues now would outlive it.
const ROOT_LEFT_DAYS_MIN: u64 = LEAF_DAYS;
/// Life of what the root issues; see the module's text.
const LEAF_DAYS: u64 = 730;
/// A certificate with less life left is issued again at the next start: half of it, so that a platform that is started
/// once a year never runs out.
const LEAF_LEFT_DAYS_MIN: u64 = LEAF_DAYS / 2;
/// Certificates begin this much earlier, for nodes whose clock is slow; short-lived ones a tenth of their life.
const SKEW_SECONDS: u64 = 3600;
/// Seconds of a day.
const DAY: u64 = 86_400;

/// The authority of one platform.
pub struct Authority {
    directory: Utf8PathBuf,
    issuer: Issuer<'static, KeyPair>,
    root_key_id: Vec<u8>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority in `directory`; makes directory, key and root certificate where there is none.
    pub fn create_or_open(directory: &Utf8Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        create_directory(&directory.join("nodes"))?;
        let _lock = lock(directory)?;
        let (certificate, key_path) = (directory.join("root.pem"), directory.join("root.key"));
        let key = match (key_path.exists(), certificate.exists()) {
            (true, _) => read_key(&key_path)?,
            (false, false) => new_key(&key_path)?,
            (false, true) => return Err(Error::RootMismatch { path: key_path }),
        };
        if !certificate.exists() {
            sign_root(&certificate, &key, clock.as_ref())?;
        }
        let mut der = certificates(&certificate)?.remove(0);
        if parse(&certificate, &der)?.public_key().raw != key.subject_public_key_info() {
            return Err(Error::RootMismatch { path: key_path });
        }
        if ends_within(&parse(&certificate, &der)?, ROOT_LEFT_DAYS_MIN, clock.as_ref()) {
            sign_root(&certificate, &key, clock.as_ref())?;
            der = certificates(&certificate)?.remove(0);
            info!(%certificate, "the authority was near its end and is signed anew, with the same key");
        }
        let root = parse(&certificate, &der)?;
        let root_key_id = subject_key_id(&root).unwrap_or_default();
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(issue_error("root"))?;
        Ok(Self { directory: directory.to_owned(), issuer, root_key_id, clock })
    }

    /// The certificate of the authority, to be given to nodes.
    pub fn root_path(&self) -> Utf8PathBuf {
        self.directory.join("root.pem")
    }

    /// The coordinator's identity for `names` (DNS names or addresses) and always `localhost`, `127.0.0.1`, `::1`.
    /// Issued again when it is missing, damaged, lacks a name, or has less than half of its life left.
    pub fn server_files(&self, names: &[String]) -> Result<TlsFiles, Error> {
        let files = self.files("server");
        let wanted = server_names(names)?;
        let _lock = lock(&self.directory)?;
        if let Some(reason) = self.fault(&files, &wanted)? {
            let (certificate, key) = self.issue_server(names)?;
            replace(&files, &certificate, &key, reason)?;
        }
        Ok(files)
    }

    /// The identity of `node`, issued again under the same conditions as [`Self::server_files`].
    pub fn node_files(&self, node: &NodeId) -> Result<TlsFiles, Error> {
        let files = self.files(&format!("nodes/{node}"));
        let wanted = [uri_name(&identity::node_uri(node))?];
        let _lock = lock(&self.directory)?;
        if let Some(reason) = self.fault(&files, &wanted)? {
            let (certificate, key) = self.issue_node(node)?;
            replace(&files, &certificate, &key, reason)?;
        }
        Ok(files)
    }

    /// The identity with which the coordinator `name` calls others of its cluster, issued again under the same conditions as
    /// [`Self::server_files`], and where it is another coordinator's: homes of a cluster begin as copies of the first one's `tls`.
    pub fn coordinator_files(&self, name: &CoordinatorName) -> Result<TlsFiles, Error> {
        let files = self.files("coordinator");
        let wanted = [uri_name(&identity::coordinator_uri(name))?];
        let _lock = lock(&self.directory)?;
        if let Some(reason) = self.fault(&files, &wanted)? {
            let (certificate, key) = self.issue_coordinator(name)?;
            replace(&files, &certificate, &key, reason)?;
        }
        Ok(files)
    }

    /// The nodes that were issued an identity here.
    pub fn nodes(&self) -> Result<Vec<NodeId>, Error> {
        let folder = self.directory.join("nodes");
        let entries = folder.read_dir_utf8().map_err(Error::file("list", &folder))?;
        let names = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().strip_suffix(".pem")?;
            name.parse::<NodeId>().ok()
        });
        let mut nodes: Vec<NodeId> = names.collect();
        nodes.sort();
        Ok(nodes)
    }

    /// A fresh server certificate and key, PEM; nothing is written.
    pub fn issue_server(&self, names: &[String]) -> Result<(String, String), Error> {
        self.issue("aap-coordinator", server_names(names)?, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A fresh node certificate and key, PEM; nothing is written.
    pub fn issue_node(&self, node: &NodeId) -> Result<(String, String), Error> {
        let name = uri_name(&identity::node_uri(node))?;
        self.issue(node.as_str(), vec![name], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A fresh certificate and key of a coordinator that calls others, PEM; nothing is written.
    pub fn issue_coordinator(&self, name: &CoordinatorName) -> Result<(String, String), Error> {
        let uri = uri_name(&identity::coordinator_uri(name))?;
        self.issue(name.as_str(), vec![uri], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// What signs.
    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// What the authority is known by: BLAKE3 over its public key, so that it stays the same when it is signed anew.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.issuer.key().subject_public_key_info())
    }

    /// A certificate of `node` but for its key and number, and the moment at which it ends, in microseconds since 1970.
    pub(crate) fn node_params(
        &self,
        node: &NodeId,
        life: Duration,
    ) -> Result<(CertificateParams, i64), Error> {
        let name = uri_name(&identity::node_uri(node))?;
        let (params, ends) =
            self.leaf(node.as_str(), vec![name], ExtendedKeyUsagePurpose::ClientAuth, life.as_secs());
        Ok((params, i64::try_from(ends).unwrap_or(i64::MAX).saturating_mul(1_000_000)))
    }

    fn leaf(
        &self,
        subject: &str,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        seconds: u64,
    ) -> (CertificateParams, u64) {
        let (mut params, ends) = params(subject, seconds, self.clock.as_ref());
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        (params, ends)
    }

    fn issue(
        &self,
        subject: &str,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<(String, String), Error> {
        let (params, _) = self.leaf(subject, names, usage, LEAF_DAYS * DAY);
        let key = KeyPair::generate().map_err(issue_error(subject))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(issue_error(subject))?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn files(&self, stem: &str) -> TlsFiles {
        TlsFiles {
            root: self.root_path(),
            certificate: self.directory.join(format!("{stem}.pem")),
            key: self.directory.join(format!("{stem}.key")),
        }
    }

    /// Why the pair on disk must be issued again, unless it is ours, complete, carries `wanted`, and lives long enough. An
    /// exposed key is an error and not a reason to issue a new one: somebody must learn of it.
    fn fault(&self, files: &TlsFiles, wanted: &[SanType]) -> Result<Option<&'static str>, Error> {
        if !files.key.exists() || !files.certificate.exists() {
            return Ok(Some("there was none"));
        }
        let Ok(key) = read_key(&files.key) else {
            refuse_exposed(&files.key)?;
            return Ok(Some("its key could not be read"));
        };
        let Ok(mut chain) = certificates(&files.certificate) else { return Ok(Some("it could not be read")) };
        let der = chain.remove(0);
        let Ok(leaf) = parse(&files.certificate, &der) else { return Ok(Some("it could not be read")) };
        let checks = [
            (leaf.public_key().raw == key.subject_public_key_info(), "it was not of its key"),
            (
                authority_key_id(&leaf).is_some_and(|id| id == self.root_key_id),
                "another authority had issued it",
            ),
            (has_begun(&leaf, self.clock.as_ref()), "it did not count yet"),
            (!ends_within(&leaf, LEAF_LEFT_DAYS_MIN, self.clock.as_ref()), "half of its life was over"),
            (has_names(&leaf, wanted), "it lacked a name"),
        ];
        Ok(checks.into_iter().find(|(is_good, _)| !is_good).map(|(_, fault)| fault))
    }
}

fn has_begun(certificate: &X509Certificate<'_>, clock: &dyn Clock) -> bool {
    clock.unix_us() / 1_000_000 >= certificate.validity().not_before.timestamp()
}

/// Whether so many days or fewer are left.
fn ends_within(certificate: &X509Certificate<'_>, days: u64, clock: &dyn Clock) -> bool {
    let left = certificate.validity().not_after.timestamp() - clock.unix_us() / 1_000_000;
    left <= i64::try_from(days * DAY).unwrap_or(i64::MAX)
}

fn sign_root(path: &Utf8Path, key: &KeyPair, clock: &dyn Clock) -> Result<(), Error> {
    let root = root_params(clock).self_signed(key).map_err(issue_error("root"))?;
    write(path, root.pem().as_bytes())
}

/// A certificate that holds for so many seconds, and the second at which it ends.
fn params(subject: &str, seconds: u64, clock: &dyn Clock) -> (CertificateParams, u64) {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "AAP");
    name.push(DnType::CommonName, subject);
    params.distinguished_name = name;
    let now = clock.unix_ms() / 1000;
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(SKEW_SECONDS.min(seconds / 10)));
    let ends = now + seconds;
    params.not_after = epoch + Duration::from_secs(ends);
    (params, ends)
}

fn root_params(clock: &dyn Clock) -> CertificateParams {
    let (mut params, _) = params("AAP authority", ROOT_DAYS * DAY, clock);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// The names of the coordinator, each once.
fn server_names(names: &[String]) -> Result<Vec<SanType>, Error> {
    let mut wanted = Vec::new();
    for name in names.iter().map(String::as_str).chain(["localhost", "127.0.0.1", "::1"]) {
        let entry = match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(dns_name(name)?),
        };
        if !wanted.contains(&entry) {
            wanted.push(entry);
        }
    }
    Ok(wanted)
}

/// Whether a certificate can carry `name` as the name of a host.
pub fn is_host_name(name: &str) -> bool {
    rustls_pki_types::DnsName::try_from(name).is_ok()
}

fn dns_name(name: &str) -> Result<rcgen::string::Ia5String, Error> {
    let bad = || Error::BadName { name: name.to_owned() };
    if !is_host_name(name) {
        return Err(bad());
    }
    name.try_into().map_err(|_| bad())
}

fn uri_name(uri: &str) -> Result<SanType, Error> {
    uri.try_into().map(SanType::URI).map_err(issue_error(uri))
}

/// Whether `leaf` carries every name of `wanted`.
fn has_names(leaf: &X509Certificate<'_>, wanted: &[SanType]) -> bool {
    use x509_parser::extensions::GeneralName;
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return false };
    let carries = |want: &SanType| {
        names.value.general_names.iter().any(|name| match (name, want) {
            (GeneralName::DNSName(have), SanType::DnsName(want)) => *have == want.as_str(),
            (GeneralName::URI(have), SanType::URI(want)) => *have == want.as_str(),
            (GeneralName::IPAddress(have), SanType::IpAddress(IpAddr::V4(want))) => *have == want.octets(),
            (GeneralName::IPAddress(have), SanType::IpAddress(IpAddr::V6(want))) => *have == want.octets(),
            _ => false,
        })
    };
    wanted.iter().all(carries)
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn authority_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    })
}

fn parse<'a>(path: &Utf8Path, der: &'a [u8]) -> Result<X509Certificate<'a>, Error> {
    let parsed = x509_parser::parse_x509_certificate(der);
    parsed
        .map(|(_, certificate)| certificate)
        .map_err(|error| Error::Unreadable { path: path.to_owned(), reason: error.to_string() })
}

pub(crate) fn read_key(path: &Utf8Path) -> Result<KeyPair, Error> {
    refuse_exposed(path)?;
    let pem = std::fs::read_to_string(path).map_err(Error::file("read private key", path))?;
    KeyPair::from_pem(&pem)
        .map_err(|error| Error::Unreadable { path: path.to_owned(), reason: error.to_string() })
}

fn new_key(path: &Utf8Path) -> Result<KeyPair, Error> {
    let key = KeyPair::generate().map_err(issue_error("root"))?;
    write(path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

fn replace(files: &TlsFiles, certificate: &str, key: &str, reason: &str) -> Result<(), Error> {
    write(&files.key, key.as_bytes())?;
    write(&files.certificate, certificate.as_bytes())?;
    info!(certificate = %files.certificate, reason, "certificate issued");
    Ok(())
}

fn write(path: &Utf8Path, bytes: &[u8]) -> Result<(), Error> {
    write_durably(path, bytes, 0o600).map_err(Error::file("write", path))
}

fn create_directory(path: &Utf8Path) -> Result<(), Error> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path).map_err(Error::file("create directory", path))
}

/// Two programs of one platform may start at once; the second waits for the first.
fn lock(directory: &Utf8Path) -> Result<File, Error> {
    let path = directory.join(".lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(Error::file("open", &path))?;
    file.lock().map_err(Error::file("lock", &path))?;
    Ok(file)
}

pub(crate) fn issue_error(subject: &str) -> impl FnOnce(rcgen::Error) -> Error {
    let subject = subject.to_owned();
    move |source| Error::Issue { subject, source: Arc::new(source) }
}
