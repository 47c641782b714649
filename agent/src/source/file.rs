//! The file source: follows every file its globs name, and takes each byte exactly once.
//!
//! ```text
//! inotify ─▶ linger ─▶ queue ─▶ drain: pass (blocking pool: read, check, cut, decode, seal) ─▶ append ─▶ durable ─▶ home
//! scan (10 s; when names change) ─▶ look (head, position) ─▶ follow, or wait as a possible copy ─▶ queue
//! ```
//!
//! # Rules
//! - Guarantee: exactly once. The position is in the same group as the rows; after any kill, reading goes on there.
//! - A renamed file is followed by its open descriptor to its end. It is closed when its name has left the globs and
//!   nothing was added for a minute, or for an hour while it has a name elsewhere. A truncated file is read again from
//!   its beginning; bytes that were cut away before they were read are counted as lost, unless a copy has them.
//! - A file that begins as another one does, and has all that was read of it, may be its copy or its compressed form. It waits
//!   while that one is there, is being read, or while it grows itself; it goes on where the other stood once that one is
//!   truncated or gone (`copytruncate`, `compress`), one file only. A plain file
//!   that neither grows nor differs for five seconds beside its original is another file: all of it is read. An archive
//!   beside the file it was made of is not read while that is there.
//! - The last line is taken without its line end when nothing was added for a second. What is added to it later is a
//!   record of its own; the line end alone adds nothing.
//! - gzip and zstd files are recognised by their first bytes, read once, one at a time, when they have not changed for two
//!   seconds. Of an unfinished or damaged one all that can be read is taken; it is looked at again when it changes.
//! - Memory does not grow with the number of files: quiet ones are closed, and what is read but not durable has a budget.
//!
//! | file | owns |
//! |---|---|
//! | `file/discover.rs` | globs, and which files they name |
//! | `file/identity.rs` | keys, positions, how two contents stand to each other |
//! | `file/history.rs` | all that is known of files that were read |
//! | `file/scan.rs` | what a scan changes; which files are looked into |
//! | `file/look.rs` | looking into files |
//! | `file/copies.rs` | possible copies, and what they turn out to be |
//! | `file/tracked.rs` | one followed file, as the source sees it |
//! | `file/home.rs` | what a drain brings home; sleeping, waking, forgetting |
//! | `file/drain.rs` | passes and appends of one file until its end |
//! | `file/reader.rs`, `take.rs` | one file: passes, marks, positions |
//! | `file/input.rs` | opening, decompressing |
//! | `file/start.rs` | `start: end` |
//! | `file/watch.rs` | inotify |

mod copies;
mod discover;
mod drain;
mod history;
mod home;
mod identity;
mod input;
mod look;
mod reader;
mod scan;
mod start;
mod take;
mod tracked;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aap_runtime::Shutdown;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use self::copies::Waiting;
use self::discover::{Found, Globs, Scan};
use self::drain::{BUDGET_KIB, Drained};
use self::history::History;
use self::home::Loss;
use self::identity::{FileId, FileKey, Stamp};
use self::look::{Compared, Looked};
use self::tracked::{Seat, Tracked};
use self::watch::Watcher;
use super::{SourceDeps, SourceError};
use crate::config::{FileSpec, Start};
use crate::formats::Recipe;
use crate::records::Rules;

