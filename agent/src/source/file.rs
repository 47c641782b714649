//! The file source: follows every file its globs name, and takes each byte exactly once.
//!
//! ```text
//! inotify ─▶ linger ─▶ dirty files ─▶ pass (blocking pool: read, cut, decode, seal) ─▶ append ─▶ durable ─▶ next
//!                        ▲  scan every 10 s, and when names change      one append a file, next pass meanwhile
//! ```
//!
//! # Rules
//! - Guarantee: exactly once. The position is in the same group as the rows; after any kill, reading goes on there.
//! - A renamed file is followed by its open descriptor to its end; it is closed when its name has left the globs and nothing
//!   was added for five seconds. A truncated file is read again from its beginning; bytes that were written and cut
//!   away before they were read are counted as lost.
//! - A copy of a file that was read, or its compressed form, is continued where the file stood, once the original is
//!   truncated or gone (`copytruncate`, `compress`). A copy beside its original is another file: all of it is read.
//! - The last line is taken without its line end when nothing was added for a second. What is added to it later is a
//!   record of its own; the line end alone adds nothing.
//! - gzip and zstd files are recognised by their first bytes and read once.
//!
//! | file | owns |
//! |---|---|
//! | `file/discover.rs` | globs, and which files they name |
//! | `file/identity.rs` | which file is which |
//! | `file/input.rs` | opening, decompressing |
//! | `file/reader.rs` | one file: passes, marks, positions |
//! | `file/drain.rs` | passes and appends of one file until its end |
//! | `file/watch.rs` | inotify |

mod discover;
mod drain;
mod identity;
mod input;
mod reader;

mod watch;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aap_runtime::Shutdown;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::task::JoinHandle;

use self::discover::{Found, Globs, Scan};
use self::drain::{DrainEnd, Drained, Work};
use self::identity::{Detail, FileKey, Known, Stat, Verdict, judge};
use self::input::{Codec, Peek};
use self::reader::{Reader, Setup};

use self::watch::Watcher;
use super::{SourceDeps, SourceError};
use crate::config::{FileSpec, Start};
use crate::formats::Recipe;
use crate::ingress::{Packer, positions_only};
use crate::records::Rules;

/// How often the globs are looked at although nothing was heard: for file systems without notification.
const SCAN_EVERY: Duration = Duration::from_secs(10);
/// Pause between the first sign of new bytes and reading them, so that busy files give large batches: at 10 MB/s
/// some 200 KB. It is half of the latency goal's median.
const LINGER: Duration = Duration::from_millis(15);
/// The same after a time without any: nothing suggests that more is coming.
const LINGER_AFTER_QUIET: Duration = Duration::from_millis(4);
/// A source is quiet after this long without new bytes.
const QUIET: Duration = Duration::from_millis(200);
/// The last line is taken without its end after this long.
const IDLE: Duration = Duration::from_secs(1);
/// A file whose name is gone is closed after this long without new bytes: its writer may still hold it.
const GONE_CLOSE: Duration = Duration::from_secs(5);
/// A possible copy counts as a file of its own when it has not grown for this long, or was seen this long ago.
const COPY_SETTLED: Duration = Duration::from_secs(2);
/// See [`COPY_SETTLED`].
const COPY_WAIT_MAX: Duration = Duration::from_secs(15);
/// Between attempts at a file that cannot be read, or rows that cannot be stored.
const RETRY: Duration = Duration::from_secs(1);
/// How long passes that are under way may take at the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(8);

type FileId = (u64, u64);

/// A file that is being followed.
#[derive(Debug)]
struct Tracked {
    path: PathBuf,
    /// At home; `None` while a pass has it.
    reader: Option<Box<Reader>>,
    watch: Option<i32>,
    dirty: bool,
    gone: bool,
    /// Bytes wait for the end of their record.
    partial: bool,
    /// When it last gave anything.
    grew_at: Duration,
    retry_at: Option<Duration>,
}

/// A file that may be a copy of one that is still there.
#[derive(Debug, Clone, Copy)]
struct MaybeCopy {
    since: Duration,
    size: u64,
    size_since: Duration,
}

