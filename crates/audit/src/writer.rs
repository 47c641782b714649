//! Groups to disk. One thread owns the writer; tests drive it without one.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use aap_runtime::Clock;
use tokio::sync::watch;

use crate::disk::{Disk, SegmentFile};
use crate::files::{HEAD, Segment};
use crate::line::{self, Link, Place};
use crate::{AuditConfig, Checkpoint, Error, Record, SigningKey, mutant};

/// Most lines between two checkpoints. What stands behind the last one is not protected against whoever may write the files, so it is
/// little; a signature costs 25 µs, and the file `head` a second fsync, which 1,000 records share.
pub const CHECKPOINT_RECORDS: u64 = 1_000;
/// No line waits longer for its checkpoint: few things are done with privilege, and a thousand would take days.
pub const CHECKPOINT_AFTER: Duration = Duration::from_secs(60);
/// A checkpoint that failed is not tried again at once.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// Up to where the log is durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// The last line.
    pub(crate) seq: u64,
    /// First sequence of the segment that it stands in.
    pub(crate) segment: u64,
    /// Bytes of that segment.
    pub(crate) length: u64,
}

/// The segment that is written.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: Segment,
    pub(crate) file: Box<dyn SegmentFile>,
    pub(crate) length: u64,
}

/// What a writer has to do with.
#[derive(Debug)]
pub(crate) struct Means {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) config: AuditConfig,
    pub(crate) key: SigningKey,
    pub(crate) clock: Arc<dyn Clock>,
    /// Held as long as the writer lives.
    pub(crate) _lock: File,
}

/// Writes the log.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) means: Means,
    /// The random id of the log.
    pub(crate) log: String,
    chain: Link,
    /// Where the next group goes; `None`: into a new segment.
    active: Option<Active>,
    /// What the log has to say of itself, before anything else is written.
    owed: Vec<Record>,
    /// Lines behind the last checkpoint.
    unsigned: u64,
    /// When the first of them was written, or a checkpoint of them last failed.
    unsigned_since: Duration,
    /// The last checkpoint that is durable.
    checkpoint: Option<Checkpoint>,
    /// Whether `head` does not say it yet.
    head_is_behind: bool,
    is_broken: bool,
    pub(crate) durable: watch::Sender<End>,
}

/// Lines that are written together.
struct Group {
    bytes: Vec<u8>,
    seqs: Vec<u64>,
    chain: Link,
    unsigned: u64,
    checkpoint: Option<Checkpoint>,
}

/// Where a log goes on.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) log: String,
    pub(crate) chain: Link,
    pub(crate) active: Option<Active>,
    pub(crate) owed: Vec<Record>,
    /// The last line, where it is a checkpoint.
    pub(crate) checkpoint: Option<Checkpoint>,
}

impl Writer {
    pub(crate) fn new(means: Means, resumed: Resumed) -> Self {
        let Resumed { log, chain, active, owed, checkpoint } = resumed;
        let end = match &active {
            Some(active) => End { seq: chain.seq, segment: active.segment.first, length: active.length },
            // Everything that is there; the next segment begins behind it.
            None => End { seq: chain.seq, segment: chain.seq, length: u64::MAX },
        };
        Self {
            unsigned: u64::from(checkpoint.is_none()),
            unsigned_since: means.clock.monotonic(),
            head_is_behind: false,
            is_broken: false,
            durable: watch::Sender::new(end),
            means,
            log,
            chain,
            active,
            owed,
            checkpoint,
        }
    }

    /// Writes the records as one group, with a checkpoint behind them if one is due, and makes it durable. Returns their sequences.
    ///
    /// # Errors
    /// [`Error::Broken`]; [`Error::Io`]: nothing of it was taken, and after a sync nothing ever will be.
    pub(crate) fn commit(&mut self, records: &[Record]) -> Result<Vec<u64>, Error> {
        let is_due = self.unsigned > 0
            && self.means.clock.monotonic().saturating_sub(self.unsigned_since) >= CHECKPOINT_AFTER;
        self.write(records, is_due)
    }

