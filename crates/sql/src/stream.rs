//! The answer of a query: read as fast as the consumer takes it, ended by deadline, cancel, drop or death.

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use aap_runtime::Shutdown;
use aap_types::Problem;
use bytes::{Bytes, BytesMut};
use camino::Utf8PathBuf;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};

use crate::wire::Kind;
use crate::{Column, QueryEnd, engine, problem, wire};

/// What an engine gets after its deadline to stop by itself, before it is killed.
const GRACE: Duration = Duration::from_millis(500);
/// A process whose pipe is closed is about to end; a kill follows if it does not.
const REAP: Duration = Duration::from_secs(1);
/// The last part of stderr that is kept, for the causes of a death.
const STDERR_BYTES_MAX: usize = 8 << 10;
/// What one read may take from the pipe: its capacity on Linux.
const READ_BYTES: usize = 64 << 10;

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryEvent {
    /// The first: what the columns are.
    Columns(Vec<Column>),
    /// Bytes in the format asked for, cut anywhere.
    Data(Bytes),
    /// The last.
    End(QueryEnd),
}

/// The answer as it comes. Dropping it kills the engine.
#[derive(Debug)]
pub struct QueryStream {
    session: Session,
    ended: bool,
}

impl QueryStream {
    pub(crate) fn new(session: Session) -> Self {
        Self { session, ended: false }
    }

    /// The next part; `None` after [`QueryEvent::End`] or a problem. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<QueryEvent, Problem>> {
        if self.ended {
            return None;
        }
        let event = self.session.event().await;
        self.ended = matches!(event, Err(_) | Ok(QueryEvent::End(_)));
        Some(event)
    }

    /// The same as a stream of the `futures` crates.
    pub fn into_stream(self) -> impl futures::Stream<Item = Result<QueryEvent, Problem>> + Send + 'static {
        futures::stream::unfold(
            self,
            |mut stream| async move { stream.next().await.map(|event| (event, stream)) },
        )
    }

    /// The process, for tests and status.
    pub fn process_id(&self) -> Option<u32> {
        self.session.child.as_ref().and_then(Child::id)
    }
}

