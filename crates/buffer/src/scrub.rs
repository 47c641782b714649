//! The scrubber: reads what nobody asks for, so that bits that rot are known before a disk has lost both copies.

use std::time::Duration;

use aap_runtime::Shutdown;
use serde::{Deserialize, Serialize};

use crate::Buffer;
use crate::format::SEGMENT_HEADER;
use crate::fs::{FileHandle, Open};
use crate::log::Shared;
use crate::walk::{Item, Walker};

/// Between two segments of 16 MiB: half a MiB a second, so a store of 10 GiB is read in five hours.
pub const SCRUB_PAUSE: Duration = Duration::from_secs(30);

/// Reads the whole store again and again, a segment after each `pause`, until `shutdown`. Damage shows in
/// [`Buffer::stats`].
pub async fn scrub_for_ever(
    buffer: Buffer,
    pause: Duration,
    shutdown: Shutdown,
) -> Result<(), std::convert::Infallible> {
    let mut after = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.requested() => return Ok(()),
        }
        let store = buffer.clone();
        after = match tokio::task::spawn_blocking(move || store.scrub(after)).await {
            Ok(Some(scrubbed)) => scrubbed.segment,
            Ok(None) => 0,
            Err(_closing) => return Ok(()),
        };
    }
}

/// What checking one segment found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// The segment.
    pub segment: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Of these, damaged.
    pub damaged_bytes: u64,
}

/// Reads every byte of the first sealed segment after `after`. Damage becomes a problem of the store, and so does a segment
/// that cannot be read at all.
pub(crate) fn scrub(shared: &Shared, after: u64) -> Option<Scrubbed> {
    let (segment, path, seed, end, _pin) = {
        let index = shared.index();
        let next = index.segments.range(after.saturating_add(1)..).find(|(_, segment)| segment.sealed);
        next.map(|(id, s)| (*id, s.path.clone(), s.seed, s.index.end, s.pin.clone()))?
    };
    let start = SEGMENT_HEADER as u64;
    let bytes = end.saturating_sub(start);
    let read =
        shared.fs.open(&path, Open::Read).and_then(|file| damaged(Walker::new(file, seed, start, end)));
    let (damaged_bytes, problem) = match read {
        Ok(0) => (0, None),
        Ok(damaged) => (damaged, Some(format!("segment {segment:016x} has {damaged} damaged bytes"))),
        Err(error) => (bytes, Some(format!("segment {segment:016x} cannot be read: {error}"))),
    };
    if let Some(text) = problem {
        shared.index().add_problem(text);
    }
    Some(Scrubbed { segment, bytes, damaged_bytes })
}

/// Bytes that are not what was written.
fn damaged(mut walker: Walker<Box<dyn FileHandle>>) -> std::io::Result<u64> {
    let mut damaged = 0;
    while let Some(found) = walker.next()? {
        let is_intact = match &found.item {
            Item::Record(header) => walker.body(header, found.start)?.is_some(),
            Item::Group(_) | Item::Trailer => true,
            Item::Damage => false,
        };
        if !is_intact {
            damaged += found.end - found.start;
        }
    }
    Ok(damaged)
}
