//! A log in a folder of its own, and random things to put into it.

use std::sync::Arc;
use std::time::Duration;

use aap_runtime::{Clock, ManualClock};
use aap_types::ByteCount;
use camino::Utf8PathBuf;

use crate::disk::{Disk, RealDisk};
use crate::writer::Writer;
use crate::{
    Actor, AuditConfig, AuditLog, Checkpoint, Entry, Error, Object, Order, Outcome, OwnAction, Query, Reader,
    Record, Recovery, SigningKey, Verification, recovery, verify,
};

/// When the logs of tests begin.
const NOW_MS: u64 = 1_790_000_000_000;

/// Numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    pub(crate) fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.index(of.len())]
    }
}

/// How many random runs; `AAP_AUDIT_SEEDS` asks for more.
pub(crate) fn seeds(default: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("AAP_AUDIT_SEEDS").ok().and_then(|count| count.parse().ok());
    0..asked.unwrap_or(default)
}

/// A record like many.
pub(crate) fn record(actor: &str, action: &str) -> Record {
    let actor = Actor { kind: "user".to_owned(), name: actor.to_owned(), credential: None };
    Record::new(actor, action, Outcome::Done)
}

/// A record like none, perhaps.
pub(crate) fn random_record(random: &mut Random) -> Record {
    const NAMES: [&str; 6] = ["ana", "bo", "line\nbreak", "\u{1b}[31m", "\",\"hash\":\"", "žluťoučký"];
    const ACTIONS: [&str; 4] = ["token create", "token revoke", "node ban", "stream delete"];
    let mut record = record(random.pick(&NAMES), random.pick(&ACTIONS));
    record.outcome = Outcome::ALL[random.index(Outcome::ALL.len())];
    record.request = (random.below(2) == 0).then(|| random.next().to_string());
    record.from = (random.below(2) == 0).then(|| "10.0.0.9:4412".to_owned());
    record.permission = (random.below(2) == 0).then(|| "node:approve".to_owned());
    if random.below(2) == 0 {
        record.object = Some(Object { kind: "node".to_owned(), name: random.pick(&NAMES).to_owned() });
    }
    for _ in 0..random.below(3) {
        record = record.with(random.pick(&NAMES), "x".repeat(random.index(300)));
    }
    record
}

/// Opens a log. A process that another test starts has the files of this one for a moment, with its locks.
fn when_unlocked<T>(open: impl Fn() -> Result<T, Error>) -> T {
    const TRIES: u32 = 10_000;
    for _ in 0..TRIES {
        match open() {
            Err(Error::Locked { .. }) => std::thread::park_timeout(Duration::from_millis(1)),
            opened => return opened.unwrap(),
        }
    }
    panic!("somebody has the log open");
}

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) config: AuditConfig,
    pub(crate) clock: Arc<ManualClock>,
}

impl World {
    /// Small segments, many checkpoints.
    pub(crate) fn new() -> Self {
        Self::with_segments(ByteCount(4_000))
    }

    /// The same with segments of that size.
    pub(crate) fn with_segments(segment_bytes: ByteCount) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let directory = Utf8PathBuf::from_path_buf(folder.path().join("home/audit")).unwrap();
        let mut config = AuditConfig::new(directory);
        config.segment_bytes = segment_bytes;
        config.checkpoint_records = 7;
        Self { folder, config, clock: Arc::new(ManualClock::at(NOW_MS)) }
    }

    pub(crate) fn key(&self) -> SigningKey {
        let path = Utf8PathBuf::from_path_buf(self.folder.path().join("audit.key")).unwrap();
        SigningKey::open_or_create(&path).unwrap()
    }

    pub(crate) fn open_on(&self, disk: Arc<dyn Disk>) -> Result<(Writer, Recovery), Error> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        recovery::open(disk, self.config.clone(), self.key(), clock)
    }

    pub(crate) fn open(&self) -> (Writer, Recovery) {
        when_unlocked(|| self.open_on(Arc::new(RealDisk)))
    }

    /// With its thread.
    pub(crate) fn open_log(&self, disk: Arc<dyn Disk>) -> AuditLog {
        when_unlocked(|| {
            let clock: Arc<dyn Clock> = self.clock.clone();
            AuditLog::open_on(disk.clone(), self.config.clone(), self.key(), clock)
        })
        .log
    }

    /// Opens a log that must be whole.
    pub(crate) fn open_whole(&self) -> Writer {
        let (writer, recovery) = self.open();
        assert_eq!(recovery, Recovery { created: recovery.created, ..Recovery::default() });
        writer
    }

    pub(crate) fn verify(&self, remembered: &[Checkpoint]) -> Verification {
        verify(&self.config.directory, &self.key().public(), remembered).unwrap()
    }

    #[track_caller]
    pub(crate) fn must_be_good(&self) -> Verification {
        let verified = self.verify(&[]);
        assert_eq!(verified.findings, []);
        verified
    }

    /// Every line, oldest first.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let query = Query { order: Order::OldestFirst, ..Query::default() };
        Reader::open(&self.config.directory, query).unwrap().map(Result::unwrap).collect()
    }

    /// Every line that is not the log's own.
    pub(crate) fn of_others(&self) -> Vec<Entry> {
        let is_own = |entry: &Entry| OwnAction::ALL.iter().any(|own| own.is(&entry.record));
        self.entries().into_iter().filter(|entry| !is_own(entry)).collect()
    }

    /// The files of the log that count, sorted.
    pub(crate) fn files(&self) -> Vec<Utf8PathBuf> {
        let entries = self.config.directory.read_dir_utf8().unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().into_path()).collect();
        files.retain(|path| path.file_name() != Some(crate::files::LOCK));
        files.sort();
        files
    }

    /// The segments, sorted.
    pub(crate) fn segments(&self) -> Vec<Utf8PathBuf> {
        let mut files = self.files();
        files.retain(|path| path.extension() == Some("ndjson"));
        files
    }
}

/// Commits records one after the other, then closes.
pub(crate) fn fill(mut writer: Writer, count: u64) {
    for i in 0..count {
        writer.commit(&[record("ana", "token create").with("i", i.to_string())]).unwrap();
        writer.write_head();
    }
    close(writer);
}

/// What the thread does at its end.
pub(crate) fn close(mut writer: Writer) {
    writer.sign().unwrap();
    writer.write_head();
}

/// A log of several segments, by a seed; sometimes its oldest part is gone, sometimes it was opened again.
pub(crate) fn random_log(random: &mut Random) -> World {
    let mut world = World::new();
    world.config.segment_bytes = ByteCount(2_000 + random.below(6_000));
    world.config.checkpoint_records = 2 + random.below(12);
    let mut writer = world.open_whole();
    for _ in 0..4 + random.below(12) {
        let records: Vec<_> = (0..1 + random.below(5)).map(|_| random_record(random)).collect();
        writer.commit(&records).unwrap();
        world.clock.advance(Duration::from_secs(random.below(40)));
        match random.below(12) {
            0 => {
                close(writer);
                writer = world.open_whole();
            }
            1 => {
                world.clock.advance(world.config.retention);
                writer.retire().unwrap();
            }
            _ => writer.write_head(),
        }
    }
    close(writer);
    world
}
