//! The audit log of this coordinator, and what operators ask of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aap_access::{Kind, Object, Principal, Verb};
use aap_audit::{
    Actor, AuditLog, Checkpoint, Entry, Error, Filter, Order, PublicKey, Query, Reader, Record, SigningKey,
    Tail, verify,
};
use aap_proto::v1::{self, audit_server::Audit};
use aap_proto::{audit_record, audit_verification, status_of_problem};
use aap_runtime::{Clock, Home, Shutdown};
use aap_types::{ExitCode, Problem};
use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::access::Caller;
use crate::operator::until_first_of;

/// The log, within the coordinator's home, and the key that signs it.
const DIRECTORY: &str = "audit";
const KEY: &str = "audit.key";
/// Most records of a tail: they are turned round in memory, some 6 MB.
const TAIL_RECORDS_MAX: u64 = 10_000;
/// Records that are read at once, on the blocking pool.
const BATCH_RECORDS: usize = 256;

/// The audit log of this coordinator. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AuditTrail {
    log: AuditLog,
    directory: Arc<Utf8PathBuf>,
    /// Records that could not be written since the start.
    unwritten: Arc<AtomicU64>,
}

impl AuditTrail {
    /// Opens or makes the log in the coordinator's home.
    pub(crate) async fn open(home: &Home, clock: Arc<dyn Clock>) -> Result<Self> {
        let home = home.coordinator();
        let opened = spawn_blocking(move || Self::open_in(&home, clock)).await?;
        opened.context("open the audit log")
    }

    fn open_in(home: &Utf8Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let key = SigningKey::open_or_create(&home.join(KEY)).context("open the key of the audit log")?;
        let directory = home.join(DIRECTORY);
        let opened = AuditLog::open(&directory, key, clock)?;
        if let Some(reason) = &opened.recovery.broken {
            warn!(%directory, reason, "the audit log was found broken; it goes on in a new segment");
        }
        let cut_bytes = opened.recovery.cut_bytes;
        info!(last = opened.log.last(), cut_bytes, "audit log open");
        Ok(Self { log: opened.log, directory: Arc::new(directory), unwritten: Arc::default() })
    }

    /// Records what was done or denied; durable when it returns.
    ///
    /// # Errors
    /// `audit.unavailable`: it is not recorded, so what it says must not be done.
    pub(crate) async fn record(&self, record: Record) -> Result<(), Problem> {
        let mut waiting = Waiting { unwritten: &self.unwritten, is_queued: false };
        let place = self.log.place().await;
        waiting.is_queued = true;
        let recorded = match place {
            Ok(place) => place.append(record).await,
            Err(error) => Err(error),
        };
        recorded.map(drop).map_err(|error| {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
            error.problem()
        })
    }

    /// Records what nobody waits for any more.
    pub(crate) fn note(&self, record: Record) {
        if let Err(error) = self.log.note(record) {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, "the end of an answer could not be recorded");
        }
    }

    /// How many records could not be written since the start: of actions that were refused for it, or of their ends.
    pub(crate) fn unwritten(&self) -> u64 {
        self.unwritten.load(Ordering::Relaxed) + self.log.unheard()
    }

    /// How many lines there are, with those that retention let go.
    pub(crate) fn lines(&self) -> u64 {
        self.log.last()
    }

    /// Signs what was recorded, and closes.
    pub(crate) async fn close(self) -> Result<()> {
        spawn_blocking(move || self.log.close()).await.context("close the audit log")
    }
}

/// A record that waits for a place in the queue. Whoever drops it meanwhile, because whoever asked is gone, loses it: this is counted, too.
struct Waiting<'a> {
    unwritten: &'a AtomicU64,
    is_queued: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_queued {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a record was given up while it waited for a place in the audit log");
        }
    }
}

/// Who acts, as it is recorded.
pub(crate) fn actor(principal: &Principal) -> Actor {
    Actor {
        kind: principal.kind.as_str().to_owned(),
        name: principal.name.clone(),
        credential: principal.credential.as_ref().map(ToString::to_string),
    }
}

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct AuditService {
    trail: AuditTrail,
    /// Whoever follows the log is let go then.
    shutdown: Shutdown,
}

