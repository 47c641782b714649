//! One file until its end: while a parcel becomes durable, the next is read and decoded.

use aap_runtime::Shutdown;

use super::reader::{Mark, Pass, ReadError, Reader};
use crate::ingress::IngressError;
use crate::source::SourceDeps;

/// Bytes after which a file lets the others go first.
const TURN_BYTES: u64 = 32 << 20;

/// A file and what its drain needs.
pub(super) struct Work {
    /// Device and inode.
    pub(super) id: (u64, u64),
    /// The reader; it comes back in [`Drained`].
    pub(super) reader: Box<Reader>,
    /// Nothing was added for a while: take the last record as it is.
    pub(super) idle: bool,
    pub(super) deps: SourceDeps,
    pub(super) shutdown: Shutdown,
}

/// A file that comes home.
pub(super) struct Drained {
    pub(super) id: (u64, u64),
    /// Standing exactly behind what is durable. `None` if the pass panicked.
    pub(super) reader: Option<Box<Reader>>,
    /// Rows made durable.
    pub(super) rows: u64,
    /// Bytes of input they had.
    pub(super) bytes: u64,
    /// Bytes beyond the record limit.
    pub(super) cut: u64,
    /// Bytes were read, taken or not.
    pub(super) grew: bool,
    pub(super) end: DrainEnd,
}

/// Why a drain stopped.
#[derive(Debug)]
pub(super) enum DrainEnd {
    /// Everything was read.
    End {
        /// Bytes wait for the end of their record.
        partial: bool,
    },
    /// Its turn is over.
    More,
    /// Other content stands where this file's was.
    Truncated {
        /// Bytes that were never read.
        lost: u64,
    },
    /// It is tried again later, from what is durable.
    Failed {
        /// Why.
        error: String,
    },
}

type Passed = Option<(Box<Reader>, Result<Pass, ReadError>)>;

/// Reads a file to its end, its turn's end, or a failure.
pub(super) async fn drain(work: Work) -> Drained {
    let Work { id, reader, idle, deps, shutdown } = work;
    let mut out = Drained { id, reader: None, rows: 0, bytes: 0, cut: 0, grew: false, end: DrainEnd::More };
    let mut durable = reader.mark().clone();
    let start = reader.offset();
    let mut passed = pass(&deps, reader, idle).await;
    loop {
        let Some((reader, result)) = passed else { return out };
        let mut pass_result = match result {
            Ok(pass) => pass,
            Err(error) => return fail(out, reader, durable, &error),
        };
        if let Some(lost) = pass_result.truncated {
            out.reader = Some(reader);
            out.end = DrainEnd::Truncated { lost };
            return out;
        }
        let parcel = std::mem::take(&mut pass_result.parcel);
        let (rows, mark, offset) = (parcel.rows() + parcel.bad(), reader.mark().clone(), reader.offset());
        let go_on = !pass_result.end && offset - start < TURN_BYTES && !shutdown.is_requested();
        let appending =
            async { if parcel.is_empty() { Ok(()) } else { deps.ingress.append(parcel).await.map(drop) } };
        let appended: Result<(), IngressError>;
        if go_on {
            (passed, appended) = tokio::join!(pass(&deps, reader, idle), appending);
        } else {
            appended = appending.await;
            passed = Some((reader, Ok(Pass::default())));
        }
        if let Err(error) = appended {
            let Some((reader, _)) = passed else { return out };
            return fail(out, reader, durable, &error);
        }
        durable = mark;
        out.rows += rows;
        out.bytes = offset - start;
        out.cut += pass_result.cut;
        out.grew |= pass_result.grew;
        deps.ingress.failpoints.reach("agent.after_answer");
        if !go_on {
            out.reader = passed.map(|(reader, _)| reader);
            if pass_result.end {
                out.end = DrainEnd::End { partial: pass_result.partial };
            }
            return out;
        }
    }
}

/// One pass on the blocking pool, one of few at a time.
async fn pass(deps: &SourceDeps, mut reader: Box<Reader>, idle: bool) -> Passed {
    let Ok(permit) = deps.decoding.clone().acquire_owned().await else { return None };
    let (clock, failpoints) = (deps.ingress.clock.clone(), deps.ingress.failpoints.clone());
    let pass = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let pass = reader.pass(clock.unix_us(), idle);
        failpoints.reach("agent.after_read");
        (reader, pass)
    });
    pass.await.ok()
}

fn fail(mut out: Drained, mut reader: Box<Reader>, durable: Mark, error: &dyn std::error::Error) -> Drained {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    if let Err(error) = reader.rewind(durable) {
        text = format!("{text}; go back in the file: {error}");
    }
    out.reader = Some(reader);
    out.end = DrainEnd::Failed { error: text };
    out
}
