//! Producers that can say for certain what they produced: a followed file that rotates, HTTP requests with keys, runs of
//! `aap ingest`. Each repeats what was not answered, as a real one would.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::daemon::Settings;
use crate::platform::Platform;
use crate::wait::{eventually, wait_until};

/// No answer for so long is a failure: the platform did not come back.
const TAKEN_WITHIN: Duration = Duration::from_secs(120);

/// How much is produced.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two additions to the file.
    pub every: Duration,
    /// Lines of one addition; none if 0.
    pub lines: u64,
    /// Lines between two rotations of the file.
    pub rotate_every: u64,
    /// Between two requests, and between two runs.
    pub posts_every: Duration,
    /// Rows of one request; none if 0.
    pub post_rows: u64,
    /// Rows of one `aap ingest` run; none if 0.
    pub run_rows: u64,
}

impl Pace {
    /// As much as the producers can.
    pub const FULL: Self = Self {
        every: Duration::from_millis(5),
        lines: 500,
        rotate_every: 20_000,
        posts_every: Duration::ZERO,
        post_rows: 50,
        run_rows: 20_000,
    };
    /// Steady and light, for tests that look at single steps.
    pub const LIGHT: Self = Self {
        every: Duration::from_millis(10),
        lines: 20,
        rotate_every: 4_000,
        posts_every: Duration::from_millis(20),
        post_rows: 50,
        run_rows: 500,
    };
    /// The file alone.
    pub const FILE: Self = Self { post_rows: 0, run_rows: 0, ..Self::LIGHT };
    /// Requests alone: what is acknowledged, and read from nowhere again.
    pub const POSTS: Self = Self { lines: 0, run_rows: 0, ..Self::LIGHT };
}

/// Running producers. The platform must be there for them to end.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    producers: Option<[JoinHandle<u64>; 3]>,
    posted: Arc<AtomicU64>,
}

/// What was produced: the ids 0..n of each stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Lines of the file; stream `logs`.
    pub lines: u64,
    /// Rows of requests; stream `posts`.
    pub posts: u64,
    /// Rows of runs; stream `runs`.
    pub runs: u64,
}

impl Load {
    /// The file to follow: this glob, in a folder that exists afterwards.
    pub fn glob(platform: &Platform) -> String {
        let folder = platform.beside("logs");
        std::fs::create_dir_all(&folder).unwrap();
        folder.join("app.log*").to_str().unwrap().to_owned()
    }

    /// A platform of one node whose agent follows the file, with both daemons configured by `settings` and none started.
    #[track_caller]
    pub fn prepared(settings: Settings) -> Arc<Platform> {
        let platform = Platform::new();
        platform.prepare("n1", &settings.tail(&Self::glob(&platform)));
        Arc::new(platform)
    }

    /// Starts all producers.
    pub fn start(platform: &Arc<Platform>, pace: Pace) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let posted = Arc::new(AtomicU64::new(0));
        let producers = [
            append_and_rotate(platform.beside("logs"), pace, stop.clone()),
            post_with_keys(platform.clone(), pace, stop.clone(), posted.clone()),
            ingest_files(platform.clone(), pace, stop.clone()),
        ];
        Self { stop, producers: Some(producers), posted }
    }

    /// Rows that were posted and answered until now.
    pub fn posted(&self) -> u64 {
        self.posted.load(Ordering::Relaxed)
    }

    /// Ends the producers after what they have begun.
    pub fn stop(mut self) -> Produced {
        self.stop.store(true, Ordering::Relaxed);
        let [lines, posts, runs] = self.producers.take().unwrap().map(|producer| producer.join().unwrap());
        let produced = Produced { lines, posts, runs };
        eprintln!("{produced:?}");
        produced
    }
}

impl Drop for Load {
    /// After a failed test the producers end too, as soon as they can.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Produced {
    /// Every row is there, once.
    #[track_caller]
    pub fn assert_exactly_once(&self, platform: &Platform) {
        assert_same(self.compare(platform));
    }

    /// Whether every row is there, once. First what was acknowledged, which must be there at once.
    pub fn compare(&self, platform: &Platform) -> Result<(), Differs> {
        compare(platform, "posts", "id", self.posts)?;
        compare(platform, "runs", "id", self.runs)?;
        await_lines(platform, self.lines);
        compare(platform, "logs", "cast(body as bigint)", self.lines)
    }
}

/// The ids of a stream, where they are not those that were produced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differs {
    /// The stream.
    pub stream: String,
    /// Ids produced: 0 up to this.
    pub produced: u64,
    /// Of these, such as are not there.
    pub missing: u64,
    /// Rows that are there beyond one for each.
    pub doubled: u64,
    /// Rows whose id nobody produced.
    pub foreign: u64,
}

impl std::fmt::Display for Differs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stream, produced, missing, doubled, foreign } = self;
        write!(
            f,
            "of {produced} rows of `{stream}`, {missing} are missing, {doubled} are doubled, {foreign} are nobody's"
        )
    }
}

/// Fails the test where they differ.
#[track_caller]
fn assert_same(compared: Result<(), Differs>) {
    if let Err(differs) = compared {
        panic!("{differs}");
    }
}

/// A followed file is read when the agent gets to it; nobody acknowledges.
#[track_caller]
pub fn await_lines(platform: &Platform, lines: u64) {
    let came = wait_until(TAKEN_WITHIN, || platform.count("select count(*) from logs") >= lines);
    assert!(came, "{} of {lines} lines", platform.count("select count(*) from logs"));
}

/// Waits until the coordinator has more lines than now.
#[track_caller]
pub fn await_progress(platform: &Platform) {
    let rows = || platform.count("select count(*) from logs");
    let before = rows();
    eventually("new lines", || (rows() > before).then_some(()));
}

