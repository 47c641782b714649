//! Delivers groups: see the documentation of the crate for the steps.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use aap_sinks::{Failure, FailureKind, Group, GroupLimits, Guarantee, Positions, Sink, Target};
use futures::future::BoxFuture;

use crate::documents::{self, Ready};
use crate::fail::{self, MongoError};
use crate::ledger::{Held, Ledger};
use crate::link::Link;
use crate::spec::MongoDbSpec;
use crate::{probe, rows};

/// Rows at a time: enough that the look at the ledger and its change do not count; few enough that little is written again
/// after a doubt.
const GROUP_ROWS: usize = 10_000;
/// Bytes at a time: what a group may take of the coordinator's memory, several times over as documents.
const GROUP_BYTES: usize = 8 << 20;
/// How long rows wait for others.
const LINGER: Duration = Duration::from_millis(250);

/// A sink that writes to MongoDB.
#[derive(Debug)]
pub struct MongoDbSink {
    target: Target,
    spec: MongoDbSpec,
    link: Option<Link>,
    /// What it knows since it took the place over; taken out while it writes, so that a call that is dropped leaves none.
    held: Option<Held>,
    /// Collections that keep `_id` unique, or are not there yet.
    fit: HashSet<String>,
}

impl MongoDbSink {
    /// A sink for `target`. Connects when it is first used.
    pub fn new(target: Target, spec: MongoDbSpec) -> Self {
        Self { target, spec, link: None, held: None, fit: HashSet::new() }
    }

    /// A client, kept until a call fails: secrets are read anew then.
    async fn connect(&mut self) -> Result<Link, Failure> {
        self.spec.check().map_err(fail::setting)?;
        match self.link.take() {
            Some(link) => Ok(link),
            None => Link::to(&self.spec).await.map_err(|error| self.failed(&error)),
        }
    }

    async fn take_over(&mut self) -> Result<Positions, Failure> {
        self.held = None;
        self.fit.clear();
        let link = self.connect().await?;
        let held = self.ledger(&link).take_over().await.map_err(|error| self.failed(&error))?;
        let positions = held.positions.clone();
        (self.link, self.held) = (Some(link), Some(held));
        Ok(positions)
    }

    async fn write_group(&mut self, group: &Group) -> Result<(), Failure> {
        if group.slices.is_empty() {
            return Ok(());
        }
        let Some(mut held) = self.held.take() else {
            return Err(Failure::moved("the sink has not asked where it stands"));
        };
        let link = self.connect().await?;
        let mut fit = std::mem::take(&mut self.fit);
        let written = self.write_with(&link, &mut fit, &mut held, group).await;
        // Rows that are not taken leave everything as it is.
        if matches!(&written, Ok(()) | Err(Failure { kind: FailureKind::Rows(_), .. })) {
            (self.link, self.held, self.fit) = (Some(link), Some(held), fit);
        }
        written
    }

    async fn write_with(
        &self,
        link: &Link,
        fit: &mut HashSet<String>,
        held: &mut Held,
        group: &Group,
    ) -> Result<(), Failure> {
        if let Some(moved) = group.misplaced(&held.positions) {
            return Err(moved);
        }
        let ledger = self.ledger(link);
        if !ledger.is_ours(held).await.map_err(|error| self.failed(&error))? {
            return Err(Failure::moved("another instance of the sink has taken the place over"));
        }
        let mut bad = vec![];
        for (collection, ready) in self.documents(group).await? {
            self.ensure_fit(link, fit, &collection).await?;
            let refused =
                rows::insert(link, &collection, &ready).await.map_err(|error| self.failed(&error))?;
            bad.extend(refused);
        }
        match bad.is_empty() {
            true => ledger.advance(held, group).await,
            // The others are there, and stay as they are when they are written again.
            false => Err(Failure::rows(bad)),
        }
    }

    /// The documents of each collection.
    async fn documents(&self, group: &Group) -> Result<BTreeMap<String, Vec<Ready>>, Failure> {
        let (group, spec) = (group.clone(), self.spec.clone());
        let made = tokio::task::spawn_blocking(move || {
            let (mut collections, mut bad) = (BTreeMap::<String, Vec<Ready>>::new(), vec![]);
            for (number, slice) in group.slices.iter().enumerate() {
                let (ready, refused) = documents::of(slice, number, spec.decimals)
                    .map_err(|error| fail::failure(&spec, &MongoError::Answer(error.to_string())))?;
                bad.extend(refused);
                if !ready.is_empty() {
                    collections.entry(spec.collection.of(&slice.key.stream)).or_default().extend(ready);
                }
            }
            if bad.is_empty() { Ok(collections) } else { Err(Failure::rows(bad)) }
        });
        made.await.map_err(|panic| self.failed(&MongoError::Answer(panic.to_string())))?
    }

    async fn ensure_fit(
        &self,
        link: &Link,
        fit: &mut HashSet<String>,
        collection: &str,
    ) -> Result<(), Failure> {
        if fit.contains(collection) {
            return Ok(());
        }
        match rows::unfit(link, collection).await.map_err(|error| self.failed(&error))? {
            Some(why) => Err(fail::unfit(collection, why)),
            None => {
                fit.insert(collection.to_owned());
                Ok(())
            }
        }
    }

    async fn look(&mut self) -> Result<Vec<String>, Failure> {
        let link = self.connect().await?;
        let seen = probe::look(&link, &self.spec, &self.ledger(&link)).await;
        let seen = seen.map_err(|error| self.failed(&error))?;
        self.link = Some(link);
        Ok(seen)
    }

    fn ledger<'a>(&'a self, link: &'a Link) -> Ledger<'a> {
        Ledger { link, spec: &self.spec, sink: &self.target.name, uid: &self.target.uid }
    }

    fn failed(&self, error: &MongoError) -> Failure {
        fail::failure(&self.spec, error)
    }
}

impl Sink for MongoDbSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn limits(&self) -> GroupLimits {
        GroupLimits { rows: GROUP_ROWS, bytes: GROUP_BYTES, linger: LINGER }
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
