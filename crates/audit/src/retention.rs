//! Segments that are too old. Only whole ones go, the oldest first, and `start` says under a signature what is gone.

use aap_types::ByteCount;

use crate::checkpoint::Statement;
use crate::files::{self, START, Segment};
use crate::line::Line;
use crate::lines::Forward;
use crate::writer::Writer;
use crate::{Error, OwnAction};

impl Writer {
    /// Removes every segment whose records are all older than they are kept. First a record says so, then `start`, then they go: where a
    /// crash comes between, it is done again.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Broken`]; what was not removed goes the next time.
    pub(crate) fn retire(&mut self) -> Result<(), Error> {
        let directory = self.means.config.directory.clone();
        let segments = files::segments(&directory)?;
        let kept = u64::try_from(self.means.config.retention.as_micros()).unwrap_or(u64::MAX);
        let now = self.means.clock.unix_us();
        let before = now.saturating_sub(i64::try_from(kept).unwrap_or(i64::MAX));
        let Some((first_kept, segments)) = too_old(&segments, before)? else { return Ok(()) };

        let through = first_kept.seq() - 1;
        let bytes: u64 =
            segments.iter().filter_map(|old| old.path.metadata().ok()).map(|file| file.len()).sum();
        let record = OwnAction::Retired.record();
        let record = record.with("through", through.to_string()).with("segments", segments.len().to_string());
        self.commit(&[record])?;
        let start = Statement::Start.sign(&self.means.key, &self.log, through, first_kept.prev, now);
        let path = directory.join(START);
        self.means.disk.replace(&path, format!("{start}\n").as_bytes()).map_err(Error::io("write", &path))?;
        for segment in segments {
            self.means.disk.remove(&segment.path).map_err(Error::io("remove", &segment.path))?;
        }
        self.means.disk.sync_directory(&directory).map_err(Error::io("sync", &directory))?;
        tracing::info!(through, bytes = %ByteCount(bytes), "old records were removed from the audit log");
        Ok(())
    }
}

/// The oldest segments, as far as the one after them begins before `time`, and the first line that stays. What cannot be read stays,
/// with everything after it: somebody has to look at it first.
fn too_old(segments: &[Segment], time: i64) -> Result<Option<(Line, &[Segment])>, Error> {
    let mut found = None;
    for (index, segment) in segments.iter().enumerate().skip(1) {
        match first_line(segment)? {
            Some(line) if line.seq() == segment.first && line.entry.time < time => {
                found = Some((line, &segments[..index]));
            }
            _ => break,
        }
    }
    Ok(found)
}

fn first_line(segment: &Segment) -> Result<Option<Line>, Error> {
    let failed = || Error::io("read", &segment.path);
    let mut lines = Forward::new(segment.open()?, 0, u64::MAX).map_err(failed())?;
    let found = lines.next().map_err(failed())?;
    Ok(found.filter(|found| found.is_ended).and_then(|found| Line::parse(&found.bytes)))
}
