//! Sending files to be drained, and what they bring home; falling asleep, waking, being forgotten.

use std::sync::Arc;
use std::time::Duration;

use aap_types::SourceKind;

use super::drain::{DrainEnd, Drained, Rest, Start, Work, drain};
use super::identity::{FileId, FileKey, Known, Stamp};
use super::reader::Setup;
use super::tracked::{Seat, Tracked};
use super::{
    AWAKE_MAX, DELETED_CLOSE, DRAINS_MAX, Done, FileSource, GONE_LOOK, IDLE, OPEN_MAX, RENAMED_CLOSE, RETRY,
    RETRY_BUG, SLEEP_AFTER,
};

/// A copy that has what was cut away is found within this.
const LOSS_CERTAIN: Duration = Duration::from_secs(3);

/// Bytes that were cut away before they were read.
pub(super) struct Loss {
    key: FileKey,
    bytes: u64,
    /// When no copy is to be expected any more.
    at: Duration,
}

impl FileSource {
    /// Sends the files that have something new on their way, as many as may be.
    pub(super) fn start_drains(&mut self, now: Duration) {
        while self.draining < DRAINS_MAX
            && let Some(id) = self.queue.pop_front()
        {
            self.start_drain(id, now);
        }
        while self.archive.is_none()
            && let Some(id) = self.archives.pop_front()
        {
            self.start_drain(id, now);
        }
    }

    fn start_drain(&mut self, id: FileId, now: Duration) {
        let Some(file) = self.files.get_mut(&id) else { return };
        file.queued = false;
        if !file.dirty || file.not_before.is_some() {
            return;
        }
        let known = self.history.get(&file.key).map(|of| of.known.clone());
        let Some(known) = known else { return };
        let seat = match std::mem::replace(&mut file.seat, Seat::Away) {
            Seat::Awake(mut reader) => {
                reader.renamed(&file.path);
                Start::Awake(reader)
            }
            Seat::Away => return,
            Seat::Asleep(open) => {
                self.awake += 1;
                let setup = Box::new(Setup {
                    source: self.name.clone(),
                    stream: self.spec.stream.clone(),
                    path: file.path.clone(),
                    codec: file.codec,
                    known,
                    rules: self.rules.clone(),
                    recipe: self.recipe.clone(),
                });
                match open {
                    Some(open) => Start::Open(setup, open),
                    None => Start::Closed(setup),
                }
            }
        };
        file.dirty = false;
        let work = Work {
            id,
            seat,
            idle: file.partial && now >= file.grew_at + IDLE,
            held: file.held_since.is_some_and(|since| now >= since + IDLE),
            share_kib: file.share_kib(),
            budget: self.budget.clone(),
            deps: self.deps.clone(),
            shutdown: self.shutdown.clone(),
        };
        if file.is_plain() {
            self.draining += 1;
        } else {
            self.archive = Some(id);
        }
        self.jobs.push(Box::pin(async { Done::Drained(drain(work).await) }));
    }

