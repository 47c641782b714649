//! Another root in the place of the former: whoever trusts one of the two is served until the end, and a crash anywhere is made good.

use std::sync::Arc;
use std::time::Duration;

use aap_runtime::{Clock, ManualClock};
use aap_transport::{Authority, Error, Prefer, TlsFiles, connect};
use camino::Utf8PathBuf;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::support::{Platform, greet, node, path, within};

/// Whether somebody who trusts `roots` believes a server with this chain. All PEM.
pub(crate) fn is_believed(roots: &str, chain: &str, name: &str, clock: &dyn Clock) -> bool {
    let of = |pem: &str| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
    };
    let mut store = RootCertStore::empty();
    of(roots).into_iter().for_each(|root| store.add(root).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap();
    let chain = of(chain);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_millis(clock.unix_ms()));
    verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).is_ok()
}

struct Place {
    _directory: tempfile::TempDir,
    tls: Utf8PathBuf,
    clock: Arc<ManualClock>,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tls = path(&directory).join("tls");
        Self { _directory: directory, tls, clock: Arc::new(ManualClock::at(1_790_000_000_000)) }
    }

    fn open(&self) -> Authority {
        Authority::create_or_open(&self.tls, self.clock.clone()).unwrap()
    }

    fn roots(&self) -> String {
        std::fs::read_to_string(self.tls.join("root.pem")).unwrap()
    }

    fn believes(&self, roots: &str, authority: &Authority) -> bool {
        let (chain, _) = authority.issue_server(&["a.example".to_owned()]).unwrap();
        is_believed(roots, &chain, "a.example", self.clock.as_ref())
    }
}

#[test]
fn either_root_is_enough_until_the_rotation_is_finished() {
    let place = Place::new();
    let authority = place.open();
    let (former, before) = (place.roots(), authority.fingerprint());
    let issued_before = authority.issue_server(&["a.example".to_owned()]).unwrap().0;
    assert!(matches!(authority.finish_rotation(), Err(Error::NoRotation)));
    authority.rotate().unwrap();
    assert!(matches!(authority.rotate(), Err(Error::RotationUnderWay)));
    let both = place.roots();
    assert!(both.ends_with(&former) && both != former);
    assert_ne!(authority.fingerprint(), before, "new tokens name the new root");
    let facts = authority.facts().unwrap();
    assert_eq!(
        facts.roots.iter().map(|root| root.name.as_str()).collect::<Vec<_>>(),
        ["AAP authority 2", "AAP authority"]
    );
    assert!(place.believes(&former, &authority), "who knows only the former");
    assert!(place.believes(&both, &authority), "who knows both");
    assert!(is_believed(&both, &issued_before, "a.example", place.clock.as_ref()), "what was issued before");

    authority.finish_rotation().unwrap();
    let new = place.roots();
    assert!(both.starts_with(&new) && new != both);
    assert!(place.believes(&new, &authority));
    assert!(!place.believes(&former, &authority), "the former is of the past");
    assert!(!is_believed(&new, &issued_before, "a.example", place.clock.as_ref()));
    for gone in ["cross.pem", "former.key", "next.key"] {
        assert!(!place.tls.join(gone).exists(), "{gone}");
    }
    assert_eq!(place.open().fingerprint(), authority.fingerprint());
    // And once more.
    authority.rotate().unwrap();
    assert_eq!(authority.facts().unwrap().roots[0].name, "AAP authority 3");
}

#[test]
fn a_rotation_needs_the_key_of_the_former_root() {
    let place = Place::new();
    let authority = place.open();
    std::fs::remove_file(place.tls.join("root.key")).unwrap();
    let before = place.roots();
    assert_eq!(authority.rotate().unwrap_err().problem().code, "ca.root_offline");
    assert_eq!(place.roots(), before);
}

#[test]
fn a_crash_before_the_new_root_is_written_leaves_nothing_and_one_behind_it_is_completed() {
    let place = Place::new();
    let authority = place.open();
    let (former, key) = (place.roots(), place.tls.join("root.key"));
    let former_key = std::fs::read(&key).unwrap();
    authority.rotate().unwrap();
    let (both, new_key) = (place.roots(), std::fs::read(&key).unwrap());
    let write = |name: &str, bytes: &[u8]| {
        aap_runtime::write_durably(&place.tls.join(name), bytes, 0o600).unwrap();
    };
    let cross = std::fs::read(place.tls.join("cross.pem")).unwrap();
    // Behind it: the new key still has its first name.
    write("next.key", &new_key);
    write("root.key", &former_key);
    let completed = place.open();
    assert_eq!((place.roots(), std::fs::read(&key).unwrap()), (both, new_key.clone()));
    assert!(place.believes(&former, &completed));
    // Before it.
    write("next.key", &new_key);
    write("root.key", &former_key);
    write("cross.pem", &cross);
    write("root.pem", former.as_bytes());
    let undone = place.open();
    assert_eq!((place.roots(), std::fs::read(&key).unwrap()), (former.clone(), former_key));
    assert!(place.believes(&former, &undone));
    assert!(!place.tls.join("next.key").exists() && !place.tls.join("cross.pem").exists());
}

#[tokio::test]
async fn a_node_of_either_root_is_served_by_a_coordinator_that_has_not_heard_of_the_new_one() {
    let platform = Platform::start().await;
    let former = std::fs::read(platform.authority.root_path()).unwrap();
    // The coordinator that listens does not read its files again: as another one of a cluster, to which nothing was copied yet.
    platform.authority.rotate().unwrap();
    let issued = platform.authority.issue_node(&node()).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = path(&platform.directory).join(name);
        aap_runtime::write_durably(&path, bytes, 0o600).unwrap();
        path
    };
    let files = TlsFiles {
        root: write("former.pem", &former),
        certificate: write("new.pem", issued.0.as_bytes()),
        key: write("new.key", issued.1.as_bytes()),
    };
    for carrier in [Prefer::Grpc, Prefer::Quic] {
        let config = platform.client_as(files.clone(), carrier);
        greet(&mut within(connect(&config)).await.unwrap(), 1).await;
    }
}
