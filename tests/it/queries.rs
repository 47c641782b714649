//! What a query sees while everything moves: a prefix of each source without gap or double, and with `--wait-for-ingest`
//! everything that was acknowledged before it began.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aap_tests::{Load, Pace, Platform, Random, Settings, wait_until};

/// How long it is looked at.
const LOOKED_AT: Duration = Duration::from_secs(15);

#[test]
fn every_answer_is_a_whole_prefix_that_holds_what_was_acknowledged_before() {
    let mut random = Random::of_test("queries under load");
    let platform = Platform::new();
    // The seam between landing and lake moves all the time.
    let coordinator = "lake: { age_seconds: 0, compact_files: 2 }".to_owned();
    platform.prepare("n1", &Settings { coordinator, ..Settings::default() }.tail(&Load::glob(&platform)));
    let platform = Arc::new(platform);
    let (mut coordinator, mut agent) = platform.start_both();
    let load = Load::start(&platform, Pace::LIGHT);
    assert!(wait_until(aap_tests::PATIENCE, || load.posted() > 0));

    let (began, mut answered, mut refused) = (Instant::now(), 0, 0);
    while began.elapsed() < LOOKED_AT {
        match random.below(20) {
            0 => {
                coordinator.kill();
                coordinator = platform.start("coordinator");
            }
            1 => {
                agent.kill();
                agent = platform.start("agent");
            }
            _ => {}
        }
        let acknowledged = load.posted();
        let sql = "select count(*) n, count(distinct id) unique_ids, max(id) + 1 high from posts";
        let ran = platform.aap(&["query", "--wait-for-ingest", "-o", "ndjson", sql]);
        // A platform of which a part is just starting says so; it does not answer with less.
        if ran.code != 0 {
            refused += 1;
            continue;
        }
        answered += 1;
        let row = ran.json();
        let n = row["n"].as_u64().unwrap();
        assert!(n >= acknowledged, "{n} rows, {acknowledged} were acknowledged before");
        assert_eq!((row["unique_ids"].as_u64(), row["high"].as_u64()), (Some(n), Some(n)), "{row}");
    }
    eprintln!("{answered} answers, {refused} refused");
    assert!(answered > 10, "{answered} answers, {refused} refused");
    platform.await_coordinator();
    platform.await_connected();
    load.stop().assert_exactly_once(&platform);
}

#[test]
fn a_deleted_stream_stays_deleted_and_what_comes_later_is_there_once() {
    let platform = Platform::new();
    let coordinator = "lake: { age_seconds: 0 }".to_owned();
    platform.prepare("n1", &Settings { coordinator, ..Settings::default() });
    let (mut coordinator, _agent) = platform.start_both();
    let post = |from| aap_tests::load::post_until_taken(&platform, from, 50);
    for round in 0..4 {
        (0..10).for_each(|request| post(round * 1000 + request * 50));
        if round % 2 == 0 {
            platform.await_delivered();
        }
        assert_eq!(platform.count("select count(*) from posts"), 500, "round {round}");
        platform.aap(&["stream", "delete", "posts", "--yes"]).ok();
        coordinator.kill();
        coordinator = platform.start("coordinator");
        platform.await_coordinator();
        platform.await_connected();
        assert_eq!(platform.count("select count(*) from posts"), 0, "round {round}");
    }
}
