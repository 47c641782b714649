//! The writer thread: one owner of the [`Log`], fed by a bounded queue.
//!
//! When it commits: as soon as it is idle and something waits. While a group is being written and synced, what arrives
//! collects, and the next group takes all of it (up to [`GROUP_BYTES`]). So a lone append waits for one fdatasync and no
//! timer, and under load the groups grow by themselves; a fixed delay of 5 ms would only add latency to the first and
//! nothing to the second. Cursor moves ride in the next group, or get one of their own after a second.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_types::{BatchId, Epoch, SourcePosition};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::log::{Log, NotNow, Shared};
use crate::{Entry, Error};

/// Most queued bytes that go into one group; an append of its own may be larger.
const GROUP_BYTES: u64 = 8 << 20;
/// Most bytes that wait in the queue: bounds memory, and holds a few groups of a fast source.
const QUEUE_BYTES: u64 = 16 << 20;
/// Queue room is counted in units of this.
const UNIT: u64 = 1 << 10;
/// A cursor move is durable after at most this, and so is data under `os` durability.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// After a flush that failed, the thread must not spin.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);
/// How often a full disk is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// What the thread is asked for, in order.
#[derive(Debug)]
pub(crate) enum Work {
    Append(Call),
    NewEpoch { reason: String, answer: Answer<Epoch> },
    Adopt { positions: Vec<SourcePosition>, answer: Answer<()> },
}

/// One append.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) entries: Vec<Entry>,
    pub(crate) bytes: u64,
    pub(crate) answer: Answer<Vec<BatchId>>,
    pub(crate) _room: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct Queue {
    work: VecDeque<Work>,
    closing: bool,
    closed: bool,
    /// A cursor moved since the thread looked last.
    moved: bool,
}

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Feed {
    queue: Mutex<Queue>,
    wake: Condvar,
    room: Arc<Semaphore>,
}

/// Why the thread woke.
enum Woken {
    Work,
    Moved,
    TimedOut,
    Closing,
}

