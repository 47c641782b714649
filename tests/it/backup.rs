//! A platform is put into a file and restored from it, elsewhere: every row that the backup knew or that can be read again is
//! there exactly once, and what is no whole backup, or would mix with something else, is refused.

use std::path::PathBuf;
use std::sync::Arc;

use aap_tests::load::{await_progress, exactly_once, post_until_taken, prepared_with_a_quick_lake};
use aap_tests::{Load, Pace, Platform, Signal, eventually};

/// Rows of one request.
const ROWS: u64 = 50;

fn post(platform: &Platform, requests: std::ops::Range<u64>) {
    requests.for_each(|request| post_until_taken(platform, request * ROWS, ROWS));
}

/// Where the backup of a platform goes.
fn file_of(platform: &Platform) -> String {
    platform.beside("platform.aap-backup").into_os_string().into_string().unwrap()
}

#[track_caller]
fn await_lake(platform: &Platform, stream: &str) {
    eventually("rows in the lake", || {
        let files = platform.aap(&["stream", "files", stream, "-o", "ndjson"]);
        (files.code == 0 && !files.out.trim().is_empty()).then_some(())
    });
}

/// A platform made of the backup of another one, and running.
#[track_caller]
fn restored_from(platform: &Platform) -> Arc<Platform> {
    let restored = Arc::new(Platform::new());
    let told = restored.aap(&["restore", &file_of(platform), "-o", "json"]).ok().json();
    assert!(told["item"]["files"].as_u64().is_some_and(|files| files > 5), "{told}");
    restored.up(&[]).ok();
    restored
}

#[test]
fn a_restored_platform_goes_on_where_the_backup_stood_and_reads_again_what_came_after() {
    let platform = prepared_with_a_quick_lake();
    let file = file_of(&platform);
    platform.up(&[]).ok();
    let load = Load::start(&platform, Pace::FILE);
    let run = platform.beside("run.ndjson");
    std::fs::write(&run, (0..1000).map(|id| format!("{{\"id\":{id}}}\n")).collect::<String>()).unwrap();
    platform.aap(&["ingest", "runs", run.to_str().unwrap()]).ok();
    post(&platform, 0..10);
    await_progress(&platform);
    await_lake(&platform, "posts");

    platform.aap(&["backup", &file, "-o", "json"]).refused(6, "backup.running");
    platform.down().ok();
    platform.aap(&["backup", &file, "-o", "json"]).ok();
    platform.aap(&["backup", &file, "-o", "json"]).refused(6, "backup.file_exists");

    // The platform goes on, loads more into its lake, and is lost.
    platform.up(&[]).ok();
    post(&platform, 10..20);
    await_progress(&platform);
    platform.down().ok();

    let restored = restored_from(&platform);
    // A client repeats what it sent after the backup, and goes on.
    post(&restored, 5..30);
    restored.aap(&["ingest", "runs", run.to_str().unwrap()]).ok();
    await_progress(&restored);
    let produced = load.stop();
    produced.assert_exactly_once(&restored);
    exactly_once(&restored, "posts", "id", 30 * ROWS);
    exactly_once(&restored, "runs", "id", 1000);

    // Once more from the start, when everything is in the lake.
    restored.down().ok();
    restored.up(&[]).ok();
    post(&restored, 30..31);
    produced.assert_exactly_once(&restored);
    exactly_once(&restored, "posts", "id", 31 * ROWS);
    eventually("a healthy platform", || (restored.aap(&["status"]).code == 0).then_some(()));
    assert_eq!(restored.panics(), Vec::<String>::new());
}

#[test]
fn a_platform_that_was_killed_is_backed_up_with_what_waits_in_its_buffers() {
    let platform = prepared_with_a_quick_lake();
    platform.up(&[]).ok();
    post(&platform, 0..5);
    platform.await_delivered();
    // These are acknowledged, and nobody takes them.
    platform.signal("coordinator", Signal::STOP);
    post(&platform, 5..10);
    platform.kill_all();
    // The last thread of a process that dies lets go of its locks, which may be after the process seems gone.
    eventually("a backup", || (platform.aap(&["backup", &file_of(&platform)]).code == 0).then_some(()));
    let restored = restored_from(&platform);
    post(&restored, 0..15);
    exactly_once(&restored, "posts", "id", 15 * ROWS);
}

#[test]
fn what_is_no_whole_backup_or_would_mix_with_another_home_is_refused_and_leaves_nothing() {
    let platform = prepared_with_a_quick_lake();
    let file = file_of(&platform);
    let elsewhere = Platform::new();
    elsewhere.aap(&["backup", &file, "-o", "json"]).refused(3, "backup.no_platform");
    elsewhere.aap(&["restore", &file, "-o", "json"]).refused(3, "restore.no_file");
    platform.up(&[]).ok();
    post(&platform, 0..3);
    platform.aap(&["restore", &file, "-o", "json"]).refused(3, "restore.no_file");
    platform.down().ok();
    let within = platform.home().join("lake/backup").into_os_string().into_string().unwrap();
    platform.aap(&["backup", &within, "-o", "json"]).refused(2, "backup.within_home");
    platform.aap(&["backup", &file]).ok();
    let problem = platform.aap(&["restore", &file, "-o", "json"]).refused(6, "restore.not_empty");
    assert!(problem["hints"][0]["command"].as_str().unwrap().starts_with("mv "), "{problem}");

    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x10;
    for bytes in [&flipped[..], &whole[..whole.len() - 1], &whole[..whole.len() / 2]] {
        std::fs::write(&file, bytes).unwrap();
        elsewhere.aap(&["restore", &file, "-o", "json"]).refused(1, "restore.damaged");
        let left: Vec<PathBuf> =
            std::fs::read_dir(elsewhere.beside("")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "nothing is left");
    }
    std::fs::write(&file, "plain text").unwrap();
    elsewhere.aap(&["restore", &file, "-o", "json"]).refused(2, "restore.not_a_backup");
    std::fs::write(&file, whole).unwrap();
    elsewhere.aap(&["restore", &file]).ok();
    elsewhere.up(&[]).ok();
    exactly_once(&elsewhere, "posts", "id", 3 * ROWS);
}