    /// A file came home.
    pub(super) fn drained(&mut self, drained: Drained) {
        let Drained { id, reader, bytes, cut, grew, end } = drained;
        let now = self.now();
        if self.archive == Some(id) {
            self.archive = None;
        } else {
            self.draining = self.draining.saturating_sub(1);
        }
        if bytes > 0 {
            self.last_bytes = now;
        }
        if cut > 0 {
            self.deps.ingress.counters.count(&self.spec.stream, |count| count.bytes_cut += cut);
        }
        if let Some(reader) = &reader {
            Arc::make_mut(&mut self.history).remember(reader.known());
        }
        let Some(file) = self.files.get_mut(&id) else { return };
        if grew || bytes > 0 {
            file.grew_at = now;
        }
        if bytes > 0 {
            file.held_since = None;
        }
        if let Some(reader) = &reader {
            let stamp = if file.is_plain() {
                Stamp { size: reader.size_seen(), ..file.found.0 }
            } else {
                reader.opened_as()
            };
            file.seen = stamp;
        }
        file.expected = bytes.clamp(32 << 10, 512 << 10);
        file.seat = match reader {
            Some(reader) => Seat::Awake(reader),
            None => {
                self.awake -= 1;
                Seat::Asleep(None)
            }
        };
        match end {
            DrainEnd::End(rest) => self.came_to_end(id, rest, now),
            DrainEnd::More => {
                file.expected = 4 << 20;
                self.well(id);
                self.ready(id);
            }
            DrainEnd::Truncated { lost } => self.truncated(id, lost),
            DrainEnd::Missing => {
                // Renamed or replaced in this moment: the scan tells.
                self.forget(id);
                self.scan_soon();
            }
            DrainEnd::Failed { error } => self.failed(id, error, RETRY, now),
            DrainEnd::Panicked => {
                self.refresh(id);
                self.failed(id, "reading failed unexpectedly".to_owned(), RETRY_BUG, now);
            }
        }
    }

    fn came_to_end(&mut self, id: FileId, rest: Rest, now: Duration) {
        let Rest { partial, held, damaged, complete } = rest;
        let Some(file) = self.files.get_mut(&id) else { return };
        // The fragment at the end of a broken archive is no record; it becomes one if the archive is completed.
        let (partial, held) = (partial && damaged.is_none(), held && damaged.is_none());
        file.partial = partial;
        file.held_since = if held { file.held_since.or(Some(now)) } else { None };
        let (gone, dirty, quiet) = (file.gone, file.dirty, now.saturating_sub(file.grew_at));
        match damaged {
            Some(reason) => {
                let path = file.path.display();
                let text = format!(
                    "the archive `{path}` is damaged or unfinished: {reason}; what comes before is taken"
                );
                self.trouble(id, text);
            }
            None => self.well(id),
        }
        let Some(file) = self.files.get_mut(&id) else { return };
        if dirty {
            return self.ready(id);
        }
        if gone {
            let links = match &file.seat {
                Seat::Awake(reader) => reader.stat().map_or(0, |stat| stat.links),
                Seat::Away | Seat::Asleep(_) => 0,
            };
            let close = if links == 0 { DELETED_CLOSE } else { RENAMED_CLOSE };
            if !partial && quiet >= close {
                return if links == 0 { self.end(id) } else { self.forget(id) };
            }
        }
        // What stays although its time came is looked at again later.
        let after = |since: Duration| if since + IDLE > now { since + IDLE } else { now + IDLE };
        let idle = partial.then_some(after(file.grew_at));
        let held = file.held_since.map(after);
        let look = gone.then_some(now + GONE_LOOK);
        let due = [idle, held, look].into_iter().flatten().min();
        let is_archive = !file.is_plain();
        if due.is_none() && (is_archive || complete || self.is_crowded()) {
            return self.sleep(id);
        }
        self.set_due(id, Some(due.unwrap_or(now + SLEEP_AFTER)));
    }

    fn is_crowded(&self) -> bool {
        self.awake > AWAKE_MAX
    }

    /// Its time came.
    pub(super) fn is_due(&mut self, id: FileId, now: Duration) {
        let Some(file) = self.files.get_mut(&id) else { return };
        file.due = None;
        let waited = file.not_before.take_if(|at| *at <= now).is_some();
        if waited || file.partial || file.held_since.is_some() || file.gone || file.dirty {
            return self.ready(id);
        }
        self.sleep(id);
    }

    /// Gives back what a quiet file holds.
    fn sleep(&mut self, id: FileId) {
        let few = self.files.len() <= OPEN_MAX;
        let Some(file) = self.files.get_mut(&id) else { return };
        let keep = file.is_plain() && (few || file.gone);
        file.seat = match std::mem::replace(&mut file.seat, Seat::Asleep(None)) {
            Seat::Awake(reader) => {
                self.awake -= 1;
                Seat::Asleep(keep.then(|| reader.into_file()))
            }
            other => other,
        };
    }