struct FileSource {
    name: String,
    spec: FileSpec,
    deps: SourceDeps,
    globs: Globs,
    rules: Arc<Rules>,
    recipe: Recipe,
    known: Vec<Known>,
    files: HashMap<FileId, Tracked>,
    /// Files without content yet, and those that could not be opened: tried again with every scan.
    copies: HashMap<FileId, MaybeCopy>,
    watcher: Option<Watcher>,
    jobs: FuturesUnordered<BoxFuture<'static, Drained>>,
    scan_at: Duration,
    last_bytes: Duration,
    first_start: bool,
    troubled: HashSet<String>,
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
    let known = Known::of_source(&name, deps.ingress.buffer.positions());
    let watcher = Watcher::new();
    if let Err(error) = &watcher {
        tracing::warn!(source = name, %error, "no file notifications; looking every second");
    }
    let mut source = FileSource {
        first_start: known.is_empty(),
        name,
        spec,
        deps,
        globs,
        rules: Arc::new(rules),
        recipe,
        known,
        files: HashMap::new(),
        copies: HashMap::new(),
        watcher: watcher.ok(),
        jobs: FuturesUnordered::new(),
        scan_at: Duration::ZERO,
        last_bytes: Duration::ZERO,
        troubled: HashSet::new(),
        shutdown,
    };
    source.follow().await;
    Ok(())
}

impl FileSource {
    async fn follow(&mut self) {
        while !self.shutdown.is_requested() {
            let now = self.now();
            if now >= self.scan_at {
                self.scan().await;
            }
            self.start_passes();
            self.wait().await;
        }
        self.finish().await;
    }

    fn now(&self) -> Duration {
        self.deps.ingress.clock.monotonic()
    }

    /// Waits until there is something to do, and notes what.
    async fn wait(&mut self) {
        let now = self.now();
        let timer = tokio::time::sleep(self.next_deadline(now).saturating_sub(now));
        let linger = if now.saturating_sub(self.last_bytes) > QUIET { LINGER_AFTER_QUIET } else { LINGER };
        tokio::select! {
            () = self.shutdown.requested() => {}
            () = timer => self.note_deadlines(),
            Some(drained) = self.jobs.next() => self.drained(drained).await,
            () = changed(self.watcher.as_ref()) => {
                tokio::time::sleep(linger).await;
                self.note_changes();
            }
        }
    }

    fn next_deadline(&self, now: Duration) -> Duration {
        let idle = self.files.values().filter(|file| file.reader.is_some()).filter_map(|file| {
            let partial = (file.partial && !file.dirty).then_some(file.grew_at + IDLE);
            let gone = file.gone.then_some(file.grew_at + GONE_CLOSE);
            [partial, gone, file.retry_at].into_iter().flatten().min()
        });
        // Without notifications the files are looked at themselves.
        let blind = self.watcher.is_none().then_some(now + Duration::from_secs(1));
        let copies = (!self.copies.is_empty()).then_some(now + Duration::from_millis(500));
        idle.chain(blind).chain(copies).chain([self.scan_at]).min().unwrap_or(self.scan_at).max(now + LINGER)
    }

    fn note_deadlines(&mut self) {
        let now = self.now();
        let blind = self.watcher.is_none();
        for file in self.files.values_mut() {
            if file.retry_at.is_some_and(|at| at <= now) {
                file.retry_at = None;
                file.dirty = true;
            }
            if blind || file.gone || (file.partial && file.grew_at + IDLE <= now) {
                file.dirty = true;
            }
        }
        if !self.copies.is_empty() {
            self.scan_at = now;
        }
    }

    fn note_changes(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let changes = watcher.take();
        if changes.names || changes.lost {
            self.scan_at = Duration::ZERO;
        }
        for id in changes.files {
            if let Some(file) = self.files.get_mut(&id) {
                file.dirty = true;
            }
        }
        if changes.lost {
            self.files.values_mut().for_each(|file| file.dirty = true);
        }
    }

