//! When the lake takes what: by size, by age, when the landing buffer fills up.
//!
//! Nothing that fails keeps anything else waiting: each stream and each kind of upkeep fails, and is tried again, by
//! itself. Where another coordinator leads, all there is to do is to look what became of the catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use aap_runtime::Shutdown;
use aap_types::{Sequence, StreamKey, StreamName};
use futures::future::{Either, select};
use tokio::time::sleep;
use tracing::warn;

use crate::lake::{chain, cut_map};
use crate::unite::United;
use crate::{Error, Lake};

/// How often it looks; a second more or less in the lake matters to nobody, since queries read the buffer too.
const TICK: Duration = Duration::from_secs(1);
/// How often merging and retention are looked at.
const UPKEEP: Duration = Duration::from_secs(10);
/// After a failure: long enough not to fill the log, short enough not to fill the buffer.
const PAUSE: Duration = Duration::from_secs(10);
/// What a change under way may still take when the daemon stops, before an object store is not waited for any more: half of what
/// the daemon waits for everything. Nothing is lost by it: what is not in the lake is still in the landing buffer.
const LAST_CHANGE: Duration = Duration::from_secs(5);

/// What is known from one pass to the next.
#[derive(Debug, Default)]
pub(crate) struct Passes {
    /// Streams that failed: when they are tried again, and why they failed.
    failed: BTreeMap<StreamName, (Duration, String)>,
    upkeep_at: Duration,
    upkeep_failed: Vec<String>,
    /// Streams whose columns stand in the catalogue.
    declared: BTreeSet<StreamName>,
    /// Until when nothing is changed, and why, if something is wrong.
    rests: Option<(Duration, Option<String>)>,
}

