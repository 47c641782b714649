//! What a query sees while everything moves: a prefix of each source without gap or double, and with `--wait-for-ingest`
//! everything that was acknowledged before it began.

use std::process::Stdio;
use std::time::{Duration, Instant};

use aap_tests::{Load, Pace, Platform, Random, Settings, wait_until};

/// How long it is looked at.
const LOOKED_AT: Duration = Duration::from_secs(15);

#[test]
fn every_answer_is_a_whole_prefix_that_holds_what_was_acknowledged_before() {
    let mut random = Random::of_test("queries under load");
    // The seam between landing and lake moves all the time.
    let coordinator = "lake: { age_seconds: 0, compact_files: 2 }".to_owned();
    let platform = Load::prepared(Settings { coordinator, ..Settings::default() });
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

/// Memory that a daemon may take for an answer, whatever its size, in KiB.
const ANSWER_KIB_MAX: u64 = 96 << 10;

#[test]
fn a_large_answer_of_a_node_comes_whole_in_little_memory_while_data_goes_on_landing() {
    const ROWS: u64 = 4_000_000;
    let platform = Platform::new();
    platform.prepare("n1", &Settings::default());
    let daemons = platform.start_both();
    let pids = [daemons.0.pid(), daemons.1.pid()];
    aap_tests::load::post_until_taken(&platform, 0, 50);
    let before = pids.map(peak_kib);
    let sql = format!("select range as id, md5(range::varchar) as text from range({ROWS})");
    let answer = platform.beside("answer.csv");
    let options = ["--node", "n1", "--limit", "0", "-o", "csv", "--no-headers", "--timeout", "300s"];
    let mut query = platform.command("aap");
    let query = query.arg("query").args(options).arg(sql).stdout(std::fs::File::create(&answer).unwrap());
    let mut query = query.stderr(Stdio::inherit()).spawn().unwrap();
    let mut landed_meanwhile = 0;
    for request in 1.. {
        if query.try_wait().unwrap().is_some() {
            break;
        }
        aap_tests::load::post_until_taken(&platform, request * 50, 50);
        platform.await_delivered();
        landed_meanwhile += u64::from(query.try_wait().unwrap().is_none());
    }
    assert!(query.wait().unwrap().success());
    assert!(landed_meanwhile > 0, "no request landed while the answer was under way");
    let answer = std::fs::read(&answer).unwrap();
    assert_eq!(answer.iter().filter(|byte| **byte == b'\n').count() as u64, ROWS);
    for (pid, before) in pids.into_iter().zip(before) {
        let grown = peak_kib(pid) - before;
        assert!(grown < ANSWER_KIB_MAX, "{grown} KiB for an answer of {} MiB", answer.len() >> 20);
    }
}

/// The most memory that a process ever had resident.
fn peak_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}
