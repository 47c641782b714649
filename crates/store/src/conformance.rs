//! What every metadata store promises, and what one of a cluster promises beside. Run with a maker of new, empty stores.
//!
//! | file | owns |
//! |---|---|
//! | `access.rs` | [`run_access`]: records of access, also with two coordinators at once |
//! | `leases.rs` | [`run_cluster`]: leases, fences, claims, positions |

mod access;
mod leases;

use aap_types::{BatchId, ByteCount, Epoch, Sequence, StreamKey};

use crate::{
    CursorMove, Error, LakeCommit, LakeFile, MetadataStore, NodeRecord, ResourceRecord, ResourceStore,
    Retention, RowCounts, SequenceRange, SinkDeadLetter, SinkState,
};

pub use access::{Shared, run_access};
pub use leases::{Clustered, Timed, run_cluster};

/// A store of both kinds.
pub trait Store: MetadataStore + ResourceStore {}

impl<T: MetadataStore + ResourceStore> Store for T {}

/// Makes a new, empty store.
type Make<'a> = &'a mut dyn FnMut() -> Box<dyn Store>;

/// Runs the suite.
pub fn run(make: Make<'_>) {
    for promise in PROMISES {
        promise(make().as_ref());
    }
}

const PROMISES: [fn(&dyn Store); 11] = [
    files_and_cut_become_visible_together,
    a_commit_built_on_an_old_cut_changes_nothing,
    compaction_of_a_file_that_was_deleted_meanwhile_changes_nothing,
    deleting_a_stream_raises_its_cut_and_leaves_the_others_alone,
    a_catalogue_restored_from_a_manifest_is_the_same,
    a_column_only_widens_and_its_case_does_not_matter,
    retention_comes_back_with_a_manifest_unless_it_is_set_anew,
    nodes_keep_their_first_hello_and_retention_can_be_withdrawn,
    a_resource_changes_only_from_the_revision_that_was_seen,
    a_ledger_changes_only_from_the_version_before_and_goes_with_its_sink,
    a_dead_letter_is_kept_once_and_replayed_once,
];

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

/// A commit of one file of `stream` whose cut moves.
pub fn landing(stream: &str, path: &str, from: u64, to: u64) -> LakeCommit {
    LakeCommit {
        stream: stream.parse().unwrap(),
        add: vec![file(stream, path)],
        remove: vec![],
        cursors: vec![CursorMove { key: key(stream), from: Sequence(from), to: Sequence(to) }],
        counts: RowCounts { rows: 10, batches: 3, newest_us: 5, ..RowCounts::default() },
        columns: vec![("ts".into(), "TIMESTAMP".into()), ("n".into(), "BIGINT".into())],
    }
}

fn files_and_cut_become_visible_together(store: &dyn Store) {
    store.commit(&landing("logs", "a", 0, 3)).unwrap();
    store.commit(&landing("logs", "b", 3, 6)).unwrap();
    let seen = store.catalogue().unwrap();
    assert_eq!(seen.files, [file("logs", "a"), file("logs", "b")]);
    assert_eq!(seen.cursors, [(key("logs"), Sequence(6))]);
    assert_eq!((seen.streams[0].counts.rows, seen.streams[0].columns.len(), seen.version), (20, 2, 2));
    assert_eq!(store.catalogue_version().unwrap(), 2);
}

fn a_commit_built_on_an_old_cut_changes_nothing(store: &dyn Store) {
    store.commit(&landing("logs", "a", 0, 3)).unwrap();
    let before = store.catalogue().unwrap();
    let mut stale = landing("logs", "b", 0, 3);
    stale.cursors.insert(0, CursorMove { key: key("other"), from: Sequence(0), to: Sequence(1) });
    let error = store.commit(&stale).unwrap_err();
    assert!(error.is_stale_view() && matches!(error, Error::CutMoved { found: Sequence(3), .. }), "{error}");
    assert_eq!(store.catalogue().unwrap(), before);
}

fn compaction_of_a_file_that_was_deleted_meanwhile_changes_nothing(store: &dyn Store) {
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
}

fn deleting_a_stream_raises_its_cut_and_leaves_the_others_alone(store: &dyn Store) {
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
}

fn a_catalogue_restored_from_a_manifest_is_the_same(store: &dyn Store) {
    store.commit(&landing("logs", "a", 0, 3)).unwrap();
    let told = store.catalogue().unwrap();
    store.commit(&landing("logs", "b", 3, 6)).unwrap();
    store.restore(&told).unwrap();
    assert_eq!(store.catalogue().unwrap(), told);
}

fn a_column_only_widens_and_its_case_does_not_matter(store: &dyn Store) {
    let of = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
    let stream = "logs".parse().unwrap();
    store.declare_columns(&stream, &[of("Level", "VARCHAR"), of("n", "UBIGINT")]).unwrap();
    let newest = vec![of("extra", "DATE"), of("level", "BIGINT"), of("n", "BIGINT")];
    store.commit(&LakeCommit { columns: newest, ..landing("logs", "a", 0, 3) }).unwrap();
    let expected = [of("Level", "VARCHAR"), of("n", "DECIMAL(20,0)"), of("extra", "DATE")];
    assert_eq!(store.catalogue().unwrap().streams[0].columns, expected);
}

fn retention_comes_back_with_a_manifest_unless_it_is_set_anew(store: &dyn Store) {
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
}

fn nodes_keep_their_first_hello_and_retention_can_be_withdrawn(store: &dyn Store) {
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
}

fn resource(name: &str, revision: u64, document: &str) -> ResourceRecord {
    ResourceRecord {
        kind: "Sink".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        revision,
        document: document.to_owned(),
        author: "operator".to_owned(),
        created_us: 1,
        updated_us: i64::try_from(revision).unwrap(),
    }
}

