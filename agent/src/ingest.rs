//! `aap ingest`: a run keyed by stream and name, taken exactly once however often it is repeated or broken off.
//!
//! ```text
//! Open ─▶ Opened { offset, digest of what lies before it, complete? }    from the position in the buffer
//! Data … ─▶ decompress ─▶ cut ─▶ decode ─▶ one append at a time, with the position ─▶ Progress (durable)
//! Finish ─▶ the position says complete ─▶ Done
//! ```
//!
//! The position carries the digest of the content before it, so that what is sent again is known to be the same; a
//! changed content is `ingest.content_changed`. Lines that only grew are taken from where they ended. With `again` the key begins a new generation, durably, before the
//! answer, so that a reconnection of the same run (without `again`) continues it.
//!
//! | file | owns |
//! |---|---|
//! | `ingest/run.rs` | the position of a run |
//! | `ingest/gathered.rs` | what the client sent, until it is taken |
//! | `ingest/problems.rs` | what is refused, and what may go on later |
//! | `ingest/digest.rs` | a BLAKE3 that can be put aside and taken up again |
//! | `ingest/taker.rs` | lines: ndjson, csv, text |
//! | `ingest/claims.rs` | what an Arrow input would become, before it is read |
//! | `ingest/columnar.rs` | whole files: arrow, parquet |

mod claims;
pub mod columnar;
pub mod digest;
mod gathered;
mod problems;
mod run;
mod taker;

pub use claims::{Allowance, ClaimError, check_stream};
pub use run::{End, Run, RunDetail, Whole, content_changed};

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aap_buffer::mutant;
use aap_proto::v1::ingest_reply::Kind as Reply;
use aap_proto::v1::ingest_request::Kind as Request;
use aap_proto::v1::{IngestDone, IngestOpen, IngestOpened, IngestProgress, IngestReply, IngestRequest};
use aap_proto::{problem_of_status, status_of_problem};
use aap_runtime::Shutdown;
use aap_types::{ExitCode, Problem, SourceKind, StreamKey, StreamName};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::Status;

use self::columnar::Columnar;
use self::digest::unhex;
use self::gathered::{gather, take_gathered};
use self::problems::{bug, draining, not_stored, protocol, under_way};
use self::taker::Taker;
use crate::config::FormatSpec;
use crate::deletions::Place;
use crate::formats::Recipe;
use crate::ingress::{Packer, Parcel, positions_only};
use crate::records::Rules;
use crate::source::SourceDeps;

/// Bytes gathered before they are taken: with the parcel before them under way, decoding and fsync overlap.
const GATHER_BYTES: usize = 4 << 20;
/// A parcel that is not durable after this is looked after: the disk takes milliseconds, so the buffer may be full.
const FULL_FIRST_LOOK: Duration = Duration::from_millis(200);
/// As long as it is, the client hears of it so often.
const FULL_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest record; the rest of it is cut. JSON documents of a few megabytes in a line exist.
const RECORD_BYTES_MAX: usize = 8 << 20;
/// Longest name: it is part of a key, and a path has at most 4096 bytes.
const NAME_BYTES_MAX: usize = 4096;

/// Answers of one run. One at a time is enough: the next is made after the client could have read it.
pub type Replies = mpsc::Sender<Result<IngestReply, Status>>;

/// The runs under way, so that no two take the same content.
#[derive(Debug, Clone, Default)]
pub struct Runs(Arc<Mutex<BTreeSet<String>>>);

/// The right to be the only one with a key, until it is dropped.
struct Claim {
    runs: Runs,
    key: String,
}

