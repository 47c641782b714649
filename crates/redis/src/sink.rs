//! Delivers groups: see the documentation of the crate for the steps.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use aap_sinks::{Failure, FailureKind, Group, GroupLimits, Guarantee, Positions, Sink, Slice, Target};
use aap_types::{ExitCode, Problem};
use futures::future::BoxFuture;

use crate::entries;
use crate::fail::{self, LinkError};
use crate::ledger::{Held, Ledger};
use crate::link::Link;
use crate::spec::RedisSpec;

/// Rows at a time: the server does nothing else while it runs a script, some ten milliseconds for these.
const GROUP_ROWS: usize = 2_000;
/// Bytes at a time: the same, for wide rows.
const GROUP_BYTES: usize = 4 << 20;
/// How long rows wait for others. Streams are read by those who do not like to wait.
const LINGER: Duration = Duration::from_millis(50);

/// A sink that writes to Redis.
#[derive(Debug)]
pub struct RedisSink {
    target: Target,
    spec: RedisSpec,
    link: Option<Link>,
    /// What it knows since it took the place over; taken out while it writes, so that a call that is dropped leaves none.
    held: Option<Held>,
}

impl RedisSink {
    /// A sink for `target`. Connects when it is first used.
    pub fn new(target: Target, spec: RedisSpec) -> Self {
        Self { target, spec, link: None, held: None }
    }

    /// A connection, kept until a command fails.
    async fn connect(&mut self) -> Result<Link, Failure> {
        self.spec.check().map_err(fail::setting)?;
        match self.link.take() {
            Some(link) => Ok(link),
            None => Link::to(&self.spec.server()).await.map_err(|error| self.failed(&error)),
        }
    }

    async fn take_over(&mut self) -> Result<Positions, Failure> {
        self.held = None;
        let mut link = self.connect().await?;
        self.refuse_forgetful(&mut link).await?;
        let taken = self.ledger().take_over(&mut link).await.map_err(|error| self.failed(&error))?;
        let Some(held) = taken else {
            let message = format!("another instance takes the place at {} over just now", self.spec.place());
            let problem = Problem::new("sink.unreachable", ExitCode::Unavailable, message);
            return Err(Failure::new(FailureKind::Retry, problem));
        };
        let positions = held.positions.clone();
        (self.link, self.held) = (Some(link), Some(held));
        Ok(positions)
    }

    /// A server that deletes keys of any kind when memory is short would forget what it has.
    async fn refuse_forgetful(&self, link: &mut Link) -> Result<(), Failure> {
        let Some(memory) = self.info(link, "memory").await.map_err(|error| self.failed(&error))? else {
            return Ok(());
        };
        let policy = memory.get("maxmemory_policy").map_or("", String::as_str);
        let is_limited = memory.get("maxmemory").is_some_and(|bytes| bytes != "0");
        match is_limited && policy.starts_with("allkeys-") {
            true => Err(fail::forgetful(&self.spec, policy)),
            false => Ok(()),
        }
    }

    /// A section of what the server tells of itself; `None` where it does not tell us.
    async fn info(
        &self,
        link: &mut Link,
        section: &str,
    ) -> Result<Option<BTreeMap<String, String>>, LinkError> {
        let told: String = match link.call("", redis::cmd("INFO").arg(section)).await {
            Err(LinkError::Redis(error)) if error.code() == Some("NOPERM") => return Ok(None),
            other => other?,
        };
        let pairs = told.lines().filter_map(|line| line.split_once(':'));
        Ok(Some(pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()))
    }

    async fn write_group(&mut self, group: &Group) -> Result<(), Failure> {
        if group.slices.is_empty() {
            return Ok(());
        }
        let Some(mut held) = self.held.take() else {
            return Err(Failure::moved("the sink has not asked where it stands"));
        };
        let mut link = self.connect().await?;
        let written = self.write_with(&mut link, &mut held, group).await;
        // Rows that no entry can hold are found before anything is sent.
        if matches!(&written, Ok(()) | Err(Failure { kind: FailureKind::Rows(_), .. })) {
            (self.link, self.held) = (Some(link), Some(held));
        }
        written
    }

