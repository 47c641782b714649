//! Records by what they say, in either direction, one in memory at a time.

use std::collections::VecDeque;

use camino::Utf8Path;

use crate::files::{self, Segment};
use crate::line::Line;
use crate::lines::{Backward, Forward, Found};
use crate::writer::End;
use crate::{Entry, Error, Outcome};

/// Which records are wanted; every condition that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Written then or later, microseconds since 1970.
    pub since: Option<i64>,
    /// Written before then, microseconds since 1970.
    pub until: Option<i64>,
    /// Name of the actor.
    pub actor: Option<String>,
    /// The action, or the noun that it begins with: `token` is every operation on tokens.
    pub action: Option<String>,
    /// What became of it.
    pub outcome: Option<Outcome>,
    /// Kind of the object.
    pub object_kind: Option<String>,
    /// Name of the object.
    pub object_name: Option<String>,
}

impl Filter {
    /// Whether the record is wanted.
    pub fn wants(&self, entry: &Entry) -> bool {
        let record = &entry.record;
        let object = record.object.as_ref();
        let is = |wanted: &Option<String>, found: Option<&String>| {
            wanted.as_ref().is_none_or(|wanted| found == Some(wanted))
        };
        self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time < until)
            && is(&self.actor, Some(&record.actor.name))
            && self.action.as_ref().is_none_or(|wanted| is_action(wanted, &record.action))
            && self.outcome.is_none_or(|wanted| wanted == record.outcome)
            && is(&self.object_kind, object.map(|object| &object.kind))
            && is(&self.object_name, object.map(|object| &object.name))
    }
}

fn is_action(wanted: &str, action: &str) -> bool {
    let rest = action.strip_prefix(wanted);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '.']))
}

/// Which way is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest first.
    OldestFirst,
    /// The newest first.
    #[default]
    NewestFirst,
}

/// What is asked of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Which records.
    pub filter: Filter,
    /// Which way.
    pub order: Order,
    /// The first sequence that is looked at, going that way; `None`: from the end of the log that comes first.
    pub from: Option<u64>,
    /// Most records that are given; `None`: all.
    pub limit: Option<u64>,
}

/// Records that a query wants, as they are read. Blocking. Lines that cannot be read are passed over and counted: what is wrong with them
/// is [`crate::verify`]'s to say.
#[derive(Debug)]
pub struct Reader {
    query: Query,
    walk: Walk,
    given: u64,
    damaged: u64,
}

impl Reader {
    /// Reads the log in a directory that nobody writes to at the time.
    ///
    /// # Errors
    /// [`Error::NoLog`], [`Error::Io`] if it cannot be listed.
    pub fn open(directory: &Utf8Path, query: Query) -> Result<Self, Error> {
        if files::segments(directory)?.is_empty() {
            return Err(Error::NoLog { path: directory.to_owned() });
        }
        Self::until(directory, query, None)
    }

    pub(crate) fn until(directory: &Utf8Path, query: Query, end: Option<End>) -> Result<Self, Error> {
        let mut segments = files::segments(directory)?;
        let from = query.from.unwrap_or(match query.order {
            Order::OldestFirst => 0,
            Order::NewestFirst => u64::MAX,
        });
        // What the line `from` stands in, if it stands anywhere.
        let holds = segments.partition_point(|segment| segment.first <= from).saturating_sub(1);
        match query.order {
            Order::OldestFirst => drop(segments.drain(..holds.min(segments.len()))),
            Order::NewestFirst => {
                segments.truncate(holds + 1);
                segments.reverse();
            }
        }
        let walk = Walk { segments: segments.into(), order: query.order, end, current: None };
        Ok(Self { query, walk, given: 0, damaged: 0 })
    }

    /// Lines that could not be read so far.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    fn is_before(&self, seq: u64) -> bool {
        self.query.from.is_some_and(|from| match self.query.order {
            Order::OldestFirst => seq < from,
            Order::NewestFirst => seq > from,
        })
    }
}

impl Iterator for Reader {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.query.limit.is_none_or(|limit| self.given < limit) {
            let found = match self.walk.next() {
                Ok(found) => found?,
                Err(error) => {
                    // Whoever goes on gets an end.
                    self.query.limit = Some(0);
                    return Some(Err(error));
                }
            };
            let Some(line) = Line::parse(&found.bytes) else {
                self.damaged += 1;
                continue;
            };
            if !self.is_before(line.seq()) && self.query.filter.wants(&line.entry) {
                self.given += 1;
                return Some(Ok(line.entry));
            }
        }
        None
    }
}

/// The lines of several segments.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Those that were not begun, in the order in which they are read.
    segments: VecDeque<Segment>,
    order: Order,
    /// What is durable; `None`: everything.
    end: Option<End>,
    current: Option<(Segment, Lines)>,
}

#[derive(Debug)]
enum Lines {
    Forward(Forward),
    Backward(Backward),
}

impl Walk {
    fn next(&mut self) -> Result<Option<Found>, Error> {
        loop {
            if let Some((segment, lines)) = &mut self.current {
                let found = match lines {
                    Lines::Forward(lines) => lines.next(),
                    Lines::Backward(lines) => lines.next(),
                };
                if let Some(found) = found.map_err(Error::io("read", &segment.path))? {
                    return Ok(Some(found));
                }
            }
            let Some(segment) = self.segments.pop_front() else {
                self.current = None;
                return Ok(None);
            };
            self.current = self.begin(segment)?;
        }
    }

    fn begin(&self, segment: Segment) -> Result<Option<(Segment, Lines)>, Error> {
        if self.end.is_some_and(|end| segment.first > end.segment) {
            return Ok(None);
        }
        let failed = || Error::io("read", &segment.path);
        let file = match std::fs::File::open(&segment.path) {
            // Retention was faster.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed())?,
        };
        let length = file.metadata().map_err(failed())?.len();
        let to =
            self.end.filter(|end| end.segment == segment.first).map_or(length, |end| end.length.min(length));
        let lines = match self.order {
            Order::OldestFirst => Lines::Forward(Forward::new(file, 0, to).map_err(failed())?),
            Order::NewestFirst => Lines::Backward(Backward::new(file, to)),
        };
        Ok(Some((segment, lines)))
    }
}