fn a_resource_changes_only_from_the_revision_that_was_seen(store: &dyn Store) {
    store.put_resource(&resource("b", 1, "one")).unwrap();
    store.put_resource(&resource("a", 1, "other")).unwrap();
    store.put_resource(&resource("b", 2, "two")).unwrap();
    for stale in [1, 2, 4] {
        let refused = store.put_resource(&resource("b", stale, "stale")).unwrap_err();
        assert!(matches!(refused, Error::Revision { found: 2, .. }), "{refused:?}");
    }
    assert_eq!(store.resources().unwrap(), [resource("a", 1, "other"), resource("b", 2, "two")]);
    let state = SinkState { replays: 4, ..SinkState::default() };
    store.restore_resources(&[(resource("c", 7, "lost"), state.clone())]).unwrap();
    assert_eq!(store.resources().unwrap()[2], resource("c", 7, "lost"));
    assert_eq!(store.sink_state("uid-of-c").unwrap(), state);
    store.delete_resource("Sink", "c").unwrap();
    assert!(store.delete_resource("Sink", "b").unwrap());
    assert!(!store.delete_resource("Sink", "b").unwrap());
    assert_eq!(store.resources().unwrap(), [resource("a", 1, "other")]);
}

fn a_ledger_changes_only_from_the_version_before_and_goes_with_its_sink(store: &dyn Store) {
    store.put_resource(&resource("a", 1, "one")).unwrap();
    let uid = "uid-of-a";
    assert_eq!(store.sink_ledger(uid).unwrap(), None);
    store.replace_sink_ledger(uid, 1, "first").unwrap();
    let refused = store.replace_sink_ledger(uid, 1, "another first").unwrap_err();
    assert!(matches!(refused, Error::Revision { expected: 0, found: 1, .. }), "{refused:?}");
    store.replace_sink_ledger(uid, 2, "second").unwrap();
    assert!(store.replace_sink_ledger(uid, 4, "fourth").is_err());
    assert_eq!(store.sink_ledger(uid).unwrap(), Some((2, "second".to_owned())));
    assert!(store.delete_resource("Sink", "a").unwrap());
    assert_eq!(store.sink_ledger(uid).unwrap(), None);
}

fn letter(row: u64, reason: &str, replay: u64) -> SinkDeadLetter {
    SinkDeadLetter {
        batch: BatchId { key: key("logs"), sequence: Sequence(3) },
        row,
        reason: reason.to_owned(),
        at_us: 5,
        arrow: vec![1, 2, 3],
        replay,
    }
}

fn a_dead_letter_is_kept_once_and_replayed_once(store: &dyn Store) {
    store.put_resource(&resource("b", 1, "one")).unwrap();
    let uid = "uid-of-b";
    assert_eq!(store.begin_replay(uid, 0).unwrap(), (0, 0), "nothing to replay");
    store.add_dead_letters(uid, &[letter(1, "first", 0), letter(0, "zeroth", 0)]).unwrap();
    store.add_dead_letters(uid, &[letter(1, "again", 0)]).unwrap();
    store.add_dead_letters("another", &[letter(9, "of another sink", 0)]).unwrap();
    assert_eq!(store.dead_letters(uid, 9).unwrap(), [letter(0, "zeroth", 0), letter(1, "first", 0)]);
    assert_eq!(store.dead_letters(uid, 1).unwrap(), [letter(0, "zeroth", 0)]);
    let written = |through| [(key("logs"), Sequence(through))].into();
    store.drop_dead_letters_beyond(uid, &written(3)).unwrap();
    assert_eq!(store.dead_letter_count(uid).unwrap(), 2, "what was written around them stands");

    assert_eq!(store.begin_replay(uid, 70).unwrap(), (70, 2));
    store.add_dead_letters(uid, &[letter(2, "came meanwhile", 0)]).unwrap();
    assert_eq!(store.begin_replay(uid, 60).unwrap(), (71, 1), "the next replay has a greater number");
    let pending = store.pending_replay(uid).unwrap().unwrap();
    assert_eq!(pending, (70, vec![letter(0, "zeroth", 70), letter(1, "first", 70)]));
    store.requeue_dead_letters(uid, &[letter(1, "still bad", 70)]).unwrap();
    store.end_replay(uid, 70).unwrap();
    assert_eq!(
        store.dead_letters(uid, 9).unwrap(),
        [letter(1, "still bad", 0), letter(2, "came meanwhile", 71)]
    );
    assert_eq!(store.purge_dead_letters(uid).unwrap(), 1, "what is being replayed stays");
    store.drop_dead_letters_beyond(uid, &written(2)).unwrap();
    assert_eq!(store.dead_letter_count(uid).unwrap(), 0, "its group was not committed, and is tried again");
    assert_eq!(store.pending_replay(uid).unwrap(), None);
    assert_eq!(store.dead_letter_count("another").unwrap(), 1);
    store.add_dead_letters(uid, &[letter(1, "first", 0)]).unwrap();
    store.set_sink_paused(uid, true).unwrap();
    assert!(store.sink_state(uid).unwrap().paused && store.sink_state(uid).unwrap().replays == 71);

    let starts = vec![(key("logs"), Sequence(7))];
    let state = SinkState { paused: true, starts, start_us: Some(5), replays: 2 };
    store.set_sink_state(uid, &state).unwrap();
    assert_eq!(store.sink_state(uid).unwrap(), state);
    store.delete_resource("Sink", "b").unwrap();
    assert_eq!(store.sink_state(uid).unwrap(), SinkState::default());
    assert_eq!(store.dead_letter_count(uid).unwrap(), 0);
}
