//! Programs killed under load: afterwards every produced row is there exactly once.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aap_tests::{Platform, Random};

/// Rows of one HTTP request.
const REQUEST_ROWS: u64 = 50;
/// Rows of one `aap ingest` run.
const RUN_ROWS: u64 = 20_000;
/// Lines between two rotations of the followed file.
const ROTATE_EVERY: u64 = 20_000;

/// How many kills of each program: 20, or 1,000 in the long version.
fn kills() -> u64 {
    if std::env::var_os("AAP_TEST_LONG").is_some() { 1000 } else { 20 }
}

#[test]
fn rows_of_killed_agents_and_coordinators_are_there_exactly_once() {
    let mut random = Random::of_test("kills");
    let platform = Platform::new();
    let folder = platform.beside("logs");
    std::fs::create_dir(&folder).unwrap();
    platform.up(&["--tail", folder.join("app.log*").to_str().unwrap()]).ok();
    let platform = Arc::new(platform);
    let stop = Arc::new(AtomicBool::new(false));
    let lines = append_and_rotate(folder, stop.clone());
    let posts = post_with_keys(platform.clone(), stop.clone());
    let runs = ingest_files(platform.clone(), stop.clone());

    for round in 0..kills() {
        for name in ["agent", "coordinator"] {
            thread::sleep(random.millis(20, 500));
            let down = platform.kill_and_wait(name);
            assert!(down < Duration::from_secs(2), "round {round}: {name} came back after {down:?}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (lines, posts, runs) = (lines.join().unwrap(), posts.join().unwrap(), runs.join().unwrap());
    eprintln!("produced: {lines} lines, {posts} posted rows, {runs} ingested rows");

    await_lines(&platform, lines);
    exactly_once(&platform, "logs", "cast(body as bigint)", lines);
    exactly_once(&platform, "posts", "id", posts);
    exactly_once(&platform, "runs", "id", runs);
    let unordered = platform.count(
        "select count(*) from (select cast(body as bigint) n, lag(cast(body as bigint)) \
         over (order by _epoch, _seq, _row) previous from logs) where n < previous",
    );
    assert_eq!(unordered, 0, "lines of one source are in the order in which they were read");
}

/// A followed file is read when the agent gets to it; nobody acknowledges.
fn await_lines(platform: &Platform, lines: u64) {
    let came = aap_tests::wait_until(Duration::from_secs(120), || {
        platform.count("select count(*) from logs") >= lines
    });
    assert!(came, "{} of {lines} lines", platform.count("select count(*) from logs"));
}

/// The ids 0..`rows` are there, each once.
#[track_caller]
fn exactly_once(platform: &Platform, stream: &str, id: &str, rows: u64) {
    let counted = &platform.rows(&format!(
        "select count(*) n, count(distinct {id}) unique_ids, min({id}) low, max({id}) high from {stream}"
    ))[0];
    let expected = serde_json::json!({"n": rows, "unique_ids": rows, "low": 0, "high": rows - 1});
    assert_eq!(counted, &expected, "{stream}");
}

/// Lines with a running number, in a file that is renamed away again and again. Answers how many.
fn append_and_rotate(folder: PathBuf, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    thread::spawn(move || {
        let path = folder.join("app.log");
        let open = || OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let mut file: File = open();
        let mut lines = 0;
        while !stop.load(Ordering::Relaxed) {
            let chunk: String = (lines..lines + 500).map(|n| format!("{n}\n")).collect();
            file.write_all(chunk.as_bytes()).unwrap();
            lines += 500;
            if lines % ROTATE_EVERY == 0 {
                std::fs::rename(&path, folder.join(format!("app.log.{}", lines / ROTATE_EVERY))).unwrap();
                file = open();
            }
            thread::sleep(Duration::from_millis(5));
        }
        lines
    })
}

/// Requests with keys, each repeated until it is answered with 200. Answers how many rows.
fn post_with_keys(platform: Arc<Platform>, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    thread::spawn(move || {
        let mut rows = 0;
        while !stop.load(Ordering::Relaxed) {
            let body: String = (rows..rows + REQUEST_ROWS).map(|id| format!("{{\"id\":{id}}}\n")).collect();
            let key = format!("key-{rows}");
            post_until_taken(&platform, &key, body.as_bytes());
            rows += REQUEST_ROWS;
        }
        rows
    })
}

fn post_until_taken(platform: &Platform, key: &str, body: &[u8]) {
    let began = Instant::now();
    let headers = [("content-type", "application/x-ndjson"), ("idempotency-key", key)];
    loop {
        match platform.http().post("posts", &headers, body) {
            Ok(answer) if answer.status == 200 => return,
            Ok(answer) if ![409, 429, 503].contains(&answer.status) => panic!("{answer:?}"),
            answer => {
                assert!(began.elapsed() < Duration::from_secs(60), "never taken: {answer:?}");
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Runs of `aap ingest`, each repeated until it succeeds. Answers how many rows.
fn ingest_files(platform: Arc<Platform>, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    thread::spawn(move || {
        let mut rows = 0;
        while !stop.load(Ordering::Relaxed) {
            let path = platform.beside(&format!("run-{rows}.ndjson"));
            let text: String = (rows..rows + RUN_ROWS)
                .map(|id| format!("{{\"id\":{id},\"text\":\"row {id}\"}}\n"))
                .collect();
            std::fs::write(&path, text).unwrap();
            let began = Instant::now();
            loop {
                let ran = platform.aap(&["ingest", "runs", path.to_str().unwrap()]);
                if ran.code == 0 {
                    break;
                }
                assert!(began.elapsed() < Duration::from_secs(60), "never taken: {ran:?}");
            }
            rows += RUN_ROWS;
        }
        rows
    })
}