impl Feed {
    pub(crate) fn new() -> Self {
        let units = usize::try_from(QUEUE_BYTES / UNIT).unwrap_or(usize::MAX);
        Self { queue: Mutex::default(), wake: Condvar::new(), room: Arc::new(Semaphore::new(units)) }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn units(bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).clamp(1, QUEUE_BYTES / UNIT)).unwrap_or(u32::MAX)
    }

    /// Waits for room in the queue.
    pub(crate) async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Error> {
        self.room.clone().acquire_many_owned(Self::units(bytes)).await.map_err(|_| Error::Closed)
    }

    /// Room in the queue, if there is some now.
    pub(crate) fn try_room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Error> {
        use tokio::sync::TryAcquireError;
        self.room.clone().try_acquire_many_owned(Self::units(bytes)).map_err(|error| match error {
            TryAcquireError::Closed => Error::Closed,
            TryAcquireError::NoPermits => Error::Full,
        })
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

    /// Says that a cursor moved.
    pub(crate) fn moved(&self) {
        let mut queue = self.queue();
        if !queue.moved {
            queue.moved = true;
            self.wake.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        self.queue().closing = true;
        self.wake.notify_one();
    }

    /// Waits until there is something to do.
    fn wait(&self, limit: Option<Duration>, only_changes: bool) -> Woken {
        let mut queue = self.queue();
        loop {
            if !queue.work.is_empty() && !only_changes {
                return Woken::Work;
            }
            if queue.closing {
                return Woken::Closing;
            }
            if std::mem::take(&mut queue.moved) {
                return Woken::Moved;
            }
            queue = match limit {
                None => self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(limit) => {
                    let (queue, timeout) =
                        self.wake.wait_timeout(queue, limit).unwrap_or_else(PoisonError::into_inner);
                    if timeout.timed_out() && (queue.work.is_empty() || only_changes) && !queue.closing {
                        return Woken::TimedOut;
                    }
                    queue
                }
            };
        }
    }

    /// The next command, or as many appends in a row as one group takes.
    fn take(&self) -> Vec<Work> {
        let mut queue = self.queue();
        let mut taken = Vec::new();
        let mut bytes = 0;
        loop {
            let fits = match queue.work.front() {
                Some(Work::Append(call)) => taken.is_empty() || bytes + call.bytes <= GROUP_BYTES,
                Some(_) => taken.is_empty(),
                None => false,
            };
            if !fits {
                return taken;
            }
            let Some(work) = queue.work.pop_front() else { return taken };
            let ends = match &work {
                Work::Append(call) => {
                    bytes += call.bytes;
                    false
                }
                _ => true,
            };
            taken.push(work);
            if ends {
                return taken;
            }
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
struct EndsFeed<'a>(&'a Feed, &'a Shared);

impl Drop for EndsFeed<'_> {
    fn drop(&mut self) {
        self.0.end();
        self.1.index().closed = true;
    }
}

/// The body of the thread.
pub(crate) fn run(mut log: Log, feed: &Feed, changes: &watch::Sender<u64>) {
    let shared = log.shared.clone();
    let _ends = EndsFeed(feed, &shared);
    log.prepare_ahead();
    // The first append should not wait for a file to be filled with zeros.
    ignore_failure("prepare the first segment", log.prepare_spare());
    let mut unsynced_since = None;
    let mut limit = None;
    loop {
        match feed.wait(limit, false) {
            Woken::Work => {
                for work in group_appends(feed.take()) {
                    apply(&mut log, feed, work);
                }
                changes.send_modify(|count| *count += 1);
                if log.wants_spare() {
                    ignore_failure("prepare the next segment", log.prepare_spare());
                }
            }
            Woken::Moved => {}
            Woken::TimedOut => flush(&mut log),
            Woken::Closing => break,
        }
        // Cursors that move all the time must not put off the moment when they become durable.
        limit = None;
        if log.has_unsynced() {
            let since = *unsynced_since.get_or_insert_with(|| log.now());
            let left = FLUSH_AFTER.saturating_sub(log.now().saturating_sub(since));
            if left.is_zero() {
                flush(&mut log);
                unsynced_since = None;
            }
            limit = Some(left.max(SHORTEST_WAIT));
        } else {
            unsynced_since = None;
        }
    }
    ignore_failure("close the buffer", log.close().map_err(|e| e.error().clone()));
}

fn flush(log: &mut Log) {
    ignore_failure("make cursors durable", log.flush_cursors().map_err(|e| e.error().clone()));
    ignore_failure("sync", log.sync());
    log.reclaim(0);
}

fn ignore_failure(what: &str, outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(%error, cause, "cannot {what}");
    }
}

enum Step {
    Appends(Vec<Call>),
    Command(Work),
}

fn group_appends(work: Vec<Work>) -> Vec<Step> {
    let mut calls = Vec::new();
    let mut steps = Vec::new();
    for work in work {
        match work {
            Work::Append(call) => calls.push(call),
            command => steps.push(Step::Command(command)),
        }
    }
    if !calls.is_empty() {
        steps.insert(0, Step::Appends(calls));
    }
    steps
}

fn apply(log: &mut Log, feed: &Feed, step: Step) {
    match step {
        Step::Appends(calls) => {
            let (entries, answers): (Vec<_>, Vec<_>) =
                calls.into_iter().map(|call| (call.entries, (call.answer, call._room))).unzip();
            let outcome = persist(log, feed, |log| log.commit(&entries));
            match outcome {
                Ok(results) => {
                    for ((answer, _room), result) in answers.into_iter().zip(results) {
                        answer_with(answer, result);
                    }
                }
                Err(error) => {
                    for (answer, _room) in answers {
                        answer_with(answer, Err(error.clone()));
                    }
                }
            }
        }
        Step::Command(Work::NewEpoch { reason, answer }) => {
            answer_with(answer, persist(log, feed, |log| log.new_epoch(&reason)));
        }
        Step::Command(Work::Adopt { positions, answer }) => {
            answer_with(answer, persist(log, feed, |log| log.adopt_positions(positions.clone())));
        }
        Step::Command(Work::Append(_)) => unreachable!("appends are grouped"),
    }
}

/// Whoever asked may have stopped waiting; what he asked for is done all the same.
fn answer_with<T>(answer: Answer<T>, result: Result<T, Error>) {
    drop(answer.send(result));
}

/// Tries until there is room; cursors that move meanwhile are made durable, because they make room.
fn persist<T>(
    log: &mut Log,
    feed: &Feed,
    mut attempt: impl FnMut(&mut Log) -> Result<T, NotNow>,
) -> Result<T, Error> {
    loop {
        let reason = match attempt(log) {
            Ok(value) => {
                log.shared.index().blocked = None;
                return Ok(value);
            }
            Err(NotNow::Failed(error)) => return Err(error),
            Err(NotNow::NoRoom(error)) => error,
        };
        let text = match &reason {
            Error::Full => "the budget is used up by data that waits for delivery".to_owned(),
            error => format!("no space: {error}"),
        };
        let newly_blocked = log.shared.index().blocked.replace(text).is_none();
        if newly_blocked {
            tracing::warn!(error = %reason, "buffer blocks its sources until there is room");
        }
        if matches!(feed.wait(Some(RETRY_AFTER), true), Woken::Closing) {
            return Err(Error::Closed);
        }
        ignore_failure("make cursors durable", log.flush_cursors().map_err(|e| e.error().clone()));
        log.reclaim(0);
    }
}
