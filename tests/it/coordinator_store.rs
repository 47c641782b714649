//! What the coordinator stores is lost or damaged: it starts again, or is refused with a reason, and every row is there
//! exactly once, from what the node retains and from the lake's manifest.

use std::time::Duration;

use aap_tests::load::{await_progress, exactly_once, post_until_taken, prepared_with_a_quick_lake};
use aap_tests::{Load, Pace, copy, eventually, put_back};

/// Rows of one request.
const ROWS: u64 = 50;

#[test]
fn a_lost_landing_buffer_is_filled_again_from_what_the_node_retains() {
    let platform = prepared_with_a_quick_lake();
    let (mut coordinator, _agent) = platform.start_both();
    let load = Load::start(&platform, Pace::FILE);
    (0..10).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    platform.await_delivered();
    coordinator.kill();
    std::fs::remove_dir_all(platform.home().join("coordinator/landing")).unwrap();
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    platform.await_connected();
    (10..20).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    await_progress(&platform);
    load.stop().assert_exactly_once(&platform);
    exactly_once(&platform, "posts", "id", 20 * ROWS);
}

#[test]
fn a_lost_catalogue_is_restored_from_the_manifest() {
    let platform = prepared_with_a_quick_lake();
    let (mut coordinator, _agent) = platform.start_both();
    (0..10).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    eventually("rows in the lake", || {
        let files = platform.aap(&["stream", "files", "posts", "-o", "ndjson"]);
        (files.code == 0 && !files.out.trim().is_empty()).then_some(())
    });
    coordinator.kill();
    for name in ["meta.db", "meta.db-wal", "meta.db-shm"] {
        std::fs::remove_file(platform.home().join("coordinator").join(name)).ok();
    }
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    platform.await_connected();
    (10..20).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    exactly_once(&platform, "posts", "id", 20 * ROWS);
}

#[test]
fn a_damaged_catalogue_is_put_aside_and_made_anew_without_a_row_lost_or_doubled() {
    let platform = prepared_with_a_quick_lake();
    let (mut coordinator, _agent) = platform.start_both();
    (0..10).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    platform.await_delivered();
    coordinator.stop(Duration::from_secs(20));
    let meta = platform.home().join("coordinator/meta.db");
    let length = std::fs::metadata(&meta).unwrap().len();
    std::fs::write(&meta, vec![0x5a; usize::try_from(length).unwrap()]).unwrap();
    (10..20).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    platform.await_connected();
    exactly_once(&platform, "posts", "id", 20 * ROWS);
    let log = platform.log("coordinator");
    assert!(log.contains("meta.db") && !log.contains("panicked"), "{log}");
}

#[test]
fn a_coordinator_that_lost_everything_but_the_lake_is_filled_again_from_what_the_node_retains() {
    let platform = prepared_with_a_quick_lake();
    let (mut coordinator, _agent) = platform.start_both();
    let load = Load::start(&platform, Pace::FILE);
    (0..10).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    await_progress(&platform);
    coordinator.kill();
    std::fs::remove_dir_all(platform.home().join("coordinator")).unwrap();
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    platform.await_connected();
    (10..20).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    load.stop().assert_exactly_once(&platform);
    exactly_once(&platform, "posts", "id", 20 * ROWS);
}

#[test]
fn a_coordinator_restored_from_a_backup_gets_what_is_missing_from_what_the_node_retains() {
    let platform = prepared_with_a_quick_lake();
    let (mut coordinator, _agent) = platform.start_both();
    let load = Load::start(&platform, Pace::FILE);
    (0..10).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    await_progress(&platform);
    coordinator.kill();
    let parts = ["coordinator", "lake"];
    parts.iter().for_each(|part| copy(&platform.home().join(part), &platform.beside(part)));
    let mut coordinator = platform.start("coordinator");
    platform.await_coordinator();
    (10..20).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    platform.await_connected();
    await_progress(&platform);
    platform.await_delivered();
    coordinator.kill();
    for part in parts {
        put_back(&platform.beside(part), &platform.home().join(part));
    }
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    platform.await_connected();
    (20..30).for_each(|request| post_until_taken(&platform, request * ROWS, ROWS));
    load.stop().assert_exactly_once(&platform);
    exactly_once(&platform, "posts", "id", 30 * ROWS);
}
