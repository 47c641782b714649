//! What a scan changes: which files are there, under which names; which are to be looked into.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::discover::{Found, Scan};
use super::identity::{Detail, FileId, FileKey, Known};
use super::look::{Looked, Opened, is_read, look};
use super::tracked::{Seat, Tracked};
use super::{Done, FileSource, GONE_LOOK, LOOKS_MAX, OPEN_MAX, SCAN_EVERY, SCAN_EVERY_BLIND, SCAN_PAUSE};

/// An archive is read when it has not changed for this long.
pub(super) const ARCHIVE_SETTLED: Duration = Duration::from_secs(2);

impl FileSource {
    /// Scans as soon as it may.
    pub(super) fn scan_soon(&mut self) {
        self.scan_by(Duration::ZERO);
    }

    pub(super) fn scan_by(&mut self, at: Duration) {
        self.scan_at = self.scan_at.min(at.max(self.scan_allowed_at));
    }

    pub(super) fn start_scan(&mut self, now: Duration) {
        let blind = self.watcher.as_ref().is_none_or(|watcher| watcher.is_exhausted());
        (self.looking, self.scan_began) = (true, now);
        self.scan_at = now + if blind { SCAN_EVERY_BLIND } else { SCAN_EVERY };
        self.scan_allowed_at = now + SCAN_PAUSE;
        let globs = self.globs.clone();
        self.job(move || Done::Scanned(globs.scan()));
    }

    pub(super) fn job(&self, work: impl FnOnce() -> Done + Send + 'static) {
        let job = tokio::task::spawn_blocking(work);
        self.jobs.push(Box::pin(async { job.await.unwrap_or(Done::Failed) }));
    }

    pub(super) fn scanned(&mut self, mut scan: Scan) {
        let now = self.now();
        self.scan_allowed_at = now + SCAN_PAUSE.max((now - self.scan_began) * 10).min(SCAN_EVERY);
        self.watch(&mut scan);
        self.report(&scan);
        self.present = scan.files.iter().map(|found| (found.id, found.stamp)).collect();
        let gone: Vec<FileId> =
            self.files.keys().filter(|id| !self.present.contains_key(id)).copied().collect();
        for id in gone {
            self.is_gone(id, now);
        }
        self.waiting.retain(|id, _| self.present.contains_key(id));
        self.to_look.clear();
        for found in scan.files {
            self.found(found, now);
        }
        self.look_on(now);
    }

    fn watch(&mut self, scan: &mut Scan) {
        let Some(watcher) = &mut self.watcher else { return };
        watcher.links(std::mem::take(&mut scan.linked));
        for directory in &scan.directories {
            if let Err(error) = watcher.directory(directory) {
                tracing::debug!(directory = %directory.display(), %error, "directory is not watched");
            }
        }
        let exhausted = watcher.is_exhausted();
        let text =
            "the limit of file notifications is reached (fs.inotify.max_user_watches); looking every second";
        if exhausted || self.troubled.contains("notifications") {
            self.problem("notifications", exhausted.then(|| text.to_owned()));
        }
    }

    /// Shows what could not be looked at, and takes off the board what is no more.
    fn report(&mut self, scan: &Scan) {
        let mut now: HashSet<String> = HashSet::from(["bug".to_owned(), "notifications".to_owned()]);
        for (path, text) in &scan.problems {
            let what = path.display().to_string();
            self.problem(&what, Some(format!("`{what}`: {text}")));
            now.insert(what);
        }
        now.extend(self.files.values().filter_map(|file| file.problem.clone()));
        if self.troubled.is_subset(&now) {
            return;
        }
        let there: HashSet<&Path> = scan.files.iter().map(|found| found.path.as_path()).collect();
        let gone = self.troubled.difference(&now).filter(|what| !there.contains(Path::new(what.as_str())));
        let gone: Vec<String> = gone.cloned().collect();
        for what in gone {
            self.problem(&what, None);
        }
    }

    fn is_gone(&mut self, id: FileId, now: Duration) {
        let Some(file) = self.files.get_mut(&id) else { return };
        if file.gone {
            return;
        }
        file.gone = true;
        if matches!(file.seat, Seat::Asleep(None)) {
            // All of it was read, and nothing leads to it any more.
            return self.forget(id);
        }
        file.grew_at = file.grew_at.max(now);
        self.set_due(id, Some(now + GONE_LOOK));
        self.ready(id);
    }

    fn found(&mut self, found: Found, now: Duration) {
        if self.files.contains_key(&found.id) {
            return self.found_again(&found, now);
        }
        if let Some(waiting) = self.waiting.get(&found.id)
            && waiting.found.stamp.size <= found.stamp.size
        {
            return self.waits_still(found, now);
        }
        self.waiting.remove(&found.id);
        if found.stamp.size == 0 && self.history.knows_inode(found.id.1) {
            // Truncated while nobody looked.
            let now = self.unix_ns();
            Arc::make_mut(&mut self.history).end_inode(found.id, now);
        }
        // A known file is never too old: it is finished.
        if found.stamp.size == 0 || self.is_too_old(&found) && !self.history.knows_inode(found.id.1) {
            // An empty file has no identity yet. Its directory is watched for names only, so watch it for bytes.
            return self.watch_unread(&found.path);
        }
        self.to_look.push_back(found);
    }

    pub(super) fn watch_unread(&mut self, path: &Path) {
        if let Some(watcher) = &mut self.watcher
            && let Err(error) = watcher.unread_file(path)
        {
            tracing::debug!(%error, "unread file is not watched");
        }
    }

