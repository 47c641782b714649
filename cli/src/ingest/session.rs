//! One connection to the agent: open, check what it has, send the rest, read progress.

use aap_client::v1::ingest_reply::Kind as Reply;
use aap_client::v1::ingest_request::Kind as Request;
use aap_client::v1::{IngestFinish, IngestOpen, IngestOpened, IngestReply, IngestRequest};
use aap_client::{Platform, problem_of};
use std::time::Duration;

use aap_types::{ExitCode, Problem};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::input::{Input, Kind, changed};
use super::report::Report;
use crate::failure::Failure;

/// Messages between reading and the network. Flow control of the connection does the rest.
const MESSAGES_AHEAD: usize = 4;

/// One run: what is asked for, and how far it is.
pub(crate) struct Run {
    pub(crate) stream: String,
    pub(crate) name: String,
    kind: Kind,
    /// Asked for once: after the agent agreed, a reconnection continues.
    again: bool,
    /// How long a full buffer is waited for. `None`: as long as it takes.
    patience: Option<Duration>,
    /// Since when the agent waits for room, and for what.
    full: Option<(Instant, String)>,
    /// How often the agent answered.
    pub(crate) sessions: u32,
    pub(crate) durable_offset: u64,
    /// Bytes handed to the agent over this connection and those before it.
    pub(crate) sent_offset: u64,
    /// Under this name when the run began.
    rows_before: Option<u64>,
    pub(crate) rows_total: u64,
    pub(crate) bad_rows: u64,
    pub(crate) batches: u64,
    /// Bytes of records longer than a record may be, which are stored nowhere.
    pub(crate) cut_bytes: u64,
    pub(crate) already_complete: bool,
}

impl Run {
    pub(crate) fn new(
        stream: String,
        name: String,
        kind: Kind,
        again: bool,
        patience: Option<Duration>,
    ) -> Self {
        Self {
            stream,
            name,
            kind,
            again,
            patience,
            full: None,
            sessions: 0,
            durable_offset: 0,
            sent_offset: 0,
            rows_before: None,
            rows_total: 0,
            bad_rows: 0,
            batches: 0,
            cut_bytes: 0,
            already_complete: false,
        }
    }

    /// Rows that this run added, over all its connections.
    pub(crate) fn rows_added(&self) -> u64 {
        self.rows_total.saturating_sub(self.rows_before.unwrap_or(0))
    }
}

/// Why a connection ended before the run did.
pub(crate) enum Lost {
    /// The agent is gone; it may come back.
    ForNow(Problem),
    ForGood(Failure),
}

impl From<Problem> for Lost {
    fn from(problem: Problem) -> Self {
        if problem.exit == ExitCode::Unavailable {
            Self::ForNow(problem)
        } else {
            Self::ForGood(problem.into())
        }
    }
}

impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Problem(problem) => (*problem).into(),
            other => Self::ForGood(other),
        }
    }
}

/// Connects and sends what is missing.
pub(crate) async fn attempt(
    platform: &Platform,
    run: &mut Run,
    input: &mut Input,
    report: &mut Report,
) -> Result<(), Lost> {
    let mut api = platform.node().await?;
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
    let open = open_request(run, input);
    // The channel is empty and holds several: this does not wait.
    let _accepted = sender.send(open).await;
    let mut replies =
        api.ingest(ReceiverStream::new(receiver)).await.map_err(|status| problem_of(&status))?.into_inner();
    let opened = loop {
        match heard(&mut replies, run, report).await? {
            Reply::Opened(opened) => break opened,
            Reply::Progress(_) | Reply::Done(_) => {}
        }
    };
    let start = Start::of(&opened, run.kind, input)?;
    run.sessions += 1;
    run.again = false;
    run.rows_before.get_or_insert(opened.rows);
    run.rows_total = opened.rows;
    run.durable_offset = start.offset;
    run.sent_offset = start.offset;
    report.opened(run, input.size())?;
    input.position(start.offset, &start.digest).await?;
    if !start.sends {
        expect_end(&opened, input).await?;
        run.already_complete = run.sessions == 1;
        return Ok(());
    }
    send_rest(run, input, report, sender, replies).await?;
    let has_grown = run.batches > 0 || run.sent_offset != opened.complete_size;
    run.already_complete = opened.complete && run.sessions == 1 && !has_grown;
    Ok(())
}

/// From where on the input is sent, and what must lie before.
struct Start {
    offset: u64,
    digest: Bytes,
    /// `false`: all of it was taken before, if it ends there.
    sends: bool,
}

impl Start {
    fn of(opened: &IngestOpened, kind: Kind, input: &Input) -> Result<Self, Problem> {
        let taken = opened.complete_size.max(opened.offset);
        let size = input.size();
        if !opened.complete {
            return Ok(Self { offset: opened.offset, digest: opened.prefix_digest.clone(), sends: true });
        }
        let is_shorter = kind.codec.is_empty() && size.is_some_and(|size| size < taken);
        match size {
            Some(size) if is_shorter || size != taken && !opened.may_grow => {
                Err(changed(&format!("it has {size} bytes, and {taken} were taken")))
            }
            // It may have grown; the agent, which knows how it ended, compares the rest.
            size if opened.may_grow && size != Some(taken) => {
                Ok(Self { offset: opened.grows_from, digest: opened.grows_digest.clone(), sends: true })
            }
            _ => Ok(Self { offset: taken, digest: opened.prefix_digest.clone(), sends: false }),
        }
    }
}

