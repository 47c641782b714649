//! A file that is being followed, as its source sees it.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use super::drain::{SHARE_KIB_MAX, SHARE_KIB_MIN};
use super::identity::{FileKey, Stamp};
use super::input::Codec;
use super::reader::Reader;

/// Who has the file.
#[derive(Debug)]
pub(super) enum Seat {
    /// Its reader is here.
    Awake(Box<Reader>),
    /// A drain has it.
    Away,
    /// Nobody: it was quiet, or is not begun yet. Open, where that may be needed.
    Asleep(Option<File>),
}

/// A file that is being followed.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) path: PathBuf,
    pub(super) key: FileKey,
    pub(super) codec: Codec,
    pub(super) seat: Seat,
    pub(super) watch: Option<i32>,
    /// Something of it may be unread.
    pub(super) dirty: bool,
    /// It stands in a queue.
    pub(super) queued: bool,
    /// Its name has left the globs.
    pub(super) gone: bool,
    /// Bytes wait for the end of their record.
    pub(super) partial: bool,
    /// Whole lines do, since then.
    pub(super) held_since: Option<Duration>,
    /// When it last gave anything.
    pub(super) grew_at: Duration,
    /// It is left alone until then.
    pub(super) not_before: Option<Duration>,
    /// When it is looked after next; its place among the timers.
    pub(super) due: Option<Duration>,
    /// Size when last read; of an archive, how it looked then.
    pub(super) seen: Stamp,
    /// How the last scan found it, and since when.
    pub(super) found: (Stamp, Duration),
    /// Bytes that are expected, as far as they are known.
    pub(super) expected: u64,
    /// It is on the board with this.
    pub(super) problem: Option<String>,
}

impl Tracked {
    pub(super) fn is_plain(&self) -> bool {
        self.codec == Codec::Plain
    }

    /// Its share of the budget: two parcels of what is expected.
    pub(super) fn share_kib(&self) -> u32 {
        let wanted = u32::try_from(self.expected.saturating_mul(2) >> 10).unwrap_or(u32::MAX);
        wanted.clamp(SHARE_KIB_MIN, SHARE_KIB_MAX)
    }
}
