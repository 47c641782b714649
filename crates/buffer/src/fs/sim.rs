//! Storage in memory that can lose power.
//!
//! Every file has two contents: what a reader sees (the page cache) and what the disk holds. A sync copies the first to
//! the second; a crash decides sector by sector, by a seed, which of the unsynced ones reached the disk, and name by
//! name which of the unsynced directory changes did. A call that was told to be the last one tears: half of a write is
//! taken, then the power is off and every call fails until [`SimFileSystem::crash`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};

use super::{FileHandle, FileSystem, Lock, Open};

/// What a disk writes at once.
const SECTOR: usize = 512;

/// How a crash treats what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashPlan {
    /// Decides sector by sector and name by name.
    pub seed: u64,
    /// Chance in 256 that an unsynced sector reached the disk.
    pub sector_kept: u8,
    /// Chance in 256 that an unsynced name change reached the disk.
    pub name_kept: u8,
}

impl CrashPlan {
    /// Everything unsynced is lost.
    pub fn lose_all() -> Self {
        Self { seed: 1, sector_kept: 0, name_kept: 0 }
    }
    /// Half of it, by a seed.
    pub fn half(seed: u64) -> Self {
        Self { seed, sector_kept: 128, name_kept: 128 }
    }
}

/// Storage in memory that can lose power. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SimFileSystem {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<u64, Content>,
    next_file: u64,
    names: BTreeMap<Utf8PathBuf, u64>,
    durable_names: BTreeMap<Utf8PathBuf, u64>,
    locks: BTreeMap<Utf8PathBuf, u64>,
    /// Handles of an earlier life are dead.
    life: u64,
    /// Calls that change something, since the last [`SimFileSystem::power_off_at`].
    calls: u64,
    last_call: Option<u64>,
    dead: bool,
    failing_syncs: u64,
    capacity: Option<u64>,
    bytes_read: u64,
    open_files: u64,
    open_files_max: Option<u64>,
    /// Files that cannot be opened, and the error.
    closed_files: BTreeMap<Utf8PathBuf, i32>,
    /// Bytes that cannot be read, and the error.
    bad_bytes: Option<(u64, std::ops::Range<u64>, i32)>,
}

#[derive(Debug, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl Content {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.seen.len() < end {
            self.resize(end);
        }
        self.seen[offset..end].copy_from_slice(bytes);
        self.touch(offset, end);
    }

    fn resize(&mut self, length: usize) {
        let (low, high) = (self.seen.len().min(length), self.seen.len().max(length));
        self.seen.resize(length, 0);
        self.touch(low, high);
    }

    fn touch(&mut self, start: usize, end: usize) {
        if start < end {
            self.dirty.extend(start / SECTOR..=(end - 1) / SECTOR);
        }
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector);
        }
        self.durable.resize(self.seen.len(), 0);
    }

    fn keep(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.seen.len());
        if start >= end {
            return;
        }
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&self.seen[start..end]);
    }
}

/// SplitMix64: enough randomness for choosing sectors, and no dependency.
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl Disk {
    fn used(&self) -> u64 {
        self.names.values().filter_map(|id| self.files.get(id)).map(|f| f.seen.len() as u64).sum()
    }

    /// Counts a changing call. `Ok(true)`: it is the last one, and tears.
    fn step(&mut self) -> io::Result<bool> {
        if self.dead {
            return Err(power_is_off());
        }
        self.calls += 1;
        if self.last_call.is_some_and(|last| self.calls >= last) {
            self.dead = true;
            return Ok(true);
        }
        Ok(false)
    }
}

impl SimFileSystem {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some of the unsynced sectors reach the disk, as the kernel may do at any time.
    pub fn write_back(&self, seed: u64) {
        let mut state = seed;
        for content in self.disk().files.values_mut() {
            let kept: Vec<usize> =
                content.dirty.iter().copied().filter(|_| next_random(&mut state) & 1 == 0).collect();
            for sector in kept {
                content.keep(sector);
                content.dirty.remove(&sector);
            }
        }
    }

    /// Cuts the power and turns it on again: handles and locks are gone, unsynced state survives as `plan` says.
    pub fn crash(&self, plan: CrashPlan) {
        let mut state = plan.seed;
        let mut chance = |of: u8| (next_random(&mut state) & 0xff) < u64::from(of);
        let disk = &mut *self.disk();
        disk.life += 1;
        disk.dead = false;
        disk.last_call = None;
        disk.locks.clear();
        let mut names = disk.durable_names.clone();
        let paths: BTreeSet<_> = disk.names.keys().chain(disk.durable_names.keys()).cloned().collect();
        for path in paths {
            if disk.names.get(&path) != disk.durable_names.get(&path) && chance(plan.name_kept) {
                match disk.names.get(&path) {
                    Some(id) => names.insert(path, *id),
                    None => names.remove(&path),
                };
            }
        }
        for content in disk.files.values_mut() {
            for sector in std::mem::take(&mut content.dirty) {
                if chance(plan.sector_kept) {
                    content.keep(sector);
                }
            }
            content.seen.clone_from(&content.durable);
        }
        disk.files.retain(|id, _| names.values().any(|named| named == id));
        disk.names.clone_from(&names);
        disk.durable_names = names;
    }

