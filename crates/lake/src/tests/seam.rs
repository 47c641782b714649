//! Every row is in an answer once, whatever moves, stops or is deleted meanwhile.

use super::*;

in_both_places! {
    every_query_sees_every_landed_row_once_while_files_are_made_and_merged;
    a_crash_before_the_commit_leaves_the_rows_in_the_buffer_and_no_file;
    a_crash_after_the_commit_leaves_the_rows_in_the_lake;
    a_restart_keeps_everything_and_counts_what_waits;
    a_deleted_stream_is_empty_and_what_lands_later_makes_it_anew;
    a_deleted_file_stays_while_a_reader_may_know_it;
    a_deletion_runs_to_its_end_when_its_client_leaves;
}

async fn every_query_sees_every_landed_row_once_while_files_are_made_and_merged(place: Place) {
    const BATCHES: u64 = 120;
    let config = LakeConfig { file_bytes: ByteCount(3000), compact_files: 3, ..LakeConfig::default() };
    let rig = Rig::on(place, config).await;
    let done = Arc::new(AtomicBool::new(false));
    let (buffer, lake) = (rig.buffer.clone(), rig.lake.clone());
    let landing = tokio::spawn(async move {
        for batch in 1..=BATCHES {
            for node in ["n1", "n2"] {
                land(&buffer, &lake, &key(node, "logs"), batch, rows(i64::try_from(batch / 50).unwrap()))
                    .await;
            }
        }
    });
    let (lake, stop) = (rig.lake.clone(), done.clone());
    let maintaining = tokio::spawn(async move {
        let mut merged = 0;
        while !stop.load(Ordering::SeqCst) {
            lake.load(&"logs".parse().unwrap()).await.unwrap();
            merged += u64::from(lake.compact_once().await.unwrap());
        }
        merged
    });
    let mut queries = 0;
    while !landing.is_finished() {
        let before: BTreeMap<StreamKey, Sequence> = rig.buffer.tails().into_iter().collect();
        let (buffer, lake) = (rig.buffer.clone(), rig.lake.clone());
        let seen = tokio::task::spawn_blocking(move || visible(&buffer, &lake, &"logs".parse().unwrap()))
            .await
            .unwrap();
        queries += 1;
        assert!(seen.values().all(|count| *count == 1), "a row came twice");
        for (key, tail) in before {
            for batch in 1..=tail.0 {
                for row in 0..3 {
                    let id = (key.node.to_string(), batch, row);
                    assert!(seen.contains_key(&id), "{id:?} had landed before the query and is missing");
                }
            }
        }
    }
    landing.await.unwrap();
    rig.lake.load_all().await.unwrap();
    done.store(true, Ordering::SeqCst);
    let merged = maintaining.await.unwrap();
    assert!(queries > 3 && merged > 0, "{queries} queries, {merged} merges: nothing was tried");
    check_once(&rig.visible("logs"), &expected(&["n1", "n2"], 1..=BATCHES));
}

async fn check_crash(place: Place, fault: u8) {
    let mut rig = Rig::on(place, LakeConfig::default()).await;
    let key = key("n1", "logs");
    rig.land(&key, 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    rig.land(&key, 2, rows(1)).await;
    rig.store.fault.store(fault, Ordering::SeqCst);
    assert!(rig.lake.load_all().await.is_err());
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=2));

    rig.restart(LakeConfig::default()).await;
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=2));
    rig.lake.load_all().await.unwrap();
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=2));
    let on_disk = rig.on_disk();
    assert_eq!(on_disk.len(), rig.files().len(), "a file that is not visible was left");
}

async fn a_crash_before_the_commit_leaves_the_rows_in_the_buffer_and_no_file(place: Place) {
    check_crash(place, BEFORE_COMMIT).await;
}

async fn a_crash_after_the_commit_leaves_the_rows_in_the_lake(place: Place) {
    check_crash(place, AFTER_COMMIT).await;
}

async fn a_restart_keeps_everything_and_counts_what_waits(place: Place) {
    let mut rig = Rig::on(place, LakeConfig::default()).await;
    let key = key("n1", "logs");
    rig.land(&key, 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    rig.land(&key, 2, rows(1)).await;
    rig.restart(LakeConfig::default()).await;
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=2));
    let waiting = rig.lake.waiting().frames().beyond(&rig.lake.catalogue().unwrap().cursors);
    assert_eq!(waiting.iter().map(|(_, counts)| counts.rows).sum::<u64>(), 3);
    assert_eq!(rig.lake.catalogue().unwrap().streams[0].counts.rows, 3);
}

async fn a_deleted_stream_is_empty_and_what_lands_later_makes_it_anew(place: Place) {
    let mut rig = Rig::on(place, LakeConfig::default()).await;
    let (logs, other) = (key("n1", "logs"), key("n1", "other"));
    for sequence in 1..=2 {
        rig.land(&logs, sequence, rows(0)).await;
        rig.land(&other, sequence, rows(0)).await;
        if sequence == 1 {
            rig.lake.load_all().await.unwrap();
        }
    }
    // One batch in the lake, one in the buffer: both go.
    assert_eq!(rig.lake.delete(&logs.stream).await.unwrap(), (6, 1));
    assert!(rig.visible("logs").is_empty());
    check_once(&rig.visible("other"), &expected(&["n1"], 1..=2));
    rig.land(&logs, 3, rows(0)).await;
    for _ in 0..2 {
        check_once(&rig.visible("logs"), &expected(&["n1"], 3..=3));
        rig.lake.load_all().await.unwrap();
        rig.restart(LakeConfig::default()).await;
    }
    let on_disk = rig.on_disk();
    assert_eq!(on_disk.iter().filter(|path| path.starts_with("logs/")).count(), 1);
}

async fn a_deleted_file_stays_while_a_reader_may_know_it(place: Place) {
    let rig = Rig::on(place, LakeConfig::default()).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    let pin = rig.lake.pin();
    let known = rig.files();
    fetch(&rig.lake, &known).unwrap();
    let file = rig.lake.locate(&known[0].path);
    rig.lake.delete(&"logs".parse().unwrap()).await.unwrap();
    assert!(file.exists() && rig.on_disk().len() == 1);
    drop(pin);
    rig.lake.unlink().await.unwrap();
    assert!(!file.exists() && rig.on_disk().is_empty());
}

async fn a_deletion_runs_to_its_end_when_its_client_leaves(place: Place) {
    let rig = Rig::on(place, LakeConfig::default()).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    let stream = "logs".parse().unwrap();
    let left = tokio::time::timeout(Duration::ZERO, rig.lake.delete(&stream)).await;
    // Whatever was begun is over when it is somebody else's turn.
    rig.lake.in_turn(|_| Ok(())).await.unwrap();
    assert!(rig.on_disk().is_empty() || left.is_err() && !rig.visible_files().is_empty());
    assert_eq!(rig.on_disk(), rig.visible_files(), "hidden and unlinked, or not begun");
}
