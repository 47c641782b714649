//! What cannot be read or written stops nothing else and loses nothing.

use super::*;

in_both_places! {
    a_lost_catalogue_comes_back_from_the_manifest_and_files_without_one_are_not_swept;
    a_stream_that_cannot_be_loaded_keeps_no_other_waiting;
    a_file_that_cannot_be_read_is_left_alone_and_the_others_are_merged;
    a_frame_that_is_no_batch_goes_to_dead_letters_and_stops_nothing;
    a_failed_load_leaves_no_file_behind;
}

async fn a_lost_catalogue_comes_back_from_the_manifest_and_files_without_one_are_not_swept(place: Place) {
    let mut rig = Rig::on(place, LakeConfig::default()).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    let before = rig.lake.catalogue().unwrap();
    let lose = |home: &Utf8PathBuf| {
        for name in ["meta.db", "meta.db-wal", "meta.db-shm"] {
            let _absent = std::fs::remove_file(home.join(name));
        }
    };
    rig.store = open_store_at(&rig.home.join("other.db"));
    lose(&rig.home);
    rig.restart(LakeConfig::default()).await;
    assert_eq!(rig.lake.catalogue().unwrap(), before);
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=1));

    lose(&rig.home);
    lose_manifests(&rig.lake);
    let (store, objects) = (open_store_at(&rig.home.join("third.db")), rig.objects.clone());
    let opened = open_lake(&rig.home, &rig.clock, &rig.buffer, &store, objects, LakeConfig::default()).await;
    assert!(matches!(opened, Err(Error::ForeignFiles { .. })));
    assert_eq!(rig.on_disk().len(), 1);
}

pub(super) fn lose_manifests(lake: &Lake) {
    tokio::task::block_in_place(|| {
        let storage = &lake.inner.storage;
        let names = storage.names("_manifest").unwrap();
        assert!(!names.is_empty());
        storage.remove(names.iter().map(|name| format!("_manifest/{name}")).collect());
        assert!(storage.names("_manifest").unwrap().is_empty());
    });
}

async fn a_stream_that_cannot_be_loaded_keeps_no_other_waiting(place: Place) {
    let keep = Retention { hours: 1, bytes: ByteCount(0) };
    let rig = Rig::on(place, LakeConfig { retention: keep, ..LakeConfig::default() }).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    rig.clock.advance(Duration::from_secs(2 * 3600));
    rig.store.fault.store(BAD_STREAM, Ordering::SeqCst);
    rig.land(&key("n1", "bad"), 1, rows(2)).await;
    rig.land(&key("n1", "logs"), 2, rows(2)).await;
    let mut passes = Passes::default();
    rig.pass(&mut passes).await;
    check_once(&rig.visible("logs"), &expected(&["n1"], 2..=2));
    assert_eq!(rig.files().len(), 1, "what retention does not keep is gone, and `logs` is loaded");
    let problem = rig.lake.problem().unwrap();
    assert!(problem.contains("stream `bad`"), "{problem}");

    rig.store.fault.store(NONE, Ordering::SeqCst);
    rig.clock.advance(Duration::from_secs(10));
    rig.pass(&mut passes).await;
    check_once(&rig.visible("bad"), &expected(&["n1"], 1..=1));
    assert_eq!(rig.files().len(), 2);
    assert_eq!(rig.lake.problem(), None);
}

async fn a_file_that_cannot_be_read_is_left_alone_and_the_others_are_merged(place: Place) {
    let rig = Rig::on(place, LakeConfig { compact_files: 2, ..LakeConfig::default() }).await;
    let logs = key("n1", "logs");
    for sequence in 1..=3 {
        rig.land(&logs, sequence, rows(0)).await;
        rig.lake.load_all().await.unwrap();
    }
    let broken = rig.files()[0].path.clone();
    rig.overwrite(&broken, b"no Parquet");
    assert!(rig.lake.compact_once().await.is_err());
    assert!(rig.lake.compact_once().await.unwrap());
    assert!(!rig.lake.compact_once().await.unwrap());
    assert_eq!(rig.files().len(), 2);
    let problem = rig.lake.problem().unwrap();
    assert!(problem.contains(&broken), "{problem}");
    assert_eq!(rig.on_disk(), rig.visible_files());

    rig.lake.delete(&logs.stream).await.unwrap();
    rig.lake.compact_once().await.unwrap();
    assert_eq!(rig.lake.problem(), None);
}

