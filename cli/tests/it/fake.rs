//! A coordinator and an agent that answer from memory, and a home in which `aap` finds them.

#![expect(clippy::disallowed_methods, reason = "the runtime of a test ends with it, and its tasks too")]

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use aap_client::operations;
use aap_client::status_of_problem;
use aap_client::v1::access_server::AccessServer;
use aap_client::v1::audit_server::AuditServer;
use aap_client::v1::ingest_reply::Kind as IngestAnswer;
use aap_client::v1::ingest_request::Kind as IngestAsk;
use aap_client::v1::node_server::{Node, NodeServer};
use aap_client::v1::operator_server::{Operator, OperatorServer};
use aap_client::v1::query_event::Kind as Event;
use aap_client::v1::resources_server::ResourcesServer;
use aap_client::v1::secrets_server::SecretsServer;
use aap_client::v1::*;
use aap_types::{ExitCode, Problem};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

pub(crate) mod access;
mod audit;
mod resources;
mod secrets;

pub(crate) use resources::ORDERS;

pub(crate) const TOKEN: &str = "5e0f";
/// Of somebody who may do nothing.
pub(crate) const DENIED: &str = "0d0d";
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the fake platform holds.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) status: StatusReply,
    /// Bytes durable per run, its rows, and whether it is complete.
    pub(crate) runs: HashMap<(String, String), Taken>,
    /// The agent closes the connection after this many further bytes, once.
    pub(crate) cut_after: Option<usize>,
    /// Every connection of `aap ingest` is cut before anything is taken.
    pub(crate) takes_nothing: bool,
    /// The buffer is full: it says so, and waits.
    pub(crate) is_full: bool,
    pub(crate) opened: Vec<IngestOpen>,
    pub(crate) cancelled: Vec<String>,
    pub(crate) last_query: Option<QueryRequest>,
    pub(crate) last_tail: Option<TailStreamRequest>,
    pub(crate) deleted: Vec<String>,
    pub(crate) declared: resources::Declared,
    pub(crate) people: access::People,
    pub(crate) last_secret: Option<SetSecretRequest>,
    /// There is no secret, and no token for a node.
    pub(crate) keeps_nothing: bool,
}

#[derive(Default, Clone)]
pub(crate) struct Taken {
    pub(crate) bytes: Vec<u8>,
    pub(crate) complete: bool,
}

impl Taken {
    fn rows(&self) -> u64 {
        self.bytes.iter().filter(|byte| **byte == b'\n').count() as u64
    }
}

#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
}

/// A home whose daemons run in this process until it is dropped.
pub(crate) struct Home {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) fake: Fake,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Home {
    /// Nothing runs.
    pub(crate) fn empty() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), fake: Fake::default(), runtime: None }
    }

    /// Coordinator and agent run, with one node and one stream.
    pub(crate) fn running() -> Self {
        let mut home = Self::empty();
        home.fake.state.lock().unwrap().status = status();
        home.start();
        home
    }

    fn start(&mut self) {
        let run = self.path().join("run");
        std::fs::create_dir_all(&run).unwrap();
        std::fs::write(run.join("operator.token"), format!("{TOKEN}\n")).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let fake = self.fake.clone();
        let address = runtime.block_on(async { serve_operator(fake).await });
        std::fs::write(
            run.join("coordinator.json"),
            format!("{{\"operator\":\"{address}\",\"agents\":\"127.0.0.1:1\"}}"),
        )
        .unwrap();
        let (fake, socket) = (self.fake.clone(), run.join("agent.sock"));
        runtime.block_on(async { serve_node(fake, &socket).await });
        self.runtime = Some(runtime);
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(content).unwrap();
        path
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aap"));
        command.args(arguments).env("AAP_HOME", self.path()).stdin(Stdio::null());
        for name in
            ["AAP_OUTPUT", "AAP_LIMIT", "AAP_TIMEOUT", "NO_COLOR", "AAP_QUIET", "AAP_YES", "AAP_CONTEXT"]
        {
            command.env_remove(name);
        }
        // Contexts and logins of whoever runs the tests are not meant.
        for (name, _) in aap_client::environment::VARIABLES {
            command.env_remove(name);
        }
        command.env("AAP_CONFIG_DIR", self.path().join("operator-config"));
        command.env("AAP_STATE_DIR", self.path().join("operator-state"));
        command.env("AAP_CREDENTIAL_STORE", "file");
        command
    }

    pub(crate) fn aap(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error on stderr, which must be one JSON line.
    pub(crate) fn error(&self) -> serde_json::Value {
        let line = self.err.lines().last().unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {self:?}"))["error"]
            .clone()
    }
}