type RecordStream = BoxStream<'static, Result<v1::AuditRecord, Status>>;

impl AuditService {
    pub(crate) fn new(trail: AuditTrail, shutdown: Shutdown) -> Self {
        Self { trail, shutdown }
    }

    /// The newest records, the oldest of them first, and where they end.
    async fn newest(&self, filter: Filter, limit: u64) -> Result<(Vec<Entry>, u64), Problem> {
        let limit = if limit == 0 { TAIL_RECORDS_MAX } else { limit.min(TAIL_RECORDS_MAX) };
        let log = self.trail.log.clone();
        let read = spawn_blocking(move || {
            // Before it is read: what comes meanwhile is the tail's to give.
            let last = log.last();
            let query = Query { filter, order: Order::NewestFirst, from: Some(last), limit: Some(limit) };
            let entries: Result<Vec<Entry>, Error> = log.read(query)?.collect();
            entries.map(|entries| (entries, last))
        });
        let (mut entries, last) =
            read.await.map_err(|panic| bug(&panic))?.map_err(|error| error.problem())?;
        entries.reverse();
        Ok((entries, last))
    }

    async fn verified(&self, request: v1::VerifyAuditRequest) -> Result<v1::VerifyAuditReply, Problem> {
        let checkpoints = request.checkpoints.iter().map(|text| text.parse());
        let checkpoints: Vec<Checkpoint> =
            checkpoints.collect::<Result<_, _>>().map_err(|error| not_kept("a checkpoint", &error))?;
        let key =
            Some(request.public_key).filter(|text| !text.is_empty()).map(|text| text.parse::<PublicKey>());
        let key = key.transpose().map_err(|error| not_kept("the public key", &error))?;
        let trail = self.trail.clone();
        let verified = spawn_blocking(move || match key.filter(|key| *key != trail.log.public_key()) {
            None => trail.log.verify(&checkpoints),
            // Then every signature is wrong, and what is written meanwhile makes no difference.
            Some(key) => verify(&trail.directory, &key, &checkpoints),
        });
        let verified = verified.await.map_err(|panic| bug(&panic))?;
        verified.map(audit_verification).map_err(|error| error.problem())
    }
}

#[tonic::async_trait]
impl Audit for AuditService {
    type ReadStream = RecordStream;

    async fn read(
        &self,
        request: Request<v1::ReadAuditRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let caller = reader(&request).map_err(refuse)?;
        let request = request.into_inner();
        let filter = filter(&request).map_err(refuse)?;
        let entries: BoxStream<'static, Result<Entry, Error>> = if request.tail {
            let (newest, last) = self.newest(filter.clone(), request.limit).await.map_err(refuse)?;
            let newest = stream::iter(newest.into_iter().map(Ok));
            if request.follow {
                newest.chain(follow(self.trail.log.tail(last), filter)).boxed()
            } else {
                newest.boxed()
            }
        } else {
            let limit = Some(request.limit).filter(|limit| *limit != 0);
            let query = Query { filter, order: Order::NewestFirst, from: None, limit };
            in_batches(self.trail.log.read(query).map_err(|error| refuse(error.problem()))?).boxed()
        };
        let shutdown = self.shutdown.clone();
        let records = entries.map(|entry| entry.map(audit_record).map_err(|error| refuse(error.problem())));
        let refused = async move { Err(refuse(caller.until_refused(may_read).await)) };
        let records = until_first_of(records, refused).take_until(async move { shutdown.requested().await });
        Ok(Response::new(records.boxed()))
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyAuditRequest>,
    ) -> Result<Response<v1::VerifyAuditReply>, Status> {
        reader(&request).map_err(refuse)?;
        self.verified(request.into_inner()).await.map(Response::new).map_err(refuse)
    }

    async fn export(
        &self,
        request: Request<v1::ExportAuditRequest>,
    ) -> Result<Response<v1::ExportAuditReply>, Status> {
        reader(&request).map_err(refuse)?;
        let checkpoint = self.trail.log.checkpoint().await.map_err(|error| refuse(error.problem()))?;
        let public_key = self.trail.log.public_key().to_string();
        Ok(Response::new(v1::ExportAuditReply { public_key, checkpoint: checkpoint.to_string() }))
    }
}

