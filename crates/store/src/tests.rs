//! What every metadata store promises, run on each of them.

use aap_types::{ByteCount, Epoch, Sequence, StreamKey};
use camino::Utf8PathBuf;

use crate::{
    CursorMove, Error, LakeCommit, LakeFile, MemoryStore, MetadataStore, NodeRecord, Retention, RowCounts,
    SequenceRange, SqliteStore,
};

fn check(promise: impl Fn(&dyn MetadataStore)) {
    promise(&MemoryStore::default());
    let directory = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(directory.path().join("meta.db")).unwrap();
    promise(&SqliteStore::open(&path).unwrap());
}

fn key(stream: &str) -> StreamKey {
    // An epoch with its highest bit set: the bits must survive SQLite's signed integers.
    StreamKey { node: "n1".parse().unwrap(), epoch: Epoch(u64::MAX - 1), stream: stream.parse().unwrap() }
}

fn file(stream: &str, path: &str) -> LakeFile {
    let key = key(stream);
    LakeFile {
        stream: key.stream.clone(),
        path: path.to_owned(),
        rows: 10,
        bytes: 100,
        memory_bytes: 1000,
        ts_min_us: -5,
        ts_max_us: 5,
        ranges: vec![SequenceRange {
            node: key.node,
            epoch: key.epoch,
            first: Sequence(1),
            last: Sequence(3),
        }],
        created_us: 7,
    }
}

fn landing(stream: &str, path: &str, from: u64, to: u64) -> LakeCommit {
    LakeCommit {
        stream: stream.parse().unwrap(),
        add: vec![file(stream, path)],
        remove: vec![],
        cursors: vec![CursorMove { key: key(stream), from: Sequence(from), to: Sequence(to) }],
        counts: RowCounts { rows: 10, batches: 3, newest_us: 5, ..RowCounts::default() },
        columns: vec![("ts".into(), "TIMESTAMP".into()), ("n".into(), "BIGINT".into())],
    }
}

#[test]
fn files_and_cut_become_visible_together() {
    check(|store| {
        store.commit(&landing("logs", "a", 0, 3)).unwrap();
        store.commit(&landing("logs", "b", 3, 6)).unwrap();
        let seen = store.catalogue().unwrap();
        assert_eq!(seen.files, [file("logs", "a"), file("logs", "b")]);
        assert_eq!(seen.cursors, [(key("logs"), Sequence(6))]);
        assert_eq!((seen.streams[0].counts.rows, seen.streams[0].columns.len(), seen.version), (20, 2, 2));
    });
}

#[test]
fn a_commit_built_on_an_old_cut_changes_nothing() {
    check(|store| {
        store.commit(&landing("logs", "a", 0, 3)).unwrap();
        let before = store.catalogue().unwrap();
        let mut stale = landing("logs", "b", 0, 3);
        stale.cursors.insert(0, CursorMove { key: key("other"), from: Sequence(0), to: Sequence(1) });
        let error = store.commit(&stale).unwrap_err();
        assert!(
            error.is_stale_view() && matches!(error, Error::CutMoved { found: Sequence(3), .. }),
            "{error}"
        );
        assert_eq!(store.catalogue().unwrap(), before);
    });
}

#[test]
fn compaction_of_a_file_that_was_deleted_meanwhile_changes_nothing() {
    check(|store| {
        store.commit(&landing("logs", "a", 0, 3)).unwrap();
        let before = store.catalogue().unwrap();
        let compact = LakeCommit {
            add: vec![file("logs", "c")],
            remove: vec!["a".into(), "gone".into()],
            cursors: vec![],
            counts: RowCounts::default(),
            ..landing("logs", "", 0, 0)
        };
        assert!(matches!(store.commit(&compact), Err(Error::FileGone(path)) if path == "gone"));
        assert_eq!(store.catalogue().unwrap(), before);
    });
}

