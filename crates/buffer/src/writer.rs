//! The writer thread: one owner of the [`Log`], fed by a bounded queue.
//!
//! When it commits: as soon as it is idle and something waits. While a group is being written and synced, what arrives
//! collects, and the next group takes all of it (up to [`GROUP_BYTES`]). So a lone append waits for one fdatasync and no
//! timer, and under load the groups grow by themselves; a fixed delay of 5 ms would only add latency to the first and
//! nothing to the second. Cursor moves ride in the next group, or get one of their own after a second.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
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
/// How soon a full disk is tried again, and how seldom at last.
const RETRY_AFTER: Duration = Duration::from_millis(250);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);

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
    /// Whether it waits for room; otherwise it is refused as soon as there is none.
    pub(crate) waits: bool,
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
    /// Whether an append waits for room; what comes behind it cannot be taken either.
    waiting: AtomicBool,
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
        let room = Arc::new(Semaphore::new(units));
        Self { queue: Mutex::default(), wake: Condvar::new(), room, waiting: AtomicBool::new(false) }
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

    /// Whether an append waits for room.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// There is no room: who does not wait for it hears so now.
    fn refuse_impatient(&self) {
        let mut queue = self.queue();
        let (stay, refused) = std::mem::take(&mut queue.work)
            .into_iter()
            .partition(|work| !matches!(work, Work::Append(call) if !call.waits));
        queue.work = stay;
        drop(queue);
        for work in Vec::from(refused) {
            if let Work::Append(call) = work {
                answer_with(call.answer, Err(Error::Full));
            }
        }
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
        let dull =
            |queue: &mut Queue| (only_changes || queue.work.is_empty()) && !queue.closing && !queue.moved;
        let queue = self.queue();
        let mut queue = match limit {
            None => self.wake.wait_while(queue, dull).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                let waited = self.wake.wait_timeout_while(queue, limit, dull);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if !queue.work.is_empty() && !only_changes {
            Woken::Work
        } else if queue.closing {
            Woken::Closing
        } else if std::mem::take(&mut queue.moved) {
            Woken::Moved
        } else {
            Woken::TimedOut
        }
    }

    /// Waits for the time to pass, or for the end.
    fn pause(&self, time: Duration) {
        let queue = self.queue();
        drop(self.wake.wait_timeout_while(queue, time, |queue| !queue.closing));
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
            // What was delivered may have made room for those who were refused.
            Woken::Moved => shared.index().blocked = None,
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
    match log.flush_cursors() {
        // They become durable when that makes room, or when there is room.
        Err(NotNow::NoRoom(error)) => tracing::debug!(%error, "cursors wait for room"),
        outcome => ignore_failure("make cursors durable", outcome.map_err(|e| e.error().clone())),
    }
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
        Step::Appends(calls) => append(log, feed, calls),
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

fn append(log: &mut Log, feed: &Feed, calls: Vec<Call>) {
    let entries: Vec<&[Entry]> = calls.iter().map(|call| call.entries.as_slice()).collect();
    let mut plan = match log.plan(&entries) {
        Ok(plan) => plan,
        Err(Error::Oversize { .. }) if calls.len() > 1 => {
            // Together they are too much for a small budget; alone they may fit.
            let mut calls = calls;
            let rest = calls.split_off(calls.len() / 2);
            append(log, feed, calls);
            return append(log, feed, rest);
        }
        Err(error) => {
            calls.into_iter().for_each(|call| answer_with(call.answer, Err(error.clone())));
            return;
        }
    };
    let outcome = if calls.iter().all(|call| call.waits) {
        persist(log, feed, |log| log.commit_planned(&mut plan))
    } else {
        match log.commit_planned(&mut plan) {
            Ok(()) => {
                log.shared.index().blocked = None;
                Ok(())
            }
            Err(NotNow::Failed(error)) => Err(error),
            Err(NotNow::NoRoom(error)) => {
                tell_blocked(log, &error);
                return append_patient(log, feed, calls);
            }
        }
    };
    let mut answers = std::mem::take(&mut plan.answers).into_iter();
    for call in calls {
        let answer = match &outcome {
            Ok(()) => answers.next().unwrap_or(Err(Error::Closed)),
            Err(error) => Err(error.clone()),
        };
        answer_with(call.answer, answer);
    }
}

/// There is no room for all of them: who does not wait for it is refused, and the others go on without him.
fn append_patient(log: &mut Log, feed: &Feed, calls: Vec<Call>) {
    let (patient, refused): (Vec<Call>, Vec<Call>) = calls.into_iter().partition(|call| call.waits);
    refused.into_iter().for_each(|call| answer_with(call.answer, Err(Error::Full)));
    if !patient.is_empty() {
        append(log, feed, patient);
    }
}

/// Tries until there is room. Cursors that move meanwhile are made durable where that makes room.
fn persist<T>(
    log: &mut Log,
    feed: &Feed,
    mut attempt: impl FnMut(&mut Log) -> Result<T, NotNow>,
) -> Result<T, Error> {
    let mut retry_after = RETRY_AFTER;
    let outcome = loop {
        let reason = match attempt(log) {
            Ok(value) => break Ok(value),
            Err(NotNow::Failed(error)) => break Err(error),
            Err(NotNow::NoRoom(error)) => error,
        };
        tell_blocked(log, &reason);
        feed.waiting.store(true, Ordering::Release);
        feed.refuse_impatient();
        if !wait_for_room(log, feed, &mut retry_after) {
            break Err(Error::Closed);
        }
    };
    feed.waiting.store(false, Ordering::Release);
    log.shared.index().blocked = None;
    outcome
}

/// Shows that there is no room, and why.
fn tell_blocked(log: &Log, reason: &Error) {
    let text = match reason {
        Error::Full => "the budget is used up by data that waits for delivery".to_owned(),
        error => format!("no space: {error}"),
    };
    let newly_blocked = log.shared.index().blocked.replace(text).is_none();
    if newly_blocked {
        tracing::warn!(error = %reason, "buffer blocks its sources until there is room");
    }
}

/// Returns when there may be room. `false` if the buffer is closing.
fn wait_for_room(log: &mut Log, feed: &Feed, retry_after: &mut Duration) -> bool {
    let deadline = log.now() + *retry_after;
    loop {
        let woken = feed.wait(Some(deadline.saturating_sub(log.now())), true);
        match woken {
            Woken::Closing => return false,
            Woken::Work => feed.refuse_impatient(),
            Woken::Moved | Woken::TimedOut => {}
        }
        match log.free_delivered() {
            Ok(true) => {
                *retry_after = RETRY_AFTER;
                return true;
            }
            Ok(false) => {}
            Err(error) => ignore_failure("make cursors durable", Err(error.error().clone())),
        }
        if matches!(woken, Woken::TimedOut) {
            *retry_after = (*retry_after * 2).min(RETRY_AFTER_MAX);
            return true;
        }
        // Not at every single acknowledgement.
        feed.pause(SHORTEST_WAIT);
    }
}
