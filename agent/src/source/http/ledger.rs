//! Answers by `Idempotency-Key` for as long as they are promised, in a file of their own.
//!
//! The buffer commits an answer with the rows it is about, but what it remembers of keys stands in every checkpoint, so it
//! keeps the newest of them only. Here they stay for a day: 32 bytes and the key's hash in memory, one record in the file.
//! A record is written after its answer is durable, and synced with others within a second: what a crash takes of the file the
//! buffer still knows, because it keeps many times more than are ever unwritten.
//!
//! ```text
//! file     magic "AAPKEYS1" │ store id [16] │ record │ record │ …
//! record   key hash [16] │ request digest [16] │ answered s u32 │ rows u32 │ batches u32 │ bad rows u32 │ checksum [4]
//! ```
//! Little-endian. A record whose checksum does not hold is passed over. A file of another store says nothing: that store's rows
//! may be gone with it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_runtime::write_durably;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Most keys within the time that they are kept: about what a table of 2^20 places of 48 bytes takes, so 50 MB of memory and 47 MB
/// of disk. Ten requests a second with a key for a whole day are fewer.
pub(super) const KEYS_MAX: usize = 900_000;
/// Records that may wait for the disk. The buffer remembers twice as many.
const UNWRITTEN_MAX: usize = 5000;
/// As many are written at once, before the second is over.
const UNWRITTEN_ENOUGH: usize = 1000;
/// How long a record waits for others to be written with.
const WRITE_WITHIN: Duration = Duration::from_secs(1);
/// Looking through all keys for old ones takes some milliseconds.
const SWEEP_EVERY_S: u32 = 60;

const MAGIC: &[u8; 8] = b"AAPKEYS1";
const HEADER: usize = 24;
const RECORD: usize = 52;

/// What was answered: the counts of a request whose rows are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) rows: u64,
    pub(super) batches: u64,
    pub(super) bad_rows: u64,
}

impl Answer {
    /// The body of the answer.
    pub(super) fn text(self) -> String {
        let Self { rows, batches, bad_rows } = self;
        format!("{}\n", serde_json::json!({ "rows": rows, "batches": batches, "bad_rows": bad_rows }))
    }
}

/// The hash by which a key is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KeyHash([u8; 16]);

impl KeyHash {
    /// Of a key with its stream.
    pub(super) fn of(key: &str) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(key.as_bytes()).as_bytes()[..16]);
        Self(hash)
    }
}

/// What is kept of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Digest of the request.
    pub(super) request: [u8; 16],
    /// When it was answered, in seconds since 1970.
    answered_s: u32,
    rows: u32,
    batches: u32,
    bad_rows: u32,
}

impl Record {
    /// Of an answer given at `answered_us`. A second begun counts as a whole one: keys are kept rather longer than shorter.
    pub(super) fn new(request: [u8; 16], answered_us: u64, answer: Answer) -> Self {
        // A body has less than 2^32 bytes, and a row at least one.
        let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            request,
            answered_s: small(answered_us.div_ceil(1_000_000)),
            rows: small(answer.rows),
            batches: small(answer.batches),
            bad_rows: small(answer.bad_rows),
        }
    }

    pub(super) fn answer(&self) -> Answer {
        Answer { rows: self.rows.into(), batches: self.batches.into(), bad_rows: self.bad_rows.into() }
    }

    fn encode(&self, key: KeyHash, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&key.0);
        out.extend_from_slice(&self.request);
        for number in [self.answered_s, self.rows, self.batches, self.bad_rows] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = checksum(&out[start..]);
        out.extend_from_slice(&checksum);
    }

    fn decode(bytes: &[u8; RECORD]) -> Option<(KeyHash, Self)> {
        let (body, found) = bytes.split_at(RECORD - 4);
        if checksum(body) != found {
            return None;
        }
        let (key, rest) = body.split_first_chunk::<16>()?;
        let (request, rest) = rest.split_first_chunk::<16>()?;
        let number = |at: usize| Some(u32::from_le_bytes(*rest.get(at * 4..)?.first_chunk()?));
        let record = Self {
            request: *request,
            answered_s: number(0)?,
            rows: number(1)?,
            batches: number(2)?,
            bad_rows: number(3)?,
        };
        Some((KeyHash(*key), record))
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(bytes);
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

/// Why no new key can be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoKey {
    /// There are too many; after this the oldest may go.
    Full { oldest_goes_in: Duration },
    /// They cannot be written.
    Unwritten { why: String },
}

