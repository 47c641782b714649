//! The sink into an object store that can refuse to overwrite: S3 and its like, or a directory.
//!
//! ```text
//!  <prefix>/<stream>/<first 8 digits of the sink's uid>-<number, 12 digits>.parquet
//!      events/4f1d09c2-000000000001.parquet ─► …0002.parquet ─► …0003.parquet      footer: how far all keys stand after it
//!  <prefix>/_aap/create-twice.txt                                                   what the store is tested with
//! ```
//! The objects of a stream are a chain, and the chain is the ledger: the next number is created only if no object has it
//! (`If-None-Match: *`), and the footer of each Parquet file says how far every key of the stream stands once it is there. So rows
//! and positions become visible in one step, and of two writers one gets the number. Nothing is ever overwritten, and nothing is
//! deleted.
//!
//! ```text
//!  resume_point:  can the store refuse? ─► streams under the prefix ─► the highest number of each ─► its footer
//!  write:         do the slices go on where the chain ends?  no: moved
//!                 slices of each stream ─► one Parquet file ─► create number + 1 ─┬─ created ─► written
//!                                                                                 └─ it is there, or no answer: whose attempt
//!                                                                                    does its footer name? ours: written
//!                                                                                    another: moved.  not there: ask again
//! ```
//! A group with several streams makes one object for each, and each is a commit of its own: after a failure some may be there, which
//! the next `resume_point` finds. A request that is still on its way when we ask again takes its number later, or finds it taken;
//! either way one of the two attempts is refused.
//!
//! With `allow_duplicates` a store is taken that cannot refuse. Then each attempt has a name of its own behind the number, so that
//! writers do not destroy each other's rows, and the guarantee is "at least once".
//!
//! | file | owns |
//! |---|---|
//! | `spec.rs` | [`S3Spec`]: what an operator says about a sink |
//! | `open.rs` | a store from it |
//! | `chain.rs`, `footer.rs` | the objects: names, the last, the next; what their footers say |
//! | `encode.rs` | slices as a Parquet file |
//! | `fail.rs` | what the runner is told of trouble |

mod chain;
mod encode;
mod fail;
mod footer;
mod open;
mod spec;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use aap_buffer::mutant;
use aap_sinks::{Failure, FailureKind, Group, GroupLimits, Guarantee, Positions, Sink, Slice, Target};
use aap_types::{ExitCode, Problem, Sequence, StreamName};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use tokio::task::{JoinError, spawn_blocking};

use chain::{Appended, Chains, Link, Next, StoreError};
use footer::Footer;
pub use spec::{Every, S3Spec};

/// Rows at a time: what gives objects of a size that readers like.
const GROUP_ROWS: usize = 1_000_000;
/// Bytes at a time: what a group may take of the coordinator's memory. The files that are made of it take a fraction more.
const GROUP_BYTES: usize = 64 << 20;
/// Objects under way at a time: one for each stream of a group.
const PUTS: usize = 8;

/// A sink that writes to an object store.
#[derive(Debug)]
pub struct S3Sink {
    target: Target,
    spec: S3Spec,
    /// What it knows since it asked; taken out while it writes, so that a call that is dropped leaves none.
    held: Option<Held>,
}

/// Where everything stands.
#[derive(Debug)]
struct Held {
    chains: Arc<Chains>,
    links: BTreeMap<StreamName, Link>,
    attempts: Attempts,
}

/// Names of attempts: never used by anybody else.
#[derive(Debug)]
struct Attempts {
    random: u64,
    number: u64,
}

impl Attempts {
    fn new() -> Self {
        // The standard library keys its hashers with the system's randomness.
        Self { random: RandomState::new().build_hasher().finish(), number: 0 }
    }

    fn next(&mut self) -> String {
        self.number += 1;
        format!("{:016x}-{}", self.random, self.number)
    }
}

impl S3Sink {
    /// A sink for `target`. Connects when it is first used.
    pub fn new(target: Target, spec: S3Spec) -> Self {
        Self { target, spec, held: None }
    }

    async fn open(&self) -> Result<Chains, Failure> {
        let (spec, uid) = (self.spec.clone(), self.target.uid.clone());
        spawn_blocking(move || open::open(&spec, &uid))
            .await
            .map_err(|error| bug(FailureKind::Retry, &error))?
    }

    async fn take_over(&mut self) -> Result<Positions, Failure> {
        self.held = None;
        let chains = self.open().await?;
        let links = self.ask(&chains).await.map_err(|error| self.failed(&error))?;
        let positions = links.values().flat_map(|link| link.positions.clone()).collect();
        self.held = Some(Held { chains: Arc::new(chains), links, attempts: Attempts::new() });
        Ok(positions)
    }

    async fn ask(&self, chains: &Chains) -> Result<BTreeMap<StreamName, Link>, StoreError> {
        if chains.is_conditional {
            chains.test_create().await?;
        }
        Ok(chains.all().await?.into_iter().collect())
    }