/// As [`Load::prepared`], where rows are in the lake a second after they landed.
#[track_caller]
pub fn prepared_with_a_quick_lake() -> Arc<Platform> {
    Load::prepared(Settings { coordinator: "lake: { age_seconds: 1 }".into(), ..Settings::default() })
}

/// Ids that one statement counts: those it has seen stay within the memory of a query.
const IDS_AT_ONCE: usize = 4_000_000;

/// The ids 0..`rows` are there, each once.
#[track_caller]
pub fn exactly_once(platform: &Platform, stream: &str, id: &str, rows: u64) {
    assert_same(compare(platform, stream, id, rows));
}

/// Whether the ids 0..`rows` are there, each once.
pub fn compare(platform: &Platform, stream: &str, id: &str, rows: u64) -> Result<(), Differs> {
    let (mut all, mut ours, mut different) = (0, 0, 0);
    for first in (0..rows).step_by(IDS_AT_ONCE) {
        let last = rows.min(first + IDS_AT_ONCE as u64) - 1;
        let counted = count_ids(platform, stream, id, first, last);
        (all, ours, different) = (counted.all, ours + counted.ours, different + counted.different);
    }
    let (missing, doubled, foreign) = (rows - different, ours - different, all - ours);
    match missing + doubled + foreign {
        0 => Ok(()),
        _ => Err(Differs { stream: stream.to_owned(), produced: rows, missing, doubled, foreign }),
    }
}

/// What a stream holds.
#[derive(Default)]
struct Counted {
    /// Rows.
    all: u64,
    /// Of these, with an id of the range.
    ours: u64,
    /// How many ids of the range there are.
    different: u64,
}

/// Counts the ids `first..=last`.
fn count_ids(platform: &Platform, stream: &str, id: &str, first: u64, last: u64) -> Counted {
    let sql = format!(
        "select count(*) n, count(*) filter (where ours) ours, count(distinct id) filter (where ours) different \
         from (select id, coalesce(id between {first} and {last}, false) ours from (select {id} id from {stream}))"
    );
    let ran = platform.aap(&["query", "--wait-for-ingest", "--timeout", "10m", "-o", "ndjson", &sql]);
    // There is no such stream: everything is missing.
    if ran.code == 3 {
        return Counted::default();
    }
    let counted = ran.ok().json();
    let [all, ours, different] = ["n", "ours", "different"].map(|name| counted[name].as_u64().unwrap());
    Counted { all, ours, different }
}

/// Lines with a running number, in a file that is renamed away again and again.
fn append_and_rotate(folder: PathBuf, pace: Pace, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    thread::spawn(move || {
        let path = folder.join("app.log");
        let open = || OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let mut file: File = open();
        let mut lines = 0;
        while pace.lines > 0 && !stop.load(Ordering::Relaxed) {
            let chunk: String = (lines..lines + pace.lines).map(|n| format!("{n}\n")).collect();
            file.write_all(chunk.as_bytes()).unwrap();
            lines += pace.lines;
            if lines % pace.rotate_every == 0 {
                let aside = folder.join(format!("app.log.{}", lines / pace.rotate_every));
                std::fs::rename(&path, aside).unwrap();
                file = open();
            }
            thread::sleep(pace.every);
        }
        lines
    })
}

/// Requests with keys, each repeated until it is answered with 200.
fn post_with_keys(
    platform: Arc<Platform>,
    pace: Pace,
    stop: Arc<AtomicBool>,
    posted: Arc<AtomicU64>,
) -> JoinHandle<u64> {
    thread::spawn(move || {
        let mut rows = 0;
        while pace.post_rows > 0 && !stop.load(Ordering::Relaxed) {
            post_until_taken(&platform, rows, pace.post_rows);
            rows += pace.post_rows;
            posted.store(rows, Ordering::Relaxed);
            thread::sleep(pace.posts_every);
        }
        rows
    })
}

/// Posts the rows `from..from + count` to `posts` under their own key, again and again until they are taken.
///
/// # Panics
/// If the answer is one that no repetition changes, or none comes.
pub fn post_until_taken(platform: &Platform, from: u64, count: u64) {
    let body: String = (from..from + count).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    let key = format!("key-{from}");
    let headers = [("content-type", "application/x-ndjson"), ("idempotency-key", key.as_str())];
    let began = Instant::now();
    loop {
        match platform.http().post("posts", &headers, body.as_bytes()) {
            Ok(answer) if answer.status == 200 => return,
            // 401: the agent is down, and another test's agent listens on its default port.
            Ok(answer) if ![401, 409, 429, 503].contains(&answer.status) => panic!("{answer:?}"),
            answer => {
                assert!(began.elapsed() < TAKEN_WITHIN, "never taken: {answer:?}");
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Runs of `aap ingest`, each repeated until it succeeds.
fn ingest_files(platform: Arc<Platform>, pace: Pace, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    thread::spawn(move || {
        let mut rows = 0;
        while pace.run_rows > 0 && !stop.load(Ordering::Relaxed) {
            let path = platform.beside(&format!("run-{rows}.ndjson"));
            let text: String = (rows..rows + pace.run_rows)
                .map(|id| format!("{{\"id\":{id},\"text\":\"row {id}\"}}\n"))
                .collect();
            std::fs::write(&path, text).unwrap();
            let began = Instant::now();
            loop {
                let ran = platform.aap(&["ingest", "runs", path.to_str().unwrap()]);
                if ran.code == 0 {
                    break;
                }
                assert!(began.elapsed() < TAKEN_WITHIN, "never taken: {ran:?}");
                thread::sleep(Duration::from_millis(50));
            }
            rows += pace.run_rows;
            thread::sleep(pace.posts_every);
        }
        rows
    })
}