    /// Signs everything that was written, durably, unless that was done. Returns the last checkpoint.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub(crate) fn sign(&mut self) -> Result<Checkpoint, Error> {
        let signed = self.checkpoint.clone().filter(|_| self.unsigned == 0 && self.owed.is_empty());
        if let Some(checkpoint) = signed {
            return Ok(checkpoint);
        }
        self.write(&[], true)?;
        self.checkpoint.clone().ok_or(Error::Closed)
    }

    /// Lets `head` say the last checkpoint. What fails is tried again after the next group: until then `head` says an older one.
    pub(crate) fn write_head(&mut self) {
        let Some(checkpoint) = self.checkpoint.as_ref().filter(|_| self.head_is_behind) else { return };
        let path = self.means.config.directory.join(HEAD);
        match self.means.disk.replace(&path, format!("{checkpoint}\n").as_bytes()) {
            Ok(()) => self.head_is_behind = false,
            Err(error) => tracing::warn!(%path, %error, "cannot write the last checkpoint of the audit log"),
        }
    }

    /// How long lines may still wait for their checkpoint; `None` if none waits.
    pub(crate) fn checkpoint_in(&self) -> Option<Duration> {
        let waits = (self.unsigned > 0 || self.head_is_behind) && !self.is_broken;
        let since = self.means.clock.monotonic().saturating_sub(self.unsigned_since);
        waits.then(|| CHECKPOINT_AFTER.saturating_sub(since).max(SHORTEST_WAIT))
    }

    /// Signs because time has passed.
    pub(crate) fn sign_late(&mut self) {
        if let Err(error) = self.sign() {
            tracing::warn!(%error, "cannot sign the audit log");
            self.unsigned_since = self.means.clock.monotonic();
        }
        self.write_head();
    }

    /// Takes a record, and writes it when there are some more.
    #[cfg(test)]
    pub(crate) fn owe(&mut self, record: Record) {
        self.owed.push(record);
        if self.owed.len() >= 50 {
            drop(self.sign());
        }
    }

    /// First sequence of the segment that is written.
    pub(crate) fn segment(&self) -> Option<u64> {
        self.active.as_ref().map(|active| active.segment.first)
    }

    fn write(&mut self, records: &[Record], with_checkpoint: bool) -> Result<Vec<u64>, Error> {
        if self.is_broken {
            return Err(Error::Broken);
        }
        let group = self
            .encode(records, with_checkpoint)
            .map_err(|error| Error::io("write a record of", &self.means.config.directory)(error.into()))?;
        self.store(&group)?;
        self.owed.clear();
        self.chain = group.chain;
        if self.unsigned == 0 {
            self.unsigned_since = self.means.clock.monotonic();
        }
        self.unsigned = group.unsigned;
        if let Some(checkpoint) = group.checkpoint {
            self.checkpoint = Some(checkpoint);
            self.head_is_behind = true;
        }
        Ok(group.seqs)
    }

    /// The lines of a group: first what is owed, then the records, checkpoints where they fall.
    fn encode(&self, records: &[Record], with_checkpoint: bool) -> serde_json::Result<Group> {
        let place = Place { group: self.chain.seq + 1, time: self.means.clock.unix_us() };
        let mut group = Group {
            bytes: Vec::new(),
            seqs: Vec::new(),
            chain: self.chain,
            unsigned: self.unsigned,
            checkpoint: None,
        };
        for record in &self.owed {
            self.encode_record(&mut group, place, record)?;
        }
        for record in records {
            let seq = self.encode_record(&mut group, place, record)?;
            group.seqs.push(seq);
        }
        if group.unsigned > 0 && (with_checkpoint || !self.owed.is_empty()) {
            self.encode_checkpoint(&mut group, place)?;
        }
        Ok(group)
    }

    fn encode_record(&self, group: &mut Group, place: Place, record: &Record) -> serde_json::Result<u64> {
        group.chain = line::write(&mut group.bytes, group.chain, place, record)?;
        group.unsigned += 1;
        let seq = group.chain.seq;
        if group.unsigned >= self.means.config.checkpoint_records {
            self.encode_checkpoint(group, place)?;
        }
        Ok(seq)
    }

    fn encode_checkpoint(&self, group: &mut Group, place: Place) -> serde_json::Result<()> {
        let (bytes, before) = (&mut group.bytes, group.chain);
        let checkpoint = line::write_checkpoint(bytes, before, place, &self.log, &self.means.key)?;
        group.chain = Link { seq: checkpoint.seq, hash: checkpoint.hash };
        group.checkpoint = Some(checkpoint);
        group.unsigned = 0;
        Ok(())
    }

    /// Writes and syncs. A write that failed is taken back; after a sync that failed nothing is known any more.
    fn store(&mut self, group: &Group) -> Result<(), Error> {
        let full = self.means.config.segment_bytes.0;
        let mut active = match self.active.take().filter(|active| active.length < full) {
            Some(active) => active,
            None => self.begin_segment()?,
        };
        let path = active.segment.path.clone();
        if let Err(error) = active.file.write_all(&group.bytes, active.length) {
            self.take_back(active);
            return Err(Error::io("write", &path)(error));
        }
        if let Err(error) = self.sync(&active) {
            self.give_up(&path, &error);
            return Err(Error::io("sync", &path)(error));
        }
        active.length += group.bytes.len() as u64;
        let end = End { seq: group.chain.seq, segment: active.segment.first, length: active.length };
        self.active = Some(active);
        self.durable.send_replace(end);
        Ok(())
    }

    fn begin_segment(&self) -> Result<Active, Error> {
        let segment = Segment::at(&self.means.config.directory, self.chain.seq + 1);
        let file = self.means.disk.create(&segment.path).map_err(Error::io("create", &segment.path))?;
        Ok(Active { segment, file, length: 0 })
    }

    fn sync(&self, active: &Active) -> std::io::Result<()> {
        let synced = match active.file.sync() {
            Err(_) if mutant::is("fsyncretry") => active.file.sync(),
            other => other,
        };
        // Its name counts from its first group on.
        let is_new = active.length == 0;
        synced.and_then(|()| {
            if is_new { self.means.disk.sync_directory(&self.means.config.directory) } else { Ok(()) }
        })
    }

    /// Leaves the segment as it was before a write that failed; a new one goes.
    fn take_back(&mut self, active: Active) {
        let path = active.segment.path.clone();
        let outcome = if active.length == 0 {
            self.means.disk.remove(&path)
        } else {
            let outcome = active.file.truncate(active.length);
            self.active = Some(active);
            outcome
        };
        if let Err(error) = outcome {
            self.give_up(&path, &error);
        }
    }

    fn give_up(&mut self, path: &camino::Utf8Path, error: &std::io::Error) {
        self.is_broken = true;
        tracing::error!(%path, %error, "the audit log is broken: nothing is recorded until it is opened again");
    }
}