    /// What the scan says of a file that is followed: another name, or what a lost notification did not tell.
    fn found_again(&mut self, found: &Found, now: Duration) {
        let Some(file) = self.files.get_mut(&found.id) else { return };
        if file.path != found.path {
            found.path.clone_into(&mut file.path);
            if let Seat::Awake(reader) = &mut file.seat {
                reader.renamed(&found.path);
            }
        }
        file.gone = false;
        if file.found.0 != found.stamp {
            file.found = (found.stamp, now);
        }
        let settled = file.found.1 + ARCHIVE_SETTLED;
        let changed = match (file.is_plain(), &file.seat) {
            (true, Seat::Asleep(_)) => file.seen != found.stamp,
            (true, _) => file.seen.size != found.stamp.size,
            (false, _) => file.seen != found.stamp,
        };
        if changed && !file.is_plain() && now < settled {
            self.scan_by(settled);
        } else if changed {
            file.expected = file.expected.max(found.stamp.size.saturating_sub(file.seen.size));
            self.ready(found.id);
        }
    }

    fn is_too_old(&self, found: &Found) -> bool {
        let Some(limit) = self.spec.ignore_older else { return false };
        let limit_us = i64::try_from(limit.0.as_micros()).unwrap_or(i64::MAX);
        found.stamp.modified_us < self.deps.ingress.clock.unix_us().saturating_sub(limit_us)
    }

    /// Looks into the next files, or, when all were, at what waits.
    fn look_on(&mut self, now: Duration) {
        if self.to_look.is_empty() {
            self.looking = false;
            return self.review_copies(now);
        }
        let count = self.to_look.len().min(LOOKS_MAX);
        let found: Vec<Found> = self.to_look.drain(..count).collect();
        let (source, history) = (self.name.clone(), self.history.clone());
        let buffer = self.deps.ingress.buffer.clone();
        self.job(move || Done::Looked(look(&source, found, history, &buffer)));
    }

    pub(super) fn looked(&mut self, looked: Looked) {
        let now = self.now();
        if !looked.adopted.is_empty() {
            Arc::make_mut(&mut self.history).adopt(&self.name, &looked.adopted);
        }
        let mut others = Vec::new();
        for (found, opened) in looked.files {
            let what = found.path.display().to_string();
            match opened {
                Err(error) => {
                    self.problem(&what, Some(format!("cannot read `{what}`: {error}")));
                    self.watch_unread(&found.path);
                }
                Ok(None) => self.watch_unread(&found.path),
                Ok(Some(opened)) => {
                    if self.troubled.contains(&what) {
                        self.problem(&what, None);
                    }
                    if self.files.contains_key(&found.id) {
                        continue;
                    }
                    match &opened.same {
                        // Two mounts may both have an inode of this number: the first that fits is it.
                        Some(known) if !self.holders.contains_key(&known.key) => {
                            let known = known.clone();
                            self.track(opened, known, now);
                        }
                        _ if self.is_too_old(&found) => self.watch_unread(&found.path),
                        _ => others.push((found, opened)),
                    }
                }
            }
        }
        // Now that it is clear which of the known files are there.
        for (found, opened) in others {
            if opened.generation > 0 {
                let now = self.unix_ns();
                Arc::make_mut(&mut self.history).end_inode(found.id, now);
            }
            self.consider(found, opened, now);
        }
        self.look_on(now);
    }

    /// Begins a file that was never seen.
    pub(super) fn track_new(&mut self, opened: Opened, now: Duration) {
        let key = self.fresh_key(&opened);
        self.track(opened, Known { key, offset: 0, detail: Detail::default() }, now);
    }

    /// A key that no file had.
    pub(super) fn fresh_key(&self, opened: &Opened) -> FileKey {
        let mut key = FileKey::mint(&opened.stat, &opened.head, opened.generation);
        while self.history.get(&key).is_some() {
            key.generation += 1;
        }
        key
    }

    /// Follows a file from where it is known to stand.
    pub(super) fn track(&mut self, opened: Opened, known: Known, now: Duration) {
        let Opened { path, file, stat, codec, .. } = opened;
        let (id, is_read) = (stat.id, is_read(&known, &stat, codec));
        tracing::debug!(source = self.name, path = %path.display(), offset = known.offset, "follows");
        let watch = self.watcher.as_mut().and_then(|watcher| match &file {
            Some(file) => watcher.file(file, id).ok(),
            None => watcher.file_at(&path, id).ok(),
        });
        let tracked = Tracked {
            path,
            key: known.key.clone(),
            codec,
            seat: Seat::Asleep(file.filter(|_| self.files.len() < OPEN_MAX)),
            watch,
            dirty: false,
            queued: false,
            gone: false,
            partial: false,
            held_since: None,
            grew_at: now,
            not_before: None,
            due: None,
            seen: stat.stamp,
            found: (stat.stamp, now),
            expected: stat.stamp.size.saturating_sub(known.offset),
            problem: None,
        };
        self.holders.insert(known.key.clone(), id);
        Arc::make_mut(&mut self.history).remember(known);
        self.files.insert(id, tracked);
        if !is_read {
            self.ready(id);
        }
    }

    /// Inodes that were found and are not followed: they may be files that are known. With their sizes.
    pub(super) fn unfollowed(&self) -> HashMap<u64, u64> {
        let unfollowed = self
            .present
            .iter()
            .filter(|(id, _)| !self.files.contains_key(id) && !self.waiting.contains_key(id));
        unfollowed.map(|(id, stamp)| (id.1, stamp.size)).collect()
    }
}
