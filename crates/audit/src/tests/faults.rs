//! Disks that fail at each call in turn.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use super::world::{World, record};
use crate::Error;
use crate::disk::{Disk, RealDisk, SegmentFile};
use crate::mutant::chosen::is_caught;

/// Which call fails, counted from 1, and how many in a row.
#[derive(Debug, Default)]
struct Plan {
    calls: AtomicU64,
    fails_at: AtomicU64,
    times: AtomicU64,
    failed_sync: Mutex<bool>,
    /// While it is set, syncs do not end.
    holds_syncs: AtomicBool,
}

impl Plan {
    fn step(&self) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let (at, times) = (self.fails_at.load(Ordering::SeqCst), self.times.load(Ordering::SeqCst));
        if (at..at + times).contains(&call) { Err(io::Error::from_raw_os_error(28)) } else { Ok(()) }
    }
}

/// A disk whose calls can fail. A sync that fails throws away what was written since the one before, as Linux may.
#[derive(Debug, Clone, Default)]
struct FaultyDisk(Arc<Plan>);

#[derive(Debug)]
struct FaultyFile {
    plan: Arc<Plan>,
    inner: Box<dyn SegmentFile>,
    path: Utf8PathBuf,
    synced: AtomicU64,
}

impl FaultyDisk {
    fn failing(at: u64, times: u64) -> Self {
        let disk = Self::default();
        disk.0.fails_at.store(at, Ordering::SeqCst);
        disk.0.times.store(times, Ordering::SeqCst);
        disk
    }

    fn file(&self, inner: Box<dyn SegmentFile>, path: &Utf8Path) -> Box<dyn SegmentFile> {
        let synced = AtomicU64::new(path.metadata().unwrap().len());
        Box::new(FaultyFile { plan: self.0.clone(), inner, path: path.to_owned(), synced })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Utf8Path) -> io::Result<Box<dyn SegmentFile>> {
        self.0.step()?;
        Ok(self.file(RealDisk.create(path)?, path))
    }
    fn open(&self, path: &Utf8Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(self.file(RealDisk.open(path)?, path))
    }
    fn replace(&self, path: &Utf8Path, bytes: &[u8]) -> io::Result<()> {
        self.0.step()?;
        RealDisk.replace(path, bytes)
    }
    fn remove(&self, path: &Utf8Path) -> io::Result<()> {
        self.0.step()?;
        RealDisk.remove(path)
    }
    fn sync_directory(&self, path: &Utf8Path) -> io::Result<()> {
        self.0.step().inspect_err(|_| *self.0.failed_sync.lock().unwrap() = true)?;
        RealDisk.sync_directory(path)
    }
}

