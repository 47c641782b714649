//! One thread that owns what blocks, and deadlines.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use aap_runtime::{Clock, SystemClock};
use aap_sinks::Failure;
use tokio::sync::oneshot;

use crate::failure;

/// Longest call, above the sum of the deadlines inside of it: who waits longer waits for a thread that hangs.
const CALL_TIMEOUT: Duration = Duration::from_secs(300);
/// Calls that wait, where one caller makes one after the other: one, behind one whose caller went away while it ran.
pub(crate) const ONE_CALLER: usize = 1;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// The thread. It ends when this is dropped and what it does is done; nobody waits for it, so that no executor blocks.
pub(crate) struct Worker<S> {
    jobs: SyncSender<Job<S>>,
}

impl<S> std::fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Worker")
    }
}

impl<S: Send + 'static> Worker<S> {
    /// Starts a thread that owns `state`. So many calls may wait; one more fails as if the thread hung.
    pub(crate) fn start(state: S, waiting: usize) -> Result<Self, Failure> {
        let (jobs, queue) = sync_channel(waiting);
        std::thread::Builder::new()
            .name("aap-kafka".to_owned())
            .spawn(move || serve(state, &queue))
            .map_err(|error| Failure::unreachable("a thread for Kafka could not be started", &error))?;
        Ok(Self { jobs })
    }

    /// What `job` answers; `None` where the thread hangs or is gone, or too many calls wait.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut S) -> Result<T, Failure> + Send + 'static,
    ) -> Option<Result<T, Failure>> {
        let (answer, answered) = oneshot::channel();
        let job: Job<S> = Box::new(move |state| {
            // Nobody waits any more: begun now, it would take the place from whoever has it meanwhile.
            if !answer.is_closed() {
                let _gone = answer.send(job(state));
            }
        });
        self.jobs.try_send(job).ok()?;
        tokio::time::timeout(CALL_TIMEOUT, answered).await.ok()?.ok()
    }
}

fn serve<S>(mut state: S, queue: &Receiver<Job<S>>) {
    while let Ok(job) = queue.recv() {
        job(&mut state);
    }
}

/// A moment after which waiting is over.
#[derive(Debug)]
pub(crate) struct Deadline {
    clock: SystemClock,
    after: Duration,
}

impl Deadline {
    /// From now on.
    pub(crate) fn after(after: Duration) -> Self {
        Self { clock: SystemClock::default(), after }
    }

    /// Zero when it has passed.
    pub(crate) fn left(&self) -> Duration {
        self.after.saturating_sub(self.clock.monotonic())
    }

    /// Whether it has passed.
    pub(crate) fn passed(&self) -> bool {
        self.left().is_zero()
    }

    /// The failure of what did not end until now.
    pub(crate) fn late(&self, doing: &str, last: Option<String>) -> Failure {
        failure::unreachable(
            format!("Kafka did not {doing} within {} s", self.after.as_secs()),
            last.unwrap_or_else(|| "no answer, and no error either".to_owned()),
        )
    }

    /// Lets a condition become true, looked at every so often.
    pub(crate) fn pause(&self, pause: Duration) {
        std::thread::park_timeout(pause.min(self.left()));
    }
}
