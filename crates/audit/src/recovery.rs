//! Opening a log: where it ends, and whether it is whole there. Only the last segment is read; `verify` reads everything.
//!
//! Damage at a line is a torn tail only if nothing says that the line was durable: neither `head`, nor the group of a line behind it,
//! nor a later segment. A torn tail is cut, because nobody was answered. Anything else stays as evidence.

use std::sync::Arc;

use aap_runtime::Clock;
use camino::Utf8Path;
use ring::rand::{SecureRandom, SystemRandom};

use crate::checkpoint::Statement;
use crate::disk::{self, Disk};
use crate::files::{self, HEAD, LOCK, START, Segment, Signed};
use crate::line::{Hash, Line, Link};
use crate::lines::Forward;
use crate::writer::{Active, Means, Resumed, Writer};
use crate::{AuditConfig, Checkpoint, Error, KeyError, OwnAction, SigningKey, hex, mutant};

/// The group that a new log begins with: `head` is written after it for the first time, and a process may be killed in between.
const FIRST_GROUP: u64 = 1;

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Whether there was no log before.
    pub created: bool,
    /// Bytes of a torn tail that were cut; nobody had been answered for them.
    pub cut_bytes: u64,
    /// Lines behind the last checkpoint, because the log was not closed. Whoever could write the files while nobody had it open could put
    /// them there, so the log says how many it found.
    pub unsigned_lines: u64,
    /// Why the chain is broken, and the log goes on in a new segment.
    pub broken: Option<String>,
}

/// Opens or makes the log.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    config: AuditConfig,
    key: SigningKey,
    clock: Arc<dyn Clock>,
) -> Result<(Writer, Recovery), Error> {
    let directory = config.directory.clone();
    disk::create_directory(&directory).map_err(Error::io("create", &directory))?;
    let path = directory.join(LOCK);
    let lock = disk::lock(&path).map_err(Error::io("lock", &path))?;
    let lock = lock.ok_or_else(|| Error::Locked { path: directory.clone() })?;
    let head = files::signed(&directory, HEAD, Statement::Checkpoint, &key.public())?;
    let start = files::signed(&directory, START, Statement::Start, &key.public())?;
    let ending = Ending::find(disk.as_ref(), &directory, head.good())?;
    let (resumed, recovery) = resume(disk.as_ref(), &key, ending, &head, &start)?;

    let mut writer = Writer::new(Means { disk, config, key, clock, _lock: lock }, resumed);
    // On a full disk the log opens all the same; what it owes comes before the first record that finds room.
    if let Err(error) = writer.sign() {
        tracing::warn!(%directory, %error, "the audit log cannot be written");
    }
    writer.write_head();
    Ok((writer, recovery))
}

/// Decides how the log goes on.
fn resume(
    disk: &dyn Disk,
    key: &SigningKey,
    ending: Ending,
    head: &Signed,
    start: &Signed,
) -> Result<(Resumed, Recovery), Error> {
    let Ending { mut link, group, segment, log, cut_bytes, mut fault, last_is_checkpoint } = ending;
    let known = log.as_ref().or(start.good().or(head.good()).map(|signed| &signed.log));
    let created =
        link == Link::NONE && fault.is_none() && matches!((head, start), (Signed::Absent, Signed::Absent));
    fault = fault.or_else(|| head_fault(head, (link, group), known)).or_else(|| start_fault(start));
    if let Some(head) =
        head.good().filter(|head| head.seq > link.seq && known.is_none_or(|log| *log == head.log))
    {
        link = Link { seq: head.seq, hash: head.hash };
    }
    let mut owed = Vec::new();
    let id = match known {
        Some(id) => id.clone(),
        None => random_id()?,
    };
    if created {
        let genesis = OwnAction::Genesis.record();
        owed.push(genesis.with("log", id.as_str()).with("key", key.public().to_string()));
    }
    if let Some(fault) = &fault {
        owed.push(OwnAction::Broken.record().with("reason", fault.as_str()));
    }
    let signed = head.good().map_or(link.seq, |head| head.seq);
    let unsigned_lines = link.seq.saturating_sub(signed);
    if cut_bytes > 0 || unsigned_lines > 0 {
        let recovered = OwnAction::Recovered.record().with("bytes", cut_bytes.to_string());
        owed.push(recovered.with("unsigned_lines", unsigned_lines.to_string()));
    }
    let active = match segment.filter(|_| fault.is_none()) {
        Some((segment, length)) => {
            let file = disk.open(&segment.path).map_err(Error::io("open", &segment.path))?;
            Some(Active { segment, file, length })
        }
        None => None,
    };
    let checkpoint = head.good().filter(|head| last_is_checkpoint && head.seq == link.seq).cloned();
    Ok((
        Resumed { log: id, chain: link, active, owed, checkpoint },
        Recovery { created, cut_bytes, unsigned_lines, broken: fault },
    ))
}

