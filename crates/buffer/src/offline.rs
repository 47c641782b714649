//! What `aap-agent buffer ls|show|verify|salvage|export DIR` needs: a store read without opening it, so nothing is taken,
//! locked or changed, and it works with no daemon running as well as beside one (then as of the last durable group).

use std::sync::Arc;

use aap_runtime::{Clock, SystemClock};
use aap_types::{ByteCount, Sequence, SourcePosition, StreamKey};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::format::SEGMENT_HEADER;
use crate::fs::{FileSystem, RealFileSystem};
use crate::identity::Identity;
use crate::log::{NotNow, Shared};
use crate::recovery::{self, RecoveryReport};
use crate::scan::Scanner;
use crate::{
    BufferConfig, EncodedBatch, Entry, Error, Frame, FrameKind, SegmentRef, Stats, decode, read, stats,
};

/// Frames are read in portions of this size.
const PORTION: usize = 4 << 20;

/// A store as it was found.
#[derive(Debug)]
pub struct OfflineStore {
    shared: Shared,
    report: RecoveryReport,
    clock: Arc<dyn Clock>,
}

/// One stream key of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Which.
    pub key: StreamKey,
    /// First sequence whose frame is stored; `None` if none is.
    pub head: Option<Sequence>,
    /// Last sequence.
    pub tail: Sequence,
    /// Rows ever stored.
    pub rows: u64,
    /// Batches ever stored.
    pub batches: u64,
    /// Consumers and how far they came.
    pub cursors: Vec<(String, Sequence)>,
}

/// One segment of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// The file and what of it counts.
    #[serde(flatten)]
    pub segment: SegmentRef,
    /// Length of the file.
    pub file_bytes: u64,
    /// Batches in it.
    pub batches: u64,
    /// Rows in it.
    pub rows: u64,
    /// Smallest `ts`.
    pub ts_min_us: i64,
    /// Largest `ts`.
    pub ts_max_us: i64,
}

/// A place where stored bytes are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The file.
    pub path: Utf8PathBuf,
    /// Where, if it is one place.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// What a full check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Batches whose checksum, digest and rows are right.
    pub batches: u64,
    /// Their rows.
    pub rows: u64,
    /// Bytes of an unfinished group at the end: normal after a crash.
    pub torn_bytes: u64,
    /// Everything else that is wrong. Empty where all is well.
    pub damage: Vec<Damage>,
}

/// What a salvage did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SalvageReport {
    /// Batches copied.
    pub batches: u64,
    /// Their rows.
    pub rows: u64,
    /// Sequences that could not be saved and are skips now.
    pub skipped_batches: u64,
    /// What was found on the way.
    pub problems: Vec<String>,
}

/// Reads a store.
///
/// # Errors
/// [`Error::NoStore`], [`Error::NewerFormat`], [`Error::Io`].
pub fn inspect(directory: &Utf8Path) -> Result<OfflineStore, Error> {
    inspect_in(Arc::new(RealFileSystem), directory)
}

/// Reads a store of any file system.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_in(fs: Arc<dyn FileSystem>, directory: &Utf8Path) -> Result<OfflineStore, Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let (shared, report) = recovery::examine(fs, clock.as_ref(), directory)?;
    Ok(OfflineStore { shared, report, clock })
}

/// Reads every byte of a store and says what is wrong.
///
/// # Errors
/// As [`inspect`]; damage is not an error.
pub fn verify(directory: &Utf8Path) -> Result<VerifyReport, Error> {
    inspect(directory)?.verify()
}

/// Copies every readable batch, under its own identity, into a new store at `out`, which must not exist.
///
/// # Errors
/// As [`inspect`]; [`Error::Setting`] if `out` is in use; [`Error::Io`] if it cannot be written.
pub fn salvage(directory: &Utf8Path, out: &Utf8Path) -> Result<SalvageReport, Error> {
    inspect(directory)?.salvage(out)
}