/// The keys of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: Utf8PathBuf,
    store_id: [u8; 16],
    state: Mutex<State>,
    /// One writer at a time: two lives of the source may overlap.
    writing: Mutex<()>,
    /// There is something to write.
    some: Notify,
    /// There is so much that it should not wait.
    enough: Notify,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<KeyHash, Record>,
    unwritten: Vec<(KeyHash, Record)>,
    /// Records in the file, current or not; `None`: it is to be written anew.
    in_file: Option<usize>,
    swept_s: u32,
    /// What the last sweep found.
    oldest_s: u32,
    failed: Option<String>,
}

impl Ledger {
    /// Reads what the file holds of this store. Blocks.
    pub(super) fn open(path: &Utf8Path, store_id: [u8; 16]) -> io::Result<Self> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => {
                file.read_to_end(&mut bytes)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut state = State::default();
        if bytes.len() >= HEADER && bytes[..8] == *MAGIC && bytes[8..HEADER] == store_id {
            let (records, torn) = bytes[HEADER..].as_chunks::<RECORD>();
            state.known.extend(records.iter().filter_map(Record::decode));
            // What follows a torn record would not stand where records do.
            state.in_file = torn.is_empty().then_some(records.len());
        }
        let (writing, some, enough) = Default::default();
        let inner =
            Inner { path: path.to_owned(), store_id, state: Mutex::new(state), writing, some, enough };
        Ok(Self(Arc::new(inner)))
    }

    /// What is kept of a key, if it is not older than `keep`.
    pub(super) fn get(&self, key: KeyHash, now_us: u64, keep: Duration) -> Option<Record> {
        let state = self.state();
        state.known.get(&key).filter(|record| !is_old(record, seconds(now_us), keep)).copied()
    }

    /// Whether another key can be taken now.
    pub(super) fn admit(&self, now_us: u64, keep: Duration) -> Result<(), NoKey> {
        let now_s = seconds(now_us);
        let mut state = self.state();
        if state.unwritten.len() >= UNWRITTEN_MAX {
            let why = state.failed.clone().unwrap_or_else(|| "the disk is slow".to_owned());
            return Err(NoKey::Unwritten { why });
        }
        if state.known.len() < KEYS_MAX {
            return Ok(());
        }
        if now_s > state.swept_s {
            state.sweep(now_s, keep);
        }
        if state.known.len() < KEYS_MAX {
            return Ok(());
        }
        let age = Duration::from_secs(now_s.saturating_sub(state.oldest_s).into());
        Err(NoKey::Full { oldest_goes_in: keep.saturating_sub(age) })
    }

    /// Keeps an answer. What is newer than this stays.
    pub(super) fn keep(&self, key: KeyHash, record: Record) {
        let mut state = self.state();
        if state.known.get(&key).is_some_and(|known| known.answered_s >= record.answered_s) {
            return;
        }
        state.known.insert(key, record);
        state.unwritten.push((key, record));
        let is_enough = state.unwritten.len() >= UNWRITTEN_ENOUGH;
        drop(state);
        self.0.some.notify_one();
        if is_enough {
            self.0.enough.notify_one();
        }
    }

    /// Writes what comes, for as long as it is awaited.
    pub(super) async fn write_all(&self, now_us: impl Fn() -> u64, keep: Duration) {
        loop {
            self.0.some.notified().await;
            drop(tokio::time::timeout(WRITE_WITHIN, self.0.enough.notified()).await);
            self.write_soon(now_us(), keep).await;
        }
    }