    async fn write_group(&mut self, group: &Group) -> Result<(), Failure> {
        if group.slices.is_empty() {
            return Ok(());
        }
        let Some(mut held) = self.held.take() else {
            return Err(Failure::moved("the sink has not asked where it stands"));
        };
        stands(&held, group)?;
        let objects = match objects(&mut held, group).await {
            Ok(objects) => objects,
            Err(failure) => {
                // Nothing was written.
                self.held = Some(held);
                return Err(failure);
            }
        };
        let chains = held.chains.clone();
        let putting = objects.into_iter().map(|next| {
            let (chains, sink) = (chains.clone(), &*self);
            async move { sink.put(&chains, next).await }
        });
        let putting = futures::stream::iter(putting).buffer_unordered(PUTS);
        let written: Vec<(StreamName, Link)> = putting.try_collect().await?;
        held.links.extend(written);
        self.held = Some(held);
        Ok(())
    }

    async fn put(&self, chains: &Chains, next: Next) -> Result<(StreamName, Link), Failure> {
        match chains.append(&next).await {
            Ok(Appended::Yes) => Ok((next.stream, next.link)),
            Ok(Appended::Taken) => Err(Failure::moved(format!(
                "another writer made object {} of stream `{}`",
                next.link.number, next.stream
            ))),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn look(&mut self) -> Result<Vec<String>, Failure> {
        let chains = self.open().await?;
        let links = self.ask(&chains).await.map_err(|error| self.failed(&error))?;
        let is_https = self.spec.endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https"));
        let tls = match self.spec.url.starts_with("file://") {
            true => "a directory",
            false if is_https => "TLS",
            false => "no TLS",
        };
        let keys: usize = links.values().map(|link| link.positions.len()).sum();
        Ok(vec![
            format!("store: {}, {tls}", self.spec.place()),
            match chains.is_conditional {
                true => {
                    "conditional create: the store refuses to overwrite `_aap/create-twice.txt`".to_owned()
                }
                false => "conditional create: not used (`allow_duplicates`)".to_owned(),
            },
            format!("ledger: {} streams, {keys} keys of this sink", links.len()),
        ])
    }

    fn failed(&self, error: &StoreError) -> Failure {
        fail::failure(&self.spec, error)
    }
}

/// Whether the group goes on where we believe the chains to end.
fn stands(held: &Held, group: &Group) -> Result<(), Failure> {
    for slice in &group.slices {
        let link = held.links.get(&slice.key.stream);
        let stands = link.and_then(|link| link.positions.get(&slice.key)).copied().unwrap_or(Sequence::ZERO);
        if stands != slice.after {
            let message = format!("the ledger stands at {stands} for {}, not at {}", slice.key, slice.after);
            return Err(Failure::moved(message));
        }
    }
    Ok(())
}

/// The object of each stream of a group, made on the blocking pool.
async fn objects(held: &mut Held, group: &Group) -> Result<Vec<Next>, Failure> {
    let mut planned = vec![];
    for (stream, slices) in group.by_stream() {
        let mut link = held.links.get(stream).cloned().unwrap_or_default();
        let before = mutant::is("positionlate").then(|| link.positions.clone());
        link.number += 1;
        link.positions.extend(slices.iter().map(|slice| (slice.key.clone(), slice.through)));
        let positions = before.unwrap_or_else(|| link.positions.clone());
        let footer = Footer { sink: held.chains.uid.clone(), attempt: held.attempts.next(), positions };
        let slices: Vec<Slice> = slices.into_iter().cloned().collect();
        planned.push((stream.clone(), link, footer, slices));
    }
    let making = spawn_blocking(move || {
        let made = planned.into_iter().map(|(stream, link, footer, slices)| {
            let bytes = encode::file(&slices, &footer).map_err(|error| fail::group(&stream, &error))?;
            Ok::<_, Failure>(Next { stream, link, attempt: footer.attempt, bytes: bytes.into() })
        });
        made.collect::<Result<Vec<Next>, Failure>>()
    });
    // Nothing was written. What panicked over rows would again.
    let kind = |error: &JoinError| if error.is_panic() { FailureKind::Group } else { FailureKind::Retry };
    making.await.map_err(|error| bug(kind(&error), &error))?
}

fn bug(kind: FailureKind, error: &JoinError) -> Failure {
    let problem = Problem::new("platform.bug", ExitCode::Bug, "the S3 sink failed at its work");
    Failure::new(kind, problem.caused_by(error))
}

impl Sink for S3Sink {
    fn guarantee(&self) -> Guarantee {
        match self.spec.allow_duplicates {
            true => Guarantee::AtLeastOnce,
            false => Guarantee::ExactlyOnce,
        }
    }

    fn limits(&self) -> GroupLimits {
        GroupLimits { rows: GROUP_ROWS, bytes: GROUP_BYTES, linger: self.spec.every.duration() }
    }

    fn resume_point(&mut self) -> BoxFuture<'_, Result<Positions, Failure>> {
        Box::pin(self.take_over())
    }

    fn write<'a>(&'a mut self, group: &'a Group) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.write_group(group))
    }

    fn probe(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        Box::pin(self.look())
    }
}
