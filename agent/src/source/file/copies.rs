//! Files that may be copies, or the compressed form, of files that were read.
//!
//! A file that begins as known ones do waits here. What it turns out to be is decided by content alone, and only by
//! positions that cannot move any more:
//!
//! | of all known files that begin like it and do not differ up to where they were read | it is |
//! |---|---|
//! | there is none (left) | another file: all of it is read |
//! | the one that was read furthest is no more, and was inherited by nobody | its heir: reading goes on there |
//! | one is there, or is being read | a plain file: nothing yet, and another file if it stays like that for five seconds; an archive: nothing yet |
//! | it is shorter than what was read of one that is no more | a copy in the making: nothing yet, and another file if it stays like that |
//!
//! "No more" is: truncated, or neither found by the last scan nor held by a reader.

use std::collections::HashMap;
use std::time::Duration;

use super::discover::Found;
use super::history::History;
use super::identity::{Detail, FileId, FileKey, Known, Standing};
use super::input::Codec;
use super::look::{Compared, Comparison, Opened, compare_all};
use super::scan::ARCHIVE_SETTLED;
use super::tracked::Seat;
use super::{Done, FileSource};

/// A possible plain copy beside its original is another file when it stays like that for this long. `cp` writes without
/// such a pause, and truncation follows at once.
const COPY_SETTLED: Duration = Duration::from_secs(5);
/// How often possible copies are looked at, for a while; then with every scan.
const COPY_LOOK: Duration = Duration::from_millis(500);
/// For this long.
const COPY_LOOK_FOR: Duration = Duration::from_secs(30);
/// An archive is compared again with a file that is still there after this long: that costs decompressing it.
const ARCHIVE_COMPARE_AGAIN: Duration = Duration::from_secs(10);
/// Below, a copy of a file whose end nobody saw must be exactly as long as that was: so short a text marks nothing.
const SHORT_BYTES: u64 = 64;

/// A file that may be a copy.
pub(super) struct Waiting {
    pub(super) found: Found,
    opened: Opened,
    since: Duration,
    /// When it last grew, as a copy in the making would.
    changed_at: Duration,
    alike: Vec<Alike>,
    /// Size at the last comparison, and when that was.
    compared: Option<(u64, Duration)>,
    comparing: bool,
}

/// How it stands to one known file.
struct Alike {
    key: FileKey,
    /// Offset of the position it was compared with.
    at: u64,
    standing: Standing,
}

impl Waiting {
    /// Whether it may yet turn out to go on where that file stood.
    pub(super) fn may_copy(&self, key: &FileKey) -> bool {
        self.alike.iter().any(|alike| alike.key == *key)
    }

    /// A comparison under way was lost.
    pub(super) fn compare_anew(&mut self) {
        self.comparing = false;
    }
}

/// What is to be done with a waiting file.
enum Review {
    Wait,
    Compare,
    New,
    Heir(FileKey),
}

impl FileSource {
    /// Takes up a file that is none of those that are known by their inode.
    pub(super) fn consider(&mut self, found: Found, opened: Opened, now: Duration) {
        // Files of this very look may have begun like it as well.
        let keys = self.history.alike(opened.stat.id, &opened.head);
        if keys.is_empty() && opened.codec == Codec::Plain {
            return self.track_new(opened, now);
        }
        let alike = |key| Alike { key, at: 0, standing: Standing::Unknown };
        let waiting = Waiting {
            found,
            since: now,
            changed_at: now,
            alike: keys.into_iter().map(alike).collect(),
            compared: None,
            comparing: false,
            // It is opened anew when it is begun: many may wait.
            opened: Opened { file: None, ..opened },
        };
        self.waiting.insert(waiting.found.id, waiting);
    }

    /// What a scan says of a file that waits.
    pub(super) fn waits_still(&mut self, found: Found, now: Duration) {
        let id = found.id;
        let original =
            |alike: &Alike| self.present.get(self.holders.get(&alike.key)?).map(|stamp| stamp.size);
        let Some(waiting) = self.waiting.get(&id) else { return };
        // One that is not behind its original is not being copied from it any more, however both grow.
        let behind = waiting.opened.codec != Codec::Plain
            || waiting.alike.iter().filter_map(original).max().is_none_or(|size| found.stamp.size < size);
        let Some(waiting) = self.waiting.get_mut(&id) else { return };
        if waiting.found.stamp != found.stamp && behind {
            waiting.changed_at = now;
        }
        waiting.opened.path.clone_from(&found.path);
        waiting.opened.stat.stamp = found.stamp;
        waiting.found = found;
    }

    /// Decides what can be decided.
    pub(super) fn review_copies(&mut self, now: Duration) {
        let unfollowed = self.unfollowed();
        let (mut plain, mut archive) = (Vec::new(), None);
        let ids: Vec<FileId> = self.waiting.keys().copied().collect();
        for id in ids {
            match self.review(id, now, &unfollowed) {
                Review::Wait => {}
                Review::Compare => {
                    let Some(comparison) = self.comparison(id) else { continue };
                    if comparison.codec == Codec::Plain {
                        plain.push(comparison);
                    } else if archive.is_none() && !self.comparing_archive {
                        archive = Some(comparison);
                    } else {
                        continue;
                    }
                    if let Some(waiting) = self.waiting.get_mut(&id) {
                        waiting.comparing = true;
                    }
                }
                Review::New => {
                    if let Some(waiting) = self.waiting.remove(&id) {
                        self.track_new(waiting.opened, now);
                    }
                }
                Review::Heir(key) => self.heir(id, &key, now),
            }
        }
        for path in self.waiting.values().map(|waiting| waiting.found.path.clone()).collect::<Vec<_>>() {
            self.watch_unread(&path);
        }
        if let Some(archive) = archive {
            self.comparing_archive = true;
            self.job(move || Done::Compared(compare_all(vec![archive])));
        }
        if !plain.is_empty() {
            self.looking = true;
            self.job(move || Done::Compared(compare_all(plain)));
        }
        self.book_losses(now);
        if self.waiting.values().any(|waiting| now < waiting.since + COPY_LOOK_FOR) {
            self.scan_by(now + COPY_LOOK);
        }
    }

