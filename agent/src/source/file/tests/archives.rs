//! Compressed files: beside their originals, unfinished, damaged, read before.

use std::time::Duration;

use super::*;

fn gzipped(text: &str) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

fn append_bytes(path: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn compressing_for_a_long_time_doubles_nothing() {
    let rig = Rig::new();
    let (log, old, archive) = (rig.path("logs/a.log"), rig.path("logs/a.log.1"), rig.path("logs/a.log.2.gz"));
    append(&log, &numbered(0, 3000));
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &refs(&rows(0, 3000))).await;
    fs::rename(&log, &old).unwrap();
    append(&log, &numbered(3000, 3010));
    let bytes = gzipped(&numbered(0, 3000));
    for piece in bytes.chunks(bytes.len() / 3) {
        append_bytes(&archive, piece);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    fs::remove_file(&old).unwrap();
    rig.until("the archive is known", |rig| {
        rig.deps.ingress.buffer.positions().iter().any(|position| position.detail.contains("copy_of"))
    })
    .await;
    append(&log, &numbered(3010, 3020));
    rig.expect("logs", "body", &refs(&rows(0, 3020))).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_original_that_is_still_being_read_is_not_read_from_its_archive_as_well() {
    let rig = Rig::new();
    let log = rig.path("logs/a.log");
    append(&log, &numbered(0, 100));
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &refs(&rows(0, 100))).await;
    // The reader lags: nothing is decoded.
    let all = rig.deps.decoding.clone().acquire_many_owned(2).await.unwrap();
    append(&log, &numbered(100, 200));
    gzip(&log, &rig.path("logs/a.log.1.gz"));
    fs::remove_file(&log).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(all);
    rig.until("the archive is known", |rig| {
        rig.deps.ingress.buffer.positions().iter().any(|position| position.detail.contains("copy_of"))
    })
    .await;
    rig.expect("logs", "body", &refs(&rows(0, 200))).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_original_had_unread_when_it_was_compressed_comes_from_its_archive() {
    let mut rig = Rig::new();
    let log = rig.path("logs/a.log");
    append(&log, &numbered(0, 100));
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &refs(&rows(0, 100))).await;
    follower.stop().await;
    append(&log, &numbered(100, 200));
    let zst = zstd::encode_all(fs::read(&log).unwrap().as_slice(), 1).unwrap();
    fs::write(rig.path("logs/a.log.1.zst"), zst).unwrap();
    fs::remove_file(&log).unwrap();
    append(&log, &numbered(200, 210));
    rig.restart();
    let follower = follow(&rig, "");
    rig.until("all rows", |rig| rig.texts("logs", "body").len() >= 210).await;
    follower.stop().await;
    let mut texts = rig.texts("logs", "body");
    texts.sort();
    let mut expected = rows(0, 210);
    expected.sort();
    assert_eq!(texts, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_unfinished_archive_has_is_taken_and_the_rest_when_it_comes() {
    let rig = Rig::new();
    fs::create_dir_all(rig.path("logs")).unwrap();
    let archive = rig.path("logs/old.log.gz");
    let bytes = gzipped(&numbered(0, 30_000));
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    append_bytes(&archive, first);
    let follower = follow(&rig, "");
    rig.until("a part of it", |rig| rig.texts("logs", "body").len() > 1000).await;
    rig.until("a problem", |rig| rig.deps.board.problems().iter().any(|text| text.contains("old.log.gz")))
        .await;
    let taken = rig.texts("logs", "body").len();
    append(&rig.path("logs/live.log"), "live\n");
    rig.until("live rows go on", |rig| rig.texts("logs", "body").len() == taken + 1).await;
    append_bytes(&archive, rest);
    rig.until("all of it", |rig| rig.texts("logs", "body").len() > 30_000).await;
    rig.until("no problem", |rig| rig.deps.board.problems().is_empty()).await;
    follower.stop().await;
    let mut texts = rig.texts("logs", "body");
    texts.retain(|text| text != "live");
    assert_eq!(texts, rows(0, 30_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_was_read_is_not_decompressed_again_after_a_restart() {
    let mut rig = Rig::new();
    fs::create_dir_all(rig.path("logs")).unwrap();
    let archive = rig.path("logs/old.log.gz");
    let mut bytes = gzipped(&numbered(0, 30_000));
    fs::write(&archive, &bytes).unwrap();
    let follower = follow(&rig, "");
    rig.until("it is complete", |rig| {
        rig.deps.ingress.buffer.positions().iter().any(|position| position.detail.contains("complete"))
    })
    .await;
    follower.stop().await;
    // Who decompresses it now finds it broken.
    let modified = fs::metadata(&archive).unwrap().modified().unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0xff);
    let mut file = File::options().write(true).open(&archive).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_modified(modified).unwrap();
    rig.restart();
    let follower = follow(&rig, "");
    append(&rig.path("logs/live.log"), "live\n");
    rig.until("the live row", |rig| rig.texts("logs", "body").contains(&"live".to_owned())).await;
    assert_eq!(rig.deps.board.problems(), Vec::<String>::new());
    assert_eq!(rig.texts("logs", "body").len(), 30_001);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_leaves_the_board_with_its_file() {
    let rig = Rig::new();
    fs::create_dir_all(rig.path("logs")).unwrap();
    let bad = rig.path("logs/bad.log.gz");
    fs::write(&bad, [0x1f, 0x8b, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
    let follower = follow(&rig, "");
    rig.until("a problem", |rig| rig.deps.board.problems().iter().any(|text| text.contains("bad.log.gz")))
        .await;
    fs::remove_file(&bad).unwrap();
    rig.until("none", |rig| rig.deps.board.problems().is_empty()).await;
    follower.stop().await;
}
