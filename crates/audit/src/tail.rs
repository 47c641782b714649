//! Records as they come.

use std::collections::VecDeque;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use tokio::sync::watch;

use crate::files::{self, Segment};
use crate::line::Line;
use crate::lines::Forward;
use crate::writer::End;
use crate::{Entry, Error};

/// Lines that are read at once, and wait in memory for whoever follows.
const BATCH_LINES: usize = 256;

/// Follows a log.
#[derive(Debug)]
pub struct Tail {
    directory: Arc<Utf8PathBuf>,
    durable: watch::Receiver<End>,
    place: Place,
    read: VecDeque<Entry>,
}

/// Up to where it has read.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Last sequence that was seen.
    seq: u64,
    /// Where it goes on; in the segment 0 nowhere yet.
    segment: u64,
    offset: u64,
}

impl Tail {
    pub(crate) fn new(directory: Utf8PathBuf, durable: watch::Receiver<End>, after: u64) -> Self {
        let place = Place { seq: after, ..Place::default() };
        Self { directory: Arc::new(directory), durable, place, read: VecDeque::new() }
    }

    /// The next record; waits until there is one. `None` when the log was closed and everything was given. Lines that cannot be read are
    /// passed over. Cancel-safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Io`]; the next call tries again.
    pub async fn next(&mut self) -> Option<Result<Entry, Error>> {
        loop {
            if let Some(entry) = self.read.pop_front() {
                return Some(Ok(entry));
            }
            let end = *self.durable.borrow_and_update();
            if end.seq > self.place.seq {
                let (directory, place) = (self.directory.clone(), self.place);
                let read = tokio::task::spawn_blocking(move || read(&directory, place, end)).await;
                match read {
                    Ok(Ok((entries, place))) => (self.read, self.place) = (entries, place),
                    Ok(Err(error)) => return Some(Err(error)),
                    Err(_) => return Some(Err(Error::Closed)),
                }
            } else if self.durable.changed().await.is_err() {
                return None;
            }
        }
    }
}

/// The next lines behind `place`, as far as the log is durable. Where nothing can be read before the end, the place is the end.
fn read(directory: &Utf8Path, mut place: Place, end: End) -> Result<(VecDeque<Entry>, Place), Error> {
    let mut entries = VecDeque::new();
    let segments = files::segments(directory)?;
    let from = place.segment.max(place.seq.saturating_add(1));
    let first = segments.partition_point(|segment| segment.first <= from).saturating_sub(1);
    for segment in segments.iter().skip(first).filter(|segment| segment.first <= end.segment) {
        if segment.first != place.segment {
            (place.segment, place.offset) = (segment.first, 0);
        }
        read_segment(segment, &mut place, end, &mut entries)?;
        if entries.len() >= BATCH_LINES {
            return Ok((entries, place));
        }
    }
    place.seq = place.seq.max(end.seq);
    Ok((entries, place))
}

fn read_segment(
    segment: &Segment,
    place: &mut Place,
    end: End,
    entries: &mut VecDeque<Entry>,
) -> Result<(), Error> {
    let failed = || Error::io("read", &segment.path);
    let to = if segment.first == end.segment { end.length } else { u64::MAX };
    let mut lines = Forward::new(segment.open()?, place.offset, to).map_err(failed())?;
    while entries.len() < BATCH_LINES {
        let Some(found) = lines.next().map_err(failed())? else { break };
        place.offset = found.end;
        let Some(line) = Line::parse(&found.bytes).filter(|line| line.seq() > place.seq) else { continue };
        place.seq = line.seq();
        entries.push_back(line.entry);
    }
    Ok(())
}