    /// Writes what there is, on the blocking pool.
    pub(super) async fn write_soon(&self, now_us: u64, keep: Duration) {
        let own = self.clone();
        let written = tokio::task::spawn_blocking(move || own.write(now_us, keep)).await;
        let failed = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("write `{}`: {error}", self.0.path)),
            Err(panic) => Some(panic.to_string()),
        };
        let mut state = self.state();
        if failed.is_some() {
            // They are tried again with the next ones, or by themselves.
            self.0.some.notify_one();
        }
        if state.failed.is_none()
            && let Some(why) = &failed
        {
            tracing::warn!(why, "answers to keys are only in the buffer for now");
        }
        state.failed = failed;
    }

    /// Writes and syncs. The file is made anew where half of it is old. Blocks.
    fn write(&self, now_us: u64, keep: Duration) -> io::Result<()> {
        let _turn = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (records, anew, at) = {
            let mut state = self.state();
            if seconds(now_us).saturating_sub(state.swept_s) >= SWEEP_EVERY_S {
                state.sweep(seconds(now_us), keep);
            }
            let records = std::mem::take(&mut state.unwritten);
            let in_file =
                state.in_file.filter(|in_file| in_file + records.len() <= 2 * state.known.len() + 1000);
            let anew =
                in_file.is_none().then(|| state.known.iter().map(|(k, r)| (*k, *r)).collect::<Vec<_>>());
            (records, anew, in_file.unwrap_or(0))
        };
        let mut bytes = Vec::new();
        let written = match &anew {
            Some(all) => {
                bytes.extend_from_slice(MAGIC);
                bytes.extend_from_slice(&self.0.store_id);
                all.iter().for_each(|(key, record)| record.encode(*key, &mut bytes));
                write_durably(&self.0.path, &bytes, 0o600)
            }
            None => {
                records.iter().for_each(|(key, record)| record.encode(*key, &mut bytes));
                append(&self.0.path, (HEADER + at * RECORD) as u64, &bytes)
            }
        };
        let mut state = self.state();
        match &written {
            Ok(()) => state.in_file = Some(anew.map_or(at + records.len(), |all| all.len())),
            Err(_) => {
                // Where the file ends is not known any more.
                state.in_file = None;
                state.unwritten.splice(0..0, records);
            }
        }
        written
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sweep(&mut self, now_s: u32, keep: Duration) {
        self.swept_s = now_s;
        self.known.retain(|_, record| !is_old(record, now_s, keep));
        self.oldest_s = self.known.values().map(|record| record.answered_s).min().unwrap_or(now_s);
        // A day of many keys must not keep its memory for ever.
        if self.known.capacity() > 4 * self.known.len().max(1000) {
            self.known.shrink_to_fit();
        }
    }
}

/// Writes at `offset`, where the file ends, and syncs.
fn append(path: &Utf8Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(bytes, offset)?;
    file.sync_data()
}

fn seconds(us: u64) -> u32 {
    u32::try_from(us / 1_000_000).unwrap_or(u32::MAX)
}

