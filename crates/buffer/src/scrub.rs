//! The scrubber: reads what nobody asks for, so that bits that rot are known before a disk has lost both copies.

use std::time::Duration;

use aap_runtime::Shutdown;
use serde::{Deserialize, Serialize};

use crate::format::SEGMENT_HEADER;
use crate::fs::Open;
use crate::log::Shared;
use crate::walk::{Item, Walker};
use crate::{Buffer, Error};

/// Between two segments of 16 MiB: a store of 10 GiB is read in five hours, at a thousandth of a core.
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
            Ok(Ok(Some(scrubbed))) => scrubbed.segment,
            Ok(Ok(None)) => 0,
            Ok(Err(error)) => {
                tracing::warn!(%error, after, "a segment could not be read through");
                after + 1
            }
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

/// Reads every byte of the first sealed segment after `after`. Damage becomes a problem of the store.
pub(crate) fn scrub(shared: &Shared, after: u64) -> Result<Option<Scrubbed>, Error> {
    let place = {
        let index = shared.index();
        let next = index.segments.range(after.saturating_add(1)..).find(|(_, segment)| segment.sealed);
        next.map(|(id, s)| (*id, s.path.clone(), s.seed, s.index.end, s.pin.clone()))
    };
    let Some((segment, path, seed, end, _pin)) = place else { return Ok(None) };
    let failed = |error| Error::io("read", &path, error);
    let file = shared.fs.open(&path, Open::Read).map_err(failed)?;
    let start = SEGMENT_HEADER as u64;
    let mut walker = Walker::new(file, seed, start, end);
    let mut scrubbed = Scrubbed { segment, bytes: end.saturating_sub(start), damaged_bytes: 0 };
    while let Some(found) = walker.next().map_err(failed)? {
        let is_intact = match &found.item {
            Item::Record(header) => walker.body(header, found.start).map_err(failed)?.is_some(),
            Item::Group(_) | Item::Trailer => true,
            Item::Damage => false,
        };
        if !is_intact {
            scrubbed.damaged_bytes += found.end - found.start;
        }
    }
    if scrubbed.damaged_bytes > 0 {
        let text = format!("segment {segment:016x} has {} damaged bytes", scrubbed.damaged_bytes);
        shared.index().add_problem(text);
    }
    Ok(Some(scrubbed))
}