/// What `head` has against the log as it was found.
fn head_fault(head: &Signed, (link, group): (Link, u64), log: Option<&String>) -> Option<String> {
    match head {
        Signed::Absent if group > FIRST_GROUP => Some("`head` is missing".to_owned()),
        Signed::Absent => None,
        Signed::Bad(reason) => Some(format!("`head` is damaged: {reason}")),
        Signed::Good(head) if log.is_some_and(|log| *log != head.log) => {
            Some("`head` is of another log".to_owned())
        }
        Signed::Good(head) if head.seq > link.seq => {
            Some(format!("it ends at {}, and `head` says {}: its end was cut off", link.seq, head.seq))
        }
        Signed::Good(_) => None,
    }
}

fn start_fault(start: &Signed) -> Option<String> {
    match start {
        Signed::Bad(reason) => Some(format!("`start` is damaged: {reason}")),
        Signed::Absent | Signed::Good(_) => None,
    }
}

fn random_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Arc::new(KeyError::NoRandom))?;
    Ok(hex::encode(&bytes))
}

/// Where the files end.
#[derive(Debug)]
struct Ending {
    link: Link,
    /// The first line of the group that the last line was written in; 0: there is none.
    group: u64,
    /// The segment that the last line stands in, and its length.
    segment: Option<(Segment, u64)>,
    /// The id of the log, if a line named it.
    log: Option<String>,
    cut_bytes: u64,
    fault: Option<String>,
    last_is_checkpoint: bool,
}

impl Ending {
    /// Finds the last line that is whole, and cuts what is torn behind it.
    fn find(disk: &dyn Disk, directory: &Utf8Path, head: Option<&Checkpoint>) -> Result<Self, Error> {
        let mut durable = head.map_or(0, |head| head.seq);
        let mut cut_bytes = 0;
        for segment in files::segments(directory)?.into_iter().rev() {
            let scan = Scan::of(&segment, durable, head)?;
            if let Some(fault) = scan.fault {
                let at_least = Link { seq: segment.first, hash: Hash::NONE };
                let link = if scan.newest.seq < segment.first { at_least } else { scan.newest };
                return Ok(Self {
                    link,
                    group: link.seq,
                    segment: None,
                    log: scan.log,
                    cut_bytes,
                    fault: Some(fault),
                    last_is_checkpoint: false,
                });
            }
            cut_bytes += scan.length - scan.whole;
            if scan.whole > 0 {
                let last_is_checkpoint = scan.last_is_checkpoint;
                let is_clean =
                    scan.length == scan.whole && head.is_some_and(|head| head.seq == scan.last.seq);
                if !is_clean {
                    harden(disk, &segment, scan.whole)?;
                }
                return Ok(Self {
                    link: scan.last,
                    group: scan.group,
                    segment: Some((segment, scan.whole)),
                    log: scan.log,
                    cut_bytes,
                    fault: None,
                    last_is_checkpoint,
                });
            }
            // It was begun, so everything before it was durable.
            durable = durable.max(segment.first - 1);
            disk.remove(&segment.path).map_err(Error::io("remove", &segment.path))?;
            disk.sync_directory(directory).map_err(Error::io("sync", directory))?;
        }
        Ok(Self {
            link: Link::NONE,
            group: 0,
            segment: None,
            log: None,
            cut_bytes,
            fault: None,
            last_is_checkpoint: false,
        })
    }
}

