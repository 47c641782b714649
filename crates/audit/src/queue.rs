//! The writer thread: what waits for it, how much goes into one group, and when it signs though nothing comes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::writer::Writer;
use crate::{Checkpoint, Error, Record};

/// Most records that wait: whoever comes then waits for room. A record within its limits has some hundred bytes, 63 KiB at most.
const QUEUE_RECORDS: usize = 1_024;
/// Most records of a group: they are in memory once more while they are written.
const GROUP_RECORDS: usize = 256;

type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// What the thread is asked for, in order.
#[derive(Debug)]
pub(crate) enum Work {
    Append { record: Box<Record>, answer: Answer<u64>, _room: OwnedSemaphorePermit },
    Sign { answer: Answer<Checkpoint> },
}

#[derive(Debug, Default)]
struct Queue {
    work: VecDeque<Work>,
    closing: bool,
    closed: bool,
}

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Feed {
    queue: Mutex<Queue>,
    wake: Condvar,
    room: Arc<Semaphore>,
    /// Records that were not written, of which nobody wanted to know any more.
    unheard: AtomicU64,
}

/// Why the thread woke.
enum Woken {
    Work(Vec<Work>),
    TimedOut,
    Closing,
}

impl Feed {
    pub(crate) fn new() -> Self {
        let room = Arc::new(Semaphore::new(QUEUE_RECORDS));
        Self { queue: Mutex::default(), wake: Condvar::new(), room, unheard: AtomicU64::new(0) }
    }

    pub(crate) fn unheard(&self) -> u64 {
        self.unheard.load(Ordering::Relaxed)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room in the queue.
    pub(crate) async fn room(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.room.clone().acquire_owned().await.map_err(|_| Error::Closed)
    }

    /// Room in the queue, if there is some.
    pub(crate) fn room_now(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.room.clone().try_acquire_owned().map_err(|_| Error::Closed)
    }

    pub(crate) fn push(&self, work: Work) -> Result<(), Error> {
        let mut queue = self.queue();
        if queue.closing || queue.closed {
            return Err(Error::Closed);
        }
        queue.work.push_back(work);
        drop(queue);
        self.wake.notify_one();
        Ok(())
    }

    pub(crate) fn close(&self) {
        self.queue().closing = true;
        self.wake.notify_one();
    }

    /// Waits until there is something to do. What was queued is done before the end.
    fn wait(&self, limit: Option<Duration>) -> Woken {
        let dull = |queue: &mut Queue| queue.work.is_empty() && !queue.closing;
        let queue = self.queue();
        let mut queue = match limit {
            None => self.wake.wait_while(queue, dull).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                let waited = self.wake.wait_timeout_while(queue, limit, dull);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        let count = queue.work.len().min(GROUP_RECORDS);
        if count > 0 {
            Woken::Work(queue.work.drain(..count).collect())
        } else if queue.closing {
            Woken::Closing
        } else {
            Woken::TimedOut
        }
    }

    /// Nobody will be answered any more: who waits learns it by his dropped channel.
    fn end(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        queue.work.clear();
        self.room.close();
    }
}

/// Ends the feed when the thread ends, however it ends.
struct EndsFeed<'a>(&'a Feed);

impl Drop for EndsFeed<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The body of the thread.
pub(crate) fn run(mut writer: Writer, feed: &Feed) {
    let _ends = EndsFeed(feed);
    retire(&mut writer);
    let mut segment = writer.segment();
    loop {
        match feed.wait(writer.checkpoint_in()) {
            Woken::Work(work) => apply(&mut writer, work, &feed.unheard),
            Woken::TimedOut => writer.sign_late(),
            Woken::Closing => break,
        }
        writer.write_head();
        // Only a new segment can make an older one superfluous.
        if segment != writer.segment() {
            retire(&mut writer);
            segment = writer.segment();
        }
    }
    if writer.checkpoint_in().is_some() {
        writer.sign_late();
    }
}

fn retire(writer: &mut Writer) {
    if let Err(error) = writer.retire() {
        tracing::warn!(%error, "cannot remove old records of the audit log");
    }
}

/// Whoever asked may have stopped waiting; what he asked for is done all the same.
fn answer_with<T>(answer: Answer<T>, result: Result<T, Error>) {
    drop(answer.send(result));
}

fn apply(writer: &mut Writer, work: Vec<Work>, unheard: &AtomicU64) {
    let (mut records, mut answers, mut signs) = (Vec::new(), Vec::new(), Vec::new());
    for work in work {
        match work {
            #[cfg(test)]
            Work::Append { record, answer, .. } if crate::mutant::is("answerfirst") => {
                writer.owe(*record);
                answer_with(answer, Ok(0));
            }
            Work::Append { record, answer, .. } => {
                records.push(*record);
                answers.push(answer);
            }
            // It covers what was appended before it, and may cover more.
            Work::Sign { answer } => signs.push(answer),
        }
    }
    if !records.is_empty() {
        append(writer, &records, answers, unheard);
    }
    for answer in signs {
        answer_with(answer, writer.sign());
    }
}

fn append(writer: &mut Writer, records: &[Record], answers: Vec<Answer<u64>>, unheard: &AtomicU64) {
    match writer.commit(records) {
        Ok(seqs) => answers.into_iter().zip(seqs).for_each(|(answer, seq)| answer_with(answer, Ok(seq))),
        Err(error) => answers.into_iter().for_each(|answer| {
            if answer.send(Err(error.clone())).is_err() {
                unheard.fetch_add(1, Ordering::Relaxed);
            }
        }),
    }
}