    /// The process is killed and the machine goes on: handles and locks are gone, the page cache stays.
    pub fn kill(&self) {
        let mut disk = self.disk();
        disk.life += 1;
        disk.dead = false;
        disk.last_call = None;
        disk.locks.clear();
    }

    /// The `calls`-th changing call from now (counted from 1) is torn and the last; `None` takes that back.
    pub fn power_off_at(&self, calls: Option<u64>) {
        let mut disk = self.disk();
        disk.calls = 0;
        disk.last_call = calls;
    }

    /// Changing calls since the last [`Self::power_off_at`].
    pub fn calls(&self) -> u64 {
        self.disk().calls
    }

    /// Whether the power went off.
    pub fn is_off(&self) -> bool {
        self.disk().dead
    }

    /// The next `times` syncs fail as Linux does it: the error is given once, the pages are marked clean, a reader
    /// still sees the new bytes, and the disk has the old ones.
    pub fn fail_syncs(&self, times: u64) {
        self.disk().failing_syncs = times;
    }

    /// Limits the disk's size; `None` for none.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity = bytes;
    }

    /// More open files than this are refused with `EMFILE`; `None` for no limit.
    pub fn set_open_files_max(&self, files: Option<u64>) {
        self.disk().open_files_max = files;
    }

    /// Opening `path` fails with this error; `None` heals.
    pub fn fail_opening(&self, path: &Utf8Path, errno: Option<i32>) {
        let mut disk = self.disk();
        match errno {
            Some(errno) => disk.closed_files.insert(path.to_owned(), errno),
            None => disk.closed_files.remove(path),
        };
    }

    /// Reading any of these bytes fails; `None` heals.
    pub fn fail_reading(&self, bytes: Option<(&Utf8Path, std::ops::Range<u64>, i32)>) {
        let mut disk = self.disk();
        let bad = bytes.and_then(|(path, range, errno)| Some((*disk.names.get(path)?, range, errno)));
        disk.bad_bytes = bad;
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.disk().bytes_read
    }

    /// Bytes in files that have a name.
    pub fn used(&self) -> u64 {
        self.disk().used()
    }

    /// A copy of the whole disk as a reader sees it, for roll-backs and clones.
    pub fn image(&self) -> BTreeMap<Utf8PathBuf, Vec<u8>> {
        let disk = self.disk();
        disk.names.iter().map(|(path, id)| (path.clone(), disk.files[id].seen.clone())).collect()
    }

    /// Replaces the whole disk; everything in it is durable. Handles and locks are gone.
    pub fn restore(&self, image: &BTreeMap<Utf8PathBuf, Vec<u8>>) {
        let disk = &mut *self.disk();
        let life = disk.life + 1;
        *disk = Disk { life, ..Disk::default() };
        for (path, bytes) in image {
            disk.next_file += 1;
            let content = Content { seen: bytes.clone(), durable: bytes.clone(), dirty: BTreeSet::new() };
            disk.files.insert(disk.next_file, content);
            disk.names.insert(path.clone(), disk.next_file);
        }
        disk.durable_names.clone_from(&disk.names);
    }
}

impl FileSystem for SimFileSystem {
    fn create_directory(&self, _path: &Utf8Path) -> io::Result<()> {
        if self.disk().dead { Err(power_is_off()) } else { Ok(()) }
    }

    fn list(&self, path: &Utf8Path) -> io::Result<Vec<String>> {
        let disk = self.disk();
        if disk.dead {
            return Err(power_is_off());
        }
        let inside = |name: &&Utf8PathBuf| name.parent() == Some(path);
        Ok(disk.names.keys().filter(inside).filter_map(|p| p.file_name()).map(str::to_owned).collect())
    }