async fn a_frame_that_is_no_batch_goes_to_dead_letters_and_stops_nothing(place: Place) {
    let mut rig = Rig::on(place, LakeConfig::default()).await;
    let logs = key("n1", "logs");
    rig.land(&logs, 1, rows(0)).await;
    let broken = EncodedBatch { payload: Bytes::from_static(b"nothing"), ..encoded(&rows(0)) };
    rig.land_encoded(&logs, 2, broken).await;
    // A few kilobytes that would become 100 GB.
    let long = StringArray::from(vec!["x".repeat(1 << 20)]);
    let bomb = DictionaryArray::new(Int32Array::from(vec![0; 100_000]), Arc::new(long));
    rig.land(&logs, 3, with_column(5, "c", Arc::new(bomb))).await;
    rig.land(&logs, 4, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    let seen: BTreeSet<u64> = rig.visible("logs").into_keys().map(|(_, sequence, _)| sequence).collect();
    assert_eq!(seen, BTreeSet::from([1, 4]));
    let sequences = rig.values("logs.dead", "sequence");
    assert_eq!(sequences, [Some("2".to_owned()), Some("3".to_owned())]);
    assert_eq!(rig.values("logs.dead", "payload")[0].as_deref(), Some("nothing"));
    let counts = |stream: &str| {
        let catalogue = rig.lake.catalogue().unwrap();
        catalogue.streams.iter().find(|known| known.stream.as_str() == stream).unwrap().counts
    };
    assert_eq!((counts("logs").rows, counts("logs").rows_skipped), (6, 100_003));
    assert_eq!(counts("logs.dead").rows, 2);
    rig.restart(LakeConfig::default()).await;
    assert!(!rig.lake.load(&logs.stream).await.unwrap(), "nothing is left of it");
}

async fn a_failed_load_leaves_no_file_behind(place: Place) {
    let rig = Rig::on(place, LakeConfig::default()).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.store.fault.store(BEFORE_COMMIT, Ordering::SeqCst);
    for _ in 0..3 {
        assert!(rig.lake.load_all().await.is_err());
        assert!(rig.on_disk().is_empty());
    }
    // A commit that stands although it failed must keep its file.
    rig.store.fault.store(AFTER_COMMIT, Ordering::SeqCst);
    assert!(rig.lake.load_all().await.is_err());
    rig.store.fault.store(NONE, Ordering::SeqCst);
    rig.lake.load_all().await.unwrap();
    assert_eq!((rig.on_disk().len(), rig.on_disk()), (1, rig.visible_files()));
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_cannot_be_written_only_delays_what_follows_a_commit() {
    let rig = Rig::new(LakeConfig::default()).await;
    let (logs, other) = (key("n1", "logs"), key("n1", "other"));
    rig.land(&logs, 1, rows(0)).await;
    rig.land(&other, 1, rows(0)).await;
    rig.lake.load(&other.stream).await.unwrap();
    let (folder, moved) = (rig.lake.locate("_manifest"), rig.lake.locate("elsewhere"));
    std::fs::rename(&folder, &moved).unwrap();
    std::fs::write(&folder, b"").unwrap();

    assert!(rig.lake.load(&logs.stream).await.is_err());
    assert_eq!(rig.buffer.cursor(CONSUMER, &logs), Sequence::ZERO, "nothing may be reclaimed yet");
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=1));
    assert!(rig.lake.delete(&other.stream).await.is_err(), "the books are not in order, so nothing is begun");

    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&moved, &folder).unwrap();
    rig.pass(&mut Passes::default()).await;
    assert_eq!(rig.buffer.cursor(CONSUMER, &logs), Sequence(1));
    assert!(rig.lake.waiting().frames().beyond(&[]).is_empty());

    std::fs::rename(&folder, &moved).unwrap();
    std::fs::write(&folder, b"").unwrap();
    assert_eq!(rig.lake.delete(&logs.stream).await.unwrap(), (3, 1), "it is deleted all the same");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&moved, &folder).unwrap();
    rig.pass(&mut Passes::default()).await;
    assert_eq!(rig.on_disk(), rig.visible_files());
}