fn is_old(record: &Record, now_s: u32, keep: Duration) -> bool {
    Duration::from_secs(now_s.saturating_sub(record.answered_s).into()) >= keep
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const NOW_US: u64 = 1_800_000_000_000_000;

    fn path(folder: &tempfile::TempDir) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(folder.path().join("http-keys")).unwrap()
    }

    fn record(rows: u64, answered_us: u64) -> Record {
        Record::new([7; 16], answered_us, Answer { rows, batches: 1, bad_rows: 0 })
    }

    fn key(n: usize) -> KeyHash {
        KeyHash::of(&format!("events/{n}"))
    }

    #[test]
    fn keys_survive_a_restart_a_torn_end_and_damage_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&path(&folder), [1; 16]).unwrap();
        for n in 0..100 {
            ledger.keep(key(n), record(n as u64, NOW_US));
            if n % 30 == 0 {
                ledger.write(NOW_US, DAY).unwrap();
            }
        }
        ledger.write(NOW_US, DAY).unwrap();
        let bytes = std::fs::read(path(&folder)).unwrap();
        assert_eq!(bytes.len(), HEADER + 100 * RECORD);
        for cut in [0, 1, RECORD - 1, RECORD] {
            std::fs::write(path(&folder), &bytes[..bytes.len() - cut]).unwrap();
            let again = Ledger::open(&path(&folder), [1; 16]).unwrap();
            let expected = if cut == 0 { 100 } else { 99 };
            let found =
                (0..100).filter(|n| again.get(key(*n), NOW_US, DAY) == Some(record(*n as u64, NOW_US)));
            assert_eq!(found.count(), expected, "{cut}");
            // It goes on from there.
            again.keep(key(100), record(100, NOW_US));
            again.write(NOW_US, DAY).unwrap();
            let after = Ledger::open(&path(&folder), [1; 16]).unwrap();
            assert_eq!(after.state().known.len(), expected + 1, "{cut}");
        }
        let mut damaged = bytes.clone();
        damaged[HEADER + 5 * RECORD + 3] ^= 1;
        std::fs::write(path(&folder), &damaged).unwrap();
        assert_eq!(Ledger::open(&path(&folder), [1; 16]).unwrap().state().known.len(), 99);
        // Another store's rows may be gone, so its keys say nothing.
        let other = Ledger::open(&path(&folder), [2; 16]).unwrap();
        assert_eq!(other.state().known.len(), 0);
        other.keep(key(1), record(1, NOW_US));
        other.write(NOW_US, DAY).unwrap();
        assert_eq!(std::fs::read(path(&folder)).unwrap().len(), HEADER + RECORD);
    }

    #[test]
    fn old_keys_go_from_memory_and_from_the_file_and_no_younger_one() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&path(&folder), [1; 16]).unwrap();
        let later = NOW_US + 23 * 3_600_000_000;
        for n in 0..5000 {
            ledger.keep(key(n), record(1, NOW_US));
        }
        ledger.write(NOW_US, DAY).unwrap();
        ledger.keep(key(5000), record(1, later));
        ledger.write(later, DAY).unwrap();
        assert_eq!(ledger.state().known.len(), 5001, "none is a day old");
        let next_day = NOW_US + 24 * 3_600_000_000;
        assert_eq!(ledger.get(key(1), next_day, DAY), None);
        assert!(ledger.get(key(5000), next_day, DAY).is_some());
        ledger.keep(key(5001), record(1, next_day));
        ledger.write(next_day, DAY).unwrap();
        assert_eq!(ledger.state().known.len(), 2);
        assert_eq!(std::fs::read(path(&folder)).unwrap().len(), HEADER + 2 * RECORD);
    }

    #[test]
    fn where_no_more_fit_none_is_forgotten_and_it_is_said_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&path(&folder), [1; 16]).unwrap();
        {
            let mut state = ledger.state();
            for n in 0..KEYS_MAX {
                let mut hash = [0; 16];
                hash[..8].copy_from_slice(&n.to_le_bytes());
                state.known.insert(KeyHash(hash), record(1, NOW_US + n as u64 * 1000));
            }
            let bytes = state.known.capacity() * (size_of::<(KeyHash, Record)>() + 1);
            assert!(bytes < 64 << 20, "{bytes} bytes of memory");
        }
        let hour_later = NOW_US + 3_600_000_000;
        let oldest_goes_in = DAY - Duration::from_secs(3600);
        assert_eq!(ledger.admit(hour_later, DAY), Err(NoKey::Full { oldest_goes_in }));
        assert_eq!(ledger.state().known.len(), KEYS_MAX);
        assert_eq!(ledger.admit(NOW_US + 86_400_000_000, DAY), Ok(()), "the oldest have gone");
    }

    #[test]
    fn what_cannot_be_written_is_kept_and_then_no_more_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&path(&folder).join("missing/http-keys"), [1; 16]).unwrap();
        for n in 0..UNWRITTEN_MAX {
            assert_eq!(ledger.admit(NOW_US, DAY), Ok(()), "{n}");
            ledger.keep(key(n), record(1, NOW_US));
        }
        assert!(ledger.write(NOW_US, DAY).is_err());
        assert!(matches!(ledger.admit(NOW_US, DAY), Err(NoKey::Unwritten { .. })));
        std::fs::create_dir_all(path(&folder).join("missing")).unwrap();
        ledger.write(NOW_US, DAY).unwrap();
        assert_eq!(ledger.admit(NOW_US, DAY), Ok(()));
    }
}
