//! The suite on both stores of this crate, and what only a file can promise.

use camino::Utf8PathBuf;

use crate::conformance::{self, Shared, Timed, landing};
use crate::{ClusterStore, Error, Fence, MemoryStore, MetadataStore, SqliteStore};

#[test]
fn stores_keep_their_promises() {
    conformance::run(&mut || Box::new(MemoryStore::default()));
    let mut directories = vec![];
    conformance::run(&mut || {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(directory.path().join("meta.db")).unwrap();
        directories.push(directory);
        Box::new(SqliteStore::open(&path).unwrap())
    });
}

#[test]
fn records_of_access_keep_their_promises_for_two_coordinators() {
    conformance::run_access(&mut || {
        let store = MemoryStore::default();
        Shared { other: Box::new(store.beside()), one: Box::new(store) }
    });
    let mut directories = vec![];
    conformance::run_access(&mut || {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(directory.path().join("meta.db")).unwrap();
        directories.push(directory);
        let open = || Box::new(SqliteStore::open(&path).unwrap());
        Shared { one: open(), other: open() }
    });
}

#[test]
fn a_store_of_a_cluster_keeps_its_promises() {
    conformance::run_cluster(&mut || {
        let store = MemoryStore::default();
        let clock = store.beside();
        Timed { store: Box::new(store), pass: Box::new(move |time| clock.advance(time)) }
    });
}

#[test]
fn each_coordinator_has_a_fence_of_its_own() {
    let (one, other) = (MemoryStore::default(), MemoryStore::default());
    let beside = one.beside();
    one.set_fence(Some(Fence { lease: "leader".to_owned(), token: 0 }));
    assert!(matches!(one.commit(&landing("logs", "a", 0, 3)), Err(Error::Fenced { .. })));
    beside.commit(&landing("logs", "a", 0, 3)).unwrap();
    assert_eq!(one.catalogue().unwrap().files.len(), 1);
    assert_eq!(other.catalogue().unwrap().files.len(), 0);
}

#[test]
fn an_embedded_coordinator_hands_its_metadata_to_a_cluster_and_to_no_other() {
    let store = MemoryStore::default();
    store.claim("mine").unwrap();
    assert!(matches!(store.claim_cluster("east", "aa"), Err(Error::Foreign { found }) if found == "mine"));
    let wrong = store.convert_claim("another", "east", "aa");
    assert!(matches!(wrong, Err(Error::Foreign { found }) if found == "mine"));
    for _ in 0..2 {
        store.convert_claim("mine", "east", "aa").unwrap();
    }
    store.claim_cluster("east", "aa").unwrap();
    assert!(matches!(store.claim("mine"), Err(Error::Foreign { found }) if found == "east"));
}

#[test]
fn a_restart_keeps_everything_and_a_newer_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(directory.path().join("meta.db")).unwrap();
    let store = SqliteStore::open(&path).unwrap();
    store.commit(&landing("logs", "a", 0, 3)).unwrap();
    let before = store.catalogue().unwrap();
    drop(store);
    assert_eq!(SqliteStore::open(&path).unwrap().catalogue().unwrap(), before);

    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(SqliteStore::open(&path), Err(Error::Newer { found: 99, .. })));
}

#[test]
fn a_damaged_file_is_put_aside_and_never_prevents_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(directory.path().join("meta.db")).unwrap();
    // A byte of the header, and one of a page in the middle.
    for (round, offset) in [3usize, 4096 + 5].into_iter().enumerate() {
        let (store, aside) = SqliteStore::open_or_replace(&path).unwrap();
        assert_eq!(aside, None);
        for batch in 0..50 {
            store.commit(&landing("logs", &format!("{batch}"), batch, batch + 1)).unwrap();
        }
        drop(store);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[offset] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        assert!(SqliteStore::open(&path).unwrap_err().is_damage(), "byte {offset}");

        let (store, aside) = SqliteStore::open_or_replace(&path).unwrap();
        assert_eq!(store.catalogue().unwrap().version, 0);
        let aside = aside.unwrap();
        assert!(aside.as_str().ends_with(&format!("meta.db.damaged-{}", round + 1)), "{aside}");
        assert_eq!(std::fs::read(aside).unwrap(), bytes);
        drop(store);
        std::fs::remove_file(&path).unwrap();
    }
}