/// One engine process and what it holds.
pub(crate) struct Session {
    /// Taken only by drop.
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    buffer: BytesMut,
    complaints: BytesMut,
    scratch: Utf8PathBuf,
    deadline: Instant,
    deadline_ms: u64,
    memory_bytes: u64,
    cancel: Shutdown,
    permit: Option<OwnedSemaphorePermit>,
    pins: Option<Box<dyn Any + Send>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("child", &self.child)
            .field("scratch", &self.scratch)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(
        mut child: Child,
        scratch: Utf8PathBuf,
        permit: OwnedSemaphorePermit,
        cancel: Shutdown,
    ) -> Self {
        Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child: Some(child),
            buffer: BytesMut::with_capacity(READ_BYTES),
            complaints: BytesMut::new(),
            scratch,
            deadline: Instant::now(),
            deadline_ms: 0,
            memory_bytes: 0,
            cancel,
            permit: Some(permit),
            pins: None,
        }
    }

    pub(crate) fn with_deadline(mut self, deadline: Instant, deadline_ms: u64) -> Self {
        self.deadline = deadline;
        self.deadline_ms = deadline_ms;
        self
    }

    pub(crate) fn with_memory(mut self, memory_bytes: u64) -> Self {
        self.memory_bytes = memory_bytes;
        self
    }

    /// Keeps `pins` until the process has ended.
    pub(crate) fn hold(&mut self, pins: Box<dyn Any + Send>) {
        self.pins = Some(pins);
    }

    /// Writes one JSON line to the engine. An engine that died has its reason in what it wrote last.
    pub(crate) async fn send(&mut self, message: &impl Serialize) -> Result<(), Problem> {
        let line = engine::line(message);
        let Some(mut stdin) = self.stdin.take() else { return Err(problem::protocol("nothing")) };
        let written = self.while_alive(async move {
            let result = match stdin.write_all(&line).await {
                Ok(()) => stdin.flush().await,
                Err(error) => Err(error),
            };
            (result, stdin)
        });
        let (result, stdin) = written.await?;
        self.stdin = Some(stdin);
        match result {
            Ok(()) => Ok(()),
            Err(_broken_pipe) => Err(self.last_words().await),
        }
    }

    /// Waits for one frame of JSON.
    pub(crate) async fn expect<T: DeserializeOwned>(&mut self, wanted: Kind) -> Result<T, Problem> {
        match self.frame().await? {
            (kind, payload) if kind == wanted => parse(&payload),
            (Kind::Problem, payload) => Err(self.refine(parse(&payload)?)),
            (kind, _) => Err(problem::protocol(&format!("{kind:?} instead of {wanted:?}"))),
        }
    }

    async fn event(&mut self) -> Result<QueryEvent, Problem> {
        match self.frame().await? {
            (Kind::Data, payload) => Ok(QueryEvent::Data(payload)),
            (Kind::Columns, payload) => Ok(QueryEvent::Columns(parse(&payload)?)),
            (Kind::End, payload) => Ok(QueryEvent::End(parse(&payload)?)),
            (Kind::Problem, payload) => Err(self.refine(parse(&payload)?)),
            (kind, _) => Err(problem::protocol(&format!("{kind:?} in an answer"))),
        }
    }

    /// The engine knows what was left of the deadline; the operator knows what was asked.
    fn refine(&self, reported: Problem) -> Problem {
        match reported.code.as_str() {
            "query.deadline" => problem::deadline(self.deadline_ms),
            _ => reported,
        }
    }

    /// Runs `work` unless the query is cancelled or past its deadline first.
    pub(crate) async fn while_alive<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Problem> {
        tokio::select! {
            done = work => Ok(done),
            () = self.cancel.requested() => Err(problem::cancelled()),
            () = sleep_until(self.deadline + GRACE) => Err(problem::deadline(self.deadline_ms)),
        }
    }

    /// The next frame. Cancel-safe: what was read stays in the buffer.
    async fn frame(&mut self) -> Result<(Kind, Bytes), Problem> {
        loop {
            match wire::take(&mut self.buffer) {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => self.read_more().await?,
                Err(error) => return Err(problem::protocol(&error.to_string())),
            }
        }
    }

    async fn read_more(&mut self) -> Result<(), Problem> {
        self.buffer.reserve(READ_BYTES);
        let Some(stdout) = self.stdout.as_mut() else { return Err(problem::protocol("nothing")) };
        let read = tokio::select! {
            biased;
            () = self.cancel.requested() => return Err(self.kill(problem::cancelled())),
            () = sleep_until(self.deadline + GRACE) => {
                let late = problem::deadline(self.deadline_ms);
                return Err(self.kill(late));
            }
            read = stdout.read_buf(&mut self.buffer) => read,
            () = drain(&mut self.stderr, &mut self.complaints) => return Ok(()),
        };
        match read {
            Ok(0) | Err(_) => Err(self.death().await),
            Ok(_) => Ok(()),
        }
    }

    fn kill(&mut self, reason: Problem) -> Problem {
        if let Some(child) = self.child.as_mut()
            && let Err(error) = child.start_kill()
        {
            tracing::debug!(%error, "the engine had ended already");
        }
        reason
    }

    /// Why the engine stopped reading: a problem it reported, else its death.
    async fn last_words(&mut self) -> Problem {
        loop {
            match self.frame().await {
                Ok((Kind::Problem, payload)) => match parse(&payload) {
                    Ok(reported) => return self.refine(reported),
                    Err(unreadable) => return unreadable,
                },
                Ok(_) => {}
                Err(problem) => return problem,
            }
        }
    }

    /// The engine closed its output without an end: say how it died.
    async fn death(&mut self) -> Problem {
        let status = match self.child.as_mut() {
            Some(child) => match timeout(REAP, child.wait()).await {
                Ok(Ok(status)) => status.to_string(),
                Ok(Err(error)) => error.to_string(),
                Err(_elapsed) => "its output closed".to_owned(),
            },
            None => "killed".to_owned(),
        };
        let rest = async {
            while self.stderr.is_some() {
                drain(&mut self.stderr, &mut self.complaints).await;
            }
        };
        if timeout(REAP, rest).await.is_err() {
            tracing::debug!("the engine's stderr stayed open");
        }
        let stderr = String::from_utf8_lossy(&self.complaints).into_owned();
        if Instant::now() >= self.deadline {
            return problem::deadline(self.deadline_ms);
        }
        // What Rust and C++ print when an allocation fails under the address space limit.
        if ["memory allocation of", "bad_alloc", "Out of Memory"].iter().any(|sign| stderr.contains(sign)) {
            return problem::memory(self.memory_bytes);
        }
        problem::engine_died(&status, &stderr)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Err(error) = child.start_kill() {
            tracing::debug!(%error, "the engine had ended already");
        }
        let (scratch, pins, permit) =
            (std::mem::take(&mut self.scratch), self.pins.take(), self.permit.take());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            remove_scratch(&scratch);
            return;
        };
        // Pins and the turn are held until the process is gone; it is dying, so this does not last.
        runtime.spawn(async move {
            if timeout(REAP, child.wait()).await.is_err() {
                tracing::warn!("a killed engine is still there after a second");
            }
            drop((pins, permit));
            tokio::task::spawn_blocking(move || remove_scratch(&scratch)).await
        });
    }
}

fn remove_scratch(path: &Utf8PathBuf) {
    if let Err(error) = std::fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%path, %error, "cannot remove a scratch folder");
    }
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(payload).map_err(|error| problem::protocol(&format!("unreadable JSON: {error}")))
}

/// Takes what stderr has, keeping only its end. Pending for ever once it is closed.
async fn drain(stderr: &mut Option<ChildStderr>, kept: &mut BytesMut) {
    let Some(pipe) = stderr else { return std::future::pending().await };
    kept.reserve(STDERR_BYTES_MAX);
    match pipe.read_buf(kept).await {
        Ok(0) | Err(_) => *stderr = None,
        Ok(_) if kept.len() > STDERR_BYTES_MAX => {
            let excess = kept.len() - STDERR_BYTES_MAX;
            let _cut = kept.split_to(excess);
        }
        Ok(_) => {}
    }
}
