//! The embedded certificate authority: roots and an intermediate in a directory, and the certificates that they issue.
//!
//! ```text
//! DIR/.lock                      held while the directory is changed
//! DIR/root.pem  root.key         the root: ECDSA P-256, self-signed. During a rotation two, the new one first; the key is that of the
//!                                first, and may be taken away
//! DIR/intermediate.pem .key      what signs, issued by the first root
//! DIR/cross.pem                  during a rotation: the new root, signed by the former one; part of every chain, so that whoever
//!                                trusts only the former root goes on
//! DIR/authority.id               what a cluster knows its authority by, whatever the root becomes
//! DIR/server.pem .key            the coordinator: server authentication only, its DNS names and addresses
//! DIR/nodes/ID.pem .key          a node of this home: client authentication only, one URI name `spiffe://aap/node/ID`
//! DIR/coordinator.pem .key       the coordinator as it calls others of its cluster: client authentication only, one URI name
//!                                `spiffe://aap/coordinator/NAME`
//! ```
//!
//! Every file has mode 0600 and is replaced whole. A key is written before its certificate; a pair that does not belong together, as a
//! crash between the two leaves it, is issued again.
//!
//! | file | owns |
//! |---|---|
//! | `ca/signing.rs` | roots and intermediate as they lie on disk; which of them is wanting |
//! | `ca/rotation.rs` | another root in the place of the former |
//! | `ca/params.rs` | what stands in certificates, how long they hold, and whether one is as it should be |

mod params;
mod rotation;
mod signing;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aap_runtime::{Clock, write_durably};
use aap_types::{CoordinatorName, NodeId};
use camino::{Utf8Path, Utf8PathBuf};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, PublicKeyData, SanType};
use tracing::{info, warn};
use x509_parser::prelude::X509Certificate;

use self::params::{DAY, authority_key_id, has_begun, has_names, is_half_over, server_names, uri_name};
use self::signing::{Signing, blocks, text};
use crate::tls::{TlsFiles, certificates, refuse_exposed};
use crate::{Error, identity};

pub use self::params::is_host_name;
pub use self::rotation::{AuthorityFacts, CertificateFacts};

/// Life of the certificate that a coordinator shows (reliability-security 4.4); at half of it the next one is issued.
const SERVER_SECONDS: u64 = 30 * DAY;
/// Life of the certificates of nodes of this home, which the coordinator itself looks after (reliability-security 4.4).
const NODE_SECONDS: u64 = DAY;

/// What is said, once, when an operator has to bring the key of the root back.
const AGEING: &str = "half of the life of the intermediate is over, and the key of the root is away: put it back as `tls/root.key` for a minute, \
and the next one is issued";