/// Every item has exactly the fields of the registry.
pub(crate) fn check_fields(id: operations::Id, item: &serde_json::Value) {
    let mut expected: Vec<&str> = operations::of(id).output.fields().iter().map(|field| field.name).collect();
    expected.sort_unstable();
    let mut found: Vec<&str> = item.as_object().unwrap().keys().map(String::as_str).collect();
    found.sort_unstable();
    assert_eq!(found, expected, "{id:?}");
}

pub(crate) fn status() -> StatusReply {
    let node = NodeStatus {
        node: "web-01".into(),
        connected: true,
        transport: "quic".into(),
        last_seen_us: 1_700_000_000_000_000,
        epoch: 1 << 60,
        ..NodeStatus::default()
    };
    let stream =
        StreamStatus { stream: "logs".into(), rows: 1234, bytes: 2048, files: 1, ..StreamStatus::default() };
    StatusReply {
        coordinator_version: "0.1.0".into(),
        as_of_us: 1_700_000_001_000_000,
        started_us: 1_700_000_000_000_000,
        nodes: vec![node],
        streams: vec![stream],
        problems: vec![],
    }
}

async fn serve_operator(fake: Fake) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let check = |request: Request<()>| {
        let given = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if given == Some(&format!("Bearer {TOKEN}")) {
            Ok(request)
        } else if given == Some(&format!("Bearer {DENIED}")) {
            Err(audit::denied())
        } else {
            Err(Status::unauthenticated("wrong token"))
        }
    };
    let operator = OperatorServer::with_interceptor(fake.clone(), check);
    let resources = ResourcesServer::with_interceptor(fake.clone(), check);
    let secrets = SecretsServer::with_interceptor(fake.clone(), check);
    let audit = AuditServer::with_interceptor(fake.clone(), check);
    let access = AccessServer::new(fake);
    let server = tonic::transport::Server::builder()
        .add_service(operator)
        .add_service(resources)
        .add_service(secrets)
        .add_service(access)
        .add_service(audit);
    tokio::task::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

async fn serve_node(fake: Fake, socket: &Path) {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    let server = tonic::transport::Server::builder().add_service(NodeServer::new(fake));
    tokio::task::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
}

fn no_stream(name: &str) -> Status {
    status_of_problem(
        &Problem::new("stream.not_found", ExitCode::NotFound, format!("there is no stream `{name}`"))
            .hint_command("see which there are", "aap stream ls"),
    )
}

#[tonic::async_trait]
impl Operator for Fake {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Ok(Response::new(self.state.lock().unwrap().status.clone()))
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesReply>, Status> {
        let wanted = request.into_inner().node;
        let mut nodes = self.state.lock().unwrap().status.nodes.clone();
        nodes.retain(|node| wanted.is_empty() || node.node == wanted);
        Ok(Response::new(ListNodesReply { nodes }))
    }

    async fn list_streams(
        &self,
        _: Request<ListStreamsRequest>,
    ) -> Result<Response<ListStreamsReply>, Status> {
        let streams = self.state.lock().unwrap().status.streams.clone();
        Ok(Response::new(ListStreamsReply { streams }))
    }