#[test]
fn deleting_a_stream_raises_its_cut_and_leaves_the_others_alone() {
    check(|store| {
        store.commit(&landing("logs", "a", 0, 3)).unwrap();
        store.commit(&landing("other", "o", 0, 3)).unwrap();
        let deleted = store
            .delete_stream(
                &"logs".parse().unwrap(),
                &[(key("logs"), Sequence(9)), (key("other"), Sequence(1))],
                1,
            )
            .unwrap();
        assert_eq!(deleted.files, [file("logs", "a")]);
        let seen = store.catalogue().unwrap();
        assert_eq!(seen.files, [file("other", "o")]);
        assert_eq!(seen.streams.len(), 1);
        assert!(seen.cursors.contains(&(key("logs"), Sequence(9))));
        assert!(seen.cursors.contains(&(key("other"), Sequence(3))), "a cut never goes back");
        // What was deleted is remembered, for the nodes that delivered it.
        assert_eq!(store.deletions_of(&key("logs").node).unwrap(), [(key("logs"), Sequence(9))]);
        assert_eq!(store.deletions_of(&"nobody".parse().unwrap()).unwrap(), []);
        store.restore(&seen).unwrap();
        assert_eq!(store.catalogue().unwrap(), seen);
        assert!(store.commit(&landing("logs", "late", 3, 6)).unwrap_err().is_stale_view());
    });
}

#[test]
fn a_catalogue_restored_from_a_manifest_is_the_same() {
    check(|store| {
        store.commit(&landing("logs", "a", 0, 3)).unwrap();
        let told = store.catalogue().unwrap();
        store.commit(&landing("logs", "b", 3, 6)).unwrap();
        store.restore(&told).unwrap();
        assert_eq!(store.catalogue().unwrap(), told);
    });
}

#[test]
fn a_column_only_widens_and_its_case_does_not_matter() {
    check(|store| {
        let of = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
        let stream = "logs".parse().unwrap();
        store.declare_columns(&stream, &[of("Level", "VARCHAR"), of("n", "UBIGINT")]).unwrap();
        let newest = vec![of("extra", "DATE"), of("level", "BIGINT"), of("n", "BIGINT")];
        store.commit(&LakeCommit { columns: newest, ..landing("logs", "a", 0, 3) }).unwrap();
        let expected = [of("Level", "VARCHAR"), of("n", "DECIMAL(20,0)"), of("extra", "DATE")];
        assert_eq!(store.catalogue().unwrap().streams[0].columns, expected);
    });
}

#[test]
fn retention_comes_back_with_a_manifest_unless_it_is_set_anew() {
    check(|store| {
        let (old, new) = (Retention { hours: 1, bytes: ByteCount(2) }, Retention::default());
        store.commit(&landing("logs", "a", 0, 3)).unwrap();
        store.set_retention(&"logs".parse().unwrap(), Some(&old)).unwrap();
        let told = store.catalogue().unwrap();
        store.set_retention(&"logs".parse().unwrap(), None).unwrap();
        store.restore(&told).unwrap();
        assert_eq!(store.catalogue().unwrap(), told);
        store.set_retention(&"logs".parse().unwrap(), Some(&new)).unwrap();
        store.restore(&told).unwrap();
        assert_eq!(store.catalogue().unwrap().streams[0].retention, Some(new));
    });
}

#[test]
fn nodes_keep_their_first_hello_and_retention_can_be_withdrawn() {
    check(|store| {
        let node = NodeRecord {
            node: "n1".parse().unwrap(),
            first_seen_us: 1,
            last_seen_us: 1,
            store_id: vec![1; 16],
            generation: u64::MAX,
            epoch: Epoch(9),
            agent_version: "1".into(),
        };
        store.record_node(&node).unwrap();
        store.record_node(&NodeRecord { first_seen_us: 5, last_seen_us: 5, ..node.clone() }).unwrap();
        assert_eq!(store.nodes().unwrap(), [NodeRecord { last_seen_us: 5, ..node.clone() }]);
        assert_eq!(store.node(&"nobody".parse().unwrap()).unwrap(), None);

        let (stream, keep) = ("logs".parse().unwrap(), Retention { hours: 1, bytes: ByteCount::mib(1) });
        store.declare_columns(&stream, &[("ts".into(), "TIMESTAMP".into())]).unwrap();
        store.set_retention(&stream, Some(&keep)).unwrap();
        assert_eq!(store.catalogue().unwrap().streams[0].retention, Some(keep));
        store.set_retention(&stream, None).unwrap();
        assert_eq!(store.catalogue().unwrap().streams[0].retention, None);
    });
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