impl Runs {
    fn claim(&self, key: &str) -> Option<Claim> {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.insert(key.to_owned()).then(|| Claim { runs: self.clone(), key: key.to_owned() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.runs.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Serves one call to its end; failures go to the client.
pub async fn serve(
    deps: SourceDeps,
    runs: Runs,
    requests: impl Stream<Item = Result<IngestRequest, Status>> + Send + Unpin,
    replies: Replies,
    shutdown: Shutdown,
) {
    let call = Call { deps, replies: replies.clone() };
    let run = async {
        // How far this run came may be known to the coordinator only.
        call.deps.first_welcome.settled().await;
        call.run(&runs, requests).await
    };
    let result = tokio::select! {
        result = run => result,
        () = shutdown.requested() => {
            Err(Problem::new("agent.stopping", ExitCode::Unavailable, "the agent is stopping").retry_after_ms(500))
        }
    };
    if let Err(problem) = result {
        tracing::info!(code = problem.code, problem = problem.message, "ingest ended early");
        drop(replies.send(Err(status_of_problem(&problem))).await);
    }
}

struct Call {
    deps: SourceDeps,
    replies: Replies,
}

/// The two ways to take an input.
enum Way {
    Lines(Box<Taker>),
    Columnar(Box<Columnar>),
}

impl Call {
    async fn run(
        &self,
        runs: &Runs,
        mut requests: impl Stream<Item = Result<IngestRequest, Status>> + Send + Unpin,
    ) -> Result<(), Problem> {
        let open = match requests.next().await.transpose().map_err(|status| problem_of_status(&status))? {
            Some(IngestRequest { kind: Some(Request::Open(open)) }) => open,
            _ => return Err(protocol("a run begins with `open`")),
        };
        let stream: StreamName = open.stream.parse().map_err(|error: aap_types::NameError| {
            Problem::new("ingest.bad_stream", ExitCode::Usage, error.to_string())
        })?;
        if open.name.is_empty() || open.name.len() > NAME_BYTES_MAX {
            return Err(Problem::new(
                "ingest.bad_name",
                ExitCode::Usage,
                "a run needs a name of 1 to 4096 bytes",
            ));
        }
        let key = Run::key(&stream, &open.name);
        let _claim = runs.claim(&key).ok_or_else(|| under_way(&stream, &open.name, self.waits_for()))?;
        let run = self.known(&stream, &open).await?;
        if run.detail.complete && run.detail.end.is_none() {
            return self.already_complete(run, requests).await;
        }
        let (rows_before, is_complete) = (run.detail.rows, run.detail.complete);
        let (way, opened) = self.way(run)?;
        self.reply(Reply::Opened(opened)).await?;
        let mut requests = requests.peekable();
        if is_complete && !matches!(std::pin::Pin::new(&mut requests).peek().await, Some(Ok(_))) {
            // The client found all of its content taken.
            return Ok(());
        }
        let done = match way {
            Way::Lines(taker) => self.take_lines(taker, requests, rows_before).await?,
            Way::Columnar(columnar) => self.take_columnar(columnar, requests, rows_before).await?,
        };
        self.reply(Reply::Done(done)).await
    }

    /// What is durable under this key, or a new run. A new generation is durable before this returns.
    async fn known(&self, stream: &StreamName, open: &IngestOpen) -> Result<Run, Problem> {
        let position = self.deps.ingress.buffer.position(SourceKind::Ingest, &Run::key(stream, &open.name));
        let fresh = |generation| Run {
            stream: stream.clone(),
            name: open.name.clone(),
            offset: 0,
            detail: RunDetail {
                generation,
                format: open.format.clone(),
                codec: open.codec.clone(),
                ..RunDetail::default()
            },
        };
        let Some(position) = position.filter(|_| !mutant::is("noresume")) else { return Ok(fresh(0)) };
        let detail: RunDetail = serde_json::from_str(&position.detail).unwrap_or_default();
        if open.again {
            let run = fresh(detail.generation + 1);
            let parcel = positions_only(stream, vec![run.position()]).map_err(|error| not_stored(&error))?;
            self.append(parcel, IngestProgress::default()).await?;
            return Ok(run);
        }
        if self.deps.deletions.cover(stream, detail.last_batch, self.newest(stream)) {
            // What it took is gone with its stream. Nothing to write down: until the first batch is durable it stays so.
            return Ok(fresh(detail.generation + 1));
        }
        let untouched = position.offset == 0 && detail.rows == 0;
        if !untouched && (detail.format != open.format || detail.codec != open.codec) {
            return Err(content_changed(stream, &open.name, "it was taken in another format"));
        }
        let detail = RunDetail { format: open.format.clone(), codec: open.codec.clone(), ..detail };
        Ok(Run { stream: stream.clone(), name: open.name.clone(), offset: position.offset, detail })
    }

    /// The newest batch of a stream of this store.
    fn newest(&self, stream: &StreamName) -> Place {
        let buffer = &self.deps.ingress.buffer;
        let identity = buffer.identity();
        let key = StreamKey { node: identity.node, epoch: identity.epoch, stream: stream.clone() };
        let sequence = buffer.tail(&key).map(|tail| tail.sequence).unwrap_or_default();
        Place { epoch: key.epoch, sequence }
    }

    /// Nothing to do, if the client has the same content; it checks that with the digest.
    async fn already_complete(
        &self,
        run: Run,
        mut requests: impl Stream<Item = Result<IngestRequest, Status>> + Send + Unpin,
    ) -> Result<(), Problem> {
        let whole = run.detail.input.clone().unwrap_or(Whole::new(0, &[]));
        let opened = IngestOpened {
            offset: whole.size,
            prefix_digest: unhex(&whole.digest).unwrap_or_default().into(),
            complete: true,
            rows: run.detail.rows,
            complete_size: whole.size,
            ..IngestOpened::default()
        };
        self.reply(Reply::Opened(opened)).await?;
        while let Some(Ok(request)) = requests.next().await {
            match request.kind {
                Some(Request::Data(data)) if !data.is_empty() => {
                    return Err(content_changed(&run.stream, &run.name, "more follows after what was taken"));
                }
                Some(Request::Finish(_)) => {
                    let done = IngestDone {
                        rows: 0,
                        rows_total: run.detail.rows,
                        bad_rows: run.detail.bad,
                        batches: 0,
                        cut_bytes: run.detail.cut,
                    };
                    return self.reply(Reply::Done(done)).await;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn way(&self, run: Run) -> Result<(Way, IngestOpened), Problem> {
        let rows = run.detail.rows;
        let format = match run.detail.format.as_str() {
            "ndjson" | "json" | "jsonl" => FormatSpec::Ndjson,
            "csv" => FormatSpec::Csv,
            "text" => FormatSpec::Text,
            "arrow" | "parquet" => {
                let columnar = Columnar::new(run, &self.deps.home)?;
                let opened = IngestOpened {
                    offset: 0,
                    prefix_digest: blake3::hash(b"").as_bytes().to_vec().into(),
                    rows,
                    ..IngestOpened::default()
                };
                return Ok((Way::Columnar(Box::new(columnar)), opened));
            }
            other => {
                let message = format!("format `{other}` is not known: ndjson, csv, text, arrow or parquet");
                return Err(Problem::new("ingest.format_unknown", ExitCode::Usage, message));
            }
        };
        let recipe = Recipe::new(format, None, None, false);
        let bug = |error: &dyn std::error::Error| {
            Problem::new("ingest.decoder", ExitCode::Bug, "the decoder cannot be made")
                .cause(error.to_string())
        };
        let (decoder, _) = recipe.build(b"").map_err(|error| bug(&error))?;
        let rules = Rules::new(None, RECORD_BYTES_MAX).map_err(|error| bug(&error))?;
        let packer = Packer::new(run.stream.clone(), run.name.clone(), decoder);
        let taker = Taker::new(run, packer, rules)?;
        let (offset, digest) = (taker.resume_offset(), taker.resume_digest().to_vec().into());
        let detail = &taker.run().detail;
        let opened = match detail.input.as_ref().filter(|_| detail.complete) {
            Some(whole) => IngestOpened {
                offset: whole.size,
                prefix_digest: unhex(&whole.digest).unwrap_or_default().into(),
                complete: true,
                rows,
                complete_size: whole.size,
                may_grow: true,
                grows_from: offset,
                grows_digest: digest,
            },
            None => IngestOpened { offset, prefix_digest: digest, rows, ..IngestOpened::default() },
        };
        Ok((Way::Lines(Box::new(taker)), opened))
    }

    /// Takes lines: while one parcel becomes durable, the next bytes are gathered.
    async fn take_lines(
        &self,
        mut taker: Box<Taker>,
        mut requests: impl Stream<Item = Result<IngestRequest, Status>> + Send + Unpin,
        rows_before: u64,
    ) -> Result<IngestDone, Problem> {
        let (mut batches, mut last) = (0, None);
        let mut told = IngestProgress { rows: rows_before, ..IngestProgress::default() };
        let mut gathered = gather(&mut requests, GATHER_BYTES).await?;
        loop {
            let clock = self.deps.ingress.clock.clone();
            let _permit =
                self.deps.decoding.acquire().await.map_err(|_| protocol("the agent is stopping"))?;
            let took = tokio::task::spawn_blocking(move || {
                let parcel = take_gathered(&mut taker, &mut gathered, clock.unix_us());
                (taker, gathered, parcel)
            });
            let (back, rest, parcel) = took.await.map_err(|error| bug(&error))?;
            drop(_permit);
            (taker, gathered) = (back, rest);
            let parcel = parcel?;
            let is_taken = gathered.bytes.is_empty();
            self.deps.ingress.failpoints.reach("agent.after_read");
            batches += parcel.tallies.iter().filter(|tally| tally.rows > 0).count() as u64;
            let append = self.append(parcel, told.clone());
            if is_taken && gathered.finished {
                self.note_last(taker.run(), append.await?.place.or(last)).await?;
                let detail = &taker.run().detail;
                return Ok(IngestDone {
                    rows: detail.rows - rows_before,
                    rows_total: detail.rows,
                    bad_rows: detail.bad,
                    batches,
                    cut_bytes: detail.cut,
                });
            }
            let next =
                async { if is_taken { gather(&mut requests, GATHER_BYTES).await } else { Ok(gathered) } };
            let (appended, next) = tokio::join!(append, next);
            let appended = appended?;
            last = appended.place.or(last);
            if appended.something {
                let detail = &taker.run().detail;
                told = IngestProgress {
                    durable_offset: taker.durable_offset(),
                    rows: detail.rows,
                    bad_rows: detail.bad,
                    waits_for: String::new(),
                };
                self.reply(Reply::Progress(told.clone())).await?;
            }
            gathered = next?;
        }
    }

    /// Takes a columnar file: first all of it, because its table of contents stands at its end.
    async fn take_columnar(
        &self,
        mut columnar: Box<Columnar>,
        mut requests: impl Stream<Item = Result<IngestRequest, Status>> + Send + Unpin,
        rows_before: u64,
    ) -> Result<IngestDone, Problem> {
        loop {
            let gathered = gather(&mut requests, GATHER_BYTES).await?;
            let finished = gathered.finished;
            let spooled = tokio::task::spawn_blocking(move || {
                let result = columnar.spool(&gathered.bytes);
                (columnar, result)
            });
            let (back, result) = spooled.await.map_err(|error| bug(&error))?;
            columnar = back;
            result?;
            if finished {
                break;
            }
        }
        let (mut batches, mut last) = (0, None);
        let mut told = IngestProgress { rows: rows_before, ..IngestProgress::default() };
        loop {
            let clock = self.deps.ingress.clock.clone();
            let next = tokio::task::spawn_blocking(move || {
                let parcel = columnar.next(clock.unix_us());
                (columnar, parcel)
            });
            let (back, parcel) = next.await.map_err(|error| bug(&error))?;
            columnar = back;
            let Some(parcel) = parcel? else { break };
            batches += parcel.tallies.iter().filter(|tally| tally.rows > 0).count() as u64;
            last = self.append(parcel, told.clone()).await?.place.or(last);
            told.rows = columnar.run().detail.rows;
            self.reply(Reply::Progress(told.clone())).await?;
        }
        self.note_last(columnar.run(), last).await?;
        let rows_total = columnar.run().detail.rows;
        Ok(IngestDone { rows: rows_total - rows_before, rows_total, bad_rows: 0, batches, cut_bytes: 0 })
    }

    /// Writes down which batch was the last of a complete run, so that a deletion of it is known to be one of all its rows.
    async fn note_last(&self, run: &Run, last: Option<Place>) -> Result<(), Problem> {
        let Some(last) = last else { return Ok(()) };
        let mut noted = run.clone();
        noted.detail.last_batch = Some(last);
        let parcel =
            positions_only(&run.stream, vec![noted.position()]).map_err(|error| not_stored(&error))?;
        self.append(parcel, IngestProgress::default()).await?;
        Ok(())
    }

    /// Makes a parcel durable. While the buffer has no room, the client hears what it
    /// waits for, beside what was `told` last. A client that goes away meanwhile does not end the wait: the parcel is queued, and
    /// until it is known what became of it nobody else may begin this run.
    async fn append(&self, parcel: Parcel, told: IngestProgress) -> Result<Appended, Problem> {
        if parcel.is_empty() {
            return Ok(Appended::default());
        }
        if self.deps.ingress.drain.is_draining() {
            return Err(draining());
        }
        let stream = parcel.tallies.first().map(|tally| tally.stream.clone());
        let append = self.deps.ingress.append(parcel);
        tokio::pin!(append);
        let (mut look_after, mut gone) = (FULL_FIRST_LOOK, None);
        loop {
            if let Ok(appended) = tokio::time::timeout(look_after, &mut append).await {
                let ids = appended.map_err(|error| not_stored(&error))?;
                let of_it = ids.iter().rfind(|id| Some(&id.key.stream) == stream.as_ref());
                let place = of_it.map(|id| Place { epoch: id.key.epoch, sequence: id.sequence });
                return gone.map_or(Ok(Appended { something: true, place }), Err);
            }
            look_after = FULL_LOOK_EVERY;
            if let Some(waits_for) = self.waits_for().filter(|_| gone.is_none()) {
                gone = self.reply(Reply::Progress(IngestProgress { waits_for, ..told.clone() })).await.err();
            }
        }
    }

    /// What a full buffer waits for, in words; `None` if it is not full.
    fn waits_for(&self) -> Option<String> {
        let stats = self.deps.ingress.buffer.stats();
        let why = stats.problems.into_iter().next_back().filter(|_| stats.blocked)?;
        let uplink = self.deps.board.uplink_entry();
        let taker = match (uplink.configured, uplink.connected) {
            (false, _) => "this agent has no coordinator that takes data: raise `buffer.budget`".to_owned(),
            (true, true) => "the coordinator is taking it".to_owned(),
            (true, false) if uplink.problem.is_empty() => "the coordinator is not connected".to_owned(),
            (true, false) => uplink.problem,
        };
        Some(format!("{why}; {taker}"))
    }

    async fn reply(&self, kind: Reply) -> Result<(), Problem> {
        let reply = IngestReply { kind: Some(kind) };
        self.replies
            .send(Ok(reply))
            .await
            .map_err(|_| Problem::new("ingest.client_gone", ExitCode::Interrupted, "the client went away"))
    }
}

/// What became of a parcel.
#[derive(Debug, Clone, Copy, Default)]
struct Appended {
    /// It was not empty.
    something: bool,
    /// Its last batch of the run's own stream.
    place: Option<Place>,
}

#[cfg(test)]
mod tests;