    async fn show_stream(
        &self,
        request: Request<ShowStreamRequest>,
    ) -> Result<Response<ShowStreamReply>, Status> {
        let name = request.into_inner().stream;
        let streams = self.state.lock().unwrap().status.streams.clone();
        let Some(status) = streams.into_iter().find(|stream| stream.stream == name) else {
            return Err(no_stream(&name));
        };
        let columns = vec![Column { name: "ts".into(), r#type: "TIMESTAMP".into() }];
        let origins = vec![Origin { node: "web-01".into(), epoch: 7, sequence: 3, rows: 1234 }];
        Ok(Response::new(ShowStreamReply { status: Some(status), columns, origins }))
    }

    async fn list_stream_files(
        &self,
        request: Request<ShowStreamRequest>,
    ) -> Result<Response<ListStreamFilesReply>, Status> {
        if request.into_inner().stream != "logs" {
            return Err(no_stream("?"));
        }
        let file = |n: u64| LakeFile {
            path: format!("/lake/logs/{n}.parquet"),
            rows: n,
            bytes: 10,
            ts_min_us: 1,
            ts_max_us: 2,
        };
        Ok(Response::new(ListStreamFilesReply { files: (1..=3).map(file).collect() }))
    }

    async fn delete_stream(
        &self,
        request: Request<DeleteStreamRequest>,
    ) -> Result<Response<DeleteStreamReply>, Status> {
        self.state.lock().unwrap().deleted.push(request.into_inner().stream);
        Ok(Response::new(DeleteStreamReply { rows: 1234, files: 1 }))
    }

    type TailStreamStream = Answers<QueryEvent>;
    async fn tail_stream(
        &self,
        request: Request<TailStreamRequest>,
    ) -> Result<Response<Self::TailStreamStream>, Status> {
        let request = request.into_inner();
        if request.stream != "logs" {
            return Err(no_stream(&request.stream));
        }
        self.state.lock().unwrap().last_tail = Some(request.clone());
        Ok(Response::new(rows(&request.format, request.rows.min(3), 3, request.follow)))
    }

    type RunQueryStream = Answers<QueryEvent>;
    async fn run_query(
        &self,
        request: Request<QueryRequest>,
    ) -> Result<Response<Self::RunQueryStream>, Status> {
        let request = request.into_inner();
        self.state.lock().unwrap().last_query = Some(request.clone());
        let limit = request.limits.map_or(0, |limits| limits.rows);
        // The statement says how the fake behaves: `rows N`, `hang`, `die`, `partial`, `whole`, `nasty`.
        let words: Vec<&str> = request.sql.split_whitespace().collect();
        let total: u64 = words.get(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        let shown = if limit == 0 { total } else { total.min(limit) };
        Ok(Response::new(match words[0] {
            "rows" => rows(&request.format, shown, total, false),
            "hang" => rows(&request.format, 1, 1, true),
            "die" => Box::pin(
                rows(&request.format, 2, 2, true).take(2).chain(tokio_stream::once(Err(status_of_problem(
                    &Problem::new("query.engine_died", ExitCode::Failed, "the engine was killed")
                        .hint("try again"),
                )))),
            ),
            how @ ("partial" | "whole") => {
                let partial = Coverage {
                    asked: vec!["a".into(), "b".into(), "c".into()],
                    answered: vec!["a".into()],
                    late: vec!["b".into()],
                    failed: vec!["c".into()],
                    reasons: vec!["its disk is full".into()],
                    late_reasons: vec!["its coordinator is silent".into()],
                };
                let whole = Coverage {
                    asked: partial.asked.clone(),
                    answered: partial.asked.clone(),
                    ..Coverage::default()
                };
                let coverage = if how == "whole" { whole } else { partial };
                let done = QueryDone { rows: 1, coverage: Some(coverage), ..QueryDone::default() };
                Box::pin(tokio_stream::iter([
                    started(),
                    data(&request.format, 0, 1),
                    event(Event::Done(done)),
                ]))
            }
            "nasty" => {
                let bytes = b"[1,\"\\u001b[31mred\\u001b[0m\\tx\\ny\"]\n[null,null]\n".to_vec();
                let done = QueryDone { rows: 2, ..QueryDone::default() };
                Box::pin(tokio_stream::iter([
                    started(),
                    event(Event::Data(bytes.into())),
                    event(Event::Done(done)),
                ]))
            }
            _ => {
                return Err(status_of_problem(
                    &Problem::new("query.syntax", ExitCode::Usage, "syntax error").hint("look at it"),
                ));
            }
        }))
    }

    async fn list_queries(
        &self,
        _: Request<ListQueriesRequest>,
    ) -> Result<Response<ListQueriesReply>, Status> {
        let query = RunningQuery {
            id: "q-1".into(),
            sql: "select 1".into(),
            started_us: 1,
            principal: "operator".into(),
            rows: 0,
        };
        Ok(Response::new(ListQueriesReply { queries: vec![query] }))
    }

    async fn cancel_query(
        &self,
        request: Request<CancelQuery>,
    ) -> Result<Response<CancelQueryReply>, Status> {
        let id = request.into_inner().id;
        let found = id != "q-0";
        self.state.lock().unwrap().cancelled.push(id);
        Ok(Response::new(CancelQueryReply { found }))
    }
}

fn event(kind: Event) -> Result<QueryEvent, Status> {
    Ok(QueryEvent { kind: Some(kind) })
}

fn started() -> Result<QueryEvent, Status> {
    let column = |name: &str, r#type: &str| Column { name: name.into(), r#type: r#type.into() };
    event(Event::Started(QueryStarted {
        id: "q-1".into(),
        columns: vec![column("n", "BIGINT"), column("body", "VARCHAR")],
    }))
}

/// Rows `from..to` in the asked encoding; parquet and arrow are some bytes.
fn data(format: &str, from: u64, to: u64) -> Result<QueryEvent, Status> {
    let line = |n: u64| match format {
        "rows" => format!("[{n},\"row {n}\"]\n"),
        "ndjson" => format!("{{\"n\":{n},\"body\":\"row {n}\"}}\n"),
        "csv" => format!("{}{n},row {n}\n", if n == 0 { "n,body\n" } else { "" }),
        _ => "\u{0}PAR1".to_owned(),
    };
    event(Event::Data((from..to).map(line).collect::<String>().into_bytes().into()))
}

/// The rows in pieces that break lines, then the end, or none when it `hangs`.
fn rows(format: &str, count: u64, total: u64, hangs: bool) -> Answers<QueryEvent> {
    let mut events = vec![started()];
    for from in (0..count).step_by(1000) {
        let Ok(QueryEvent { kind: Some(Event::Data(bytes)) }) = data(format, from, count.min(from + 1000))
        else {
            continue;
        };
        let (head, tail) = (bytes.slice(..bytes.len() / 2), bytes.slice(bytes.len() / 2..));
        events.extend([event(Event::Data(head)), event(Event::Data(tail))]);
    }
    let truncated_by = if count < total { "rows".into() } else { String::new() };
    let done = QueryDone {
        rows: count,
        truncated: count < total,
        truncated_by,
        as_of_us: 1_700_000_000_000_000,
        ..QueryDone::default()
    };
    if hangs {
        return Box::pin(tokio_stream::iter(events).chain(tokio_stream::pending()));
    }
    events.push(event(Event::Done(done)));
    Box::pin(tokio_stream::iter(events))
}

#[tonic::async_trait]
impl Node for Fake {
    async fn recover(&self, request: Request<RecoverRequest>) -> Result<Response<RecoverReply>, Status> {
        let resent = u64::from(request.into_inner().resend);
        Ok(Response::new(RecoverReply { streams: 1, batches: resent, rows: resent }))
    }

    async fn status(&self, _: Request<NodeStatusRequest>) -> Result<Response<NodeStatusReply>, Status> {
        let source = SourceStatus {
            name: "tail".into(),
            kind: "file".into(),
            stream: "logs".into(),
            guarantee: "exactly-once".into(),
            state: "running".into(),
            detail: String::new(),
        };
        let connected = true;
        Ok(Response::new(NodeStatusReply {
            node: "web-01".into(),
            connected,
            sources: vec![source],
            ..NodeStatusReply::default()
        }))
    }

    type IngestStream = Answers<IngestReply>;
    async fn ingest(
        &self,
        request: Request<Streaming<IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let (replies, stream) = tokio::sync::mpsc::channel(16);
        tokio::task::spawn(take(self.state.clone(), request.into_inner(), replies));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Takes one connection of a run; every whole line is a row and durable at once.
async fn take(
    state: Arc<Mutex<State>>,
    mut requests: Streaming<IngestRequest>,
    replies: tokio::sync::mpsc::Sender<Result<IngestReply, Status>>,
) -> Option<()> {
    let reply = |kind| Ok(IngestReply { kind: Some(kind) });
    let Some(IngestAsk::Open(open)) = requests.message().await.ok()??.kind else { return None };
    let key = (open.stream.clone(), open.name.clone());
    let taken = {
        let mut state = state.lock().unwrap();
        state.opened.push(open.clone());
        if open.again {
            state.runs.remove(&key);
        }
        state.runs.entry(key.clone()).or_default().clone()
    };
    let mut durable = taken.bytes.clone();
    let before = taken.rows();
    let opened = IngestOpened {
        offset: durable.len() as u64,
        prefix_digest: blake3::hash(&durable).as_bytes().to_vec().into(),
        complete: taken.complete,
        rows: before,
        complete_size: if taken.complete { durable.len() as u64 } else { 0 },
        ..IngestOpened::default()
    };
    replies.send(reply(IngestAnswer::Opened(opened))).await.ok()?;
    loop {
        let ask = requests.message().await.ok()??.kind?;
        if state.lock().unwrap().is_full {
            for waits_for in ["the budget is used up", "the budget is still used up"] {
                let waits_for = waits_for.to_owned();
                let progress = IngestProgress { waits_for, ..IngestProgress::default() };
                replies.send(reply(IngestAnswer::Progress(progress))).await.ok()?;
            }
            continue;
        }
        match ask {
            IngestAsk::Data(bytes) => {
                if state.lock().unwrap().takes_nothing {
                    replies.send(Err(Status::unavailable("the rows could not be stored"))).await.ok()?;
                    return None;
                }
                let cut = state.lock().unwrap().cut_after;
                let takes = cut.map_or(bytes.len(), |cut| cut.min(bytes.len()));
                durable.extend_from_slice(&bytes[..takes]);
                let now = Taken { bytes: durable.clone(), complete: false };
                let rows = now.rows();
                book(&state, &key, now, cut.is_some());
                if cut.is_some() {
                    replies.send(Err(Status::unavailable("killed"))).await.ok()?;
                    return None;
                }
                let progress = IngestProgress {
                    durable_offset: durable.len() as u64,
                    rows,
                    ..IngestProgress::default()
                };
                replies.send(reply(IngestAnswer::Progress(progress))).await.ok()?;
            }
            IngestAsk::Finish(_) => {
                let now = Taken { bytes: durable.clone(), complete: true };
                let rows_total = now.rows();
                let bad_rows = String::from_utf8_lossy(&durable).matches("BAD").count() as u64;
                state.lock().unwrap().runs.insert(key.clone(), now);
                let done =
                    IngestDone { rows: rows_total - before, rows_total, bad_rows, batches: 1, cut_bytes: 0 };
                replies.send(reply(IngestAnswer::Done(done))).await.ok()?;
                return Some(());
            }
            IngestAsk::Open(_) => return None,
        }
    }
}

fn book(state: &Mutex<State>, key: &(String, String), taken: Taken, was_cut: bool) {
    let mut state = state.lock().unwrap();
    state.runs.insert(key.clone(), taken);
    if was_cut {
        state.cut_after = None;
    }
}
