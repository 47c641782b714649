//! One connection to the agent: open, check what it has, send the rest, read progress.

use aap_client::v1::ingest_reply::Kind as Reply;
use aap_client::v1::ingest_request::Kind as Request;
use aap_client::v1::{IngestFinish, IngestOpen, IngestOpened, IngestReply, IngestRequest};
use aap_client::{Platform, problem_of};
use aap_types::{ExitCode, Problem};
use bytes::Bytes;
use tokio::sync::mpsc;
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
    pub(crate) fn new(stream: String, name: String, kind: Kind, again: bool) -> Self {
        Self {
            stream,
            name,
            kind,
            again,
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
        match next(&mut replies).await? {
            Reply::Opened(opened) => break opened,
            Reply::Progress(_) | Reply::Done(_) => {}
        }
    };
    run.sessions += 1;
    run.again = false;
    run.rows_before.get_or_insert(opened.rows);
    run.rows_total = opened.rows;
    run.durable_offset = opened.offset;
    run.sent_offset = opened.offset;
    report.opened(run, input.size())?;
    if opened.complete {
        check_complete(&opened, input).await?;
        run.already_complete = run.sessions == 1;
        return Ok(());
    }
    input.position(opened.offset, &opened.prefix_digest).await?;
    send_rest(run, input, report, sender, replies).await
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

/// Everything was taken before: the content must still be the same, whole.
async fn check_complete(opened: &IngestOpened, input: &mut Input) -> Result<(), Lost> {
    let taken = opened.complete_size.max(opened.offset);
    if let Some(size) = input.size().filter(|size| *size != taken) {
        return Err(changed(&format!("it has {size} bytes, and {taken} were taken")).into());
    }
    input.position(taken, &opened.prefix_digest).await?;
    match input.next().await? {
        Some(_) => Err(changed(&format!("more follows after the {taken} bytes that were taken")).into()),
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
            reply = next(&mut replies) => match reply? {
                Reply::Opened(_) => {}
                Reply::Progress(progress) => {
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

async fn next(replies: &mut Streaming<IngestReply>) -> Result<Reply, Problem> {
    match replies.message().await.map_err(|status| problem_of(&status))?.and_then(|reply| reply.kind) {
        Some(kind) => Ok(kind),
        None => {
            Err(Problem::new("ingest.cut_off", ExitCode::Unavailable, "the agent ended before the run did"))
        }
    }
}