/// The authority of one platform. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    directory: Utf8PathBuf,
    signing: Arc<RwLock<Arc<Signing>>>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority in `directory`; makes directory, root and intermediate where there is none.
    ///
    /// # Errors
    /// A file cannot be used; the key of the root is away, and the intermediate is over or was never made.
    pub fn create_or_open(directory: &Utf8Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        create_directory(&directory.join("nodes"))?;
        let _lock = lock(directory)?;
        let signing = Signing::open(directory, clock.as_ref())?;
        if signing.is_ageing {
            warn!("{AGEING}");
        }
        let signing = Arc::new(RwLock::new(Arc::new(signing)));
        Ok(Self { directory: directory.to_owned(), signing, clock })
    }

    /// Takes up what has changed in the directory since, such as what was copied there from another coordinator, and renews the
    /// intermediate in time, if the key of the root is there.
    ///
    /// # Errors
    /// As [`Self::create_or_open`]; what was there before goes on.
    pub fn refresh(&self) -> Result<(), Error> {
        let _lock = lock(&self.directory)?;
        self.take_up()
    }

    /// The same under the lock.
    fn take_up(&self) -> Result<(), Error> {
        let signing = Signing::open(&self.directory, self.clock.as_ref())?;
        if signing.is_ageing && !self.signing().is_ageing {
            warn!("{AGEING}");
        }
        *self.signing.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(signing);
        Ok(())
    }

    fn signing(&self) -> Arc<Signing> {
        self.signing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The certificates of the roots, to be given to nodes.
    pub fn root_path(&self) -> Utf8PathBuf {
        self.directory.join("root.pem")
    }

    /// The coordinator's identity for `names` (DNS names or addresses) and always `localhost`, `127.0.0.1`, `::1`.
    /// Issued again when it is missing, damaged, of another issuer, lacks a name, or has less than half of its life left.
    ///
    /// # Errors
    /// A name that no certificate can carry; a file that cannot be written.
    pub fn server_files(&self, names: &[String]) -> Result<TlsFiles, Error> {
        let wanted = Wanted {
            subject: "aap-coordinator",
            names: server_names(names)?,
            usage: ExtendedKeyUsagePurpose::ServerAuth,
            seconds: SERVER_SECONDS,
        };
        self.keep("server", &wanted)
    }

    /// The identity of `node`, issued again under the same conditions as [`Self::server_files`].
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn node_files(&self, node: &NodeId) -> Result<TlsFiles, Error> {
        self.keep(&format!("nodes/{node}"), &Wanted::node(node)?)
    }

    /// The identity with which the coordinator `name` calls others of its cluster, issued again under the same conditions as
    /// [`Self::server_files`], and where it is another coordinator's: homes of a cluster begin as copies of the first one's `tls`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn coordinator_files(&self, name: &CoordinatorName) -> Result<TlsFiles, Error> {
        self.keep("coordinator", &Wanted::coordinator(name)?)
    }

    /// The nodes that were issued an identity here.
    ///
    /// # Errors
    /// The folder cannot be listed.
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

    /// A fresh server certificate with its chain, and its key, PEM; nothing is written.
    ///
    /// # Errors
    /// A name that no certificate can carry.
    pub fn issue_server(&self, names: &[String]) -> Result<(String, String), Error> {
        let names = server_names(names)?;
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        self.issue(&Wanted { subject: "aap-coordinator", names, usage, seconds: SERVER_SECONDS })
    }

    /// A fresh node certificate with its chain, and its key, PEM; nothing is written.
    ///
    /// # Errors
    /// Signing fails.
    pub fn issue_node(&self, node: &NodeId) -> Result<(String, String), Error> {
        self.issue(&Wanted::node(node)?)
    }

    /// A fresh certificate of a coordinator that calls others with its chain, and its key, PEM; nothing is written.
    ///
    /// # Errors
    /// Signing fails.
    pub fn issue_coordinator(&self, name: &CoordinatorName) -> Result<(String, String), Error> {
        self.issue(&Wanted::coordinator(name)?)
    }

    /// What the authority is known by: BLAKE3 over the public key of its newest root, so that it stays the same when that is signed anew.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.signing().root
    }

    /// Whether a former root is still trusted beside the newest.
    pub fn is_rotating(&self) -> bool {
        self.signing().is_rotating
    }

    /// Signs for `key` what stands in `params`, with all that leads to the root, PEM; and the root that it leads to.
    pub(crate) fn sign(
        &self,
        subject: &str,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<(String, [u8; 32]), Error> {
        let signing = self.signing();
        let certificate = params.signed_by(key, &signing.issuer).map_err(issue_error(subject))?;
        Ok((certificate.pem() + &signing.chain, signing.root))
    }

    /// A certificate of `node` but for its key and number, and the moment at which it ends, in microseconds since 1970.
    pub(crate) fn node_params(
        &self,
        node: &NodeId,
        life: Duration,
    ) -> Result<(CertificateParams, i64), Error> {
        let (params, ends) = self.leaf(&Wanted { seconds: life.as_secs(), ..Wanted::node(node)? });
        Ok((params, i64::try_from(ends).unwrap_or(i64::MAX).saturating_mul(1_000_000)))
    }

    /// Nothing outlives what it was issued by.
    fn leaf(&self, wanted: &Wanted<'_>) -> (CertificateParams, u64) {
        let now = self.clock.unix_ms() / 1000;
        let seconds = wanted.seconds.min(self.signing().ends.saturating_sub(now));
        params::leaf(wanted.subject, (wanted.names.as_slice(), wanted.usage.clone()), seconds, now)
    }

    fn issue(&self, wanted: &Wanted<'_>) -> Result<(String, String), Error> {
        let (params, _) = self.leaf(wanted);
        let key = KeyPair::generate().map_err(issue_error(wanted.subject))?;
        let (chain, _) = self.sign(wanted.subject, &params, &key)?;
        Ok((chain, key.serialize_pem()))
    }

    /// What lies on disk under `stem`, issued again where that is not as it should be.
    fn keep(&self, stem: &str, wanted: &Wanted<'_>) -> Result<TlsFiles, Error> {
        let files = TlsFiles {
            root: self.root_path(),
            certificate: self.directory.join(format!("{stem}.pem")),
            key: self.directory.join(format!("{stem}.key")),
        };
        let _lock = lock(&self.directory)?;
        if let Some(reason) = self.fault(&files, wanted)? {
            let (certificate, key) = self.issue(wanted)?;
            write(&files.key, key.as_bytes())?;
            write(&files.certificate, certificate.as_bytes())?;
            info!(certificate = %files.certificate, reason, "certificate issued");
        }
        Ok(files)
    }

    /// Why the pair on disk must be issued again, unless it is ours, complete, carries what is wanted, and lives long enough. An
    /// exposed key is an error and not a reason to issue a new one: somebody must learn of it.
    fn fault(&self, files: &TlsFiles, wanted: &Wanted<'_>) -> Result<Option<&'static str>, Error> {
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
        let (signing, clock) = (self.signing(), self.clock.as_ref());
        let checks = [
            (leaf.public_key().raw == key.subject_public_key_info(), "it was not of its key"),
            (
                authority_key_id(&leaf).is_some_and(|id| id == signing.key_id),
                "another authority had issued it",
            ),
            (
                blocks(&text(&files.certificate)?).get(1..) == Some(blocks(&signing.chain).as_slice()),
                "another chain leads to the root",
            ),
            (has_begun(&leaf, clock), "it did not count yet"),
            (!is_half_over(&leaf, clock), "half of its life was over"),
            (has_names(&leaf, &wanted.names), "it lacked a name"),
        ];
        Ok(checks.into_iter().find(|(is_good, _)| !is_good).map(|(_, fault)| fault))
    }
}

/// A certificate that there shall be.
struct Wanted<'a> {
    subject: &'a str,
    names: Vec<SanType>,
    usage: ExtendedKeyUsagePurpose,
    seconds: u64,
}

impl<'a> Wanted<'a> {
    fn node(node: &'a NodeId) -> Result<Self, Error> {
        let names = vec![uri_name(&identity::node_uri(node))?];
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        Ok(Self { subject: node.as_str(), names, usage, seconds: NODE_SECONDS })
    }

    fn coordinator(name: &'a CoordinatorName) -> Result<Self, Error> {
        let names = vec![uri_name(&identity::coordinator_uri(name))?];
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        Ok(Self { subject: name.as_str(), names, usage, seconds: SERVER_SECONDS })
    }
}

/// What signs: the key of a root or an intermediate, with its certificate.
type Signer = Issuer<'static, KeyPair>;

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

fn write(path: &Utf8Path, bytes: &[u8]) -> Result<(), Error> {
    write_durably(path, bytes, 0o600).map_err(Error::file("write", path))
}

/// Removes what may not be there.
fn remove(path: &Utf8Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            warn!(%path, %error, "a file of the authority that is over stays");
        }
        Ok(()) | Err(_) => {}
    }
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
