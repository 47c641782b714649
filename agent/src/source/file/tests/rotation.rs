//! Rename, copytruncate, deletion, names that come and go.

use std::time::Duration;

use super::*;

fn truncate(path: &Path) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
}

/// Long enough for everything that the source decides by the passing of time alone.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(7)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copytruncate_with_a_quiet_writer_doubles_nothing() {
    let mut rig = Rig::new();
    let (log, old) = (rig.path("logs/a.log"), rig.path("logs/a.log.1"));
    append(&log, &numbered(0, 50));
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &refs(&rows(0, 50))).await;
    fs::copy(&log, &old).unwrap();
    truncate(&log);
    a_while().await;
    rig.expect("logs", "body", &refs(&rows(0, 50))).await;
    // Again, into the same file, with a restart before anything is written.
    append(&log, &numbered(50, 90));
    rig.expect("logs", "body", &refs(&rows(0, 90))).await;
    follower.stop().await;
    fs::copy(&log, &old).unwrap();
    truncate(&log);
    rig.restart();
    let follower = follow(&rig, "");
    a_while().await;
    rig.expect("logs", "body", &refs(&rows(0, 90))).await;
    append(&log, &numbered(90, 95));
    rig.expect("logs", "body", &refs(&rows(0, 95))).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copytruncate_into_a_name_that_sorts_first_doubles_nothing_while_others_are_busy() {
    let rig = Rig::new();
    let (log, old) = (rig.path("logs/b.log"), rig.path("logs/a.log.1"));
    append(&log, &numbered(0, 50));
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &refs(&rows(0, 50))).await;
    append(&log, &numbered(50, 55));
    fs::copy(&log, &old).unwrap();
    truncate(&log);
    append(&log, &numbered(55, 60));
    for n in 0..400 {
        append(&rig.path("logs/busy.log"), &format!("busy {n}\n"));
        tokio::time::sleep(Duration::from_millis(18)).await;
    }
    rig.until("all", |rig| rig.texts("logs", "body").len() >= 460).await;
    let mut texts = rig.texts("logs", "body");
    texts.retain(|text| text.starts_with("row"));
    texts.sort();
    let mut expected = rows(0, 60);
    expected.sort();
    assert_eq!(texts, expected);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_very_short_files_double_nothing() {
    let rig = Rig::new();
    let (log, old) = (rig.path("logs/a.log"), rig.path("logs/a.log.1"));
    append(&log, "one\n");
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &["one"]).await;
    fs::copy(&log, &old).unwrap();
    truncate(&log);
    a_while().await;
    append(&log, "two\n");
    rig.expect("logs", "body", &["one", "two"]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_deleted_and_written_again_is_read_again() {
    let rig = Rig::new();
    let log = rig.path("logs/report.log");
    append(&log, &numbered(0, 30));
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &refs(&rows(0, 30))).await;
    fs::remove_file(&log).unwrap();
    a_while().await;
    append(&log, &numbered(0, 30));
    let twice: Vec<String> = rows(0, 30).into_iter().chain(rows(0, 30)).collect();
    rig.expect("logs", "body", &refs(&twice)).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_was_begun_before_a_truncation_is_not_joined_with_what_came_after() {
    let rig = Rig::new();
    let log = rig.path("logs/a.log");
    append(&log, "begun and ");
    let follower = follow(&rig, "");
    rig.until("it is followed", |_| true).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut file = OpenOptions::new().write(true).truncate(true).open(&log).unwrap();
    file.write_all(b"something else, which is longer\n").unwrap();
    rig.expect("logs", "body", &["something else, which is longer"]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_renamed_out_of_the_globs_is_followed_while_its_writer_pauses() {
    let rig = Rig::new();
    let log = rig.path("logs/a.log");
    append(&log, "one\n");
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &["one"]).await;
    fs::rename(&log, rig.path("elsewhere")).unwrap();
    a_while().await;
    append(&rig.path("elsewhere"), "two\n");
    rig.expect("logs", "body", &["one", "two"]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_renamed_and_made_again_is_watched_again() {
    let rig = Rig::new();
    append(&rig.path("logs/sub/deep/a.log"), "one\n");
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &["one"]).await;
    fs::rename(rig.path("logs/sub"), rig.path("moved")).unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    append(&rig.path("logs/sub/deep/b.log"), "two\n");
    rig.expect("logs", "body", &["one", "two"]).await;
    // Without a scan by the clock.
    tokio::time::sleep(Duration::from_millis(600)).await;
    append(&rig.path("logs/sub/deep/c.log"), "three\n");
    let soon = rig.expect("logs", "body", &["one", "two", "three"]);
    tokio::time::timeout(Duration::from_secs(5), soon).await.unwrap();
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_link_leads_to_may_be_replaced() {
    let rig = Rig::new();
    append(&rig.path("real/current"), "one\n");
    fs::create_dir_all(rig.path("logs")).unwrap();
    std::os::unix::fs::symlink(rig.path("real/current"), rig.path("logs/a.log")).unwrap();
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &["one"]).await;
    fs::rename(rig.path("real/current"), rig.path("real/before")).unwrap();
    append(&rig.path("real/current"), "two\n");
    let soon = rig.expect("logs", "body", &["one", "two"]);
    tokio::time::timeout(Duration::from_secs(5), soon).await.unwrap();
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_file_is_finished_however_old_it_is() {
    let mut rig = Rig::new();
    let log = rig.path("logs/a.log");
    append(&log, "one\n");
    let follower = follow(&rig, "ignore_older: 1h\n");
    rig.expect("logs", "body", &["one"]).await;
    follower.stop().await;
    append(&log, "two\n");
    append(&rig.path("logs/other.log"), "never seen\n");
    let old = fs::metadata(&log).unwrap().modified().unwrap() - Duration::from_secs(7200);
    File::options().append(true).open(&log).unwrap().set_modified(old).unwrap();
    File::options().append(true).open(rig.path("logs/other.log")).unwrap().set_modified(old).unwrap();
    rig.restart();
    let follower = follow(&rig, "ignore_older: 1h\n");
    rig.expect("logs", "body", &["one", "two"]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_at_the_end_holds_for_archives_and_not_for_files_that_came_while_nobody_looked() {
    let mut rig = Rig::new();
    append(&rig.path("plain"), &numbered(0, 30));
    fs::create_dir_all(rig.path("logs")).unwrap();
    gzip(&rig.path("plain"), &rig.path("logs/old.log.gz"));
    let follower = follow(&rig, "start: end\n");
    rig.until("the starting point is durable", |rig| !rig.deps.ingress.buffer.positions().is_empty()).await;
    follower.stop().await;
    append(&rig.path("logs/a.log"), "while down\n");
    rig.restart();
    let follower = follow(&rig, "start: end\n");
    rig.expect("logs", "body", &["while down"]).await;
    follower.stop().await;
    // Even if there was no file at all at first.
    let mut rig = Rig::new();
    let follower = follow(&rig, "start: end\n");
    rig.until("the starting point is durable", |rig| !rig.deps.ingress.buffer.positions().is_empty()).await;
    follower.stop().await;
    append(&rig.path("logs/a.log"), "while down\n");
    rig.restart();
    let follower = follow(&rig, "start: end\n");
    rig.expect("logs", "body", &["while down"]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_away_unread_is_counted_unless_a_copy_has_it() {
    let rig = Rig::new();
    let log = rig.path("logs/a.log");
    let lost = |rig: &Rig| {
        let counts = rig.deps.ingress.counters.snapshot();
        counts.get(&"logs".parse().unwrap()).map_or(0, |count| count.bytes_lost)
    };
    append(&log, &format!("{}no end", numbered(0, 50)));
    let follower = follow(&rig, "");
    rig.until("the lines", |rig| rig.texts("logs", "body").len() >= 50).await;
    fs::copy(&log, rig.path("logs/a.log.1")).unwrap();
    truncate(&log);
    append(&log, &format!("{}no end", numbered(50, 60)));
    rig.until("the lines", |rig| rig.texts("logs", "body").len() >= 61).await;
    truncate(&log);
    a_while().await;
    // Taken or lost: the two ends are in the books once each.
    rig.until("the books add up", |rig| {
        let taken = rig.texts("logs", "body").iter().filter(|text| *text == "no end").count() as u64;
        lost(rig) + taken * 6 == 12
    })
    .await;
    follower.stop().await;
}
