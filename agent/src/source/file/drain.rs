//! One file until its end: while a parcel becomes durable, the next is read and decoded.
//!
//! Each drain takes its share of the source's budget before it reads and gives it back after its last append, so that
//! memory does not depend on how many files have something new while the buffer is full.

use std::fs::File;
use std::io;
use std::sync::Arc;

use aap_runtime::Shutdown;
use tokio::sync::Semaphore;

use super::identity::FileId;
use super::input;
use super::reader::{Mark, Order, Pass, ReadError, Reader, Setup};
use crate::ingress::IngressError;
use crate::source::SourceDeps;

/// Bytes after which a file lets the others go first.
const TURN_BYTES: u64 = 32 << 20;
/// The largest share: two parcels of four batches, one on its way while the other is made.
pub(super) const SHARE_KIB_MAX: u32 = 8 << 10;
/// The smallest: what the first batch of a quiet file costs.
pub(super) const SHARE_KIB_MIN: u32 = 64;
/// All shares together.
pub(super) const BUDGET_KIB: usize = 32 << 10;

/// A file and what its drain needs.
pub(super) struct Work {
    /// Device and inode.
    pub(super) id: FileId,
    /// What reads it; it comes back in [`Drained`].
    pub(super) seat: Start,
    /// Nothing was added for a while: take the last record as it is.
    pub(super) idle: bool,
    /// A record has been open for too long while more came: take whole lines.
    pub(super) held: bool,
    /// Its share of the budget.
    pub(super) share_kib: u32,
    pub(super) budget: Arc<Semaphore>,
    pub(super) deps: SourceDeps,
    pub(super) shutdown: Shutdown,
}

/// How a drain begins.
pub(super) enum Start {
    /// With a reader that is at work.
    Awake(Box<Reader>),
    /// With a file that is open.
    Open(Box<Setup>, File),
    /// With one that is not: opens what stands at its path, and sees that it is the same.
    Closed(Box<Setup>),
}

/// A file that comes home.
pub(super) struct Drained {
    pub(super) id: FileId,
    /// Standing exactly behind what is durable. `None` if there was none, or the pass panicked.
    pub(super) reader: Option<Box<Reader>>,
    /// Bytes of input made durable.
    pub(super) bytes: u64,
    /// Bytes beyond the record limit.
    pub(super) cut: u64,
    /// Bytes were added, taken or not.
    pub(super) grew: bool,
    pub(super) end: DrainEnd,
}

/// Why a drain stopped.
#[derive(Debug)]
pub(super) enum DrainEnd {
    /// Everything was read.
    End(Rest),
    /// Its turn is over.
    More,
    /// Other content stands where this file's was.
    Truncated {
        /// Bytes that were never read.
        lost: u64,
    },
    /// Something else stands at its path.
    Missing,
    /// It is tried again later, from what is durable.
    Failed {
        /// Why.
        error: String,
    },
    /// A bug of ours.
    Panicked,
}

/// What the end of a file left.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Bytes wait for the end of their record.
    pub(super) partial: bool,
    /// Whole lines do.
    pub(super) held: bool,
    /// Why nothing more comes of an archive unless it changes.
    pub(super) damaged: Option<String>,
    /// An archive was read to its end.
    pub(super) complete: bool,
}

enum Passed {
    Read(Box<Reader>, Result<Pass, ReadError>),
    Missing,
    NotOpened(io::Error),
    Panicked,
}