    /// The same inode has other content now: begin again under a new key.
    fn truncated(&mut self, id: FileId, lost: u64) {
        let now = self.now();
        if lost > 0
            && let Some(file) = self.files.get(&id)
        {
            self.losses.push(Loss { key: file.key.clone(), bytes: lost, at: now + LOSS_CERTAIN });
            self.scan_by(now + LOSS_CERTAIN);
        }
        let path = self.files.get(&id).map(|file| file.path.clone()).unwrap_or_default();
        tracing::info!(source = self.name, path = %path.display(), lost, "file was truncated; it begins anew");
        self.end(id);
        self.scan_soon();
    }

    /// Books what was cut away unread, unless a copy has it.
    pub(super) fn book_losses(&mut self, now: Duration) {
        let (history, waiting) = (&self.history, &self.waiting);
        let mut lost = 0;
        self.losses.retain(|loss| {
            let may_come = waiting.values().any(|waiting| waiting.may_copy(&loss.key));
            let is_certain = history.is_open(&loss.key) && !may_come && now >= loss.at;
            lost += if is_certain { loss.bytes } else { 0 };
            history.is_open(&loss.key) && !is_certain
        });
        if lost > 0 {
            self.deps.ingress.counters.count(&self.spec.stream, |count| count.bytes_lost += lost);
        }
    }

    /// A file is no more.
    fn end(&mut self, id: FileId) {
        let now = self.unix_ns();
        if let Some(file) = self.files.get(&id) {
            // The kernel noted when its last name went.
            let stat = match &file.seat {
                Seat::Awake(reader) => reader.stat().ok(),
                Seat::Away | Seat::Asleep(_) => None,
            };
            let at = stat.filter(|stat| stat.links == 0).map_or(now, |stat| stat.changed);
            Arc::make_mut(&mut self.history).end(&file.key, at);
        }
        self.forget(id);
    }

    /// Follows a file no more.
    pub(super) fn forget(&mut self, id: FileId) {
        self.set_due(id, None);
        self.well(id);
        let Some(file) = self.files.remove(&id) else { return };
        self.holders.remove(&file.key);
        if !matches!(file.seat, Seat::Asleep(_)) {
            self.awake -= 1;
        }
        if let Some((watcher, watch)) = self.watcher.as_mut().zip(file.watch) {
            watcher.forget(watch);
        }
        if !self.waiting.is_empty() {
            self.scan_soon();
        }
    }

    /// Learns from the store how far a file got whose reader is lost.
    fn refresh(&mut self, id: FileId) {
        let Some(file) = self.files.get(&id) else { return };
        let position = self.deps.ingress.buffer.position(SourceKind::File, &file.key.text(&self.name));
        if let Some(known) = position.and_then(|position| Known::parse(&self.name, &position)) {
            Arc::make_mut(&mut self.history).remember(known);
        }
    }

    fn failed(&mut self, id: FileId, error: String, pause: Duration, now: Duration) {
        let Some(file) = self.files.get_mut(&id) else { return };
        file.dirty = true;
        file.not_before = Some(now + pause);
        self.set_due(id, Some(now + pause));
        self.trouble(id, error);
    }

    /// Puts a file's problem on the board.
    fn trouble(&mut self, id: FileId, text: String) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let what = file.path.display().to_string();
        let before = file.problem.replace(what.clone());
        if let Some(before) = before.filter(|before| *before != what) {
            self.problem(&before, None);
        }
        self.problem(&what, Some(text));
    }

    /// Takes it off again.
    fn well(&mut self, id: FileId) {
        let problem = self.files.get_mut(&id).and_then(|file: &mut Tracked| file.problem.take());
        if let Some(what) = problem {
            self.problem(&what, None);
        }
    }
}