fn refuse(problem: Problem) -> Status {
    status_of_problem(&problem)
}

fn bug(error: &tokio::task::JoinError) -> Problem {
    Problem::new("platform.bug", ExitCode::Bug, "the coordinator failed at its work").caused_by(error)
}

fn not_kept(what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("audit.not_kept", ExitCode::Usage, format!("{what} cannot be used"))
        .caused_by(error)
        .hint_command("keep key and checkpoint", "aap audit export --to DIR")
}

/// Whoever may look at the log, if they are who calls.
fn reader<T>(request: &Request<T>) -> Result<Caller, Problem> {
    let caller = Caller::of(request)?;
    caller.require(Verb::Read, Object::named(Kind::Audit, DIRECTORY))?;
    Ok(caller)
}

/// Whether they still may.
fn may_read(caller: &Caller) -> bool {
    caller.may(Verb::Read, Object::named(Kind::Audit, DIRECTORY))
}

/// What is asked for; what is empty is no condition.
fn filter(request: &v1::ReadAuditRequest) -> Result<Filter, Problem> {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let time = |us: i64| Some(us).filter(|us| *us != 0);
    let outcome = text(&request.outcome).map(|outcome| outcome.parse()).transpose();
    let outcome = outcome.map_err(|error| {
        Problem::new("audit.bad_request", ExitCode::Usage, "the outcome is none of those there are")
            .cause(error)
    })?;
    Ok(Filter {
        since: time(request.since_us),
        until: time(request.until_us),
        actor: text(&request.actor),
        action: text(&request.action),
        outcome,
        object_kind: text(&request.object_kind),
        object_name: text(&request.object_name),
    })
}

/// The records of a reader, some at a time on the blocking pool.
fn in_batches(reader: Reader) -> impl Stream<Item = Result<Entry, Error>> + Send + 'static {
    let batches = stream::try_unfold(reader, async |mut reader: Reader| {
        let read = spawn_blocking(move || {
            let batch: Result<Vec<Entry>, Error> = reader.by_ref().take(BATCH_RECORDS).collect();
            batch.map(|batch| (batch, reader))
        });
        let (batch, reader) = read.await.map_err(|_panic| Error::Closed)??;
        Ok::<_, Error>(Some((batch, reader)).filter(|(batch, _)| !batch.is_empty()))
    });
    batches.map_ok(|batch| stream::iter(batch.into_iter().map(Ok))).try_flatten()
}

/// Each further record that is wanted.
fn follow(tail: Tail, filter: Filter) -> impl Stream<Item = Result<Entry, Error>> + Send + 'static {
    let records =
        stream::unfold(tail, |mut tail| async move { tail.next().await.map(|entry| (entry, tail)) });
    records.filter(move |entry| std::future::ready(entry.as_ref().map_or(true, |entry| filter.wants(entry))))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use aap_audit::Outcome;
    use aap_runtime::SystemClock;

    use super::*;

    #[tokio::test]
    async fn a_record_is_counted_whose_statement_is_cut_off_while_the_queue_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let home = Utf8Path::from_path(directory.path()).unwrap();
        let trail = AuditTrail::open_in(home, Arc::new(SystemClock::default())).unwrap();
        let before = trail.lines();
        let record = || Record::new(Actor::default(), "query run", Outcome::Done);
        let places: Vec<_> = std::iter::from_fn(|| trail.log.place_now().ok()).collect();
        {
            let mut cut_off = pin!(trail.record(record()));
            assert!(futures::poll!(&mut cut_off).is_pending());
            assert_eq!(trail.unwritten(), 0, "it may still be written");
        }
        assert_eq!(trail.unwritten(), 1);
        trail.note(record());
        assert_eq!(trail.unwritten(), 2);
        drop(places);
        // One that was queued is written, whoever waits for it.
        {
            let mut cut_off = pin!(trail.record(record()));
            assert!(futures::poll!(&mut cut_off).is_pending());
        }
        trail.record(record()).await.unwrap();
        assert_eq!((trail.unwritten(), trail.lines()), (2, before + 2));
        trail.close().await.unwrap();
    }
}
