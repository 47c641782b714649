//! What a sink is fed: every row once and in order, wherever it lies and whatever moves meanwhile.

use super::*;
use crate::{Fed, FeedLimits};

in_both_places! {
    a_sink_is_fed_every_row_once_and_in_order_while_files_are_made_merged_and_frames_reclaimed;
    a_sink_is_not_fed_what_was_deleted;
}

/// All rows behind a position as (sequence, row), by calls of changing size.
pub(super) fn read_all(lake: &Lake, key: &StreamKey, after: u64) -> Vec<(u64, u64)> {
    let (mut position, mut seen, mut turn) = (Sequence(after), vec![], 0);
    let sizes = [1, 7, 3, 1000, 2];
    while let Some(Fed { through, rows, .. }) =
        lake.feed(key, position, FeedLimits { rows: sizes[turn % sizes.len()], bytes: 1 << 20 }).unwrap()
    {
        assert!(through > position, "no progress at {position}");
        let column = |name: &str| rows.column_by_name(name).unwrap().as_primitive::<UInt64Type>().clone();
        for (sequence, row) in column("_seq").values().iter().zip(column("_row").values()) {
            assert!(Sequence(*sequence) > position && Sequence(*sequence) <= through);
            seen.push((*sequence, *row));
        }
        position = through;
        turn += 1;
    }
    seen
}

pub(super) fn all(batches: std::ops::RangeInclusive<u64>) -> Vec<(u64, u64)> {
    batches.flat_map(|batch| (0..3).map(move |row| (batch, row))).collect()
}

async fn a_sink_is_fed_every_row_once_and_in_order_while_files_are_made_merged_and_frames_reclaimed(
    place: Place,
) {
    const BATCHES: u64 = 300;
    let config = LakeConfig { file_bytes: ByteCount(3000), compact_files: 3, ..LakeConfig::default() };
    let rig = Rig::on(place, config).await;
    let done = Arc::new(AtomicBool::new(false));
    let (lake, stop) = (rig.lake.clone(), done.clone());
    let maintaining = tokio::spawn(async move {
        while !stop.load(Ordering::SeqCst) {
            lake.load(&"logs".parse().unwrap()).await.unwrap();
            lake.compact_once().await.unwrap();
        }
    });
    for batch in 1..=BATCHES {
        for node in ["n1", "n2"] {
            // Days that go back and forth: the rows of a file are not in the order of their batches.
            rig.land(&key(node, "logs"), batch, rows(i64::try_from(batch * 7 % 50).unwrap())).await;
        }
        if batch % 60 == 0 {
            let lake = rig.lake.clone();
            let seen =
                tokio::task::spawn_blocking(move || read_all(&lake, &key("n2", "logs"), 0)).await.unwrap();
            assert_eq!(seen, all(1..=batch));
        }
    }
    rig.lake.load_all().await.unwrap();
    done.store(true, Ordering::SeqCst);
    maintaining.await.unwrap();
    reclaimed(&rig, &key("n1", "logs")).await;
    let lake = rig.lake.clone();
    let (one, late) = tokio::task::spawn_blocking(move || {
        (read_all(&lake, &key("n1", "logs"), 0), read_all(&lake, &key("n1", "logs"), BATCHES - 2))
    })
    .await
    .unwrap();
    assert_eq!(one, all(1..=BATCHES));
    assert_eq!(late, all(BATCHES - 1..=BATCHES));
}

/// Lands batches of another stream until the buffer has let go of the first ones of `key`.
async fn reclaimed(rig: &Rig, of: &StreamKey) {
    let other = key("n1", "other");
    for batch in 1..=2000 {
        let first = rig.buffer.read(of, Sequence::ZERO, 1).unwrap();
        if !matches!(first[0].kind, aap_buffer::FrameKind::Data) {
            return;
        }
        rig.land(&other, batch, rows(0)).await;
        rig.lake.load(&other.stream).await.unwrap();
    }
    panic!("nothing was reclaimed, so nothing was tried");
}

async fn a_sink_is_not_fed_what_was_deleted(place: Place) {
    let rig = Rig::on(place, LakeConfig::default()).await;
    let key = key("n1", "logs");
    for batch in 1..=3 {
        rig.land(&key, batch, rows(0)).await;
    }
    rig.lake.load_all().await.unwrap();
    rig.land(&key, 4, rows(0)).await;
    rig.lake.delete(&key.stream).await.unwrap();
    rig.land(&key, 5, rows(0)).await;
    let lake = rig.lake.clone();
    let seen = tokio::task::spawn_blocking(move || read_all(&lake, &key, 0)).await.unwrap();
    assert_eq!(seen, all(5..=5));
}