    fn review(&mut self, id: FileId, now: Duration, unfollowed: &HashMap<u64, u64>) -> Review {
        let (history, holders) = (&self.history, &self.holders);
        let alive = |key: &FileKey| is_alive(history, key, holders.contains_key(key), unfollowed);
        let offset = |key: &FileKey| history.get(key).map_or(0, |of| of.known.offset);
        let Some(waiting) = self.waiting.get_mut(&id) else { return Review::Wait };
        if waiting.comparing {
            return Review::Wait;
        }
        let (birth, stamp) = (waiting.opened.stat.birth, waiting.found.stamp);
        let is_plain = waiting.opened.codec == Codec::Plain;
        waiting.alike.retain(|alike| {
            let open = history.is_open(&alike.key);
            let short = is_plain
                && offset(&alike.key) < SHORT_BYTES
                && !history.has_ended(&alike.key)
                && stamp.size != offset(&alike.key);
            let possible =
                || history.could_copy(&alike.key, birth, is_plain) && offset(&alike.key) > 0 && !short;
            open && alike.standing != Standing::Differs && (alive(&alike.key) || possible())
        });
        if !is_plain && now < waiting.changed_at + ARCHIVE_SETTLED {
            return Review::Wait;
        }
        if waiting.alike.is_empty() {
            return Review::New;
        }
        let again = waiting
            .compared
            .is_none_or(|(size, at)| size != stamp.size || is_plain || now >= at + ARCHIVE_COMPARE_AGAIN);
        let stale = |alike: &Alike| {
            let moved = alike.at != offset(&alike.key);
            alike.standing == Standing::Unknown
                || moved && (again || !alive(&alike.key))
                || waiting.compared.is_none_or(|(size, _)| size != stamp.size)
        };
        if waiting.alike.iter().any(stale) {
            return Review::Compare;
        }
        let fits = waiting.alike.iter().filter(|alike| alike.standing == Standing::Fits);
        let furthest = fits.max_by_key(|alike| (alike.at, alive(&alike.key)));
        if let Some(furthest) = furthest.filter(|alike| !alive(&alike.key)) {
            return Review::Heir(furthest.key.clone());
        }
        let any_alive = waiting.alike.iter().any(|alike| alive(&alike.key));
        // Something happened to an original, and nobody looked yet: it may have been truncated.
        let is_unsure = |alike: &Alike| {
            let file = holders.get(&alike.key).and_then(|id| self.files.get(id));
            file.is_some_and(|file| file.dirty || matches!(file.seat, Seat::Away))
        };
        let may_settle = !any_alive || is_plain && !waiting.alike.iter().any(is_unsure);
        if may_settle && now >= waiting.changed_at + COPY_SETTLED { Review::New } else { Review::Wait }
    }

    fn comparison(&self, id: FileId) -> Option<Comparison> {
        let waiting = self.waiting.get(&id)?;
        let original = |key: &FileKey| {
            let id = self.holders.get(key)?;
            let file = self.files.get(id).filter(|file| file.is_plain() && !file.gone)?;
            Some((file.path.clone(), *id))
        };
        let with = |alike: &Alike| Some((self.history.get(&alike.key)?.known.clone(), original(&alike.key)));
        Some(Comparison {
            id,
            path: waiting.found.path.clone(),
            codec: waiting.opened.codec,
            size: waiting.found.stamp.size,
            with: waiting.alike.iter().filter_map(with).collect(),
        })
    }

    pub(super) fn compared(&mut self, compared: Vec<Compared>) {
        let now = self.now();
        for Compared { id, codec, size, standings } in compared {
            if codec == Codec::Plain {
                self.looking = false
            } else {
                self.comparing_archive = false
            }
            let Some(waiting) = self.waiting.get_mut(&id) else { continue };
            waiting.comparing = false;
            let Some(standings) = standings else { continue };
            waiting.compared = Some((size, now));
            for (key, at, standing) in standings {
                if let Some(alike) = waiting.alike.iter_mut().find(|alike| alike.key == key) {
                    (alike.at, alike.standing) = (at, standing);
                }
            }
        }
        if !self.looking {
            self.review_copies(now);
        }
    }

    /// Goes on in a copy where its original stood.
    fn heir(&mut self, id: FileId, key: &FileKey, now: Duration) {
        let Some(waiting) = self.waiting.remove(&id) else { return };
        let Some(original) = self.history.get(key).map(|of| of.known.clone()) else { return };
        let opened = waiting.opened;
        tracing::info!(source = self.name, path = %opened.path.display(), offset = original.offset, "continues a file that was read");
        let key = self.fresh_key(&opened);
        let detail = Detail { complete: None, copy_of: Some(original.key.short()), ..original.detail };
        self.track(opened, Known { key, offset: original.offset, detail }, now);
    }
}

/// Whether a known file is there, or is being read.
fn is_alive(history: &History, key: &FileKey, is_held: bool, unfollowed: &HashMap<u64, u64>) -> bool {
    let Some(of) = history.get(key) else { return false };
    is_held
        || of.ended.is_none()
            && unfollowed.get(&key.inode).is_some_and(|size| *size > 0 && *size >= of.known.offset)
}
