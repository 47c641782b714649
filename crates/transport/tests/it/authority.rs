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
    let files = [authority.node_files(&node()).unwrap(), authority.server_files(&[]).unwrap()];
    let first = files.clone().map(|files| read(&files.certificate));
    let at_the_next_start = || {
        let authority = place.open().unwrap();
        authority.server_files(&[]).unwrap();
        authority.nodes().unwrap().iter().for_each(|node| drop(authority.node_files(node).unwrap()));
        files.clone().map(|files| read(&files.certificate))
    };
    place.clock.advance(Duration::from_secs(360 * 86_400));
    assert_eq!(at_the_next_start(), first, "more than half is left");
    place.clock.advance(Duration::from_secs(10 * 86_400));
    let second = at_the_next_start();
    assert!(second.iter().zip(&first).all(|(second, first)| second != first));
    assert_eq!(at_the_next_start(), second);
}

#[test]
fn a_root_near_its_end_is_signed_anew_and_what_it_issued_before_still_counts() {
    let place = Place::new();
    let authority = place.open().unwrap();
    let first = read(&authority.root_path());
    place.clock.advance(Duration::from_secs(2900 * 86_400));
    assert_eq!(read(&place.open().unwrap().root_path()), first, "years are left");
    let files = place.open().unwrap().node_files(&node()).unwrap();
    let issued = read(&files.certificate);
    place.clock.advance(Duration::from_secs(100 * 86_400));
    let renewed = place.open().unwrap();
    assert_ne!(read(&renewed.root_path()), first);
    renewed.node_files(&node()).unwrap();
    assert_eq!(read(&files.certificate), issued, "issued by the former one, with the same key");
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
    assert!(matches!(place.open(), Err(Error::RootMismatch { .. })));
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
