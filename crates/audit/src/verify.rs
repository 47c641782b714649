//! Checking a log against its hashes, its signatures, and what was kept elsewhere.
//!
//! Every line is judged by its bytes, then by the line before it, then by whatever states its hash: its own signature, `head`, `start`, and
//! the checkpoints that whoever asks has kept. Behind a line that is damaged the walk goes on at the next whole one.

use camino::Utf8Path;

use crate::checkpoint::Statement;
use crate::files::{self, HEAD, START, Segment, Signed};
use crate::findings::{Fault, Finding, Verification};
use crate::line::{Hash, Line, Link};
use crate::lines::{Forward, Found};
use crate::writer::{CHECKPOINT_RECORDS, End};
use crate::{Checkpoint, Error, OwnAction, PublicKey, mutant};

/// How checkpoints that were kept elsewhere are called in findings.
const REMEMBERED: &str = "checkpoint";

/// Checks the log in `directory`, whose checkpoints must be signed by `key`, and which must hold what the `remembered` ones state. Reads
/// every byte once and keeps one line in memory. Blocking: some seconds for a million records. Nobody may write to the log at the time;
/// [`crate::AuditLog::verify`] is for one that is open.
///
/// # Errors
/// [`Error::NoLog`] if there is no file of a log; [`Error::Io`] if one cannot be read. Whatever is wrong with the log is no error.
pub fn verify(
    directory: &Utf8Path,
    key: &PublicKey,
    remembered: &[Checkpoint],
) -> Result<Verification, Error> {
    verify_until(directory, key, remembered, || None)
}

/// The same up to what is durable; that is asked for after `head` was read, which is never ahead of it.
pub(crate) fn verify_until(
    directory: &Utf8Path,
    key: &PublicKey,
    remembered: &[Checkpoint],
    durable: impl FnOnce() -> Option<End>,
) -> Result<Verification, Error> {
    let head = files::signed(directory, HEAD, Statement::Checkpoint, key)?;
    let start = files::signed(directory, START, Statement::Start, key)?;
    let end = durable();
    let mut segments = files::segments(directory)?;
    segments.retain(|segment| end.is_none_or(|end| segment.first <= end.segment));
    if segments.is_empty() && matches!((&head, &start), (Signed::Absent, Signed::Absent)) {
        return Err(Error::NoLog { path: directory.to_owned() });
    }
    let mut check = Check::new(key);
    check.statements(&head, &start, remembered);
    check.beginning(segments.first(), start.good());
    for segment in &segments {
        let limit = end.filter(|end| end.segment == segment.first).map(|end| end.length);
        let is_last = segments.last() == Some(segment);
        check.segment(segment, limit, is_last)?;
    }
    Ok(check.finish())
}

/// A hash that a line must have, and what says so.
struct Stated {
    link: Link,
    by: &'static str,
    log: String,
}

struct Check<'a> {
    key: &'a PublicKey,
    out: Verification,
    stated: Vec<Stated>,
    /// What the next line must follow; `None` behind damage, and where the log begins with what `start` lets go.
    before: Option<Link>,
    /// The sequence that must come next.
    next: u64,
    /// Lines since the last checkpoint.
    unsigned: u64,
}

impl<'a> Check<'a> {
    fn new(key: &'a PublicKey) -> Self {
        let out = Verification::default();
        Self { key, out, stated: vec![], before: Some(Link::NONE), next: 1, unsigned: 0 }
    }

    /// Takes what is signed beside the lines.
    fn statements(&mut self, head: &Signed, start: &Signed, remembered: &[Checkpoint]) {
        for (name, signed) in [(HEAD, head), (START, start)] {
            match signed {
                Signed::Absent if name == HEAD => self.out.find_in(Fault::File, name, "it is missing"),
                Signed::Absent => {}
                Signed::Bad(reason) => self.out.find_in(Fault::File, name, *reason),
                Signed::Good(signed) => self.state(name, signed),
            }
        }
        for checkpoint in remembered {
            if checkpoint.is_signed_by(self.key) {
                self.state(REMEMBERED, checkpoint);
            } else {
                let detail = format!("the one of {} is not signed by the key", checkpoint.seq);
                self.out.find_in(Fault::Signature, REMEMBERED, detail);
            }
        }
    }

    fn state(&mut self, by: &'static str, signed: &Checkpoint) {
        let link = Link { seq: signed.seq, hash: signed.hash };
        self.stated.push(Stated { link, by, log: signed.log.clone() });
    }

    /// Decides what the first line must follow.
    fn beginning(&mut self, first: Option<&Segment>, start: Option<&Checkpoint>) {
        let Some(first) = first else { return };
        match start {
            Some(start) if first.first <= start.seq => {
                // Retention was interrupted: what is left of the removed part must lead to where the log begins.
                (self.before, self.next) = (None, first.first);
            }
            Some(start) => {
                self.before = Some(Link { seq: start.seq, hash: start.hash });
                self.next = start.seq + 1;
            }
            None => {}
        }
        if first.first == 1 {
            (self.before, self.next) = (Some(Link::NONE), 1);
        }
    }