    fn open(&self, path: &Utf8Path, how: Open) -> io::Result<Box<dyn FileHandle>> {
        let mut disk = self.disk();
        if disk.dead {
            return Err(power_is_off());
        }
        if let Some(errno) = disk.closed_files.get(path) {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        if disk.open_files_max.is_some_and(|max| disk.open_files >= max) {
            const EMFILE: i32 = 24;
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        let id = match (disk.names.get(path).copied(), how) {
            (Some(id), Open::Create) => {
                let tears = disk.step()?;
                disk.files.entry(id).or_default().resize(0);
                if tears {
                    return Err(power_is_off());
                }
                id
            }
            (Some(id), _) => id,
            (None, Open::Create) => {
                let tears = disk.step()?;
                disk.next_file += 1;
                let id = disk.next_file;
                disk.files.insert(id, Content::default());
                disk.names.insert(path.to_owned(), id);
                if tears {
                    return Err(power_is_off());
                }
                id
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        disk.open_files += 1;
        Ok(Box::new(SimFile { disk: self.disk.clone(), life: disk.life, id, writable: how != Open::Read }))
    }

    fn rename(&self, from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
        let mut disk = self.disk();
        let tears = disk.step()?;
        let id = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), id);
        if tears { Err(power_is_off()) } else { Ok(()) }
    }

    fn remove(&self, path: &Utf8Path) -> io::Result<()> {
        let mut disk = self.disk();
        let tears = disk.step()?;
        disk.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        if tears { Err(power_is_off()) } else { Ok(()) }
    }

    fn sync_directory(&self, path: &Utf8Path) -> io::Result<()> {
        let disk = &mut *self.disk();
        if disk.step()? {
            return Err(power_is_off());
        }
        disk.durable_names.retain(|name, _| name.parent() != Some(path));
        let inside = disk.names.iter().filter(|(name, _)| name.parent() == Some(path));
        disk.durable_names.extend(inside.map(|(name, id)| (name.clone(), *id)));
        Ok(())
    }

    fn lock(&self, path: &Utf8Path) -> io::Result<Option<Lock>> {
        let mut disk = self.disk();
        let life = disk.life;
        if disk.locks.get(path) == Some(&life) {
            return Ok(None);
        }
        disk.locks.insert(path.to_owned(), life);
        Ok(Some(Box::new(SimLock { disk: self.disk.clone(), path: path.to_owned(), life })))
    }
}

struct SimLock {
    disk: Arc<Mutex<Disk>>,
    path: Utf8PathBuf,
    life: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.locks.get(&self.path) == Some(&self.life) {
            disk.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: Arc<Mutex<Disk>>,
    life: u64,
    id: u64,
    writable: bool,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.open_files = disk.open_files.saturating_sub(1);
    }
}

impl SimFile {
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.dead || disk.life != self.life || !disk.files.contains_key(&self.id) {
            return Err(power_is_off());
        }
        Ok(disk)
    }

    fn changing(&self) -> io::Result<(MutexGuard<'_, Disk>, bool)> {
        let mut disk = self.disk()?;
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let tears = disk.step()?;
        Ok((disk, tears))
    }
}

fn grows_too_far(disk: &Disk, id: u64, end: u64) -> bool {
    let now = disk.files.get(&id).map_or(0, |f| f.seen.len() as u64);
    disk.capacity.is_some_and(|capacity| end > now && disk.used() + (end - now) > capacity)
}

impl FileHandle for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk()?;
        let wanted = offset..offset + bytes.len() as u64;
        let is_hit = |bad: &std::ops::Range<u64>| bad.start < wanted.end && wanted.start < bad.end;
        if let Some((_, _, errno)) =
            disk.bad_bytes.as_ref().filter(|(id, bad, _)| *id == self.id && is_hit(bad))
        {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        let seen = &disk.files[&self.id].seen;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(seen.len());
        let count = bytes.len().min(seen.len() - start);
        bytes[..count].copy_from_slice(&seen[start..start + count]);
        disk.bytes_read += count as u64;
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let (mut disk, tears) = self.changing()?;
        if grows_too_far(&disk, self.id, offset + bytes.len() as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let taken = if tears { bytes.len() / 2 } else { bytes.len() };
        if let Some(content) = disk.files.get_mut(&self.id) {
            content.write(&bytes[..taken], start);
        }
        if tears { Err(power_is_off()) } else { Ok(taken) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut disk, tears) = self.changing()?;
        if tears {
            return Err(power_is_off());
        }
        if disk.failing_syncs > 0 {
            disk.failing_syncs -= 1;
            if let Some(content) = disk.files.get_mut(&self.id) {
                content.dirty.clear();
            }
            return Err(io::Error::from_raw_os_error(5));
        }
        if let Some(content) = disk.files.get_mut(&self.id) {
            content.sync();
        }
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let (mut disk, tears) = self.changing()?;
        if grows_too_far(&disk, self.id, length) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let length = usize::try_from(length).map_err(io::Error::other)?;
        if let Some(content) = disk.files.get_mut(&self.id) {
            content.resize(length);
        }
        if tears { Err(power_is_off()) } else { Ok(()) }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk()?.files[&self.id].seen.len() as u64)
    }
}
