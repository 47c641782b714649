//! Which rows stand in which file, how much is loaded at a time, and what retention takes.

use super::*;

in_both_places! {
    retention_takes_old_files_and_then_the_oldest_that_are_too_much;
    rows_go_to_the_file_of_their_day_sorted_by_time;
    a_load_ends_where_memory_is_used_up_however_little_the_frames_take;
    a_busy_stream_and_a_busy_node_keep_no_other_waiting;
}

async fn retention_takes_old_files_and_then_the_oldest_that_are_too_much(place: Place) {
    let keep = |retention: Retention| LakeConfig { retention, ..LakeConfig::default() };
    let mut rig = Rig::on(place, keep(Retention { hours: 48, bytes: ByteCount(0) })).await;
    let key = key("n1", "logs");
    for (sequence, hours) in [(1, 0), (2, 24), (3, 72)] {
        rig.land(&key, sequence, rows(hours)).await;
        rig.lake.load_all().await.unwrap();
    }
    rig.clock.advance(Duration::from_secs(3600 * 73));
    assert_eq!(rig.lake.expire().await.unwrap(), 2, "49 and 73 hours old");
    check_once(&rig.visible("logs"), &expected(&["n1"], 3..=3));
    assert_eq!(rig.lake.expire().await.unwrap(), 0);

    rig.land(&key, 4, rows(73)).await;
    rig.lake.load_all().await.unwrap();
    rig.restart(keep(Retention { hours: 0, bytes: ByteCount(rig.files()[1].bytes) })).await;
    assert_eq!(rig.lake.expire().await.unwrap(), 1);
    check_once(&rig.visible("logs"), &expected(&["n1"], 4..=4));
}

async fn rows_go_to_the_file_of_their_day_sorted_by_time(place: Place) {
    let rig = Rig::on(place, LakeConfig::default()).await;
    // 2023-11-14 22:13:20 UTC, and two hours later.
    for (sequence, hours) in [(1, 2), (2, 0)] {
        rig.land(&key("n1", "logs"), sequence, rows(hours)).await;
    }
    rig.lake.load_all().await.unwrap();
    let files = rig.files();
    let days: Vec<&str> = files.iter().map(|file| file.path.split('/').nth(1).unwrap()).collect();
    assert_eq!(days, ["date=2023-11-14", "date=2023-11-15"]);
    for file in &files {
        let batch = rig.batches(file).remove(0);
        let times = batch.column_by_name("ts").unwrap();
        let times = times.as_primitive::<arrow_array::types::TimestampMicrosecondType>();
        let times: Vec<i64> = times.values().to_vec();
        assert!(times.is_sorted());
        assert_eq!((file.ts_min_us, file.ts_max_us), (times[0], times[2]));
        assert_eq!((file.rows, file.ranges.len()), (3, 1));
    }
}

async fn a_load_ends_where_memory_is_used_up_however_little_the_frames_take(place: Place) {
    let rig = Rig::on(place, LakeConfig::default()).await;
    let logs = key("n1", "logs");
    // 8 MiB that compress to a few hundred bytes: all of them are in one read of the buffer.
    for sequence in 1..=12 {
        let text = StringArray::from_iter_values(std::iter::repeat_n("x".repeat(1 << 10), 8 << 10));
        rig.land(&logs, sequence, with_column(5, "c", Arc::new(text))).await;
    }
    assert!(rig.lake.load(&logs.stream).await.unwrap());
    let loaded: u64 = rig.files().iter().map(|file| file.rows).sum();
    assert!((5 * 8192..=7 * 8192).contains(&loaded), "{loaded}");
    rig.lake.load_all().await.unwrap();
    assert_eq!(rig.files().iter().map(|file| file.rows).sum::<u64>(), 12 * 8192);
}

async fn a_busy_stream_and_a_busy_node_keep_no_other_waiting(place: Place) {
    let rig = Rig::on(place, LakeConfig { file_bytes: ByteCount(1000), ..LakeConfig::default() }).await;
    for sequence in 1..=6 {
        rig.land(&key("n1", "busy"), sequence, rows(0)).await;
    }
    rig.land(&key("n2", "busy"), 1, rows(0)).await;
    rig.land(&key("n1", "calm"), 1, rows(0)).await;
    let mut passes = Passes::default();
    assert!(rig.pass(&mut passes).await, "there is more to do");
    let files = |stream: &str| rig.files().iter().filter(|file| file.stream.as_str() == stream).count();
    assert_eq!((files("busy"), files("calm")), (1, 1));
    rig.pass(&mut passes).await;
    rig.pass(&mut passes).await;
    let nodes: BTreeSet<Option<String>> = rig.values("busy", "_node").into_iter().collect();
    assert_eq!(nodes.len(), 2, "{nodes:?}");
}
