//! The embedded authority as it lies on disk.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use aap_runtime::{ManualClock, write_durably};
use aap_transport::{Authority, Error};
use camino::{Utf8Path, Utf8PathBuf};

use crate::support::{node, path};

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

    fn open(&self) -> Result<Authority, Error> {
        Authority::create_or_open(&self.tls, self.clock.clone())
    }
}

fn read(path: &Utf8Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn opening_again_changes_nothing() {
    let place = Place::new();
    let first = place.open().unwrap();
    let (server, node_files) = (first.server_files(&[]).unwrap(), first.node_files(&node()).unwrap());
    let paths = [first.root_path(), server.certificate, server.key, node_files.certificate, node_files.key];
    let before = paths.clone().map(|path| read(&path));
    let second = place.open().unwrap();
    second.server_files(&[]).unwrap();
    second.node_files(&node()).unwrap();
    assert_eq!(paths.clone().map(|path| read(&path)), before);
    for path in paths {
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path}");
    }
}

#[test]
fn certificates_are_issued_again_when_half_of_their_life_is_over() {
    let place = Place::new();
    let authority = place.open().unwrap();
    let node_files = authority.node_files(&node()).unwrap();
    let server_files = authority.server_files(&[]).unwrap();
    let looked_after = || {
        authority.refresh().unwrap();
        authority.server_files(&[]).unwrap();
        authority.node_files(&node()).unwrap();
        [&node_files, &server_files].map(|files| read(&files.certificate))
    };
    let first = looked_after();
    place.clock.advance(Duration::from_secs(11 * 3600));
    assert_eq!(looked_after(), first, "more than half is left of both");
    place.clock.advance(Duration::from_secs(2 * 3600));
    let second = looked_after();
    assert_ne!(second[0], first[0], "a node's holds for a day");
    assert_eq!(second[1], first[1], "the coordinator's for thirty");
    place.clock.advance(Duration::from_secs(15 * 86_400));
    assert_ne!(looked_after()[1], first[1]);
    assert_eq!(looked_after(), looked_after());
}

#[test]
fn an_intermediate_signs_and_is_renewed_half_a_year_before_its_end() {
    let place = Place::new();
    let authority = place.open().unwrap();
    let (root, intermediate) = (read(&authority.root_path()), place.tls.join("intermediate.pem"));
    let first = read(&intermediate);
    place.clock.advance(Duration::from_secs(180 * 86_400));
    authority.refresh().unwrap();
    assert_eq!(read(&intermediate), first, "more than half is left");
    place.clock.advance(Duration::from_secs(10 * 86_400));
    authority.refresh().unwrap();
    assert_ne!(read(&intermediate), first);
    assert_eq!(read(&authority.root_path()), root);
}

#[test]
fn a_root_whose_key_is_away_goes_on_until_its_intermediate_is_over() {
    let place = Place::new();
    let (root, intermediate) = (place.open().unwrap().root_path(), place.tls.join("intermediate.pem"));
    let (before, signer) = (read(&root), read(&intermediate));
    let (key, away) = (place.tls.join("root.key"), place.tls.join("elsewhere"));
    std::fs::rename(&key, &away).unwrap();
    let authority = place.open().unwrap();
    assert!(!authority.facts().unwrap().has_root_key);
    place.clock.advance(Duration::from_secs(300 * 86_400));
    place.open().unwrap().node_files(&node()).unwrap();
    assert_eq!(read(&intermediate), signer, "it is old, and the key is away");
    place.clock.advance(Duration::from_secs(70 * 86_400));
    let error = place.open().unwrap_err();
    assert_eq!(error.problem().code, "ca.root_offline", "{error}");
    assert!(error.problem().hints[0].text.contains("root.key"));
    // It comes back for a moment.
    std::fs::rename(&away, &key).unwrap();
    place.open().unwrap();
    std::fs::remove_file(&key).unwrap();
    place.open().unwrap().node_files(&node()).unwrap();
    assert_ne!(read(&intermediate), signer);
    assert_eq!(read(&root), before);
}