    fn segment(&mut self, segment: &Segment, limit: Option<u64>, is_last: bool) -> Result<(), Error> {
        let failed = || Error::io("read", &segment.path);
        let file = segment.open()?;
        let to = limit.unwrap_or(u64::MAX);
        let mut lines = Forward::new(file, 0, to).map_err(failed())?;
        self.out.segments += 1;
        let mut number = 0;
        while let Some(found) = lines.next().map_err(failed())? {
            number += 1;
            self.line(&Spot { segment, number }, &found, is_last);
        }
        if number == 0 {
            self.out.find_in(Fault::Unfinished, segment.name(), "there is no line in it");
        }
        Ok(())
    }

    fn line(&mut self, spot: &Spot<'_>, found: &Found, may_be_unfinished: bool) {
        self.out.lines += 1;
        if !found.is_ended {
            let fault = if may_be_unfinished { Fault::Unfinished } else { Fault::Damaged };
            self.find(spot, fault, "the line has no end");
            return self.pass_over();
        }
        let Some(line) = Line::parse(&found.bytes) else {
            self.find(spot, Fault::Damaged, "the line is not what was written");
            return self.pass_over();
        };
        self.place(spot, &line);
        self.signature(spot, &line);
        self.statements_about(spot, &line);
        if OwnAction::Broken.is(&line.entry.record) {
            let reason = line.entry.record.details.get("reason").cloned().unwrap_or_default();
            self.find(spot, Fault::Broken, &format!("the log was found broken when it was opened: {reason}"));
        }
        if self.out.first == 0 {
            self.out.first = line.seq();
        }
        self.out.last = line.seq();
        self.before = Some(line.link());
        self.next = line.seq().saturating_add(1);
    }

    /// Goes on behind a line that says nothing.
    fn pass_over(&mut self) {
        self.before = None;
        self.next += 1;
    }

    /// Whether the line stands where it belongs.
    fn place(&mut self, spot: &Spot<'_>, line: &Line) {
        let seq = line.seq();
        if spot.number == 1 && seq != spot.segment.first {
            self.find(
                spot,
                Fault::File,
                &format!("the file is named for another line: it begins with {seq}"),
            );
        }
        if seq > self.next {
            let detail = format!("{} to {} are missing before the line", self.next, seq - 1);
            self.find(spot, Fault::Missing, &detail);
        } else if seq < self.next {
            self.find(spot, Fault::Unchained, &format!("the line has the sequence {seq} again"));
        } else if self.before.is_some_and(|before| !line.follows(before)) && !mutant::is("nochain") {
            self.find(spot, Fault::Unchained, "the line does not follow the one before it");
        }
        if seq == 1 && !(OwnAction::Genesis.is(&line.entry.record) && line.prev == Hash::NONE) {
            self.find(spot, Fault::Unchained, "the log does not begin with its genesis");
        }
    }

    fn signature(&mut self, spot: &Spot<'_>, line: &Line) {
        let named = line.entry.record.details.get("log").filter(|_| names_log(line)).cloned();
        if self.out.log.is_none() {
            self.out.log.clone_from(&named);
        } else if named.is_some() && named != self.out.log {
            self.find(spot, Fault::OtherLog, "the line is of another log");
        }
        let Some(signature) = line.signature else {
            self.unsigned += 1;
            if self.unsigned == CHECKPOINT_RECORDS + 1 {
                self.find(spot, Fault::Unsigned, &format!("{CHECKPOINT_RECORDS} lines have no checkpoint"));
            }
            return;
        };
        // One that names no log is over no statement.
        let log = named.unwrap_or_default();
        let stated = (log.as_str(), line.seq(), &line.hash, line.entry.time);
        if Statement::Checkpoint.is_signed_by(self.key, stated, &signature) {
            self.out.checkpoints += 1;
            self.unsigned = 0;
        } else {
            self.find(spot, Fault::Signature, "the checkpoint is not signed by the key");
        }
    }

    fn statements_about(&mut self, spot: &Spot<'_>, line: &Line) {
        let differing: Vec<&'static str> = self
            .stated
            .iter()
            .filter(|stated| stated.link.seq == line.seq() && stated.link.hash != line.hash)
            .map(|stated| stated.by)
            .collect();
        for by in differing {
            self.find(spot, Fault::Rewritten, &format!("the line is not the one that `{by}` names"));
        }
    }

    fn find(&mut self, spot: &Spot<'_>, fault: Fault, detail: &str) {
        self.out.find(Finding {
            fault,
            file: spot.segment.name().to_owned(),
            line: Some(spot.number),
            seq: Some(self.next),
            detail: detail.to_owned(),
        });
    }

    /// What can only be judged at the end.
    fn finish(mut self) -> Verification {
        for stated in std::mem::take(&mut self.stated) {
            let log = self.out.log.get_or_insert_with(|| stated.log.clone());
            if *log != stated.log {
                self.out.find_in(Fault::OtherLog, stated.by, "it is of another log");
            } else if stated.link.seq >= self.next {
                let (from, to) = (self.next, stated.link.seq);
                let detail = format!("it states {to}, and {from} to {to} are missing at the end");
                self.out.find_in(Fault::Missing, stated.by, detail);
            } else if stated.by == REMEMBERED && stated.link.seq < self.out.first {
                self.out.outdated += 1;
            }
        }
        self.out.unsigned = self.unsigned;
        self.out
    }
}

/// Whether the line says which log it is of.
fn names_log(line: &Line) -> bool {
    line.signature.is_some() || OwnAction::Genesis.is(&line.entry.record)
}

/// A place in a file.
struct Spot<'a> {
    segment: &'a Segment,
    number: u64,
}