/// Leaves the first `length` bytes of a segment, durable. They are copied: what a killed process left in the page cache may never reach
/// the disk if a sync of it failed before, however often it is synced again.
fn harden(disk: &dyn Disk, segment: &Segment, length: u64) -> Result<(), Error> {
    let mut bytes = std::fs::read(&segment.path).map_err(Error::io("read", &segment.path))?;
    bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    if disk.replace(&segment.path, &bytes).is_ok() {
        return Ok(());
    }
    // There is no room for a copy.
    let file = disk.open(&segment.path).map_err(Error::io("open", &segment.path))?;
    file.truncate(length).and_then(|()| file.sync()).map_err(Error::io("cut", &segment.path))
}

/// What stands in one segment.
#[derive(Debug)]
struct Scan {
    /// The last of the lines that follow each other from the start.
    last: Link,
    /// The first line of its group.
    group: u64,
    /// The end of that line.
    whole: u64,
    /// The last line that is whole in itself, wherever it stands.
    newest: Link,
    length: u64,
    log: Option<String>,
    last_is_checkpoint: bool,
    fault: Option<String>,
}

impl Scan {
    /// Reads it; everything up to the sequence `durable` is known to have been durable.
    fn of(segment: &Segment, mut durable: u64, head: Option<&Checkpoint>) -> Result<Self, Error> {
        let failed = || Error::io("read", &segment.path);
        let file = segment.open()?;
        let length = file.metadata().map_err(failed())?.len();
        let mut lines = Forward::new(file, 0, length).map_err(failed())?;
        let mut scan = Self {
            last: Link::NONE,
            group: 0,
            whole: 0,
            newest: Link::NONE,
            length,
            log: None,
            last_is_checkpoint: false,
            fault: None,
        };
        let mut damaged_at = None;
        while let Some(found) = lines.next().map_err(failed())? {
            let line = Line::parse(&found.bytes).filter(|_| found.is_ended);
            if damaged_at.is_none() && !line.as_ref().is_some_and(|line| scan.is_next(segment, line)) {
                damaged_at = Some(if scan.whole == 0 { segment.first } else { scan.last.seq + 1 });
            }
            let Some(line) = line else { continue };
            if damaged_at.is_none() {
                scan.take(&line, found.end);
            } else {
                durable = durable.max(line.group.saturating_sub(1));
            }
            if head.is_some_and(|head| head.seq == line.seq() && head.hash != line.hash) {
                scan.fault = Some(format!("line {} is not the one that `head` names", line.seq()));
            }
            if line.seq() > scan.newest.seq {
                scan.newest = line.link();
            }
        }
        if let Some(seq) = damaged_at.filter(|seq| *seq <= durable && !mutant::is("cutall")) {
            scan.fault = Some(format!("`{}` is damaged at {seq}", segment.name()));
        }
        Ok(scan)
    }

    fn is_next(&self, segment: &Segment, line: &Line) -> bool {
        if self.whole == 0 { line.seq() == segment.first } else { line.follows(self.last) }
    }

    fn take(&mut self, line: &Line, end: u64) {
        self.last = line.link();
        self.group = line.group;
        self.whole = end;
        self.last_is_checkpoint = line.signature.is_some();
        let named = OwnAction::Genesis.is(&line.entry.record) || self.last_is_checkpoint;
        if let Some(log) = line.entry.record.details.get("log").filter(|_| named) {
            self.log = Some(log.clone());
        }
    }
}