impl SegmentFile for FaultyFile {
    fn write_all(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        // A failing disk takes a part first.
        self.plan
            .step()
            .or_else(|error| self.inner.write_all(&bytes[..bytes.len() / 2], offset).and(Err(error)))?;
        self.inner.write_all(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        while self.plan.holds_syncs.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        if let Err(error) = self.plan.step() {
            *self.plan.failed_sync.lock().unwrap() = true;
            self.inner.truncate(self.synced.load(Ordering::SeqCst))?;
            return Err(error);
        }
        self.inner.sync()?;
        self.synced.store(self.path.metadata()?.len(), Ordering::SeqCst);
        Ok(())
    }
    fn truncate(&self, length: u64) -> io::Result<()> {
        self.plan.step()?;
        self.inner.truncate(length)
    }
}

/// Enough for three segments and some checkpoints.
const RECORDS: u64 = 16;

/// Appends, each record as a group of its own, across several segments. Returns what was answered.
fn script(world: &World, disk: &FaultyDisk) -> Vec<u64> {
    let mut answered = Vec::new();
    let Ok((mut writer, _)) = world.open_on(Arc::new(disk.clone())) else { return answered };
    for i in 0..RECORDS {
        match writer.commit(&[record("ana", "node ban").with("i", i.to_string())]) {
            Ok(_) => {
                let had_failed = *disk.0.failed_sync.lock().unwrap();
                assert!(!had_failed, "{i}: something was recorded after a sync had failed");
                answered.push(i);
            }
            Err(error) => assert!(matches!(error, Error::Io { .. } | Error::Broken), "{error}"),
        }
        writer.write_head();
    }
    drop(writer.sign());
    writer.write_head();
    answered
}

/// Fails every call of the script in turn, so many times in a row.
fn fail_each_call(times: u64) {
    let calls = {
        let disk = FaultyDisk::default();
        assert_eq!(script(&World::new(), &disk).len() as u64, RECORDS);
        disk.0.calls.load(Ordering::SeqCst)
    };
    assert!(calls > 40, "the script makes only {calls} calls");
    for call in 1..=calls {
        let world = World::new();
        let answered = script(&world, &FaultyDisk::failing(call, times));
        let (writer, recovery) = world.open();
        drop(writer);
        assert_eq!(recovery.broken, None, "call {call}");
        let found: Vec<u64> =
            world.of_others().iter().map(|entry| entry.record.details["i"].parse().unwrap()).collect();
        let lost: Vec<_> = answered.iter().filter(|i| !found.contains(i)).collect();
        assert!(lost.is_empty(), "call {call}: {lost:?} were answered and are gone");
        world.must_be_good();
    }
}

#[test]
fn whatever_call_fails_what_was_answered_is_there_and_the_chain_is_good() {
    fail_each_call(1);
    fail_each_call(7);
}

#[test]
fn failing_disks_notice_a_log_that_syncs_again() {
    assert!(is_caught("fsyncretry", || fail_each_call(1)));
}

#[test]
fn a_full_disk_refuses_and_the_log_goes_on_when_there_is_room() {
    let world = World::new();
    // Each record makes a write and a sync; the writes fail, and are taken back.
    let disk = FaultyDisk::default();
    let (mut writer, _) = world.open_on(Arc::new(disk.clone())).unwrap();
    writer.commit(&[record("ana", "node ban")]).unwrap();
    let next = disk.0.calls.load(Ordering::SeqCst) + 1;
    disk.0.fails_at.store(next, Ordering::SeqCst);
    disk.0.times.store(1, Ordering::SeqCst);
    assert!(matches!(writer.commit(&[record("bo", "node ban")]), Err(Error::Io { attempt: "write", .. })));
    writer.commit(&[record("cy", "node ban")]).unwrap();
    super::world::close(writer);
    world.must_be_good();
    let names: Vec<_> = world.of_others().into_iter().map(|entry| entry.record.actor.name).collect();
    assert_eq!(names, ["ana", "cy"]);
}

#[tokio::test]
async fn after_a_sync_that_failed_every_append_fails() {
    let world = World::new();
    let disk = FaultyDisk::default();
    let log = world.open_log(Arc::new(disk.clone()));
    assert_eq!(log.append(record("ana", "node ban")).await.unwrap(), 3);
    let sync = disk.0.calls.load(Ordering::SeqCst) + 2;
    disk.0.fails_at.store(sync, Ordering::SeqCst);
    disk.0.times.store(1, Ordering::SeqCst);
    assert!(matches!(log.append(record("bo", "node ban")).await, Err(Error::Io { attempt: "sync", .. })));
    for _ in 0..3 {
        assert!(matches!(log.append(record("cy", "node ban")).await, Err(Error::Broken)));
    }
    assert_eq!((log.last(), log.unheard()), (3, 0), "whoever waited was told");
    log.note(record("dee", "query run")).unwrap();
    assert!(matches!(log.append(record("cy", "node ban")).await, Err(Error::Broken)));
    assert_eq!(log.unheard(), 1);
    log.close();
    assert!(matches!(log.append(record("cy", "node ban")).await, Err(Error::Closed)));
}

#[tokio::test]
async fn appends_that_wait_while_the_disk_works_share_the_next_group() {
    const APPENDS: u64 = 100;
    let world = World::new();
    let disk = FaultyDisk::default();
    let log = world.open_log(Arc::new(disk.clone()));
    let first = log.last() + 1;
    disk.0.holds_syncs.store(true, Ordering::SeqCst);
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..APPENDS {
        let log = log.clone();
        tasks.spawn(async move { log.append(record("ana", "node ban").with("i", i.to_string())).await });
    }
    // All of them run on this thread, each up to where it waits.
    for _ in 0..APPENDS {
        tokio::task::yield_now().await;
    }
    disk.0.holds_syncs.store(false, Ordering::SeqCst);
    for outcome in tasks.join_all().await {
        outcome.unwrap();
    }
    log.close();
    world.must_be_good();
    let groups: std::collections::BTreeSet<String> = world
        .entries()
        .iter()
        .filter(|entry| entry.seq >= first)
        .map(|entry| entry.text.split(',').nth(1).unwrap().to_owned())
        .collect();
    assert!(groups.len() <= 4, "{groups:?}");
}

#[test]
fn a_log_that_began_on_a_full_disk_and_was_killed_before_its_first_head_is_not_broken() {
    let world = World::with_segments(aap_types::ByteCount::mib(1));
    let (mut writer, recovery) = world.open_on(Arc::new(FaultyDisk::failing(1, 1))).unwrap();
    let head = world.config.directory.join(crate::HEAD);
    assert!(recovery.created && !head.exists());
    let records = ["token create", "node ban", "user set"].map(|action| record("ana", action));
    writer.commit(&records).unwrap();
    drop(writer);
    assert!(!head.exists());
    let (writer, recovery) = world.open();
    assert_eq!(recovery.broken, None);
    super::world::close(writer);
    world.must_be_good();
    assert_eq!(world.of_others().len(), records.len());

    // Behind the second group there was one.
    let mut writer = world.open_whole();
    writer.commit(&records).unwrap();
    drop(writer);
    std::fs::remove_file(&head).unwrap();
    assert_eq!(world.open().1.broken.as_deref(), Some("`head` is missing"));
}
