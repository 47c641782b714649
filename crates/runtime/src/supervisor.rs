//! Every task has a kind, an owner who waits for it, and a policy for its failure.

use std::future::Future;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::Shutdown;

/// What happens to the process when a task fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Log it and go on without the task.
    Log,
    /// Ask the whole process to stop: it cannot do its work without the task.
    Stop,
}

/// What a task is for, as it stands in the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskKind {
    /// Name in logs.
    pub name: &'static str,
    /// Policy.
    pub on_failure: OnFailure,
}

impl TaskKind {
    /// A task whose failure is logged.
    pub const fn optional(name: &'static str) -> Self {
        Self { name, on_failure: OnFailure::Log }
    }
    /// A task whose failure stops the process.
    pub const fn vital(name: &'static str) -> Self {
        Self { name, on_failure: OnFailure::Stop }
    }
}

/// Spawns tasks, and waits for all of them at the end.
#[derive(Debug, Clone)]
pub struct Supervisor {
    tasks: TaskTracker,
    shutdown: Shutdown,
}

impl Supervisor {
    /// A supervisor whose tasks stop on `shutdown`.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { tasks: TaskTracker::new(), shutdown }
    }

    /// The request its tasks must honour.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Runs `task` to its end. An error or a panic is treated as `kind` says.
    pub fn spawn<F, E>(&self, kind: TaskKind, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        let tracked = self.tasks.spawn(task);
        self.tasks.spawn(async move {
            let reason = match tracked.await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => format!("{error:#}"),
                Err(panic) if panic.is_panic() => "panicked".to_owned(),
                Err(_) => return,
            };
            match kind.on_failure {
                OnFailure::Log => warn!(task = kind.name, error = %reason, "task failed"),
                OnFailure::Stop => {
                    error!(task = kind.name, error = %reason, "task failed, stopping");
                    shutdown.request();
                }
            }
        });
    }

    /// Waits until every task has ended, at most `limit`. Returns how many were abandoned.
    pub async fn finish(&self, limit: Duration) -> usize {
        self.tasks.close();
        match tokio::time::timeout(limit, self.tasks.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tasks.len(),
        }
    }
}