fn open_request(run: &Run, input: &Input) -> IngestRequest {
    let open = IngestOpen {
        stream: run.stream.clone(),
        name: run.name.clone(),
        format: run.kind.format.to_owned(),
        codec: run.kind.codec.to_owned(),
        again: run.again,
        size: input.size().unwrap_or(0),
        replayable: input.is_replayable(),
    };
    IngestRequest { kind: Some(Request::Open(open)) }
}

/// Everything was taken before, and is still the same so far: nothing may follow.
async fn expect_end(opened: &IngestOpened, input: &mut Input) -> Result<(), Problem> {
    match input.next().await? {
        Some(_) => {
            let taken = opened.complete_size.max(opened.offset);
            Err(changed(&format!("more follows after the {taken} bytes that were taken")))
        }
        None => Ok(()),
    }
}

async fn send_rest(
    run: &mut Run,
    input: &mut Input,
    report: &mut Report,
    sender: mpsc::Sender<IngestRequest>,
    mut replies: Streaming<IngestReply>,
) -> Result<(), Lost> {
    let mut outgoing: Option<IngestRequest> = None;
    let mut reading = true;
    let mut sending = true;
    loop {
        tokio::select! {
            chunk = input.next(), if reading && outgoing.is_none() => {
                let chunk = chunk?;
                reading = chunk.is_some();
                if !reading {
                    check_whole(run, input)?;
                }
                outgoing = Some(message(chunk));
            }
            permit = sender.reserve(), if sending && outgoing.is_some() => match (permit, outgoing.take()) {
                (Ok(permit), Some(request)) => {
                    run.sent_offset += length(&request);
                    permit.send(request);
                }
                // The agent stopped taking; why stands in its reply.
                _ => sending = false,
            },
            reply = heard(&mut replies, run, report) => match reply? {
                Reply::Opened(_) => {}
                Reply::Progress(progress) => {
                    run.full = None;
                    run.durable_offset = progress.durable_offset;
                    // The agent counts from its own side; a total never falls.
                    run.rows_total = run.rows_total.max(progress.rows);
                    run.bad_rows = run.bad_rows.max(progress.bad_rows);
                    input.durable(progress.durable_offset);
                    report.progress(run)?;
                }
                Reply::Done(done) => {
                    run.rows_total = done.rows_total;
                    run.bad_rows = run.bad_rows.max(done.bad_rows);
                    run.batches += done.batches;
                    run.cut_bytes = done.cut_bytes;
                    run.durable_offset = run.sent_offset;
                    return Ok(());
                }
            },
        }
    }
}

/// A file that became shorter while it was read must not count as complete. All that was read was handed over by now.
fn check_whole(run: &Run, input: &Input) -> Result<(), Problem> {
    match input.size().filter(|size| *size != run.sent_offset) {
        Some(size) => Err(changed(&format!(
            "it had {size} bytes when this run began, and only {} could be read",
            run.sent_offset
        ))),
        None => Ok(()),
    }
}

fn message(chunk: Option<Bytes>) -> IngestRequest {
    let kind = chunk.map_or(Request::Finish(IngestFinish {}), Request::Data);
    IngestRequest { kind: Some(kind) }
}

fn length(request: &IngestRequest) -> u64 {
    if let Some(Request::Data(bytes)) = &request.kind { bytes.len() as u64 } else { 0 }
}

/// The agent's next word, other than that it waits for room. That ends with the patience of the run. Cancel-safe.
async fn heard(
    replies: &mut Streaming<IngestReply>,
    run: &mut Run,
    report: &mut Report,
) -> Result<Reply, Lost> {
    loop {
        let deadline = run.full.as_ref().zip(run.patience).map(|((since, _), patience)| *since + patience);
        let reply = match deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline, next(replies)).await {
                Ok(reply) => reply?,
                Err(_) => return Err(Lost::ForGood(full_for_too_long(run).into())),
            },
            None => next(replies).await?,
        };
        match reply {
            Reply::Progress(progress) if !progress.waits_for.is_empty() => {
                report.full(&progress.waits_for)?;
                let since = run.full.take().map_or_else(Instant::now, |(since, _)| since);
                run.full = Some((since, progress.waits_for));
            }
            other => return Ok(other),
        }
    }
}

fn full_for_too_long(run: &Run) -> Problem {
    let seconds = run.patience.unwrap_or_default().as_secs_f64();
    let message = format!(
        "the agent's buffer had no room for {seconds} s; {} rows of this run are durable",
        run.rows_total
    );
    let waits_for = run.full.as_ref().map(|(_, waits_for)| waits_for.as_str()).unwrap_or_default();
    Problem::new("ingest.buffer_full", ExitCode::Unavailable, message)
        .cause(waits_for)
        .hint("the same command continues where it stopped")
        .hint_command("see what waits for delivery", "aap status")
        .retry_after_ms(1000)
}

async fn next(replies: &mut Streaming<IngestReply>) -> Result<Reply, Problem> {
    match replies.message().await.map_err(|status| problem_of(&status))?.and_then(|reply| reply.kind) {
        Some(kind) => Ok(kind),
        None => {
            Err(Problem::new("ingest.cut_off", ExitCode::Unavailable, "the agent ended before the run did"))
        }
    }
}