impl OfflineStore {
    /// Who it is.
    pub fn identity(&self) -> Identity {
        self.shared.index().identity.clone()
    }

    /// What a daemon would find when opening it.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Its books. What waits is counted against the consumer `uplink`.
    pub fn stats(&self) -> Stats {
        stats::of(&self.shared.index(), &self.shared.config)
    }

    /// Its stream keys.
    pub fn keys(&self) -> Vec<KeyInfo> {
        let index = self.shared.index();
        let head =
            |number: u32| index.segments.values().find_map(|s| s.index.spans.get(&number)).map(|s| s.first);
        let cursors = |number: u32| {
            let of_channel = index.cursors.iter().filter(move |((_, channel), _)| *channel == number);
            of_channel.map(|((consumer, _), sequence)| (consumer.clone(), *sequence)).collect()
        };
        let info = |(number, channel): (u32, &crate::index::Channel)| KeyInfo {
            key: channel.key.clone(),
            head: head(number),
            tail: channel.tail,
            rows: channel.counters.rows,
            batches: channel.counters.batches,
            cursors: cursors(number),
        };
        index.named_channels().map(info).collect()
    }

    /// Its segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let index = self.shared.index();
        let info = |(id, segment): (&u64, &crate::index::Segment)| SegmentInfo {
            segment: SegmentRef {
                path: segment.path.clone(),
                segment: *id,
                store_id: index.identity.store_id,
                start: SEGMENT_HEADER as u64,
                durable_end: segment.index.end,
            },
            file_bytes: segment.file_bytes,
            batches: segment.index.spans.values().map(|span| span.batches).sum(),
            rows: segment.index.spans.values().map(|span| span.rows).sum(),
            ts_min_us: segment.index.ts_min_us,
            ts_max_us: segment.index.ts_max_us,
        };
        index.segments.iter().map(info).collect()
    }

    /// How far its sources were read.
    pub fn positions(&self) -> Vec<SourcePosition> {
        self.shared.index().positions.values().map(|(_, position)| position.clone()).collect()
    }

    /// Frames of a key after a sequence, as [`crate::Buffer::read`] gives them.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&self, key: &StreamKey, after: Sequence, bytes_max: usize) -> Result<Vec<Frame>, Error> {
        read::read(&self.shared, key, after, bytes_max)
    }

    /// Calls `take` with every stored frame of a key, in order, skips included.
    ///
    /// # Errors
    /// [`Error::Io`], and whatever `take` returns.
    pub fn export<E: From<Error>>(
        &self,
        key: &StreamKey,
        mut take: impl FnMut(Frame) -> Result<(), E>,
    ) -> Result<(), E> {
        let head = self.keys().into_iter().find(|info| info.key == *key).and_then(|info| info.head);
        let Some(head) = head else { return Ok(()) };
        let mut after = Sequence(head.0.saturating_sub(1));
        loop {
            let frames = self.read(key, after, PORTION)?;
            if frames.is_empty() {
                return Ok(());
            }
            for frame in frames {
                after = frame.last_sequence();
                take(frame)?;
            }
        }
    }

    /// Reads every byte: checksums, digests, and whether each batch decodes.
    ///
    /// # Errors
    /// [`Error::Io`]; damage is not an error.
    pub fn verify(&self) -> Result<VerifyReport, Error> {
        let mut report = VerifyReport { torn_bytes: self.report.torn_bytes, ..VerifyReport::default() };
        let whole = |what: &String| Damage {
            path: self.shared.config.directory.clone(),
            offset: None,
            what: what.clone(),
        };
        report.damage.extend(self.report.problems.iter().map(whole));
        for info in self.segments() {
            report.segments += 1;
            report.bytes += info.segment.durable_end;
            self.verify_segment(&info.segment, &mut report)?;
        }
        Ok(report)
    }

    fn verify_segment(&self, segment: &SegmentRef, report: &mut VerifyReport) -> Result<(), Error> {
        let mut scanner = Scanner::open_in(self.shared.fs.as_ref(), segment)?;
        let damage =
            |offset, what: &str| Damage { path: segment.path.clone(), offset, what: what.to_owned() };
        while let Some(frame) = scanner.next() {
            let frame = frame?;
            let Ok((positions, payload)) = scanner.body(&frame) else {
                report.damage.push(damage(Some(frame.offset), "a batch does not match its checksum"));
                continue;
            };
            if aap_types::Digest::of(&frame.id, &positions, &payload) != frame.digest {
                report.damage.push(damage(Some(frame.offset), "a batch does not match its digest"));
                continue;
            }
            if frame.is_skip {
                continue;
            }
            let rows = scanner.schema(frame.schema).and_then(|schema| decode(&schema, &payload, None).ok());
            if rows.is_none_or(|rows| rows.num_rows() as u64 != u64::from(frame.rows)) {
                report.damage.push(damage(Some(frame.offset), "a batch cannot be decoded"));
                continue;
            }
            report.batches += 1;
            report.rows += u64::from(frame.rows);
        }
        if scanner.damaged_bytes() > 0 {
            let what = format!("{} bytes are damaged", scanner.damaged_bytes());
            report.damage.push(damage(None, &what));
        }
        Ok(())
    }

    /// Copies every readable batch into a new store at `out`.
    ///
    /// # Errors
    /// [`Error::Setting`] if `out` is in use; [`Error::Io`].
    pub fn salvage(&self, out: &Utf8Path) -> Result<SalvageReport, Error> {
        let fs = self.shared.fs.clone();
        let in_use = fs.list(out).map_err(|error| Error::io("list", out, error))?;
        if !in_use.is_empty() {
            return Err(Error::Setting { setting: "out", reason: format!("`{out}` is not empty") });
        }
        let mut config = BufferConfig::new(out, self.identity().node);
        config.budget = ByteCount(u64::MAX / 2);
        let (mut log, _) = recovery::open(fs, self.clock.clone(), config)?;
        let mut report = SalvageReport { problems: self.report.problems.clone(), ..SalvageReport::default() };
        let failed = |not_now: NotNow| not_now.error().clone();
        for info in self.keys() {
            if let Some(head) = info.head.filter(|head| head.0 > 1) {
                let to = Sequence(head.0 - 1);
                let reason = crate::index::RECLAIMED.to_owned();
                let before = Entry::Skip { key: info.key.clone(), from: Sequence(1), to, rows: 0, reason };
                log.commit(&[vec![before]]).map_err(failed)?;
            }
            self.export(&info.key, |frame| {
                match &frame.kind {
                    FrameKind::Data => {
                        report.batches += 1;
                        report.rows += u64::from(frame.rows);
                    }
                    FrameKind::Skip { to, .. } => report.skipped_batches += to.0 - frame.id.sequence.0 + 1,
                }
                let answers = log.commit(&[vec![entry_of(frame)]]).map_err(failed)?;
                answers.into_iter().try_for_each(|answer| answer.map(drop))
            })?;
            let mut index = log.shared.index();
            for (consumer, sequence) in &info.cursors {
                index.advance(consumer, &info.key, *sequence);
            }
        }
        log.adopt_positions(self.positions()).map_err(failed)?;
        log.close().map_err(failed)?;
        Ok(report)
    }
}

fn entry_of(frame: Frame) -> Entry {
    if let FrameKind::Skip { to, rows, reason } = frame.kind {
        return Entry::Skip { key: frame.id.key, from: frame.id.sequence, to, rows, reason };
    }
    Entry::Landed {
        digest: frame.digest,
        positions: frame.positions,
        sealed_us: frame.sealed_us,
        batch: EncodedBatch {
            schema: frame.schema,
            payload: frame.payload,
            rows: frame.rows,
            ts_min_us: frame.ts_min_us,
            ts_max_us: frame.ts_max_us,
            raw_bytes: frame.raw_bytes,
        },
        id: frame.id,
    }
}