    async fn write_with(&self, link: &mut Link, held: &mut Held, group: &Group) -> Result<(), Failure> {
        if let Some(moved) = group.misplaced(&held.positions) {
            return Err(moved);
        }
        let mut encoded = self.encode(group).await?;
        let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (number, slice) in group.slices.iter().enumerate() {
            places.entry(self.spec.key.of(&slice.key.stream)).or_default().push(number);
        }
        let (ledger, maxlen) = (self.ledger(), self.spec.maxlen.map_or(0, NonZeroU64::get));
        for (key, numbers) in places {
            if !held.keys.contains(&key) {
                ledger.note(link, &key).await.map_err(|error| self.failed(&error))?;
                held.keys.push(key.clone());
            }
            let slices: Vec<&Slice> = numbers.iter().map(|number| &group.slices[*number]).collect();
            let entries =
                numbers.iter().flat_map(|number| std::mem::take(&mut encoded[*number])).collect::<Vec<_>>();
            let append = ledger.append(&key, held.owner, maxlen, &slices, entries.into_iter());
            ledger.run(link, &key, &append).await.map_err(|error| self.failed(&error))??;
            held.positions.extend(slices.iter().map(|slice| (slice.key.clone(), slice.through)));
        }
        Ok(())
    }

    /// The entries of each slice.
    async fn encode(&self, group: &Group) -> Result<Vec<Vec<Vec<u8>>>, Failure> {
        let (slices, format) = (group.slices.clone(), self.spec.format);
        let encoded = tokio::task::spawn_blocking(move || {
            let (mut all, mut bad) = (vec![], vec![]);
            for (number, slice) in slices.iter().enumerate() {
                match entries::of(slice, number, format) {
                    Ok(entries) => all.push(entries),
                    Err(rows) => bad.extend(rows),
                }
            }
            if bad.is_empty() { Ok(all) } else { Err(Failure::rows(bad)) }
        });
        encoded.await.map_err(|panic| self.failed(&LinkError::Answer(panic.to_string())))?
    }

    async fn look(&mut self) -> Result<Vec<String>, Failure> {
        let mut link = self.connect().await?;
        self.refuse_forgetful(&mut link).await?;
        let seen = self.look_with(&mut link).await.map_err(|error| self.failed(&error))?;
        self.link = Some(link);
        Ok(seen)
    }

    async fn look_with(&self, link: &mut Link) -> Result<Vec<String>, LinkError> {
        let mut lines = vec![];
        let tls = if self.spec.url.starts_with("rediss:") { "TLS" } else { "no TLS" };
        let server = self.info(link, "server").await?.unwrap_or_default();
        let version = server.get("redis_version").map_or("of an unknown version", String::as_str);
        lines.push(format!("server: Redis {version}, {tls}"));
        if let Some(persistence) = self.info(link, "persistence").await? {
            let is_on = persistence.get("aof_enabled").is_some_and(|enabled| enabled == "1");
            lines.push(match is_on {
                true => "persistence: append-only file".to_owned(),
                false => "persistence: no append-only file: what came after the last snapshot is lost with the server, and \
                          written again"
                    .to_owned(),
            });
        }
        if self.spec.key.is_fixed() {
            let key = self.spec.key.to_string();
            let kind: String = link.call(&key, redis::cmd("TYPE").arg(&key)).await?;
            lines.push(match kind.as_str() {
                "none" => format!("key: {key} would be made"),
                "stream" => {
                    let entries: u64 = link.call(&key, redis::cmd("XLEN").arg(&key)).await?;
                    format!("key: {key}, {entries} entries")
                }
                other => format!("key: {key} is a {other} and not a stream: nothing can be written there"),
            });
        } else {
            lines.push(format!("keys: {}, one for each stream", self.spec.key));
        }
        let positions = self.ledger().look(link).await?;
        lines.push(format!("ledger: {} keys of this sink", positions.len()));
        Ok(lines)
    }

    fn ledger(&self) -> Ledger<'_> {
        Ledger { uid: &self.target.uid }
    }

    fn failed(&self, error: &LinkError) -> Failure {
        fail::failure(&self.spec, error)
    }
}

impl Sink for RedisSink {
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