#[test]
fn a_home_of_one_certificate_goes_on_with_its_root_and_gets_an_intermediate() {
    let place = Place::new();
    std::fs::create_dir_all(&place.tls).unwrap();
    // As the version before made it: nothing may stand below its root but leaves, and it issued them itself.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "AAP");
    params.distinguished_name.push(rcgen::DnType::CommonName, "AAP authority");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap();
    let of_key = blake3::hash(&rcgen::PublicKeyData::subject_public_key_info(&key));
    write_durably(&place.tls.join("root.pem"), root.pem().as_bytes(), 0o600).unwrap();
    write_durably(&place.tls.join("root.key"), key.serialize_pem().as_bytes(), 0o600).unwrap();
    let authority = place.open().unwrap();
    assert_eq!(authority.fingerprint(), *of_key.as_bytes(), "whoever has a token goes on");
    assert_eq!(authority.facts().unwrap().intermediate.name, "AAP intermediate");
    let known_by = std::fs::read_to_string(place.tls.join("authority.id")).unwrap();
    assert_eq!(known_by, blake3::hash(root.pem().as_bytes()).to_hex().as_str());
    // Whoever has the former root believes what is issued now.
    let (chain, _) = authority.issue_server(&["a.example".to_owned()]).unwrap();
    assert!(crate::rotation::is_believed(&root.pem(), &chain, "a.example", place.clock.as_ref()));
}

#[test]
fn a_root_near_its_end_is_signed_anew_and_what_it_issued_before_still_counts() {
    let place = Place::new();
    let authority = place.open().unwrap();
    let first = read(&authority.root_path());
    place.clock.advance(Duration::from_secs(2900 * 86_400));
    let between = place.open().unwrap();
    assert_eq!(read(&between.root_path()), first, "years are left");
    let (chain, _) = between.issue_server(&["a.example".to_owned()]).unwrap();
    place.clock.advance(Duration::from_secs(25 * 86_400));
    let renewed = place.open().unwrap();
    let second = read(&renewed.root_path());
    assert_ne!(second, first);
    assert_eq!(renewed.fingerprint(), authority.fingerprint());
    let second = String::from_utf8(second).unwrap();
    let believed = crate::rotation::is_believed(&second, &chain, "a.example", place.clock.as_ref());
    assert!(believed, "issued by the former one, with the same key");
}

#[test]
fn certificates_are_issued_again_when_a_name_is_missing_or_the_pair_is_damaged() {
    let place = Place::new();
    let authority = place.open().unwrap();
    let files = authority.server_files(&[]).unwrap();
    let first = read(&files.certificate);
    authority.server_files(&["coordinator.example".to_owned(), "10.1.2.3".to_owned()]).unwrap();
    let second = read(&files.certificate);
    assert_ne!(second, first, "new names");
    authority.server_files(&["10.1.2.3".to_owned()]).unwrap();
    assert_eq!(read(&files.certificate), second, "fewer names need nothing");
    write_durably(&files.certificate, &first, 0o600).unwrap();
    authority.server_files(&[]).unwrap();
    assert_ne!(read(&files.certificate), first, "a certificate of another key");
    write_durably(&files.key, b"garbage", 0o600).unwrap();
    authority.server_files(&[]).unwrap();
    assert_ne!(read(&files.key), b"garbage");
}

#[test]
fn names_that_no_certificate_can_carry_are_refused() {
    let authority = Place::new();
    let authority = authority.open().unwrap();
    for bad in ["", "a b", "söd", "a/b", "*"] {
        assert!(matches!(authority.server_files(&[bad.to_owned()]), Err(Error::BadName { .. })), "{bad:?}");
    }
}

#[test]
fn an_exposed_root_key_is_refused() {
    let place = Place::new();
    place.open().unwrap();
    std::fs::set_permissions(place.tls.join("root.key"), PermissionsExt::from_mode(0o644)).unwrap();
    let error = place.open().unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn a_root_whose_key_is_lost_or_foreign_is_not_replaced() {
    let (place, other) = (Place::new(), Place::new());
    let root = place.open().unwrap().root_path();
    let before = read(&root);
    other.open().unwrap();
    std::fs::copy(other.tls.join("root.key"), place.tls.join("root.key")).unwrap();
    assert!(matches!(place.open(), Err(Error::RootMismatch { .. })));
    std::fs::remove_file(place.tls.join("root.key")).unwrap();
    std::fs::remove_file(place.tls.join("intermediate.key")).unwrap();
    assert!(matches!(place.open(), Err(Error::RootOffline { .. })));
    assert_eq!(read(&root), before);
}

#[test]
fn a_crash_between_root_key_and_certificate_is_made_good() {
    let place = Place::new();
    let root = place.open().unwrap().root_path();
    std::fs::remove_file(&root).unwrap();
    place.open().unwrap().node_files(&node()).unwrap();
    assert!(root.exists());
}

#[test]
fn two_programs_that_start_at_once_get_one_authority() {
    let place = Place::new();
    let roots: Vec<_> = std::thread::scope(|scope| {
        let open = || scope.spawn(|| read(&place.open().unwrap().root_path()));
        [open(), open(), open(), open()].map(|thread| thread.join().unwrap()).into()
    });
    assert!(roots.iter().all(|root| *root == roots[0]));
}