    /// Looks at the file system: what is new, what is gone, what has another name.
    async fn scan(&mut self) {
        self.scan_at = self.now() + SCAN_EVERY;
        let globs = self.globs.clone();
        let Ok(scan) = tokio::task::spawn_blocking(move || globs.scan()).await else { return };
        self.watch_directories(&scan);
        self.report(&scan);
        let present: HashSet<FileId> = scan.files.iter().map(|found| found.id).collect();
        for (id, file) in &mut self.files {
            file.gone = !present.contains(id);
        }
        self.copies.retain(|id, _| present.contains(id));
        for found in &scan.files {
            self.found(found, &present).await;
        }
        let first_start = std::mem::take(&mut self.first_start);
        if first_start && self.spec.start == Start::End {
            self.keep_starting_points().await;
        }
    }

    fn watch_directories(&mut self, scan: &Scan) {
        let Some(watcher) = &mut self.watcher else { return };
        for directory in &scan.directories {
            if let Err(error) = watcher.directory(directory) {
                tracing::debug!(directory = %directory.display(), %error, "directory is not watched");
            }
        }
    }

    fn report(&mut self, scan: &Scan) {
        let now: HashSet<String> = scan.problems.iter().map(|(path, _)| path.display().to_string()).collect();
        for (path, text) in &scan.problems {
            self.problem(&path.display().to_string(), Some(format!("`{}`: {text}", path.display())));
        }
        for healed in self
            .troubled
            .difference(&now)
            .filter(|path| Path::new(path).is_dir())
            .cloned()
            .collect::<Vec<_>>()
        {
            self.problem(&healed, None);
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

    async fn found(&mut self, found: &Found, present: &HashSet<FileId>) {
        if let Some(file) = self.files.get_mut(&found.id) {
            if file.path != found.path {
                found.path.clone_into(&mut file.path);
                if let Some(reader) = &mut file.reader {
                    reader.renamed(&found.path);
                }
            }
            // The size tells what a lost notification did not.
            if file.reader.as_ref().is_some_and(|reader| reader.is_plain() && reader.offset() != found.size) {
                file.dirty = true;
            }
            return;
        }
        if self.is_too_old(found) || found.size == 0 {
            // An empty file has no identity yet. Its directory is watched for names only, so watch it for bytes.
            return self.watch_empty(found);
        }
        let path = found.path.clone();
        let opened = tokio::task::spawn_blocking(move || open(&path)).await;
        let result = match opened {
            Ok(Ok(Some(opened))) => self.begin(opened, present).await,
            Ok(Ok(None)) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => return,
        };
        let what = found.path.display().to_string();
        match result {
            Ok(()) => {
                if self.troubled.contains(&what) {
                    self.problem(&what, None);
                }
            }
            Err(error) => self.problem(&what, Some(format!("cannot read `{what}`: {error}"))),
        }
    }

    fn watch_empty(&mut self, found: &Found) {
        let Some(watcher) = &mut self.watcher else { return };
        if found.size == 0
            && let Ok((file, _)) = input::open(&found.path)
            && let Err(error) = watcher.empty_file(&file)
        {
            tracing::debug!(%error, "empty file is not watched");
        }
    }

    fn is_too_old(&self, found: &Found) -> bool {
        let Some(limit) = self.spec.ignore_older else { return false };
        let limit_us = i64::try_from(limit.0.as_micros()).unwrap_or(i64::MAX);
        found.modified_us < self.deps.ingress.clock.unix_us().saturating_sub(limit_us)
    }

    /// Decides what an opened file is, and follows it.
    async fn begin(&mut self, opened: Opened, present: &HashSet<FileId>) -> io::Result<()> {
        let (opened, verdict) = self.judge(opened, present).await.map_err(io::Error::other)?;
        let Opened { path, file, stat, codec, head } = opened;
        let (generation, offset, detail) = match verdict {
            Verdict::Same(known) => {
                return self.track(path, file, codec, &head, known.key, known.offset, known.detail).await;
            }
            Verdict::MaybeCopy if !self.copy_settled(stat.id, stat.size) => return Ok(()),
            Verdict::MaybeCopy => (0, 0, Detail::default()),
            Verdict::New { generation } => (generation, 0, Detail::default()),
            Verdict::Moved(known) => {
                tracing::info!(source = self.name, path = %path.display(), offset = known.offset, "continues a file that was read");
                (0, known.offset, known.detail)
            }
        };
        self.copies.remove(&stat.id);
        let key = FileKey::mint(&stat, &head, generation);
        self.track(path, file, codec, &head, key, offset, detail).await
    }

    /// Looks at the content, which takes a while for an archive.
    fn judge(&self, opened: Opened, present: &HashSet<FileId>) -> JoinHandle<(Opened, Verdict)> {
        let here = Presence {
            keys: self
                .files
                .values()
                .filter(|file| !file.gone)
                .filter_map(|file| file.reader.as_ref().map(|reader| reader.key().clone()))
                .collect(),
            away: self
                .files
                .iter()
                .filter(|(_, file)| file.reader.is_none() && !file.gone)
                .map(|(id, _)| id.1)
                .collect(),
            unknown: present.iter().filter(|id| !self.files.contains_key(id)).map(|id| id.1).collect(),
        };
        let known = self.known.clone();
        tokio::task::spawn_blocking(move || {
            let content = Peek { file: &opened.file, codec: opened.codec };
            let verdict = judge(&known, &opened.stat, &opened.head, &content, &|key| here.has(key));
            (opened, verdict)
        })
    }

    fn copy_settled(&mut self, id: FileId, size: u64) -> bool {
        let now = self.now();
        let seen = self.copies.entry(id).or_insert(MaybeCopy { since: now, size, size_since: now });
        if seen.size != size {
            (seen.size, seen.size_since) = (size, now);
        }
        now >= seen.size_since + COPY_SETTLED || now >= seen.since + COPY_WAIT_MAX
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one reader, put together in one place")]
    async fn track(
        &mut self,
        path: PathBuf,
        file: File,
        codec: Codec,
        head: &[u8],
        key: FileKey,
        offset: u64,
        detail: Detail,
    ) -> io::Result<()> {
        let id = identity::stat(&file)?.id;
        let (decoder, keeps_lines) = self.recipe.build(head).map_err(io::Error::other)?;
        let packer = Packer::new(self.spec.stream.clone(), path.display().to_string(), decoder);
        let setup = Setup {
            source: self.name.clone(),
            path: path.clone(),
            file,
            codec,
            key,
            offset,
            detail,
            rules: self.rules.clone(),
            packer,
            keeps_lines,
        };
        let needs_header = offset > 0 && self.recipe.has_header();
        let skip = self.first_start && self.spec.start == Start::End;
        let made = tokio::task::spawn_blocking(move || {
            let mut reader = Reader::new(setup)?;
            if needs_header {
                reader.learn_header()?;
            }
            if skip {
                reader.skip_to_end()?;
            }
            Ok::<_, io::Error>(Box::new(reader))
        });
        let reader = made.await.map_err(io::Error::other)??;
        let watch = self.watcher.as_mut().and_then(|watcher| watcher.file(reader.file(), id).ok());
        tracing::debug!(source = self.name, path = %path.display(), offset = reader.offset(), "follows");
        let now = self.now();
        let tracked = Tracked {
            path,
            reader: Some(reader),
            watch,
            dirty: true,
            gone: false,
            partial: false,
            grew_at: now,
            retry_at: None,
        };
        self.files.insert(id, tracked);
        Ok(())
    }

    /// Makes durable where files stood when a source that starts at their end began.
    async fn keep_starting_points(&mut self) {
        let readers = self.files.values().filter_map(|file| file.reader.as_ref());
        let known: Vec<Known> = readers.map(|reader| reader.known()).collect();
        if known.is_empty() {
            return;
        }
        let positions = known.iter().map(|known| known.position(&self.name)).collect();
        let parcel = positions_only(&self.spec.stream, positions);
        let kept = match parcel {
            Ok(parcel) => self.deps.ingress.append(parcel).await.map(drop),
            Err(error) => Err(error),
        };
        match kept {
            Ok(()) => self.known.extend(known),
            Err(error) => tracing::warn!(source = self.name, %error, "starting points are not durable"),
        }
    }

    /// Sends every dirty file on its way that is at home.
    fn start_passes(&mut self) {
        let now = self.now();
        for (id, file) in &mut self.files {
            let may = file.dirty && file.retry_at.is_none_or(|at| at <= now);
            if !may {
                continue;
            }
            let Some(reader) = file.reader.take() else { continue };
            file.dirty = false;
            file.retry_at = None;
            let idle = file.partial && now >= file.grew_at + IDLE;
            let work =
                Work { id: *id, reader, idle, deps: self.deps.clone(), shutdown: self.shutdown.clone() };
            self.jobs.push(Box::pin(drain::drain(work)));
        }
    }

    /// A file came home.
    async fn drained(&mut self, drained: Drained) {
        let Drained { id, reader, rows, bytes, cut, grew, end } = drained;
        let now = self.now();
        if bytes > 0 {
            self.last_bytes = now;
        }
        if cut > 0 {
            self.deps.ingress.counters.count(&self.spec.stream, |count| count.bytes_cut += cut);
        }
        let Some(reader) = reader else {
            // The pass panicked: a bug of ours, which must not stop the other files.
            self.forget(id);
            return self
                .problem("bug", Some("reading a file failed unexpectedly; it is opened again".to_owned()));
        };
        if rows > 0 || bytes > 0 {
            self.remember(reader.known());
        }
        let what = format!("read {}", reader.key().text(&self.name));
        let Some(file) = self.files.get_mut(&id) else { return };
        if grew || bytes > 0 {
            file.grew_at = now;
        }
        match end {
            DrainEnd::End { partial } => {
                // More came since the record was left open: the second begins anew.
                file.partial = partial;
                let close = file.gone && !file.dirty && now >= file.grew_at + GONE_CLOSE;
                file.reader = Some(reader);
                if close {
                    self.forget(id);
                }
            }
            DrainEnd::More => {
                file.dirty = true;
                file.reader = Some(reader);
            }
            DrainEnd::Truncated { lost } => return self.truncated(id, *reader, lost).await,
            DrainEnd::Failed { error } => {
                file.retry_at = Some(now + RETRY);
                file.dirty = true;
                file.reader = Some(reader);
                return self.problem(&what, Some(error));
            }
        }
        if self.troubled.contains(&what) {
            self.problem(&what, None);
        }
    }

    fn remember(&mut self, known: Known) {
        match self.known.iter_mut().find(|other| other.key == known.key) {
            Some(other) => *other = known,
            None => self.known.push(known),
        }
    }

    /// The same inode has other content now: begin again under a new key.
    async fn truncated(&mut self, id: FileId, reader: Reader, lost: u64) {
        if lost > 0 {
            self.deps.ingress.counters.count(&self.spec.stream, |count| count.bytes_lost += lost);
        }
        let path = self.files.get(&id).map(|file| file.path.clone()).unwrap_or_default();
        tracing::info!(source = self.name, path = %path.display(), lost, "file was truncated; reading it again");
        self.remember(reader.known());
        self.forget(id);
        drop(reader);
        self.scan_at = Duration::ZERO;
    }

    fn forget(&mut self, id: FileId) {
        if let Some(file) = self.files.remove(&id)
            && let Some((watcher, watch)) = self.watcher.as_mut().zip(file.watch)
        {
            watcher.forget(watch);
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

/// Which of the known files are still there.
struct Presence {
    keys: HashSet<FileKey>,
    /// Inodes of files that a pass has at this moment: their keys are theirs still.
    away: HashSet<u64>,
    /// Inodes that were found and not opened yet: they may be anything.
    unknown: HashSet<u64>,
}

impl Presence {
    fn has(&self, key: &FileKey) -> bool {
        self.keys.contains(key) || self.away.contains(&key.inode) || self.unknown.contains(&key.inode)
    }
}

/// A file that was opened and looked at.
struct Opened {
    path: PathBuf,
    file: File,
    stat: Stat,
    codec: Codec,
    head: Vec<u8>,
}

/// Opens a file and reads its head. `None` while there is too little to tell what it is. Blocking.
fn open(path: &Path) -> io::Result<Option<Opened>> {
    let (file, stat) = input::open(path)?;
    let Some(codec) = input::codec(&file)? else { return Ok(None) };
    let head = Peek { file: &file, codec }.head()?;
    if head.is_empty() {
        return Ok(None);
    }
    Ok(Some(Opened { path: path.to_owned(), file, stat, codec, head }))
}

#[cfg(test)]
mod tests;