/// How often the globs are looked at although nothing was heard: for file systems without notification.
const SCAN_EVERY: Duration = Duration::from_secs(10);
/// The same where the kernel tells nothing, or not all.
const SCAN_EVERY_BLIND: Duration = Duration::from_secs(1);
/// Names may change all the time; this long lies between two scans at least, and ten times what the last one took.
const SCAN_PAUSE: Duration = Duration::from_millis(250);
/// Pause between the first sign of new bytes and reading them, so that busy files give large batches: at 10 MB/s
/// some 200 KB. It is half of the latency goal's median.
const LINGER: Duration = Duration::from_millis(15);
/// The same after a time without any: nothing suggests that more is coming.
const LINGER_AFTER_QUIET: Duration = Duration::from_millis(4);
/// A source is quiet after this long without new bytes.
const QUIET: Duration = Duration::from_millis(200);
/// The last line is taken without its end after this long.
const IDLE: Duration = Duration::from_secs(1);
/// A deleted file is closed after this long without new bytes: its writer may still hold it.
const DELETED_CLOSE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });
/// The same for one that still has a name, which no glob matches.
const RENAMED_CLOSE: Duration = Duration::from_secs(3600);
/// How often a file whose name is gone is looked at.
const GONE_LOOK: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
/// A quiet file's decoder and buffers are given back after this long.
const SLEEP_AFTER: Duration = Duration::from_secs(30);
/// Readers that may wait for that; beyond, a file falls asleep at its end.
const AWAKE_MAX: usize = 256;
/// Quiet files that are kept open, so that a rename out of the globs loses nothing; beyond, they are closed.
const OPEN_MAX: usize = 1024;
/// Files that are drained at the same time: enough to fill one group of the buffer with small ones.
const DRAINS_MAX: usize = 64;
/// Files that are looked into at once: they are open meanwhile.
const LOOKS_MAX: usize = 256;
/// Between attempts at a file that cannot be read, or rows that cannot be stored.
const RETRY: Duration = Duration::from_secs(1);
/// The same after a bug of ours.
const RETRY_BUG: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 30 });
/// How long passes that are under way may take at the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(8);

/// What was done elsewhere.
enum Done {
    Drained(Drained),
    Scanned(Scan),
    Looked(Looked),
    Compared(Vec<Compared>),
    /// It panicked: a bug of ours, which must not stop the source.
    Failed,
}

struct FileSource {
    name: String,
    spec: FileSpec,
    deps: SourceDeps,
    globs: Globs,
    rules: Arc<Rules>,
    recipe: Recipe,
    history: Arc<History>,
    files: HashMap<FileId, Tracked>,
    /// Which followed file has which key.
    holders: HashMap<FileKey, FileId>,
    /// Possible copies.
    waiting: BTreeMap<FileId, Waiting>,
    /// What the last scan found.
    present: HashMap<FileId, Stamp>,
    /// Found and not looked into yet.
    to_look: VecDeque<Found>,
    queue: VecDeque<FileId>,
    /// Archives have their own: they are read one at a time, and hold nobody up.
    archives: VecDeque<FileId>,
    archive: Option<FileId>,
    draining: usize,
    /// Files that are not asleep.
    awake: usize,
    timers: BTreeSet<(Duration, FileId)>,
    budget: Arc<Semaphore>,
    watcher: Option<Watcher>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    /// A scan, a look or a comparison of plain files is under way.
    looking: bool,
    comparing_archive: bool,
    scan_at: Duration,
    scan_began: Duration,
    scan_allowed_at: Duration,
    last_bytes: Duration,
    troubled: HashSet<String>,
    losses: Vec<Loss>,
    shutdown: Shutdown,
}

/// Runs the source until it is asked to stop.
pub(super) async fn run(
    name: String,
    spec: FileSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let invalid = |error: &dyn std::fmt::Display| SourceError::Config(error.to_string());
    let limit = usize::try_from(spec.line_bytes_max.0).unwrap_or(usize::MAX);
    let globs = Globs::new(&spec).map_err(|error| invalid(&error))?;
    let rules = Rules::new(spec.multiline.as_ref(), limit).map_err(|error| invalid(&error))?;
    let recipe = Recipe::new(spec.format, spec.pattern.clone(), spec.timestamp.clone(), spec.keep_raw);
    let watcher = Watcher::new();
    if let Err(error) = &watcher {
        tracing::warn!(source = name, %error, "no file notifications; looking every second");
    }
    let mut history = History::default();
    history.adopt(&name, &deps.ingress.buffer.positions());
    let mut source = FileSource {
        name,
        spec,
        deps,
        globs,
        rules: Arc::new(rules),
        recipe,
        history: Arc::new(history),
        files: HashMap::new(),
        holders: HashMap::new(),
        waiting: BTreeMap::new(),
        present: HashMap::new(),
        to_look: VecDeque::new(),
        queue: VecDeque::new(),
        archives: VecDeque::new(),
        archive: None,
        draining: 0,
        awake: 0,
        timers: BTreeSet::new(),
        budget: Arc::new(Semaphore::new(BUDGET_KIB)),
        watcher: watcher.ok(),
        jobs: FuturesUnordered::new(),
        looking: false,
        comparing_archive: false,
        scan_at: Duration::ZERO,
        scan_began: Duration::ZERO,
        scan_allowed_at: Duration::ZERO,
        last_bytes: Duration::ZERO,
        troubled: HashSet::new(),
        losses: vec![],
        shutdown,
    };
    if source.spec.start == Start::End {
        source.keep_starting_points().await;
    }
    source.follow().await;
    Ok(())
}