/// Reads a file to its end, its turn's end, or a failure.
pub(super) async fn drain(work: Work) -> Drained {
    let Work { id, seat, idle, held, share_kib, budget, deps, shutdown } = work;
    let mut out = Drained { id, reader: None, bytes: 0, cut: 0, grew: false, end: DrainEnd::More };
    let Ok(_share) = budget.acquire_many_owned(share_kib).await else { return out };
    let order = Order {
        observed_us: 0,
        idle,
        held,
        bytes_max: u64::from(share_kib.max(4 * SHARE_KIB_MIN)) * 1024 / 2,
    };
    let mut passed = pass(&deps, id, seat, order).await;
    // What came after the first look shows that the writer is not idle.
    let order = Order { idle: false, held: false, ..order };
    let (mut durable, mut start): (Option<Mark>, u64) = (None, 0);
    loop {
        let (reader, result) = match passed {
            Passed::Read(reader, result) => (reader, result),
            Passed::Missing => return Drained { end: DrainEnd::Missing, ..out },
            Passed::NotOpened(error) => {
                return Drained { end: DrainEnd::Failed { error: error.to_string() }, ..out };
            }
            Passed::Panicked => return Drained { end: DrainEnd::Panicked, ..out },
        };
        if durable.is_none() {
            durable = reader.begun().cloned();
            start = durable.as_ref().map_or(0, Mark::offset);
        }
        let mut pass_result = match result {
            Ok(pass) => pass,
            Err(error) => return fail(out, reader, durable, &error),
        };
        if let Some(lost) = pass_result.truncated {
            return Drained { reader: Some(reader), end: DrainEnd::Truncated { lost }, ..out };
        }
        let parcel = std::mem::take(&mut pass_result.parcel);
        let (mark, offset) = (reader.mark().clone(), reader.offset());
        // One archive is read at a time, so it may be read to its end.
        let is_turn_over = reader.is_plain() && offset - start >= TURN_BYTES;
        let go_on = !pass_result.end && !is_turn_over && !shutdown.is_requested();
        let appending =
            async { if parcel.is_empty() { Ok(()) } else { deps.ingress.append(parcel).await.map(drop) } };
        let appended: Result<(), IngressError>;
        if go_on {
            (passed, appended) = tokio::join!(pass(&deps, id, Start::Awake(reader), order), appending);
        } else {
            appended = appending.await;
            passed = Passed::Read(reader, Ok(Pass::default()));
        }
        if let Err(error) = appended {
            let Passed::Read(reader, _) = passed else { return Drained { end: DrainEnd::Panicked, ..out } };
            return fail(out, reader, durable, &error);
        }
        durable = Some(mark);
        out.bytes = offset - start;
        out.cut += pass_result.cut;
        out.grew |= pass_result.grew;
        deps.ingress.failpoints.reach("agent.after_answer");
        if !go_on {
            if let Passed::Read(reader, _) = passed {
                out.reader = Some(reader);
            }
            let Pass { partial, held, damaged, complete, end, .. } = pass_result;
            if end {
                out.end = DrainEnd::End(Rest { partial, held, damaged, complete });
            }
            return out;
        }
    }
}

/// One pass on the blocking pool, one of few at a time.
async fn pass(deps: &SourceDeps, id: FileId, start: Start, order: Order) -> Passed {
    let Ok(permit) = deps.decoding.clone().acquire_owned().await else { return Passed::Panicked };
    let (clock, failpoints) = (deps.ingress.clock.clone(), deps.ingress.failpoints.clone());
    let pass = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut reader = match wake(id, start) {
            Ok(Some(reader)) => reader,
            Ok(None) => return Passed::Missing,
            Err(error) => return Passed::NotOpened(error),
        };
        let pass = reader.pass(Order { observed_us: clock.unix_us(), ..order });
        failpoints.reach("agent.after_read");
        Passed::Read(reader, pass)
    });
    pass.await.unwrap_or(Passed::Panicked)
}

/// A reader of the file. `None` if it is not at its path any more.
fn wake(id: FileId, start: Start) -> io::Result<Option<Box<Reader>>> {
    let (setup, file) = match start {
        Start::Awake(reader) => return Ok(Some(reader)),
        Start::Open(setup, file) => (setup, file),
        Start::Closed(setup) => {
            let (file, stat) = match input::open(&setup.path) {
                Ok(opened) => opened,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            if stat.id != id || !setup.known.key.same_inode(&stat) {
                return Ok(None);
            }
            (setup, file)
        }
    };
    Ok(Some(Box::new(Reader::new(*setup, file)?)))
}

fn fail(
    mut out: Drained,
    mut reader: Box<Reader>,
    durable: Option<Mark>,
    error: &dyn std::error::Error,
) -> Drained {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    if let Some(durable) = durable {
        reader.rewind(durable);
    }
    out.reader = Some(reader);
    out.end = DrainEnd::Failed { error: text };
    out
}
