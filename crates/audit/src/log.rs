//! The handle of an audit log.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use aap_runtime::Clock;
use aap_types::ByteCount;
use camino::{Utf8Path, Utf8PathBuf};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::disk::{Disk, RealDisk};
use crate::queue::{Feed, Work};
use crate::verify::verify_until;
use crate::writer::{CHECKPOINT_RECORDS, End};
use crate::{
    Checkpoint, Error, PublicKey, Query, Reader, Record, Recovery, SigningKey, Tail, Verification, queue,
    recovery,
};

/// A new segment begins at this size: some 14,000 records. It is what is read when the log is opened, and what retention removes.
pub const SEGMENT_BYTES: ByteCount = ByteCount::mib(8);
/// How long records are kept at least: whoever looks into something that went on for months must still find how it began.
pub const RETENTION: Duration = Duration::from_secs(365 * 24 * 3600);

/// The settings of an audit log.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// Where the log lies. Created if absent.
    pub directory: Utf8PathBuf,
    /// Size at which a new segment begins, in bytes. Default: [`SEGMENT_BYTES`]. A group may go beyond it.
    pub segment_bytes: ByteCount,
    /// How long records are kept at least; they go by whole segments. Default: [`RETENTION`].
    pub retention: Duration,
    /// Lines between two checkpoints. Only tests have fewer.
    pub(crate) checkpoint_records: u64,
}

impl AuditConfig {
    /// The defaults for a log in `directory`.
    pub fn new(directory: impl Into<Utf8PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            segment_bytes: SEGMENT_BYTES,
            retention: RETENTION,
            checkpoint_records: CHECKPOINT_RECORDS,
        }
    }
}

/// A log that was opened, and what was found.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: AuditLog,
    /// What opening found; `aap audit verify` says more.
    pub recovery: Recovery,
}

/// An audit log. Cheap to clone; all clones are the same log.
#[derive(Debug, Clone)]
pub struct AuditLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: Utf8PathBuf,
    public: PublicKey,
    feed: Arc<Feed>,
    durable: watch::Receiver<End>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The thread signs and ends by itself; waiting for it here could block an executor.
        self.feed.close();
    }
}

impl AuditLog {
    /// Opens or makes the log in `directory` with the default settings. Blocking: call it on the blocking pool.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn open(directory: &Utf8Path, key: SigningKey, clock: Arc<dyn Clock>) -> Result<Opened, Error> {
        Self::open_with(AuditConfig::new(directory), key, clock)
    }

    /// Opens or makes a log and starts its writer thread. Blocking: call it on the blocking pool.
    ///
    /// # Errors
    /// [`Error::Locked`]; [`Error::Io`] where the directory cannot be used at all; [`Error::Key`] without random numbers. Damage is never
    /// an error: it stands in [`Recovery`], and in the log.
    pub fn open_with(config: AuditConfig, key: SigningKey, clock: Arc<dyn Clock>) -> Result<Opened, Error> {
        Self::open_on(Arc::new(RealDisk), config, key, clock)
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        config: AuditConfig,
        key: SigningKey,
        clock: Arc<dyn Clock>,
    ) -> Result<Opened, Error> {
        let (directory, public) = (config.directory.clone(), key.public());
        let (writer, recovery) = recovery::open(disk, config, key, clock)?;
        let durable = writer.durable.subscribe();
        let feed = Arc::new(Feed::new());
        let thread = std::thread::Builder::new().name("audit-writer".into()).spawn({
            let feed = feed.clone();
            move || queue::run(writer, &feed)
        });
        let thread = thread.map_err(Error::io("start the writer of", &directory))?;
        let inner = Inner { directory, public, feed, durable, thread: Mutex::new(Some(thread)) };
        Ok(Opened { log: Self { inner: Arc::new(inner) }, recovery })
    }

    /// Records what was done or denied; resolves with its sequence when it is durable. Waits for room in the queue.
    ///
    /// Cancel-safe in so far as a record is there whole or not at all: once it is queued it is written even if the future is dropped.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Broken`], [`Error::Closed`]; it was not recorded, so whoever asked must not do what it says.
    pub async fn append(&self, record: Record) -> Result<u64, Error> {
        self.place().await?.append(record).await
    }

    /// Waits for a place in the queue, for whoever must know whether a record was given up before it was queued.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn place(&self) -> Result<Place, Error> {
        Ok(Place { room: self.inner.feed.room().await?, log: self.clone() })
    }

    /// A place in the queue, if there is one.
    ///
    /// # Errors
    /// [`Error::Closed`], also where the queue is full.
    pub fn place_now(&self) -> Result<Place, Error> {
        Ok(Place { room: self.inner.feed.room_now()?, log: self.clone() })
    }

    /// The same for whoever cannot wait, because nobody does any more: queues the record if there is room.
    ///
    /// # Errors
    /// [`Error::Closed`], also where the queue is full: it is not recorded.
    pub fn note(&self, record: Record) -> Result<(), Error> {
        self.place_now()?.queue(record).map(drop)
    }

    /// How many records were queued and could not be written when nobody waited for them any more.
    pub fn unheard(&self) -> u64 {
        self.inner.feed.unheard()
    }

    /// A checkpoint that covers everything that was appended so far; signs one if there is none yet. To be kept elsewhere.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub async fn checkpoint(&self) -> Result<Checkpoint, Error> {
        let (answer, outcome) = oneshot::channel();
        self.inner.feed.push(Work::Sign { answer })?;
        outcome.await.unwrap_or(Err(Error::Closed))
    }

    /// What checks the signatures of this log.
    pub fn public_key(&self) -> PublicKey {
        self.inner.public
    }

    /// Sequence of the last durable line.
    pub fn last(&self) -> u64 {
        self.inner.durable.borrow().seq
    }

    /// Durable records, one after the other; see [`Reader`].
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be listed.
    pub fn read(&self, query: Query) -> Result<Reader, Error> {
        let end = *self.inner.durable.borrow();
        Reader::until(&self.inner.directory, query, Some(end))
    }

    /// Every record behind the sequence `after`, and each further one as soon as it is durable.
    pub fn tail(&self, after: u64) -> Tail {
        Tail::new(self.inner.directory.clone(), self.inner.durable.clone(), after)
    }

    /// Checks all that is durable; see [`crate::verify`]. Blocking, some seconds for a million records.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read.
    pub fn verify(&self, remembered: &[Checkpoint]) -> Result<Verification, Error> {
        let durable = || Some(*self.inner.durable.borrow());
        verify_until(&self.inner.directory, &self.inner.public, remembered, durable)
    }

    /// Signs, ends the writer thread, gives the lock back. Blocking. Later appends get [`Error::Closed`].
    pub fn close(&self) {
        self.inner.feed.close();
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the writer thread of the audit log panicked");
        }
    }
}

/// A place in the queue.
#[derive(Debug)]
pub struct Place {
    room: OwnedSemaphorePermit,
    log: AuditLog,
}

impl Place {
    /// Records what was done or denied; resolves with its sequence when it is durable. Queues it when it is first polled, and is then as
    /// cancel-safe as [`AuditLog::append`].
    ///
    /// # Errors
    /// As [`AuditLog::append`].
    pub async fn append(self, record: Record) -> Result<u64, Error> {
        self.queue(record)?.await.unwrap_or(Err(Error::Closed))
    }

    fn queue(self, record: Record) -> Result<oneshot::Receiver<Result<u64, Error>>, Error> {
        let (answer, outcome) = oneshot::channel();
        let record = Box::new(record.bounded());
        self.log.inner.feed.push(Work::Append { record, answer, _room: self.room })?;
        Ok(outcome)
    }
}