impl FileSource {
    async fn follow(&mut self) {
        while !self.shutdown.is_requested() {
            let now = self.now();
            if now >= self.scan_at && !self.looking {
                self.start_scan(now);
            }
            self.start_drains(now);
            self.wait(now).await;
        }
        self.finish().await;
    }

    fn now(&self) -> Duration {
        self.deps.ingress.clock.monotonic()
    }

    fn unix_ns(&self) -> u64 {
        u64::try_from(self.deps.ingress.clock.unix_us()).unwrap_or(0).saturating_mul(1000)
    }

    /// Waits until there is something to do, and notes what.
    async fn wait(&mut self, now: Duration) {
        let timer = tokio::time::sleep(self.next_deadline(now).saturating_sub(now));
        let linger = if now.saturating_sub(self.last_bytes) > QUIET { LINGER_AFTER_QUIET } else { LINGER };
        tokio::select! {
            () = self.shutdown.requested() => {}
            () = timer => self.note_deadlines(),
            Some(done) = self.jobs.next() => self.done(done),
            () = changed(self.watcher.as_ref()) => {
                tokio::time::sleep(linger).await;
                self.note_changes();
            }
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Drained(drained) => self.drained(drained),
            Done::Scanned(scan) => self.scanned(scan),
            Done::Looked(looked) => self.looked(looked),
            Done::Compared(compared) => self.compared(compared),
            Done::Failed => {
                (self.looking, self.comparing_archive) = (false, false);
                self.waiting.values_mut().for_each(Waiting::compare_anew);
                self.problem(
                    "bug",
                    Some("looking at files failed unexpectedly; it is tried again".to_owned()),
                );
                self.scan_at = self.now() + RETRY_BUG;
            }
        }
    }

    fn next_deadline(&self, now: Duration) -> Duration {
        let scan = if self.looking { now + SCAN_EVERY } else { self.scan_at };
        self.timers.first().map_or(scan, |(at, _)| scan.min(*at))
    }

    fn note_deadlines(&mut self) {
        let now = self.now();
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            self.is_due(id, now);
        }
    }

    fn note_changes(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let changes = watcher.take(|path| self.globs.matches(path));
        if changes.names || changes.lost {
            self.scan_soon();
        }
        let all = if changes.lost { self.files.keys().copied().collect() } else { vec![] };
        for id in changes.files.into_iter().chain(all) {
            self.ready(id);
        }
    }

    /// Something of a file may be unread.
    fn ready(&mut self, id: FileId) {
        let Some(file) = self.files.get_mut(&id) else { return };
        file.dirty = true;
        if file.queued || file.not_before.is_some() || matches!(file.seat, Seat::Away) {
            return;
        }
        file.queued = true;
        if file.is_plain() { self.queue.push_back(id) } else { self.archives.push_back(id) }
    }

    fn set_due(&mut self, id: FileId, due: Option<Duration>) {
        let Some(file) = self.files.get_mut(&id) else { return };
        if let Some(due) = std::mem::replace(&mut file.due, due) {
            self.timers.remove(&(due, id));
        }
        if let Some(due) = due {
            self.timers.insert((due, id));
        }
    }

    fn problem(&mut self, what: &str, text: Option<String>) {
        match &text {
            Some(_) => self.troubled.insert(what.to_owned()),
            None => self.troubled.remove(what),
        };
        let shown = text.clone();
        if self.deps.board.source_problem(&self.name, what, text) {
            match shown {
                Some(text) => tracing::warn!(source = self.name, problem = text, "file source"),
                None => tracing::info!(source = self.name, what, "file source: well again"),
            }
        }
    }

    /// Lets the passes that are under way come to their end.
    async fn finish(&mut self) {
        let all = async { while self.jobs.next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_DEADLINE, all).await.is_err() {
            tracing::warn!(source = self.name, "stopped while rows were on their way; they are read again");
        }
    }
}

async fn changed(watcher: Option<&Watcher>) {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
