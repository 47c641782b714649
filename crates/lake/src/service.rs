//! When the lake takes what: by size, by age, when the landing buffer fills up.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use aap_runtime::Shutdown;
use aap_types::StreamName;
use tokio::time::sleep;
use tracing::warn;

use crate::{Error, Lake};

/// How often it looks; a second more or less in the lake matters to nobody, since queries read the buffer too.
const TICK: Duration = Duration::from_secs(1);
/// Merging and retention are looked at every so many ticks.
const MAINTENANCE_TICKS: u64 = 10;
/// After a failure: long enough not to fill the log, short enough not to fill the buffer.
const PAUSE: Duration = Duration::from_secs(10);

impl Lake {
    /// Runs until `shutdown`. Failures are reported by [`Lake::problem`] and tried again; they never end it.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let mut ticks = 0u64;
        while !shutdown.is_requested() {
            let pause = match self.tick(ticks, &shutdown).await {
                Ok(()) => TICK,
                Err(_) => PAUSE,
            };
            ticks += 1;
            tokio::select! {
                () = shutdown.requested() => {}
                () = sleep(pause) => {}
            }
        }
        Ok(())
    }

    async fn tick(&self, ticks: u64, shutdown: &Shutdown) -> Result<(), Error> {
        let result = self.work(ticks, shutdown).await;
        let problem = result.as_ref().err().map(|error| format!("lake: {}", chain(error)));
        let mut known = self.inner.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = problem.as_ref().filter(|problem| known.as_ref() != Some(*problem)) {
            warn!(%problem, "the lake makes no progress");
        }
        *known = problem;
        result
    }

    async fn work(&self, ticks: u64, shutdown: &Shutdown) -> Result<(), Error> {
        for stream in self.due_streams() {
            while self.load(&stream).await? && !shutdown.is_requested() {}
        }
        if ticks % MAINTENANCE_TICKS == MAINTENANCE_TICKS - 1 {
            while !shutdown.is_requested() && self.compact_once().await? {}
            self.expire().await?;
        }
        self.unlink_unread().await;
        Ok(())
    }

    /// Streams that wait long enough or large enough; all of them when the buffer is a quarter full.
    fn due_streams(&self) -> BTreeSet<StreamName> {
        let config = &self.inner.config;
        let age_us = i64::try_from(config.age_seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let oldest_kept = self.inner.clock.unix_us().saturating_sub(age_us);
        let stats = self.inner.buffer.stats();
        let pressed = stats.waiting_bytes > stats.capacity_bytes / 4;
        let waiting = self.inner.waiting.by_stream().into_iter();
        let due = waiting.filter(|(_, (bytes, oldest))| {
            pressed || *bytes >= config.file_bytes.0 || *oldest <= oldest_kept
        });
        due.map(|(stream, _)| stream).collect()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