impl Lake {
    /// Runs until `shutdown`. Failures are reported by [`Lake::problem`] and tried again; they never end it.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let mut passes = Passes::default();
        while !shutdown.is_requested() {
            if self.stoppable_pass(&mut passes, &shutdown).await {
                continue;
            }
            tokio::select! {
                () = shutdown.requested() => {}
                () = sleep(TICK) => {}
            }
        }
        self.inner.storage.stop();
        Ok(())
    }

    /// A pass that does not wait for an object store when the daemon stops.
    async fn stoppable_pass(&self, passes: &mut Passes, shutdown: &Shutdown) -> bool {
        let late = async {
            shutdown.requested().await;
            sleep(LAST_CHANGE).await;
        };
        let pass = pin!(self.pass(passes, shutdown));
        match select(pass, pin!(late)).await {
            Either::Left((busy, _)) => busy,
            Either::Right(((), pass)) => {
                self.inner.storage.stop();
                pass.await
            }
        }
    }

    /// One load of each stream that is due, so that a busy one keeps none waiting, and upkeep when it is time. Returns
    /// whether there is more to do at once. Without the lead, only a look at the catalogue.
    pub(crate) async fn pass(&self, passes: &mut Passes, shutdown: &Shutdown) -> bool {
        let mut problems = vec![];
        let busy = match self.may_change(passes).await {
            true => self.change(passes, &mut problems, shutdown).await,
            false => false,
        };
        problems.extend(self.unlink().await.err().map(|error| chain(&error)));
        problems.extend(passes.rests.iter().filter_map(|(_, reason)| reason.clone()));
        problems.extend(passes.failed.values().map(|(_, reason)| reason.clone()));
        problems.extend(passes.upkeep_failed.iter().cloned());
        self.report(problems);
        busy
    }

    /// Whether this coordinator leads, and is not resting from an attempt to.
    async fn may_change(&self, passes: &mut Passes) -> bool {
        let now = self.inner.clock.monotonic();
        if passes.rests.as_ref().is_some_and(|(until, _)| now < *until) {
            return false;
        }
        passes.rests = None;
        match self.as_leader(|_| Ok(true)).await {
            Ok(true) => return true,
            Ok(false) => *passes = Passes::default(),
            Err(error) => *passes = self.rest(&error),
        }
        false
    }

    /// Forgets what was known, for a while. That another coordinator leads is no problem.
    fn rest(&self, error: &Error) -> Passes {
        let until = self.inner.clock.monotonic() + PAUSE;
        Passes { rests: Some((until, (!error.is_lost_lead()).then(|| chain(error)))), ..Passes::default() }
    }

    async fn change(&self, passes: &mut Passes, problems: &mut Vec<String>, shutdown: &Shutdown) -> bool {
        let mut busy = false;
        problems.extend(self.declare_new(passes).await.err().map(|error| chain(&error)));
        for stream in self.due_streams() {
            let now = self.inner.clock.monotonic();
            let rests = passes.failed.get(&stream).is_some_and(|(until, _)| now < *until);
            if rests || shutdown.is_requested() {
                continue;
            }
            passes.failed.remove(&stream);
            match self.load(&stream).await {
                Ok(more) => busy |= more,
                Err(error) if error.is_lost_lead() => {
                    *passes = self.rest(&error);
                    return false;
                }
                Err(error) => {
                    let reason = format!("stream `{stream}`: {}", chain(&error));
                    passes.failed.insert(stream, (now + PAUSE, reason));
                }
            }
        }
        if self.inner.clock.monotonic() >= passes.upkeep_at && !shutdown.is_requested() {
            busy |= self.keep_up(passes).await;
        }
        busy
    }

    /// Merges one group of files; retention when there is none. Returns whether there may be another.
    async fn keep_up(&self, passes: &mut Passes) -> bool {
        passes.upkeep_failed.clear();
        let merged = self.compact_once().await;
        let expired = match merged {
            Ok(true) => return true,
            _ => self.expire().await,
        };
        for (doing, error) in [("merging files", merged.err()), ("retention", expired.err())] {
            match error {
                Some(error) if error.is_lost_lead() => {
                    *passes = self.rest(&error);
                    return false;
                }
                Some(error) => passes.upkeep_failed.push(format!("{doing}: {}", chain(&error))),
                None => {}
            }
        }
        passes.upkeep_at = self.inner.clock.monotonic() + UPKEEP;
        false
    }

    fn report(&self, mut problems: Vec<String>) {
        problems.dedup();
        let problem = (!problems.is_empty()).then(|| format!("lake: {}", problems.join("; ")));
        if self.set_problem(problem.clone()) {
            warn!(problem = problem.unwrap_or_default(), "something in the lake makes no progress");
        }
    }

    /// Declares the columns of streams that are new, so that they are known before their first file.
    async fn declare_new(&self, passes: &mut Passes) -> Result<(), Error> {
        let waiting: BTreeSet<StreamName> = self.inner.waiting.by_stream().into_keys().collect();
        passes.declared.retain(|stream| waiting.contains(stream));
        let new: Vec<StreamName> = waiting.difference(&passes.declared).cloned().collect();
        if !new.is_empty() {
            let streams = new.clone();
            self.as_leader(move |lake| lake.declare(&streams)).await?;
            passes.declared.extend(new);
        }
        Ok(())
    }

    fn declare(&self, streams: &[StreamName]) -> Result<(), Error> {
        let catalogue = self.catalogue()?;
        let cuts = cut_map(&catalogue);
        let tails = self.inner.buffer.tails();
        let is_known = |stream: &StreamName| {
            catalogue.streams.iter().any(|known| known.stream == *stream && !known.columns.is_empty())
        };
        for stream in streams.iter().filter(|stream| !is_known(stream)) {
            let mut united = United::default();
            for (key, tail) in tails.iter().filter(|(key, _)| key.stream == *stream) {
                self.look_at_first(&mut united, key, cuts.get(key).copied().unwrap_or_default(), *tail)?;
            }
            if united.len() > 0 {
                self.inner.store.declare_columns(stream, &united.described())?;
            }
        }
        Ok(())
    }

    fn look_at_first(
        &self,
        united: &mut United,
        key: &StreamKey,
        cut: Sequence,
        tail: Sequence,
    ) -> Result<(), Error> {
        if cut < tail {
            let frames = self.inner.buffer.read(key, cut, 1)?;
            frames.iter().for_each(|frame| united.add(frame.schema.arrow()));
        }
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
